//! A request that follows the change feed, and is authenticated and authorized again while it does.

use super::page::{FeedPage, FeedScope, FeedTypes};
use super::waiting::NewChangeReceiver;
use crate::application::{Authorizer, Error};
use crate::store::{ChangePosition, StoreError};
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, Instant};

/// How often a request that waits is authenticated again. A change of the policies or of the caller's rights is noticed then, and
/// in any case before changes are read.
const AUTHENTICATION_INTERVAL: Duration = Duration::from_secs(1);

/// A request that follows the feed.
#[derive(Debug)]
pub struct Follower {
    authorizer: Authorizer,
    token: SecretString,
    types: FeedTypes,
    scope: FeedScope,
    position: ChangePosition,
    /// The maximum number of changes in a page, and the maximum size of their resources.
    bounds: (u64, usize),
    new_changes: Option<NewChangeReceiver>,
}

impl Follower {
    /// Follows the changes of these types after a position, for the caller with this token.
    pub fn new(
        authorizer: Authorizer,
        token: SecretString,
        (types, scope): (FeedTypes, FeedScope),
        position: ChangePosition,
        bounds: (u64, usize),
    ) -> Self {
        Self { authorizer, token, types, scope, position, bounds, new_changes: None }
    }

    /// Makes [`Follower::wait`] notice the changes from now on.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn subscribe(&mut self) -> Result<(), Error> {
        let state = self.authorizer.state();
        self.new_changes = Some(state.change_feed.subscribe(&state.store).await?);
        Ok(())
    }

    /// Returns the next changes.
    ///
    /// # Errors
    /// The credential has ended, the caller may no longer list the types, or the database is unavailable.
    pub async fn read(&mut self) -> Result<FeedPage, Error> {
        self.authenticate().await?;
        self.scope = FeedScope::authorize(&self.authorizer, &self.types, false).await?;
        let feed = &self.authorizer.state().change_feed;
        let page = feed.page(&self.authorizer, &self.scope, &self.position, self.bounds).await?;
        self.position = page.end;
        Ok(page)
    }

    /// Returns the cursor after what was read.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn cursor(&self) -> Result<String, Error> {
        let state = self.authorizer.state();
        state.change_feed.cursor(&state.store, &self.position).await
    }

    /// Waits until there may be changes, `until` is reached, or `is_ended` says so.
    ///
    /// # Errors
    /// The credential has ended, or the caller may no longer list the types.
    pub async fn wait(&mut self, until: Instant, is_ended: impl Fn() -> bool) -> Result<(), Error> {
        loop {
            let next = until.min(Instant::now() + AUTHENTICATION_INTERVAL);
            let changed = async {
                match &mut self.new_changes {
                    Some(receiver) => {
                        receiver.wait_for(|kind, organization| self.scope.concerns(kind, organization)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            if tokio::time::timeout_at(next.into(), changed).await.is_ok() {
                return Ok(());
            }
            if self.authenticate().await? {
                self.scope = FeedScope::authorize(&self.authorizer, &self.types, false).await?;
            }
            if is_ended() || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Authenticates the caller again. Returns whether its rights may have changed.
    async fn authenticate(&mut self) -> Result<bool, Error> {
        let authorizer = self.authorizer.authenticate_again(self.token.expose_secret()).await?;
        if authorizer.state().store.is_stale() {
            let cause = "only decision endpoints continue from the cache".to_owned();
            return Err(StoreError::Unavailable(cause).into());
        }
        let is_changed = !authorizer.has_rights_of(&self.authorizer);
        self.authorizer = authorizer;
        Ok(is_changed)
    }
}
