//! The kinds of things that the store holds, by the names that Cedar knows them by.

use super::rows::table;
use super::{Reader, Stamp, Store, StoreError};
use crate::authz::{Resourced, Undecided};
use crate::resource::Resource;
use crate::values::{Fingerprint, Id, Near, OrgPath};
use futures_util::future::BoxFuture;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

type Page = for<'a> fn(
    &'a Reader<'a>,
    &'a OrgPath,
    Option<Id>,
    u64,
) -> BoxFuture<'a, Result<Vec<(Id, Arc<Resourced>)>, StoreError>>;
type Load = for<'a> fn(&'a Reader<'a>, Id) -> BoxFuture<'a, Result<Option<Arc<Resourced>>, StoreError>>;
type Recall = fn(&Store, Id) -> Option<Arc<Resourced>>;
type Read = for<'a> fn(&'a Store, Id) -> BoxFuture<'a, Result<Option<Arc<Resourced>>, StoreError>>;

thread_local! {
    /// The things of late, each by its id and the number of its kind; none of an id of nothing. They are this thread's own
    /// copies.
    static NEAR: RefCell<Near<(Stamp, Option<Arc<Resourced>>)>> = const { RefCell::new(Near::EMPTY) };
}

/// How many things a thread has near.
const NEAR_THINGS: usize = 8_192;

/// A kind of thing.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its Cedar entity type.
    pub name: &'static str,
    pub(super) table: &'static str,
    /// Tells it from the other kinds, and from its like of other services in this process.
    number: u32,
    load: Load,
    recall: Recall,
    read: Read,
    page: Page,
}

impl Kind {
    /// The kind of this resource.
    pub fn of<R: Resource>() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            name: R::TYPE,
            table: table::<R>(),
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            recall: |store, id| store.recall::<R, _>(id, Undecided::resourced),
            read: |store, id| {
                Box::pin(async move { Ok(store.read::<R>(id).await?.map(|thing| thing.resourced())) })
            },
            page: |reader, top, after, limit| Box::pin(reader.page::<R>(top, after, limit)),
            load: |reader, id| Box::pin(reader.resource_entity::<R>(id)),
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All kinds of things.
#[derive(Debug, Clone, Default)]
pub struct Kinds(BTreeMap<&'static str, Kind>);

impl Kinds {
    /// Every kind, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }

    /// What Cedar must know of the thing of this type with this id, from what was read not long ago where that is still so;
    /// none where there is no such type or thing.
    pub async fn know(
        &self,
        store: &Store,
        kind: &str,
        id: Id,
    ) -> Result<Option<Arc<Resourced>>, StoreError> {
        let Some(kind) = self.0.get(kind) else { return Ok(None) };
        let key = Fingerprint::of_id(kind.number, id);
        let is_good = |(stamp, found): &&(Stamp, Option<Arc<Resourced>>)| match found {
            Some(_) => store.is_good(*stamp, id),
            None => store.is_still_absent(*stamp, id),
        };
        if let Some((_, near)) = NEAR.with_borrow(|near| near.get(key).filter(is_good).cloned()) {
            return Ok(near);
        }
        let stamp = store.stamp(id);
        let known = match (kind.recall)(store, id) {
            Some(known) => Some(known),
            None => (kind.read)(store, id).await?,
        };
        let own = known.as_ref().map(|known| Arc::new((**known).clone()));
        NEAR.with_borrow_mut(|near| near.keep(NEAR_THINGS, key, (stamp, own)));
        Ok(known)
    }

    /// Whether things of this type are kept.
    pub fn has(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    /// At most `limit` things of this type that stand in `top` or below it, after the id `after`, by id.
    pub async fn page(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        top: &OrgPath,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Arc<Resourced>)>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.page)(reader, top, after, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// What Cedar must know of the thing of this type with this id; none where there is no such type or thing.
    pub async fn load(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        id: Id,
    ) -> Result<Option<Arc<Resourced>>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.load)(reader, id).await,
            None => Ok(None),
        }
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().map(|kind| (kind.name, kind)).collect())
    }
}
