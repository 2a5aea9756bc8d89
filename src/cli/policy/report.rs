//! `cedargate policy report`: writes a page about the policies, for an auditor.

mod archive;
mod checks;

use crate::analysis::PolicySource;
use crate::analysis::access::{access_rows, domain_access};
use crate::analysis::analyze::{LogEntry, read_log};
use crate::analysis::report::{
    self, FileEntry, Identity, LogUse, Report, RouteAuthorization, RouteEntry, Section,
};
use crate::api;
use crate::authz::cases::PolicyTest;
use crate::authz::{Bundle, Engine, FileKind, SnapshotFile, cases};
use crate::cli::{CommandResult, Failure};
use crate::config::Config;
use crate::http::docs;
use crate::types::Clock;
use clap::{Args, ValueEnum};
use std::fs::OpenOptions;
use std::path::PathBuf;

/// The arguments of `policy report`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReportArgs {
    /// Write the page to this file
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
    /// Decision logs, for the last use of each policy; may be repeated
    #[arg(long = "log", value_name = "LOG", num_args = 1..)]
    logs: Vec<PathBuf>,
    /// The version to compare with: a directory, git:REVISION or version:HASH
    #[arg(long, value_name = "OLD")]
    base: Option<PolicySource>,
    /// Leave out a part that takes long; may be repeated
    #[arg(long, value_enum, value_name = "PART")]
    without: Vec<LongPart>,
}

/// The parts of the report that take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LongPart {
    /// Changes of the policies that no policy test notices
    Mutants,
    /// The proof of the claims, and the search for policies without effect
    Proof,
}

impl ReportArgs {
    fn is_without(&self, part: LongPart) -> bool {
        self.without.contains(&part)
    }
}

pub(super) fn run(config: &Config, bundle: Bundle, arguments: &ReportArgs) -> CommandResult {
    let engine = Engine::new(bundle).map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let file = &arguments.html;
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", file.display()));
    // Before the work, which takes long. What the file contains stays until there is a new report.
    let is_new = !file.exists();
    OpenOptions::new().append(true).create(true).open(file).map_err(failed)?;
    let report = collect(config, &engine, arguments).inspect_err(|_| {
        if is_new {
            let _ = std::fs::remove_file(file);
        }
    })?;
    std::fs::write(file, report::html(&report)).map_err(failed)
}

/// Collects what the report shows. A part whose source is missing says so.
fn collect(config: &Config, engine: &Engine, arguments: &ReportArgs) -> Result<Report, Failure> {
    let bundle = engine.bundle();
    let is_policy_file = |file: &&SnapshotFile| file.kind == FileKind::Policies;
    let policy_texts = bundle.files().iter().filter(is_policy_file).map(|file| &*file.text);
    let not_computed = |error: String| format!("The table could not be computed: {error}");
    let log_use = log_use(bundle, &arguments.logs)?;
    let archive = archive::read(config, bundle);
    let tests = policy_tests(config)?;
    let strength = checks::test_strength(bundle, &tests, arguments)?;
    Ok(Report {
        created_at: Clock::system().now().to_string(),
        program: format!("cedargate {}", env!("CARGO_PKG_VERSION")),
        identity: Identity {
            version: bundle.version().to_owned(),
            files: bundle.files().iter().map(file_entry).collect(),
            active: archive.active,
        },
        changes: checks::changes(config, engine, arguments.base.as_ref())?,
        findings: checks::findings(config, bundle, arguments)?,
        coverage: strength.coverage,
        mutants: strength.mutants,
        access: access_rows(engine).map_err(not_computed),
        domains: domain_access(bundle).map_err(not_computed),
        policies: report::policy_entries(bundle, policy_texts),
        log_use,
        cases: report::cases(bundle, &tests),
        routes: routes(bundle),
        claims: checks::claims(config, bundle, arguments)?,
        history: archive.history,
    })
}

fn file_entry(file: &SnapshotFile) -> FileEntry {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, file.text.as_bytes());
    FileEntry {
        path: file.path.clone(),
        kind: file.kind.as_str(),
        bytes: file.text.len(),
        sha256: hex::encode(digest),
    }
}

/// The policy tests of the policy directories, by file.
fn policy_tests(config: &Config) -> Result<Vec<(String, Vec<PolicyTest>)>, Failure> {
    let mut files = Vec::new();
    for file in super::test::case_files(config) {
        let name = file.display().to_string();
        let tests = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        files.push((name, tests));
    }
    Ok(files)
}

/// The use of the policies in these logs.
fn log_use(bundle: &Bundle, logs: &[PathBuf]) -> Result<Section<LogUse>, Failure> {
    if logs.is_empty() {
        let reason =
            "The last use of the policies is unknown: no decision log was given. Name the files with --log.";
        return Ok(Err(reason.to_owned()));
    }
    let mut log_use = LogUse::new();
    let invalid = read_log(logs, |entry| {
        if let LogEntry::Decision(decision) = entry {
            log_use.add(bundle, decision);
        }
    })
    .map_err(Failure::failed)?;
    log_use.invalid_lines = invalid;
    Ok(Ok(log_use))
}

/// The routes of the service, with those of the API documentation.
fn routes(bundle: &Bundle) -> Vec<RouteEntry> {
    let actions = bundle.actions();
    let mut entries = Vec::new();
    for group in api::all_routes() {
        for (path, route) in group.paths() {
            let method =
                if route.matches_any_method { "any".to_owned() } else { route.method.as_str().to_owned() };
            let authorization = match route.action {
                Some(name) => RouteAuthorization::Action {
                    name: name.to_owned(),
                    additional: route.additional_actions.iter().map(|&name| name.to_owned()).collect(),
                    is_declared: [name]
                        .iter()
                        .chain(route.additional_actions)
                        .all(|&name| actions.contains(name)),
                    on_root_organization: route.on_root_organization,
                },
                None => RouteAuthorization::Public(route.public_reason.unwrap_or_default().to_owned()),
            };
            entries.push(RouteEntry { method, path, authorization });
        }
    }
    let documentation = docs::PUBLIC_PATHS.map(|(path, reason)| RouteEntry {
        method: "GET".to_owned(),
        path: path.to_owned(),
        authorization: RouteAuthorization::Public(reason.to_owned()),
    });
    entries.extend(documentation);
    entries
}
