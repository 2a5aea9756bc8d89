//! The verification of the audit log: of archive files, and of the entries in the database that continue them.

use super::archive::{self, ArchiveRow};
use super::archive_file;
use super::audit::AuditRow;
use super::audit_row::Column;
use super::chain::ChainHead;
use super::verification_report::VerificationReport;
use super::{Store, StoreError};
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Iterable, TryGetable};
use std::path::PathBuf;

/// The number of entries per query.
const PAGE: u64 = 1_000;

/// Verifies archive files, the oldest first, and compares them with the records in the database.
fn check_files(
    report: &mut VerificationReport,
    files: &[PathBuf],
    archives: &[ArchiveRow],
    expected_head: Option<&ChainHead>,
) {
    for path in files {
        let name = path.display();
        let checked = archive_file::digest(path).and_then(|digest| {
            let last = archive_file::header(path)?.last;
            let recorded = archives.iter().find(|archive| archive.last_seq == last);
            if recorded.is_none_or(|archive| archive.digest != digest) {
                report
                    .add_fault(format!("{name}: the database records no archive with the SHA-256 {digest}"));
            }
            archive_file::check_archive(path, report, expected_head)
        });
        if let Err(error) = checked {
            report.add_fault(format!("{name}: {error}"));
        }
    }
}

/// Sorts archive files by their first entries. Returns them, and the archive that the first one continues.
fn sort_archive_files(files: &[PathBuf], archives: &[ArchiveRow]) -> (Vec<PathBuf>, ChainHead) {
    let first = |path: &PathBuf| archive_file::header(path).map_or(i64::MAX, |header| header.first);
    let mut files = files.to_vec();
    files.sort_by_cached_key(first);
    let start = files.first().map(first).unwrap_or(i64::MAX);
    let before = archives.iter().rev().find(|archive| archive.last_seq < start);
    (files, before.map_or_else(ChainHead::default, ArchiveRow::head))
}

impl Store {
    /// Verifies the audit log in the database. If a head was recorded earlier, the log must still contain it.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. Faults of the log are in the report.
    pub async fn verify_audit(
        &self,
        expected_head: Option<&ChainHead>,
    ) -> Result<VerificationReport, StoreError> {
        self.verify_audit_with(expected_head, &[]).await
    }

    /// Verifies the archive files and the audit log that continues them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable. Faults of the log and of the files are in the report.
    pub async fn verify_audit_with(
        &self,
        expected_head: Option<&ChainHead>,
        files: &[PathBuf],
    ) -> Result<VerificationReport, StoreError> {
        let mut archives = archive::archives(&self.db).await?;
        loop {
            let report = self.verify_once(&archives, expected_head, files).await?;
            // Entries that were archived in the meantime are not missing: verify again.
            let later = archive::archives(&self.db).await?;
            if later == archives {
                return Ok(report);
            }
            archives = later;
        }
    }

    async fn verify_once(
        &self,
        archives: &[ArchiveRow],
        expected_head: Option<&ChainHead>,
        files: &[PathBuf],
    ) -> Result<VerificationReport, StoreError> {
        let archived = archives.last().map_or_else(ChainHead::default, ArchiveRow::head);
        let (files, start) = sort_archive_files(files, archives);
        let mut report =
            VerificationReport::starting_at(if files.is_empty() { archived.clone() } else { start });
        check_files(&mut report, &files, archives, expected_head);
        if report.head.seq < archived.seq {
            report.add_missing(report.head.seq.saturating_add(1), archived.seq);
            report.head = archived.clone();
        }
        self.verify_rows(&mut report, archived.seq, expected_head).await?;
        report.check_archives(archives);
        if let Some(expected_head) = expected_head {
            report.check_expected_head(expected_head);
        }
        Ok(report)
    }

    async fn verify_rows(
        &self,
        report: &mut VerificationReport,
        archived: i64,
        expected_head: Option<&ChainHead>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let mut page = Query::select();
            page.columns(Column::iter()).from("audit").order_by("seq", Order::Asc).limit(PAGE);
            if let Some(after) = after {
                page.and_where(Expr::col("seq").gt(after));
            }
            let rows = self.db.query_all(&page).await?;
            for row in &rows {
                let seq = i64::try_get(row, "", "seq").map_err(DbErr::from)?;
                after = Some(seq);
                match AuditRow::from_query_result(row, "") {
                    Ok(row) if seq <= archived && archived > 0 => {
                        let seq = row.seq;
                        report.add_fault(format!("entry {seq} is out of place: it is archived"));
                    }
                    Ok(row) => report.check(&row, expected_head),
                    Err(_) => {
                        report.add_fault(format!("entry {seq} was changed: it cannot be parsed"));
                        report.entries += 1;
                        report.head =
                            ChainHead { seq, hash: String::try_get(row, "", "hash").unwrap_or_default() };
                    }
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }
}
