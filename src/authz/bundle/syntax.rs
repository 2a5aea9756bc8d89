//! Syntax errors of policy files.
//!
//! Cedar parses in two steps. An error of the first step hides those of the second, such as an unknown variable, in the whole
//! file. Therefore the policies without an error of the first step are also parsed on their own.

use super::diagnostics::{BundleDiagnostic, SourceFile};
use super::rules::Rule;
use cedar_policy::{ParseErrors, PolicySet};
use std::ops::Range;

/// All syntax errors of a file, of which Cedar reported these.
pub(super) fn syntax_errors(file: &SourceFile, errors: &ParseErrors) -> Vec<BundleDiagnostic> {
    let mut all: Vec<BundleDiagnostic> =
        errors.iter().map(|error| file.to_bundle_diagnostic(Rule::Syntax, error)).collect();
    let mut starts: Vec<usize> =
        all.iter().filter_map(|error| error.bytes.as_ref().map(|bytes| bytes.start)).collect();
    starts.sort_unstable();
    for range in statements(&file.text) {
        let next = starts.partition_point(|start| *start < range.start);
        if starts.get(next).is_some_and(|start| *start <= range.end) {
            continue;
        }
        let text = file.text.get(range.clone()).unwrap_or_default();
        let Err(errors) = text.parse::<PolicySet>() else { continue };
        let errors = errors.iter();
        all.extend(errors.map(|error| file.to_bundle_diagnostic_after(range.start, Rule::Syntax, error)));
    }
    all
}

/// The texts between the semicolons that are neither in a literal nor in a comment, each with its semicolon.
fn statements(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((position, byte)) = bytes.next() {
        match byte {
            b';' => {
                ranges.push(start..position + 1);
                start = position + 1;
            }
            b'/' if bytes.next_if(|(_, next)| *next == b'/').is_some() => {
                while bytes.next_if(|(_, byte)| *byte != b'\n').is_some() {}
            }
            b'"' => {
                while let Some((_, byte)) = bytes.next_if(|(_, byte)| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
                bytes.next();
            }
            _ => {}
        }
    }
    ranges.push(start..text.len());
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_at_a_semicolon_outside_of_literals_and_comments() {
        let text = "a \"x;\\\";\" ; // b; \"\n c / \"ä;\";d";
        let parts: Vec<&str> = statements(text).into_iter().filter_map(|range| text.get(range)).collect();
        assert_eq!(parts, ["a \"x;\\\";\" ;", " // b; \"\n c / \"ä;\";", "d"]);
        assert_eq!(statements("a; \"b;"), [0..2, 2..6]);
    }
}
