//! Rows of resources: find, insert, save, delete.

use super::org_tree::{is_within, owner_org};
use super::{Reader, ResourceTypes, Store, StoreError, UnitOfWork};
use crate::authz::{AuthzResource, Permitted, ResourceEntity, Unchecked};
use crate::resource::Resource;
use crate::types::{Id, JsonSize, OrgPath, Timestamp};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, LockType, Order, Query};
use sea_orm::{
    ActiveModelTrait as _, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, JoinType, QueryFilter,
    QueryOrder, QueryResult, QuerySelect, Select, TryGetable,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The maximum size of a resource, in bytes as JSON: 256 KiB.
const MAX_RESOURCE_BYTES: usize = 256 * 1024;

/// The maximum number of ids in a query.
pub(super) const MAX_IDS: usize = 1000;

/// The columns of the table of a resource.
type Column<R> = <<R as Resource>::Entity as EntityTrait>::Column;

/// The alias of the joined organization that owns a resource.
pub(super) const OWNER_ORG: &str = "owner_org";
/// The name under which the path of that organization is selected.
const OWNER_ORG_PATH: &str = "owner_org_path";

/// A row with the path of the organization that owns it.
pub(super) struct RowWithOrg<R> {
    pub(super) row: R,
    path: OrgPath,
}

impl<R: FromQueryResult> FromQueryResult for RowWithOrg<R> {
    fn from_query_result(result: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        Ok(Self {
            row: R::from_query_result(result, prefix)?,
            path: OrgPath::try_get(result, prefix, OWNER_ORG_PATH)?,
        })
    }
}

impl<R: Resource> RowWithOrg<R> {
    pub(super) fn into_unchecked(self) -> Unchecked<R> {
        Unchecked::new(self.row, self.path)
    }
}

impl<P: AuthzResource> RowWithOrg<P> {
    /// Returns the id and the Cedar entity of the row.
    pub(super) fn into_id_and_entity(self) -> (Id, Arc<ResourceEntity>) {
        (self.row.id(), Unchecked::new(self.row, self.path).resource_entity())
    }
}

/// Selects the rows of a resource with the paths of their organizations.
pub(super) fn select_with_org<R: Resource>() -> Select<R::Entity> {
    join_owner_org::<R>(<R::Entity as EntityTrait>::find())
}

/// Selects only the columns that decisions read, with the paths of the organizations.
pub(super) fn select_decision_columns<R: Resource>() -> Select<R::Entity> {
    let columns = R::DECISION_COLUMNS.iter();
    let select = <R::Entity as EntityTrait>::find().select_only();
    join_owner_org::<R>(columns.fold(select, |select, (column, field)| select.column_as(*column, *field)))
}

fn join_owner_org<R: Resource>(select: Select<R::Entity>) -> Select<R::Entity> {
    let relation = <R::Entity as EntityTrait>::belongs_to(owner_org::Entity)
        .from(R::organization_column())
        .to(owner_org::Column::Id)
        .into();
    select
        .join_as(JoinType::InnerJoin, relation, OWNER_ORG)
        .expr_as(Expr::col((OWNER_ORG, "path")), OWNER_ORG_PATH)
}

fn by_id<R: Resource>(id: Id) -> Select<R::Entity> {
    select_with_org::<R>().filter(id_column::<R>().eq(id))
}

/// The id column of a resource, qualified with the table.
pub(super) fn id_column<R: Resource>() -> Expr {
    Expr::col((Alias::new(table::<R>()), Alias::new("id")))
}

/// Checks the size of a row.
///
/// # Errors
/// [`StoreError::TooLarge`] above [`MAX_RESOURCE_BYTES`].
fn check_size(row: &impl serde::Serialize) -> Result<(), StoreError> {
    let JsonSize { bytes, .. } = JsonSize::of(row);
    if bytes > MAX_RESOURCE_BYTES {
        Err(StoreError::TooLarge { bytes, max: MAX_RESOURCE_BYTES })
    } else {
        Ok(())
    }
}

/// Returns the name of the table of a resource.
pub(super) fn table<R: Resource>() -> &'static str {
    sea_orm::EntityName::table_name(&<R::Entity as Default>::default())
}

impl Reader<'_> {
    /// Returns the resource with this id; none if there is none.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Unchecked<R>>, StoreError> {
        Ok(by_id::<R>(id).into_model::<RowWithOrg<R>>().one(&self.0).await?.map(RowWithOrg::into_unchecked))
    }

    /// Returns the Cedar entities of a page of the resources in `top` and its descendants, by id: at most `limit`,
    /// after the id `after`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn page<R: Resource>(
        &self,
        top: &OrgPath,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Arc<ResourceEntity>)>, StoreError> {
        let mut select =
            select_decision_columns::<R>().filter(is_within(Expr::col((OWNER_ORG, "path")), top));
        if let Some(after) = after {
            select = select.filter(id_column::<R>().gt(after));
        }
        let select = select.order_by(id_column::<R>(), Order::Asc).limit(limit);
        let rows = select.into_model::<RowWithOrg<R::DecisionRow>>().all(&self.0).await?;
        Ok(rows.into_iter().map(RowWithOrg::into_id_and_entity).collect())
    }

    /// Returns the Cedar entities of those resources that have one of these ids.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn resource_entities<R: Resource>(
        &self,
        ids: &[Id],
    ) -> Result<HashMap<Id, Arc<ResourceEntity>>, StoreError> {
        let mut entities = HashMap::with_capacity(ids.len());
        for batch in ids.chunks(MAX_IDS) {
            let select = select_decision_columns::<R>().filter(id_column::<R>().is_in(batch.iter().copied()));
            let rows = select.into_model::<RowWithOrg<R::DecisionRow>>().all(&self.0).await?;
            entities.extend(rows.into_iter().map(RowWithOrg::into_id_and_entity));
        }
        Ok(entities)
    }
}

impl Store {
    /// Returns the resource with this id, from the cache if that is current; none if there is none.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Unchecked<R>>, StoreError> {
        if let Some(resource) = self.map_cached(id, Unchecked::<R>::clone) {
            return Ok(Some(resource));
        }
        // Boxed, since this branch is rare and its future large: it would enlarge the future of every request.
        Box::pin(self.load_and_cache(id)).await
    }

    /// Applies `project` to a cached resource; none if it is not cached.
    pub(super) fn map_cached<R: Resource, T>(
        &self,
        id: Id,
        project: impl FnOnce(&Unchecked<R>) -> T,
    ) -> Option<T> {
        self.cache.get(R::TYPE, id)??.downcast::<R>().map(project)
    }

    /// Reads a resource and caches it, or that it is absent. Caching the absence prevents that response times reveal
    /// whether an id belongs to a resource of another tenant.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) async fn load_and_cache<R: Resource>(
        &self,
        id: Id,
    ) -> Result<Option<Unchecked<R>>, StoreError> {
        if matches!(self.cache.get(R::TYPE, id), Some(None)) {
            return Ok(None);
        }
        let version = self.cache.row_version(id);
        let Some(row_with_org) = by_id::<R>(id).into_model::<RowWithOrg<R>>().one(&self.db).await? else {
            self.cache.insert_absent((R::TYPE, id), version);
            return Ok(None);
        };
        let bytes = JsonSize::of(&row_with_org.row).memory_estimate();
        let resource = row_with_org.into_unchecked();
        // Built before the resource is cached, so that all clones share it.
        resource.resource_entity();
        self.cache.insert((R::TYPE, id), version, bytes, resource.clone());
        Ok(Some(resource))
    }
}

impl UnitOfWork {
    /// Returns the resource with this id and locks its row until the unit of work ends; none if there is none.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Unchecked<R>>, StoreError> {
        // Lock first, then read the row with its organization: after waiting for a lock, a joined row would still be the one
        // from before the wait.
        let mut lock = Query::select();
        lock.column(Alias::new("id"))
            .from(Alias::new(table::<R>()))
            .and_where(Expr::col("id").eq(id))
            .lock(LockType::Update);
        self.tx.query_one(&lock).await?;
        self.reader().find(id).await
    }

    /// Locks the rows with these ids until the unit of work ends, in the order of the ids: two units of work that lock some of
    /// the same rows do not wait for each other.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn lock_rows<R: Resource>(&self, ids: &[Id]) -> Result<(), StoreError> {
        self.lock_ids(table::<R>(), ids.to_vec(), LockType::Update).await
    }

    /// Locks the rows that new ones refer to against deletion, in the order of their types and ids. Inserting them one by one
    /// would lock them in another order.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn lock_references(
        &self,
        types: &ResourceTypes,
        references: impl IntoIterator<Item = (&'static str, Id)>,
    ) -> Result<(), StoreError> {
        let mut ids: BTreeMap<&str, Vec<Id>> = BTreeMap::new();
        for (kind, id) in references {
            if let Some(table) = types.table(kind) {
                ids.entry(table).or_default().push(id);
            }
        }
        for (table, ids) in ids {
            self.lock_ids(table, ids, LockType::KeyShare).await?;
        }
        Ok(())
    }

    async fn lock_ids(&self, table: &str, mut ids: Vec<Id>, lock: LockType) -> Result<(), StoreError> {
        ids.sort_unstable();
        ids.dedup();
        for batch in ids.chunks(MAX_IDS) {
            let mut rows = Query::select();
            rows.column(Alias::new("id"))
                .from(Alias::new(table))
                .and_where(Expr::col("id").is_in(batch.iter().copied()))
                .order_by("id", Order::Asc)
                .lock(lock);
            self.tx.query_all(&rows).await?;
        }
        Ok(())
    }

    /// Inserts a new resource.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it has more than 256 KiB as JSON; else if the database is unavailable or rejects it.
    pub async fn insert<R: Resource>(&self, row: Permitted<R>) -> Result<Permitted<R>, StoreError> {
        check_size(&row)?;
        self.mark_created(row.id());
        self.note_stored(&row, true);
        let new = (*row).clone().into_active_model().reset_all();
        <R::Entity as EntityTrait>::insert(new).exec_without_returning(&self.tx).await?;
        Ok(row)
    }

    /// Updates a resource.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it has more than 256 KiB as JSON; else if the database is unavailable or rejects it.
    pub async fn save<R>(&self, row: Permitted<R>) -> Result<Permitted<R>, StoreError>
    where
        R: Resource,
    {
        check_size(&row)?;
        self.mark_written(row.id());
        self.note_stored(&row, false);
        let changed = (*row).clone().into_active_model().reset_all();
        <R::Entity as EntityTrait>::update(changed)
            .exec(&self.tx)
            .await
            .map_err(|error| self.statement_error(error))?;
        Ok(row)
    }

    /// Deletes a resource, and the rows that the database deletes with it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Referenced`] if another row refers to it; else if the database is unavailable.
    pub async fn delete<R: Resource>(&self, row: &Permitted<R>) -> Result<(), StoreError> {
        // The ids of cascaded rows, such as the messages of a conversation or the keys of a user, are unknown here.
        self.mark_all_written();
        let mut delete = Query::delete();
        delete.from_table(Alias::new(table::<R>())).and_where(Expr::col("id").eq(row.id()));
        self.tx.execute(&delete).await.map_err(|error| self.statement_error(error))?;
        Ok(())
    }

    /// Sets a column of a resource that refers to another one, in addition to what [`Self::save`] writes.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn set_reference<R: Resource>(
        &self,
        row: &Permitted<R>,
        column: Column<R>,
        target: Id,
    ) -> Result<(), StoreError> {
        self.mark_written(row.id());
        self.update_column::<R>(column, target, Expr::col("id").eq(row.id())).await
    }

    /// Moves the resources that refer to `parent` by the column `reference` to the organization that owns `parent`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn move_children_to_org<C: Resource, P: Resource>(
        &self,
        parent: &Permitted<P>,
        reference: Column<C>,
    ) -> Result<(), StoreError> {
        // The ids of the children are unknown here.
        self.mark_all_written();
        let is_child = Expr::col(reference).eq(parent.id());
        self.update_column::<C>(C::organization_column(), parent.organization(), is_child).await
    }

    /// Sets columns of a resource to times, without changing its other columns.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn set_times<R: Resource>(
        &self,
        row: &Permitted<R>,
        columns: &[(Column<R>, Timestamp)],
    ) -> Result<(), StoreError> {
        self.mark_written(row.id());
        let mut update = Query::update();
        update.table(Alias::new(table::<R>())).and_where(Expr::col("id").eq(row.id()));
        for (column, time) in columns {
            update.value(*column, *time);
        }
        self.tx.execute(&update).await?;
        Ok(())
    }

    async fn update_column<R: Resource>(
        &self,
        column: Column<R>,
        value: Id,
        condition: Expr,
    ) -> Result<(), StoreError> {
        let mut update = Query::update();
        update.table(Alias::new(table::<R>())).value(column, value).and_where(condition);
        self.tx.execute(&update).await?;
        Ok(())
    }
}
