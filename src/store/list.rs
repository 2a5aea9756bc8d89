//! Lists: the things of the organizations of which the list is permitted, filtered, sorted, a page at a time.

use super::rows::{HOLDER, Held, held, id_column, is_within, table};
use super::{Store, StoreError};
use crate::authz::{Permitted, Within};
use crate::resource::Resource;
use crate::values::Id;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, NullOrdering, Order};
use sea_orm::{
    ColumnTrait, ColumnType, EntityTrait, IdenStatic, Iterable, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

/// Which part of a list is wanted. The columns are a resource's own.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// How many things at most.
    pub limit: u64,
    /// How many to pass over.
    pub offset: u64,
    /// By which columns to sort; after all of them by the time of creation and the id.
    pub sort: Vec<(String, Order)>,
    /// Which columns must have which value.
    pub filters: Vec<(String, sea_orm::Value)>,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// The things in it.
    pub items: Vec<T>,
    /// How many the whole list has.
    pub total: u64,
}

/// The extent of a list, and of the page that was read of it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// The number of rows of the whole list.
    pub total: u64,
    /// The number of rows that the page has taken.
    pub taken: u64,
}

/// The stored size of the rows that are read at once, in bytes; a single row may be larger.
const READ_BYTES: i64 = 512 * 1024;
/// The most rows that are read at once.
const READ_ROWS: usize = 500;

impl Store {
    /// Passes the rows of these organizations to `take`, one after the other, until it returns false.
    ///
    /// First the ids and sizes of the page are read, then the rows in groups of bounded size: so neither the process nor
    /// the database's sorting ever holds the whole page.
    pub async fn list<R: Resource>(
        &self,
        within: &Permitted<Within>,
        query: &ListQuery,
        mut take: impl FnMut(Permitted<R>) -> bool,
    ) -> Result<Listed, StoreError> {
        let select = selected::<R>(within, query);
        let total = PaginatorTrait::count(select.clone(), &self.db).await?;
        let rows: Vec<(Id, i64)> = sorted::<R>(select.clone(), query)
            .select_only()
            .expr_as(id_column::<R>(), "id")
            .expr_as(stored_size::<R>(), "size")
            .limit(query.limit)
            .offset(query.offset)
            .into_tuple()
            .all(&self.db)
            .await?;
        let (mut taken, mut rest) = (0, rows.as_slice());
        while !rest.is_empty() {
            let (group, after) = rest.split_at(group_length(rest).min(rest.len()));
            let ids = group.iter().map(|(id, _)| *id);
            let found = sorted::<R>(select.clone().filter(id_column::<R>().is_in(ids)), query);
            for row in found.into_model::<Held<R>>().all(&self.db).await? {
                let id = row.row.id();
                let Some(row) = within.admit(row.undecided()) else { continue };
                if !take(row) {
                    taken += group.iter().take_while(|(other, _)| *other != id).count();
                    return Ok(Listed { total, taken: count(taken) });
                }
            }
            (taken, rest) = (taken + group.len(), after);
        }
        Ok(Listed { total, taken: count(taken) })
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

/// How many of these rows are read at once.
fn group_length(rows: &[(Id, i64)]) -> usize {
    let mut bytes = 0_i64;
    let fitting = rows.iter().take(READ_ROWS).take_while(|(_, size)| {
        bytes = bytes.saturating_add(*size);
        bytes <= READ_BYTES
    });
    fitting.count().max(1)
}

/// The rows of these organizations that fit the filters.
fn selected<R: Resource>(within: &Permitted<Within>, query: &ListQuery) -> Select<R::Entity> {
    let select = if within.is_whole() {
        held::<R>().filter(is_within(Expr::col((HOLDER, "path")), within.top()))
    } else {
        held::<R>().filter(Expr::col((HOLDER, "id")).is_in(within.organizations().iter().copied()))
    };
    query
        .filters
        .iter()
        .fold(select, |select, (name, value)| select.filter(column::<R>(name).eq(value.clone())))
}

/// The same, in the order of the list.
fn sorted<R: Resource>(select: Select<R::Entity>, query: &ListQuery) -> Select<R::Entity> {
    let sorted = query.sort.iter().fold(select, |select, (name, order)| {
        // The databases differ in where nothing stands, so it is said: last, and first in descending order.
        let nulls = if *order == Order::Desc { NullOrdering::First } else { NullOrdering::Last };
        select.order_by_with_nulls(column::<R>(name), order.clone(), nulls)
    });
    // Ids of one second are in no order.
    sorted.order_by(column::<R>("created_at"), Order::Asc).order_by(id_column::<R>(), Order::Asc)
}

fn column<R: Resource>(name: &str) -> Expr {
    Expr::col((Alias::new(table::<R>()), Alias::new(name)))
}

/// The bytes of the texts of a row. The databases know the length of a text without reading it.
fn stored_size<R: Resource>() -> Expr {
    let texts = <R::Entity as EntityTrait>::Column::iter()
        .filter(|column| matches!(column.def().get_column_type(), ColumnType::Text | ColumnType::String(_)));
    let sizes = texts.map(|text| {
        let length = Func::cust("octet_length").arg(column::<R>(text.as_str()));
        Expr::from(Func::coalesce([Expr::from(length), Expr::val(0)]))
    });
    sizes.reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0)).cast_as("bigint")
}
