//! The change feed: what was created, changed and deleted of the resources that a caller may list.
//!
//! - [`cursor`]: positions as clients see them.
//! - [`page`]: the changes that a caller may see, through the lists of their types.
//! - [`follower`]: a request that follows the feed.
//! - [`waiting`]: how requests wait for changes, and how many may.

pub mod cursor;
pub mod follower;
pub mod page;
pub mod waiting;

pub use follower::Follower;
pub use page::{FeedChange, FeedPage, FeedScope, FeedType, FeedTypes};
pub use waiting::{ChangeFeed, WaitingPlace};
