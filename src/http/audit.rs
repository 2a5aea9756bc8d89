//! What the audit trail is told besides what a unit of work does: that somebody was refused. A problem takes along what is
//! to be told of it, and it is told when the request has failed with it.

use super::refusals::{Refusal, Target};
use super::{AppState, Problem};
use crate::store::{AuditActor, AuditEntry, Event, StoreError};
use actix_web::HttpRequest;
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

/// Whether the audit trail is told when the policies refuse this action: making, changing and ending users, organizations,
/// keys and sessions, and whatever is done with the policies and the trail itself. Other refusals, of reading and of the
/// daily work, are in the decision log.
pub fn is_administrative(action: &str) -> bool {
    const VERBS: [&str; 3] = ["create", "update", "delete"];
    const NOUNS: [&str; 4] = ["User", "Organization", "ApiKey", "Session"];
    const OTHERS: [&str; 3] = ["fetchPolicies", "reloadPolicies", "listAuditEvents"];
    let does = |verb| action.strip_prefix(verb).is_some_and(|noun| NOUNS.contains(&noun));
    VERBS.into_iter().any(does) || OTHERS.contains(&action)
}

impl Problem {
    /// The same, of which the audit trail is to be told.
    #[must_use]
    pub fn with_audit(self, cause: AuditActor, entry: AuditEntry) -> Self {
        Self { pending_audit: Some(Box::new(PendingAuditEntry::Event(cause, entry))), ..self }
    }

    /// Adds the refusal that the audit log records of this problem.
    #[must_use]
    pub fn with_refusal(self, refusal: Refusal) -> Self {
        Self { pending_audit: Some(Box::new(PendingAuditEntry::Refusal(refusal))), ..self }
    }
}

/// Records in the audit log why a request failed. A failure to do so does not change the answer.
pub async fn record(request: &HttpRequest, pending_audit: PendingAuditEntry) {
    let Some(state) = AppState::get(request) else { return };
    match pending_audit {
        PendingAuditEntry::Refusal(refusal) => state.refusals.add(refusal, target(request)),
        PendingAuditEntry::Event(cause, entry) => {
            let event = entry.event();
            if let Err(error) = state.store.audit(cause, entry).await {
                log_write_failure(&error, event);
            }
        }
    }
}

fn log_write_failure(error: &StoreError, event: Event) {
    tracing::error!(%error, %event, "the audit trail could not be told");
}

/// What has happened and could not be told yet, in its order.
#[derive(Debug, Default)]
pub struct PendingAudit(Mutex<VecDeque<(AuditActor, AuditEntry)>>);

/// How many entries may wait while the database is away.
const MAX_PENDING: usize = 1_000;

/// Tells the audit trail of something that has happened already; where that cannot be done, the next time that somebody
/// [catches up](catch_up).
pub async fn record_or_queue(state: &AppState, cause: AuditActor, entry: AuditEntry) {
    let event = entry.event();
    let mut queue = state.pending_audit.0.lock().await;
    if queue.len() < MAX_PENDING {
        queue.push_back((cause, entry));
    }
    if let Err(error) = write_queue(state, &mut queue).await {
        log_write_failure(&error, event);
    }
}

/// Appends what could not be appended before, and the refusals of the minutes that are over.
pub async fn write_pending(state: &AppState) -> Result<(), StoreError> {
    write_queue(state, &mut *state.pending_audit.0.lock().await).await?;
    state.refusals.write_completed_minutes(&state.store, state.clock.now()).await
}

/// Appends all that is still pending when the service shuts down; logs what cannot be appended.
pub async fn flush_on_shutdown(state: &AppState) {
    let now = state.clock.now();
    if let Err(error) = write_queue(state, &mut *state.pending_audit.0.lock().await).await {
        tracing::error!(%error, "events are missing in the audit log: it could not be written before the shutdown");
    }
    if let Err(error) = state.refusals.write_all(&state.store, now).await {
        let entries = state.refusals.pending_entries();
        tracing::error!(%error, entries, "refusals are missing in the audit log: it could not be written before the shutdown");
    }
}

async fn write_queue(
    state: &AppState,
    queue: &mut VecDeque<(AuditActor, AuditEntry)>,
) -> Result<(), StoreError> {
    while let Some((cause, entry)) = queue.front().cloned() {
        let event = entry.event();
        match state.store.audit(cause, entry).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // What cannot be told at all keeps no other from being told.
            Err(error) => log_write_failure(&error, event),
        }
        queue.pop_front();
    }
    Ok(())
}

/// The target of a refused request: the resource that its path names, whether it exists or not. The audit log must not
/// disclose whether it does.
fn target(request: &HttpRequest) -> Option<Target> {
    let id = request.match_info().get("id").and_then(|id| id.parse().ok())?;
    let kind = if request.path().starts_with("/v2/organizations") { "Organization" } else { "User" };
    Some((kind, id))
}

#[cfg(test)]
mod tests {
    use super::is_administrative;

    #[test]
    fn what_gives_and_takes_rights_is_administrative_and_the_daily_work_is_not() {
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
