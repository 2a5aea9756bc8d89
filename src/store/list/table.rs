//! Lists of a table whose rows are no resources: sessions, API keys, audit events, policy versions.

use super::dialect::{Dialect, column};
use super::filter::condition;
use super::order::{self, OrderKey};
use super::query::{ListQuery, SortKey};
use super::{Page, count};
use crate::store::StoreError;
use crate::store::connections::Connections;
use sea_orm::sea_query::{Alias, Asterisk, Condition, Expr, ExprTrait, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, TryGetable};

/// A table that is listed.
#[derive(Debug)]
pub(in crate::store) struct ListedTable {
    /// The name.
    pub(in crate::store) name: &'static str,
    /// The columns of a row.
    pub(in crate::store) columns: Vec<String>,
    /// The columns with texts that are sorted by code points.
    pub(in crate::store) texts: &'static [&'static str],
    /// The columns that may be null.
    pub(in crate::store) nullable: &'static [&'static str],
}

impl ListedTable {
    /// Returns the page of a list of the rows that meet a condition. `order` are all columns that determine the order.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(in crate::store) async fn page<T: FromQueryResult>(
        &self,
        db: &Connections,
        rows: Condition,
        order: &[SortKey],
        query: &ListQuery,
    ) -> Result<Page<T>, StoreError> {
        let dialect = Dialect::from(db.get_database_backend());
        let mut select = Query::select();
        select.from(self.name).cond_where(rows);
        for filter in &query.filters {
            select.and_where(condition(dialect, self.name, filter));
        }
        let total = match query.skips_total {
            true => None,
            false => Some(count_rows(db, &select).await?),
        };
        let keys = self.order_keys(dialect, order);
        if let Some(position) = &query.after {
            select.and_where(order::is_after(dialect, &keys, position));
        }
        for key in &keys {
            key.add_to(&mut select);
        }
        // One row more than the page, which tells whether any follow.
        let limit = query.limit.saturating_add(1);
        select.columns(self.columns.iter().map(Alias::new)).limit(limit).offset(query.offset);
        let mut rows = db.query_all(&select).await?;
        let has_more = count(rows.len()) > query.limit;
        rows.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let items = rows.iter().map(|row| T::from_query_result(row, "")).collect::<Result<_, _>>()?;
        Ok(Page { items, total, has_more })
    }

    fn order_keys(&self, dialect: Dialect, order: &[SortKey]) -> Vec<OrderKey> {
        let key = |key: &SortKey| {
            let is_text = self.texts.contains(&key.column.as_str());
            let value = column(self.name, &key.column);
            let value = if is_text { dialect.by_code_points(value) } else { value };
            OrderKey::new(value, key.order, self.nullable.contains(&key.column.as_str()))
        };
        order.iter().map(key).collect()
    }
}

/// Returns the number of rows of a query.
async fn count_rows(db: &Connections, select: &SelectStatement) -> Result<u64, StoreError> {
    let mut rows = select.clone();
    rows.expr_as(Expr::col(Asterisk).count(), "total");
    let Some(row) = db.query_one(&rows).await? else { return Ok(0) };
    let total = i64::try_get(&row, "", "total").map_err(DbErr::from)?;
    Ok(u64::try_from(total).unwrap_or_default())
}
