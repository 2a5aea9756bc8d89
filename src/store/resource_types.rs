//! The resource types in the store, by their Cedar entity types.

use super::rows::table;
use super::{Reader, Store, StoreError};
use crate::authz::filter::Filter;
use crate::authz::{AuthzRequest, Engine, ResourceEntity, StoredType, SuppliedAttribute, Unchecked};
use crate::resource::Resource;
use crate::types::{Id, OrgPath};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

type PageFn = for<'a> fn(
    &'a Reader<'a>,
    &'a OrgPath,
    Option<Id>,
    u64,
) -> BoxFuture<'a, Result<Vec<(Id, Arc<ResourceEntity>)>, StoreError>>;
type SearchFn = for<'a> fn(
    &'a Reader<'a>,
    &'a OrgPath,
    &'a [Filter],
    Option<Id>,
    u64,
) -> BoxFuture<'a, Result<Option<Vec<Id>>, StoreError>>;
type SearchedEntitiesFn = for<'a> fn(
    &'a Reader<'a>,
    &'a OrgPath,
    &'a [Filter],
    &'a [Id],
) -> BoxFuture<'a, Result<Vec<Arc<ResourceEntity>>, StoreError>>;
type LoadFn = for<'a> fn(
    &'a Reader<'a>,
    &'a [Id],
) -> BoxFuture<'a, Result<HashMap<Id, Arc<ResourceEntity>>, StoreError>>;
type CachedFn = fn(&Store, Id) -> Option<Arc<ResourceEntity>>;
type LoadAndCacheFn =
    for<'a> fn(&'a Store, Id) -> BoxFuture<'a, Result<Option<Arc<ResourceEntity>>, StoreError>>;

type FindManyFn = for<'a> fn(
    &'a Reader<'a>,
    &'a [Id],
    u64,
) -> BoxFuture<'a, Result<Vec<Box<dyn AnyUnchecked>>, StoreError>>;

/// A resource of any type on which no action has been authorized.
pub trait AnyUnchecked: Send {
    /// Returns the id and the JSON of the resource if the engine permits to fetch it. The action of `request` is ignored.
    fn fetch(self: Box<Self>, engine: &Engine, request: &AuthzRequest<'_>) -> Option<(Id, Value)>;
}

impl<R: Resource> AnyUnchecked for Unchecked<R> {
    fn fetch(self: Box<Self>, engine: &Engine, request: &AuthzRequest<'_>) -> Option<(Id, Value)> {
        let request = AuthzRequest { action: R::FETCH_ACTION, ..*request };
        let resource = engine.permit(&request, *self).ok()?;
        Some((resource.id(), serde_json::to_value(&resource).ok()?))
    }
}

/// A resource type, with its typed operations as functions.
#[derive(Clone, Copy)]
pub struct ResourceType {
    /// The Cedar entity type.
    pub name: &'static str,
    /// The action that fetches a resource of the type.
    pub fetch_action: &'static str,
    pub(super) table: &'static str,
    /// The attributes of its Cedar entities besides `organization`.
    attributes: &'static [SuppliedAttribute],
    updatable_fields: fn() -> Vec<String>,
    /// The column with the organization that holds the resource in the tree.
    pub(super) container_column: &'static str,
    /// The fields with ids of other resources, each with the type of that resource.
    pub reference_fields: &'static [(&'static str, &'static str)],
    find_many: FindManyFn,
    load: LoadFn,
    cached: CachedFn,
    load_and_cache: LoadAndCacheFn,
    page: PageFn,
    search: SearchFn,
    searched_entities: SearchedEntitiesFn,
}

impl ResourceType {
    /// Returns the type of a resource.
    pub fn new<R: Resource>() -> Self {
        Self {
            name: R::TYPE,
            fetch_action: R::FETCH_ACTION,
            table: table::<R>(),
            attributes: R::ATTRIBUTES,
            updatable_fields: R::updatable_fields,
            container_column: R::CONTAINER_COLUMN,
            reference_fields: R::REFERENCE_FIELDS,
            find_many: |reader, ids, max_bytes| {
                Box::pin(async move {
                    let found = reader.find_many::<R>(ids, max_bytes).await?;
                    Ok(found.into_iter().map(|row| Box::new(row) as Box<dyn AnyUnchecked>).collect())
                })
            },
            cached: |store, id| store.map_cached::<R, _>(id, Unchecked::resource_entity),
            load_and_cache: |store, id| {
                Box::pin(async move {
                    Ok(store.load_and_cache::<R>(id).await?.map(|resource| resource.resource_entity()))
                })
            },
            page: |reader, top, after, limit| Box::pin(reader.page::<R>(top, after, limit)),
            search: |reader, top, filters, after, limit| {
                Box::pin(reader.search::<R>(top, filters, after, limit))
            },
            searched_entities: |reader, top, filters, ids| {
                Box::pin(reader.searched_entities::<R>(top, filters, ids))
            },
            load: |reader, ids| Box::pin(reader.resource_entities::<R>(ids)),
        }
    }
}

impl From<&ResourceType> for StoredType {
    fn from(resource_type: &ResourceType) -> Self {
        Self {
            name: resource_type.name,
            attributes: resource_type.attributes,
            fields: (resource_type.updatable_fields)(),
        }
    }
}

impl std::fmt::Debug for ResourceType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All resource types.
#[derive(Debug, Clone, Default)]
pub struct ResourceTypes(BTreeMap<&'static str, ResourceType>);

impl ResourceTypes {
    /// Iterates over the types by name.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceType> {
        self.0.values()
    }

    /// Returns the Cedar entity of a resource, from a cache if that is current; none if there is no such type or resource.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn load_cached(
        &self,
        store: &Store,
        type_name: &str,
        id: Id,
    ) -> Result<Option<Arc<ResourceEntity>>, StoreError> {
        let Some(resource_type) = self.0.get(type_name) else { return Ok(None) };
        match (resource_type.cached)(store, id) {
            Some(entity) => Ok(Some(entity)),
            None => (resource_type.load_and_cache)(store, id).await,
        }
    }

    /// Returns the action that fetches a resource of this type; none if there is no such type.
    pub fn fetch_action(&self, kind: &str) -> Option<&'static str> {
        self.0.get(kind).map(|resource_type| resource_type.fetch_action)
    }

    /// Returns the fields of a type with ids of other resources, each with the type of that resource.
    pub fn reference_fields(&self, type_name: &str) -> &'static [(&'static str, &'static str)] {
        self.0.get(type_name).map_or(&[], |resource_type| resource_type.reference_fields)
    }

    /// Returns those resources of a type that have one of these ids, in their order, as far as they have at most `max_bytes`
    /// together.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find_many(
        &self,
        reader: &Reader<'_>,
        type_name: &str,
        ids: &[Id],
        max_bytes: u64,
    ) -> Result<Vec<Box<dyn AnyUnchecked>>, StoreError> {
        match self.0.get(type_name) {
            Some(resource_type) => (resource_type.find_many)(reader, ids, max_bytes).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns whether resources of this type are stored.
    pub fn contains(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    /// Returns a page of the resources of a type in `top` and its descendants, by id: at most `limit`, after the id `after`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn page(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        top: &OrgPath,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Arc<ResourceEntity>)>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.page)(reader, top, after, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the ids of those resources of a type in `top` and its descendants that all filters permit, in ascending order: at
    /// most `limit`, after the id `after`. None if the database has no condition for a filter.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn search(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        top: &OrgPath,
        filters: &[Filter],
        (after, limit): (Option<Id>, u64),
    ) -> Result<Option<Vec<Id>>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.search)(reader, top, filters, after, limit).await,
            None => Ok(None),
        }
    }

    /// Returns the Cedar entities of those resources with these ids that [`Self::search`] finds with the same filters, as they are
    /// when the query selects them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn searched_entities(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        (top, filters): (&OrgPath, &[Filter]),
        ids: &[Id],
    ) -> Result<Vec<Arc<ResourceEntity>>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.searched_entities)(reader, top, filters, ids).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the Cedar entities of those resources of a type that have one of these ids, from the database.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn load(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        ids: &[Id],
    ) -> Result<HashMap<Id, Arc<ResourceEntity>>, StoreError> {
        match self.0.get(kind) {
            Some(kind) => (kind.load)(reader, ids).await,
            None => Ok(HashMap::new()),
        }
    }

    /// Returns the table of a type; none if there is no such type.
    pub(super) fn table(&self, kind: &str) -> Option<&'static str> {
        self.0.get(kind).map(|resource_type| resource_type.table)
    }
}

impl FromIterator<ResourceType> for ResourceTypes {
    fn from_iter<I: IntoIterator<Item = ResourceType>>(types: I) -> Self {
        Self(types.into_iter().map(|resource_type| (resource_type.name, resource_type)).collect())
    }
}
