//! `cedargate policy`.

use super::{Failure, Outcome, say, write_or_check};
use crate::app::read_policies;
use crate::authz::{Bundle, BundleError, Engine, cases, matrix};
use crate::config::Config;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Validate and lint schema, policies and data, as the start does
    Check,
    /// Write who may do what: every action and scope, as Cedar answers
    Matrix {
        /// To this file
        #[arg(long, short, default_value = "policies/MATRIX.md", value_name = "FILE")]
        output: PathBuf,
        /// Write nothing, but compare: exit 3 if the file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Run test cases in the format of `cedar run-tests`
    Test {
        /// These files [default: cases/*.json in the policy directories]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(config: &Config, command: Command) -> Outcome {
    let found = |error: BundleError| Failure::Found(error.to_string());
    let bundle = read_policies(config).map_err(found)?;
    match command {
        Command::Check => {
            say(format_args!("{} policies, version {}", bundle.policies().count(), bundle.version()));
            Ok(())
        }
        Command::Matrix { output, check } => {
            let engine = Engine::new(bundle).map_err(found)?;
            write_or_check(Some(output), check, &matrix(&engine))
        }
        Command::Test { files } => test(config, &bundle, files),
    }
}

fn test(config: &Config, bundle: &Bundle, mut files: Vec<PathBuf>) -> Outcome {
    if files.is_empty() {
        for directory in &config.policies {
            let Ok(entries) = std::fs::read_dir(directory.join("cases")) else { continue };
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            files.extend(paths.filter(|path| path.extension().is_some_and(|found| found == "json")));
        }
        files.sort();
    }
    if files.is_empty() {
        return Err(Failure::failed("there are no cases: none of the policy directories has cases/*.json"));
    }
    let mut passed = 0;
    let mut failures = Vec::new();
    for file in files {
        let name = file.display();
        let read = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        for case in read {
            match case.run(bundle) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("{name}: {}: {message}", case.name)),
            }
        }
    }
    say(format_args!("{passed} passed, {} failed", failures.len()));
    if failures.is_empty() { Ok(()) } else { Err(Failure::Found(failures.join("\n"))) }
}
