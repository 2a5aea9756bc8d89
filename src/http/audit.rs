//! What the audit trail is told besides what a unit of work does: that somebody was refused. A problem takes along what is
//! to be told of it, and it is told when the request has failed with it.

use super::refusals::{Refusal, Target};
use super::{Parts, Problem};
use crate::store::{Cause, Entry, Event, StoreError};
use actix_web::HttpRequest;
use std::collections::VecDeque;
use tokio::sync::Mutex;

/// What the audit log records of a request that failed.
#[derive(Debug, Clone)]
pub enum Untold {
    /// An entry of its own.
    Event(Cause, Entry),
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
    pub fn told(self, cause: Cause, entry: Entry) -> Self {
        Self { untold: Some(Box::new(Untold::Event(cause, entry))), ..self }
    }

    /// Adds the refusal that the audit log records of this problem.
    #[must_use]
    pub fn refused_by_policy(self, refusal: Refusal) -> Self {
        Self { untold: Some(Box::new(Untold::Refusal(refusal))), ..self }
    }
}

/// Records in the audit log why a request failed. A failure to do so does not change the answer.
pub async fn tell(request: &HttpRequest, untold: Untold) {
    let Some(parts) = Parts::held(request) else { return };
    match untold {
        Untold::Refusal(refusal) => parts.refusals.add(refusal, target(request)),
        Untold::Event(cause, entry) => {
            let event = entry.event();
            if let Err(error) = parts.store.audit(cause, entry).await {
                failed(&error, event);
            }
        }
    }
}

fn failed(error: &StoreError, event: Event) {
    tracing::error!(%error, %event, "the audit trail could not be told");
}

/// What has happened and could not be told yet, in its order.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<VecDeque<(Cause, Entry)>>);

/// How many entries may wait while the database is away.
const MOST: usize = 1_000;

/// Tells the audit trail of something that has happened already; where that cannot be done, the next time that somebody
/// [catches up](catch_up).
pub async fn note(parts: &Parts, cause: Cause, entry: Entry) {
    let event = entry.event();
    let mut waiting = parts.untold.0.lock().await;
    if waiting.len() < MOST {
        waiting.push_back((cause, entry));
    }
    if let Err(error) = tell_all(parts, &mut waiting).await {
        failed(&error, event);
    }
}

/// Appends what could not be appended before, and the refusals of the minutes that are over.
pub async fn catch_up(parts: &Parts) -> Result<(), StoreError> {
    tell_all(parts, &mut *parts.untold.0.lock().await).await?;
    parts.refusals.write_complete(&parts.store, parts.clock.now()).await
}

/// Appends all that is still pending when the service shuts down; logs what cannot be appended.
pub async fn finish(parts: &Parts) {
    let now = parts.clock.now();
    if let Err(error) = tell_all(parts, &mut *parts.untold.0.lock().await).await {
        tracing::error!(%error, "events are missing in the audit log: it could not be written before the shutdown");
    }
    if let Err(error) = parts.refusals.write_all(&parts.store, now).await {
        let entries = parts.refusals.pending_entries();
        tracing::error!(%error, entries, "refusals are missing in the audit log: it could not be written before the shutdown");
    }
}

async fn tell_all(parts: &Parts, waiting: &mut VecDeque<(Cause, Entry)>) -> Result<(), StoreError> {
    while let Some((cause, entry)) = waiting.front().cloned() {
        let event = entry.event();
        match parts.store.audit(cause, entry).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // What cannot be told at all keeps no other from being told.
            Err(error) => failed(&error, event),
        }
        waiting.pop_front();
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
