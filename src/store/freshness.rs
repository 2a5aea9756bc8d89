//! Whether cached data may be used.
//!
//! With PostgreSQL this depends on the notifications of other processes: while they arrive, all writes are known. During an
//! outage of the database, decisions may use the data cached at its beginning for a limited time.

use super::postgres::Outage;
use crate::types::Clock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Cached data must not be used.
const OFF: u8 = 0;
/// Cached data is current.
const CURRENT: u8 = 1;
/// Notifications are missing, and it is not known yet whether the database is unavailable. Cached data must not be used.
const UNCONFIRMED: u8 = 2;
/// The database is unavailable, and data cached before the outage may be used for decisions until the outage ends.
const STALE: u8 = 3;

/// The state that decides whether cached data may be used.
#[derive(Debug)]
pub(super) struct Freshness {
    state: AtomicU8,
    /// The number of times that a stale period began or ended; odd during one.
    transitions: AtomicU64,
    /// When this process last received data from the database, in milliseconds of the monotonic clock.
    last_contact: AtomicU64,
    /// The maximum duration of a stale period.
    max_stale: Duration,
    outage: watch::Receiver<Outage>,
    clock: Clock,
}

impl Freshness {
    /// For SQLite: cached data is always current, since no other process writes.
    pub(super) fn always() -> Self {
        let (_, outage) = watch::channel(None);
        Self {
            state: AtomicU8::new(CURRENT),
            ..Self::with_max_stale(Duration::ZERO, outage, Clock::system())
        }
    }

    /// For PostgreSQL: cached data is current while notifications arrive, and usable for `max_stale` in an outage.
    pub(super) fn with_max_stale(max_stale: Duration, outage: watch::Receiver<Outage>, clock: Clock) -> Self {
        Self {
            state: AtomicU8::new(OFF),
            transitions: AtomicU64::new(0),
            last_contact: AtomicU64::new(0),
            max_stale,
            outage,
            clock,
        }
    }

    /// Returns whether cached data may be used now.
    pub(super) fn is_usable(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            CURRENT => true,
            STALE => self.is_outage() && self.time_since_contact() < self.max_stale,
            _ => false,
        }
    }

    /// Returns whether cached data is current.
    pub(super) fn is_current(&self) -> bool {
        self.state.load(Ordering::Acquire) == CURRENT
    }

    /// Returns whether the database is unavailable and decisions use cached data.
    pub(super) fn is_stale(&self) -> bool {
        self.state.load(Ordering::Acquire) == STALE && self.is_outage()
    }

    fn is_outage(&self) -> bool {
        self.outage.borrow().is_some()
    }

    /// The number of times that a stale period began or ended; odd during one.
    pub(super) fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Acquire)
    }

    /// The time since this process last received data from the database.
    pub(super) fn time_since_contact(&self) -> Duration {
        let last = Duration::from_millis(self.last_contact.load(Ordering::Acquire));
        self.clock.monotonic().saturating_sub(last)
    }

    /// Records that data was received, so that no notification is missing until now.
    pub(super) fn record_contact(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.last_contact.store(now, Ordering::Release);
    }

    /// Turns the cache on: notifications arrive from now on. The caller has invalidated everything that was cached before.
    pub(super) fn set_current(&self) {
        self.record_contact();
        self.set_state(CURRENT);
    }

    /// Suspends the cache if it was on: the connection for notifications is lost. That alone is not an outage.
    pub(super) fn lose_contact(&self) {
        if self.is_current() {
            self.set_state(UNCONFIRMED);
        }
    }

    /// Begins a stale period if the cache was on before contact was lost: the database is unavailable.
    pub(super) fn confirm_outage(&self) {
        if self.state.load(Ordering::Acquire) == UNCONFIRMED {
            self.set_state(if self.max_stale.is_zero() { OFF } else { STALE });
        }
    }

    /// Turns the cache off: the stale period is over, or the database answers without notifications.
    pub(super) fn set_off(&self) {
        self.set_state(OFF);
    }

    fn set_state(&self, state: u8) {
        // The counter first, so that a request that sees the new state also sees the new count.
        let was_stale = self.state.load(Ordering::Acquire) == STALE;
        if was_stale != (state == STALE) {
            self.transitions.fetch_add(1, Ordering::AcqRel);
        }
        self.state.store(state, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_is_bounded_and_counts_from_the_last_contact() {
        let clock = Clock::manual(crate::types::Timestamp::from_millis(0));
        let (outage, outages) = watch::channel(None);
        let freshness = Freshness::with_max_stale(Duration::from_secs(60), outages, clock.clone());
        assert!(!freshness.is_usable(), "nothing was received yet");
        freshness.lose_contact();
        freshness.confirm_outage();
        assert!(!freshness.is_usable() && !freshness.is_stale());
        freshness.set_current();
        clock.advance(10_000);
        assert!(freshness.is_usable() && freshness.is_current());
        freshness.record_contact();
        clock.advance(2_000);
        freshness.lose_contact();
        assert!(!freshness.is_usable() && !freshness.is_stale(), "not known to be an outage");
        outage.send_replace(Some("timeout".into()));
        freshness.confirm_outage();
        assert!(freshness.is_usable() && freshness.is_stale() && freshness.transitions() == 1);
        clock.advance(57_999);
        assert!(freshness.is_usable());
        clock.advance(1);
        assert!(!freshness.is_usable());
        freshness.set_off();
        assert!(!freshness.is_usable() && freshness.transitions() == 2);
    }

    #[test]
    fn a_stale_period_ends_with_the_outage() {
        let (outage, outages) = watch::channel(Some("timeout".into()));
        let freshness = Freshness::with_max_stale(Duration::from_secs(60), outages, Clock::system());
        freshness.set_current();
        freshness.lose_contact();
        freshness.confirm_outage();
        assert!(freshness.is_usable() && freshness.is_stale());
        outage.send_replace(None);
        assert!(!freshness.is_usable() && !freshness.is_stale());
    }

    #[test]
    fn without_a_stale_limit_the_cache_is_off_after_disconnect() {
        let clock = Clock::manual(crate::types::Timestamp::from_millis(0));
        let (_, outage) = watch::channel(Some("timeout".into()));
        let freshness = Freshness::with_max_stale(Duration::ZERO, outage, clock);
        freshness.set_current();
        freshness.lose_contact();
        freshness.confirm_outage();
        assert!(!freshness.is_usable() && freshness.transitions() == 0);
    }
}
