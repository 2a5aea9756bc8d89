//! `policy prove`: whether the claims about the policies hold for all requests.
//!
//! A claim is a policy in `claims/*.cedar` of a policy directory. It is no part of the evaluated policies.
//!
//! - A `forbid` claim is proven if and only if no request that it matches is allowed.
//! - A `permit` claim is proven if and only if every request that it matches is allowed.
//! - A claim that matches no request at all is broken: it says nothing.
//!
//! A request matches a claim if the claim's scope and conditions are true for it. All requests are examined that the schema
//! allows, with all entities that it allows, environment by environment (principal type, action and resource type), except
//! those that contradict the data files about an entity that a policy or a claim names ([`Assumptions`](super::Assumptions)).
//!
//! An environment that the scope of a claim selects, and in which its conditions are false by the types of the schema, is not
//! examined. It is reported as one in which the claim cannot apply.
//!
//! Three claims are built in: no policy can fail, every policy matches some request, and the cascade of scopes is monotone.
//!
//! A request that the solver finds is evaluated by Cedar's own authorizer before it is reported. What the solver cannot decide,
//! and what this module cannot translate exactly, is unknown, never proven.

mod cascade;
mod examples;
mod plan;
mod query;
mod report;
mod summary;
mod verdict;
mod worker;

pub use verdict::{CheckedClaim, ClaimKind, Proof, Verdict, Violation};

use super::solver::SolverCommand;
pub use crate::authz::BUILT_IN_CLAIMS;
use crate::authz::Bundle;
use plan::Plan;
use query::Asker;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use summary::checked_claims;
use tokio::sync::{mpsc, watch};
use worker::{TaskResult, Worker};

/// The maximum number of solver processes.
const MAX_SOLVERS: usize = 8;

/// What is to be proven, and how.
#[derive(Debug, Clone, Default)]
pub struct ProveOptions {
    /// The ids of the claims that are to be proven; all if empty.
    pub claims: Vec<String>,
    /// A directory to which every query is written.
    pub evidence: Option<PathBuf>,
}

/// Why nothing could be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// No claim has this id.
    #[error("there is no claim {0:?}")]
    UnknownClaim(String),
    /// A thread for a solver cannot be started.
    #[error("cannot start a thread for the solver: {0}")]
    Thread(#[from] std::io::Error),
}

/// Proves the claims of a bundle. Several solver processes work in parallel; they end when the future is dropped.
///
/// `on_progress` is called with the number of completed tasks and of all tasks.
///
/// # Errors
/// A claim of the options does not exist, or a thread for a solver cannot be started.
pub async fn prove(
    bundle: Arc<Bundle>,
    solver: &SolverCommand,
    options: ProveOptions,
    on_progress: impl Fn(usize, usize),
) -> Result<Proof, ProveError> {
    let started = Instant::now();
    let mut plan = Plan::new(bundle);
    if !options.claims.is_empty() {
        plan.select(&options.claims).map_err(ProveError::UnknownClaim)?;
    }
    let plan = Arc::new(plan);
    let (results, mut received) = mpsc::unbounded_channel();
    let workers = Workers::start(&plan, solver, options.evidence.as_deref(), &results)?;
    drop(results);
    let mut all: Vec<Option<TaskResult>> = plan.tasks.iter().map(|_| None).collect();
    let mut done = 0;
    while let Some((number, result)) = received.recv().await {
        if let Some(place) = all.get_mut(number) {
            *place = Some(result);
        }
        done += 1;
        on_progress(done, plan.tasks.len());
    }
    drop(workers);
    let claims = checked_claims(&plan, all);
    Ok(Proof {
        version: plan.bundle.version().to_owned(),
        solver: solver.version().to_owned(),
        claims,
        assumptions: plan.assumptions(),
        duration: started.elapsed(),
    })
}

/// Threads that work on the tasks. Dropping them ends them and their solver processes.
struct Workers {
    cancel: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

type Results = mpsc::UnboundedSender<(usize, TaskResult)>;

impl Workers {
    fn start(
        plan: &Arc<Plan>,
        solver: &SolverCommand,
        evidence: Option<&std::path::Path>,
        results: &Results,
    ) -> std::io::Result<Self> {
        let (cancel, _) = watch::channel(false);
        let mut workers = Self { cancel, threads: Vec::new() };
        let next = Arc::new(AtomicUsize::new(0));
        let count = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_SOLVERS);
        for _ in 0..count {
            let (plan, next, results) = (Arc::clone(plan), Arc::clone(&next), results.clone());
            let asker = Asker::new(solver.clone(), evidence.map(PathBuf::from));
            let mut cancelled = workers.cancel.subscribe();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                runtime.block_on(async {
                    let mut worker = Worker::new(&plan, asker);
                    tokio::select! {
                        () = work(&mut worker, &plan, &next, &results) => {}
                        _ = cancelled.wait_for(|is_cancelled| *is_cancelled) => {}
                    }
                });
            };
            workers.threads.push(std::thread::Builder::new().name("prove".to_owned()).spawn(work)?);
        }
        Ok(workers)
    }
}

/// Does tasks until there are no more.
async fn work(worker: &mut Worker<'_>, plan: &Plan, next: &AtomicUsize, results: &Results) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(task) = plan.tasks.get(number) else { return };
        let result = worker.execute(number, task).await;
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.cancel.send(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
