//! Waiting for changes: one task of the process reads what is new and wakes those whom it may concern.
//!
//! The task runs while someone waits. It reads after each write of any process, so that a wait costs nothing while nothing is
//! written, and many waits cost one query.

use super::cursor::CursorKey;
use crate::application::Error;
use crate::store::{ChangePosition, Store};
use crate::types::Id;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};

/// The number of batches that a waiting request may be behind. If it is further behind, it reads.
const BATCHES: usize = 64;
/// The time between two reads while notifications of other processes do not arrive.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum time between two reads: writes in between are delivered together.
const COALESCE_TIME: Duration = Duration::from_millis(20);
/// The time between reads while a transaction must end before changes are delivered.
const PENDING_INTERVAL: Duration = Duration::from_millis(50);

/// The types and organizations of new changes.
type Batch = Arc<Vec<(String, Id)>>;

/// The limits on waiting requests.
#[derive(Debug, Clone, Copy)]
pub struct WaitingLimits {
    /// The maximum number of requests that wait at the same time.
    pub total: usize,
    /// Of these, the maximum number of one user.
    pub per_user: usize,
}

/// The change feed of a process.
#[derive(Debug)]
pub struct ChangeFeed {
    key: OnceCell<CursorKey>,
    limits: WaitingLimits,
    waiting: Arc<Mutex<HashMap<Id, usize>>>,
    /// Sends the new changes while the task runs.
    batches: tokio::sync::Mutex<Option<broadcast::Sender<Batch>>>,
}

/// The place of a waiting request, which is free again when it is dropped.
#[derive(Debug)]
pub struct WaitingPlace {
    waiting: Arc<Mutex<HashMap<Id, usize>>>,
    user: Id,
}

/// Receives new changes.
#[derive(Debug)]
pub struct NewChangeReceiver(broadcast::Receiver<Batch>);

fn lock(waiting: &Mutex<HashMap<Id, usize>>) -> MutexGuard<'_, HashMap<Id, usize>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if let Some(count) = waiting.get_mut(&self.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

impl ChangeFeed {
    /// Creates the feed with these limits.
    pub fn new(limits: WaitingLimits) -> Self {
        Self { key: OnceCell::new(), limits, waiting: Arc::default(), batches: tokio::sync::Mutex::new(None) }
    }

    /// Returns the number of requests that wait.
    pub fn waiting(&self) -> usize {
        lock(&self.waiting).values().sum()
    }

    /// Admits a request of this user that waits.
    ///
    /// # Errors
    /// `too_many_streams` if the user has, or all users together have, as many as are allowed.
    pub fn admit(&self, user: Id) -> Result<WaitingPlace, Error> {
        let mut waiting = lock(&self.waiting);
        if waiting.values().sum::<usize>() >= self.limits.total {
            let message = "Too many requests wait for changes. Try again later.";
            return Err(Error::unavailable("too_many_streams", message));
        }
        let count = waiting.entry(user).or_default();
        if *count >= self.limits.per_user {
            let message = format!(
                "{count} requests of this user wait for changes, the most that are allowed. Close one first.",
            );
            return Err(Error::too_many_requests("too_many_streams", message, 1));
        }
        *count += 1;
        drop(waiting);
        Ok(WaitingPlace { waiting: Arc::clone(&self.waiting), user })
    }

    /// Returns the key of the cursors.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) async fn key(&self, store: &Store) -> Result<&CursorKey, Error> {
        let read = || async {
            let (secret, _) = store.change_feed().await?;
            CursorKey::new(&secret).ok_or_else(|| Error::internal("the secret of the change feed is invalid"))
        };
        self.key.get_or_try_init(read).await
    }

    /// Returns a receiver of the changes that become visible from now on.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn subscribe(&self, store: &Store) -> Result<NewChangeReceiver, Error> {
        let mut batches = self.batches.lock().await;
        if let Some(sender) = batches.as_ref() {
            let receiver = sender.subscribe();
            // With another receiver, the task has not ended, and does not as long as this one exists.
            if sender.receiver_count() > 1 {
                return Ok(NewChangeReceiver(receiver));
            }
        }
        let (sender, receiver) = broadcast::channel(BATCHES);
        // Read before the caller reads, so that the task misses nothing that the caller has not seen.
        let writes = store.watch_writes();
        let start = store.last_change().await?;
        tokio::spawn(publish(store.clone(), writes, start, sender.clone()));
        *batches = Some(sender);
        Ok(NewChangeReceiver(receiver))
    }
}

/// Publishes new changes until nobody receives them.
async fn publish(
    store: Store,
    mut writes: tokio::sync::watch::Receiver<()>,
    mut position: ChangePosition,
    sender: broadcast::Sender<Batch>,
) {
    let mut has_pending = false;
    while sender.receiver_count() > 0 {
        let wait = match (has_pending, store.hears_all_writes()) {
            (true, _) => PENDING_INTERVAL,
            (false, false) => POLL_INTERVAL,
            // Ends the task when nobody waits any more.
            (false, true) => 15 * POLL_INTERVAL,
        };
        let woken = tokio::time::timeout(wait, writes.changed()).await;
        if woken.is_err() && !has_pending && store.hears_all_writes() {
            continue;
        }
        match store.new_changes(&position).await {
            Ok(new) => {
                (position, has_pending) = (new.end, new.has_pending);
                if !new.resources.is_empty() {
                    // An error says that nobody receives.
                    drop(sender.send(Arc::new(new.resources)));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read new changes");
                has_pending = true;
            }
        }
        tokio::time::sleep(COALESCE_TIME).await;
    }
}

impl NewChangeReceiver {
    /// Waits for a change that concerns a caller, by the type and organization of its resource.
    pub async fn wait_for(&mut self, concerns: impl Fn(&str, Id) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(batch) => {
                    if batch.iter().any(|(resource_type, id)| concerns(resource_type, *id)) {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The task ended, which it does only with the process.
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_limited_number_of_places_and_so_have_all_together() {
        let feed = ChangeFeed::new(WaitingLimits { total: 3, per_user: 2 });
        let [a, b]: [Id; 2] = ["a", "b"].map(|digit| digit.repeat(24).parse().unwrap());
        let first = feed.admit(a).unwrap();
        let _second = feed.admit(a).unwrap();
        assert_eq!(
            feed.admit(a).unwrap_err().kind,
            crate::application::ErrorKind::TooManyRequests { retry_after: 1 }
        );
        let _third = feed.admit(b).unwrap();
        assert_eq!(
            feed.admit(b).unwrap_err().kind,
            crate::application::ErrorKind::Unavailable { retry_after: 1 }
        );
        assert_eq!(feed.waiting(), 3);
        drop(first);
        assert_eq!(feed.waiting(), 2);
        drop(feed.admit(a).unwrap());
    }
}
