//! Lists: the resources of the organizations in which listing is permitted, filtered, sorted and paged.

mod dialect;
mod filter;
pub mod fold;
mod order;
mod query;
mod table;
mod values;

use super::filter::row_condition;
use super::org_tree::is_within;
use super::rows::{OWNER_ORG, RowWithOrg, id_column, select_with_org, table};
use super::{Reader, Store, StoreError};
use crate::authz::{AuthorizedOrgs, Permitted, Unchecked};
use crate::resource::Resource;
use crate::types::Id;
pub(super) use dialect::{Dialect, column, never};
pub(super) use filter::condition;
pub use query::{
    Comparison, ElementPath, Field, Filter, FilterValue, Leaf, ListQuery, SortKey, SortOrder, Test,
    full_order,
};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Func};
use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, EntityTrait, IdenStatic, Iterable, QueryFilter, QuerySelect,
    Select,
};
use std::collections::HashMap;
pub(super) use table::ListedTable;

/// A page of a list of something else than resources.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows of the page.
    pub items: Vec<T>,
    /// The number of rows of the whole list; none if it was not counted.
    pub total: Option<u64>,
    /// Whether rows follow after the page.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// Returns the page with its rows in another form.
    pub fn map<U>(self, form: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, total, has_more } = self;
        Page { items: items.into_iter().map(form).collect(), total, has_more }
    }
}

/// The size of a list and of the page read from it.
#[derive(Debug, Clone, Copy)]
pub struct ListResult {
    /// The number of rows of the whole list; none if it was not counted.
    pub total: Option<u64>,
    /// The number of rows in the page.
    pub item_count: u64,
    /// Whether rows follow after the page.
    pub has_more: bool,
}

/// The total size of the rows that are read at once, in bytes; a single row may be larger.
const READ_BYTES: i64 = 512 * 1024;
/// The number of rows that are read at once.
const READ_ROWS: usize = 500;

impl Store {
    /// Passes the rows of these organizations to `visit`, as [`Reader::list`].
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn list<R: Resource>(
        &self,
        organizations: &Permitted<AuthorizedOrgs>,
        query: &ListQuery,
        visit: impl FnMut(Permitted<R>) -> bool,
    ) -> Result<ListResult, StoreError> {
        self.reader().list(organizations, query, visit).await
    }
}

impl Reader<'_> {
    /// Passes the rows of these organizations one by one to `visit` until it returns false.
    ///
    /// The ids and sizes of the page are read first, then the rows in batches of limited size: neither the process nor
    /// the sort buffer of the database ever holds the whole page.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn list<R: Resource>(
        &self,
        organizations: &Permitted<AuthorizedOrgs>,
        query: &ListQuery,
        mut visit: impl FnMut(Permitted<R>) -> bool,
    ) -> Result<ListResult, StoreError> {
        let dialect = Dialect::from(self.0.get_database_backend());
        let conditions = conditions::<R>(dialect, organizations, query)?;
        let select = select_with_org::<R>().filter(conditions.clone());
        let total = match query.skips_total {
            true => None,
            false => Some(self.count_rows::<R>(&select).await?),
        };
        let keys = order::order_keys::<R::Entity>(dialect, table::<R>(), &full_order(&query.sort));
        let mut rows = self.page_rows::<R>(dialect, &select, query).await?;
        let has_more = count(rows.len()) > query.limit;
        rows.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let (mut item_count, mut rest) = (0, rows.as_slice());
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(group_length(rest).min(rest.len()));
            let ids = batch.iter().map(|(id, _)| *id);
            // Tested again, since a row may have changed since its id was read; as a value, so that no index but that of the
            // ids is considered.
            let still_matches = Expr::case(conditions.clone(), 1).finally(0).eq(1);
            let batch_rows = select_with_org::<R>().filter(id_column::<R>().is_in(ids)).filter(still_matches);
            let rows = order::sorted(batch_rows, &keys);
            for row in rows.into_model::<RowWithOrg<R>>().all(&self.0).await? {
                let id = row.row.id();
                let Some(row) = organizations.admit(row.into_unchecked()) else { continue };
                if !visit(row) {
                    item_count += batch.iter().take_while(|(other, _)| *other != id).count();
                    return Ok(ListResult { total, item_count: count(item_count), has_more: true });
                }
            }
            (item_count, rest) = (item_count + batch.len(), after);
        }
        Ok(ListResult { total, item_count: count(item_count), has_more })
    }

    /// Returns the number of rows of a query.
    ///
    /// # Errors
    /// The database is unavailable.
    async fn count_rows<R: Resource>(&self, select: &Select<R::Entity>) -> Result<u64, StoreError> {
        let rows = select.clone().select_only().expr_as(id_column::<R>().count(), "total");
        let total: Option<i64> = rows.into_tuple().one(&self.0).await?;
        Ok(u64::try_from(total.unwrap_or_default()).unwrap_or_default())
    }

    /// Returns the ids and sizes of the rows of a page, and one more, which tells whether any follow.
    ///
    /// # Errors
    /// The database is unavailable.
    async fn page_rows<R: Resource>(
        &self,
        dialect: Dialect,
        select: &Select<R::Entity>,
        query: &ListQuery,
    ) -> Result<Vec<(Id, i64)>, StoreError> {
        let keys = order::order_keys::<R::Entity>(dialect, table::<R>(), &full_order(&query.sort));
        let page = match &query.after {
            Some(position) => select.clone().filter(order::is_after(dialect, &keys, position)),
            None => select.clone(),
        };
        let rows = order::sorted(page, &keys)
            .select_only()
            .expr_as(id_column::<R>(), "id")
            .expr_as(stored_size::<R>(), "size")
            .limit(query.limit.saturating_add(1))
            .offset(query.offset);
        Ok(rows.into_tuple().all(&self.0).await?)
    }

    /// Returns the ids of the rows of these organizations that match a query; one more than its limit, if there are as many.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn list_ids<R: Resource>(
        &self,
        organizations: &Permitted<AuthorizedOrgs>,
        query: &ListQuery,
    ) -> Result<Vec<Id>, StoreError> {
        let dialect = Dialect::from(self.0.get_database_backend());
        let select = select_with_org::<R>().filter(conditions::<R>(dialect, organizations, query)?);
        let rows = self.page_rows::<R>(dialect, &select, query).await?;
        Ok(rows.into_iter().map(|(id, _)| id).collect())
    }

    /// Returns those resources that have one of these ids, in the order of the ids, as far as their texts have at most
    /// `max_bytes` together. Their sizes are read first.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find_many<R: Resource>(
        &self,
        ids: &[Id],
        max_bytes: u64,
    ) -> Result<Vec<Unchecked<R>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let with_ids = |ids: Vec<Id>| select_with_org::<R>().filter(id_column::<R>().is_in(ids));
        let sizes: HashMap<Id, i64> = with_ids(ids.to_vec())
            .select_only()
            .expr_as(id_column::<R>(), "id")
            .expr_as(stored_size::<R>(), "size")
            .into_tuple()
            .all(&self.0)
            .await?
            .into_iter()
            .collect();
        let mut bytes = 0_u64;
        let found = ids.iter().filter_map(|id| Some((*id, *sizes.get(id)?)));
        let fitting = found.take_while(|(_, size)| {
            bytes = bytes.saturating_add(u64::try_from(*size).unwrap_or_default());
            bytes <= max_bytes
        });
        let fitting: Vec<Id> = fitting.map(|(id, _)| id).collect();
        let rows = with_ids(fitting.clone()).into_model::<RowWithOrg<R>>().all(&self.0).await?;
        let mut rows: HashMap<Id, RowWithOrg<R>> = rows.into_iter().map(|row| (row.row.id(), row)).collect();
        Ok(fitting.iter().filter_map(|id| Some(rows.remove(id)?.into_unchecked())).collect())
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

/// Returns the number of rows to read at once.
fn group_length(rows: &[(Id, i64)]) -> usize {
    let mut bytes = 0_i64;
    let fitting = rows.iter().take(READ_ROWS).take_while(|(_, size)| {
        bytes = bytes.saturating_add(*size);
        bytes <= READ_BYTES
    });
    fitting.count().max(1)
}

/// Returns the conditions that a row belongs to one of these organizations, is permitted by the policies and matches the filters.
///
/// # Errors
/// The filter of the policies cannot be expressed.
fn conditions<R: Resource>(
    dialect: Dialect,
    organizations: &Permitted<AuthorizedOrgs>,
    query: &ListQuery,
) -> Result<Condition, StoreError> {
    let owner = column(table::<R>(), R::organization_column().as_str());
    let ids: Vec<Id> = organizations.organizations().iter().copied().collect();
    let mut conditions = Condition::all();
    match ids.as_slice() {
        // A single value lets the database read an index in the order of the list.
        [one] => conditions = conditions.add(owner.eq(*one)),
        // Every organization is below the root.
        _ if organizations.is_complete() && organizations.top().level() == 0 => {}
        _ if organizations.is_complete() => {
            conditions = conditions.add(is_within(Expr::col((OWNER_ORG, "path")), organizations.top()));
        }
        _ => conditions = conditions.add(owner.is_in(ids)),
    }
    // In the same query as the filters of the client, so that no page, total or order depends on rows that are not permitted.
    conditions = conditions.add_option(row_condition::<R>(dialect, organizations)?);
    let filters = query.filters.iter().map(|filter| condition(dialect, table::<R>(), filter));
    Ok(filters.fold(conditions, Condition::add))
}

/// Returns the total length of the texts of a row in bytes. The databases know the length of a text without reading it.
fn stored_size<R: Resource>() -> Expr {
    let texts = <R::Entity as EntityTrait>::Column::iter()
        .filter(|column| matches!(column.def().get_column_type(), ColumnType::Text | ColumnType::String(_)));
    let sizes = texts.map(|text| {
        let length = Func::cust("octet_length").arg(column(table::<R>(), text.as_str()));
        Expr::from(Func::coalesce([Expr::from(length), Expr::val(0)]))
    });
    sizes.reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0)).cast_as("bigint")
}
