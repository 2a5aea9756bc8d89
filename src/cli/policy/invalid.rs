//! Reports of invalid policies by commands that need valid ones, so that each format is a valid document with the errors.

use super::check::finding;
use crate::analysis::{Finding, PolicySource, PolicySourceError, TestOutcome, TestSuite, junit, sarif};
use crate::authz::{BundleError, Rule, Snapshot};
use crate::cli::{CommandResult, Failure, print_line};
use crate::types::read_text;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Why the policies of a source cannot be used.
pub(super) enum SourceFailure {
    /// They are invalid.
    Invalid(InvalidSource),
    /// They cannot be read.
    Unreadable(Failure),
}

/// Invalid policies of a source.
pub(super) struct InvalidSource {
    pub(super) source: PolicySource,
    pub(super) error: BundleError,
    /// The files; none if one of them cannot be read.
    pub(super) files: Option<Snapshot>,
}

impl InvalidSource {
    /// The errors as JSON, each with its source.
    fn findings(&self) -> Vec<Value> {
        let text = |path: &str| self.files.as_ref()?.text(path).map(str::to_owned);
        let findings = self.error.0.iter().map(|diagnostic| {
            let mut finding = json!(finding(diagnostic, text));
            if let Some(members) = finding.as_object_mut() {
                members.insert("source".to_owned(), json!(self.source.to_string()));
            }
            finding
        });
        findings.collect()
    }
}

impl From<SourceFailure> for Failure {
    fn from(failure: SourceFailure) -> Self {
        match failure {
            SourceFailure::Invalid(InvalidSource { source, error, .. }) => {
                Self::failed(PolicySourceError::Invalid(source, error))
            }
            SourceFailure::Unreadable(failure) => failure,
        }
    }
}

/// Reports policies of one or two sources that cannot be used. In a command that prints JSON, invalid policies are a JSON object
/// with the errors of all sources.
pub(super) fn report_sources(
    failures: impl IntoIterator<Item = SourceFailure>,
    prints_json: bool,
) -> Failure {
    let (mut findings, mut messages) = (Vec::new(), Vec::new());
    for failure in failures {
        match failure {
            SourceFailure::Invalid(invalid) => {
                findings.extend(invalid.findings());
                messages.push(PolicySourceError::Invalid(invalid.source, invalid.error).to_string());
            }
            SourceFailure::Unreadable(failure) => return failure,
        }
    }
    let failure = Failure::Failed(messages.join("\n"));
    match prints_json {
        true => print_line(format_args!("{:#}", json!({ "findings": findings }))).err().unwrap_or(failure),
        false => failure,
    }
}

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
