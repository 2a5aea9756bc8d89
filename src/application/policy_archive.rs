//! Reading the archive of policy versions by the first digits of a version.

use crate::authz::{Snapshot, VersionPrefix, short_version};
use crate::store::{PolicyVersionRow, Store, StoreError};

/// Why a version cannot be read from the archive.
#[derive(Debug, thiserror::Error)]
pub enum PolicyArchiveError {
    /// No version in the archive begins with these digits.
    #[error("no policy version in the database begins with {0}")]
    NotFound(VersionPrefix),
    /// Several versions in the archive begin with these digits.
    #[error("several policy versions in the database begin with {0}; give more digits")]
    Ambiguous(VersionPrefix),
    /// The files of the version were changed in the database.
    #[error("the files of policy version {} in the database have another version: they were changed", short_version(.0))]
    Damaged(String),
    /// The database is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds the only version in the archive that begins with these digits.
///
/// # Errors
/// There is none, or several; or the database is unavailable.
pub async fn find_version(
    store: &Store,
    prefix: &VersionPrefix,
) -> Result<PolicyVersionRow, PolicyArchiveError> {
    let mut found = store.find_policy_versions(prefix).await?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(PolicyArchiveError::NotFound(prefix.clone())),
        (Some(row), true) => Ok(row),
        (Some(_), false) => Err(PolicyArchiveError::Ambiguous(prefix.clone())),
    }
}

/// Reads the files of a version, and checks that they still have it.
///
/// # Errors
/// The files were changed, or the database is unavailable.
pub(crate) async fn read_files(
    store: &Store,
    row: &PolicyVersionRow,
) -> Result<Snapshot, PolicyArchiveError> {
    let snapshot = Snapshot::from_files(store.policy_version_files(&row.version).await?);
    if snapshot.version() == row.version {
        Ok(snapshot)
    } else {
        Err(PolicyArchiveError::Damaged(row.version.clone()))
    }
}
