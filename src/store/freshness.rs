//! Whether what was read before may be used. With PostgreSQL that depends on the notifications of other processes: while they
//! arrive, what was written since is known. During an outage of the database, decisions may go on for a limited period with
//! what was known at its beginning.

use crate::types::Clock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Nothing that was read before may be used.
const OFF: u8 = 0;
/// What other processes write is known.
const CURRENT: u8 = 1;
/// The database is away, and what was known at the beginning of the outage may be used for decisions.
const STALE: u8 = 2;

/// Whether what was read before may be used.
#[derive(Debug)]
pub(super) struct Freshness {
    state: AtomicU8,
    /// How often a stale period began or ended: odd during one.
    transitions: AtomicU64,
    /// When this process last received something, by the monotonic clock, in milliseconds.
    last_contact: AtomicU64,
    /// How long a stale period may last.
    max_stale: Duration,
    clock: Clock,
}

impl Freshness {
    /// What is read stays usable, since no other process writes: SQLite.
    pub(super) fn always() -> Self {
        Self { state: AtomicU8::new(CURRENT), ..Self::with_max_stale(Duration::ZERO, Clock::system()) }
    }

    /// What is read is usable once notifications arrive, and for this time in an outage.
    pub(super) fn with_max_stale(max_stale: Duration, clock: Clock) -> Self {
        Self {
            state: AtomicU8::new(OFF),
            transitions: AtomicU64::new(0),
            last_contact: AtomicU64::new(0),
            max_stale,
            clock,
        }
    }

    /// Whether what was read before may be used now.
    pub(super) fn is_usable(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            CURRENT => true,
            STALE => self.time_since_contact() < self.max_stale,
            _ => false,
        }
    }

    /// Whether what other processes write is known.
    pub(super) fn is_current(&self) -> bool {
        self.state.load(Ordering::Acquire) == CURRENT
    }

    /// Whether the database is away, and what was known before is used for decisions.
    pub(super) fn is_stale(&self) -> bool {
        self.state.load(Ordering::Acquire) == STALE
    }

    /// The number of times that a stale period began or ended: odd during one.
    pub(super) fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Acquire)
    }

    /// The time since this process last received something from the database.
    pub(super) fn time_since_contact(&self) -> Duration {
        let last = Duration::from_millis(self.last_contact.load(Ordering::Acquire));
        self.clock.monotonic().saturating_sub(last)
    }

    /// Something was received: nothing was missed until now.
    pub(super) fn record_contact(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.last_contact.store(now, Ordering::Release);
    }

    /// Notifications arrive from now on. What was read before has to be forgotten before this is called.
    pub(super) fn set_current(&self) {
        self.record_contact();
        self.set_state(CURRENT);
    }

    /// The connection for notifications is lost: a stale period begins where there was one, and it may last some time.
    pub(super) fn lose_contact(&self) {
        if self.is_current() {
            self.set_state(if self.max_stale.is_zero() { OFF } else { STALE });
        }
    }

    /// What was read before may not be used any more: the stale period is over, or the database answers.
    pub(super) fn set_off(&self) {
        self.set_state(OFF);
    }

    fn set_state(&self, state: u8) {
        // The count first: a request that sees the state sees the count, too.
        let is_stale = self.is_stale();
        if is_stale != (state == STALE) {
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
        let freshness = Freshness::with_max_stale(Duration::from_secs(60), clock.clone());
        assert!(!freshness.is_usable(), "nothing was received yet");
        freshness.lose_contact();
        assert!(!freshness.is_usable() && !freshness.is_stale());
        freshness.set_current();
        clock.advance(10_000);
        assert!(freshness.is_usable() && freshness.is_current());
        freshness.record_contact();
        clock.advance(2_000);
        freshness.lose_contact();
        assert!(freshness.is_usable() && freshness.is_stale() && freshness.transitions() == 1);
        clock.advance(57_999);
        assert!(freshness.is_usable());
        clock.advance(1);
        assert!(!freshness.is_usable());
        freshness.set_off();
        assert!(!freshness.is_usable() && freshness.transitions() == 2);
    }

    #[test]
    fn without_a_stale_limit_the_cache_is_off_after_disconnect() {
        let clock = Clock::manual(crate::types::Timestamp::from_millis(0));
        let freshness = Freshness::with_max_stale(Duration::ZERO, clock);
        freshness.set_current();
        freshness.lose_contact();
        assert!(!freshness.is_usable() && freshness.transitions() == 0);
    }
}
