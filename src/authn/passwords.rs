//! Passwords: Argon2id (RFC 9106), off the async workers and behind one bound, so that a rush of logins neither starves
//! other requests nor eats the memory.

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

/// Returns a password in NFC, in which it is the same from every keyboard (RFC 8265, 4.2.2).
pub fn normalize_password(password: SecretString) -> SecretString {
    let normalized = match nfc(password.expose_secret()) {
        Cow::Borrowed(_) => None,
        Cow::Owned(normalized) => Some(normalized),
    };
    normalized.map_or(password, Into::into)
}

/// Why a password was neither hashed nor checked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PasswordError {
    /// It is not what a new one must be.
    #[error("{0}")]
    Refused(InvalidValue),
    /// Too many wait already.
    #[error("too many passwords are waiting to be checked")]
    Busy,
    /// It could not be done at all.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// Hashes and checks passwords, a few at a time.
#[derive(Debug, Clone)]
pub struct PasswordService {
    argon2: Argon2<'static>,
    rules: PasswordRules,
    /// What an unknown email's password is checked against, so that it costs what a known one's does: the hash of none.
    dummy_hash: Arc<PasswordHash>,
    /// One permit for each worker, given in the order in which it was asked for.
    worker_permits: Arc<Semaphore>,
    /// As many permits, which those of [`Lane::Unknown`] need before they ask for a worker. So no more of them are ahead of
    /// those of [`Lane::Known`] than are being worked on, and a free worker is never idle.
    unknown_permits: Arc<Semaphore>,
    /// The places of each lane.
    queue_slots: [Arc<Semaphore>; 2],
    /// How many places each lane has.
    max_queued: usize,
}

/// In which of the two queues for the workers a password waits. Each has places of its own, and a worker goes to either in
/// turn: a flood of one kind fills its own queue only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Of a user at an address where it has logged in before, or of a caller who is authenticated.
    Known,
    /// Of anyone else.
    Unknown,
}

/// A place in a queue for the workers.
#[derive(Debug)]
pub struct QueueSlot {
    passwords: PasswordService,
    lane: Lane,
    slot: OwnedSemaphorePermit,
}

/// A turn at hashing or checking one password. It is given back when it is dropped.
#[derive(Debug)]
pub struct HashingPermit {
    passwords: PasswordService,
    permits: HeldPermits,
}

/// The permits of a turn, given back in this order.
#[derive(Debug)]
struct HeldPermits {
    _worker: OwnedSemaphorePermit,
    _unknown: Option<OwnedSemaphorePermit>,
    _slot: OwnedSemaphorePermit,
}

/// What came of checking a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordCheck {
    /// It is not the one.
    Wrong,
    /// It is the one.
    Correct {
        /// Another hash of it, where the one that is kept is weaker than the settings ask for.
        rehashed: Option<String>,
    },
}

impl PasswordService {
    /// How many may wait for each that is being worked on.
    const QUEUE_PER_WORKER: usize = 16;

    /// As many at the same time, with such parameters and rules, as the settings say. The defaults are 19 MiB of memory
    /// each and two passes: OWASP's first choice for Argon2id.
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

    /// The hash under which a new password is kept, a PHC string with its own salt, where the password is one that
    /// somebody of whom these words are known may have.
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

    /// A place in a queue.
    ///
    /// # Errors
    ///
    /// Where the queue is full.
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

    /// How many are being worked on or wait, in both queues.
    pub fn queue_depth(&self) -> usize {
        let taken =
            |queue_slots: &Arc<Semaphore>| self.max_queued.saturating_sub(queue_slots.available_permits());
        self.queue_slots.iter().map(taken).sum()
    }

    /// Whether a hash is weaker than the one that would be made today.
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
    /// Waits for a turn.
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
    /// Whether a password is the one with this hash. Without a hash it is not, and finding out takes as long.
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
            let renewed = passwords.needs_rehash(&stored).then(|| hash(argon2, &password)).transpose()?;
            Ok(PasswordCheck::Correct { rehashed: renewed })
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&PasswordService) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        // A caller that goes away leaves its work running: it keeps its place until that ends.
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

/// What looks like a hash with these parameters, and was not made of anything.
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
        let turn = passwords.reserve_slot(Lane::Known).unwrap().acquire_permit().await.unwrap();
        turn.verify(password.into(), stored.map(str::to_owned)).await.unwrap()
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let passwords = passwords(|_| ());
        let hash = passwords.hash("t0pZ3kR3t".into(), Vec::new()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        // What an unknown email is checked against asks for the same work.
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
        for (change, renewed) in changes {
            let passwords = passwords(change);
            let PasswordCheck::Correct { rehashed: rehashed_hash } =
                verify(&passwords, "t0pZ3kR3t", Some(&hash)).await
            else {
                panic!("{renewed:?}: it is right");
            };
            assert_eq!(rehashed_hash.is_some(), renewed.is_some(), "{rehashed_hash:?}");
            if let (Some(rehashed_hash), Some(renewed)) = (rehashed_hash, renewed) {
                assert!(rehashed_hash.contains(renewed), "{rehashed_hash}");
                let last = verify(&passwords, "t0pZ3kR3t", Some(&rehashed_hash)).await;
                assert_eq!(last, PasswordCheck::Correct { rehashed: None }, "{rehashed_hash}");
            }
            assert_eq!(verify(&passwords, "t0pZ3kR3T", Some(&hash)).await, PasswordCheck::Wrong);
        }
    }

    #[tokio::test]
    async fn a_full_queue_rejects_immediately() {
        for (lane, other) in [(Lane::Known, Lane::Unknown), (Lane::Unknown, Lane::Known)] {
            let passwords = passwords(|_| ());
            let turn = passwords.reserve_slot(lane).unwrap().acquire_permit().await.unwrap();
            let queue_slots: Vec<_> = (0..PasswordService::QUEUE_PER_WORKER)
                .map(|_| passwords.reserve_slot(lane).unwrap())
                .collect();
            assert!(matches!(passwords.reserve_slot(lane), Err(PasswordError::Busy)));
            assert_eq!(passwords.queue_depth(), 1 + PasswordService::QUEUE_PER_WORKER);
            passwords.reserve_slot(other).unwrap();
            drop(turn);
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
        // All of them wait; the unknown one has asked first.
        poll_fn(|context| {
            assert!(unknown.as_mut().poll(context).is_pending());
            assert!(known.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(first);
        let turn = poll_fn(|context| {
            assert!(unknown.as_mut().poll(context).is_pending(), "the known one is next");
            known.as_mut().poll(context)
        })
        .await;
        drop(turn.unwrap());
        unknown.await.unwrap();
    }
}
