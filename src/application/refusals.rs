//! Coalesces refusals before they reach the audit log: one entry per caller, action and minute, with a count.
//!
//! A caller may repeat a refused request as often as the rate limits allow. Without this, each of them would append an
//! entry under the lock that every login needs. The entries of a minute are appended when it is over, and all of them when the
//! service shuts down. A process that is killed loses those of its last minute.

use crate::store::{AuditActor, AuditEntry, Event, Outcome, Store, StoreError};
use crate::types::{Id, OrgPath, Timestamp};
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum number of pending entries. Further refusals are counted together, without their callers.
const MAX_PENDING: usize = 10_000;

/// The maximum number of targets that an entry names beside the first one.
const MAX_OTHER_TARGETS: usize = 10;

/// The maximum number of entries that one unit of work appends. The audit log is locked until it ends.
const MAX_ENTRIES_PER_TRANSACTION: usize = 500;

const MINUTE: i64 = 60_000;

/// A refusal of an administrative action by the policies.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who was refused, from where and when.
    pub audit_actor: AuditActor,
    /// The Cedar action.
    pub action: &'static str,
    /// The organization whose admins see the entry; none where only those of the root organization do.
    pub organization: Option<OrgPath>,
    /// Whether the target exists, where the answer must not disclose that.
    pub is_found: Option<bool>,
}

/// A resource that was refused, by its type and id.
pub type Target = (&'static str, Id);

/// The key by which refusals are coalesced. It does not contain whether the target exists: the numbers of the entries would
/// disclose that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RefusalKey {
    actor: Option<Id>,
    credential_id: Option<Id>,
    action: &'static str,
    organization: Option<OrgPath>,
    minute: i64,
}

/// The refusals of one entry.
#[derive(Debug, Clone)]
struct CoalescedRefusals {
    /// The number of the first refusal, counted over all keys.
    order: u64,
    first: AuditActor,
    last: Timestamp,
    count: u64,
    is_found: Option<bool>,
    target: Option<Target>,
    other_targets: Vec<Id>,
}

type PendingRefusals = HashMap<RefusalKey, CoalescedRefusals>;

/// The refusals that are not in the audit log yet.
#[derive(Debug, Clone, Default)]
pub struct RefusalAggregator(Arc<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    pending: Mutex<PendingRefusals>,
    next: AtomicU64,
    /// Held while entries are appended, so that no refusal is appended twice.
    writer: tokio::sync::Mutex<()>,
}

impl RefusalAggregator {
    /// Counts a refusal.
    pub fn add(&self, refusal: Refusal, target: Option<Target>) {
        let Refusal { audit_actor: actor, action, organization, is_found } = refusal;
        let minute = actor.time.millis().div_euclid(MINUTE);
        let key = RefusalKey {
            actor: actor.user,
            credential_id: actor.credential_id,
            action,
            organization,
            minute,
        };
        let order = self.0.next.fetch_add(1, Ordering::Relaxed);
        let count = CoalescedRefusals {
            order,
            last: actor.time,
            first: actor,
            count: 1,
            is_found,
            target,
            other_targets: Vec::new(),
        };
        insert(&mut self.pending(), key, count);
    }

    /// Returns the number of pending entries.
    pub fn pending_entries(&self) -> usize {
        self.pending().len()
    }

    /// Appends the entries of the minutes that are over.
    ///
    /// # Errors
    /// The refusals that could not be appended stay pending.
    pub async fn write_completed_minutes(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let minute = now.millis().div_euclid(MINUTE);
        // A minute after this one is complete as well: the clock was set back.
        self.write(store, now, move |key| key.minute != minute).await
    }

    /// Appends all entries, those of the current minute included.
    ///
    /// # Errors
    /// The refusals that could not be appended stay pending.
    pub async fn write_all(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        self.write(store, now, |_| true).await
    }

    async fn write(
        &self,
        store: &Store,
        now: Timestamp,
        is_due: impl Fn(&RefusalKey) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        if self.pending().is_empty() {
            return Ok(());
        }
        let (this, store) = (self.clone(), store.clone());
        // In a task of its own: if the caller is cancelled, the outcome of the commit is still handled.
        let written = tokio::spawn(async move {
            let _writer = this.0.writer.lock().await;
            let mut due: Vec<(RefusalKey, CoalescedRefusals)> =
                this.pending().extract_if(|key, _| is_due(key)).collect();
            due.sort_by_key(|(_, count)| count.order);
            while !due.is_empty() {
                let later = due.split_off(due.len().min(MAX_ENTRIES_PER_TRANSACTION));
                if let Err(error) = append(&store, now, &due).await {
                    let mut pending = this.pending();
                    due.into_iter().chain(later).for_each(|(key, count)| insert(&mut pending, key, count));
                    return Err(error);
                }
                due = later;
            }
            Ok(())
        });
        written.await.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
    }

    fn pending(&self) -> MutexGuard<'_, PendingRefusals> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a count to the one of the same key. If the map is full, a new key is counted without its caller.
fn insert(pending: &mut PendingRefusals, key: RefusalKey, count: CoalescedRefusals) {
    let is_full = pending.len() >= MAX_PENDING && !pending.contains_key(&key);
    let (key, count) = if is_full { (anonymous(&key), count.anonymous()) } else { (key, count) };
    match pending.entry(key) {
        MapEntry::Vacant(slot) => drop(slot.insert(count)),
        MapEntry::Occupied(mut slot) => slot.get_mut().add(count),
    }
}

/// Returns the key of the refusals of this minute that are counted without their callers.
fn anonymous(key: &RefusalKey) -> RefusalKey {
    RefusalKey { actor: None, credential_id: None, action: "any", organization: None, minute: key.minute }
}

impl CoalescedRefusals {
    fn anonymous(self) -> Self {
        let first = AuditActor::service(self.first.time);
        Self { first, is_found: None, target: None, other_targets: Vec::new(), ..self }
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        if other.order < self.order {
            (self.order, self.first) = (other.order, other.first);
        }
        self.last = self.last.max(other.last);
        self.is_found = self.is_found.max(other.is_found);
        for id in other.target.map(|(_, id)| id).into_iter().chain(other.other_targets) {
            let is_known =
                self.target.is_some_and(|(_, first)| first == id) || self.other_targets.contains(&id);
            if !is_known && self.other_targets.len() < MAX_OTHER_TARGETS {
                self.other_targets.push(id);
            }
        }
        self.target = self.target.or(other.target);
    }
}

/// Returns the audit entry of the refusals with this key.
fn entry(key: &RefusalKey, count: &CoalescedRefusals) -> AuditEntry {
    let mut entry = AuditEntry::new(Event::AccessDenied)
        .outcome(Outcome::Denied)
        .with_actor(count.first.clone())
        .with("action", key.action)
        .with("count", count.count);
    if let Some(is_found) = count.is_found {
        entry = entry.with("found", is_found);
    }
    if count.count > 1 {
        entry = entry.with("last", count.last.to_string());
    }
    if !count.other_targets.is_empty() {
        let others: Vec<String> = count.other_targets.iter().map(ToString::to_string).collect();
        entry = entry.with("otherTargets", others);
    }
    if let Some((kind, id)) = count.target {
        entry = entry.target(kind, id);
    }
    match &key.organization {
        Some(organization) => entry.in_organization(organization),
        None => entry,
    }
}

/// Appends the entries in one unit of work.
async fn append(
    store: &Store,
    now: Timestamp,
    due: &[(RefusalKey, CoalescedRefusals)],
) -> Result<(), StoreError> {
    let work = store.begin(AuditActor::service(now)).await?;
    due.iter().for_each(|(key, count)| work.audit(entry(key, count)));
    work.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(actor: u128, at: i64) -> Refusal {
        let actor = format!("{actor:024x}").parse().unwrap();
        let audit_actor = AuditActor { user: Some(actor), ..AuditActor::service(Timestamp::from_millis(at)) };
        Refusal { audit_actor, action: "deleteUser", organization: None, is_found: Some(false) }
    }

    #[test]
    fn memory_is_bounded_and_every_refusal_is_counted() {
        let refusals = RefusalAggregator::default();
        let callers = MAX_PENDING + 500;
        for at in 0..callers {
            for _ in 0..2 {
                refusals.add(refusal(u128::try_from(at).unwrap(), 1_000), None);
            }
        }
        assert_eq!(refusals.pending_entries(), MAX_PENDING + 1);
        let pending = refusals.pending();
        assert_eq!(pending.values().map(|count| count.count).sum::<u64>(), 2 * callers as u64);
        let anonymous: Vec<_> = pending.iter().filter(|(key, _)| key.actor.is_none()).collect();
        assert_eq!(anonymous.len(), 1);
        assert_eq!(anonymous[0].1.count, 1_000);
    }

    #[test]
    fn a_count_names_a_bounded_number_of_targets_each_once() {
        let refusals = RefusalAggregator::default();
        for id in 0..100u32 {
            let target = format!("{:024x}", id % 50).parse().unwrap();
            refusals.add(refusal(1, i64::from(id)), Some(("User", target)));
        }
        let pending = refusals.pending();
        let count = pending.values().next().unwrap();
        assert_eq!((pending.len(), count.count, count.other_targets.len()), (1, 100, MAX_OTHER_TARGETS));
        assert_eq!(count.target.unwrap().1, format!("{:024x}", 0).parse().unwrap());
        assert!(!count.other_targets.contains(&count.target.unwrap().1));
    }
}
