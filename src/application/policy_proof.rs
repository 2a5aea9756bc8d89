//! What is proven about the active policies, as `policy prove --record` recorded it.

use crate::analysis::{ProofRecord, ProofRecordError};
use crate::authz::PolicyHandle;

/// Whether there is a proof of the active policies.
#[derive(Debug)]
pub enum ActiveProof {
    /// This record says that every claim of the active version is proven.
    Proven(Box<ProofRecord>),
    /// This is recorded for the active version, but not every claim is proven.
    Incomplete(Box<ProofRecord>),
    /// Nothing is recorded for the active version.
    Missing,
    /// The record cannot be read.
    Unreadable(ProofRecordError),
}

/// Reads the record of the active version. The file may have been written since the start of the service, so that it is read
/// for each question.
pub fn active_proof(policies: &PolicyHandle) -> ActiveProof {
    let engine = policies.current();
    match ProofRecord::find(policies.policy_directories(), engine.bundle().version()) {
        Ok(Some(record)) if record.is_complete(engine.bundle()) => ActiveProof::Proven(Box::new(record)),
        Ok(Some(record)) => ActiveProof::Incomplete(Box::new(record)),
        Ok(None) => ActiveProof::Missing,
        Err(error) => {
            tracing::warn!(%error, "the active policies are not proven");
            ActiveProof::Unreadable(error)
        }
    }
}

/// Logs whether the active policies are proven, for the start of the service.
pub fn log_active_proof(policies: &PolicyHandle) {
    match active_proof(policies) {
        ActiveProof::Proven(record) => {
            tracing::info!(claims = record.claims.len(), recorded_at = %record.recorded_at, "the active policies are proven");
        }
        ActiveProof::Incomplete(_) => tracing::warn!("not all claims about the active policies are proven"),
        ActiveProof::Missing => tracing::info!("no proof is recorded for the active policies"),
        // Logged where it is read.
        ActiveProof::Unreadable(_) => {}
    }
}
