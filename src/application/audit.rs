//! Audit events beside those of units of work: failed logins, refusals, and events that must not fail their operation.
//!
//! An error carries the entry that records it ([`PendingAuditEntry`]); the entry is written when the request has failed.

use super::AppState;
use super::refusals::{Refusal, Target};
use crate::authz::Permitted;
use crate::resource::user::User;
use crate::store::{AuditActor, AuditEntry, Event, StoreError};
use std::collections::VecDeque;
use tokio::sync::Mutex;

/// What the audit log records of a request that failed.
#[derive(Debug, Clone)]
pub enum PendingAuditEntry {
    /// An entry of its own.
    Event(AuditActor, AuditEntry),
    /// A refusal, which is counted with others of the same caller.
    Refusal(Refusal),
}

/// Returns whether the audit log records refusals of this action: those that create, change or delete users, organizations,
/// keys and sessions, and those on the policies and the audit log. All refusals are in the decision log.
pub fn is_administrative(action: &str) -> bool {
    const VERBS: [&str; 3] = ["create", "update", "delete"];
    const NOUNS: [&str; 4] = ["User", "Organization", "ApiKey", "Session"];
    const OTHERS: [&str; 3] = ["fetchPolicies", "reloadPolicies", "listAuditEvents"];
    let does = |verb| action.strip_prefix(verb).is_some_and(|noun| NOUNS.contains(&noun));
    VERBS.into_iter().any(does) || OTHERS.contains(&action)
}

/// Records in the audit log why a request failed. `target` is the resource that its path names. A failure to write the entry
/// is logged and does not change the response.
pub async fn record(state: &AppState, pending_audit: PendingAuditEntry, target: Option<Target>) {
    match pending_audit {
        PendingAuditEntry::Refusal(refusal) => state.refusals.add(refusal, target),
        PendingAuditEntry::Event(actor, entry) => {
            let event = entry.event();
            if let Err(error) = state.store.audit(actor, entry).await {
                log_write_failure(&error, event);
            }
        }
    }
}

/// Creates an audit entry about a user, in the organization of the user.
pub(super) fn user_event(event: Event, user: &Permitted<User>) -> AuditEntry {
    AuditEntry::new(event).target_user(user.id).in_organization(user.path())
}

fn log_write_failure(error: &StoreError, event: Event) {
    tracing::error!(%error, %event, "failed to write audit entry");
}

/// The queue of events that have happened and could not be written yet, in their order.
#[derive(Debug, Default)]
pub struct PendingAudit(Mutex<VecDeque<(AuditActor, AuditEntry)>>);

/// The maximum number of queued events. Further ones are dropped while the database is unavailable.
const MAX_PENDING: usize = 1_000;

/// Records an event that has happened already. If the database is unavailable, the event is queued until [`write_pending`].
pub async fn record_or_queue(state: &AppState, actor: AuditActor, entry: AuditEntry) {
    let event = entry.event();
    let mut queue = state.pending_audit.0.lock().await;
    if queue.len() < MAX_PENDING {
        queue.push_back((actor, entry));
    }
    if let Err(error) = write_queue(state, &mut queue).await {
        log_write_failure(&error, event);
    }
}

/// Writes the queued events and the refusals of completed minutes.
///
/// # Errors
/// The database is unavailable; what was not written remains queued.
pub async fn write_pending(state: &AppState) -> Result<(), StoreError> {
    write_queue(state, &mut *state.pending_audit.0.lock().await).await?;
    state.refusals.write_completed_minutes(&state.store, state.clock.now()).await
}

/// Writes everything that is pending when the service shuts down, and logs what cannot be written.
pub async fn flush_on_shutdown(state: &AppState) {
    let now = state.clock.now();
    if let Err(error) = write_queue(state, &mut *state.pending_audit.0.lock().await).await {
        tracing::error!(%error, "audit log write failed during shutdown; events lost");
    }
    if let Err(error) = state.refusals.write_all(&state.store, now).await {
        let entries = state.refusals.pending_entries();
        tracing::error!(%error, entries, "audit log write failed during shutdown; refusals lost");
    }
}

async fn write_queue(
    state: &AppState,
    queue: &mut VecDeque<(AuditActor, AuditEntry)>,
) -> Result<(), StoreError> {
    while let Some((actor, entry)) = queue.front().cloned() {
        let event = entry.event();
        match state.store.audit(actor, entry).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // An entry that cannot be written must not block those behind it.
            Err(error) => log_write_failure(&error, event),
        }
        queue.pop_front();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_administrative;

    #[test]
    fn actions_that_change_rights_are_administrative_and_daily_work_is_not() {
        for action in [
            "createUser",
            "updateUser",
            "deleteOrganization",
            "createApiKey",
            "deleteSession",
            "reloadPolicies",
        ] {
            assert!(is_administrative(action), "{action}");
        }
        for action in [
            "listUsers",
            "fetchUser",
            "createUsers",
            "createOrganizationGroup",
            "deleteMessage",
            "referTo",
            "",
        ] {
            assert!(!is_administrative(action), "{action}");
        }
    }
}
