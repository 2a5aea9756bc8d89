//! The kinds of things that the store holds, by the names that Cedar knows them by.

use super::rows::table;
use super::{Reader, StoreError};
use crate::authz::Resourced;
use crate::resource::Resource;
use crate::values::Id;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;

type Load = for<'a> fn(&'a Reader<'a>, Id) -> BoxFuture<'a, Result<Option<Resourced>, StoreError>>;

/// A kind of thing.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its Cedar entity type.
    pub name: &'static str,
    pub(super) table: &'static str,
    load: Load,
}

impl Kind {
    /// The kind of this resource.
    pub fn of<R: Resource>() -> Self {
        Self {
            name: R::TYPE,
            table: table::<R>(),
            load: |reader, id| {
                Box::pin(async move { Ok(reader.find::<R>(id).await?.map(|thing| thing.resourced())) })
            },
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

    /// What Cedar must know of the thing of this type with this id; none where there is no such type or thing.
    pub async fn load(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        id: Id,
    ) -> Result<Option<Resourced>, StoreError> {
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
