//! The row cache: resources and absent ids, so that decisions need no query.
//!
//! An entry is valid until a row that it was read from is written: each unit of work invalidates what it wrote when it ends.
//! Processes on one PostgreSQL notify each other (`LISTEN` and `NOTIFY`, in the transaction that writes); a process without
//! a connection for notifications caches nothing. A SQLite database is served by one process.

use super::StoreError;
use super::freshness::Freshness;
use super::postgres::{ConnectTarget, Pools, error_message};
use crate::authz::Unchecked;
use crate::config::Config;
use crate::resource::Resource;
use crate::types::{Cache, Id, RowVersion, RowVersions, Validity, Versions};
use sqlx::Executor;
use sqlx::postgres::PgListener;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// The memory for cached resources in bytes, by the estimate of [`crate::types::JsonSize`].
const ROW_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// The overhead of a cache entry, in bytes. It is the whole weight of an absent id.
const ENTRY_BYTES: u64 = 256;
/// The number of slots. Each id belongs to one; a write invalidates all ids of its slot.
const SLOTS: usize = 4096;
/// The slot of the signing keys. Some ids share it; writing one of them reloads the signing keys.
const SIGNING_KEYS_SLOT: usize = 0;
/// How long to wait for a notification before pinging the connection, and for the reply: a lost one is detected within 2 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The time between attempts to listen if the address is that of a pooler.
const POOLED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// The format of notifications. A version with another mapping of ids to slots is not understood and invalidates everything.
const NOTIFICATION_VERSION: &str = "v3";
/// The maximum number of slots of one kind in a notification, which has room for 8,000 bytes.
const MAX_NOTIFIED_SLOTS: usize = 500;
/// The time between attempts to listen.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The channel of the notifications.
const CHANNEL: &str = "cedargate_cache";

/// A cached resource of any type.
#[derive(Clone)]
pub(super) struct CachedRow(Arc<dyn Any + Send + Sync>);

impl CachedRow {
    /// Returns the resource, if it has this type.
    pub(super) fn downcast<R: Resource>(&self) -> Option<&Unchecked<R>> {
        self.0.downcast_ref()
    }
}

/// The row cache of a process.
pub(super) struct RowCache {
    all: AtomicU64,
    slots: Vec<AtomicU64>,
    /// Counters of creations, which do not invalidate what was present.
    created_slots: Vec<AtomicU64>,
    freshness: Freshness,
    /// Notified of every write, of this process and of others.
    writes: watch::Sender<()>,
    /// The resources by type and id; none for absent ids, so that these are answered as quickly as resources out of reach.
    rows: Cache<(&'static str, Id), Option<CachedRow>>,
}

impl std::fmt::Debug for RowCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowCache").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// The slots that a unit of work wrote.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    slots: Vec<usize>,
    created_slots: Vec<usize>,
    all: bool,
}

/// Invalidates what was written when dropped.
pub(super) struct InvalidateOnDrop(pub(super) Arc<RowCache>, pub(super) WriteSet);

impl Drop for InvalidateOnDrop {
    fn drop(&mut self) {
        self.0.invalidate(&self.1);
    }
}

impl WriteSet {
    /// Encodes the notification: the written slots, and with a plus those with creations.
    fn to_notification(&self) -> String {
        let mut parts = vec![NOTIFICATION_VERSION.to_owned()];
        // More slots than fit into a notification become `all`.
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

    /// Parses a notification of another process; none if it has another version or is malformed.
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

/// Returns the write counter of a slot.
fn counter(counts: &[AtomicU64], slot: usize) -> u64 {
    counts.get(slot).map_or(0, |count| count.load(Ordering::Acquire))
}

impl RowVersions for RowCache {
    fn is_unchanged(&self, version: &RowVersion) -> bool {
        self.freshness.is_usable()
            && version.written == counter(&self.slots, version.slot)
            && version.all == self.all()
    }

    fn is_still_absent(&self, version: &RowVersion) -> bool {
        self.freshness.is_usable()
            && version.created == counter(&self.created_slots, version.slot)
            && version.all == self.all()
    }

    fn is_stale(&self) -> bool {
        self.freshness.is_stale()
    }
}

impl RowCache {
    /// Creates the write counters, and the cache if it is on.
    pub(super) fn new(freshness: Freshness, is_on: bool) -> Self {
        let slots = || std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self {
            all: AtomicU64::new(0),
            slots: slots(),
            created_slots: slots(),
            freshness,
            writes: watch::Sender::new(()),
            rows: Cache::new(ROW_CACHE_BYTES, is_on),
        }
    }

    /// The state that decides whether cached data may be used.
    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Returns the slot of an id, the same in every process.
    fn slot_of(id: Id) -> usize {
        // Multiplying by 2^64 divided by the golden ratio spreads consecutive ids over the slots.
        usize::try_from(id.random_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or_default()
            % SLOTS
    }

    /// Returns the version of the row with this id, for what is read of it from now on.
    pub(super) fn row_version(&self, id: Id) -> RowVersion {
        self.slot_version(Self::slot_of(id))
    }

    /// Returns the version of the signing keys, for what is read of them from now on.
    pub(super) fn signing_keys_version(&self) -> RowVersion {
        // The creation of other rows in the slot does not concern the keys.
        RowVersion { created: 0, ..self.slot_version(SIGNING_KEYS_SLOT) }
    }

    fn slot_version(&self, slot: usize) -> RowVersion {
        RowVersion {
            slot,
            all: self.all(),
            written: counter(&self.slots, slot),
            created: counter(&self.created_slots, slot),
        }
    }

    fn all(&self) -> u64 {
        self.all.load(Ordering::Acquire)
    }

    /// Returns a resource, none if it is absent; or none if it is not known whether there is one.
    pub(super) fn get(&self, kind: &'static str, id: Id) -> Option<Option<CachedRow>> {
        self.rows.get(&(kind, id), &Versions::of_rows(self))
    }

    /// Caches a resource with this estimated size, which was read at this version.
    pub(super) fn insert<R: Resource>(
        &self,
        key: (&'static str, Id),
        version: RowVersion,
        bytes: usize,
        resource: Unchecked<R>,
    ) {
        let weight = ENTRY_BYTES.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let row = CachedRow(Arc::new(resource));
        self.insert_entry(key, Some(row), Validity::of_present_row(version), weight);
    }

    /// Caches that no resource of this type had this id.
    pub(super) fn insert_absent(&self, key: (&'static str, Id), version: RowVersion) {
        self.insert_entry(key, None, Validity::of_absent_row(version), ENTRY_BYTES);
    }

    fn insert_entry(&self, key: (&'static str, Id), row: Option<CachedRow>, validity: Validity, weight: u64) {
        if self.freshness.is_current() {
            self.rows.insert_weighted(key, row, validity, weight);
        }
    }

    /// Records that a row with this id is being written.
    pub(super) fn add_written(write_set: &mut WriteSet, id: Id) {
        write_set.slots.push(Self::slot_of(id));
    }

    /// Records that a resource with this id is being created.
    pub(super) fn add_created(write_set: &mut WriteSet, id: Id) {
        write_set.created_slots.push(Self::slot_of(id));
    }

    /// Records that the signing keys are being written.
    pub(super) fn add_signing_keys(write_set: &mut WriteSet) {
        write_set.slots.push(SIGNING_KEYS_SLOT);
    }

    /// Records that an unknown set of rows is being written.
    pub(super) fn add_all(write_set: &mut WriteSet) {
        write_set.all = true;
    }

    /// Returns the channel and the notification for other processes; none if nothing was written.
    pub(super) fn notification(write_set: &WriteSet) -> Option<(&'static str, String)> {
        let is_any = write_set.all || !write_set.slots.is_empty() || !write_set.created_slots.is_empty();
        is_any.then(|| (CHANNEL, write_set.to_notification()))
    }

    /// Invalidates what was, or may have been, written.
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
        if !write_set.slots.is_empty() || !write_set.created_slots.is_empty() {
            self.writes.send_replace(());
        }
    }

    fn invalidate_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
        self.writes.send_replace(());
    }

    /// Returns a receiver that is notified of every write.
    pub(super) fn watch_writes(&self) -> watch::Receiver<()> {
        self.writes.subscribe()
    }

    fn on_notification(&self, text: &str) {
        match WriteSet::parse(text) {
            Some(write_set) => self.invalidate(&write_set),
            None => self.invalidate_all(),
        }
    }

    /// Receives the notifications of other processes until the cache is dropped.
    pub(super) async fn listen(cache: Weak<Self>, config: Config, pools: Arc<Pools>) {
        let mut outage = pools.outage();
        while cache.strong_count() > 0 {
            let received = Self::listen_once(&cache, &config, &pools).await;
            if let Err(error) = &received {
                tracing::warn!(%error, "cannot receive notifications from other processes; the row cache is off");
            }
            let Some(lost) = cache.upgrade() else { return };
            lost.freshness.lose_contact();
            // In an outage of the database, decisions use cached rows for the permitted time, and other requests are rejected.
            if pools.check_outage().await {
                lost.freshness.confirm_outage();
                drop(lost);
                // The sender lives as long as the pools.
                drop(outage.wait_for(Option::is_none).await);
            }
            let Some(cache) = cache.upgrade() else { return };
            cache.freshness.set_off();
            cache.invalidate_all();
            drop(cache);
            let is_pooled = matches!(received, Err(StoreError::Misconfigured(_)));
            tokio::time::sleep(if is_pooled { POOLED_RETRY_INTERVAL } else { RETRY_INTERVAL }).await;
        }
    }

    /// Checks a silent connection: the network may have lost it without an error. An outage of the database is detected at the
    /// same time.
    async fn ping(listener: &mut PgListener, pools: &Pools) -> Result<(), sqlx::Error> {
        let ping = tokio::time::timeout(HEARTBEAT_INTERVAL, listener.execute("SELECT 1"));
        let answered = pools.probe_if_slow(ping).await;
        answered.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.map(drop)
    }

    async fn listen_once(weak: &Weak<Self>, config: &Config, pools: &Pools) -> Result<(), StoreError> {
        let target = ConnectTarget::for_notifications(config).await?;
        if target.is_pooled {
            return Err(StoreError::Misconfigured(
                "CEDARGATE_DATABASE_LISTEN_URL is the address of a connection pooler in transaction mode; expected that of \
                 the server itself"
                    .into(),
            ));
        }
        let mut listener = target.listen(CHANNEL).await.map_err(failed)?;
        if let Some(cache) = weak.upgrade() {
            // Writes before the LISTEN were not notified.
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
                // The connection is lost, and with it the notifications since.
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(failed(error)),
                Err(_) => {
                    drop(cache);
                    Self::ping(&mut listener, pools).await.map_err(failed)?;
                    if let Some(cache) = weak.upgrade() {
                        cache.freshness.record_contact();
                    }
                }
            }
        }
    }
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

    fn new_cache() -> RowCache {
        RowCache::new(Freshness::always(), true)
    }

    fn is_absent(cache: &RowCache, kind: &'static str) -> bool {
        matches!(cache.get(kind, id(1)), Some(None))
    }

    #[test]
    fn a_creation_invalidates_absence_but_not_presence() {
        let (cache, other) = (new_cache(), new_cache());
        let versions = [cache.row_version(id(1)), other.row_version(id(1))];
        cache.insert_absent(("Form", id(1)), versions[0]);
        other.insert_absent(("Form", id(1)), versions[1]);
        assert!(is_absent(&cache, "Form") && !is_absent(&cache, "User"));
        let mut write_set = WriteSet::default();
        RowCache::add_created(&mut write_set, id(1));
        let (_, notification) = RowCache::notification(&write_set).unwrap();
        cache.invalidate(&write_set);
        other.on_notification(&notification);
        for (cache, version) in [(&cache, versions[0]), (&other, versions[1])] {
            assert!(!is_absent(cache, "Form"));
            assert!(cache.is_unchanged(&version));
        }
    }

    #[test]
    fn a_write_invalidates_presence_but_not_absence() {
        let cache = new_cache();
        let version = cache.row_version(id(1));
        cache.insert_absent(("Form", id(1)), version);
        let mut write_set = WriteSet::default();
        RowCache::add_written(&mut write_set, id(1));
        cache.on_notification(&write_set.to_notification());
        assert!(!cache.is_unchanged(&version));
        assert!(is_absent(&cache, "Form"));
        cache.on_notification("v3 all");
        assert!(!is_absent(&cache, "Form"));
    }

    #[test]
    fn an_unknown_notification_version_invalidates_everything() {
        for notification in ["v2 1", "v3 x", "v3 +x", "", "v4 all"] {
            let cache = new_cache();
            let version = cache.row_version(id(1));
            cache.on_notification(notification);
            assert!(!cache.is_unchanged(&version) && !cache.is_still_absent(&version), "{notification}");
        }
        let mut write_set = WriteSet::default();
        (0..1_000).for_each(|number| RowCache::add_created(&mut write_set, id(number)));
        assert_eq!(write_set.to_notification(), "v3 +all");
        (0..1_000).for_each(|number| RowCache::add_written(&mut write_set, id(number)));
        assert_eq!(write_set.to_notification(), "v3 all +all");
        let cache = new_cache();
        let version = cache.row_version(id(1));
        cache.on_notification("v3 +all");
        assert!(cache.is_unchanged(&version) && !cache.is_still_absent(&version));
    }

    #[test]
    fn nothing_is_cached_without_a_notification_connection() {
        let (_, outage) = watch::channel(None);
        let cache = RowCache::new(Freshness::with_max_stale(Duration::ZERO, outage, Clock::system()), true);
        cache.insert_absent(("Form", id(1)), cache.row_version(id(1)));
        assert!(!is_absent(&cache, "Form"));
    }
}
