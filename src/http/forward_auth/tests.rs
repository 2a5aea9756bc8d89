use super::*;
use proptest::prelude::*;

const FIELDS: (&str, &str) = ("method", "path");

fn holes(pattern: &str, address: &str) -> Option<Vec<(String, String)>> {
    let pattern = Pattern::parse(pattern).unwrap();
    let original = OriginalRequest::new(FIELDS, "GET", address).unwrap();
    let mut found: Vec<_> = pattern
        .match_segments(&original.segments)?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    found.sort();
    Some(found)
}

#[test]
fn patterns_match_decoded_paths() {
    let pairs = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    };
    for (pattern, address, expected) in [
        ("/", "/", pairs(&[])),
        ("/", "/a", None),
        ("/a", "/a?b=/../c", pairs(&[])),
        ("/a", "/A", None),
        ("/a", "/a/", None),
        ("/a/", "/a/", pairs(&[])),
        ("/a/", "/a", None),
        ("/a/{x}", "/a/b", pairs(&[("x", "b")])),
        ("/a/{x}", "/a/", None),
        ("/a/{x}", "/a/b/c", None),
        ("/a/{x}", "/a/b%20c", pairs(&[("x", "b c")])),
        ("/a/{x}", "/%61/%c3%a9", pairs(&[("x", "é")])),
        ("/{x}/{y}", "/a/b", pairs(&[("x", "a"), ("y", "b")])),
        ("/a/{x...}", "/a", None),
        ("/a/{x...}", "/a/", pairs(&[("x", "")])),
        ("/a/{x...}", "/a/b/c/", pairs(&[("x", "b/c/")])),
        ("/{x...}", "/", pairs(&[("x", "")])),
    ] {
        assert_eq!(holes(pattern, address), expected, "{pattern} {address}");
    }
}

#[test]
fn an_invalid_pattern_is_rejected_with_its_reason() {
    for (pattern, expected) in [
        ("", "does not begin with `/`"),
        ("documents", "does not begin with `/`"),
        ("/a//b", "an empty segment"),
        ("/a/../b", "`.` or `..`"),
        ("/a/{x}/{x}", "{x} twice"),
        ("/a/{x...}/b", "has segments after"),
        ("/a/{}", "expected `{name}` or `{name...}`"),
        ("/a/{x-y}", "expected `{name}` or `{name...}`"),
        ("/a/b{x}", "only a part of a segment"),
        ("/a/{x}.json", "only a part of a segment"),
        ("/a%20b", "has a `%`"),
        ("/a?b", "an encoded `#` or `?`"),
    ] {
        let error = Pattern::parse(pattern).unwrap_err();
        assert!(error.contains(expected), "{pattern}: {error}");
    }
}

proptest! {
    #[test]
    fn a_path_means_the_same_if_every_byte_is_percent_encoded(address in "/[ -~é]{0,20}") {
        if let Ok(original) = OriginalRequest::new(FIELDS, "GET", &address) {
            let encode = |segment: &String| {
                segment.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>()
            };
            let encoded: Vec<String> = original.segments.iter().map(encode).collect();
            let again = OriginalRequest::new(FIELDS, "GET", &format!("/{}", encoded.join("/"))).unwrap();
            prop_assert_eq!(again.segments, original.segments);
        }
    }

    #[test]
    fn parsing_any_pattern_does_not_panic(path in "\\PC{0,40}") {
        let _ = Pattern::parse(&path);
        let _ = Pattern::parse(&format!("/{path}"));
        let _ = parse_id_template(&path);
    }
}
