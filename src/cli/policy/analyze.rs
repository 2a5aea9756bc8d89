//! `cedargate policy analyze`: policies without effect, and what the decision log shows as unused.

use super::findings::{FindingFormat, FindingReport, count};
use super::invalid;
use super::progress::Progress;
use crate::analysis::analyze::{
    RULES, SuggestionCheck, Usage, UsageWindow, analyze, read_log, suggest, usage_findings,
};
use crate::analysis::{Solver, SolverCommand};
use crate::authz::{Bundle, BundleError};
use crate::cli::{CommandResult, Failure, block_on};
use crate::types::read_text;
use clap::Args;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

/// The arguments of `policy analyze`.
#[derive(Debug, Args)]
pub(in crate::cli) struct AnalyzeArgs {
    /// Format of the report
    #[arg(long, value_enum, default_value_t = FindingFormat::Text)]
    format: FindingFormat,
    /// Files of the decision log: also report what was not used
    #[arg(long, value_name = "LOG", num_args = 1..)]
    log: Vec<PathBuf>,
    /// Days before the last decision of the log in which something has to be used
    #[arg(long, value_name = "N", default_value_t = 90, requires = "log")]
    days: u32,
    /// Print narrower policies as a diff: only what the logged decisions used
    #[arg(long, requires = "log")]
    suggest: bool,
    /// Write the diff to this file instead
    #[arg(long, short, value_name = "FILE", requires = "suggest")]
    output: Option<PathBuf>,
}

impl AnalyzeArgs {
    /// Reports invalid policies in the format of the report.
    pub(super) fn report_invalid(&self, error: &BundleError) -> Failure {
        match self.format {
            FindingFormat::Text => invalid::failure(error),
            FindingFormat::Json => invalid::report_json(error),
            FindingFormat::Sarif => invalid::report_sarif("analyze", error),
        }
    }
}

/// Reports policies without effect, and with a log what was not used. Fails if there are any.
pub(super) fn run(bundle: &Bundle, arguments: &AnalyzeArgs) -> CommandResult {
    let command = SolverCommand::find().map_err(|error| Failure::Undecided(error.to_string()))?;
    let solver = || Solver::new(command.clone());
    let progress = Progress::new("analyzing");
    let mut analysis =
        block_on(async { Ok(analyze(bundle, solver(), |done, total| progress.set(done, total)).await) })?;
    drop(progress);
    let mut members = Map::from_iter([
        ("solver".to_owned(), json!(command.version())),
        ("queries".to_owned(), json!(analysis.queries)),
        ("assumptions".to_owned(), json!(analysis.assumptions)),
    ]);
    let mut lines: Vec<String> =
        analysis.assumptions.iter().map(|assumption| format!("assumption: {assumption}")).collect();
    if !arguments.log.is_empty() {
        let mut usage = Usage::default();
        let invalid = read_log(&arguments.log, |entry| usage.add(entry)).map_err(Failure::failed)?;
        let window = UsageWindow { days: arguments.days };
        analysis.findings.extend(usage_findings(bundle, &usage, window));
        describe_usage(&usage, window, invalid, &mut members, &mut lines);
        if arguments.suggest {
            let check = block_on(async {
                suggest(bundle, &usage, &arguments.log, solver()).await.map_err(Failure::failed)
            })?;
            describe_suggestions(&check, arguments.output.as_deref(), &mut members, &mut lines)?;
        }
    }
    let undecided = &analysis.undecided;
    members.insert("undecided".to_owned(), json!(undecided));
    lines.extend(undecided.iter().map(|reason| format!("undecided: {reason}")));
    lines.push(format!(
        "{} of {} policies, {} ({})",
        count(analysis.findings.len(), "finding"),
        bundle.policies().count(),
        if undecided.is_empty() {
            "nothing undecided".to_owned()
        } else {
            format!("{} undecided", undecided.len())
        },
        command.version(),
    ));
    let source = |path: &str| read_text(Path::new(path)).ok();
    let report = FindingReport {
        command: "analyze",
        rules: RULES.to_vec(),
        findings: &analysis.findings,
        members,
        lines,
    };
    report.print(arguments.format, source)?;
    match (analysis.findings.is_empty(), undecided.is_empty()) {
        (false, _) => Err(Failure::Found),
        (true, false) => Err(Failure::Undecided(undecided.join("\n"))),
        (true, true) => Ok(()),
    }
}

fn describe_usage(
    usage: &Usage,
    window: UsageWindow,
    invalid: u64,
    members: &mut Map<String, serde_json::Value>,
    lines: &mut Vec<String>,
) {
    let (decisions, allows) = usage.counts();
    let remarks = usage.remarks(window);
    let by_action = usage.scopes_by_action(window);
    let period = usage.period().map(|(first, last)| [first.to_string(), last.to_string()]);
    if let Some([first, last]) = &period {
        lines.push(format!("log: {decisions} decisions from {first} to {last}, {allows} of them allow"));
    }
    lines.extend((invalid > 0).then(|| format!("log: {invalid} lines are no decisions")));
    lines.extend(remarks.iter().map(|remark| format!("log: {remark}")));
    lines.extend(by_action.iter().map(|(action, scopes)| format!("used: {action} by {}", scopes.join(", "))));
    let log = json!({
        "decisions": decisions, "allows": allows, "invalidLines": invalid, "period": period, "days": window.days,
        "remarks": remarks, "scopesByAction": by_action,
    });
    members.insert("log".to_owned(), log);
}

fn describe_suggestions(
    check: &SuggestionCheck,
    output: Option<&Path>,
    members: &mut Map<String, serde_json::Value>,
    lines: &mut Vec<String>,
) -> CommandResult {
    members.insert("suggested".to_owned(), json!(check));
    for suggestion in &check.suggestions {
        let without = match suggestion.removed_actions.as_slice() {
            [] => String::new(),
            actions => format!(" without {}", actions.join(", ")),
        };
        let scope =
            suggestion.scope.as_ref().map(|scope| format!(" for the scope {scope}")).unwrap_or_default();
        lines.push(format!(
            "suggested: {:?}{without}{scope}; contained in the policy in {}",
            suggestion.policy,
            count(suggestion.environments, "request environment"),
        ));
    }
    lines.extend(check.rejected.iter().map(|reason| format!("suggested: {reason}")));
    if check.suggestions.is_empty() {
        lines.push("suggested: nothing".to_owned());
        return Ok(());
    }
    let mut replayed = format!("suggested: {} logged allows stay allowed", check.replayed);
    if check.not_replayable > 0 {
        replayed.push_str(&format!(
            "; {} lines cannot be replayed, because inputs are masked",
            check.not_replayable
        ));
    }
    lines.push(replayed);
    match output {
        Some(file) => std::fs::write(file, &check.diff)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?,
        None => lines.push(check.diff.trim_end().to_owned()),
    }
    Ok(())
}
