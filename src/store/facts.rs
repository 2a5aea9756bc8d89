//! What was read of the rows not long ago, so that a question about them needs no query. An entry is good as long as
//! nothing that it was read from has been written: every unit of work says what it wrote when it ends.
//!
//! Several processes on one PostgreSQL tell each other (`LISTEN` and `NOTIFY`, in the transaction that writes). While a
//! process cannot listen, it remembers nothing. SQLite has one process that serves.

use super::connections::Connections;
use super::freshness::Freshness;
use super::postgres::{Target, cause_of};
use super::{Account, StoreError};
use crate::authz::Undecided;
use crate::config::Config;
use crate::resource::Resource;
use crate::values::Id;
use quick_cache::sync::Cache;
use quick_cache::{UnitWeighter, Weighter};
use sea_orm::{DbBackend, Statement};
use sqlx::Executor;
use sqlx::postgres::PgListener;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How much memory the cached rows take, in bytes, by the estimate of [`crate::values::JsonSize`].
const REMEMBERED: u64 = 32 * 1024 * 1024;
/// How many accounts are.
const ACCOUNTS: u64 = 50_000;
/// How many ids of nothing are.
const ABSENCES: u64 = 50_000;
/// Writes are told apart by as many slots.
const SLOTS: usize = 4096;
/// The slot of the keys that sign. A few things share it, which costs a look at the keys when these are written.
const SIGNING_KEYS: usize = 0;
/// After so long without a notice the connection is tried, and for so long: within 2 s one that is lost counts for nothing.
const QUIET: Duration = Duration::from_secs(1);
/// The same where the address is that of a pooler.
const POOLED_RETRY: Duration = Duration::from_secs(60);
/// By what slots are told from those of versions of this service that find them otherwise, which then forget everything.
const SLOTTED: &str = "v3";
/// How many slots of one sort a notification names at most; it has room for 8,000 bytes.
const MOST_SLOTS: usize = 500;
/// The time until the next attempt to receive notifications.
const RETRY: Duration = Duration::from_millis(500);
/// The channel on which processes tell each other what they wrote.
const CHANNEL: &str = "cedargate_facts";

/// When something was read. That it was there is good until the next write to its slot, or to everything; that it was absent,
/// until the next creation in its slot, or a write to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    all: u64,
    slot: u64,
    created: u64,
}

/// A thing that was read.
pub(super) struct Entry {
    stamp: Stamp,
    weight: u64,
    thing: Box<dyn Any + Send + Sync>,
}

impl Entry {
    /// The thing, if it is one of these.
    pub(super) fn thing<R: Resource>(&self) -> Option<&Undecided<R>> {
        self.thing.downcast_ref()
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<(&'static str, Id), Arc<Entry>> for Bytes {
    fn weight(&self, _: &(&'static str, Id), entry: &Arc<Entry>) -> u64 {
        entry.weight
    }
}

/// What was read not long ago.
pub(super) struct Facts {
    all: AtomicU64,
    slots: Vec<AtomicU64>,
    /// The same for creations, which leave everything good that was there.
    created: Vec<AtomicU64>,
    freshness: Freshness,
    rows: Cache<(&'static str, Id), Arc<Entry>, Bytes>,
    accounts: Cache<Id, (Stamp, Arc<Account>)>,
    /// Ids that are of nothing, so that such an id is answered as quickly as one of a resource out of reach.
    absent: Cache<(&'static str, Id), Stamp>,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

/// What a unit of work wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    slots: Vec<usize>,
    created: Vec<usize>,
    all: bool,
}

/// Forgets what was written, at its end.
pub(super) struct Forget(pub(super) Arc<Facts>, pub(super) Written);

impl Drop for Forget {
    fn drop(&mut self) {
        self.0.forget(&self.1);
    }
}

impl Written {
    /// The notification: the slots of what was written, and with a plus those of what was created.
    fn text(&self) -> String {
        let mut words = vec![SLOTTED.to_owned()];
        // What does not fit into a notification is everything.
        match self.all || self.slots.len() > MOST_SLOTS {
            true => words.push("all".to_owned()),
            false => words.extend(self.slots.iter().map(ToString::to_string)),
        }
        match self.created.len() > MOST_SLOTS {
            true => words.push("+all".to_owned()),
            false => words.extend(self.created.iter().map(|slot| format!("+{slot}"))),
        }
        words.join(" ")
    }

    /// What a notification of another process says; none where it is of another version.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        words.next().filter(|version| *version == SLOTTED)?;
        let mut written = Self::default();
        for word in words {
            match word.strip_prefix('+') {
                Some("all") => written.created.extend(0..SLOTS),
                Some(slot) => written.created.push(slot.parse().ok()?),
                None if word == "all" => written.all = true,
                None => written.slots.push(word.parse().ok()?),
            }
        }
        Some(written)
    }
}

/// How often the things of a slot have been written, or created.
fn count(counts: &[AtomicU64], slot: usize) -> u64 {
    counts.get(slot).map_or(0, |count| count.load(Ordering::Acquire))
}

impl Facts {
    pub(super) fn new(freshness: Freshness) -> Self {
        let slots = || std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self {
            all: AtomicU64::new(0),
            slots: slots(),
            created: slots(),
            freshness,
            rows: Cache::with_weighter(1_000, REMEMBERED, Bytes),
            accounts: Cache::with_weighter(1_000, ACCOUNTS, UnitWeighter),
            absent: Cache::with_weighter(1_000, ABSENCES, UnitWeighter),
        }
    }

    /// Whether what was read before may be used.
    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The same in every process, since they tell each other.
    fn slot(id: Id) -> usize {
        // By the golden ratio, so that ids that follow one another lie far apart.
        usize::try_from(id.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or_default() % SLOTS
    }

    /// The stamp for what is read from now on.
    pub(super) fn stamp(&self, id: Id) -> Stamp {
        let slot = Self::slot(id);
        Stamp { all: self.all(), slot: count(&self.slots, slot), created: count(&self.created, slot) }
    }

    /// The stamp for what is read of the keys that sign.
    pub(super) fn stamp_of_signing_keys(&self) -> Stamp {
        Stamp { all: self.all(), slot: count(&self.slots, SIGNING_KEYS), created: 0 }
    }

    fn all(&self) -> u64 {
        self.all.load(Ordering::Acquire)
    }

    /// Whether what was read with this stamp, and was there, is still so.
    pub(super) fn is_good(&self, stamp: Stamp, id: Id) -> bool {
        self.freshness.is_usable()
            && stamp.slot == count(&self.slots, Self::slot(id))
            && stamp.all == self.all()
    }

    /// Whether what was absent at this stamp still is.
    pub(super) fn is_still_absent(&self, stamp: Stamp, id: Id) -> bool {
        self.freshness.is_usable()
            && stamp.created == count(&self.created, Self::slot(id))
            && stamp.all == self.all()
    }

    /// Whether it is known that there is nothing of this type with this id.
    pub(super) fn is_absent(&self, kind: &'static str, id: Id) -> bool {
        self.absent.get(&(kind, id)).is_some_and(|stamp| self.is_still_absent(stamp, id))
    }

    /// Remembers that there was nothing of this type with this id.
    pub(super) fn remember_absent(&self, kind: &'static str, id: Id, stamp: Stamp) {
        if self.freshness.is_current() {
            self.absent.insert((kind, id), stamp);
        }
    }

    pub(super) fn row(&self, kind: &'static str, id: Id) -> Option<Arc<Entry>> {
        self.rows.get(&(kind, id)).filter(|entry| self.is_good(entry.stamp, id))
    }

    /// Remembers a thing that has so many bytes as JSON.
    pub(super) fn remember_row<R: Resource>(
        &self,
        key: (&'static str, Id),
        stamp: Stamp,
        bytes: usize,
        thing: Undecided<R>,
    ) {
        if !self.freshness.is_current() {
            return;
        }
        let weight = u64::try_from(bytes + 256).unwrap_or(u64::MAX);
        self.rows.insert(key, Arc::new(Entry { stamp, weight, thing: Box::new(thing) }));
    }

    pub(super) fn account(&self, id: Id) -> Option<Arc<Account>> {
        let (stamp, account) = self.accounts.get(&id)?;
        self.is_good(stamp, id).then_some(account)
    }

    pub(super) fn remember_account(&self, stamp: Stamp, account: &Arc<Account>) {
        if self.freshness.is_current() {
            self.accounts.insert(account.id, (stamp, Arc::clone(account)));
        }
    }

    /// Notes that a thing is being written.
    pub(super) fn note(written: &mut Written, id: Id) {
        written.slots.push(Self::slot(id));
    }

    /// Notes that a resource is being created.
    pub(super) fn note_created(written: &mut Written, id: Id) {
        written.created.push(Self::slot(id));
    }

    /// Notes that a key that signs is being written.
    pub(super) fn note_signing_keys(written: &mut Written) {
        written.slots.push(SIGNING_KEYS);
    }

    /// Notes that so much is being written that everything has to be read anew.
    pub(super) fn note_all(written: &mut Written) {
        written.all = true;
    }

    /// What other processes are to be told; none where there is nothing.
    pub(super) fn notice(written: &Written) -> Option<(&'static str, String)> {
        let is_any = written.all || !written.slots.is_empty() || !written.created.is_empty();
        is_any.then(|| (CHANNEL, written.text()))
    }

    /// What was written is there for everybody now, or may be.
    pub(super) fn forget(&self, written: &Written) {
        if written.all {
            self.forget_all();
        }
        for (counts, written) in [(&self.slots, &written.slots), (&self.created, &written.created)] {
            for slot in written.iter().filter_map(|slot| counts.get(*slot)) {
                slot.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn forget_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    fn hear(&self, text: &str) {
        match Written::parse(text) {
            Some(written) => self.forget(&written),
            None => self.forget_all(),
        }
    }

    /// Receives the notifications of other processes, as long as there are facts to forget.
    pub(super) async fn listen(facts: Weak<Self>, config: Config, db: Connections) {
        while facts.strong_count() > 0 {
            let received = Self::listen_once(&facts, &config).await;
            if let Err(error) = &received {
                tracing::warn!(%error, "notifications of other processes cannot be received; the row cache is off");
            }
            let Some(facts) = facts.upgrade() else { return };
            facts.freshness.lose_contact();
            // Decisions go on with what was read before as long as the database is away, and no longer than permitted.
            let is_away =
                facts.freshness.is_stale() && facts.freshness.is_usable() && !is_reachable(&db).await;
            if !is_away && !facts.freshness.is_current() {
                facts.freshness.turn_off();
                facts.forget_all();
            }
            drop(facts);
            let is_pooled = matches!(received, Err(StoreError::Foreign(_)));
            tokio::time::sleep(if is_pooled { POOLED_RETRY } else { RETRY }).await;
        }
    }

    /// Nothing has been heard for a while, which is so too where the network has lost the connection and tells nobody.
    async fn expect_answer(listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let answered = tokio::time::timeout(QUIET, listener.execute("SELECT 1")).await;
        answered.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.map(drop)
    }

    async fn listen_once(weak: &Weak<Self>, config: &Config) -> Result<(), StoreError> {
        let target = Target::notifications(config).await?;
        if target.is_pooled {
            return Err(StoreError::Foreign(
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
        if let Some(facts) = weak.upgrade() {
            // What was written before it could be heard.
            facts.forget_all();
            facts.freshness.turn_current();
        }
        loop {
            let heard = tokio::time::timeout(QUIET, listener.try_recv()).await;
            let Some(facts) = weak.upgrade() else { return Ok(()) };
            match heard {
                Ok(Ok(Some(notice))) => {
                    facts.freshness.contact();
                    facts.hear(notice.payload());
                }
                // The connection is gone, and with it what was said meanwhile.
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(failed(error)),
                Err(_) => {
                    drop(facts);
                    Self::expect_answer(&mut listener).await.map_err(failed)?;
                    if let Some(facts) = weak.upgrade() {
                        facts.freshness.contact();
                    }
                }
            }
        }
    }
}

/// Whether the database answers on the connection that readiness has for itself.
async fn is_reachable(db: &Connections) -> bool {
    let statement = Statement::from_string(DbBackend::Postgres, "SELECT 1");
    let answered = tokio::time::timeout(QUIET, db.query_health(statement)).await;
    matches!(answered, Ok(Ok(_)))
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(cause_of(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Clock;

    fn id(number: u32) -> Id {
        format!("{number:024x}").parse().unwrap()
    }

    #[test]
    fn a_creation_ends_the_absence_of_its_id_and_no_presence() {
        let (facts, other) = (Facts::new(Freshness::always()), Facts::new(Freshness::always()));
        let stamps = [facts.stamp(id(1)), other.stamp(id(1))];
        facts.remember_absent("Form", id(1), stamps[0]);
        other.remember_absent("Form", id(1), stamps[1]);
        assert!(facts.is_absent("Form", id(1)) && !facts.is_absent("User", id(1)));
        let mut written = Written::default();
        Facts::note_created(&mut written, id(1));
        let (_, notice) = Facts::notice(&written).unwrap();
        facts.forget(&written);
        other.hear(&notice);
        for (facts, stamp) in [(&facts, stamps[0]), (&other, stamps[1])] {
            assert!(!facts.is_absent("Form", id(1)));
            assert!(facts.is_good(stamp, id(1)));
        }
    }

    #[test]
    fn a_write_ends_a_presence_and_no_absence() {
        let facts = Facts::new(Freshness::always());
        let stamp = facts.stamp(id(1));
        facts.remember_absent("Form", id(1), stamp);
        let mut written = Written::default();
        Facts::note(&mut written, id(1));
        facts.hear(&written.text());
        assert!(!facts.is_good(stamp, id(1)));
        assert!(facts.is_absent("Form", id(1)));
        facts.hear("v3 all");
        assert!(!facts.is_absent("Form", id(1)));
    }

    #[test]
    fn what_cannot_be_named_or_is_of_another_version_is_everything() {
        for notice in ["v2 1", "v3 x", "v3 +x", "", "v4 all"] {
            let facts = Facts::new(Freshness::always());
            let stamp = facts.stamp(id(1));
            facts.hear(notice);
            assert!(!facts.is_good(stamp, id(1)) && !facts.is_still_absent(stamp, id(1)), "{notice}");
        }
        let mut written = Written::default();
        (0..1_000).for_each(|number| Facts::note_created(&mut written, id(number)));
        assert_eq!(written.text(), "v3 +all");
        (0..1_000).for_each(|number| Facts::note(&mut written, id(number)));
        assert_eq!(written.text(), "v3 all +all");
        let facts = Facts::new(Freshness::always());
        let stamp = facts.stamp(id(1));
        facts.hear("v3 +all");
        assert!(facts.is_good(stamp, id(1)) && !facts.is_still_absent(stamp, id(1)));
    }

    #[test]
    fn nothing_is_remembered_while_others_cannot_be_heard() {
        let facts = Facts::new(Freshness::after_contact(Duration::ZERO, Clock::system()));
        facts.remember_absent("Form", id(1), facts.stamp(id(1)));
        assert!(!facts.is_absent("Form", id(1)));
    }
}
