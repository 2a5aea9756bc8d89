//! Candidates: validated and tested bundles that can become the active version.

use super::snapshot::{ContentHash, Snapshot, StoredType};
use super::{Bundle, BundleError, Engine, Losses, cases};
use crate::config::{PolicyReload, PolicyTests};

/// The settings of a reload.
#[derive(Debug, Clone, Copy)]
pub struct ReloadConfig {
    /// Which candidates need a confirmation.
    pub mode: PolicyReload,
    /// What a failing policy test does.
    pub tests: PolicyTests,
    /// Whether engines cache decisions.
    pub is_decision_cache_on: bool,
    /// One decision in this many is verified; 0 for none.
    pub verify_every: u64,
}

/// An engine for a validated bundle that is not active yet.
#[derive(Debug)]
pub struct Candidate {
    pub(super) engine: Engine,
    pub(super) hash: ContentHash,
}

/// A candidate that becomes active only when its version is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingConfirmation {
    /// The version of the candidate.
    pub version: String,
    /// What would be lost. Empty if the settings require a confirmation of every change.
    pub losses: Losses,
}

impl Candidate {
    /// Parses, validates and tests the files of a snapshot.
    ///
    /// # Errors
    /// All errors in the files; with [`PolicyTests::Enforce`] also the failing policy tests.
    pub(super) fn new(
        snapshot: &Snapshot,
        stored: &[StoredType],
        config: ReloadConfig,
    ) -> Result<Self, BundleError> {
        let bundle = Bundle::parse(snapshot, stored)?;
        for warning in bundle.warnings() {
            tracing::warn!(version = bundle.version(), rule = warning.rule.code(), "policies: {warning}");
        }
        if config.tests != PolicyTests::Off {
            let failed = cases::run_all(&bundle, snapshot);
            match config.tests {
                PolicyTests::Enforce if !failed.is_empty() => return Err(BundleError(failed)),
                _ => {
                    for diagnostic in failed {
                        tracing::warn!(version = bundle.short_version(), "policy test failed: {diagnostic}");
                    }
                }
            }
        }
        let engine = Engine::new(bundle)?;
        let engine = if config.is_decision_cache_on { engine } else { engine.without_decision_cache() };
        Ok(Self { engine, hash: snapshot.hash() })
    }

    /// The version that would become active.
    pub fn version(&self) -> &str {
        self.engine.bundle().version()
    }

    /// The bundle that would become active.
    pub fn bundle(&self) -> &Bundle {
        self.engine.bundle()
    }
}
