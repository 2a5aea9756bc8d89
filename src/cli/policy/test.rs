//! `cedargate policy test`: runs policy tests, and measures what they notice.

use crate::analysis::{Coverage, TestOutcome, TestSuite, coverage_text, junit, lcov};
use crate::authz::cases::{ParsedEntities, PolicyTest, PreparedTest};
use crate::authz::{Bundle, cases};
use crate::cli::{CommandResult, Failure, print_line};
use crate::config::Config;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The arguments of `policy test`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TestArgs {
    /// Files with tests [default: cases/*.json in the policy directories]
    files: Vec<PathBuf>,
    /// Report which parts of the policies no test decides
    #[arg(long)]
    coverage: bool,
    /// Write the coverage to this file, in the LCOV format
    #[arg(long, value_name = "FILE")]
    lcov: Option<PathBuf>,
    /// Fail with exit code 3 if fewer percent of the parts are covered
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    fail_under: Option<u8>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = TestFormat::Text)]
    format: TestFormat,
}

/// The format of the report of `policy test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TestFormat {
    Text,
    Json,
    Junit,
}

/// A policy test and its outcome.
struct TestRun<'a> {
    test: &'a PolicyTest,
    outcome: Result<PreparedTest<'a>, String>,
    duration: Duration,
}

/// Runs the policy tests of these files, or of the policy directories if there are none.
pub(super) fn run(config: &Config, bundle: &Bundle, arguments: TestArgs) -> CommandResult {
    let is_measured = arguments.coverage || arguments.fail_under.is_some();
    if is_measured && arguments.format == TestFormat::Junit {
        return Err(Failure::failed("JUnit has no coverage: use --format text or json, or --lcov FILE"));
    }
    let files = if arguments.files.is_empty() { case_files(config) } else { arguments.files };
    if files.is_empty() {
        return Err(Failure::failed("no tests: no policy directory has cases/*.json"));
    }
    let tests = read(&files)?;
    let runs = run_tests(bundle, &tests);
    let coverage = (is_measured || arguments.lcov.is_some()).then(|| measure(bundle, &runs));
    if let (Some(file), Some(coverage)) = (&arguments.lcov, &coverage) {
        write_file(file, &lcov(coverage))?;
    }
    let coverage = coverage.filter(|_| is_measured);
    let failures = failures(&runs);
    match arguments.format {
        TestFormat::Text => {
            let passed = runs.iter().map(|(_, runs)| runs.len()).sum::<usize>() - failures.len();
            print_line(format_args!("{passed} passed, {} failed", failures.len()))?;
            if let Some(coverage) = &coverage {
                print_line(format_args!("\n{}", coverage_text(coverage).trim_end()))?;
            }
        }
        TestFormat::Json => print_line(format_args!("{:#}", json_report(&runs, coverage.as_ref())))?,
        TestFormat::Junit => print_line(junit(&suites(&runs)).trim_end())?,
    }
    if !failures.is_empty() {
        return Err(match arguments.format {
            TestFormat::Text => Failure::CheckFailed(failures.join("\n")),
            TestFormat::Json | TestFormat::Junit => Failure::Found,
        });
    }
    match (&coverage, arguments.fail_under) {
        (Some(coverage), Some(minimum)) if coverage.percent() < usize::from(minimum) => {
            let message = format!("{} % of the parts are covered, less than {minimum} %", coverage.percent());
            Err(Failure::CheckFailed(message))
        }
        _ => Ok(()),
    }
}

/// The tests of each file.
fn read(files: &[PathBuf]) -> Result<Vec<(&Path, Vec<PolicyTest>)>, Failure> {
    let read = |file: &PathBuf| cases::read(file).map_err(|error| format!("{}: {error}", file.display()));
    let tests = files.iter().map(|file| Ok((file.as_path(), read(file)?)));
    tests.collect::<Result<Vec<_>, String>>().map_err(Failure::Failed)
}

fn run_tests<'a>(
    bundle: &Bundle,
    tests: &'a [(&'a Path, Vec<PolicyTest>)],
) -> Vec<(&'a Path, Vec<TestRun<'a>>)> {
    let mut parsed = ParsedEntities::default();
    let mut run_test = |test: &'a PolicyTest| {
        let start = Instant::now();
        let outcome = test.prepare(bundle.schema(), &mut parsed).and_then(|prepared| {
            prepared.check(bundle.policy_set())?;
            Ok(prepared)
        });
        TestRun { test, outcome, duration: start.elapsed() }
    };
    let run_file =
        |(file, tests): &'a (&'a Path, Vec<PolicyTest>)| (*file, tests.iter().map(&mut run_test).collect());
    tests.iter().map(run_file).collect()
}

/// A line for each failing test.
fn failures(runs: &[(&Path, Vec<TestRun<'_>>)]) -> Vec<String> {
    let all = runs.iter().flat_map(|(file, runs)| runs.iter().map(move |run| (file, run)));
    let failed = all.filter_map(|(file, run)| {
        let message = run.outcome.as_ref().err()?;
        Some(format!("{}: {}: {message}", file.display(), run.test.name))
    });
    failed.collect()
}

/// The coverage by the tests that pass: a failing one does not expect what it sees.
fn measure(bundle: &Bundle, runs: &[(&Path, Vec<TestRun<'_>>)]) -> Coverage {
    let passed = runs.iter().flat_map(|(_, runs)| runs).filter_map(|run| run.outcome.as_ref().ok());
    Coverage::measure(bundle, &passed.cloned().collect::<Vec<_>>())
}

/// The results for JUnit, with one suite a file.
fn suites(runs: &[(&Path, Vec<TestRun<'_>>)]) -> Vec<TestSuite> {
    let test = |run: &TestRun<'_>| {
        let outcome = match &run.outcome {
            Ok(_) => TestOutcome::Passed,
            Err(message) => TestOutcome::Failed(message.clone()),
        };
        (run.test.name.clone(), outcome, run.duration)
    };
    let suite = |(file, runs): &(&Path, Vec<TestRun<'_>>)| TestSuite {
        name: file.display().to_string(),
        tests: runs.iter().map(test).collect(),
    };
    runs.iter().map(suite).collect()
}

fn json_report(runs: &[(&Path, Vec<TestRun<'_>>)], coverage: Option<&Coverage>) -> Value {
    let all = runs.iter().flat_map(|(file, runs)| runs.iter().map(move |run| (file, run)));
    let failures: Vec<Value> = all
        .filter_map(|(file, run)| {
            let message = run.outcome.as_ref().err()?;
            Some(json!({"file": file.display().to_string(), "name": run.test.name, "message": message}))
        })
        .collect();
    let total: usize = runs.iter().map(|(_, runs)| runs.len()).sum();
    let mut report =
        json!({"tests": {"passed": total - failures.len(), "failed": failures.len(), "failures": failures}});
    if let Some(coverage) = coverage {
        report["coverage"] = json!(coverage);
    }
    report
}

fn write_file(file: &Path, text: &str) -> CommandResult {
    std::fs::write(file, text).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
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
