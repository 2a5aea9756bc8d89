//! `cedargate policy test`: runs policy tests, and measures what they notice.

use super::invalid;
use super::progress::Progress;
use crate::analysis::{
    CONFIRM, Coverage, MutantStatus, Mutants, Solver, SolverCommand, TestOutcome, TestSuite, coverage_text,
    junit, lcov, mutants_suite, mutants_text,
};
use crate::authz::cases::{ParsedEntities, PolicyTest, PreparedTest};
use crate::authz::{Bundle, BundleError, cases};
use crate::cli::{CommandResult, Failure, block_on, print_line};
use crate::config::Config;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
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
    /// Change every policy in small ways, and report the changes that no test notices; exit code 3 if there are any.
    /// Proves with cvc5 that the others decide all requests like the original; exit code 4 if that is not possible
    #[arg(long)]
    mutants: bool,
    /// Write the missing tests to this new file, to be confirmed by a person; not directly in a policy directory
    #[arg(long, value_name = "FILE", requires = "mutants")]
    write_cases: Option<PathBuf>,
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

impl TestArgs {
    /// Reports invalid policies in the format of the report.
    pub(super) fn report_invalid(&self, error: &BundleError) -> Failure {
        match self.format {
            TestFormat::Text => invalid::failure(error),
            TestFormat::Json => invalid::report_json(error),
            TestFormat::Junit => invalid::report_junit(error),
        }
    }
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
    if let Some(file) = &arguments.write_cases {
        check_new_file(config, file)?;
    }
    let files = if arguments.files.is_empty() { case_files(config) } else { arguments.files.clone() };
    if files.is_empty() {
        return Err(Failure::failed("no tests: no policy directory has cases/*.json"));
    }
    let tests = read(&files)?;
    let runs = run_tests(bundle, &tests);
    let failures = failures(&runs);
    let passed: Vec<PreparedTest<'_>> =
        runs.iter().flat_map(|(_, runs)| runs).filter_map(|run| run.outcome.as_ref().ok()).cloned().collect();
    // By the tests that pass: a failing one does not expect what it sees.
    let coverage = (is_measured || arguments.lcov.is_some()).then(|| Coverage::measure(bundle, &passed));
    if let (Some(file), Some(coverage)) = (&arguments.lcov, &coverage) {
        std::fs::write(file, lcov(coverage)).map_err(|error| file_error(file, &error))?;
    }
    let coverage = coverage.filter(|_| is_measured);
    let mutants =
        (arguments.mutants && failures.is_empty()).then(|| find_mutants(bundle, &passed)).transpose()?;
    match arguments.format {
        TestFormat::Text => print_text(passed.len(), failures.len(), coverage.as_ref(), mutants.as_ref())?,
        TestFormat::Json => {
            print_line(format_args!("{:#}", json_report(&runs, coverage.as_ref(), mutants.as_ref())))?;
        }
        TestFormat::Junit => {
            let mut suites = suites(&runs);
            suites.extend(mutants.as_ref().map(mutants_suite));
            print_line(junit(&suites).trim_end())?;
        }
    }
    if let (Some(file), Some(mutants)) = (&arguments.write_cases, &mutants) {
        write_missing_tests(file, mutants)?;
    }
    verdict(&arguments, &failures, coverage.as_ref(), mutants.as_ref())
}

/// The result of the command, after the report was printed.
fn verdict(
    arguments: &TestArgs,
    failures: &[String],
    coverage: Option<&Coverage>,
    mutants: Option<&Mutants>,
) -> CommandResult {
    if !failures.is_empty() {
        let mut messages = failures.to_vec();
        if arguments.mutants {
            messages.push("mutants were not tried, because tests fail".to_owned());
        }
        return Err(match arguments.format {
            TestFormat::Text => Failure::CheckFailed(messages.join("\n")),
            TestFormat::Json | TestFormat::Junit => Failure::Found,
        });
    }
    if let (Some(coverage), Some(minimum)) = (coverage, arguments.fail_under)
        && coverage.percent() < usize::from(minimum)
    {
        let message = format!("{} % of the parts are covered, less than {minimum} %", coverage.percent());
        return Err(Failure::CheckFailed(message));
    }
    let Some(mutants) = mutants else { return Ok(()) };
    if mutants.surviving().next().is_some() {
        return Err(Failure::Found);
    }
    let undecided = mutants.mutants.iter().find_map(|mutant| match &mutant.status {
        MutantStatus::Undecided { reason } => Some(reason),
        _ => None,
    });
    match undecided {
        Some(reason) => {
            let count = mutants.undecided();
            Err(Failure::Undecided(format!("{count} mutants that no test notices are undecided: {reason}")))
        }
        None => Ok(()),
    }
}

/// Finds the mutants, and decides with the solver those that no test notices.
///
/// # Errors
/// The solver is missing where it is needed.
pub(super) fn find_mutants(bundle: &Bundle, tests: &[PreparedTest<'_>]) -> Result<Mutants, Failure> {
    let progress = Progress::new("changing policies");
    let mut mutants = Mutants::find(bundle, tests, |done, total| progress.set(done, total));
    drop(progress);
    if mutants.undecided() == 0 {
        return Ok(mutants);
    }
    match SolverCommand::find() {
        Ok(command) => {
            let progress = Progress::new("proving");
            block_on(async {
                let mut solver = Solver::new(command);
                mutants.decide(bundle, &mut solver, |done, total| progress.set(done, total)).await;
                Ok(())
            })?;
        }
        Err(error) => mutants.leave_undecided(&error.to_string()),
    }
    Ok(mutants)
}

/// Rejects a file that exists, and one that would be read as entity data of the policies.
fn check_new_file(config: &Config, file: &Path) -> CommandResult {
    let name = file.display();
    if file.exists() {
        return Err(Failure::failed(format!("{name} exists already; nothing was done")));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = directory.canonicalize().map_err(|error| file_error(directory, &error))?;
    let is_policy_directory =
        |policies: &PathBuf| policies.canonicalize().is_ok_and(|policies| policies == directory);
    if config.policies.iter().any(is_policy_directory) {
        let message = "would be read as entity data; name a file in another directory";
        return Err(Failure::failed(format!("{name} {message}")));
    }
    Ok(())
}

/// Writes the missing tests into a new file.
fn write_missing_tests(file: &Path, mutants: &Mutants) -> CommandResult {
    let tests = &mutants.missing_tests;
    let message = if tests.is_empty() {
        format!("no test is missing; {} was not written", file.display())
    } else {
        let text = cases::to_text(tests).map_err(Failure::Failed)?;
        let mut created = File::create_new(file).map_err(|error| file_error(file, &error))?;
        created.write_all(text.as_bytes()).map_err(|error| file_error(file, &error))?;
        format!(
            "wrote {} missing tests to {}: confirm that each decision is intended, and remove {CONFIRM:?} from its name",
            tests.len(),
            file.display()
        )
    };
    // The report is already on standard output.
    let _ = writeln!(std::io::stderr(), "{message}");
    Ok(())
}

fn print_text(
    passed: usize,
    failed: usize,
    coverage: Option<&Coverage>,
    mutants: Option<&Mutants>,
) -> CommandResult {
    print_line(format_args!("{passed} passed, {failed} failed"))?;
    let sections = [coverage.map(coverage_text), mutants.map(mutants_text)];
    sections.iter().flatten().try_for_each(|section| print_line(format_args!("\n{}", section.trim_end())))
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

fn json_report(
    runs: &[(&Path, Vec<TestRun<'_>>)],
    coverage: Option<&Coverage>,
    mutants: Option<&Mutants>,
) -> Value {
    let all = runs.iter().flat_map(|(file, runs)| runs.iter().map(move |run| (file, run)));
    let failures: Vec<Value> = all
        .filter_map(|(file, run)| {
            let message = run.outcome.as_ref().err()?;
            Some(json!({"file": file.display().to_string(), "name": run.test.name, "message": message}))
        })
        .collect();
    let total: usize = runs.iter().map(|(_, runs)| runs.len()).sum();
    let tests = json!({"passed": total - failures.len(), "failed": failures.len(), "failures": failures});
    let sections = [
        ("tests", Some(tests)),
        ("coverage", coverage.map(|coverage| json!(coverage))),
        ("mutants", mutants.map(mutants_json)),
    ];
    sections.into_iter().filter_map(|(name, section)| Some((name.to_owned(), section?))).collect()
}

fn mutants_json(mutants: &Mutants) -> Value {
    let (noticed, equivalent) = mutants.noticed_and_equivalent();
    json!({
        "noticed": noticed,
        "equivalent": equivalent,
        "surviving": mutants.surviving().count(),
        "undecided": mutants.undecided(),
        "invalid": mutants.invalid,
        "assumptions": mutants.assumptions,
        "mutants": mutants.mutants,
    })
}

fn file_error(file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", file.display()))
}

/// Returns the files `cases/*.json` of the policy directories, hidden ones excepted, in their order.
pub(super) fn case_files(config: &Config) -> Vec<PathBuf> {
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
