//! Mutants as text and as JUnit test results.

use super::mutants::{Mutant, MutantStatus, Mutants};
use super::{TestOutcome, TestSuite};
use std::fmt::Write;
use std::time::Duration;

impl Mutant {
    fn title(&self) -> String {
        let Self { file, line, policy, description, .. } = self;
        format!("{file}:{line}: {policy} {description}")
    }
}

/// The mutants that no test notices, with their changes, then the counts.
pub fn mutants_text(mutants: &Mutants) -> String {
    let mut text = String::new();
    for mutant in &mutants.mutants {
        match &mutant.status {
            MutantStatus::Noticed { .. } => {}
            MutantStatus::Equivalent => {
                let _ = writeln!(text, "{}: equivalent", mutant.title());
            }
            MutantStatus::Survived { missing_test } => {
                let _ = writeln!(text, "{}: survives", mutant.title());
                let _ = writeln!(text, "missing test: {missing_test}\n{}", mutant.diff);
            }
            MutantStatus::Undecided { reason } => {
                let _ = writeln!(text, "{}: undecided: {reason}\n{}", mutant.title(), mutant.diff);
            }
        }
    }
    let (noticed, equivalent) = mutants.noticed_and_equivalent();
    if equivalent > 0 && !mutants.assumptions.is_empty() {
        text.push_str("assumptions of the proofs, from the data files:\n");
        for assumption in &mutants.assumptions {
            let _ = writeln!(text, "  {assumption}");
        }
    }
    let _ = writeln!(
        text,
        "mutants: {}, of which {noticed} noticed, {equivalent} equivalent, {} surviving, {} undecided; {} invalid \
         changes not counted",
        mutants.mutants.len(),
        mutants.surviving().count(),
        mutants.undecided(),
        mutants.invalid,
    );
    text
}

/// The mutants as a suite of tests: a mutant that survives is a failure, an undecided one an error.
pub fn mutants_suite(mutants: &Mutants) -> TestSuite {
    let test = |mutant: &Mutant| {
        let outcome = match &mutant.status {
            MutantStatus::Noticed { .. } | MutantStatus::Equivalent => TestOutcome::Passed,
            MutantStatus::Survived { missing_test } => {
                TestOutcome::Failed(format!("no test notices the change; {missing_test}\n{}", mutant.diff))
            }
            MutantStatus::Undecided { reason } => TestOutcome::Errored(format!("{reason}\n{}", mutant.diff)),
        };
        (format!("{} {}", mutant.policy, mutant.description), outcome, Duration::ZERO)
    };
    TestSuite { name: "mutants".to_owned(), tests: mutants.mutants.iter().map(test).collect() }
}
