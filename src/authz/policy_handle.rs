//! The active policies, and how others take their place while the service runs. A candidate is read, checked and compiled
//! beside the active version, and replaces it at once. Which candidate may do so without a confirmation is decided by the
//! caller, who knows the database.

use super::candidate::{Candidate, PendingConfirmation};
use super::snapshot::{ContentHash, Snapshot, content_hash};
use super::{BundleError, Engine, Losses, Sources};
use crate::config::{PolicyReload, PolicyTests};
use arc_swap::{ArcSwap, Guard};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The settings of a reload.
#[derive(Debug, Clone, Copy)]
pub struct ReloadConfig {
    /// Which candidates need a confirmation.
    pub mode: PolicyReload,
    /// What a failing policy test does.
    pub tests: PolicyTests,
}

/// The active policies.
#[derive(Debug)]
pub struct PolicyHandle {
    sources: Sources,
    reload_config: ReloadConfig,
    current: ArcSwap<Engine>,
    last_rejected: Mutex<RejectedReload>,
    reloads: AtomicU64,
    failures: AtomicU64,
    is_recorded: AtomicBool,
    reload_lock: Arc<tokio::sync::Mutex<ScanState>>,
}

/// The candidate of the last reload that is not active.
#[derive(Debug, Default)]
struct RejectedReload {
    /// Why it cannot be used.
    failure: Option<BundleError>,
    /// That it needs a confirmation.
    pending: Option<Arc<PendingConfirmation>>,
}

/// How many reloads there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadCounts {
    /// Those whose files could be used.
    pub reloads: u64,
    /// Those whose files could not.
    pub failures: u64,
}

/// Which content of the files was seen. Held for the duration of a reload, so that the newest content is considered last.
#[derive(Debug)]
pub struct ScanState {
    last: ContentHash,
    processed: ContentHash,
}

impl ScanState {
    /// Records the content that a scan found. True if the scan before it found the same and it has not been considered yet.
    fn is_new_and_stable(&mut self, hash: ContentHash) -> bool {
        let is_stable = self.last == hash;
        self.last = hash;
        is_stable && self.processed != hash
    }

    /// Records that the content that was read last was considered: it is not considered again until it changes.
    pub fn mark_processed(&mut self) {
        self.processed = self.last;
    }
}

impl PolicyHandle {
    /// Reads, checks and tests the policies for the first time.
    ///
    /// # Errors
    /// What is wrong with the files, or which of their tests fail.
    pub fn open(sources: Sources, reload_config: ReloadConfig) -> Result<Self, BundleError> {
        let snapshot = Snapshot::read_stable(&sources)?;
        let Candidate { engine, hash } = Candidate::new(&snapshot, &sources.stored, reload_config.tests)?;
        Ok(Self {
            sources,
            reload_config,
            current: ArcSwap::from_pointee(engine),
            last_rejected: Mutex::default(),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_recorded: AtomicBool::new(false),
            reload_lock: Arc::new(tokio::sync::Mutex::new(ScanState { last: hash, processed: hash })),
        })
    }

    /// The settings of a reload.
    pub fn reload_config(&self) -> ReloadConfig {
        self.reload_config
    }

    /// The engine of the active version. A request keeps the one that it began with.
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// The same for as long as a request takes: kept without a count that the threads share, unless a thread has many
    /// requests at once.
    pub fn current_guard(&self) -> Guard<Arc<Engine>> {
        self.current.load()
    }

    /// Waits until no other reload is in progress.
    pub async fn begin_reload(&self) -> tokio::sync::OwnedMutexGuard<ScanState> {
        Arc::clone(&self.reload_lock).lock_owned().await
    }

    /// Reads the files for a reload that was requested.
    pub fn read(&self, scans: &mut ScanState) -> Result<Candidate, BundleError> {
        let read = Snapshot::read_stable(&self.sources);
        scans.last = content_hash(&read);
        self.prepare(read)
    }

    /// Reads the files for a periodic scan. Nothing while they are those that were considered last, and while two
    /// consecutive scans do not find the same content: files that are being copied are incomplete.
    pub fn scan(&self, scans: &mut ScanState) -> Option<Result<Candidate, BundleError>> {
        let read = Snapshot::read(&self.sources);
        scans.is_new_and_stable(content_hash(&read)).then(|| self.prepare(read))
    }

    fn prepare(&self, read: Result<Snapshot, BundleError>) -> Result<Candidate, BundleError> {
        read.and_then(|snapshot| Candidate::new(&snapshot, &self.sources.stored, self.reload_config.tests))
    }

    /// What would be lost if this candidate became active.
    pub fn losses(&self, candidate: &Candidate) -> Losses {
        self.current.load().bundle().inventory().losses(candidate.bundle().inventory())
    }

    /// Whether a candidate with these losses becomes active only when its version is confirmed. `is_requested` is true if a
    /// caller of the API has requested the reload; a changed file, a signal and a start have not.
    pub fn needs_confirmation(&self, losses: &Losses, is_requested: bool) -> bool {
        match self.reload_config.mode {
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
        *self.last_rejected() = RejectedReload::default();
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
    pub fn set_pending(&self, pending: PendingConfirmation) -> bool {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let mut last_rejected = self.last_rejected();
        let is_new = last_rejected.pending.as_deref() != Some(&pending);
        *last_rejected = RejectedReload { failure: None, pending: Some(Arc::new(pending)) };
        is_new
    }

    /// Keeps the active version and remembers why the files cannot be used.
    pub fn set_failure(&self, error: BundleError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_rejected() = RejectedReload { failure: Some(error), pending: None };
    }

    fn last_rejected(&self) -> MutexGuard<'_, RejectedReload> {
        self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the files as they were last read are not active; nothing if they are.
    pub fn failure(&self) -> Option<BundleError> {
        self.last_rejected().failure.clone()
    }

    /// The candidate that needs a confirmation.
    pub fn pending(&self) -> Option<Arc<PendingConfirmation>> {
        self.last_rejected().pending.clone()
    }

    /// How many reloads there were.
    pub fn counts(&self) -> ReloadCounts {
        ReloadCounts {
            reloads: self.reloads.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
