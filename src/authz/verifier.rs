//! Continuous verification: a sample of the engine's decisions is decided again by Cedar's own authorizer, in the background.
//!
//! A difference means that an optimization of the engine is wrong: a cached decision under a key that does not identify its
//! question, policies that were left out, an entity that was not loaded, or a context field that was not passed. Of the rows
//! that a query selects by policies (`rows`), it means that the query is not what the policies say.

mod rows;

use super::bundle::Bundle;
use super::decision_context::DecisionContext;
use super::entities::Principal;
use super::reference::{Answer, Question, Reference};
use super::{AuthzDecision, ResourceEntity, short_version};
use crate::types::{Id, random_u128, thread_index};
pub use rows::RowVerification;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The maximum number of decisions that wait for their verification. Further ones are not verified, but counted.
const QUEUE_LENGTH: usize = 1_000;

/// The maximum number of differences that wait for their audit entry. Further ones are logged and counted only.
const MAX_DIFFERENCES: usize = 100;

/// The maximum number of concurrent queries that load rows to verify. Further rows are not verified, but counted.
const MAX_LOADS: usize = 2;

/// The number of countdowns. With more threads, several share one.
const SHARDS: usize = 16;

/// How many times longer than a verification the pause after it is at most, so that the thread uses a tenth of a processor even
/// where thousands of entities make each verification slow.
const MAX_PAUSE_FACTOR: u32 = 9;

/// A decision on which the engine and Cedar differ.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The policy version.
    pub version: String,
    /// The name of the action; none if it is not in the schema, since it is then arbitrary client input.
    pub action: Option<String>,
    /// The type of the principal, and its id if it is that of a stored resource.
    pub principal: (String, Option<Id>),
    /// The type of the resource, and its id if it is that of a stored resource.
    pub resource: (String, Option<Id>),
    /// What the engine decided.
    pub engine: EngineAnswer,
    /// What Cedar decides.
    pub cedar: Answer,
}

/// What the engine decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAnswer {
    /// The answer of a decision.
    Decision(Answer),
    /// An allow, because a query selected the row by the policies. It does not say which policies determine that.
    SelectedRow,
}

impl fmt::Display for EngineAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decision(answer) => answer.fmt(f),
            Self::SelectedRow => f.write_str("allow (selected by a query)"),
        }
    }
}

/// The number of verifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerificationCounts {
    /// Decisions that were decided again.
    pub verified: u64,
    /// Those of them on which the engine and Cedar differ.
    pub differences: u64,
    /// Decisions of the sample that were not verified, because the queue was full.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    verified: AtomicU64,
    differences: AtomicU64,
    dropped: AtomicU64,
}

/// The resource of a decision.
#[derive(Debug)]
pub(super) enum SampleResource {
    /// An entity.
    Entity(ResourceEntity),
    /// A resource that is missing or inaccessible, by type and id.
    Missing(String, String),
}

/// How the engine decided.
#[derive(Debug)]
pub(super) enum Decided {
    /// By an evaluation, or from the cache.
    Decision(Arc<AuthzDecision>),
    /// By a query of the rows on which the action is allowed.
    SelectedRow,
    /// By the query of a list, of the rows that no policy forbids.
    ListedRow,
}

/// A decision with everything that it was made from.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) reference: Arc<Reference>,
    pub(super) question: Arc<Question>,
    pub(super) resource: SampleResource,
    pub(super) decided: Decided,
}

impl Sample {
    /// Decides again. None if Cedar gives the same answer.
    fn verify(&self) -> Option<Difference> {
        let cedar = match (&self.resource, &self.decided) {
            (SampleResource::Entity(row), Decided::ListedRow) => {
                self.reference.decide_listed_row(&self.question, row)
            }
            (SampleResource::Entity(resource), _) => self.reference.decide(&self.question, resource),
            (SampleResource::Missing(kind, id), _) => self.reference.decide_missing(&self.question, kind, id),
        };
        let (engine, is_same) = match &self.decided {
            Decided::Decision(decision) => {
                let engine = Answer::from(&**decision);
                let is_same = engine == cedar;
                (EngineAnswer::Decision(engine), is_same)
            }
            Decided::SelectedRow | Decided::ListedRow => (EngineAnswer::SelectedRow, cedar.allowed),
        };
        if is_same {
            return None;
        }
        let named = |(kind, id): (&str, &str)| (kind.to_owned(), id.parse().ok());
        Some(Difference {
            version: self.reference.version().to_owned(),
            action: Some(self.question.action.clone()).filter(|name| self.reference.has_action(name)),
            principal: named(self.question.principal.uid_parts()),
            resource: match &self.resource {
                SampleResource::Entity(resource) => named(resource.data().uid_parts()),
                SampleResource::Missing(kind, id) => named((kind, id)),
            },
            engine,
            cedar,
        })
    }
}

/// The verification of the decisions of one engine.
#[derive(Debug)]
pub(super) struct Verification {
    reference: Arc<Reference>,
    /// None if no decision is verified.
    pub(super) verifier: Option<Arc<Verifier>>,
}

impl Verification {
    /// The verification of decisions by the policies of a bundle, which is off.
    pub(super) fn new(bundle: &Arc<Bundle>) -> Self {
        Self { reference: Arc::new(Reference::new(Arc::clone(bundle))), verifier: None }
    }

    /// Has a decision verified if it is one of the sample.
    pub(super) fn verify(
        &self,
        (principal, action, context): (&Principal, &str, &DecisionContext),
        resource: impl FnOnce() -> SampleResource,
        decision: &Arc<AuthzDecision>,
    ) {
        if let Some(verifier) = self.verifier.as_ref().filter(|verifier| verifier.is_due()) {
            verifier.submit(Sample {
                reference: Arc::clone(&self.reference),
                question: Arc::new(Question::new(principal, action, context)),
                resource: resource(),
                decided: Decided::Decision(Arc::clone(decision)),
            });
        }
    }
}

/// The number of decisions until the next one of the sample, for some threads. Aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Countdown(AtomicU64);

/// Takes a sample of the decisions, and verifies it on a thread of its own, which ends with the last reference to the verifier.
#[derive(Debug)]
pub struct Verifier {
    /// One decision in this many is verified.
    every: u64,
    countdowns: [Countdown; SHARDS],
    samples: SyncSender<Sample>,
    counters: Arc<Counters>,
    differences: Mutex<Option<mpsc::Receiver<Difference>>>,
    loads: Arc<Semaphore>,
}

impl Verifier {
    /// Starts the verification of one decision in `every`; none if it is 0, or if the thread cannot be started.
    pub(super) fn start(every: u64) -> Option<Arc<Self>> {
        if every == 0 {
            return None;
        }
        let (verifier, queue, differences) = Self::new(every);
        let counters = Arc::clone(&verifier.counters);
        let thread = std::thread::Builder::new().name("verifier".into());
        // Without a pause if every decision is to be verified.
        let pause_factor = u32::try_from(every - 1).unwrap_or(u32::MAX).min(MAX_PAUSE_FACTOR);
        match thread.spawn(move || verify_all(&queue, &counters, &differences, pause_factor)) {
            Ok(_) => Some(Arc::new(verifier)),
            Err(error) => {
                tracing::error!(%error, "cannot start the verification of decisions");
                None
            }
        }
    }

    /// A verifier with the queue of its sample, and where the differences go.
    fn new(every: u64) -> (Self, Receiver<Sample>, mpsc::Sender<Difference>) {
        let (samples, queue) = sync_channel(QUEUE_LENGTH);
        let (sender, differences) = mpsc::channel(MAX_DIFFERENCES);
        let countdowns = std::array::from_fn(|_| Countdown(AtomicU64::new(random_gap(every))));
        let differences = Mutex::new(Some(differences));
        let loads = Arc::new(Semaphore::new(MAX_LOADS));
        (Self { every, countdowns, samples, counters: Arc::default(), differences, loads }, queue, sender)
    }

    /// Whether the current decision is one of the sample.
    ///
    /// The gaps are random, since requests that make several decisions each would otherwise have the same one verified every
    /// time.
    pub(super) fn is_due(&self) -> bool {
        let Some(Countdown(left)) = self.countdowns.get(thread_index() % SHARDS) else { return false };
        let remaining = left.load(Ordering::Relaxed);
        if remaining > 1 {
            left.store(remaining - 1, Ordering::Relaxed);
            return false;
        }
        left.store(random_gap(self.every), Ordering::Relaxed);
        true
    }

    /// Queues a decision for verification, unless the queue is full.
    pub(super) fn submit(&self, sample: Sample) {
        if self.samples.try_send(sample).is_err() {
            self.count_dropped(1);
        }
    }

    /// Allows to load rows of the sample; none if as many queries as may be do so already.
    fn begin_load(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.loads).try_acquire_owned().ok()
    }

    /// Counts decisions of the sample that are not verified.
    fn count_dropped(&self, count: u64) {
        self.counters.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// The number of verifications.
    pub fn counts(&self) -> VerificationCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        VerificationCounts {
            verified: read(&self.counters.verified),
            differences: read(&self.counters.differences),
            dropped: read(&self.counters.dropped),
        }
    }

    /// The differences as they are found, for one receiver. None if it was taken before.
    pub fn take_differences(&self) -> Option<mpsc::Receiver<Difference>> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A random number of decisions, on average `every`.
fn random_gap(every: u64) -> u64 {
    let range = u128::from(every).saturating_mul(2).saturating_sub(1).max(1);
    u64::try_from(random_u128() % range).unwrap_or_default().saturating_add(1)
}

/// Verifies the decisions of the queue until no more can come.
fn verify_all(
    queue: &Receiver<Sample>,
    counters: &Counters,
    differences: &mpsc::Sender<Difference>,
    pause_factor: u32,
) {
    while let Ok(sample) = queue.recv() {
        let start = Instant::now();
        if let Some(difference) = sample.verify() {
            counters.differences.fetch_add(1, Ordering::Release);
            log_difference(&difference);
            let _ = differences.try_send(difference);
        }
        counters.verified.fetch_add(1, Ordering::Release);
        std::thread::sleep(start.elapsed().saturating_mul(pause_factor));
    }
}

fn log_difference(difference: &Difference) {
    let named = |(kind, id): &(String, Option<Id>)| match id {
        Some(id) => format!("{kind} {id}"),
        None => kind.clone(),
    };
    tracing::error!(
        action = difference.action.as_deref().unwrap_or("unknown"),
        principal = named(&difference.principal),
        resource = named(&difference.resource),
        engine = %difference.engine,
        cedar = %difference.cedar,
        version = short_version(&difference.version),
        "the engine and Cedar's authorizer decide differently"
    );
}

#[cfg(test)]
mod tests;
