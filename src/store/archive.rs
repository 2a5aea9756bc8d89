//! Archiving of the audit log: selects the entries to export, and deletes them once their file is complete.
//!
//! A trigger rejects the deletion of an entry that no row of `audit_archives` covers, and another one a row that does not
//! continue the previous archive. Both changes are made in one transaction together with the entry `audit.archived`,
//! which keeps the last hash of the archive in the chain.

use super::audit::AuditRow;
use super::audit_row::Column;
use super::chain::ChainHead;
use super::{AuditActor, AuditEntry, Event, Store, StoreError, UnitOfWork};
use crate::types::Timestamp;
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Iterable, TryGetable};

/// Consecutive entries at the beginning of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSegment {
    /// The last entry before the segment; that of an empty log if there is none.
    pub previous: ChainHead,
    /// The last entry of the segment.
    pub last: ChainHead,
}

impl ArchiveSegment {
    /// The number of the first entry.
    pub fn first(&self) -> i64 {
        self.previous.seq.saturating_add(1)
    }
}

/// A file with the entries of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveFile {
    /// The name, without a directory.
    pub name: String,
    /// The SHA-256 in hex.
    pub digest: String,
}

/// A row of `audit_archives`.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub(super) struct ArchiveRow {
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    pub(super) hash: String,
    pub(super) file: String,
    pub(super) digest: String,
}

impl ArchiveRow {
    pub(super) fn head(&self) -> ChainHead {
        ChainHead { seq: self.last_seq, hash: self.hash.clone() }
    }
}

/// Returns all archives, the oldest first.
///
/// # Errors
/// The database is unavailable.
pub(super) async fn archives(db: &impl ConnectionTrait) -> Result<Vec<ArchiveRow>, StoreError> {
    let mut select = Query::select();
    select
        .columns(["first_seq", "last_seq", "hash", "file", "digest"])
        .from("audit_archives")
        .order_by("last_seq", Order::Asc);
    let rows = db.query_all(&select).await?;
    Ok(rows.iter().map(|row| ArchiveRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
}

/// Runs a query for a single number; none if it has no row or the number is null.
async fn query_number(
    db: &impl ConnectionTrait,
    select: &sea_orm::sea_query::SelectStatement,
) -> Result<Option<i64>, StoreError> {
    match db.query_one(select).await? {
        Some(row) => Ok(Option::<i64>::try_get(&row, "", "number").map_err(DbErr::from)?),
        None => Ok(None),
    }
}

impl Store {
    /// Returns the number of the last entry to archive: it and all before it are older than `before`. The newest entry
    /// is never archived, since the next one continues it.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn archivable_up_to(&self, before: Timestamp) -> Result<i64, StoreError> {
        let seq = || Expr::col("seq");
        let mut newest = Query::select();
        newest.expr_as(seq().max(), "number").from("audit");
        let mut younger = Query::select();
        younger.expr_as(seq().min(), "number").from("audit").and_where(Expr::col("time").gte(before));
        let newest = query_number(&self.db, &newest).await?;
        let younger = query_number(&self.db, &younger).await?;
        Ok([newest, younger].into_iter().flatten().fold(i64::MAX, Ord::min).saturating_sub(1))
    }

    /// Returns the oldest segment: entries up to the number `up_to`, at most `limit`; none if there are none.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn next_segment(&self, up_to: i64, limit: u32) -> Result<Option<ArchiveSegment>, StoreError> {
        let previous = archives(&self.db).await?.last().map_or_else(ChainHead::default, ArchiveRow::head);
        let up_to = Ord::min(up_to, previous.seq.saturating_add(i64::from(limit)));
        let mut last = Query::select();
        last.columns(["seq", "hash"])
            .from("audit")
            .and_where(Expr::col("seq").gt(previous.seq))
            .and_where(Expr::col("seq").lte(up_to))
            .order_by("seq", Order::Desc)
            .limit(1);
        let Some(row) = self.db.query_one(&last).await? else { return Ok(None) };
        let hash = String::try_get(&row, "", "hash").map_err(DbErr::from)?;
        let last = ChainHead { seq: i64::try_get(&row, "", "seq").map_err(DbErr::from)?, hash };
        Ok(Some(ArchiveSegment { previous, last }))
    }

    /// Returns the entries of a segment with numbers above `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn segment_rows(
        &self,
        segment: &ArchiveSegment,
        after: i64,
        limit: u64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let mut page = Query::select();
        page.columns(Column::iter())
            .from("audit")
            .and_where(Expr::col("seq").gt(after))
            .and_where(Expr::col("seq").lte(segment.last.seq))
            .order_by("seq", Order::Asc)
            .limit(limit);
        let rows = self.db.query_all(&page).await?;
        Ok(rows.iter().map(|row| AuditRow::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Deletes the entries of a segment that `file` contains. Returns false if another process has archived entries of
    /// the segment in the meantime.
    ///
    /// # Errors
    ///
    /// If the database is unavailable, or the segment does not have the expected number of entries.
    pub async fn replace_with_archive(
        &self,
        actor: AuditActor,
        segment: &ArchiveSegment,
        file: &ArchiveFile,
    ) -> Result<bool, StoreError> {
        let time = actor.time;
        let work = self.begin(actor).await?;
        let before = archives(&work.tx).await?.last().map_or_else(ChainHead::default, ArchiveRow::head);
        if before != segment.previous {
            return Ok(false);
        }
        match work.record_archive(segment, file, time).await {
            Ok(()) => {}
            Err(StoreError::Duplicate(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut delete = Query::delete();
        delete.from_table("audit").and_where(Expr::col("seq").lte(segment.last.seq));
        let deleted = work.tx.execute(&delete).await?.rows_affected();
        let expected = segment.last.seq.saturating_sub(segment.previous.seq);
        if i64::try_from(deleted) != Ok(expected) {
            return Err(StoreError::Failed(format!(
                "the archive has {expected} audit entries, but the database would delete {deleted}; nothing was deleted"
            )));
        }
        let entry = AuditEntry::new(Event::AuditArchived)
            .with("first", segment.first())
            .with("last", segment.last.seq)
            .with("hash", segment.last.hash.as_str())
            .with("file", file.name.as_str())
            .with("digest", file.digest.as_str());
        work.audit(entry);
        work.commit().await?;
        Ok(true)
    }
}

impl UnitOfWork {
    async fn record_archive(
        &self,
        segment: &ArchiveSegment,
        file: &ArchiveFile,
        time: Timestamp,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table("audit_archives")
            .columns(["first_seq", "last_seq", "hash", "file", "digest", "archived_at"])
            .values_panic([
                segment.first().into(),
                segment.last.seq.into(),
                segment.last.hash.as_str().into(),
                file.name.as_str().into(),
                file.digest.as_str().into(),
                time.into(),
            ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }
}
