//! Whoever guesses passwords waits longer and longer, and never for ever (OWASP ASVS 5, 6.3.1). A try is counted before
//! its password is looked at, in the database that all processes share, so that many at once are no more than one after
//! the other; one that is right is taken back. Addresses without an account count as those with one.
//!
//! Three things are counted: tries at an account from one address, at an account from all addresses, and from an address
//! at all accounts. The first keeps a forgetful user waiting, and nobody else. The other two keep those waiting who have
//! many addresses or try many accounts, and let everybody pass who has logged in from that address within
//! [`KNOWN_DAYS`] days: so nobody who guesses can keep a user out of its usual places. For the same reason such attempts have
//! a queue of their own for the password workers ([`Lane`]).
//!
//! An account is known by its email and by its user, and counted as both: another email is no fresh start, and the end of an
//! account ends no wait.

use super::request_middleware::network_prefix;
use super::{AppState, Problem};
use crate::authn::{HashingPermit, Lane, PasswordCheck, short_digest};
use crate::store::{AttemptRow, AuditActor, UnitOfWork};
use crate::types::{Email, Fingerprint, Id, Timestamp};
use secrecy::SecretString;
use std::net::IpAddr;
use tokio::sync::{Mutex, MutexGuard};

/// For how many days it is known that a user logs in from an address.
pub const KNOWN_ADDRESS_DAYS: u64 = 30;

/// How many tries at one account from one address go without a wait between them.
const FREE_ATTEMPTS_PER_PAIR: u64 = 3;

/// How many tries at one account do, from wherever they come.
const FREE_ATTEMPTS_PER_ACCOUNT: u64 = 20;

/// How many tries from one address do, at whichever accounts. Many users may share an address.
const FREE_ATTEMPTS_PER_ADDRESS: u64 = 30;

/// In how many seconds a try from an address is forgotten. One at an account takes twice the longest wait.
const ADDRESS_DECAY_SECONDS: u64 = 60;

/// How far the clocks of two processes may be apart, in milliseconds: what the one has just counted is no try more for the
/// other, whose clock is behind.
const MAX_CLOCK_SKEW_MS: i64 = 1_000;

/// What the back-off goes by.
#[derive(Debug)]
pub struct LoginThrottle {
    /// The longest wait, in seconds.
    max_wait: u64,
    /// A lock for each share of the accounts, so that attempts at one account come one after the other. Those of a user at an
    /// address where it is known have locks of their own: they do not wait behind a flood of others.
    locks: [Box<[Mutex<()>]>; 2],
    /// The same for each account and address, of both lanes: otherwise a user who logs in several times at once at an address
    /// that becomes known has one attempt of either lane under way, and with a second replica more than are free.
    pair_locks: Box<[Mutex<()>]>,
}

/// What is counted under one key.
#[derive(Debug)]
struct AttemptCounter {
    key: String,
    /// How many tries go without a wait.
    free_attempts: u64,
    /// In how many seconds a try is forgotten.
    decay_seconds: u64,
    /// Whether it lets those pass who are known at their address.
    exempts_known_address: bool,
    /// The key of the account that it counts for; none where it counts for an address.
    account: Option<String>,
}

/// What is counted of a try: those at the account first, and last those from the address.
type AttemptCounters = [AttemptCounter; 5];

impl LoginThrottle {
    /// With this as the longest wait, in seconds.
    pub fn new(max_wait: u64) -> Self {
        let locks = || (0..1024).map(|_| Mutex::default()).collect();
        Self { max_wait, locks: [locks(), locks()], pair_locks: locks() }
    }

    /// The wait after the nth try that is not free, in seconds: 1, 3, 5, 10, 20, 40 and so on.
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

    /// How many tries are counted at most: those that lead to the longest wait.
    fn max_count(&self, counter: &AttemptCounter) -> u64 {
        let steps = (1..).find(|nth| self.wait(*nth) == self.max_wait);
        counter.free_attempts - 1 + steps.unwrap_or_default()
    }

    /// A row as it can be at most at this time. A later wait was counted while a clock was ahead: it ends after the longest
    /// wait, and not when the clock comes to that time again.
    fn clamp_row(&self, counter: &AttemptCounter, row: &AttemptRow, now: Timestamp) -> AttemptRow {
        let longest_count = (self.max_count(counter) + 1) * counter.decay_seconds;
        let allowed_at = row.allowed_at.min(now.plus_seconds(self.max_wait));
        let forgotten_at = row.forgotten_at.min(now.plus_seconds(longest_count)).max(allowed_at);
        AttemptRow { key: row.key.clone(), allowed_at, forgotten_at }
    }

    /// Shortens the waits that are longer than they can be, for good.
    async fn shorten_excessive_waits(
        &self,
        state: &AppState,
        counters: &AttemptCounters,
        rows: &mut [AttemptRow],
        now: Timestamp,
    ) -> Result<(), Problem> {
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

    /// The keys under which the attempts at an account are counted, by its email and by its user.
    pub fn account_keys(email: &Email, user: &str) -> [String; 2] {
        [short_digest(&format!("account {email}")), short_digest(&format!("user {user}"))]
    }

    /// A row as it is to be after the try that has just been counted in it.
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

    /// What is counted of tries at this account, of which there may be none, from this address: in this order, always, since
    /// each is locked. The last key is the one under which it is known that the user logs in from there.
    fn counters(
        &self,
        email: &Email,
        user: Option<Id>,
        address: Option<IpAddr>,
    ) -> (AttemptCounters, String) {
        let network = address.map(network_prefix).map(|address| address.to_string()).unwrap_or_default();
        // Where there is no user as much is counted, and takes as long.
        let user = user.map_or_else(|| email.to_string(), |user| user.to_string());
        let (pair, user_pair) = (format!("{email} {network}"), format!("{user} {network}"));
        // The email in its one form: upper and lower case are one account.
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

    /// Waits until no other attempt of this lane at the account with this key is under way here. A few accounts share a
    /// lock.
    async fn lock_account(&self, lane: Lane, key: &str) -> Option<MutexGuard<'_, ()>> {
        let [known, unknown] = &self.locks;
        let locks = match lane {
            Lane::Known => known,
            Lane::Unknown => unknown,
        };
        lock_share(locks, key).await
    }
}

/// Locks the share of the locks that this key has.
async fn lock_share<'a>(locks: &'a [Mutex<()>], key: &str) -> Option<MutexGuard<'a, ()>> {
    let lock = locks.get(Fingerprint::of(&key).bucket_index(locks.len()))?;
    Some(lock.lock().await)
}

/// The wait that the counters ask for, in whole seconds; none where there is nothing to wait for. Whoever is known at its
/// address waits only for what it did there itself.
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

/// 429: somebody has to wait so many seconds.
fn too_many_attempts(seconds: u64) -> Problem {
    let detail = format!("Too many attempts at logging in. Try again in {seconds} seconds.");
    Problem::too_many_requests("too_many_attempts", detail, seconds)
}

/// A try at a password that is counted already, and stays so unless it is taken back.
#[derive(Debug)]
struct CountedAttempt<'a> {
    state: &'a AppState,
    counters: AttemptCounters,
    /// The key under which it is known that the user logs in from there.
    known_key: String,
    /// The wait that came of this try for the address: until when, and until when it was before.
    wait: Option<(Timestamp, Timestamp)>,
    /// Until this is dropped, others at the same account wait.
    _account_lock: Option<MutexGuard<'a, ()>>,
    /// The same for others at the same account from the same address.
    _pair_lock: Option<MutexGuard<'a, ()>>,
}

/// A try at a password, before the password is looked at.
#[derive(Debug)]
pub struct LoginAttempt<'a> {
    counted: CountedAttempt<'a>,
    hashing_permit: HashingPermit,
}

/// A try whose password was right. To be kept until the work that it is [settled](Passed::settle) in ends.
#[derive(Debug)]
pub struct VerifiedAttempt<'a> {
    counted: CountedAttempt<'a>,
    /// Another hash of the password, where the one that is kept is weaker than the settings ask for.
    pub new_hash: Option<String>,
}

impl<'a> LoginAttempt<'a> {
    /// Counts a try at the account of this email, and of this user if there is one, from this address if there is one; 429
    /// where it has to wait, 503 where too many passwords wait to be checked.
    pub async fn begin(
        state: &'a AppState,
        email: &Email,
        user: Option<Id>,
        address: Option<IpAddr>,
    ) -> Result<Self, Problem> {
        let login_throttle = &state.login_throttle;
        let (counters, known_key) = login_throttle.counters(email, user, address);
        let keys = counters.iter().map(|counter| counter.key.as_str()).chain([known_key.as_str()]);
        // A flood is turned away by a look, and keeps nobody from writing.
        let now = state.clock.now();
        let mut rows = state.store.attempts(keys, now).await?;
        login_throttle.shorten_excessive_waits(state, &counters, &mut rows, now).await?;
        let is_known = rows.iter().any(|row| row.key == known_key);
        if let Some(seconds) = required_wait(&counters, &rows, is_known, now) {
            return Err(too_many_attempts(seconds));
        }
        let lane = if is_known { Lane::Known } else { Lane::Unknown };
        let slot = state.passwords.reserve_slot(lane)?;
        let [_, user_pair, _, user, _] = &counters;
        let account_lock = login_throttle.lock_account(lane, &user.key).await;
        let hashing_permit = slot.acquire_permit().await?;
        // Only with a password worker: whoever waits for one keeps no user of the other lane waiting.
        let pair_lock = lock_share(&login_throttle.pair_locks, &user_pair.key).await;
        let wait = login_throttle.count_attempt(state, &counters, is_known).await?;
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

    /// Looks at the password: none where it is not the one with this hash, which takes as long where there is no hash.
    pub async fn verify_password(
        self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<Option<VerifiedAttempt<'a>>, Problem> {
        Ok(match self.hashing_permit.verify(password, hash).await? {
            PasswordCheck::Wrong => None,
            PasswordCheck::Correct { rehashed: renewed } => {
                Some(VerifiedAttempt { counted: self.counted, new_hash: renewed })
            }
        })
    }
}

impl VerifiedAttempt<'_> {
    /// Takes the try back, forgets those at the account before it, and remembers that the user logs in from there.
    pub async fn record_success(&self, work: &UnitOfWork) -> Result<(), Problem> {
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
    /// Counts a try, unless it has to wait. Gives the wait that comes of it for the address.
    async fn count_attempt(
        &self,
        state: &AppState,
        counters: &AttemptCounters,
        is_known: bool,
    ) -> Result<Option<(Timestamp, Timestamp)>, Problem> {
        let work = state.store.begin(AuditActor::service(state.clock.now())).await?;
        let now = state.clock.now();
        let attempts: Vec<_> = counters
            .iter()
            .map(|counter| (counter.key.as_str(), counter.decay_seconds, counter.account.as_deref()))
            .collect();
        let rows = work.count_attempt(&attempts, now).await?;
        // By now another process may have counted, for which this one has waited.
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
    fn the_waits_grow_to_the_longest_one() {
        let waits = |max_wait| (0..14).map(|nth| LoginThrottle::new(max_wait).wait(nth)).collect::<Vec<_>>();
        assert_eq!(waits(900), [0, 1, 3, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]);
        assert_eq!(waits(10), [0, 1, 3, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(LoginThrottle::new(86_400).wait(u64::MAX), 86_400);
    }
}
