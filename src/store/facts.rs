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
/// Writes are told apart by as many slots.
const SLOTS: usize = 4096;
/// The slot of the keys that sign. A few things share it, which costs a look at the keys when these are written.
const SIGNING_KEYS: usize = 0;
/// After so long without a notice the connection is tried, and for so long: within 2 s one that is lost counts for nothing.
const QUIET: Duration = Duration::from_secs(1);
/// The same where the address is that of a pooler.
const POOLED_RETRY: Duration = Duration::from_secs(60);
/// By what slots are told from those of versions of this service that find them otherwise, which then forget everything.
const SLOTTED: &str = "v2";
/// The time until the next attempt to receive notifications.
const RETRY: Duration = Duration::from_millis(500);
/// The channel on which processes tell each other what they wrote.
const CHANNEL: &str = "cedargate_facts";

/// When something was read: good until the next write to its slot, or to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    all: u64,
    slot: u64,
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
    freshness: Freshness,
    rows: Cache<(&'static str, Id), Arc<Entry>, Bytes>,
    accounts: Cache<Id, (Stamp, Arc<Account>)>,
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
    fn text(&self) -> String {
        let words: Vec<String> = self.slots.iter().map(ToString::to_string).collect();
        // What does not fit into a notification is everything.
        let what = if self.all || self.slots.len() > 500 { "all".to_owned() } else { words.join(" ") };
        format!("{SLOTTED} {what}")
    }
}

impl Facts {
    pub(super) fn new(freshness: Freshness) -> Self {
        Self {
            all: AtomicU64::new(0),
            slots: std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect(),
            freshness,
            rows: Cache::with_weighter(1_000, REMEMBERED, Bytes),
            accounts: Cache::with_weighter(1_000, ACCOUNTS, UnitWeighter),
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
        let slot = self.slots.get(Self::slot(id)).map_or(0, |slot| slot.load(Ordering::Acquire));
        Stamp { all: self.all.load(Ordering::Acquire), slot }
    }

    /// The stamp for what is read of the keys that sign.
    pub(super) fn stamp_of_signing_keys(&self) -> Stamp {
        let slot = self.slots.get(SIGNING_KEYS).map_or(0, |slot| slot.load(Ordering::Acquire));
        Stamp { all: self.all.load(Ordering::Acquire), slot }
    }

    /// Whether what was read with this stamp is still so.
    pub(super) fn is_good(&self, stamp: Stamp, id: Id) -> bool {
        self.freshness.is_usable() && self.stamp(id) == stamp
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
        (written.all || !written.slots.is_empty()).then(|| (CHANNEL, written.text()))
    }

    /// What was written is there for everybody now, or may be.
    pub(super) fn forget(&self, written: &Written) {
        if written.all {
            self.forget_all();
        }
        for slot in &written.slots {
            if let Some(slot) = self.slots.get(*slot) {
                slot.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn forget_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    fn hear(&self, text: &str) {
        let words = text.strip_prefix(SLOTTED).map(str::split_ascii_whitespace);
        let slots: Option<Vec<usize>> = words.and_then(|words| words.map(|word| word.parse().ok()).collect());
        match slots {
            Some(slots) => self.forget(&Written { slots, all: false }),
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
