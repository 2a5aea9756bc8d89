//! Login throttling: exponential back-off without a lockout (OWASP ASVS 5, 6.3.1).
//!
//! An attempt is counted before its password is verified, in the database that all processes share, so that parallel attempts
//! gain nothing. A successful attempt is taken back. Unknown email addresses are counted like accounts.
//!
//! Attempts are counted at an account from one address, at an account from all addresses, and from one address at all accounts.
//! The first delays only the user who mistypes a password. The other two delay attackers with many addresses or many accounts;
//! they exempt users who have logged in from their address within [`KNOWN_ADDRESS_DAYS`] days, so that an attacker cannot lock
//! a user out of a known address. For the same reason such attempts have a queue of their own for the password workers
//! ([`Lane`]).
//!
//! An account is counted by its email and by its user id: a changed email does not reset the back-off, and neither does the
//! deletion of the account.

use super::rate_limits::network_prefix;
use super::{AppState, Error};
use crate::authn::{HashingPermit, Lane, PasswordCheck, short_digest};
use crate::store::{AttemptRow, AuditActor, UnitOfWork};
use crate::types::{Email, Fingerprint, Id, Timestamp};
use secrecy::SecretString;
use std::net::IpAddr;
use tokio::sync::{Mutex, MutexGuard};

/// For how many days an address is known after a login.
pub const KNOWN_ADDRESS_DAYS: u64 = 30;

/// The number of attempts at one account from one address without a wait.
const FREE_ATTEMPTS_PER_PAIR: u64 = 3;

/// The number of attempts at one account from all addresses without a wait.
const FREE_ATTEMPTS_PER_ACCOUNT: u64 = 20;

/// The number of attempts from one address at all accounts without a wait. Many users may share an address.
const FREE_ATTEMPTS_PER_ADDRESS: u64 = 30;

/// After how many seconds an attempt from an address is forgotten. One at an account is after twice the longest wait.
const ADDRESS_DECAY_SECONDS: u64 = 60;

/// The tolerated difference between the clocks of two processes, in milliseconds. An attempt that one process has just counted
/// is not counted once more by another one whose clock is behind.
const MAX_CLOCK_SKEW_MS: i64 = 1_000;

/// The parameters and locks of the back-off.
#[derive(Debug)]
pub struct LoginThrottle {
    /// The longest wait, in seconds.
    max_wait: u64,
    /// Striped locks by account, which serialize the attempts at one account. Attempts from a known address have their own:
    /// they do not wait behind a flood of others.
    locks: [Box<[Mutex<()>]>; 2],
    /// Striped locks by account and address, for both lanes. Without them, a user who logs in several times at once from an
    /// address that becomes known has one attempt of each lane under way, and with a second replica more than are free.
    pair_locks: Box<[Mutex<()>]>,
}

/// What is counted by one key.
#[derive(Debug)]
struct AttemptCounter {
    key: String,
    /// The number of attempts without a wait.
    free_attempts: u64,
    /// After how many seconds an attempt is forgotten.
    decay_seconds: u64,
    /// Whether it exempts attempts from a known address.
    exempts_known_address: bool,
    /// The key of the account that it counts for; none if it counts for an address.
    account: Option<String>,
}

/// The counters of an attempt: those of the account, and last that of the address.
type AttemptCounters = [AttemptCounter; 5];

impl LoginThrottle {
    /// Creates a throttle with this longest wait, in seconds.
    pub fn new(max_wait: u64) -> Self {
        let locks = || (0..1024).map(|_| Mutex::default()).collect();
        Self { max_wait, locks: [locks(), locks()], pair_locks: locks() }
    }

    /// Returns the wait after the nth attempt that is not free, in seconds: 1, 3, 5, 10, 20, 40 and so on.
    fn wait(&self, nth: u64) -> u64 {
        let wait = match nth {
            0 => 0,
            1 => 1,
            2 => 3,
            3 => 5,
            _ => 10u64
                .saturating_mul(1u64.checked_shl(u32::try_from(nth - 4).unwrap_or(64)).unwrap_or(u64::MAX)),
        };
        wait.min(self.max_wait)
    }

    /// Returns the maximum count of attempts: that of the longest wait.
    fn max_count(&self, counter: &AttemptCounter) -> u64 {
        let steps = (1..).find(|nth| self.wait(*nth) == self.max_wait);
        counter.free_attempts - 1 + steps.unwrap_or_default()
    }

    /// Limits the wait of a row to the longest one. A later wait was counted while a clock was ahead.
    fn clamp_row(&self, counter: &AttemptCounter, row: &AttemptRow, now: Timestamp) -> AttemptRow {
        let longest_count = (self.max_count(counter) + 1) * counter.decay_seconds;
        let allowed_at = row.allowed_at.min(now.plus_seconds(self.max_wait));
        let forgotten_at = row.forgotten_at.min(now.plus_seconds(longest_count)).max(allowed_at);
        AttemptRow { key: row.key.clone(), allowed_at, forgotten_at }
    }

    /// Shortens waits that exceed the longest one, and stores that.
    async fn shorten_excessive_waits(
        &self,
        state: &AppState,
        counters: &AttemptCounters,
        rows: &mut [AttemptRow],
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut repaired = Vec::new();
        for row in rows.iter_mut() {
            let Some(counter) = counters.iter().find(|counter| counter.key == row.key) else { continue };
            let clamped = self.clamp_row(counter, row, now);
            if clamped.allowed_at.millis().saturating_add(MAX_CLOCK_SKEW_MS) < row.allowed_at.millis() {
                *row = clamped.clone();
                repaired.push(clamped);
            }
        }
        if repaired.is_empty() {
            return Ok(());
        }
        let work = state.store.begin(AuditActor::service(now)).await?;
        for row in &repaired {
            work.delay_attempts(row).await?;
        }
        Ok(work.commit().await?)
    }

    /// Returns the keys by which the attempts at an account are counted: by its email and by its user id.
    pub fn account_keys(email: &Email, user: &str) -> [String; 2] {
        [short_digest(&format!("account {email}")), short_digest(&format!("user {user}"))]
    }

    /// Returns a row with the wait for the attempt that was just counted in it.
    fn apply_delay(&self, counter: &AttemptCounter, row: &AttemptRow, now: Timestamp) -> AttemptRow {
        let row = &self.clamp_row(counter, row, now);
        let left = row.forgotten_at.millis().saturating_sub(now.millis()).saturating_sub(MAX_CLOCK_SKEW_MS);
        let count = u64::try_from(left).unwrap_or_default().div_ceil(counter.decay_seconds * 1_000);
        let count = count.min(self.max_count(counter));
        let wait = self.wait(count.saturating_sub(counter.free_attempts - 1));
        let allowed_at = if wait > 0 { row.allowed_at.max(now.plus_seconds(wait)) } else { row.allowed_at };
        let forgotten_at =
            row.forgotten_at.min(now.plus_seconds(count * counter.decay_seconds)).max(allowed_at);
        AttemptRow { key: row.key.clone(), allowed_at, forgotten_at }
    }

    /// Returns the counters of attempts at an account, which need not exist, from an address; and the key of the known address.
    /// The order is fixed, because each row is locked.
    fn counters(
        &self,
        email: &Email,
        user: Option<Id>,
        address: Option<IpAddr>,
    ) -> (AttemptCounters, String) {
        let network = address.map(network_prefix).map(|address| address.to_string()).unwrap_or_default();
        // Without a user as many counters are written, so that the time does not disclose whether the account exists.
        let user = user.map_or_else(|| email.to_string(), |user| user.to_string());
        let (pair, user_pair) = (format!("{email} {network}"), format!("{user} {network}"));
        // By the normalized email: upper and lower case are one account.
        let [of_email, of_user] = Self::account_keys(email, &user);
        let decay_seconds = 2 * self.max_wait;
        let of_pair = |key: &str, account: &String| AttemptCounter {
            key: short_digest(key),
            free_attempts: FREE_ATTEMPTS_PER_PAIR,
            decay_seconds,
            exempts_known_address: false,
            account: Some(account.clone()),
        };
        let of_account = |key: &String| AttemptCounter {
            key: key.clone(),
            free_attempts: FREE_ATTEMPTS_PER_ACCOUNT,
            decay_seconds,
            exempts_known_address: true,
            account: Some(key.clone()),
        };
        let counters = [
            of_pair(&format!("pair {pair}"), &of_email),
            of_pair(&format!("user pair {user_pair}"), &of_user),
            of_account(&of_email),
            of_account(&of_user),
            AttemptCounter {
                key: short_digest(&format!("address {network}")),
                free_attempts: FREE_ATTEMPTS_PER_ADDRESS,
                decay_seconds: ADDRESS_DECAY_SECONDS,
                exempts_known_address: true,
                account: None,
            },
        ];
        (counters, short_digest(&format!("known {user_pair}")))
    }

    /// Waits until no other attempt of this lane at the account with this key is under way in this process. Several accounts
    /// may share a lock.
    async fn lock_account(&self, lane: Lane, key: &str) -> Option<MutexGuard<'_, ()>> {
        let [known, unknown] = &self.locks;
        let locks = match lane {
            Lane::Known => known,
            Lane::Unknown => unknown,
        };
        lock_share(locks, key).await
    }
}

/// Locks the stripe of a key.
async fn lock_share<'a>(locks: &'a [Mutex<()>], key: &str) -> Option<MutexGuard<'a, ()>> {
    let lock = locks.get(Fingerprint::of(&key).bucket_index(locks.len()))?;
    Some(lock.lock().await)
}

/// Returns the wait that the counters require, in whole seconds; none if there is none. A known address is delayed only by its
/// own attempts.
fn required_wait(
    counters: &[AttemptCounter],
    rows: &[AttemptRow],
    is_known: bool,
    now: Timestamp,
) -> Option<u64> {
    let counts = |key: &str| {
        counters.iter().any(|counter| counter.key == key && !(is_known && counter.exempts_known_address))
    };
    let allowed_at = rows.iter().filter(|row| counts(&row.key)).map(|row| row.allowed_at).max()?;
    let left = allowed_at.millis().saturating_sub(now.millis());
    u64::try_from(left).ok().filter(|left| *left > 0).map(|left| left.div_ceil(1_000))
}

/// Returns the error of an attempt that must wait.
fn too_many_attempts(seconds: u64) -> Error {
    let detail = format!("Too many login attempts. Try again in {seconds} seconds.");
    Error::too_many_requests("too_many_attempts", detail, seconds)
}

/// A counted attempt. It remains counted unless it is taken back.
#[derive(Debug)]
struct CountedAttempt<'a> {
    state: &'a AppState,
    counters: AttemptCounters,
    /// The key of the known address.
    known_key: String,
    /// The wait of the address after this attempt, and the one before: until when.
    wait: Option<(Timestamp, Timestamp)>,
    /// Serializes attempts at the same account.
    _account_lock: Option<MutexGuard<'a, ()>>,
    /// Serializes attempts at the same account from the same address.
    _pair_lock: Option<MutexGuard<'a, ()>>,
}

/// A counted attempt before its password is verified.
#[derive(Debug)]
pub struct LoginAttempt<'a> {
    counted: CountedAttempt<'a>,
    hashing_permit: HashingPermit,
}

/// An attempt with the right password. It is kept until the unit of work of [`VerifiedAttempt::record_success`] ends.
#[derive(Debug)]
pub struct VerifiedAttempt<'a> {
    counted: CountedAttempt<'a>,
    /// A new hash of the password, if the stored one is weaker than the settings require.
    pub new_hash: Option<String>,
}

impl<'a> LoginAttempt<'a> {
    /// Counts an attempt at the account with this email, and user if there is one.
    ///
    /// # Errors
    /// `too_many_attempts` if the attempt must wait; `busy` if the queue of the password workers is full.
    pub async fn begin(
        state: &'a AppState,
        email: &Email,
        user: Option<Id>,
        address: Option<IpAddr>,
    ) -> Result<Self, Error> {
        let throttle = &state.login_throttle;
        let (counters, known_key) = throttle.counters(email, user, address);
        let keys = counters.iter().map(|counter| counter.key.as_str()).chain([known_key.as_str()]);
        // A read rejects a flood, which therefore does not block writers.
        let now = state.clock.now();
        let mut rows = state.store.attempts(keys, now).await?;
        throttle.shorten_excessive_waits(state, &counters, &mut rows, now).await?;
        let is_known = rows.iter().any(|row| row.key == known_key);
        if let Some(seconds) = required_wait(&counters, &rows, is_known, now) {
            return Err(too_many_attempts(seconds));
        }
        let lane = if is_known { Lane::Known } else { Lane::Unknown };
        let slot = state.passwords.reserve_slot(lane)?;
        let [_, user_pair, _, user, _] = &counters;
        let account_lock = throttle.lock_account(lane, &user.key).await;
        let hashing_permit = slot.acquire_permit().await?;
        // Only with a password worker: an attempt that waits for one must not block the other lane.
        let pair_lock = lock_share(&throttle.pair_locks, &user_pair.key).await;
        let wait = throttle.count_attempt(state, &counters, is_known).await?;
        let counted = CountedAttempt {
            state,
            counters,
            known_key,
            wait,
            _account_lock: account_lock,
            _pair_lock: pair_lock,
        };
        Ok(Self { counted, hashing_permit })
    }

    /// Verifies the password against a hash; none if it does not match. Without a hash it takes as long.
    ///
    /// # Errors
    /// The password worker failed.
    pub async fn verify_password(
        self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<Option<VerifiedAttempt<'a>>, Error> {
        Ok(match self.hashing_permit.verify(password, hash).await? {
            PasswordCheck::Wrong => None,
            PasswordCheck::Correct { rehashed: new_hash } => {
                Some(VerifiedAttempt { counted: self.counted, new_hash })
            }
        })
    }
}

impl VerifiedAttempt<'_> {
    /// Takes the attempt back, clears the counters of the account, and stores that the address is known.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn record_success(&self, work: &UnitOfWork) -> Result<(), Error> {
        let CountedAttempt { state, counters: [of_account @ .., address], known_key, wait, .. } =
            &self.counted;
        let now = state.clock.now();
        for counter in of_account {
            work.clear_attempts(&counter.key).await?;
        }
        work.undo_attempt(&address.key, address.decay_seconds, *wait).await?;
        work.set_attempt_expiry(known_key, now, now.plus_seconds(KNOWN_ADDRESS_DAYS * 86_400)).await?;
        Ok(())
    }
}

impl LoginThrottle {
    /// Counts an attempt unless it must wait. Returns the resulting wait of the address.
    async fn count_attempt(
        &self,
        state: &AppState,
        counters: &AttemptCounters,
        is_known: bool,
    ) -> Result<Option<(Timestamp, Timestamp)>, Error> {
        let work = state.store.begin(AuditActor::service(state.clock.now())).await?;
        let now = state.clock.now();
        let attempts: Vec<_> = counters
            .iter()
            .map(|counter| (counter.key.as_str(), counter.decay_seconds, counter.account.as_deref()))
            .collect();
        let rows = work.count_attempt(&attempts, now).await?;
        // Another process may have counted an attempt while this one waited for the lock.
        let now = state.clock.now();
        if let Some(seconds) = required_wait(counters, &rows, is_known, now) {
            return Err(too_many_attempts(seconds));
        }
        let mut wait = None;
        for counter in counters {
            let Some(row) = rows.iter().find(|row| row.key == counter.key) else { continue };
            let delayed = self.apply_delay(counter, row, now);
            wait = Some((delayed.allowed_at, row.allowed_at)).filter(|(new, old)| new > old);
            if delayed != *row {
                work.delay_attempts(&delayed).await?;
            }
        }
        work.delete_expired_attempts(now).await?;
        work.commit().await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_one() {
        let waits = |max_wait| (0..14).map(|nth| LoginThrottle::new(max_wait).wait(nth)).collect::<Vec<_>>();
        assert_eq!(waits(900), [0, 1, 3, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]);
        assert_eq!(waits(10), [0, 1, 3, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(LoginThrottle::new(86_400).wait(u64::MAX), 86_400);
    }
}
