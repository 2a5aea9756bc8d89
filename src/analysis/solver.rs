//! The solver: an SMT solver (cvc5) that proves properties of policies for all requests, as a separate process.
//!
//! What the solver cannot decide is [`Undecided`], never a verdict. The process is limited in time per query, replaced after an
//! error, and ended with its owner.

use cedar_policy_symcc::CedarSymCompiler;
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::LocalSolver;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The maximum time of a query.
const QUERY_TIME_LIMIT: Duration = Duration::from_secs(20);

/// How much longer the process may take for an answer before it is ended.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// The solver is not installed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the solver cvc5 is needed and was not found; install it (Debian package cvc5), or set CVC5 to its path"
)]
pub struct SolverMissing;

/// The solver gave no answer: a limit was reached, or it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undecided(pub String);

/// The program of the solver.
#[derive(Debug, Clone)]
pub struct SolverCommand {
    program: PathBuf,
    version: String,
}

impl SolverCommand {
    /// Finds cvc5: the program that the environment variable `CVC5` names, else the first one in `PATH`.
    ///
    /// # Errors
    /// There is no such program, or it cannot be executed.
    pub fn find() -> Result<Self, SolverMissing> {
        let program =
            std::env::var_os("CVC5").filter(|path| !path.is_empty()).unwrap_or_else(|| "cvc5".into());
        let output = std::process::Command::new(&program).arg("--version").output();
        let output = output.ok().filter(|output| output.status.success()).ok_or(SolverMissing)?;
        let first_line = String::from_utf8_lossy(&output.stdout);
        let first_line = first_line.lines().next().unwrap_or_default();
        let version =
            first_line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = format!("cvc5 {}", version.unwrap_or("of an unknown version"));
        Ok(Self { program: program.into(), version })
    }

    /// The path or name of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The name and version of the solver, such as `cvc5 1.0.3`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// A solver that answers queries one after the other.
#[derive(Debug)]
pub struct Solver {
    command: SolverCommand,
    compiler: Option<CedarSymCompiler<LocalSolver>>,
    /// The time after which the process is ended if it has not answered.
    time_limit: Duration,
}

impl Solver {
    /// Prepares a solver. Its process starts with the first query.
    pub fn new(command: SolverCommand) -> Self {
        Self { command, compiler: None, time_limit: QUERY_TIME_LIMIT + GRACE_PERIOD }
    }

    /// Asks a query, such as `async |compiler| compiler.check_never_errors_opt(&policy).await`.
    ///
    /// # Errors
    /// The solver gives no answer within its limits, or fails. Its process has been replaced.
    pub async fn ask<T>(
        &mut self,
        query: impl AsyncFnOnce(&mut CedarSymCompiler<LocalSolver>) -> Result<T, Error>,
    ) -> Result<T, Undecided> {
        let mut compiler = match self.compiler.take() {
            Some(compiler) => compiler,
            None => self.start()?,
        };
        // The compiler is put back only after an answer: after an error its process is in an unknown state.
        match tokio::time::timeout(self.time_limit, query(&mut compiler)).await {
            Ok(Ok(answer)) => {
                self.compiler = Some(compiler);
                Ok(answer)
            }
            Ok(Err(error)) => Err(Undecided(error.to_string())),
            Err(_) => {
                let seconds = self.time_limit.as_secs_f64();
                Err(Undecided(format!("the solver gave no answer within {seconds} s, and was stopped")))
            }
        }
    }

    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, Undecided> {
        let mut command = Command::new(&self.command.program);
        // Without --strings-exp, cvc5 fails on the patterns of `like`.
        command.args(["--lang", "smt", "--strings-exp"]);
        command.arg(format!("--tlimit-per={}", QUERY_TIME_LIMIT.as_millis()));
        command.kill_on_drop(true);
        let undecided = |error: Error| Undecided(error.to_string());
        let process = LocalSolver::from_command(&mut command).map_err(|error| undecided(error.into()))?;
        CedarSymCompiler::new(process).map_err(undecided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_solver_that_hangs_is_stopped_after_the_time_that_the_reason_names() {
        // `cat` accepts the commands of a solver, and never answers a query.
        let command = SolverCommand { program: "cat".into(), version: "cat".to_owned() };
        let mut solver = Solver::new(command);
        assert_eq!(solver.time_limit, Duration::from_secs(25));
        solver.time_limit = Duration::from_millis(1);
        let undecided = solver.ask(async |_| std::future::pending::<Result<(), Error>>().await).await;
        let reason = "the solver gave no answer within 0.001 s, and was stopped";
        assert_eq!(undecided, Err(Undecided(reason.to_owned())));
        assert!(solver.compiler.is_none());
    }
}
