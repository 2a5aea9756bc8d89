//! Policies that were read and could become the active version.

use super::snapshot::{ContentHash, Snapshot};
use super::{Bundle, BundleError, Engine, Losses, cases};
use crate::config::PolicyTests;

/// Valid policies that are not active yet.
#[derive(Debug)]
pub struct Candidate {
    pub(super) engine: Engine,
    pub(super) hash: ContentHash,
}

/// A candidate that becomes active only when its version is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingConfirmation {
    /// Its version.
    pub version: String,
    /// What would be lost; empty where every change needs a confirmation.
    pub losses: Losses,
}

impl Candidate {
    /// Parses, validates and tests the files of a snapshot.
    ///
    /// # Errors
    /// Everything that is wrong with the files; with [`PolicyTests::Enforce`] also the names of the failing policy tests.
    pub(super) fn new(snapshot: &Snapshot, stored: &[&str], tests: PolicyTests) -> Result<Self, BundleError> {
        let bundle = Bundle::parse(snapshot, stored)?;
        if tests != PolicyTests::Off {
            let failed = cases::run_all(&bundle, snapshot);
            match tests {
                PolicyTests::Enforce if !failed.is_empty() => return Err(BundleError(failed)),
                _ => {
                    for fault in failed {
                        tracing::warn!(version = bundle.version(), "policy test failed: {fault}");
                    }
                }
            }
        }
        Ok(Self { engine: Engine::new(bundle)?, hash: snapshot.hash() })
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
