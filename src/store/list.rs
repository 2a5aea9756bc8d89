//! Lists: the resources of the organizations in which listing is permitted, filtered, sorted and paged.

use super::org_tree::is_within;
use super::rows::{OWNER_ORG, RowWithOrg, id_column, select_with_org, table};
use super::{Store, StoreError};
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::resource::Resource;
use crate::types::{Id, Timestamp};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, NullOrdering, Order};
use sea_orm::{
    ColumnTrait, ColumnType, EntityTrait, IdenStatic, Iterable, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

/// Filters, order and page of a list. The columns are those of the resource.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// The maximum number of rows.
    pub limit: u64,
    /// The number of rows to skip.
    pub offset: u64,
    /// The columns to sort by. Ties are ordered by creation time and id.
    pub sort: Vec<(String, SortOrder)>,
    /// The columns that must have a value.
    pub filters: Vec<(String, FilterValue)>,
}

/// The order of a list by one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    /// Smallest value first, nulls last.
    Ascending,
    /// Largest value first, nulls first.
    Descending,
}

/// The value that a column is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterValue {
    /// A text, in the form in which the column stores it.
    Text(String),
    /// A number.
    Integer(i64),
    /// A truth value.
    Boolean(bool),
    /// A point in time.
    Time(Timestamp),
}

impl From<FilterValue> for sea_orm::Value {
    fn from(value: FilterValue) -> Self {
        match value {
            FilterValue::Text(text) => text.into(),
            FilterValue::Integer(number) => number.into(),
            FilterValue::Boolean(value) => value.into(),
            FilterValue::Time(time) => time.into(),
        }
    }
}

impl From<SortOrder> for Order {
    fn from(order: SortOrder) -> Self {
        match order {
            SortOrder::Ascending => Self::Asc,
            SortOrder::Descending => Self::Desc,
        }
    }
}

/// A page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows of the page.
    pub items: Vec<T>,
    /// The number of rows of the whole list.
    pub total: u64,
}

/// The size of a list and of the page read from it.
#[derive(Debug, Clone, Copy)]
pub struct ListResult {
    /// The number of rows of the whole list.
    pub total: u64,
    /// The number of rows in the page.
    pub item_count: u64,
}

/// The total size of the rows that are read at once, in bytes; a single row may be larger.
const READ_BYTES: i64 = 512 * 1024;
/// The number of rows that are read at once.
const READ_ROWS: usize = 500;

impl Store {
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
        let select = filtered_select::<R>(organizations, query);
        let total = PaginatorTrait::count(select.clone(), &self.db).await?;
        let rows: Vec<(Id, i64)> = apply_sort::<R>(select.clone(), query)
            .select_only()
            .expr_as(id_column::<R>(), "id")
            .expr_as(stored_size::<R>(), "size")
            .limit(query.limit)
            .offset(query.offset)
            .into_tuple()
            .all(&self.db)
            .await?;
        let (mut item_count, mut rest) = (0, rows.as_slice());
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(group_length(rest).min(rest.len()));
            let ids = batch.iter().map(|(id, _)| *id);
            let rows = apply_sort::<R>(select.clone().filter(id_column::<R>().is_in(ids)), query);
            for row in rows.into_model::<RowWithOrg<R>>().all(&self.db).await? {
                let id = row.row.id();
                let Some(row) = organizations.admit(row.into_unchecked()) else { continue };
                if !visit(row) {
                    item_count += batch.iter().take_while(|(other, _)| *other != id).count();
                    return Ok(ListResult { total, item_count: count(item_count) });
                }
            }
            (item_count, rest) = (item_count + batch.len(), after);
        }
        Ok(ListResult { total, item_count: count(item_count) })
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

/// Selects the rows of these organizations that match the filters.
fn filtered_select<R: Resource>(
    organizations: &Permitted<AuthorizedOrgs>,
    query: &ListQuery,
) -> Select<R::Entity> {
    let select = if organizations.is_complete() {
        select_with_org::<R>().filter(is_within(Expr::col((OWNER_ORG, "path")), organizations.top()))
    } else {
        select_with_org::<R>()
            .filter(Expr::col((OWNER_ORG, "id")).is_in(organizations.organizations().iter().copied()))
    };
    query
        .filters
        .iter()
        .fold(select, |select, (name, value)| select.filter(column::<R>(name).eq(value.clone())))
}

/// Adds the order of the list.
fn apply_sort<R: Resource>(select: Select<R::Entity>, query: &ListQuery) -> Select<R::Entity> {
    let select = query.sort.iter().fold(select, |select, (name, order)| {
        // Explicit, since the databases differ: nulls last, and first in descending order.
        let nulls = match order {
            SortOrder::Ascending => NullOrdering::Last,
            SortOrder::Descending => NullOrdering::First,
        };
        select.order_by_with_nulls(column::<R>(name), (*order).into(), nulls)
    });
    // Ids of the same second are in no particular order, so the creation time comes first.
    select.order_by(column::<R>("created_at"), Order::Asc).order_by(id_column::<R>(), Order::Asc)
}

fn column<R: Resource>(name: &str) -> Expr {
    Expr::col((Alias::new(table::<R>()), Alias::new(name)))
}

/// Returns the total length of the texts of a row in bytes. The databases know the length of a text without reading it.
fn stored_size<R: Resource>() -> Expr {
    let texts = <R::Entity as EntityTrait>::Column::iter()
        .filter(|column| matches!(column.def().get_column_type(), ColumnType::Text | ColumnType::String(_)));
    let sizes = texts.map(|text| {
        let length = Func::cust("octet_length").arg(column::<R>(text.as_str()));
        Expr::from(Func::coalesce([Expr::from(length), Expr::val(0)]))
    });
    sizes.reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0)).cast_as("bigint")
}
