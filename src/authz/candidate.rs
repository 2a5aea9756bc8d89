//! Candidates: validated and tested bundles that can become the active version.

use super::snapshot::{ContentHash, Snapshot};
use super::{Bundle, BundleError, Engine, Losses, cases};
use crate::config::PolicyTests;

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
    pub(super) fn new(snapshot: &Snapshot, stored: &[&str], tests: PolicyTests) -> Result<Self, BundleError> {
        let bundle = Bundle::parse(snapshot, stored)?;
        if tests != PolicyTests::Off {
            let failed = cases::run_all(&bundle, snapshot);
            match tests {
                PolicyTests::Enforce if !failed.is_empty() => return Err(BundleError(failed)),
                _ => {
                    for diagnostic in failed {
                        tracing::warn!(version = bundle.version(), "policy test failed: {diagnostic}");
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
