//! `cedargate policy replay`: decides the lines of the decision log again.

use super::invalid::{self, InvalidSource, SourceFailure};
use super::progress::Progress;
use super::versions::archived_snapshot;
use crate::analysis::replay::{ReplayError, ReplayPolicies, ReplayReport, replay};
use crate::analysis::{PolicySource, PolicySourceError};
use crate::authz::{Bundle, Engine, Snapshot, VersionPrefix};
use crate::cli::{CommandResult, Failure, print_line};
use crate::config::Config;
use crate::server::{policy_sources, read_policies};
use clap::{Args, ValueEnum};
use std::cell::RefCell;
use std::path::PathBuf;

/// The options of `policy replay`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArgs {
    /// Files of the decision log; rotated ones (`log.2`, `log.1`, `log`) are read in the order in which they were written
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Decide with these policies, and report the decisions that they change: a directory, git:REVISION or version:HASH
    #[arg(long, value_name = "SOURCE")]
    against: Option<PolicySource>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The formats of the report.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl ReplayArgs {
    fn prints_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }
}

/// Runs the command.
pub(super) fn run(config: &Config, arguments: &ReplayArgs) -> CommandResult {
    let report = match &arguments.against {
        Some(source) => {
            let (_, engine) = read_source(config, source)
                .map_err(|failure| invalid::report_sources([failure], arguments.prints_json()))?;
            replay_with_progress(&arguments.logs, ReplayPolicies::Against(&engine))?
        }
        None => replay_own_versions(config, arguments)?,
    };
    match arguments.format {
        Format::Text => print_line(report.to_string().trim_end())?,
        Format::Json => print_line(serde_json::to_string_pretty(&report).map_err(Failure::failed)?)?,
    }
    match report.undecided() {
        _ if report.has_findings() => Err(Failure::Found),
        Some(reason) => Err(Failure::Undecided(reason)),
        None => Ok(()),
    }
}

/// Replays logs with the policies of each line's version.
fn replay_own_versions(config: &Config, arguments: &ReplayArgs) -> Result<ReplayReport, Failure> {
    let active = read_policies(config).map_err(|error| match arguments.format {
        Format::Text => invalid::failure(&error),
        Format::Json => invalid::report_json(&error),
    })?;
    let active_version = active.version().to_owned();
    // Called once a version.
    let lookup = |version: &str| {
        let bundle = match version == active_version {
            true => read_policies(config).ok(),
            false => archived_bundle(config, version),
        };
        Engine::new(bundle?).ok()
    };
    replay_with_progress(&arguments.logs, ReplayPolicies::OwnVersion(&lookup))
}

/// The policies of a version in the archive. None if there is no database, or the archive does not have the version.
fn archived_bundle(config: &Config, version: &str) -> Option<Bundle> {
    let files = archived_snapshot(config, &version.parse().ok()?).ok()?;
    let bundle = Bundle::parse(&files, &policy_sources(config).stored).ok()?;
    (bundle.version() == version).then_some(bundle)
}

/// Replays logs with a progress bar.
///
/// # Errors
/// A file cannot be read.
pub(super) fn replay_with_progress(
    logs: &[PathBuf],
    policies: ReplayPolicies<'_>,
) -> Result<ReplayReport, Failure> {
    let progress = RefCell::new(Progress::new("replaying"));
    let mebibytes = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
    let on_progress =
        |done: u64, total: u64| progress.borrow_mut().set(mebibytes(done), mebibytes(total).max(1));
    replay(logs, policies, &on_progress).map_err(|error: ReplayError| Failure::failed(error))
}

/// Reads the policies of a source, and compiles them.
///
/// # Errors
/// The policies cannot be read, or are invalid.
pub(super) fn read_source(
    config: &Config,
    source: &PolicySource,
) -> Result<(Snapshot, Engine), SourceFailure> {
    let configured = policy_sources(config);
    let archive = |version: &VersionPrefix| {
        let failed = |failure| PolicySourceError::Archive(version.clone(), message_of(failure));
        archived_snapshot(config, version).map_err(failed)
    };
    let invalid =
        |error, files| SourceFailure::Invalid(InvalidSource { source: source.clone(), error, files });
    let files = source.read_files(&configured, archive).map_err(|error| match error {
        PolicySourceError::Invalid(_, error) => invalid(error, None),
        error => SourceFailure::Unreadable(Failure::failed(error)),
    })?;
    let engine = Bundle::parse(&files, &configured.stored).and_then(Engine::new);
    match engine {
        Ok(engine) => Ok((files, engine)),
        Err(error) => Err(invalid(error, Some(files))),
    }
}

fn message_of(failure: Failure) -> String {
    match failure {
        Failure::Failed(message) | Failure::CheckFailed(message) | Failure::Undecided(message) => message,
        Failure::Found => String::new(),
    }
}
