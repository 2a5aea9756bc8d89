//! Passwords: Argon2id (RFC 9106) on blocking threads, with a limit on concurrent hashing, so that a burst of logins neither
//! delays other requests nor exhausts the memory.

use super::PasswordRules;
use crate::config::Config;
use crate::telemetry;
use crate::types::{InvalidValue, nfc};
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Returns a password in NFC, so that it does not depend on the keyboard (RFC 8265, section 4.2.2).
pub fn normalize_password(password: SecretString) -> SecretString {
    let normalized = match nfc(password.expose_secret()) {
        Cow::Borrowed(_) => None,
        Cow::Owned(normalized) => Some(normalized),
    };
    normalized.map_or(password, Into::into)
}

/// Why a password could not be hashed or verified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PasswordError {
    /// The new password does not meet the rules.
    #[error("{0}")]
    Refused(InvalidValue),
    /// The queue is full.
    #[error("too many passwords are waiting to be checked")]
    Busy,
    /// Hashing failed.
    #[error("cannot hash a password: {0}")]
    Failed(String),
}

/// Hashes and verifies passwords with a limited number of workers.
#[derive(Debug, Clone)]
pub struct PasswordService {
    argon2: Argon2<'static>,
    rules: PasswordRules,
    /// The random hash that a password is verified against if the email is unknown, so that the response time does not
    /// reveal whether the account exists.
    dummy_hash: Arc<PasswordHash>,
    /// One permit per worker, granted in the order of the requests.
    worker_permits: Arc<Semaphore>,
    /// As many permits, of which a password in [`Lane::Unknown`] needs one before it waits for a worker. So at most as
    /// many of them as there are workers can be ahead of a password in [`Lane::Known`], and no worker is idle.
    unknown_permits: Arc<Semaphore>,
    /// The free slots of each lane.
    queue_slots: [Arc<Semaphore>; 2],
    /// The number of slots of each lane.
    max_queued: usize,
}

/// The queue in which a password waits for a worker. Each lane has its own slots, and workers alternate between the
/// lanes, so that a flood of one kind fills only its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A user at an address where it has logged in before, or an authenticated caller.
    Known,
    /// Any other login.
    Unknown,
}

/// A reserved slot in a queue.
#[derive(Debug)]
pub struct QueueSlot {
    passwords: PasswordService,
    lane: Lane,
    slot: OwnedSemaphorePermit,
}

/// Permission to hash or verify one password. Dropping it releases the worker.
#[derive(Debug)]
pub struct HashingPermit {
    passwords: PasswordService,
    permits: HeldPermits,
}

/// The permits of a [`HashingPermit`], released in this order.
#[derive(Debug)]
struct HeldPermits {
    _worker: OwnedSemaphorePermit,
    _unknown: Option<OwnedSemaphorePermit>,
    _slot: OwnedSemaphorePermit,
}

/// The result of verifying a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordCheck {
    /// The password is wrong.
    Wrong,
    /// The password is correct.
    Correct {
        /// A new hash of it, if the stored one is weaker than the configuration requires.
        rehashed: Option<String>,
    },
}

impl PasswordService {
    /// How many passwords may wait in a lane per worker.
    const QUEUE_PER_WORKER: usize = 16;

    /// Creates the service with the workers, Argon2 parameters and rules of the configuration.
    ///
    /// The default parameters are 19 MiB of memory and two passes, the first choice of OWASP for Argon2id.
    ///
    /// # Errors
    ///
    /// If the Argon2 parameters are invalid.
    pub fn new(config: &Config) -> Result<Self, PasswordError> {
        let params =
            Params::new(config.argon2_memory_kib, config.argon2_iterations, config.argon2_parallelism, None);
        let params = params.map_err(|error| hashing_error(&error))?;
        let dummy_hash = Arc::new(dummy_hash(&params)?);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = config.password_workers.unwrap_or(processors).max(1);
        Ok(Self {
            argon2,
            rules: PasswordRules::new(config.password_profile),
            dummy_hash,
            worker_permits: Arc::new(Semaphore::new(workers)),
            unknown_permits: Arc::new(Semaphore::new(workers)),
            queue_slots: [(); 2].map(|()| Arc::new(Semaphore::new(workers * (1 + Self::QUEUE_PER_WORKER)))),
            max_queued: workers * (1 + Self::QUEUE_PER_WORKER),
        })
    }

    /// Checks a new password against the rules and returns its hash: a PHC string with a random salt.
    ///
    /// `user_inputs` are texts about its user that make it easier to guess.
    ///
    /// # Errors
    ///
    /// If the password does not meet the rules, the queue is full, or hashing fails.
    pub async fn hash(
        &self,
        password: SecretString,
        user_inputs: Vec<String>,
    ) -> Result<String, PasswordError> {
        let password = normalize_password(password);
        let work = move |passwords: &Self| {
            passwords.rules.check(&password, &user_inputs).map_err(PasswordError::Refused)?;
            hash(&passwords.argon2, &password)
        };
        self.reserve_slot(Lane::Known)?.acquire_permit().await?.run(work).await?
    }

    /// Reserves a slot in a queue.
    ///
    /// # Errors
    ///
    /// If the queue is full.
    pub fn reserve_slot(&self, lane: Lane) -> Result<QueueSlot, PasswordError> {
        let slot =
            Arc::clone(self.queue_slots_for(lane)).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        Ok(QueueSlot { passwords: self.clone(), lane, slot })
    }

    fn queue_slots_for(&self, lane: Lane) -> &Arc<Semaphore> {
        let [known, unknown] = &self.queue_slots;
        match lane {
            Lane::Known => known,
            Lane::Unknown => unknown,
        }
    }

    /// The number of passwords that are being hashed or wait, in both queues.
    pub fn queue_depth(&self) -> usize {
        let taken =
            |queue_slots: &Arc<Semaphore>| self.max_queued.saturating_sub(queue_slots.available_permits());
        self.queue_slots.iter().map(taken).sum()
    }

    /// Returns whether a hash is weaker than the configuration requires.
    fn needs_rehash(&self, hash: &PasswordHash) -> bool {
        let required = self.argon2.params();
        let is_current_algorithm =
            hash.algorithm == Algorithm::Argon2id.ident() && hash.version == Some(Version::V0x13.into());
        !is_current_algorithm
            || Params::try_from(hash).map_or(true, |stored| {
                stored.m_cost() < required.m_cost()
                    || stored.t_cost() < required.t_cost()
                    || stored.p_cost() < required.p_cost()
            })
    }
}

impl QueueSlot {
    /// Waits for a worker.
    ///
    /// # Errors
    ///
    /// If the service is shutting down.
    pub async fn acquire_permit(self) -> Result<HashingPermit, PasswordError> {
        let Self { passwords, lane, slot } = self;
        let permits = async {
            let unknown = match lane {
                Lane::Known => None,
                Lane::Unknown => Some(Arc::clone(&passwords.unknown_permits).acquire_owned().await?),
            };
            let worker = Arc::clone(&passwords.worker_permits).acquire_owned().await?;
            Ok((worker, unknown))
        };
        let permits: Result<_, AcquireError> = telemetry::traced("argon2 queue", permits).await;
        let (worker, unknown) = permits.map_err(|error| hashing_error(&error))?;
        Ok(HashingPermit {
            passwords,
            permits: HeldPermits { _worker: worker, _unknown: unknown, _slot: slot },
        })
    }
}

impl HashingPermit {
    /// Verifies a password against a stored hash. Without a hash it is wrong, which takes the same time to find out.
    ///
    /// # Errors
    ///
    /// If the stored hash cannot be parsed, or hashing fails.
    pub async fn verify(
        self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<PasswordCheck, PasswordError> {
        let password = normalize_password(password);
        self.run(move |passwords| {
            let is_known = stored.is_some();
            let stored =
                stored.map_or_else(|| Ok((*passwords.dummy_hash).clone()), |text| PasswordHash::new(&text));
            let stored = stored.map_err(|error| hashing_error(&error))?;
            let argon2 = &passwords.argon2;
            let is_match = argon2.verify_password(password.expose_secret().as_bytes(), &stored).is_ok();
            if !(is_known && is_match) {
                return Ok(PasswordCheck::Wrong);
            }
            let rehashed = passwords.needs_rehash(&stored).then(|| hash(argon2, &password)).transpose()?;
            Ok(PasswordCheck::Correct { rehashed })
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&PasswordService) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        // If the request is cancelled, the hashing continues, so the task holds the permits until it ends.
        let task = tokio::task::spawn_blocking(move || {
            let output = work(&self.passwords);
            drop(self.permits);
            output
        });
        telemetry::traced("argon2", task).await.map_err(|error| hashing_error(&error))
    }
}

fn hash(argon2: &Argon2<'_>, password: &SecretString) -> Result<String, PasswordError> {
    let hashed =
        argon2.hash_password(password.expose_secret().as_bytes()).map_err(|error| hashing_error(&error))?;
    Ok(hashed.to_string())
}

/// Returns a random hash with these parameters, which no password matches.
fn dummy_hash(params: &Params) -> Result<PasswordHash, PasswordError> {
    let (mut salt, mut output) = ([0; Salt::RECOMMENDED_LENGTH], [0; Params::DEFAULT_OUTPUT_LEN]);
    aws_lc_rs::rand::fill(&mut salt).map_err(|error| hashing_error(&error))?;
    aws_lc_rs::rand::fill(&mut output).map_err(|error| hashing_error(&error))?;
    Ok(PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: params.try_into().map_err(|error: argon2::password_hash::Error| hashing_error(&error))?,
        salt: Some(Salt::new(&salt).map_err(|error| hashing_error(&error))?),
        hash: Some(Output::new(&output).map_err(|error| hashing_error(&error))?),
    })
}

fn hashing_error(error: &impl ToString) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(change: impl FnOnce(&mut Config)) -> PasswordService {
        let mut config = Config { password_workers: Some(1), ..Config::default() };
        change(&mut config);
        PasswordService::new(&config).unwrap()
    }

    type Change = fn(&mut Config);

    async fn verify(passwords: &PasswordService, password: &str, stored: Option<&str>) -> PasswordCheck {
        let permit = passwords.reserve_slot(Lane::Known).unwrap().acquire_permit().await.unwrap();
        permit.verify(password.into(), stored.map(str::to_owned)).await.unwrap()
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let passwords = passwords(|_| ());
        let hash = passwords.hash("t0pZ3kR3t".into(), Vec::new()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        // An unknown email costs the same work.
        let dummy_hash = passwords.dummy_hash.to_string();
        assert!(
            dummy_hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && dummy_hash.len() == hash.len(),
            "{dummy_hash}"
        );
        assert_eq!(
            verify(&passwords, "t0pZ3kR3t", Some(&hash)).await,
            PasswordCheck::Correct { rehashed: None }
        );
        assert_eq!(verify(&passwords, "t0pZ3kR3T", Some(&hash)).await, PasswordCheck::Wrong);
        assert_eq!(verify(&passwords, "t0pZ3kR3t", None).await, PasswordCheck::Wrong);
    }

    #[tokio::test]
    async fn weaker_hashes_are_rehashed_and_stronger_ones_are_kept() {
        let usual = passwords(|_| ());
        let hash = usual.hash("t0pZ3kR3t".into(), Vec::new()).await.unwrap();
        let changes: [(Change, Option<&str>); 6] = [
            (|config| config.argon2_memory_kib += 1024, Some("m=20480,t=2,p=1")),
            (|config| config.argon2_iterations += 1, Some("m=19456,t=3,p=1")),
            (|config| config.argon2_parallelism += 1, Some("m=19456,t=2,p=2")),
            (
                |config| (config.argon2_memory_kib, config.argon2_iterations) = (12_288, 3),
                Some("m=12288,t=3,p=1"),
            ),
            (|config| config.argon2_memory_kib -= 1024, None),
            (|config| config.argon2_iterations -= 1, None),
        ];
        for (change, expected) in changes {
            let passwords = passwords(change);
            let PasswordCheck::Correct { rehashed } = verify(&passwords, "t0pZ3kR3t", Some(&hash)).await
            else {
                panic!("{expected:?}: the password is correct");
            };
            assert_eq!(rehashed.is_some(), expected.is_some(), "{rehashed:?}");
            if let (Some(rehashed), Some(expected)) = (rehashed, expected) {
                assert!(rehashed.contains(expected), "{rehashed}");
                let last = verify(&passwords, "t0pZ3kR3t", Some(&rehashed)).await;
                assert_eq!(last, PasswordCheck::Correct { rehashed: None }, "{rehashed}");
            }
            assert_eq!(verify(&passwords, "t0pZ3kR3T", Some(&hash)).await, PasswordCheck::Wrong);
        }
    }

    #[tokio::test]
    async fn a_full_queue_rejects_immediately() {
        for (lane, other) in [(Lane::Known, Lane::Unknown), (Lane::Unknown, Lane::Known)] {
            let passwords = passwords(|_| ());
            let permit = passwords.reserve_slot(lane).unwrap().acquire_permit().await.unwrap();
            let queue_slots: Vec<_> = (0..PasswordService::QUEUE_PER_WORKER)
                .map(|_| passwords.reserve_slot(lane).unwrap())
                .collect();
            assert!(matches!(passwords.reserve_slot(lane), Err(PasswordError::Busy)));
            assert_eq!(passwords.queue_depth(), 1 + PasswordService::QUEUE_PER_WORKER);
            passwords.reserve_slot(other).unwrap();
            drop(permit);
            for slot in queue_slots {
                slot.acquire_permit().await.unwrap().run(|_| ()).await.unwrap();
            }
            assert_eq!(passwords.queue_depth(), 0);
            passwords.reserve_slot(lane).unwrap();
        }
    }

    #[tokio::test]
    async fn unknown_accounts_do_not_delay_known_accounts() {
        use std::future::{Future, poll_fn};
        use std::pin::pin;
        use std::task::Poll;
        let passwords = passwords(|_| ());
        let first = passwords.reserve_slot(Lane::Unknown).unwrap().acquire_permit().await.unwrap();
        let mut unknown = pin!(passwords.reserve_slot(Lane::Unknown).unwrap().acquire_permit());
        let mut known = pin!(passwords.reserve_slot(Lane::Known).unwrap().acquire_permit());
        // Both wait; the unknown one asked first.
        poll_fn(|context| {
            assert!(unknown.as_mut().poll(context).is_pending());
            assert!(known.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(first);
        let permit = poll_fn(|context| {
            assert!(unknown.as_mut().poll(context).is_pending(), "the known one is next");
            known.as_mut().poll(context)
        })
        .await;
        drop(permit.unwrap());
        unknown.await.unwrap();
    }
}
