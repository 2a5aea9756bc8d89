//! Policy tooling: what can be said about policies without asking the running service. No SQL, no HTTP.
//!
//! The commands of `cedargate policy` print what this module finds. Some of it is proven with a solver ([`Solver`]), for all
//! requests that the schema allows; the server works without one.

pub mod access;
pub mod analyze;
mod assumptions;
mod counterexample;
mod coverage;
mod coverage_report;
pub mod diff;
mod excerpt;
mod failures;
mod finding;
mod format;
mod junit;
mod mutants;
mod mutants_report;
mod mutation;
mod parentheses;
mod policy_source;
mod proof_record;
mod prove;
pub mod replay;
pub mod report;
mod sarif;
mod solver;

pub use assumptions::{Assumptions, with_effect};
pub use counterexample::{Outcome, Scenario, Simplifier};
pub use coverage::{Coverage, CoveredPart, PartCoverage, PolicyCoverage};
pub use coverage_report::{coverage_text, lcov};
pub use excerpt::excerpt;
pub use finding::{Finding, Level, Region};
pub use format::{FormatError, format_policies};
pub use junit::{TestOutcome, TestSuite, junit};
pub use mutants::{CONFIRM, Mutant, MutantStatus, Mutants};
pub use mutants_report::{mutants_suite, mutants_text};
pub use mutation::MutationOperator;
pub use policy_source::{PolicySource, PolicySourceError};
pub use proof_record::{ClaimResult, ProofRecord, ProofRecordError, RecordedClaim};
pub use prove::{
    BUILT_IN_CLAIMS, CheckedClaim, ClaimKind, Proof, ProveError, ProveOptions, Verdict, Violation, prove,
};
pub use sarif::sarif;
pub use solver::{Solver, SolverCommand, SolverMissing, Undecided};
