//! The tree of organizations.

use super::{Reader, ResourceTypes, Store, StoreError, UnitOfWork};
use crate::authz::Permitted;
use crate::resource::Resource;
use crate::types::{Id, OrgPath};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, LockType, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, QueryTrait, TryGetable,
};

/// The organizations, as owners of resources.
pub(super) mod owner_org {
    use crate::types::{Id, OrgPath};
    use sea_orm::entity::prelude::*;

    /// The position of an organization in the tree.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "organizations")]
    pub(crate) struct Model {
        /// The id of the organization.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Id,
        /// Its parent; none for the root.
        pub parent: Option<Id>,
        /// Its path.
        pub path: OrgPath,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Returns the condition that a path is `top` or below it.
pub(super) fn is_within(path: Expr, top: &OrgPath) -> Expr {
    // Ids are hex digits, so the pattern has no wildcards except the last one.
    path.clone().eq(top.to_string()).or(path.like(format!("{top}#%")))
}

impl Reader<'_> {
    /// Returns the path of an organization; none if there is no such organization.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        Ok(owner_org::Entity::find_by_id(organization)
            .one(&self.0)
            .await?
            .map(|organization| organization.path))
    }

    /// Returns the paths of an organization and all its descendants, by level.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn subtree(&self, top: &OrgPath) -> Result<Vec<OrgPath>, StoreError> {
        self.subtree_up_to(top, None).await
    }

    /// Returns the paths of an organization and its descendants, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn subtree_up_to(&self, top: &OrgPath, limit: Option<u64>) -> Result<Vec<OrgPath>, StoreError> {
        let select = owner_org::Entity::find().filter(is_within(Expr::col("path"), top)).limit(limit);
        let organizations = select.all(&self.0).await?;
        let mut paths: Vec<OrgPath> =
            organizations.into_iter().map(|organization| organization.path).collect();
        paths.sort_by_key(OrgPath::level);
        Ok(paths)
    }
}

impl Store {
    /// Returns the path of an organization; none if there is no such organization.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        self.reader().path(organization).await
    }

    /// Returns the path of the root organization; none in an empty database.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn root(&self) -> Result<Option<OrgPath>, StoreError> {
        let root =
            owner_org::Entity::find().filter(owner_org::Column::Parent.is_null()).one(&self.db).await?;
        Ok(root.map(|organization| organization.path))
    }

    /// Returns the paths of an organization and all its descendants, by level.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn subtree(&self, top: &OrgPath) -> Result<Vec<OrgPath>, StoreError> {
        self.reader().subtree(top).await
    }
}

impl UnitOfWork {
    /// Locks the tree of organizations against changes until the unit of work ends.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn lock_tree(&self) -> Result<(), StoreError> {
        let mut root = owner_org::Entity::find().filter(owner_org::Column::Parent.is_null());
        QueryTrait::query(&mut root).lock(LockType::Update);
        root.one(&self.tx).await?;
        Ok(())
    }

    /// Returns the current path of an organization; none if there is no such organization.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        self.reader().path(organization).await
    }

    /// Updates the paths of all descendants of an organization that has moved from `old` to `new`. The organization
    /// itself has already been saved.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn move_subtree<R: Resource>(
        &self,
        moved: &Permitted<R>,
        old: &OrgPath,
        new: &OrgPath,
    ) -> Result<(), StoreError> {
        debug_assert_eq!(moved.id(), new.org_id());
        self.mark_all_written();
        let descendants = owner_org::Entity::find()
            .filter(Expr::col("path").like(format!("{old}#%")))
            .all(&self.tx)
            .await?;
        for organization in descendants {
            let path =
                organization.path.ids().skip(old.level() + 1).fold(new.clone(), |path, id| path.child(id));
            let mut update = Query::update();
            update
                .table("organizations")
                .value("path", path.to_string())
                .value("level", i64::try_from(path.level()).unwrap_or(i64::MAX))
                .and_where(Expr::col("id").eq(organization.id));
            self.tx.execute(&update).await?;
        }
        Ok(())
    }

    /// Counts what an organization holds, as `(type, count)` for each type with any: its child organizations, and its
    /// resources of every other type.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn count_held_resources(
        &self,
        organization: Id,
        types: &ResourceTypes,
    ) -> Result<Vec<(&'static str, i64)>, StoreError> {
        let mut counts = Vec::new();
        for resource_type in types.iter() {
            let mut count = Query::select();
            count
                .expr_as(Expr::col("id").count(), "held")
                .from(Alias::new(resource_type.table))
                .and_where(Expr::col(resource_type.container_column).eq(organization));
            let held = match self.tx.query_one(&count).await? {
                Some(row) => i64::try_get(&row, "", "held").map_err(DbErr::from)?,
                None => 0,
            };
            if held > 0 {
                counts.push((resource_type.name, held));
            }
        }
        Ok(counts)
    }
}
