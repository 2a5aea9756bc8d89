//! What was read of the rows not long ago, so that a question about them needs no query. An entry is good as long as
//! nothing that it was read from has been written: every unit of work says what it wrote when it ends.
//!
//! Several processes on one PostgreSQL tell each other (`LISTEN` and `NOTIFY`, in the transaction that writes). While a
//! process cannot listen, it remembers nothing. SQLite has one process that serves.

use super::connections::Connections;
use super::freshness::Freshness;
use super::postgres::{ConnectTarget, error_message};
use super::{Account, StoreError};
use crate::authz::Unchecked;
use crate::config::Config;
use crate::resource::Resource;
use crate::types::Id;
use quick_cache::sync::Cache;
use quick_cache::{UnitWeighter, Weighter};
use sea_orm::{DbBackend, Statement};
use sqlx::Executor;
use sqlx::postgres::PgListener;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How much memory the cached rows take, in bytes, by the estimate of [`crate::types::JsonSize`].
const ROW_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// How many accounts are.
const ACCOUNT_CACHE_CAPACITY: u64 = 50_000;
/// How many ids of nothing are.
const ABSENT_CACHE_CAPACITY: u64 = 50_000;
/// Writes are told apart by as many slots.
const SLOTS: usize = 4096;
/// The slot of the keys that sign. A few things share it, which costs a look at the keys when these are written.
const SIGNING_KEYS_SLOT: usize = 0;
/// After so long without a notice the connection is tried, and for so long: within 2 s one that is lost counts for nothing.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The same where the address is that of a pooler.
const POOLED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// By what slots are told from those of versions of this service that find them otherwise, which then forget everything.
const NOTIFICATION_VERSION: &str = "v3";
/// How many slots of one sort a notification names at most; it has room for 8,000 bytes.
const MAX_NOTIFIED_SLOTS: usize = 500;
/// The time until the next attempt to receive notifications.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The channel on which processes tell each other what they wrote.
const CHANNEL: &str = "cedargate_facts";

/// When something was read. That it was there is good until the next write to its slot, or to everything; that it was absent,
/// until the next creation in its slot, or a write to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheVersion {
    all: u64,
    slot: u64,
    created: u64,
}

/// A thing that was read.
pub(super) struct CachedRow {
    version: CacheVersion,
    weight: u64,
    resource: Box<dyn Any + Send + Sync>,
}

impl CachedRow {
    /// The thing, if it is one of these.
    pub(super) fn downcast<R: Resource>(&self) -> Option<&Unchecked<R>> {
        self.resource.downcast_ref()
    }
}

#[derive(Clone)]
struct RowWeight;

impl Weighter<(&'static str, Id), Arc<CachedRow>> for RowWeight {
    fn weight(&self, _: &(&'static str, Id), entry: &Arc<CachedRow>) -> u64 {
        entry.weight
    }
}

/// What was read not long ago.
pub(super) struct RowCache {
    all: AtomicU64,
    slots: Vec<AtomicU64>,
    /// The same for creations, which leave everything good that was there.
    created_slots: Vec<AtomicU64>,
    freshness: Freshness,
    rows: Cache<(&'static str, Id), Arc<CachedRow>, RowWeight>,
    accounts: Cache<Id, (CacheVersion, Arc<Account>)>,
    /// Ids that are of nothing, so that such an id is answered as quickly as one of a resource out of reach.
    absent: Cache<(&'static str, Id), CacheVersion>,
}

impl std::fmt::Debug for RowCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowCache").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

/// What a unit of work wrote.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    slots: Vec<usize>,
    created_slots: Vec<usize>,
    all: bool,
}

/// Forgets what was written, at its end.
pub(super) struct InvalidateOnDrop(pub(super) Arc<RowCache>, pub(super) WriteSet);

impl Drop for InvalidateOnDrop {
    fn drop(&mut self) {
        self.0.invalidate(&self.1);
    }
}

impl WriteSet {
    /// The notification: the slots of what was written, and with a plus those of what was created.
    fn to_notification(&self) -> String {
        let mut parts = vec![NOTIFICATION_VERSION.to_owned()];
        // What does not fit into a notification is everything.
        match self.all || self.slots.len() > MAX_NOTIFIED_SLOTS {
            true => parts.push("all".to_owned()),
            false => parts.extend(self.slots.iter().map(ToString::to_string)),
        }
        match self.created_slots.len() > MAX_NOTIFIED_SLOTS {
            true => parts.push("+all".to_owned()),
            false => parts.extend(self.created_slots.iter().map(|slot| format!("+{slot}"))),
        }
        parts.join(" ")
    }

    /// What a notification of another process says; none where it is of another version.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split_ascii_whitespace();
        parts.next().filter(|version| *version == NOTIFICATION_VERSION)?;
        let mut write_set = Self::default();
        for part in parts {
            match part.strip_prefix('+') {
                Some("all") => write_set.created_slots.extend(0..SLOTS),
                Some(slot) => write_set.created_slots.push(slot.parse().ok()?),
                None if part == "all" => write_set.all = true,
                None => write_set.slots.push(part.parse().ok()?),
            }
        }
        Some(write_set)
    }
}

/// How often the things of a slot have been written, or created.
fn counter(counts: &[AtomicU64], slot: usize) -> u64 {
    counts.get(slot).map_or(0, |count| count.load(Ordering::Acquire))
}

impl RowCache {
    pub(super) fn new(freshness: Freshness) -> Self {
        let slots = || std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self {
            all: AtomicU64::new(0),
            slots: slots(),
            created_slots: slots(),
            freshness,
            rows: Cache::with_weighter(1_000, ROW_CACHE_BYTES, RowWeight),
            accounts: Cache::with_weighter(1_000, ACCOUNT_CACHE_CAPACITY, UnitWeighter),
            absent: Cache::with_weighter(1_000, ABSENT_CACHE_CAPACITY, UnitWeighter),
        }
    }

    /// Whether what was read before may be used.
    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The same in every process, since they tell each other.
    fn slot_of(id: Id) -> usize {
        // By the golden ratio, so that ids that follow one another lie far apart.
        usize::try_from(id.random_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or_default()
            % SLOTS
    }

    /// The stamp for what is read from now on.
    pub(super) fn cache_version(&self, id: Id) -> CacheVersion {
        let slot = Self::slot_of(id);
        CacheVersion {
            all: self.all(),
            slot: counter(&self.slots, slot),
            created: counter(&self.created_slots, slot),
        }
    }

    /// The stamp for what is read of the keys that sign.
    pub(super) fn signing_keys_version(&self) -> CacheVersion {
        CacheVersion { all: self.all(), slot: counter(&self.slots, SIGNING_KEYS_SLOT), created: 0 }
    }

    fn all(&self) -> u64 {
        self.all.load(Ordering::Acquire)
    }

    /// Whether what was read with this stamp, and was there, is still so.
    pub(super) fn is_unchanged(&self, version: CacheVersion, id: Id) -> bool {
        self.freshness.is_usable()
            && version.slot == counter(&self.slots, Self::slot_of(id))
            && version.all == self.all()
    }

    /// Whether what was absent at this stamp still is.
    pub(super) fn is_still_absent(&self, version: CacheVersion, id: Id) -> bool {
        self.freshness.is_usable()
            && version.created == counter(&self.created_slots, Self::slot_of(id))
            && version.all == self.all()
    }

    /// Whether it is known that there is nothing of this type with this id.
    pub(super) fn is_absent(&self, kind: &'static str, id: Id) -> bool {
        self.absent.get(&(kind, id)).is_some_and(|version| self.is_still_absent(version, id))
    }

    /// Remembers that there was nothing of this type with this id.
    pub(super) fn insert_absent(&self, kind: &'static str, id: Id, version: CacheVersion) {
        if self.freshness.is_current() {
            self.absent.insert((kind, id), version);
        }
    }

    pub(super) fn row(&self, kind: &'static str, id: Id) -> Option<Arc<CachedRow>> {
        self.rows.get(&(kind, id)).filter(|entry| self.is_unchanged(entry.version, id))
    }

    /// Remembers a thing that has so many bytes as JSON.
    pub(super) fn insert_row<R: Resource>(
        &self,
        key: (&'static str, Id),
        version: CacheVersion,
        bytes: usize,
        resource: Unchecked<R>,
    ) {
        if !self.freshness.is_current() {
            return;
        }
        let weight = u64::try_from(bytes + 256).unwrap_or(u64::MAX);
        self.rows.insert(key, Arc::new(CachedRow { version, weight, resource: Box::new(resource) }));
    }

    pub(super) fn account(&self, id: Id) -> Option<Arc<Account>> {
        let (version, account) = self.accounts.get(&id)?;
        self.is_unchanged(version, id).then_some(account)
    }

    pub(super) fn insert_account(&self, version: CacheVersion, account: &Arc<Account>) {
        if self.freshness.is_current() {
            self.accounts.insert(account.id, (version, Arc::clone(account)));
        }
    }

    /// Notes that a thing is being written.
    pub(super) fn add_written(write_set: &mut WriteSet, id: Id) {
        write_set.slots.push(Self::slot_of(id));
    }

    /// Notes that a resource is being created.
    pub(super) fn add_created(write_set: &mut WriteSet, id: Id) {
        write_set.created_slots.push(Self::slot_of(id));
    }

    /// Notes that a key that signs is being written.
    pub(super) fn add_signing_keys(write_set: &mut WriteSet) {
        write_set.slots.push(SIGNING_KEYS_SLOT);
    }

    /// Notes that so much is being written that everything has to be read anew.
    pub(super) fn add_all(write_set: &mut WriteSet) {
        write_set.all = true;
    }

    /// What other processes are to be told; none where there is nothing.
    pub(super) fn notification(write_set: &WriteSet) -> Option<(&'static str, String)> {
        let is_any = write_set.all || !write_set.slots.is_empty() || !write_set.created_slots.is_empty();
        is_any.then(|| (CHANNEL, write_set.to_notification()))
    }

    /// What was written is there for everybody now, or may be.
    pub(super) fn invalidate(&self, write_set: &WriteSet) {
        if write_set.all {
            self.invalidate_all();
        }
        for (counts, slots) in
            [(&self.slots, &write_set.slots), (&self.created_slots, &write_set.created_slots)]
        {
            for slot in slots.iter().filter_map(|slot| counts.get(*slot)) {
                slot.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn invalidate_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    fn on_notification(&self, text: &str) {
        match WriteSet::parse(text) {
            Some(write_set) => self.invalidate(&write_set),
            None => self.invalidate_all(),
        }
    }

    /// Receives the notifications of other processes, as long as there are facts to forget.
    pub(super) async fn listen(cache: Weak<Self>, config: Config, db: Connections) {
        while cache.strong_count() > 0 {
            let received = Self::listen_once(&cache, &config).await;
            if let Err(error) = &received {
                tracing::warn!(%error, "notifications of other processes cannot be received; the row cache is off");
            }
            let Some(cache) = cache.upgrade() else { return };
            cache.freshness.lose_contact();
            // Decisions go on with what was read before as long as the database is away, and no longer than permitted.
            let is_outage =
                cache.freshness.is_stale() && cache.freshness.is_usable() && !is_reachable(&db).await;
            if !is_outage && !cache.freshness.is_current() {
                cache.freshness.set_off();
                cache.invalidate_all();
            }
            drop(cache);
            let is_pooled = matches!(received, Err(StoreError::Misconfigured(_)));
            tokio::time::sleep(if is_pooled { POOLED_RETRY_INTERVAL } else { RETRY_INTERVAL }).await;
        }
    }

    /// Nothing has been heard for a while, which is so too where the network has lost the connection and tells nobody.
    async fn ping(listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let answered = tokio::time::timeout(HEARTBEAT_INTERVAL, listener.execute("SELECT 1")).await;
        answered.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.map(drop)
    }

    async fn listen_once(weak: &Weak<Self>, config: &Config) -> Result<(), StoreError> {
        let target = ConnectTarget::for_notifications(config).await?;
        if target.is_pooled {
            return Err(StoreError::Misconfigured(
                "CEDARGATE_DATABASE_LISTEN_URL is the address of a connection pooler in transaction mode; expected that of \
                 the server itself"
                    .into(),
            ));
        }
        let pool = target.connect().await.map_err(failed)?;
        let mut listener = PgListener::connect_with(&pool).await.map_err(failed)?;
        listener.ignore_pool_close_event(true);
        // Connecting again by itself, it would tell of the loss only when the database is back, or not at all.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.map_err(failed)?;
        if let Some(cache) = weak.upgrade() {
            // What was written before it could be heard.
            cache.invalidate_all();
            cache.freshness.set_current();
        }
        loop {
            let received = tokio::time::timeout(HEARTBEAT_INTERVAL, listener.try_recv()).await;
            let Some(cache) = weak.upgrade() else { return Ok(()) };
            match received {
                Ok(Ok(Some(notice))) => {
                    cache.freshness.record_contact();
                    cache.on_notification(notice.payload());
                }
                // The connection is gone, and with it what was said meanwhile.
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(failed(error)),
                Err(_) => {
                    drop(cache);
                    Self::ping(&mut listener).await.map_err(failed)?;
                    if let Some(cache) = weak.upgrade() {
                        cache.freshness.record_contact();
                    }
                }
            }
        }
    }
}

/// Whether the database answers on the connection that readiness has for itself.
async fn is_reachable(db: &Connections) -> bool {
    let statement = Statement::from_string(DbBackend::Postgres, "SELECT 1");
    let answered = tokio::time::timeout(HEARTBEAT_INTERVAL, db.query_health(statement)).await;
    matches!(answered, Ok(Ok(_)))
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error_message(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Clock;

    fn id(number: u32) -> Id {
        format!("{number:024x}").parse().unwrap()
    }

    #[test]
    fn a_creation_invalidates_absence_but_not_presence() {
        let (cache, other) = (RowCache::new(Freshness::always()), RowCache::new(Freshness::always()));
        let versions = [cache.cache_version(id(1)), other.cache_version(id(1))];
        cache.insert_absent("Form", id(1), versions[0]);
        other.insert_absent("Form", id(1), versions[1]);
        assert!(cache.is_absent("Form", id(1)) && !cache.is_absent("User", id(1)));
        let mut write_set = WriteSet::default();
        RowCache::add_created(&mut write_set, id(1));
        let (_, notification) = RowCache::notification(&write_set).unwrap();
        cache.invalidate(&write_set);
        other.on_notification(&notification);
        for (cache, version) in [(&cache, versions[0]), (&other, versions[1])] {
            assert!(!cache.is_absent("Form", id(1)));
            assert!(cache.is_unchanged(version, id(1)));
        }
    }

    #[test]
    fn a_write_invalidates_presence_but_not_absence() {
        let cache = RowCache::new(Freshness::always());
        let version = cache.cache_version(id(1));
        cache.insert_absent("Form", id(1), version);
        let mut write_set = WriteSet::default();
        RowCache::add_written(&mut write_set, id(1));
        cache.on_notification(&write_set.to_notification());
        assert!(!cache.is_unchanged(version, id(1)));
        assert!(cache.is_absent("Form", id(1)));
        cache.on_notification("v3 all");
        assert!(!cache.is_absent("Form", id(1)));
    }

    #[test]
    fn an_unknown_notification_version_invalidates_everything() {
        for notification in ["v2 1", "v3 x", "v3 +x", "", "v4 all"] {
            let cache = RowCache::new(Freshness::always());
            let version = cache.cache_version(id(1));
            cache.on_notification(notification);
            assert!(
                !cache.is_unchanged(version, id(1)) && !cache.is_still_absent(version, id(1)),
                "{notification}"
            );
        }
        let mut write_set = WriteSet::default();
        (0..1_000).for_each(|number| RowCache::add_created(&mut write_set, id(number)));
        assert_eq!(write_set.to_notification(), "v3 +all");
        (0..1_000).for_each(|number| RowCache::add_written(&mut write_set, id(number)));
        assert_eq!(write_set.to_notification(), "v3 all +all");
        let cache = RowCache::new(Freshness::always());
        let version = cache.cache_version(id(1));
        cache.on_notification("v3 +all");
        assert!(cache.is_unchanged(version, id(1)) && !cache.is_still_absent(version, id(1)));
    }

    #[test]
    fn nothing_is_cached_without_a_notification_connection() {
        let cache = RowCache::new(Freshness::with_max_stale(Duration::ZERO, Clock::system()));
        cache.insert_absent("Form", id(1), cache.cache_version(id(1)));
        assert!(!cache.is_absent("Form", id(1)));
    }
}
