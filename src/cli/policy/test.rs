//! `cedargate policy test`: runs policy tests.

use crate::authz::{Bundle, cases};
use crate::cli::{CommandResult, Failure, print_line};
use crate::config::Config;
use std::path::PathBuf;

/// Runs the policy tests of these files, or of the policy directories if there are none.
pub(super) fn run(config: &Config, bundle: &Bundle, mut files: Vec<PathBuf>) -> CommandResult {
    if files.is_empty() {
        files = case_files(config);
    }
    if files.is_empty() {
        return Err(Failure::failed("no tests: no policy directory has cases/*.json"));
    }
    let mut passed = 0;
    let mut parsed = cases::ParsedEntities::default();
    let mut failures = Vec::new();
    for file in files {
        let name = file.display();
        let cases = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        for case in cases {
            match case.run_with(bundle, &mut parsed) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("{name}: {}: {message}", case.name)),
            }
        }
    }
    print_line(format_args!("{passed} passed, {} failed", failures.len()))?;
    if failures.is_empty() { Ok(()) } else { Err(Failure::CheckFailed(failures.join("\n"))) }
}

/// Returns the files `cases/*.json` of the policy directories, hidden ones excepted, in their order.
fn case_files(config: &Config) -> Vec<PathBuf> {
    let is_case = |path: &PathBuf| {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !is_hidden && path.extension().is_some_and(|extension| extension == "json")
    };
    let directories = config.policies.iter().map(|directory| directory.join("cases"));
    let entries = directories.filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_case).collect();
    files.sort();
    files
}
