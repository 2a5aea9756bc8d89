//! The active policies and their reload.
//!
//! A candidate is read, validated, tested and indexed while the active version stays in use, and then replaces it
//! atomically. The caller, who knows the inventory in the database, decides whether a candidate needs a confirmation (see
//! "Guarded policy reload" in docs/decisions.md).

use super::candidate::{Candidate, PendingConfirmation, ReloadConfig};
use super::snapshot::{ContentHash, Snapshot, content_hash};
use super::verifier::Verifier;
use super::{BundleError, Engine, Losses, Sources};
use crate::config::PolicyReload;
use arc_swap::{ArcSwap, Guard};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The engine of the active version, and the result of the last reload.
#[derive(Debug)]
pub struct PolicyHandle {
    sources: Sources,
    reload_config: ReloadConfig,
    current: ArcSwap<Engine>,
    verifier: Option<Arc<Verifier>>,
    last_rejected: Mutex<RejectedReload>,
    reloads: AtomicU64,
    failures: AtomicU64,
    is_recorded: AtomicBool,
    reload_lock: Arc<tokio::sync::Mutex<ScanState>>,
}

/// The result of the last reload, if the candidate did not become active.
#[derive(Debug, Default)]
struct RejectedReload {
    /// Why the files are invalid.
    failure: Option<BundleError>,
    /// The candidate, if it needs a confirmation.
    pending: Option<Arc<PendingConfirmation>>,
}

/// The number of reloads by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadCounts {
    /// Reloads with valid files, including those that need a confirmation.
    pub reloads: u64,
    /// Reloads with invalid files.
    pub failures: u64,
}

/// The content hashes of the last scan and of the last processed content. Locked during a reload, so that reloads are
/// processed in the order of their reads.
#[derive(Debug)]
pub struct ScanState {
    last: ContentHash,
    processed: ContentHash,
}

impl ScanState {
    /// Records the content that a scan found. True if the previous scan found the same, and it has not been processed.
    fn is_new_and_stable(&mut self, hash: ContentHash) -> bool {
        let is_stable = self.last == hash;
        self.last = hash;
        is_stable && self.processed != hash
    }

    /// Marks the content that was read last as processed: it is ignored until it changes.
    pub fn mark_processed(&mut self) {
        self.processed = self.last;
    }
}

impl PolicyHandle {
    /// Reads, validates and tests the policies at the start.
    ///
    /// # Errors
    /// All errors in the files; with [`crate::config::PolicyTests::Enforce`] also the failing policy tests.
    pub fn open(sources: Sources, reload_config: ReloadConfig) -> Result<Self, BundleError> {
        let snapshot = Snapshot::read_stable(&sources)?;
        let Candidate { engine, hash } = Candidate::new(&snapshot, &sources.stored, reload_config)?;
        let verifier = Verifier::start(reload_config.verify_every);
        Ok(Self {
            sources,
            reload_config,
            current: ArcSwap::from_pointee(engine.with_verifier(verifier.clone())),
            verifier,
            last_rejected: Mutex::default(),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_recorded: AtomicBool::new(false),
            reload_lock: Arc::new(tokio::sync::Mutex::new(ScanState { last: hash, processed: hash })),
        })
    }

    /// Verifies a sample of the decisions; none if verification is off.
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifier.as_ref()
    }

    /// The settings of a reload.
    pub fn reload_config(&self) -> ReloadConfig {
        self.reload_config
    }

    /// The engine of the active version. A request uses one engine from its beginning to its end.
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// The engine of the active version, without changing a reference count that all threads share, unless a thread holds many
    /// guards at once.
    pub fn current_guard(&self) -> Guard<Arc<Engine>> {
        self.current.load()
    }

    /// Waits until no other reload is in progress.
    pub async fn begin_reload(&self) -> tokio::sync::OwnedMutexGuard<ScanState> {
        Arc::clone(&self.reload_lock).lock_owned().await
    }

    /// Reads the files for a reload that was requested.
    ///
    /// # Errors
    /// As [`PolicyHandle::open`].
    pub fn read(&self, scans: &mut ScanState) -> Result<Candidate, BundleError> {
        let read = Snapshot::read_stable(&self.sources);
        scans.last = content_hash(&read);
        self.prepare(read)
    }

    /// Reads the files for a periodic scan. None if their content was processed before, or if it differs from that of the
    /// previous scan, since files that are being copied are incomplete.
    pub fn scan(&self, scans: &mut ScanState) -> Option<Result<Candidate, BundleError>> {
        let read = Snapshot::read(&self.sources);
        scans.is_new_and_stable(content_hash(&read)).then(|| self.prepare(read))
    }

    fn prepare(&self, read: Result<Snapshot, BundleError>) -> Result<Candidate, BundleError> {
        read.and_then(|snapshot| Candidate::new(&snapshot, &self.sources.stored, self.reload_config))
    }

    /// What would be lost if this candidate became active.
    pub fn losses(&self, candidate: &Candidate) -> Losses {
        self.current.load().bundle().inventory().losses(candidate.bundle().inventory())
    }

    /// Whether a candidate with these losses becomes active only when its version is confirmed. `is_requested`: the reload was
    /// requested by an API call, rather than caused by a changed file, a signal or a start.
    pub fn needs_confirmation(&self, losses: &Losses, is_requested: bool) -> bool {
        match self.reload_config.mode {
            PolicyReload::Auto => false,
            PolicyReload::Guarded => !losses.is_empty(),
            PolicyReload::Manual => !(is_requested && losses.is_empty()),
        }
    }

    /// Whether this candidate has the version and the inventory of the active bundle.
    pub fn is_active(&self, candidate: &Candidate) -> bool {
        let active = self.current.load();
        let (active, candidate) = (active.bundle(), candidate.bundle());
        active.version() == candidate.version() && active.inventory() == candidate.inventory()
    }

    /// Makes a candidate the active version, unless it already is.
    pub fn activate(&self, candidate: Candidate) {
        if !self.is_active(&candidate) {
            self.current.store(Arc::new(candidate.engine.with_verifier(self.verifier.clone())));
        }
        self.reloads.fetch_add(1, Ordering::Relaxed);
        *self.last_rejected() = RejectedReload::default();
    }

    /// Sets whether the database records the active version as active.
    pub fn set_recorded(&self, is_recorded: bool) {
        self.is_recorded.store(is_recorded, Ordering::Release);
    }

    /// Whether the database records the active version as active.
    pub fn is_recorded(&self) -> bool {
        self.is_recorded.load(Ordering::Acquire)
    }

    /// Keeps the active version and records which candidate needs a confirmation. True if it is not the one recorded before.
    pub fn set_pending(&self, pending: PendingConfirmation) -> bool {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let mut last_rejected = self.last_rejected();
        let is_new = last_rejected.pending.as_deref() != Some(&pending);
        *last_rejected = RejectedReload { failure: None, pending: Some(Arc::new(pending)) };
        is_new
    }

    /// Keeps the active version and records why the files are invalid.
    pub fn set_failure(&self, error: BundleError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_rejected() = RejectedReload { failure: Some(error), pending: None };
    }

    fn last_rejected(&self) -> MutexGuard<'_, RejectedReload> {
        self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy directories.
    pub fn policy_directories(&self) -> &[std::path::PathBuf] {
        &self.sources.policies
    }

    /// Why the last reload failed; none if it did not.
    pub fn failure(&self) -> Option<BundleError> {
        self.last_rejected().failure.clone()
    }

    /// The candidate that needs a confirmation.
    pub fn pending(&self) -> Option<Arc<PendingConfirmation>> {
        self.last_rejected().pending.clone()
    }

    /// The number of reloads by outcome.
    pub fn counts(&self) -> ReloadCounts {
        ReloadCounts {
            reloads: self.reloads.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
