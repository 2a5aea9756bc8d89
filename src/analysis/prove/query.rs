//! Queries: questions to the solver, and their texts as evidence.

use crate::analysis::solver::{Solver, SolverCommand, Undecided};
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::WriterSolver;
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, ResetMode, WellFormedAsserts,
    always_denies_asserts, disjoint_asserts, implies_asserts, never_errors_asserts,
};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// A question about all requests of one environment. Its answer is a request that contradicts it, or that there is none.
#[derive(Debug)]
pub(super) enum Query {
    /// No request is allowed by both sets.
    Disjoint(Arc<CompiledPolicySet>, CompiledPolicySet),
    /// Every request that the first set allows is allowed by the second.
    Implies(CompiledPolicySet, Arc<CompiledPolicySet>),
    /// The set allows no request.
    AlwaysDenies(CompiledPolicySet),
    /// The policy can be evaluated for every request.
    NeverErrors(CompiledPolicy),
}

impl Query {
    fn asserts(&self) -> WellFormedAsserts<'_> {
        match self {
            Self::Disjoint(one, other) => disjoint_asserts(one, other),
            Self::Implies(narrow, wide) => implies_asserts(narrow, wide),
            Self::AlwaysDenies(policies) => always_denies_asserts(policies),
            Self::NeverErrors(policy) => never_errors_asserts(policy),
        }
    }
}

/// What a query is about, for the name and the heading of its file.
#[derive(Debug)]
pub(super) struct QueryLabel<'a> {
    /// The claim.
    pub(super) claim: &'a str,
    /// The number of the query; no two queries have the same.
    pub(super) number: (usize, usize),
    /// The request environment, and other details.
    pub(super) subject: String,
    /// The answer that proves the claim: `unsat` or `sat`.
    pub(super) proving_answer: &'static str,
}

/// Asks queries, and writes them to files.
#[derive(Debug)]
pub(super) struct Asker {
    solver: Solver,
    evidence: Option<PathBuf>,
}

impl Asker {
    pub(super) fn new(command: SolverCommand, evidence: Option<PathBuf>) -> Self {
        Self { solver: Solver::new(command), evidence }
    }

    /// A request that contradicts the query; none if there is none.
    ///
    /// # Errors
    /// The solver gives no answer, or the query cannot be written.
    pub(super) async fn ask(
        &mut self,
        label: &QueryLabel<'_>,
        query: &Query,
    ) -> Result<Option<Env>, Undecided> {
        let asserts = query.asserts();
        if let Some(directory) = &self.evidence {
            let text = smtlib(label, &asserts).await?;
            let file = directory.join(label.file_name());
            std::fs::write(&file, text).map_err(|error| Undecided(format!("{}: {error}", file.display())))?;
        }
        self.solver.ask(async |compiler| compiler.check_sat(&asserts).await).await
    }
}

impl QueryLabel<'_> {
    /// A name without characters that a file system or a shell treats specially.
    fn file_name(&self) -> String {
        let plain = |text: &str| -> String {
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
            text.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).take(80).collect()
        };
        let (task, part) = self.number;
        format!("{task:04}.{part}-{}-{}.smt2", plain(self.claim), plain(&self.subject))
    }
}

/// The query as an SMT-LIB script that a solver reads on its own.
async fn smtlib(label: &QueryLabel<'_>, asserts: &WellFormedAsserts<'_>) -> Result<String, Undecided> {
    let failed = |error: &dyn std::fmt::Display| Undecided(format!("the query cannot be written: {error}"));
    let mut compiler = CedarSymCompiler::new(WriterSolver { w: Vec::new() })
        .map_err(|error| failed(&error))?
        .with_reset_mode(ResetMode::Comment);
    // The writer answers every query with "unknown". Other answers come from the translation, if all conditions are constants.
    let decided = match compiler.check_unsat(asserts).await {
        Ok(is_unsatisfiable) => Some(is_unsatisfiable),
        Err(Error::SolverUnknown) => None,
        Err(error) => return Err(failed(&error)),
    };
    let script = String::from_utf8(compiler.solver().w.clone()).map_err(|error| failed(&error))?;
    let comment = |text: &str| text.replace(['\n', '\r'], " ");
    let mut text = format!("; claim: {}\n; request: {}\n", comment(label.claim), comment(&label.subject));
    let _ = writeln!(text, "; the claim holds here if the answer is {}", label.proving_answer);
    // Some translations use operations on strings beyond the standard.
    text.push_str("(set-option :strings-exp true)\n");
    match decided {
        Some(is_unsatisfiable) => {
            let _ = write!(text, "(set-logic ALL)\n(assert {})\n(check-sat)\n", !is_unsatisfiable);
        }
        None => text.push_str(&script),
    }
    Ok(text)
}
