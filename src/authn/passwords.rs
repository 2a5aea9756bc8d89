//! Passwords: Argon2id (RFC 9106), off the async workers and behind one bound, so that a rush of logins neither starves
//! other requests nor eats the memory.

use super::PasswordRules;
use crate::config::Config;
use crate::trace;
use crate::values::{Invalid, nfc};
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
    Refused(Invalid),
    /// Too many wait already.
    #[error("too many passwords are waiting to be checked")]
    Busy,
    /// It could not be done at all.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// Hashes and checks passwords, a few at a time.
#[derive(Debug, Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    rules: PasswordRules,
    /// What an unknown email's password is checked against, so that it costs what a known one's does: the hash of none.
    decoy: Arc<PasswordHash>,
    /// One permit for each worker, given in the order in which it was asked for.
    working: Arc<Semaphore>,
    /// As many permits, which those of [`Lane::Unknown`] need before they ask for a worker. So no more of them are ahead of
    /// those of [`Lane::Known`] than are being worked on, and a free worker is never idle.
    unknown_turns: Arc<Semaphore>,
    /// The places of each lane.
    places: [Arc<Semaphore>; 2],
    /// How many places each lane has.
    most: usize,
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
pub struct Place {
    passwords: Passwords,
    lane: Lane,
    place: OwnedSemaphorePermit,
}

/// A turn at hashing or checking one password. It is given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    passwords: Passwords,
    kept: Kept,
}

/// The permits of a turn, given back in this order.
#[derive(Debug)]
struct Kept {
    _worker: OwnedSemaphorePermit,
    _unknown: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

/// What came of checking a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is not the one.
    Wrong,
    /// It is the one.
    Right {
        /// Another hash of it, where the one that is kept is weaker than the settings ask for.
        renewed: Option<String>,
    },
}

impl Passwords {
    /// How many may wait for each that is being worked on.
    const QUEUE: usize = 16;

    /// As many at the same time, with such parameters and rules, as the settings say. The defaults are 19 MiB of memory
    /// each and two passes: OWASP's first choice for Argon2id.
    pub fn new(config: &Config) -> Result<Self, PasswordError> {
        let params =
            Params::new(config.argon2_memory_kib, config.argon2_iterations, config.argon2_parallelism, None);
        let params = params.map_err(|error| failed(&error))?;
        let decoy = Arc::new(decoy(&params)?);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = config.password_workers.unwrap_or(processors).max(1);
        Ok(Self {
            argon2,
            rules: PasswordRules::new(config.password_profile),
            decoy,
            working: Arc::new(Semaphore::new(workers)),
            unknown_turns: Arc::new(Semaphore::new(workers)),
            places: [(); 2].map(|()| Arc::new(Semaphore::new(workers * (1 + Self::QUEUE)))),
            most: workers * (1 + Self::QUEUE),
        })
    }

    /// The hash under which a new password is kept, a PHC string with its own salt, where the password is one that
    /// somebody of whom these words are known may have.
    pub async fn hash(&self, password: SecretString, known: Vec<String>) -> Result<String, PasswordError> {
        let password = normalize_password(password);
        let work = move |passwords: &Self| {
            passwords.rules.check(&password, &known).map_err(PasswordError::Refused)?;
            hash(&passwords.argon2, &password)
        };
        self.place(Lane::Known)?.turn().await?.run(work).await?
    }

    /// A place in a queue.
    ///
    /// # Errors
    ///
    /// Where the queue is full.
    pub fn place(&self, lane: Lane) -> Result<Place, PasswordError> {
        let place = Arc::clone(self.places_of(lane)).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        Ok(Place { passwords: self.clone(), lane, place })
    }

    fn places_of(&self, lane: Lane) -> &Arc<Semaphore> {
        let [known, unknown] = &self.places;
        match lane {
            Lane::Known => known,
            Lane::Unknown => unknown,
        }
    }

    /// How many are being worked on or wait, in both queues.
    pub fn waiting(&self) -> usize {
        let taken = |places: &Arc<Semaphore>| self.most.saturating_sub(places.available_permits());
        self.places.iter().map(taken).sum()
    }

    /// Whether a hash is weaker than the one that would be made today.
    fn is_weak(&self, hash: &PasswordHash) -> bool {
        let wanted = self.argon2.params();
        let current =
            hash.algorithm == Algorithm::Argon2id.ident() && hash.version == Some(Version::V0x13.into());
        !current
            || Params::try_from(hash).map_or(true, |has| {
                has.m_cost() < wanted.m_cost()
                    || has.t_cost() < wanted.t_cost()
                    || has.p_cost() < wanted.p_cost()
            })
    }
}

impl Place {
    /// Waits for a turn.
    pub async fn turn(self) -> Result<Turn, PasswordError> {
        let Self { passwords, lane, place } = self;
        let permits = async {
            let unknown = match lane {
                Lane::Known => None,
                Lane::Unknown => Some(Arc::clone(&passwords.unknown_turns).acquire_owned().await?),
            };
            let worker = Arc::clone(&passwords.working).acquire_owned().await?;
            Ok((worker, unknown))
        };
        let permits: Result<_, AcquireError> = trace::timed("argon2 queue", permits).await;
        let (worker, unknown) = permits.map_err(|error| failed(&error))?;
        Ok(Turn { passwords, kept: Kept { _worker: worker, _unknown: unknown, _place: place } })
    }
}

impl Turn {
    /// Whether a password is the one with this hash. Without a hash it is not, and finding out takes as long.
    pub async fn verify(
        self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<Verdict, PasswordError> {
        let password = normalize_password(password);
        self.run(move |passwords| {
            let known = stored.is_some();
            let stored =
                stored.map_or_else(|| Ok((*passwords.decoy).clone()), |text| PasswordHash::new(&text));
            let stored = stored.map_err(|error| failed(&error))?;
            let argon2 = &passwords.argon2;
            let same = argon2.verify_password(password.expose_secret().as_bytes(), &stored).is_ok();
            if !(known && same) {
                return Ok(Verdict::Wrong);
            }
            let renewed = passwords.is_weak(&stored).then(|| hash(argon2, &password)).transpose()?;
            Ok(Verdict::Right { renewed })
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&Passwords) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        // A caller that goes away leaves its work running: it keeps its place until that ends.
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&self.passwords);
            drop(self.kept);
            done
        });
        trace::timed("argon2", working).await.map_err(|error| failed(&error))
    }
}

fn hash(argon2: &Argon2<'_>, password: &SecretString) -> Result<String, PasswordError> {
    let hashed = argon2.hash_password(password.expose_secret().as_bytes()).map_err(|error| failed(&error))?;
    Ok(hashed.to_string())
}

/// What looks like a hash with these parameters, and was not made of anything.
fn decoy(params: &Params) -> Result<PasswordHash, PasswordError> {
    let (mut salt, mut output) = ([0; Salt::RECOMMENDED_LENGTH], [0; Params::DEFAULT_OUTPUT_LEN]);
    aws_lc_rs::rand::fill(&mut salt).map_err(|error| failed(&error))?;
    aws_lc_rs::rand::fill(&mut output).map_err(|error| failed(&error))?;
    Ok(PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: params.try_into().map_err(|error: argon2::password_hash::Error| failed(&error))?,
        salt: Some(Salt::new(&salt).map_err(|error| failed(&error))?),
        hash: Some(Output::new(&output).map_err(|error| failed(&error))?),
    })
}

fn failed(error: &impl ToString) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(change: impl FnOnce(&mut Config)) -> Passwords {
        let mut config = Config { password_workers: Some(1), ..Config::default() };
        change(&mut config);
        Passwords::new(&config).unwrap()
    }

    type Change = fn(&mut Config);

    async fn verify(passwords: &Passwords, password: &str, stored: Option<&str>) -> Verdict {
        let turn = passwords.place(Lane::Known).unwrap().turn().await.unwrap();
        turn.verify(password.into(), stored.map(str::to_owned)).await.unwrap()
    }

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_only() {
        let passwords = passwords(|_| ());
        let hash = passwords.hash("t0pZ3kR3t".into(), Vec::new()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        // What an unknown email is checked against asks for the same work.
        let decoy = passwords.decoy.to_string();
        assert!(decoy.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && decoy.len() == hash.len(), "{decoy}");
        assert_eq!(verify(&passwords, "t0pZ3kR3t", Some(&hash)).await, Verdict::Right { renewed: None });
        assert_eq!(verify(&passwords, "t0pZ3kR3T", Some(&hash)).await, Verdict::Wrong);
        assert_eq!(verify(&passwords, "t0pZ3kR3t", None).await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_weaker_hash_is_renewed_and_a_stronger_one_is_left() {
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
            let Verdict::Right { renewed: again } = verify(&passwords, "t0pZ3kR3t", Some(&hash)).await else {
                panic!("{renewed:?}: it is right");
            };
            assert_eq!(again.is_some(), renewed.is_some(), "{again:?}");
            if let (Some(again), Some(renewed)) = (again, renewed) {
                assert!(again.contains(renewed), "{again}");
                let last = verify(&passwords, "t0pZ3kR3t", Some(&again)).await;
                assert_eq!(last, Verdict::Right { renewed: None }, "{again}");
            }
            assert_eq!(verify(&passwords, "t0pZ3kR3T", Some(&hash)).await, Verdict::Wrong);
        }
    }

    #[tokio::test]
    async fn when_a_queue_is_full_the_next_one_is_refused_at_once() {
        for (lane, other) in [(Lane::Known, Lane::Unknown), (Lane::Unknown, Lane::Known)] {
            let passwords = passwords(|_| ());
            let turn = passwords.place(lane).unwrap().turn().await.unwrap();
            let places: Vec<_> = (0..Passwords::QUEUE).map(|_| passwords.place(lane).unwrap()).collect();
            assert!(matches!(passwords.place(lane), Err(PasswordError::Busy)));
            assert_eq!(passwords.waiting(), 1 + Passwords::QUEUE);
            passwords.place(other).unwrap();
            drop(turn);
            for place in places {
                place.turn().await.unwrap().run(|_| ()).await.unwrap();
            }
            assert_eq!(passwords.waiting(), 0);
            passwords.place(lane).unwrap();
        }
    }

    #[tokio::test]
    async fn a_known_one_waits_for_no_more_unknown_ones_than_are_worked_on() {
        use std::future::{Future, poll_fn};
        use std::pin::pin;
        use std::task::Poll;
        let passwords = passwords(|_| ());
        let first = passwords.place(Lane::Unknown).unwrap().turn().await.unwrap();
        let mut unknown = pin!(passwords.place(Lane::Unknown).unwrap().turn());
        let mut known = pin!(passwords.place(Lane::Known).unwrap().turn());
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
