//! Continuous verification: the rows of searches, and the audit entries of decisions on which the engine and Cedar's authorizer
//! differ.

use super::{AppState, audit};
use crate::authz::filter::Filter;
use crate::authz::{Difference, RowVerification};
use crate::store::{AuditActor, AuditEntry, Event, Outcome};
use crate::types::{Id, OrgPath, Timestamp};
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Weak};

/// The time in milliseconds in which an action has one audit entry. All differences are in the application log and in the
/// metrics.
const INTERVAL_MILLIS: i64 = 60_000;

/// The maximum length of the list of determining policies in an audit entry, in characters.
const MAX_POLICIES: usize = 1_000;

/// A search whose results are verified.
#[derive(Debug)]
pub(super) struct VerifiedSearch {
    /// The type of the resources.
    pub(super) kind: String,
    /// The organization that was searched with those below it.
    pub(super) top: OrgPath,
    /// The conditions of the query.
    pub(super) filters: Vec<Filter>,
    /// The verification of the questions of the search.
    pub(super) verification: RowVerification,
}

/// Has a sample of the results of a search verified. Their entities are loaded in the background, if the sample has any: by the
/// conditions of the search, so that a resource that was changed since is not reported.
pub(super) fn verify_search(state: Arc<AppState>, search: VerifiedSearch, ids: &[Id]) {
    let sample = search.verification.sample(ids);
    if sample.is_empty() {
        return;
    }
    let Some(permit) = search.verification.begin_load(sample.len()) else { return };
    tokio::spawn(async move {
        let VerifiedSearch { kind, top, filters, verification } = search;
        let reader = state.store.reader();
        match state.resource_types.searched_entities(&reader, &kind, (&top, &filters), &sample).await {
            Ok(entities) => entities.iter().for_each(|entity| verification.verify(entity)),
            Err(error) => {
                tracing::debug!(%error, "the results of a search cannot be loaded for their verification");
                verification.count_dropped(sample.len());
            }
        }
        drop(permit);
    });
}

/// Starts the task that records differences in the audit log. It ends with the state.
pub fn spawn_recorder(state: &Arc<AppState>) {
    let verifier = state.policies.verifier();
    let Some(mut differences) = verifier.and_then(|verifier| verifier.take_differences()) else { return };
    // The verifier belongs to the state: a strong reference would keep both forever.
    let state = Arc::downgrade(state);
    tokio::spawn(async move {
        let mut recorded = HashMap::new();
        while let Some(difference) = differences.recv().await {
            let Some(state) = Weak::upgrade(&state) else { return };
            record(&state, &difference, &mut recorded).await;
        }
    });
}

/// Records a difference, unless one of the same action was recorded within the last minute. `recorded` has the time of the last
/// entry of each action.
async fn record(
    state: &AppState,
    difference: &Difference,
    recorded: &mut HashMap<Option<String>, Timestamp>,
) {
    let now = state.clock.now();
    let is_recent = |last: &Timestamp| (0..INTERVAL_MILLIS).contains(&(now.millis() - last.millis()));
    if recorded.get(&difference.action).is_some_and(is_recent) {
        return;
    }
    recorded.insert(difference.action.clone(), now);
    let named = |(kind, id): &(String, Option<Id>)| match id {
        Some(id) => format!("{kind} {id}"),
        None => kind.clone(),
    };
    let answer = |answer: &dyn Display| answer.to_string().chars().take(MAX_POLICIES).collect::<String>();
    let entry = AuditEntry::new(Event::DecisionDiffers)
        .outcome(Outcome::Failed)
        .with("action", difference.action.clone())
        .with("principal", named(&difference.principal))
        .with("resource", named(&difference.resource))
        .with("engine", answer(&difference.engine))
        .with("cedar", answer(&difference.cedar))
        .with("version", difference.version.as_str());
    audit::record_or_queue(state, AuditActor::service(now), entry).await;
}
