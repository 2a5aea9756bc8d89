//! The active policies, and how others take their place while the service runs. A candidate is read, checked and compiled
//! beside the active version, and replaces it at once. Which candidate may do so without a confirmation is decided by the
//! caller, who knows the database.

use super::candidate::{Candidate, Pending};
use super::snapshot::{ContentHash, Snapshot, content_hash};
use super::{BundleError, Engine, Losses, Sources};
use crate::config::{PolicyReload, PolicyTests};
use arc_swap::{ArcSwap, Guard};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The settings of a reload.
#[derive(Debug, Clone, Copy)]
pub struct ReloadRules {
    /// Which candidates need a confirmation.
    pub mode: PolicyReload,
    /// What a failing policy test does.
    pub tests: PolicyTests,
}

/// The active policies.
#[derive(Debug)]
pub struct Live {
    sources: Sources,
    rules: ReloadRules,
    current: ArcSwap<Engine>,
    waiting: Mutex<Waiting>,
    reloads: AtomicU64,
    failures: AtomicU64,
    is_recorded: AtomicBool,
    turn: Arc<tokio::sync::Mutex<Scans>>,
}

/// The candidate of the last reload that is not active.
#[derive(Debug, Default)]
struct Waiting {
    /// Why it cannot be used.
    failure: Option<BundleError>,
    /// That it needs a confirmation.
    pending: Option<Arc<Pending>>,
}

/// How many reloads there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloads {
    /// Those whose files could be used.
    pub reloads: u64,
    /// Those whose files could not.
    pub failures: u64,
}

/// Which content of the files was seen. Held for the duration of a reload, so that the newest content is considered last.
#[derive(Debug)]
pub struct Scans {
    last: ContentHash,
    considered: ContentHash,
}

impl Scans {
    /// Records the content that a scan found. True if the scan before it found the same and it has not been considered yet.
    fn is_settled(&mut self, found: ContentHash) -> bool {
        let is_stable = self.last == found;
        self.last = found;
        is_stable && self.considered != found
    }

    /// Records that the content that was read last was considered: it is not considered again until it changes.
    pub fn consider_last(&mut self) {
        self.considered = self.last;
    }
}

impl Live {
    /// Reads, checks and tests the policies for the first time.
    ///
    /// # Errors
    /// What is wrong with the files, or which of their tests fail.
    pub fn open(sources: Sources, rules: ReloadRules) -> Result<Self, BundleError> {
        let snapshot = Snapshot::read_stable(&sources)?;
        let Candidate { engine, hash } = Candidate::new(&snapshot, &sources.stored, rules.tests)?;
        Ok(Self {
            sources,
            rules,
            current: ArcSwap::from_pointee(engine),
            waiting: Mutex::default(),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_recorded: AtomicBool::new(false),
            turn: Arc::new(tokio::sync::Mutex::new(Scans { last: hash, considered: hash })),
        })
    }

    /// The settings of a reload.
    pub fn rules(&self) -> ReloadRules {
        self.rules
    }

    /// The engine of the active version. A request keeps the one that it began with.
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// The same for as long as a request takes: kept without a count that the threads share, unless a thread has many
    /// requests at once.
    pub fn in_force(&self) -> Guard<Arc<Engine>> {
        self.current.load()
    }

    /// Waits until no other reload is in progress.
    pub async fn begin_reload(&self) -> tokio::sync::OwnedMutexGuard<Scans> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Reads the files for a reload that was requested.
    pub fn read(&self, scans: &mut Scans) -> Result<Candidate, BundleError> {
        let read = Snapshot::read_stable(&self.sources);
        scans.last = content_hash(&read);
        self.prepare(read)
    }

    /// Reads the files for a periodic scan. Nothing while they are those that were considered last, and while two
    /// consecutive scans do not find the same content: files that are being copied are incomplete.
    pub fn scan(&self, scans: &mut Scans) -> Option<Result<Candidate, BundleError>> {
        let read = Snapshot::read(&self.sources);
        scans.is_settled(content_hash(&read)).then(|| self.prepare(read))
    }

    fn prepare(&self, read: Result<Snapshot, BundleError>) -> Result<Candidate, BundleError> {
        read.and_then(|snapshot| Candidate::new(&snapshot, &self.sources.stored, self.rules.tests))
    }

    /// What would be lost if this candidate became active.
    pub fn losses(&self, candidate: &Candidate) -> Losses {
        self.current.load().bundle().inventory().losses(candidate.bundle().inventory())
    }

    /// Whether a candidate with these losses becomes active only when its version is confirmed. `is_requested` is true if a
    /// caller of the API has requested the reload; a changed file, a signal and a start have not.
    pub fn needs_confirmation(&self, losses: &Losses, is_requested: bool) -> bool {
        match self.rules.mode {
            PolicyReload::Auto => false,
            PolicyReload::Guarded => !losses.is_empty(),
            PolicyReload::Manual => !(is_requested && losses.is_empty()),
        }
    }

    /// Whether this candidate has the active version and protects with the same files.
    pub fn is_active(&self, candidate: &Candidate) -> bool {
        let active = self.current.load();
        let (active, candidate) = (active.bundle(), candidate.bundle());
        active.version() == candidate.version() && active.inventory() == candidate.inventory()
    }

    /// Makes a candidate the active version, unless it is already.
    pub fn activate(&self, candidate: Candidate) {
        if !self.is_active(&candidate) {
            self.current.store(Arc::new(candidate.engine));
        }
        self.reloads.fetch_add(1, Ordering::Relaxed);
        *self.waiting() = Waiting::default();
    }

    /// Notes whether the database has the active version as such.
    pub fn set_recorded(&self, is_recorded: bool) {
        self.is_recorded.store(is_recorded, Ordering::Release);
    }

    /// Whether the database has the active version as such.
    pub fn is_recorded(&self) -> bool {
        self.is_recorded.load(Ordering::Acquire)
    }

    /// Keeps the active version and remembers which candidate needs a confirmation. True if it is another one than before.
    pub fn hold(&self, pending: Pending) -> bool {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting();
        let is_new = waiting.pending.as_deref() != Some(&pending);
        *waiting = Waiting { failure: None, pending: Some(Arc::new(pending)) };
        is_new
    }

    /// Keeps the active version and remembers why the files cannot be used.
    pub fn refuse(&self, error: BundleError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.waiting() = Waiting { failure: Some(error), pending: None };
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the files as they were last read are not active; nothing if they are.
    pub fn failure(&self) -> Option<BundleError> {
        self.waiting().failure.clone()
    }

    /// The candidate that needs a confirmation.
    pub fn pending(&self) -> Option<Arc<Pending>> {
        self.waiting().pending.clone()
    }

    /// How many reloads there were.
    pub fn counts(&self) -> Reloads {
        Reloads {
            reloads: self.reloads.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
