//! Lists: the things of the organizations of which the list is permitted, filtered, sorted, a page at a time.

use super::rows::{HOLDER, Held, held, is_within, table};
use super::{Store, StoreError};
use crate::authz::{Permitted, Within};
use crate::resource::Resource;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, NullOrdering, Order};
use sea_orm::{PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

/// Which part of a list is wanted. The columns are a resource's own.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// How many things at most.
    pub limit: u64,
    /// How many to pass over.
    pub offset: u64,
    /// By which columns to sort; by id after all of them.
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

impl Store {
    /// The things of these organizations.
    pub async fn list<R: Resource>(
        &self,
        within: &Permitted<Within>,
        query: &ListQuery,
    ) -> Result<Page<Permitted<R>>, StoreError> {
        let column = |name: &str| Expr::col((Alias::new(table::<R>()), Alias::new(name)));
        let mut select = held::<R>();
        select = if within.is_whole() {
            select.filter(is_within(Expr::col((HOLDER, "path")), within.top()))
        } else {
            select.filter(Expr::col((HOLDER, "id")).is_in(within.organizations().iter().copied()))
        };
        for (name, value) in &query.filters {
            select = select.filter(column(name).eq(value.clone()));
        }
        let total = PaginatorTrait::count(select.clone(), &self.db).await?;
        for (name, order) in &query.sort {
            // The databases differ in where nothing stands, so it is said: last, and first in descending order.
            let nulls = if *order == Order::Desc { NullOrdering::First } else { NullOrdering::Last };
            select = select.order_by_with_nulls(column(name), order.clone(), nulls);
        }
        let rows = select
            .order_by(column("id"), Order::Asc)
            .limit(query.limit)
            .offset(query.offset)
            .into_model::<Held<R>>()
            .all(&self.db)
            .await?;
        let items = rows.into_iter().filter_map(|row| within.admit(row.undecided())).collect();
        Ok(Page { items, total })
    }
}
