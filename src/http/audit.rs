//! What the audit trail is told besides what a unit of work does: that somebody was refused. A problem takes along what is
//! to be told of it, and it is told when the request has failed with it.

use super::{Parts, Problem};
use crate::store::{Cause, Entry, Event, StoreError};
use actix_web::HttpRequest;
use std::collections::VecDeque;
use tokio::sync::Mutex;

/// What the audit trail is to be told of a problem.
#[derive(Debug, Clone)]
pub struct Untold {
    cause: Cause,
    entry: Entry,
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
        Self { untold: Some(Box::new(Untold { cause, entry })), ..self }
    }
}

/// Tells the audit trail of a problem with which a request has failed, where there is something to tell. That it cannot be
/// told changes nothing of the answer.
pub async fn tell(request: &HttpRequest, untold: Untold) {
    let Some(parts) = Parts::held(request) else { return };
    let entry = of_path(untold.entry, request);
    let event = entry.event();
    if let Err(error) = parts.store.audit(untold.cause, entry).await {
        failed(&error, event);
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

/// Tells the audit trail of what it could not be told before.
pub async fn catch_up(parts: &Parts) -> Result<(), StoreError> {
    tell_all(parts, &mut *parts.untold.0.lock().await).await
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

/// A denial is one to the thing that the path names, whether there is one or not: the trail must not tell one that is
/// missing from one that is out of reach either.
fn of_path(entry: Entry, request: &HttpRequest) -> Entry {
    if entry.event() != Event::AccessDenied {
        return entry;
    }
    match request.match_info().get("id").and_then(|id| id.parse().ok()) {
        Some(id) if request.path().starts_with("/v2/organizations") => entry.subject("Organization", id),
        Some(id) => entry.user(id),
        None => entry,
    }
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
