//! The hash chain of the audit log: each entry contains the hash of its predecessor, so that none can be changed, removed or
//! moved without changing all that follow.
//!
//! Somebody with write access to the whole table can recompute the hashes; a head that was recorded elsewhere detects that.

use super::StoreError;
use super::audit_row::{Column, Model as AuditRow, text_of};
use crate::types::{FieldErrorCode, InvalidValue};
use aws_lc_rs::digest::{Context, SHA256};
use sea_orm::sea_query::{Order, Query};
use sea_orm::{ConnectionTrait, DbErr, Iterable, ModelTrait, TryGetable};
use std::fmt;
use std::str::FromStr;

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
