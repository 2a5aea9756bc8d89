//! Patterns of `like`.

use super::tree::PatternPart;

/// Whether a pattern matches a whole text.
pub(super) fn matches(pattern: &[PatternPart], text: &str) -> bool {
    let mut rest = text;
    let mut is_anchored = true;
    let mut parts = pattern.iter().peekable();
    while let Some(part) = parts.next() {
        match part {
            PatternPart::Any => is_anchored = false,
            PatternPart::Text(part) => {
                let after = match (is_anchored, parts.peek()) {
                    (true, _) => rest.strip_prefix(part.as_str()),
                    // The last part has to match the end.
                    (false, None) => rest.ends_with(part.as_str()).then_some(""),
                    // The first match leaves most of the text to the other parts.
                    (false, Some(_)) => rest.split_once(part.as_str()).map(|(_, after)| after),
                };
                let Some(after) = after else { return false };
                (rest, is_anchored) = (after, true);
            }
        }
    }
    !is_anchored || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let pattern = |text: &str| -> Vec<PatternPart> {
            let mut parts = Vec::new();
            for (index, part) in text.split('*').enumerate() {
                if index > 0 {
                    parts.push(PatternPart::Any);
                }
                if !part.is_empty() {
                    parts.push(PatternPart::Text(part.to_owned()));
                }
            }
            parts
        };
        for (like, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c", "abcbc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*ab", "ab", false),
            ("*a*a", "a", false),
        ] {
            assert_eq!(matches(&pattern(like), text), expected, "{like} {text}");
        }
    }
}
