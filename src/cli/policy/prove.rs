//! `cedargate policy prove`: proves claims about the policies for all requests.

use super::invalid;
use super::progress::Progress;
use crate::analysis::{self, Proof, ProofRecord, ProveOptions, SolverCommand};
use crate::authz::{Bundle, BundleError};
use crate::cli::{CommandResult, Failure, print_line};
use crate::config::Config;
use crate::server::block_on_until_signal;
use crate::types::Clock;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(in crate::cli) struct ProveArgs {
    /// Format of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also write a JUnit document to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Prove only the claim with this id; may be repeated
    #[arg(long = "claim", value_name = "ID")]
    claims: Vec<String>,
    /// Write PROOF.json to the first policy directory, for GET /v2/policies and the report
    #[arg(long, conflicts_with = "claims")]
    record: bool,
    /// Write each query to this directory as an SMT-LIB script, as evidence; it must be empty or not exist
    #[arg(long, value_name = "DIR")]
    smtlib: Option<PathBuf>,
}

/// The format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Junit,
    Sarif,
}

impl ProveArgs {
    /// Reports invalid policies in the format of the result.
    pub(super) fn report_invalid(&self, error: &BundleError) -> Failure {
        if let Some(file) = &self.junit
            && let Err(error) = std::fs::write(file, invalid::junit_document(error))
        {
            return Failure::failed(format!("{}: {error}", file.display()));
        }
        match self.format {
            Format::Text => invalid::failure(error),
            Format::Json => invalid::report_json(error),
            Format::Junit => invalid::report_junit(error),
            Format::Sarif => invalid::report_sarif("prove", error),
        }
    }
}

pub(super) fn run(config: &Config, bundle: Bundle, arguments: ProveArgs) -> CommandResult {
    let solver = SolverCommand::find().map_err(|error| Failure::Undecided(error.to_string()))?;
    if let Some(directory) = &arguments.smtlib {
        create_empty_directory(directory)?;
    }
    let progress = Progress::new("proving");
    let options = ProveOptions { claims: arguments.claims, evidence: arguments.smtlib };
    let proving =
        analysis::prove(Arc::new(bundle), &solver, options, |done, total| progress.set(done, total));
    let proof = block_on_until_signal(proving).map_err(Failure::failed)?;
    drop(progress);
    let proof = proof.ok_or_else(|| Failure::failed("interrupted"))?.map_err(Failure::failed)?;
    if arguments.record {
        record(config, &proof)?;
    }
    if let Some(file) = &arguments.junit {
        let failed = |error| Failure::failed(format!("{}: {error}", file.display()));
        std::fs::write(file, proof.to_junit()).map_err(failed)?;
    }
    print_proof(&proof, arguments.format)?;
    match proof.counts() {
        [_, 0, 0] => Ok(()),
        [_, 0, unknown] => Err(Failure::Undecided(format!("{unknown} claims could not be decided"))),
        _ => Err(Failure::Found),
    }
}

/// Writes the record of the proof to the first policy directory.
fn record(config: &Config, proof: &Proof) -> CommandResult {
    let directory = config.policies.first().ok_or_else(|| Failure::failed("there is no policy directory"))?;
    let file = ProofRecord::path(directory);
    let text = ProofRecord::new(proof, Clock::system().now()).to_text().map_err(Failure::failed)?;
    std::fs::write(&file, text).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
}

fn print_proof(proof: &Proof, format: Format) -> CommandResult {
    let text = match format {
        Format::Text => proof.to_text(),
        Format::Json => format!("{:#}", proof.to_json()),
        Format::Junit => proof.to_junit(),
        Format::Sarif => proof.to_sarif(),
    };
    print_line(text.trim_end())
}

/// Creates the directory. It must not contain files: those of another proof would be mistaken for evidence.
fn create_empty_directory(directory: &Path) -> CommandResult {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    let mut entries = std::fs::read_dir(directory).map_err(|error| failed(&error))?;
    if entries.next().is_some() { Err(failed(&"the directory is not empty")) } else { Ok(()) }
}
