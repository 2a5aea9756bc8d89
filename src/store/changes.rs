//! The change feed: what was created, changed and deleted, as triggers of the database record it with the change.
//!
//! The order is that of the commits. SQLite has a single writer, so the numbers have it. On PostgreSQL, a transaction with a
//! lower number may commit after one with a higher number: a change is delivered only when all transactions that began before
//! its own have ended (`pg_snapshot_xmin`), in the order of transactions. What has been read is thus never followed by a
//! change with an earlier position, and writers do not wait for each other.

use super::{Store, StoreError, is_shared_database};
use crate::types::{Id, Timestamp, string_enum};
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, TryGetable};
use tokio::sync::watch;

/// The maximum number of changes that one query looks through.
const WINDOW: u64 = 10_000;
/// The number of changes that are deleted in one transaction.
const DELETED_AT_ONCE: u64 = 1_000;
/// With more organizations, the changes are selected after they were read.
const MAX_ORGANIZATIONS: usize = 500;

string_enum!(
    /// What happened to a resource.
    ChangeKind { Created = "created", Changed = "changed", Deleted = "deleted" }
);

/// A position in the change feed: that of a change, after which others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangePosition {
    /// The number of the transaction; 0 on SQLite.
    pub transaction: i64,
    /// The number of the change.
    pub number: i64,
    /// The resource that was changed. It tells positions of a database and of a restored backup apart.
    pub resource: Id,
}

impl ChangePosition {
    fn order(&self) -> (i64, i64) {
        (self.transaction, self.number)
    }
}

/// A change.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its position.
    pub position: ChangePosition,
    /// The Cedar entity type of the resource.
    pub resource_type: String,
    /// The organization that owned the resource. Of one that was moved, the old one has a deletion.
    pub organization: Id,
    /// What happened.
    pub kind: ChangeKind,
    /// When, by the clock of the database.
    pub time: Timestamp,
}

/// The changes that follow a position.
#[derive(Debug)]
pub struct ChangeWindow {
    /// The selected changes.
    pub changes: Vec<Change>,
    /// The position up to which all changes were looked through.
    pub end: ChangePosition,
    /// Whether more may follow.
    pub has_more: bool,
}

/// Which changes to read.
#[derive(Debug)]
pub struct ChangeSelection<'a> {
    /// The Cedar entity types of the resources.
    pub resource_types: &'a [&'static str],
    /// The organizations of the resources; none for all.
    pub organizations: Option<&'a [Id]>,
    /// The maximum number of changes.
    pub limit: u64,
}

/// The changes since a position, for those who wait for one.
#[derive(Debug)]
pub struct NewChanges {
    /// The types and organizations of the resources.
    pub resources: Vec<(String, Id)>,
    /// The position of the last one.
    pub end: ChangePosition,
    /// Whether there are more, which must not be delivered yet or were not read.
    pub has_pending: bool,
}

const COLUMNS: [&str; 7] = ["xid", "seq", "kind", "resource", "organization", "operation", "time"];

fn read_change(row: &QueryResult) -> Result<Change, DbErr> {
    let operation = String::try_get(row, "", "operation")?;
    Ok(Change {
        position: read_position(row)?,
        resource_type: String::try_get(row, "", "kind")?,
        organization: Id::try_get(row, "", "organization")?,
        kind: operation.parse().unwrap_or(ChangeKind::Changed),
        time: Timestamp::try_get(row, "", "time")?,
    })
}

fn read_position(row: &QueryResult) -> Result<ChangePosition, DbErr> {
    Ok(ChangePosition {
        transaction: i64::try_get(row, "", "xid")?,
        number: i64::try_get(row, "", "seq")?,
        resource: Id::try_get(row, "", "resource")?,
    })
}

impl Store {
    fn compare_position(&self, position: &ChangePosition) -> (Expr, Expr) {
        match is_shared_database(&self.db) {
            true => (
                Expr::tuple([Expr::col("xid"), Expr::col("seq")]),
                Expr::tuple([Expr::val(position.transaction), Expr::val(position.number)]),
            ),
            false => (Expr::col("seq"), Expr::val(position.number)),
        }
    }

    /// Selects the changes from `after` (exclusive) to `end` (inclusive), in their order.
    fn select_changes(&self, after: &ChangePosition, end: Option<&ChangePosition>) -> SelectStatement {
        let mut select = Query::select();
        let (column, value) = self.compare_position(after);
        select.columns(COLUMNS).from("changes").and_where(column.gt(value));
        if let Some(end) = end {
            let (column, value) = self.compare_position(end);
            select.and_where(column.lte(value));
        }
        self.order_changes(&mut select, Order::Asc);
        select
    }

    fn order_changes(&self, select: &mut SelectStatement, order: Order) {
        if is_shared_database(&self.db) {
            select.order_by("xid", order.clone());
        }
        select.order_by("seq", order);
    }

    /// Returns the number of the first transaction that has not ended. Changes of earlier ones are complete.
    async fn first_open_transaction(&self) -> Result<i64, StoreError> {
        if !is_shared_database(&self.db) {
            return Ok(i64::MAX);
        }
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin";
        let row = self.db.query_one_raw(Statement::from_string(self.db.get_database_backend(), sql)).await?;
        let xmin = row.map(|row| i64::try_get(&row, "", "xmin")).transpose().map_err(DbErr::from)?;
        xmin.ok_or_else(|| StoreError::Failed("no snapshot".to_owned()))
    }

    /// Returns the secret that encrypts the cursors of this database, and the position of the last change that was deleted.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn change_feed(&self) -> Result<(String, ChangePosition), StoreError> {
        let mut select = Query::select();
        select.columns(["secret", "xid", "seq", "resource"]).from("change_feed");
        let row = self.db.query_one(&select).await?;
        let row =
            row.ok_or_else(|| StoreError::Misconfigured("the table change_feed is empty".to_owned()))?;
        let secret = String::try_get(&row, "", "secret").map_err(DbErr::from)?;
        Ok((secret, read_position(&row)?))
    }

    /// Returns the position of the last change that can be delivered.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn last_change(&self) -> Result<ChangePosition, StoreError> {
        let xmin = self.first_open_transaction().await?;
        self.last_change_before(xmin).await
    }

    async fn last_change_before(&self, xmin: i64) -> Result<ChangePosition, StoreError> {
        let mut select = Query::select();
        select.columns(COLUMNS).from("changes").and_where(Expr::col("xid").lt(xmin)).limit(1);
        self.order_changes(&mut select, Order::Desc);
        match self.db.query_one(&select).await? {
            Some(row) => Ok(read_position(&row)?),
            None => Ok(self.change_feed().await?.1),
        }
    }

    /// Returns whether the changes after a position are all there: its change, or it is that of the last deleted one.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn has_position(&self, position: &ChangePosition) -> Result<bool, StoreError> {
        let mut select = Query::select();
        select
            .columns(COLUMNS)
            .from("changes")
            .and_where(Expr::col("xid").eq(position.transaction))
            .and_where(Expr::col("seq").eq(position.number));
        match self.db.query_one(&select).await? {
            Some(row) => Ok(read_position(&row)? == *position),
            None => Ok(self.change_feed().await?.1 == *position),
        }
    }

    /// Returns the changes after a position.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn changes_after(
        &self,
        after: &ChangePosition,
        selection: &ChangeSelection<'_>,
    ) -> Result<ChangeWindow, StoreError> {
        // First, so that everything before it is visible to the queries that follow.
        let xmin = self.first_open_transaction().await?;
        let mut window_end = self.select_changes(after, None);
        window_end.and_where(Expr::col("xid").lt(xmin)).limit(1).offset(WINDOW - 1);
        let (end, is_window_full) = match self.db.query_one(&window_end).await? {
            Some(row) => (read_position(&row)?, true),
            None => (self.last_change_before(xmin).await?, false),
        };
        if end.order() <= after.order() {
            return Ok(ChangeWindow { changes: Vec::new(), end: *after, has_more: false });
        }
        let mut select = self.select_changes(after, Some(&end));
        select.and_where(Expr::col("kind").is_in(selection.resource_types.iter().copied()));
        if let Some(organizations) = selection.organizations.filter(|ids| ids.len() <= MAX_ORGANIZATIONS) {
            select.and_where(Expr::col("organization").is_in(organizations.iter().copied()));
        }
        select.limit(selection.limit);
        let rows = self.db.query_all(&select).await?;
        let changes = rows.iter().map(read_change).collect::<Result<Vec<_>, _>>()?;
        let is_page_full = u64::try_from(changes.len()).is_ok_and(|count| count >= selection.limit);
        let end = changes.last().filter(|_| is_page_full).map_or(end, |last| last.position);
        Ok(ChangeWindow { changes, end, has_more: is_page_full || is_window_full })
    }

    /// Returns which resources were changed after a position, as far as these changes can be delivered.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn new_changes(&self, after: &ChangePosition) -> Result<NewChanges, StoreError> {
        let xmin = self.first_open_transaction().await?;
        let rows = self.db.query_all(self.select_changes(after, None).limit(WINDOW)).await?;
        let changes = rows.iter().map(read_change).collect::<Result<Vec<_>, _>>()?;
        let count = changes.len();
        let is_full = u64::try_from(count).is_ok_and(|count| count >= WINDOW);
        let ready: Vec<Change> =
            changes.into_iter().take_while(|change| change.position.transaction < xmin).collect();
        Ok(NewChanges {
            end: ready.last().map_or(*after, |last| last.position),
            has_pending: ready.len() < count || is_full,
            resources: ready.into_iter().map(|change| (change.resource_type, change.organization)).collect(),
        })
    }

    /// Returns a receiver that is notified when this process or another one has written.
    pub fn watch_writes(&self) -> watch::Receiver<()> {
        self.cache.watch_writes()
    }

    /// Returns whether the writes of all processes are notified now.
    pub fn hears_all_writes(&self) -> bool {
        self.cache.freshness().is_current()
    }

    /// Deletes the changes that are older than this, by the clock of the database. Returns their number.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn delete_changes(&self, retention_seconds: u64) -> Result<u64, StoreError> {
        let backend = self.db.get_database_backend();
        let sql = match is_shared_database(&self.db) {
            true => "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
            false => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now",
        };
        let row = self.db.query_one_raw(Statement::from_string(backend, sql)).await?;
        let now = row.map(|row| Timestamp::try_get(&row, "", "now")).transpose().map_err(DbErr::from)?;
        let Some(now) = now else { return Ok(0) };
        let before = now.minus_seconds(retention_seconds);
        let mut total = 0;
        loop {
            let deleted = self.delete_first_changes(before).await?;
            total += deleted;
            if deleted < DELETED_AT_ONCE {
                return Ok(total);
            }
        }
    }

    /// Deletes the first changes, as far as all of them are older than this, and records the position of the last one.
    async fn delete_first_changes(&self, before: Timestamp) -> Result<u64, StoreError> {
        let xmin = self.first_open_transaction().await?;
        let (_, start) = self.change_feed().await?;
        let mut select = self.select_changes(&start, None);
        select.and_where(Expr::col("xid").lt(xmin)).limit(DELETED_AT_ONCE);
        let rows = self.db.query_all(&select).await?;
        let changes = rows.iter().map(read_change).collect::<Result<Vec<_>, _>>()?;
        let expired: Vec<Change> = changes.into_iter().take_while(|change| change.time < before).collect();
        let Some(last) = expired.last() else { return Ok(0) };
        let work = self.begin(super::AuditActor::service(before)).await?;
        let mut advance = Query::update();
        let (column, value) = self.compare_position(&last.position);
        advance
            .table("change_feed")
            .value("xid", last.position.transaction)
            .value("seq", last.position.number)
            .value("resource", last.position.resource)
            .and_where(column.lt(value));
        work.tx.execute(&advance).await?;
        let mut delete = Query::delete();
        let (column, value) = self.compare_position(&last.position);
        delete.from_table("changes").and_where(column.lte(value));
        let deleted = work.tx.execute(&delete).await?.rows_affected();
        work.commit().await?;
        Ok(deleted)
    }

    /// Returns whether a change has the number of a transaction that this server has not reached.
    async fn has_foreign_changes(&self, db: &impl ConnectionTrait) -> Result<bool, StoreError> {
        let last = "SELECT max(xid) AS xid FROM changes UNION ALL SELECT xid FROM change_feed";
        let sql = format!(
            "SELECT coalesce(max(xid), 0) >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS is_foreign \
             FROM ({last}) AS last"
        );
        let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
        let is_foreign =
            row.map(|row| bool::try_get(&row, "", "is_foreign")).transpose().map_err(DbErr::from)?;
        Ok(is_foreign == Some(true))
    }

    /// Deletes all changes if they come from another PostgreSQL server, after a backup was restored: their transactions have
    /// numbers that this server has not reached. Cursors of the other server are no longer accepted.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub(super) async fn reset_foreign_changes(&self) -> Result<(), StoreError> {
        if !is_shared_database(&self.db) {
            return Ok(());
        }
        if !self.has_foreign_changes(&self.db).await? {
            return Ok(());
        }
        tracing::warn!(
            "the changes in the database come from another PostgreSQL server; the change feed begins anew"
        );
        let now = crate::types::Clock::system().now();
        let work = self.begin(super::AuditActor::service(now)).await?;
        // Of several processes that start at once, one begins the new feed.
        work.tx.execute_unprepared("LOCK TABLE change_feed").await?;
        if !self.has_foreign_changes(&work.tx).await? {
            return Ok(());
        }
        let reset = format!(
            "UPDATE change_feed SET xid = 0, seq = 0, resource = '{nil}', \
             secret = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')",
            nil = Id::NIL
        );
        work.tx.execute_unprepared(&reset).await?;
        work.tx.execute_unprepared("DELETE FROM changes").await?;
        work.commit().await
    }
}
