//! `cedargate policy`: validates, tests, explains, confirms and exports policies.

mod analyze;
mod check;
mod diff;
mod explain;
mod explain_output;
mod findings;
mod format;
mod invalid;
mod matrix;
mod progress;
mod prove;
mod replay;
mod report;
mod test;
mod versions;

use super::{CommandResult, Failure, block_on, open, print_line};
use crate::application::policy_reload;
use crate::authz::{BundleError, VersionPrefix, short_version};
use crate::config::Config;
use crate::server::{open_policies, read_policies};
use clap::Subcommand;
use findings::FindingFormat;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Validate and lint schema, policies and entity data, as at startup; reports all errors and warnings
    Check {
        /// Format of the report
        #[arg(long, value_enum, default_value_t = FindingFormat::Text)]
        format: FindingFormat,
    },
    /// Report policies without effect, and with a decision log what was not used; needs the solver cvc5
    Analyze(Box<analyze::AnalyzeArgs>),
    /// Format policy files, comments included
    Format {
        /// Files [default: *.cedar of the policy directories and of their claims]
        files: Vec<PathBuf>,
        /// Write nothing; exit code 3 and a diff if a file is not formatted
        #[arg(long)]
        check: bool,
    },
    /// Write the permission matrix: every action and scope, as Cedar decides
    Matrix(matrix::MatrixArgs),
    /// Evaluate a decision and explain it; exit code 3 if it is a deny; needs the database
    Explain(Box<explain::ExplainArgs>),
    /// Prove the claims of claims/*.cedar, and three built-in ones, for all requests; needs the solver cvc5
    Prove(prove::ProveArgs),
    /// Run policy tests, in the format of `cedar run-tests`
    Test(Box<test::TestArgs>),
    /// Compare two versions of the policies: which requests are newly allowed or denied
    Diff(Box<diff::DiffArgs>),
    /// Decide the lines of the decision log again; exit code 3 if a decision differs
    Replay(replay::ReplayArgs),
    /// Write a report on the policies for auditors: one HTML page that needs no network and no scripts
    Report(report::ReportArgs),
    /// Confirm a pending policy version; running services whose policy files have it activate it within seconds
    Reload {
        /// Version to confirm, or its first digits, from the log, /health/ready or GET /v2/policies; the policy files must have it
        #[arg(long, value_name = "VERSION")]
        confirm: VersionPrefix,
    },
    /// List the policy versions that were active, with when and on whose request; needs the database
    Versions(versions::VersionsArgs),
    /// Print a policy version that was active: its history and its files; needs the database
    Show(versions::ShowArgs),
    /// Write the files of a policy version that was active to a directory; needs the database
    Export(versions::ExportArgs),
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let bundle =
        || read_policies(config).map_err(|error: BundleError| Failure::CheckFailed(error.to_string()));
    match command {
        // These read the configured policies themselves, or none.
        Command::Check { format } => check::run(config, format),
        Command::Format { files, check } => format::run(config, files, check),
        Command::Matrix(arguments) => matrix::run(config, arguments),
        Command::Versions(arguments) => versions::list(config, &arguments),
        Command::Show(arguments) => versions::show(config, &arguments),
        Command::Export(arguments) => versions::export(config, &arguments),
        Command::Replay(arguments) => replay::run(config, &arguments),
        Command::Diff(arguments) => diff::run(config, &arguments),
        Command::Analyze(arguments) => {
            let bundle = read_policies(config).map_err(|error| arguments.report_invalid(&error))?;
            analyze::run(&bundle, &arguments)
        }
        Command::Reload { confirm } => reload(config, &confirm),
        Command::Test(arguments) => {
            let bundle = read_policies(config).map_err(|error| arguments.report_invalid(&error))?;
            test::run(config, &bundle, *arguments)
        }
        Command::Prove(arguments) => {
            let bundle = read_policies(config).map_err(|error| arguments.report_invalid(&error))?;
            prove::run(config, bundle, arguments)
        }
        Command::Report(arguments) => report::run(config, bundle()?, &arguments),
        Command::Explain(question) => {
            bundle()?;
            explain::run(config, &question)
        }
    }
}

/// Confirms the version of the policy files, after the same checks as at startup.
fn reload(config: &Config, confirmed: &VersionPrefix) -> CommandResult {
    let policies = open_policies(config).map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let version = policies.current().bundle().version().to_owned();
    let short = short_version(&version);
    if !confirmed.matches(&version) {
        let message =
            format!("the policy files have the version {short}, not {confirmed}; nothing is confirmed");
        return Err(Failure::Failed(message));
    }
    block_on(async {
        let app = open(config).await?;
        let authorizer = app.terminal_authorizer("reloadPolicies").await?;
        let confirmation = policy_reload::confirm_from_cli(&authorizer, &version).await;
        confirmation?;
        print_line(format_args!("confirmed policy version {short}"))
    })
}
