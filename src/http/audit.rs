//! What the audit trail is told besides what a unit of work does: that somebody was refused. A problem takes along what is
//! to be told of it, and it is told when the request has failed with it.

use super::{Parts, Problem};
use crate::store::{Cause, Entry, Event};
use actix_web::{HttpRequest, web};

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
    let Some(parts) = request.app_data::<web::Data<Parts>>() else { return };
    note(parts, untold.cause, of_path(untold.entry, request)).await;
}

/// Tells the audit trail of something that has happened already, whether it can be told or not.
pub async fn note(parts: &Parts, cause: Cause, entry: Entry) {
    let event = entry.event();
    if let Err(error) = parts.store.audit(cause, entry).await {
        tracing::error!(%error, %event, "the audit trail could not be told");
    }
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
