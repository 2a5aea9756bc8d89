//! `cedargate policy diff`: compares two versions of the policies.

use super::invalid;
use super::progress::Progress;
use super::replay::{read_source, replay_with_progress};
use crate::analysis::diff::{PolicyDiff, PolicyVersion, diff, markdown};
use crate::analysis::replay::{Flips, ReplayPolicies, ReplayReport};
use crate::analysis::{PolicySource, SolverCommand};
use crate::cli::{CommandResult, Failure, block_on, print_line};
use crate::config::Config;
use clap::{Args, ValueEnum};
use std::cell::RefCell;
use std::path::PathBuf;

/// The options of `policy diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The old version: a directory, git:REVISION or version:HASH
    old: PolicySource,
    /// The new version
    new: PolicySource,
    /// Exit with code 3 if some request is newly allowed (`wider`), or if any decision changes or a claim is removed or changed
    /// (`any`)
    #[arg(long, value_enum, value_name = "CHANGE")]
    fail_on: Option<FailOn>,
    /// Files of the decision log: report the logged decisions that the new version changes, too
    #[arg(long, num_args = 1.., value_name = "LOG")]
    replay: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The changes that fail the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Wider,
    Any,
}

/// The formats of the report.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Markdown,
}

/// Runs the command.
pub(super) fn run(config: &Config, arguments: &DiffArgs) -> CommandResult {
    // To parse and validate the policies takes as long as to compare them, so that both versions are read at once.
    let (old, new) = std::thread::scope(|scope| {
        let new = scope.spawn(|| read_source(config, &arguments.new));
        (read_source(config, &arguments.old), new.join())
    });
    let new = new.map_err(|_| Failure::failed("the new version cannot be read"))?;
    let ((old_files, old_engine), (new_files, new_engine)) = match (old, new) {
        (Ok(old), Ok(new)) => (old, new),
        (old, new) => {
            let failures = [old.err(), new.err()].into_iter().flatten();
            return Err(invalid::report_sources(failures, matches!(arguments.format, Format::Json)));
        }
    };
    let (old_name, new_name) = (arguments.old.to_string(), arguments.new.to_string());
    let old = PolicyVersion { source: &old_name, files: &old_files, engine: &old_engine };
    let new = PolicyVersion { source: &new_name, files: &new_files, engine: &new_engine };
    let progress = RefCell::new(Progress::new("comparing"));
    let on_progress = |done, total| progress.borrow_mut().set(done, total);
    let mut report = block_on(async { Ok(diff(old, new, SolverCommand::find(), on_progress).await) })?;
    drop(progress);
    if !arguments.replay.is_empty() {
        let policies = ReplayPolicies::Against(&new_engine);
        report.replay = Some(replay_with_progress(&arguments.replay, policies)?);
    }
    match arguments.format {
        Format::Text => print_line(report.to_string().trim_end())?,
        Format::Json => print_line(serde_json::to_string_pretty(&report).map_err(Failure::failed)?)?,
        Format::Markdown => print_line(markdown(&report).trim_end())?,
    }
    outcome(&report, arguments.fail_on)
}

/// The exit code: what was asked for is found before what could not be decided. A log with unreadable lines is a finding.
fn outcome(report: &PolicyDiff, fail_on: Option<FailOn>) -> CommandResult {
    let flips = report.replay.as_ref().and_then(|replay| replay.flips.as_ref());
    let is_found = match fail_on {
        Some(FailOn::Wider) => report.is_wider() || flips.is_some_and(Flips::has_allows),
        Some(FailOn::Any) => {
            report.has_changes() || report.has_changed_claims() || flips.is_some_and(|flips| flips.count > 0)
        }
        None => false,
    };
    let is_log_invalid = report.replay.as_ref().is_some_and(|replay| replay.invalid.count > 0);
    let undecided_lines = report.replay.as_ref().and_then(ReplayReport::undecided);
    // A changed group or folder is no failure where nothing was asked for.
    let is_asked = fail_on.is_some() || !report.is_incomplete_by_data_only();
    match report.undecided().filter(|_| is_asked).or(undecided_lines) {
        _ if is_found || is_log_invalid => Err(Failure::Found),
        Some(reason) => Err(Failure::Undecided(reason)),
        None => Ok(()),
    }
}
