//! What the checks of the policies find: findings, coverage, surviving mutants, proofs, and changes since a base.

use super::{LongPart, ReportArgs};
use crate::analysis::analyze::{Usage, UsageWindow, analyze, read_log, usage_findings};
use crate::analysis::diff::{PolicyDiff, PolicyVersion, diff};
use crate::analysis::report::{self, ClaimsPart, FindingsPart, Section};
use crate::analysis::{
    self, Coverage, Finding, Mutants, PolicySource, ProofRecord, ProveOptions, Solver, SolverCommand,
};
use crate::authz::cases::{ParsedEntities, PolicyTest, PreparedTest};
use crate::authz::{Bundle, Engine, Snapshot};
use crate::cli::policy::progress::Progress;
use crate::cli::policy::replay::read_source;
use crate::cli::policy::{check, test};
use crate::cli::{Failure, block_on};
use crate::config::Config;
use crate::server::{check_policies, policy_sources, read_policies};
use std::cell::RefCell;
use std::sync::Arc;

/// The number of days in which something has to be used, as by default in `policy analyze`.
const USAGE_DAYS: u32 = 90;

/// The findings of `policy check`, and of `policy analyze` if the solver is installed.
///
/// # Errors
/// The policies or the files of the command cannot be read.
pub(super) fn findings(
    config: &Config,
    bundle: &Bundle,
    arguments: &ReportArgs,
) -> Result<FindingsPart, Failure> {
    let checked = check_policies(config);
    let source = |path: &str| checked.snapshot.as_ref()?.text(path).map(str::to_owned);
    let mut findings: Vec<Finding> =
        checked.diagnostics.iter().map(|diagnostic| check::finding(diagnostic, source)).collect();
    let mut remarks = Vec::new();
    if !arguments.logs.is_empty() {
        let mut usage = Usage::default();
        read_log(&arguments.logs, |entry| usage.add(entry)).map_err(Failure::failed)?;
        let window = UsageWindow { days: USAGE_DAYS };
        findings.extend(usage_findings(bundle, &usage, window));
        remarks.extend(usage.remarks(window));
    }
    let not_analyzed = "Whether policies are without effect was not analyzed";
    if arguments.is_without(LongPart::Proof) {
        remarks.push(format!("{not_analyzed}: the report was made with --without proof."));
        return Ok(FindingsPart { findings, remarks });
    }
    match SolverCommand::find() {
        Err(error) => remarks.push(format!("{not_analyzed}: {error}.")),
        Ok(command) => {
            let progress = Progress::new("analyzing");
            let on_progress = |done, total| progress.set(done, total);
            let analysis = block_on(async { Ok(analyze(bundle, Solver::new(command), on_progress).await) })?;
            findings.extend(analysis.findings);
            remarks.extend(analysis.undecided.iter().map(|reason| format!("Undecided: {reason}")));
        }
    }
    Ok(FindingsPart { findings, remarks })
}

/// What the policy tests decide, and what they do not notice.
pub(super) struct TestStrength {
    pub(super) coverage: Section<Coverage>,
    pub(super) mutants: Section<Mutants>,
}

/// Measures the policy tests.
///
/// # Errors
/// The policies or the files of the command cannot be read.
pub(super) fn test_strength(
    bundle: &Bundle,
    files: &[(String, Vec<PolicyTest>)],
    arguments: &ReportArgs,
) -> Result<TestStrength, Failure> {
    let mut parsed = ParsedEntities::default();
    let all = files.iter().flat_map(|(_, tests)| tests);
    let number = all.clone().count();
    let passing = all.filter_map(|test| {
        let prepared = test.prepare(bundle.schema(), &mut parsed).ok()?;
        prepared.check(bundle.policy_set()).ok()?;
        Some(prepared)
    });
    let prepared: Vec<PreparedTest<'_>> = passing.collect();
    if prepared.is_empty() {
        let reason = "There is no policy test that passes.".to_owned();
        return Ok(TestStrength { coverage: Err(reason.clone()), mutants: Err(reason) });
    }
    let mutants = if prepared.len() < number {
        Err("Changes of the policies were not tried, because policy tests fail.".to_owned())
    } else if arguments.is_without(LongPart::Mutants) {
        Err("Changes of the policies were not tried: the report was made with --without mutants.".to_owned())
    } else {
        Ok(test::find_mutants(bundle, &prepared)?)
    };
    Ok(TestStrength { coverage: Ok(Coverage::measure(bundle, &prepared)), mutants })
}

/// The claims with their proofs: proven now, or recorded in `PROOF.json` for this version.
///
/// # Errors
/// The solver cannot be started, or the command was interrupted.
pub(super) fn claims(
    config: &Config,
    bundle: &Bundle,
    arguments: &ReportArgs,
) -> Result<ClaimsPart, Failure> {
    let recorded = |reason: String| match ProofRecord::find(&config.policies, bundle.version()) {
        Ok(Some(record)) => report::recorded_proof_part(bundle, &record),
        Ok(None) => ClaimsPart {
            claims: report::claim_entries(bundle),
            proof: Err(format!("{reason}, and no proof of this version is recorded.")),
        },
        Err(error) => {
            ClaimsPart { claims: report::claim_entries(bundle), proof: Err(format!("{reason}: {error}")) }
        }
    };
    if arguments.is_without(LongPart::Proof) {
        return Ok(recorded(
            "The claims were not proven, because the report was made with --without proof".to_owned(),
        ));
    }
    let solver = match SolverCommand::find() {
        Ok(solver) => solver,
        Err(error) => return Ok(recorded(format!("The claims were not proven: {error}"))),
    };
    let proven = read_policies(config).map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let progress = Progress::new("proving");
    let proof = block_on(async {
        let on_progress = |done, total| progress.set(done, total);
        let options = ProveOptions { claims: Vec::new(), evidence: None };
        analysis::prove(Arc::new(proven), &solver, options, on_progress).await.map_err(Failure::failed)
    })?;
    drop(progress);
    Ok(report::proof_part(bundle, &proof))
}

/// The changes since the base.
///
/// # Errors
/// The base cannot be read, or the comparison fails.
pub(super) fn changes(
    config: &Config,
    engine: &Engine,
    base: Option<&PolicySource>,
) -> Result<Section<PolicyDiff>, Failure> {
    let Some(base) = base else {
        let reason =
            "There is no base to compare with. Name a directory, git:REVISION or version:HASH with --base.";
        return Ok(Err(reason.to_owned()));
    };
    let (old_files, old_engine) = read_source(config, base)?;
    let new_files = Snapshot::read(&policy_sources(config));
    let new_files = new_files.map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let name = base.to_string();
    let old = PolicyVersion { source: &name, files: &old_files, engine: &old_engine };
    let new = PolicyVersion { source: "the policy files", files: &new_files, engine };
    let progress = RefCell::new(Progress::new("comparing"));
    let on_progress = |done, total| progress.borrow_mut().set(done, total);
    Ok(Ok(block_on(async { Ok(diff(old, new, SolverCommand::find(), on_progress).await) })?))
}
