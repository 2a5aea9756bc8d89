//! The hash chain of the audit log: each entry contains the hash of its predecessor, so that none can be changed, removed or
//! moved without changing all that follow.
//!
//! Somebody with write access to the whole table can recompute the hashes; a head that was recorded elsewhere detects that.

use super::archive::{self, ArchiveRow};
use super::archive_file;
use super::audit::{AuditRow, Event};
use super::audit_row::{Column, text_of};
use super::{Store, StoreError};
use crate::types::{FieldErrorCode, InvalidValue};
use aws_lc_rs::digest::{Context, SHA256};
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Iterable, ModelTrait, TryGetable};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The number of entries per query.
const PAGE: u64 = 1_000;

/// The maximum number of faults in a report.
const MAX_FAULTS: usize = 100;

/// The last entry of an audit log: its number and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    /// The sequence number; 0 in an empty log.
    pub seq: i64,
    /// The hash; 64 zeros in an empty log.
    pub hash: String,
}

impl Default for ChainHead {
    fn default() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for ChainHead {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let head = text.split_once(':').and_then(|(seq, hash)| {
            let seq = seq.parse().ok().filter(|seq| *seq >= 0)?;
            let is_hash = hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hash.then(|| Self { seq, hash: hash.to_ascii_lowercase() })
        });
        head.ok_or_else(|| {
            InvalidValue::new(
                FieldErrorCode::InvalidFormat,
                "expected a head: a number, a colon and 64 hex digits, as `audit verify` prints it",
            )
        })
    }
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationReport {
    /// The number of entries that were verified.
    pub entries: u64,
    /// The last entry.
    pub head: ChainHead,
    /// The first 100 faults, as sentences that name the entries.
    pub faults: Vec<String>,
    /// The entry after which the verification began: the last archived one, unless archive files were given.
    pub start: ChainHead,
    /// The archives that entries of the log confirm: the number and hash of the last entry of each.
    confirmed_archives: HashMap<i64, String>,
}

/// Returns the hash of an entry: the SHA-256 over its columns except the last one, in their order.
///
/// A column is encoded as one byte, 1 for a value and 0 for null. A value follows as the length of its text in bytes (8
/// bytes, big-endian) and the text. Numbers are in decimal digits.
pub(super) fn hash(row: &AuditRow) -> String {
    let mut context = Context::new(&SHA256);
    context.update(&encode(row, |column| matches!(column, Column::Seq)));
    context.update(&hashed_fields(row));
    context.update(&encode(row, |column| matches!(column, Column::Previous)));
    hex::encode(context.finish())
}

/// Encodes the columns that do not depend on the previous entry: those between `seq` and `previous`.
pub(super) fn hashed_fields(row: &AuditRow) -> Vec<u8> {
    encode(row, |column| !matches!(column, Column::Seq | Column::Previous | Column::Hash))
}

/// Encodes the selected columns.
fn encode(row: &AuditRow, is_selected: impl Fn(Column) -> bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    for column in Column::iter().filter(|column| is_selected(*column)) {
        append_field(&mut bytes, text_of(row.get(column)).as_deref());
    }
    bytes
}

fn append_field(bytes: &mut Vec<u8>, field: Option<&str>) {
    match field {
        Some(text) => {
            bytes.push(1);
            bytes.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        None => bytes.push(0),
    }
}

/// The query for `seq` and `hash` of the last entry in PostgreSQL; those of `ChainHead::default()` if there is none.
pub(super) const LAST_ENTRY_SQL: &str = "SELECT coalesce(found.seq, 0) AS seq, coalesce(found.hash, repeat('0', 64)) AS hash \
     FROM (SELECT 1) one LEFT JOIN (SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1) found ON true";

/// Returns the last entry that this connection sees.
///
/// # Errors
/// The database is unavailable.
pub(super) async fn head(db: &impl ConnectionTrait) -> Result<ChainHead, StoreError> {
    let mut last = Query::select();
    last.columns(["seq", "hash"]).from("audit").order_by("seq", Order::Desc).limit(1);
    let Some(row) = db.query_one(&last).await? else { return Ok(ChainHead::default()) };
    let hash = String::try_get(&row, "", "hash").map_err(DbErr::from)?;
    Ok(ChainHead { seq: i64::try_get(&row, "", "seq").map_err(DbErr::from)?, hash })
}

impl VerificationReport {
    /// Creates an empty report; the next entry must follow `start`.
    pub(super) fn starting_at(start: ChainHead) -> Self {
        Self {
            entries: 0,
            head: start.clone(),
            faults: Vec::new(),
            start,
            confirmed_archives: HashMap::new(),
        }
    }

    pub(super) fn add_fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Verifies the next entry.
    pub(super) fn check(&mut self, row: &AuditRow, expected_head: Option<&ChainHead>) {
        let AuditRow { seq, previous, .. } = row;
        let next = self.head.seq.saturating_add(1);
        if *seq > next {
            self.add_missing(next, seq.saturating_sub(1));
        } else if *seq < next {
            let first = self.start.seq.saturating_add(1);
            self.add_fault(format!("entry {seq} is out of place: the first entry is {first}"));
        } else if *previous != self.head.hash {
            let before = self.head.seq;
            self.add_fault(format!(
                "entry {seq} does not follow entry {before}: its previous hash is a different one"
            ));
        }
        if hash(row) != row.hash {
            self.add_fault(format!("entry {seq} was changed: its hash does not match its content"));
        }
        if expected_head
            .is_some_and(|expected_head| expected_head.seq == *seq && expected_head.hash != row.hash)
        {
            self.add_fault(format!("entry {seq} was replaced: its hash does not match the expected head"));
        }
        if row.event == Event::AuditArchived.to_string() {
            self.record_archive(row);
        }
        self.entries += 1;
        self.head = ChainHead { seq: *seq, hash: row.hash.clone() };
    }

    fn add_missing(&mut self, first: i64, last: i64) {
        self.add_fault(if first == last {
            format!("entry {first} is missing")
        } else {
            format!("entries {first} to {last} are missing")
        });
    }

    fn record_archive(&mut self, row: &AuditRow) {
        let details: serde_json::Value = serde_json::from_str(&row.details).unwrap_or_default();
        let last = details.get("last").and_then(serde_json::Value::as_i64);
        let hash = details.get("hash").and_then(serde_json::Value::as_str);
        if let (Some(last), Some(hash)) = (last, hash) {
            self.confirmed_archives.insert(last, hash.to_owned());
        }
    }

    /// Verifies that the archives continue one another, and that the log confirms the newest one.
    fn check_archives(&mut self, archives: &[ArchiveRow]) {
        let mut next = 1;
        for archive in archives {
            if archive.first_seq != next {
                self.add_missing(next, archive.first_seq.saturating_sub(1));
            }
            next = archive.last_seq.saturating_add(1);
            let is_newest = Some(archive) == archives.last();
            let recorded = self.confirmed_archives.get(&archive.last_seq);
            if recorded.map_or(is_newest, |hash| *hash != archive.hash) {
                let ArchiveRow { first_seq, last_seq, .. } = archive;
                self.add_fault(format!(
                    "entries {first_seq} to {last_seq} are missing: no entry audit.archived confirms their archive"
                ));
            }
        }
    }

    /// Verifies the expected head if its entry was not among those verified.
    fn check_expected_head(&mut self, expected_head: &ChainHead) {
        if expected_head.seq > self.head.seq {
            let (last, head) = (self.head.seq, expected_head.seq);
            self.add_fault(format!(
                "the audit log ends at entry {last}, before the expected head {head}: the last entries are missing"
            ));
        } else if expected_head.seq == self.start.seq && expected_head.hash != self.start.hash {
            let seq = expected_head.seq;
            self.add_fault(format!("entry {seq} was replaced: its hash does not match the expected head"));
        } else if expected_head.seq < self.start.seq && expected_head.seq > 0 {
            let seq = expected_head.seq;
            self.add_fault(format!(
                "entry {seq} is archived: name the archive files to compare it with the expected head"
            ));
        }
    }

    /// Verifies archive files, the oldest first, and compares them with the records in the database.
    fn check_files(&mut self, files: &[PathBuf], archives: &[ArchiveRow], expected_head: Option<&ChainHead>) {
        for path in files {
            let name = path.display();
            let checked = archive_file::digest(path).and_then(|digest| {
                let last = archive_file::header(path)?.last;
                let recorded = archives.iter().find(|archive| archive.last_seq == last);
                if recorded.is_none_or(|archive| archive.digest != digest) {
                    self.add_fault(format!(
                        "{name}: the database records no archive with the SHA-256 {digest}"
                    ));
                }
                archive_file::check_archive(path, self, expected_head)
            });
            if let Err(error) = checked {
                self.add_fault(format!("{name}: {error}"));
            }
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
        report.check_files(&files, archives, expected_head);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    fn row() -> AuditRow {
        AuditRow {
            seq: 1,
            time: Timestamp::from_millis(1_700_000_000_000),
            event: "login.succeeded".into(),
            outcome: "ok".into(),
            actor: Some("599e1fcd9da1c72645c95886".into()),
            credential: Some("session".into()),
            credential_id: None,
            target_type: None,
            target: None,
            organization: None,
            path: None,
            address: Some("192.0.2.7".into()),
            request: None,
            details: "{}".into(),
            previous: ChainHead::default().hash,
            hash: String::new(),
        }
    }

    #[test]
    fn the_hash_matches_the_documented_encoding() {
        // Computed independently from the documentation of `hash`.
        assert_eq!(hash(&row()), "f00ac00ea6d2aa2f7a0c782f409c7319f80ebbd45f8556d593ae8563f717fab4");
    }

    #[test]
    fn the_hash_depends_on_the_column_and_distinguishes_null_from_empty() {
        let mut moved = row();
        (moved.credential, moved.credential_id) = (None, Some("session".into()));
        let mut empty = row();
        empty.credential_id = Some(String::new());
        assert_ne!(hash(&moved), hash(&row()));
        assert_ne!(hash(&empty), hash(&row()));
    }

    #[test]
    fn the_hash_depends_on_every_column() {
        let filled = |text: &str| {
            let text = || Some(text.to_owned());
            AuditRow {
                credential_id: text(),
                target_type: text(),
                target: text(),
                organization: text(),
                path: text(),
                request: text(),
                ..row()
            }
        };
        assert!(filled("a").values().all(|value| text_of(value).is_some()), "each type of column has a text");
        let json = serde_json::to_value(filled("a")).unwrap();
        for (name, value) in json.as_object().unwrap() {
            let mut changed = json.clone();
            changed[name] = match value {
                serde_json::Value::Number(number) => (number.as_i64().unwrap() + 1).into(),
                _ if name == "time" => "2000-01-01T00:00:00Z".into(),
                _ => "b".into(),
            };
            let changed: AuditRow = serde_json::from_value(changed).unwrap();
            assert_eq!(hash(&changed) == hash(&filled("a")), name == "hash", "{name}");
        }
    }

    #[test]
    fn a_head_round_trips_through_its_text() {
        let head = ChainHead { seq: 7, hash: "ab".repeat(32) };
        assert_eq!(head.to_string().parse(), Ok(head));
        for wrong in ["", "7", "7:", "7:ab", "-1:", ":", &format!("-1:{}", "ab".repeat(32))] {
            assert!(wrong.parse::<ChainHead>().is_err(), "{wrong}");
        }
    }
}
