//! The rows of the resources: found, inserted, saved, deleted.

use super::{Kinds, Reader, Store, StoreError, Work};
use crate::authz::{Permitted, Resourced, Thing, Undecided};
use crate::resource::Resource;
use crate::values::{Id, JsonSize, OrgPath};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, LockType, Order, Query};
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, JoinType,
    QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait, Select, TryGetable,
};
use std::sync::Arc;

/// The largest resource that is stored, in bytes as JSON: 256 KiB.
const MAX_RESOURCE: usize = 256 * 1024;

/// The organizations, seen from the things that they hold.
pub(super) mod holder {
    use crate::values::{Id, OrgPath};
    use sea_orm::entity::prelude::*;

    /// Where an organization stands.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "organizations")]
    pub(crate) struct Model {
        /// The organization.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Id,
        /// The organization above it.
        pub parent: Option<Id>,
        /// Its place in the tree.
        pub path: OrgPath,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The alias under which the organization that holds a thing is joined to it.
pub(super) const HOLDER: &str = "holder";

/// A row with the place of the organization that holds it.
pub(super) struct Held<R> {
    pub(super) row: R,
    path: OrgPath,
}

impl<R: FromQueryResult> FromQueryResult for Held<R> {
    fn from_query_result(result: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        Ok(Self {
            row: R::from_query_result(result, prefix)?,
            path: OrgPath::try_get(result, prefix, "holder_path")?,
        })
    }
}

impl<R: Resource> Held<R> {
    pub(super) fn undecided(self) -> Undecided<R> {
        Undecided::new(self.row, self.path)
    }
}

impl<P: Thing> Held<P> {
    /// The id and the Cedar entity of a row.
    fn resourced(self) -> (Id, Arc<Resourced>) {
        (self.row.id(), Undecided::new(self.row, self.path).resourced())
    }
}

/// The rows of a resource, each with the organization that holds it.
pub(super) fn held<R: Resource>() -> Select<R::Entity> {
    with_holder::<R>(<R::Entity as EntityTrait>::find())
}

/// The columns of the rows of a resource that decisions read, each with the organization that holds the row.
fn decision_rows<R: Resource>() -> Select<R::Entity> {
    let columns = R::DECISION_COLUMNS.iter();
    let select = <R::Entity as EntityTrait>::find().select_only();
    with_holder::<R>(columns.fold(select, |select, (column, field)| select.column_as(*column, *field)))
}

fn with_holder<R: Resource>(select: Select<R::Entity>) -> Select<R::Entity> {
    let relation = <R::Entity as EntityTrait>::belongs_to(holder::Entity)
        .from(R::holder_column())
        .to(holder::Column::Id)
        .into();
    select.join_as(JoinType::InnerJoin, relation, HOLDER).expr_as(Expr::col((HOLDER, "path")), "holder_path")
}

fn by_id<R: Resource>(id: Id) -> Select<R::Entity> {
    held::<R>().filter(id_column::<R>().eq(id))
}

/// The id of a resource, named with its table.
pub(super) fn id_column<R: Resource>() -> Expr {
    Expr::col((Alias::new(table::<R>()), Alias::new("id")))
}

/// Checks that a row is not too large to be stored.
///
/// # Errors
/// [`StoreError::TooLarge`] above [`MAX_RESOURCE`].
fn check_size(row: &impl serde::Serialize) -> Result<(), StoreError> {
    let JsonSize { bytes, .. } = JsonSize::of(row);
    if bytes > MAX_RESOURCE { Err(StoreError::TooLarge { bytes, max: MAX_RESOURCE }) } else { Ok(()) }
}

/// The name of a resource's table.
pub(super) fn table<R: Resource>() -> &'static str {
    sea_orm::EntityName::table_name(&<R::Entity as Default>::default())
}

impl Reader<'_> {
    /// The thing with this id; none where there is none.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Undecided<R>>, StoreError> {
        Ok(by_id::<R>(id).into_model::<Held<R>>().one(&self.0).await?.map(Held::undecided))
    }

    /// Where this organization stands in the tree; none where there is no such organization.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        Ok(holder::Entity::find_by_id(organization).one(&self.0).await?.map(|found| found.path))
    }
}

impl Reader<'_> {
    /// At most `limit` resources of `top` and the organizations below it, after the id `after`, by id: their Cedar
    /// entities.
    pub async fn page<R: Resource>(
        &self,
        top: &OrgPath,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Arc<Resourced>)>, StoreError> {
        let mut select = decision_rows::<R>().filter(is_within(Expr::col((HOLDER, "path")), top));
        if let Some(after) = after {
            select = select.filter(id_column::<R>().gt(after));
        }
        let select = select.order_by(id_column::<R>(), Order::Asc).limit(limit);
        let rows = select.into_model::<Held<R::DecisionRow>>().all(&self.0).await?;
        Ok(rows.into_iter().map(Held::resourced).collect())
    }

    /// The Cedar entity of the resource with this id; none where there is no such resource.
    pub async fn resource_entity<R: Resource>(&self, id: Id) -> Result<Option<Arc<Resourced>>, StoreError> {
        let select = decision_rows::<R>().filter(id_column::<R>().eq(id));
        let row = select.into_model::<Held<R::DecisionRow>>().one(&self.0).await?;
        Ok(row.map(|row| row.resourced().1))
    }

    /// This organization and all those below it, itself first.
    pub async fn subtree(&self, top: &OrgPath) -> Result<Vec<OrgPath>, StoreError> {
        let found = holder::Entity::find().filter(is_within(Expr::col("path"), top)).all(&self.0).await?;
        let mut paths: Vec<OrgPath> = found.into_iter().map(|found| found.path).collect();
        paths.sort_by_key(OrgPath::level);
        Ok(paths)
    }
}

impl Store {
    /// The thing with this id; none where there is none.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Undecided<R>>, StoreError> {
        if let Some(thing) = self.recall(id, Undecided::<R>::clone) {
            return Ok(Some(thing));
        }
        // Boxed, since it is rare and large, and every request would make room for it.
        Box::pin(self.read(id)).await
    }

    /// What is wanted of the thing with this id; none where it is not in memory.
    pub(super) fn recall<R: Resource, T>(&self, id: Id, of: impl FnOnce(&Undecided<R>) -> T) -> Option<T> {
        self.facts.row(R::TYPE, id)?.thing::<R>().map(of)
    }

    /// Reads a resource, and remembers it, or that it is absent: else the time of an answer would tell an id of nothing from
    /// one of a resource in another tenant.
    pub(super) async fn read<R: Resource>(&self, id: Id) -> Result<Option<Undecided<R>>, StoreError> {
        if self.facts.is_absent(R::TYPE, id) {
            return Ok(None);
        }
        let stamp = self.facts.stamp(id);
        let Some(held) = by_id::<R>(id).into_model::<Held<R>>().one(&self.db).await? else {
            self.facts.remember_absent(R::TYPE, id, stamp);
            return Ok(None);
        };
        let bytes = JsonSize::of(&held.row).memory();
        let thing = held.undecided();
        // Its copies know it from now on.
        thing.resourced();
        self.facts.remember_row((R::TYPE, id), stamp, bytes, thing.clone());
        Ok(Some(thing))
    }

    /// Where this organization stands in the tree; none where there is no such organization.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        self.reader().path(organization).await
    }

    /// The root organization; none in a database that is still empty.
    pub async fn root(&self) -> Result<Option<OrgPath>, StoreError> {
        let root = holder::Entity::find().filter(holder::Column::Parent.is_null()).one(&self.db).await?;
        Ok(root.map(|found| found.path))
    }

    /// This organization and all those below it, itself first.
    pub async fn subtree(&self, top: &OrgPath) -> Result<Vec<OrgPath>, StoreError> {
        self.reader().subtree(top).await
    }
}

/// That a path is that of `top` or of an organization below it.
pub(super) fn is_within(path: Expr, top: &OrgPath) -> Expr {
    // Ids are hex digits, so the pattern has no wildcard but its last one.
    path.clone().eq(top.to_string()).or(path.like(format!("{top}#%")))
}

impl Work {
    /// The thing with this id, kept from other writers until the work ends; none where there is none.
    pub async fn find<R: Resource>(&self, id: Id) -> Result<Option<Undecided<R>>, StoreError> {
        // The lock first, and then the row with its organization: what is joined to a row that had to be waited for is
        // what was joined to it before.
        let mut lock = Query::select();
        lock.column(Alias::new("id"))
            .from(Alias::new(table::<R>()))
            .and_where(Expr::col("id").eq(id))
            .lock(LockType::Update);
        self.tx.query_one(&lock).await?;
        self.reader().find(id).await
    }

    /// Stores a new thing.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it has more than 256 KiB as JSON.
    pub async fn insert<R: Resource>(&self, row: Permitted<R>) -> Result<Permitted<R>, StoreError> {
        check_size(&row)?;
        self.created(row.id());
        let new = (*row).clone().into_active_model().reset_all();
        <R::Entity as EntityTrait>::insert(new).exec_without_returning(&self.tx).await?;
        Ok(row)
    }

    /// Stores a changed thing.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it has more than 256 KiB as JSON.
    pub async fn save<R>(&self, row: Permitted<R>) -> Result<Permitted<R>, StoreError>
    where
        R: Resource,
    {
        check_size(&row)?;
        self.wrote(row.id());
        let changed = (*row).clone().into_active_model().reset_all();
        <R::Entity as EntityTrait>::update(changed)
            .exec(&self.tx)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(row)
    }

    /// Deletes a thing, and what the database deletes with it.
    pub async fn delete<R: Resource>(&self, row: &Permitted<R>) -> Result<(), StoreError> {
        // What the database deletes with it is not counted here: the messages of a conversation, the keys of a user.
        self.wrote_all();
        let mut delete = Query::delete();
        delete.from_table(Alias::new(table::<R>())).and_where(Expr::col("id").eq(row.id()));
        self.tx.execute(&delete).await.map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Keeps the tree of organizations from every other writer until the work ends.
    pub async fn lock_tree(&self) -> Result<(), StoreError> {
        let mut root = holder::Entity::find().filter(holder::Column::Parent.is_null());
        QueryTrait::query(&mut root).lock(LockType::Update);
        root.one(&self.tx).await?;
        Ok(())
    }

    /// Where this organization stands now; none where there is no such organization.
    pub async fn path(&self, organization: Id) -> Result<Option<OrgPath>, StoreError> {
        self.reader().path(organization).await
    }

    /// Makes a conversation that of a contact.
    pub async fn tie_contact<A: Resource, B: Resource>(
        &self,
        contact: &Permitted<A>,
        conversation: &Permitted<B>,
    ) -> Result<(), StoreError> {
        self.set_column("contacts", "conversation", conversation.id(), Expr::col("id").eq(contact.id())).await
    }

    /// Takes the messages of a conversation along to the organization that holds it now.
    pub async fn take_messages_along<R: Resource>(
        &self,
        conversation: &Permitted<R>,
    ) -> Result<(), StoreError> {
        let own = Expr::col("conversation").eq(conversation.id());
        self.set_column("messages", "organization", conversation.organization(), own).await
    }

    async fn set_column(
        &self,
        table: &'static str,
        column: &'static str,
        value: Id,
        of: Expr,
    ) -> Result<(), StoreError> {
        self.wrote_all();
        let mut update = Query::update();
        update.table(table).value(column, value).and_where(of);
        self.tx.execute(&update).await?;
        Ok(())
    }

    /// Moves everything that stands below `old` to below `new`. The organization itself has been saved already.
    pub async fn move_below<R: Resource>(
        &self,
        moved: &Permitted<R>,
        old: &OrgPath,
        new: &OrgPath,
    ) -> Result<(), StoreError> {
        debug_assert_eq!(moved.id(), new.own());
        self.wrote_all();
        let below =
            holder::Entity::find().filter(Expr::col("path").like(format!("{old}#%"))).all(&self.tx).await?;
        for organization in below {
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

    /// What an organization holds, as `(type, count)`, where it holds any: the organizations right below it, and the
    /// things of every other kind.
    pub async fn holdings(
        &self,
        organization: Id,
        kinds: &Kinds,
    ) -> Result<Vec<(&'static str, i64)>, StoreError> {
        let mut holdings = Vec::new();
        for kind in kinds.iter() {
            let holder = if kind.table == "organizations" { "parent" } else { "organization" };
            let mut count = Query::select();
            count
                .expr_as(Expr::col("id").count(), "held")
                .from(Alias::new(kind.table))
                .and_where(Expr::col(holder).eq(organization));
            let held = match self.tx.query_one(&count).await? {
                Some(row) => i64::try_get(&row, "", "held").map_err(DbErr::from)?,
                None => 0,
            };
            if held > 0 {
                holdings.push((kind.name, held));
            }
        }
        Ok(holdings)
    }
}
