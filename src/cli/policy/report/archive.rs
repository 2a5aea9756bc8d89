//! What the database says of policy versions: the active one, and those before it.

use crate::analysis::report::{ActiveVersion, HistoryEntry, Section};
use crate::authz::Bundle;
use crate::cli::policy::versions::{activation_text, active_version, open_store};
use crate::cli::{Failure, block_on};
use crate::config::Config;
use crate::store::{ListQuery, SortKey, SortOrder, Store};

/// The number of versions in the history.
const MAX_VERSIONS: u64 = 50;

/// The active version, and the versions that were active, the last one first.
pub(super) struct Archive {
    pub(super) active: Section<ActiveVersion>,
    pub(super) history: Section<Vec<HistoryEntry>>,
}

/// Reads the archive. Where the database is missing or has nothing, the sections say so.
pub(super) fn read(config: &Config, bundle: &Bundle) -> Archive {
    let read = block_on(async { Ok(read_from(&open_store(config).await?, bundle).await?) });
    let reason = match read {
        Ok(archive) => return archive,
        Err(Failure::Failed(message)) => format!("The database could not be read: {message}."),
        Err(_) => "The database could not be read.".to_owned(),
    };
    Archive { active: Err(reason.clone()), history: Err(reason) }
}

async fn read_from(store: &Store, bundle: &Bundle) -> Result<Archive, crate::store::StoreError> {
    let version = active_version(store).await?;
    let sort = vec![SortKey::new("last_activation", SortOrder::Descending)];
    let query = ListQuery { limit: MAX_VERSIONS, sort, ..ListQuery::default() };
    let rows = store.policy_versions(&query).await?.items;
    let history: Vec<HistoryEntry> = rows
        .into_iter()
        .map(|row| HistoryEntry {
            is_active: row.version == version,
            first_activated_at: row.first_activated_at.to_string(),
            last_activated_at: row.last_activated_at.to_string(),
            cause: activation_text(row.trigger, row.actor, row.credential.as_deref()),
            files: row.files,
            bytes: row.bytes,
            version: row.version,
        })
        .collect();
    let active = if version.is_empty() {
        Err("The service has not been started with this database yet: no version has been active.".to_owned())
    } else {
        let entry = history.iter().find(|entry| entry.is_active);
        let activation = entry.map(|entry| (entry.last_activated_at.clone(), entry.cause.clone()));
        let unknown = "The database has no archive of this version: an earlier release activated it.";
        Ok(ActiveVersion {
            is_of_files: bundle.has_stored_version(&version),
            version,
            activation: activation.ok_or_else(|| unknown.to_owned()),
        })
    };
    let none = "No version was active since the database has an archive of them.";
    let history = if history.is_empty() { Err(none.to_owned()) } else { Ok(history) };
    Ok(Archive { active, history })
}
