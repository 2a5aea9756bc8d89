//! Recorded proofs: `PROOF.json`, which says what was proven about a policy version, when and by which solver.

use super::prove::{BUILT_IN_CLAIMS, ClaimKind, Proof, Verdict};
use crate::authz::{Bundle, PROOF_FILE};
use crate::types::{Timestamp, read_text};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What `policy prove --record` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProofRecord {
    /// The version of the policies.
    pub version: String,
    /// When the claims were proven.
    pub recorded_at: Timestamp,
    /// The solver and its version.
    pub solver: String,
    /// How many seconds it took.
    pub seconds: f64,
    /// What was assumed of the data files.
    pub assumptions: Vec<String>,
    /// The claims and their results.
    pub claims: Vec<RecordedClaim>,
}

/// A claim of a recorded proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordedClaim {
    /// Its id.
    pub id: String,
    /// What it says.
    pub doc: String,
    /// What kind of claim it is.
    pub kind: ClaimKind,
    /// Whether it holds.
    pub result: ClaimResult,
    /// The number of request environments that were examined.
    pub environments: usize,
    /// The number of request environments that the scope of the claim selects, but in which its conditions are false by the types
    /// of the schema. 0 in records of earlier versions.
    #[serde(default)]
    pub inapplicable: usize,
}

/// Whether a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaimResult {
    /// It holds for all requests.
    Proven,
    /// A request contradicts it.
    Broken,
    /// It is not known whether it holds.
    Unknown,
}

impl From<&Verdict> for ClaimResult {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Proven => Self::Proven,
            Verdict::Broken(_) => Self::Broken,
            Verdict::Unknown(_) => Self::Unknown,
        }
    }
}

impl ProofRecord {
    /// The record of a proof.
    pub fn new(proof: &Proof, recorded_at: Timestamp) -> Self {
        let claims = proof.claims.iter().map(|claim| RecordedClaim {
            id: claim.id.clone(),
            doc: claim.doc.clone(),
            kind: claim.kind,
            result: ClaimResult::from(&claim.verdict),
            environments: claim.environments,
            inapplicable: claim.inapplicable.len(),
        });
        Self {
            version: proof.version.clone(),
            recorded_at,
            solver: proof.solver.clone(),
            seconds: (proof.duration.as_secs_f64() * 10.0).round() / 10.0,
            assumptions: proof.assumptions.clone(),
            claims: claims.collect(),
        }
    }

    /// Whether every recorded claim was proven, and every claim of the bundle and every built-in one is recorded.
    pub fn is_complete(&self, bundle: &Bundle) -> bool {
        self.claims.iter().all(|claim| claim.result == ClaimResult::Proven) && self.missing(bundle).is_empty()
    }

    /// The ids of the claims of the bundle, and of the built-in ones, that are not recorded.
    pub fn missing<'b>(&self, bundle: &'b Bundle) -> Vec<&'b str> {
        let of_files = bundle.claims().iter().map(|claim| claim.metadata().id.as_str());
        let is_missing = |id: &&str| !self.claims.iter().any(|claim| claim.id == *id);
        BUILT_IN_CLAIMS.into_iter().map(|(id, _)| id).chain(of_files).filter(is_missing).collect()
    }

    /// The path of the record in a policy directory.
    pub fn path(policies: &Path) -> PathBuf {
        policies.join(PROOF_FILE)
    }

    /// The record as the text of a file.
    ///
    /// # Errors
    /// It cannot be serialized.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    /// The record in one of these policy directories that is about this version. None if there is none.
    ///
    /// # Errors
    /// A record cannot be read, and no other one is about the version.
    pub fn find(policies: &[PathBuf], version: &str) -> Result<Option<Self>, ProofRecordError> {
        let mut first_error = None;
        for directory in policies {
            match Self::read(&Self::path(directory)) {
                Ok(Some(record)) if record.version == version => return Ok(Some(record)),
                Ok(_) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// The record in a file. None if the file does not exist.
    fn read(path: &Path) -> Result<Option<Self>, ProofRecordError> {
        let failed =
            |reason: &dyn std::fmt::Display| ProofRecordError(format!("{}: {reason}", path.display()));
        let length = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return Err(failed(&"not a regular file")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        if length > MAX_BYTES {
            return Err(failed(&format_args!("larger than {MAX_BYTES} bytes")));
        }
        let text = read_text(path).map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map(Some).map_err(|error| failed(&error))
    }
}

/// The maximum size of a recorded proof.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A recorded proof cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the recorded proof cannot be read: {0}")]
pub struct ProofRecordError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: &str) -> ProofRecord {
        let claim = RecordedClaim {
            id: "a".to_owned(),
            doc: "b".to_owned(),
            kind: ClaimKind::Never,
            result: ClaimResult::Proven,
            environments: 3,
            inapplicable: 0,
        };
        ProofRecord {
            version: version.to_owned(),
            recorded_at: Timestamp::from_millis(0),
            solver: "cvc5 1.0.3".to_owned(),
            seconds: 1.5,
            assumptions: Vec::new(),
            claims: vec![claim],
        }
    }

    #[test]
    fn the_record_of_the_version_is_found_in_any_directory() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths: Vec<PathBuf> = directories.iter().map(|directory| directory.path().to_owned()).collect();
        assert_eq!(ProofRecord::find(&paths, "one"), Ok(None));
        std::fs::write(ProofRecord::path(&paths[0]), "{").unwrap();
        assert!(ProofRecord::find(&paths, "one").is_err());
        std::fs::write(ProofRecord::path(&paths[1]), record("one").to_text().unwrap()).unwrap();
        assert_eq!(ProofRecord::find(&paths, "one"), Ok(Some(record("one"))));
        std::fs::write(ProofRecord::path(&paths[0]), record("other").to_text().unwrap()).unwrap();
        assert_eq!(ProofRecord::find(&paths, "two"), Ok(None));
    }
}
