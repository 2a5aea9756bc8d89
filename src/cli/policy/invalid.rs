//! Reports of invalid policies by commands that need valid ones, so that each format is a valid document with the errors.

use super::check::finding;
use crate::analysis::{Finding, TestOutcome, TestSuite, junit, sarif};
use crate::authz::{BundleError, Rule};
use crate::cli::{CommandResult, Failure, print_line};
use crate::types::read_text;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// The failure of a command because of invalid policies.
pub(super) fn failure(error: &BundleError) -> Failure {
    Failure::CheckFailed(error.to_string())
}

/// Prints the errors as a JSON object.
pub(super) fn report_json(error: &BundleError) -> Failure {
    printed(error, print_line(format_args!("{:#}", json!({ "findings": findings(error) }))))
}

/// Prints the errors as a JUnit document.
pub(super) fn report_junit(error: &BundleError) -> Failure {
    printed(error, print_line(junit_document(error).trim_end()))
}

/// Prints the errors as the SARIF log of a command.
pub(super) fn report_sarif(command: &str, error: &BundleError) -> Failure {
    let rules: Vec<_> = Rule::ALL.iter().map(|rule| (rule.code(), rule.meaning())).collect();
    printed(error, print_line(sarif(command, &rules, &findings(error)).trim_end()))
}

/// The errors as a JUnit document: a test that could not be executed for each.
pub(super) fn junit_document(error: &BundleError) -> String {
    let tests = error.0.iter().map(|diagnostic| {
        (diagnostic.rule.code().to_owned(), TestOutcome::Errored(diagnostic.to_string()), Duration::ZERO)
    });
    junit(&[TestSuite { name: "valid policies".to_owned(), tests: tests.collect() }])
}

fn findings(error: &BundleError) -> Vec<Finding> {
    let source = |path: &str| read_text(Path::new(path)).ok();
    error.0.iter().map(|diagnostic| finding(diagnostic, source)).collect()
}

/// The failure of the command after its report was printed; the failure to print, if it was not.
fn printed(error: &BundleError, result: CommandResult) -> Failure {
    result.err().unwrap_or_else(|| failure(error))
}
