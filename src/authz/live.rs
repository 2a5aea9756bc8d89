//! The policies in force, which can be read again while the service runs: a new bundle is read, checked and sliced off to
//! the side, and then takes the place of the old one at once. A bad one changes nothing.

use super::{Bundle, BundleError, Engine, Sources};
use arc_swap::{ArcSwap, Guard};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The policies in force.
#[derive(Debug)]
pub struct Live {
    sources: Sources,
    current: ArcSwap<Engine>,
    /// Why the files as they are now are not in force.
    failure: Mutex<Option<BundleError>>,
    reloads: AtomicU64,
    failures: AtomicU64,
    /// Held while a bundle is read, so that the newest one is the last to take its place: what the files looked like
    /// when they were last read.
    turn: Mutex<Looks>,
}

/// How often policies were read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloads {
    /// With success.
    pub reloads: u64,
    /// Without.
    pub failures: u64,
}

/// What a file looks like from outside.
type Look = (PathBuf, Option<SystemTime>, u64);

/// What the files look like from outside.
type Looks = Vec<Look>;

impl Live {
    /// Reads the files for the first time.
    pub fn open(sources: Sources) -> Result<Self, BundleError> {
        let looks = looks(&sources);
        let engine = Engine::new(Bundle::read(&sources)?)?;
        Ok(Self {
            sources,
            current: ArcSwap::from_pointee(engine),
            failure: Mutex::new(None),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            turn: Mutex::new(looks),
        })
    }

    /// What decides now. Whoever has begun with it goes on with it.
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// The same for as long as a request takes: kept without a count that the threads share, unless a thread has many
    /// requests at once.
    pub fn in_force(&self) -> Guard<Arc<Engine>> {
        self.current.load()
    }

    /// Reads the files again, and decides by them from now on: true where they say something else than before. Where
    /// they cannot be used, the old ones stay in force.
    pub fn reload(&self) -> Result<bool, BundleError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = looks(&self.sources);
        let read = Bundle::read(&self.sources).and_then(|bundle| {
            let is_new = bundle.version() != self.current.load().bundle().version();
            Ok(is_new.then_some(Engine::new(bundle)?))
        });
        let outcome = read.map(|engine| {
            let is_new = engine.is_some();
            engine.into_iter().for_each(|engine| self.current.store(Arc::new(engine)));
            is_new
        });
        let failure = outcome.as_ref().err().cloned();
        let count = if failure.is_some() { &self.failures } else { &self.reloads };
        count.fetch_add(1, Ordering::Relaxed);
        match &outcome {
            Ok(true) => {
                let version = self.current();
                tracing::info!(version = version.bundle().version(), "the policies were read again");
            }
            Ok(false) => tracing::debug!("the policies were read again, and are the same"),
            Err(error) => tracing::error!(%error, "the policies cannot be used; the old ones stay in force"),
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        outcome
    }

    /// Why the files as they were last read are not in force; none where they are.
    pub fn failure(&self) -> Option<BundleError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often they were read again.
    pub fn counts(&self) -> Reloads {
        Reloads {
            reloads: self.reloads.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Whether the files look otherwise than when they were last read.
    pub fn is_stale(&self) -> bool {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) != looks(&self.sources)
    }
}

/// What the files look like now: names, sizes and times of change.
fn looks(sources: &Sources) -> Looks {
    let directories = sources.schema.iter().chain(&sources.policies);
    let mut looks: Looks = directories
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let kind = path.extension()?.to_str()?;
            // Of what a link leads to.
            let meta = std::fs::metadata(&path).ok()?;
            let is_ours = ["cedar", "cedarschema", "json"].contains(&kind) && meta.is_file();
            is_ours.then(|| (path, meta.modified().ok(), meta.len()))
        })
        .collect();
    looks.sort();
    looks
}
