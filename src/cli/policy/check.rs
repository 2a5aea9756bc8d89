//! `cedargate policy check`: validates schema, policies and entity data, and reports everything that it finds.

use super::findings::{FindingFormat, FindingReport, count};
use crate::analysis::{Finding, Level, Region};
use crate::authz::{BundleDiagnostic, Rule};
use crate::cli::{CommandResult, Failure};
use crate::config::Config;
use crate::server::check_policies;
use serde_json::{Map, json};

/// Reports all errors and warnings. Fails if there are any.
pub(super) fn run(config: &Config, format: FindingFormat) -> CommandResult {
    let checked = check_policies(config);
    let source = |path: &str| checked.snapshot.as_ref()?.text(path).map(str::to_owned);
    let findings: Vec<Finding> =
        checked.diagnostics.iter().map(|diagnostic| finding(diagnostic, source)).collect();
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let warnings = findings.len() - errors;
    let mut members =
        Map::from_iter([("errors".to_owned(), json!(errors)), ("warnings".to_owned(), json!(warnings))]);
    let mut lines = Vec::new();
    if !findings.is_empty() {
        lines.push(format!("{}, {}", count(errors, "error"), count(warnings, "warning")));
    }
    if let Some(bundle) = &checked.bundle {
        let policies = bundle.policies().count();
        members.insert("policies".to_owned(), json!(policies));
        members.insert("version".to_owned(), json!(bundle.version()));
        lines.push(format!("{policies} policies, version {}", bundle.short_version()));
    }
    let rules = Rule::ALL.iter().map(|rule| (rule.code(), rule.meaning())).collect();
    FindingReport { command: "check", rules, findings: &findings, members, lines }.print(format, source)?;
    if findings.is_empty() { Ok(()) } else { Err(Failure::Found) }
}

/// A diagnostic as a finding.
pub(super) fn finding(diagnostic: &BundleDiagnostic, source: impl Fn(&str) -> Option<String>) -> Finding {
    let text = diagnostic.file.as_deref().and_then(source);
    let region = match (&diagnostic.bytes, diagnostic.line) {
        (Some(bytes), _) => text.map(|text| Region::of(&text, bytes.start, bytes.end)),
        (None, Some(line)) => Some(Region::line(line)),
        (None, None) => None,
    };
    Finding {
        rule: diagnostic.rule.code(),
        level: if diagnostic.rule.is_warning() { Level::Warning } else { Level::Error },
        file: diagnostic.file.clone(),
        region,
        policy: diagnostic.policy.clone(),
        message: diagnostic.message.clone(),
    }
}
