//! Checks of what is valid and probably not meant: policies without a text, for a single user or a date, and files of policy
//! tests without a test.

use super::diagnostics::{BundleDiagnostic, Diagnostics, SourceFile};
use super::rules::Rule;
use crate::authz::PolicyMetadata;
use crate::authz::snapshot_file::SnapshotFile;
use crate::types::Email;
use cedar_policy::{EntityTypeName, Policy, PolicySet, Schema};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Reports policies without `@doc`, and those that contain a date, an email address or a single user.
pub(super) fn check_policies(
    policies: &PolicySet,
    metadata: &BTreeMap<String, PolicyMetadata>,
    files: &[SourceFile],
    schema: Option<&Schema>,
    diagnostics: &mut Diagnostics,
) {
    let user_types: HashSet<&EntityTypeName> = schema.into_iter().flat_map(Schema::principals).collect();
    for policy in policies.policies() {
        let Some(metadata) = metadata.get::<str>(policy.id().as_ref()) else { continue };
        let Some(file) = files.iter().find(|file| file.name == metadata.file) else { continue };
        let mut report = |rule, bytes: Option<Range<usize>>, message: String| {
            let diagnostic = file.diagnostic_at(rule, bytes, message).about(&metadata.id);
            let line = diagnostic.line.or(Some(metadata.line));
            diagnostics.0.push(BundleDiagnostic { line, ..diagnostic });
        };
        if metadata.doc.as_deref().is_none_or(|doc| doc.trim().is_empty()) {
            let message = format!("the policy {:?} has no @doc(\"…\") annotation", metadata.id);
            report(Rule::MissingDoc, effect_keyword(file, policy), message);
        }
        for uid in policy.entity_literals().iter().filter(|uid| user_types.contains(uid.type_name())) {
            let message = format!("{uid} is a single user; test a scope, an attribute or a group instead");
            report(Rule::LiteralUser, find_in_policy(policy, &uid.to_string()), message);
        }
        for (bytes, text) in condition_expressions(policy) {
            if text.starts_with("datetime") && text.ends_with(')') {
                let message = format!("{text}: a date in a condition; its meaning changes as time passes");
                report(Rule::LiteralDate, Some(bytes), message);
            } else {
                let (start, literal) = like_pattern(text).unwrap_or((0, text));
                let Ok(address) = serde_json::from_str::<String>(literal) else { continue };
                if address.parse::<Email>().is_ok() && (start == 0 || !address.contains('*')) {
                    let message = format!("{address:?} is the email address of a single user");
                    report(Rule::LiteralEmail, Some(bytes.start + start..bytes.end), message);
                }
            }
        }
    }
}

/// The expressions in the conditions of a policy, each with its place and text in the source.
fn condition_expressions(policy: &Policy) -> Vec<(Range<usize>, &str)> {
    let Some(conditions) = policy.as_ref().non_scope_constraints() else { return Vec::new() };
    let locations = conditions.subexpressions().filter_map(|expression| expression.source_loc());
    locations.filter_map(|location| Some((location.start()..location.end(), location.snippet()?))).collect()
}

/// The pattern at the end of an expression with `like`, with its quotation marks and its offset.
fn like_pattern(expression: &str) -> Option<(usize, &str)> {
    let is_pattern = |(position, keyword): (usize, &str)| {
        let rest = expression.get(position + keyword.len()..)?;
        let pattern = rest.trim_start();
        let is_whole = pattern.starts_with('"') && literal_length(pattern) == pattern.len();
        is_whole.then(|| (expression.len() - pattern.len(), pattern))
    };
    expression.match_indices("like").find_map(is_pattern)
}

/// The place of a text in the scope or conditions of a policy; none if it is written in another way.
pub(super) fn find_in_policy(policy: &Policy, text: &str) -> Option<Range<usize>> {
    let location = policy.as_ref().loc()?;
    let source = location.snippet()?;
    let start = effect_offset(source)?;
    let found = start + source.get(start..)?.find(text)?;
    Some(location.start() + found..location.start() + found + text.len())
}

/// The place of the keyword `permit` or `forbid` of a policy.
pub(super) fn effect_keyword(file: &SourceFile, policy: &Policy) -> Option<Range<usize>> {
    let location = policy.as_ref().loc()?;
    let start = location.start() + effect_offset(file.text.get(location.start()..location.end())?)?;
    Some(start..start + "permit".len())
}

/// The offset of the keyword `permit` or `forbid` in the text of a policy: the first word outside of its annotations and
/// comments.
fn effect_offset(source: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let (mut offset, mut is_annotation) = (0, false);
    while let Some(rest) = source.get(offset..) {
        let next = *bytes.get(offset)?;
        offset += match next {
            b'/' => rest.find('\n').unwrap_or(rest.len()),
            b'"' => literal_length(rest),
            b'@' | b')' => {
                is_annotation = next == b'@';
                1
            }
            _ if !is_annotation && (rest.starts_with("permit") || rest.starts_with("forbid")) => {
                return Some(offset);
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    None
}

/// The length of a string literal, with its quotation marks.
fn literal_length(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let is_end = *character == '"' && !is_escaped;
        is_escaped = *character == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |(position, _)| position + 1)
}

/// Reports files of policy tests that contain no test.
pub(super) fn check_tests<'a>(files: impl Iterator<Item = &'a SnapshotFile>, diagnostics: &mut Diagnostics) {
    for file in files.filter(|file| file.is_empty_list()) {
        let message = "the file contains no policy test";
        let diagnostic = BundleDiagnostic::new(Rule::EmptyTests, &file.path, message);
        diagnostics.0.push(BundleDiagnostic { line: Some(1), ..diagnostic });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_of_like_is_found_at_the_end_of_an_expression() {
        for (expression, expected) in [
            ("a.email like \"b@c.d\"", Some((13, "\"b@c.d\""))),
            ("a == \"like\" && a.email like\n\"b@c.d\"", Some((28, "\"b@c.d\""))),
            ("a.email like \"b\" || \"c\" == \"d\"", None),
            ("\"b@c.d\"", None),
        ] {
            assert_eq!(like_pattern(expression), expected, "{expression}");
        }
    }

    #[test]
    fn the_keyword_is_found_after_annotations_and_comments() {
        for (source, expected) in [
            ("permit (principal, action, resource);", Some(0)),
            ("@id(\"a\")\n// forbid\n@doc(\"permit \\\"x\\\" forbid\")\nforbid (…", Some(47)),
            ("@permit(\"a\") permit (", Some(13)),
            ("@id(\"a\")", None),
        ] {
            let found = effect_offset(source);
            assert_eq!(found, expected, "{source}");
        }
    }
}
