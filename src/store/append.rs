//! Appends to the audit log on PostgreSQL, as statements that run with the COMMIT in one round trip.
//!
//! Each entry contains the hash of its predecessor, so an advisory lock serializes the appends. The server holds the
//! lock from the first of these statements to the COMMIT without waiting for the client, so that a stopped process
//! never blocks other writers.

use super::audit::{AuditActor, AuditEntry, AuditRow};
use super::audit_row::Column;
use super::chain::{self, ChainHead};
use sea_orm::{IdenStatic, Iterable, ModelTrait, Value};
use std::fmt::Write;

/// The key of the advisory lock: an arbitrary number that nothing else uses.
const AUDIT_LOCK_KEY: i64 = 4_839_272;

/// Returns the statements that notify other processes and append the entries, each ending in a semicolon.
///
/// A message with several statements cannot have parameters, so all texts are encoded as hex digits.
pub(super) fn append_statements(
    notice: Option<(&str, String)>,
    actor: &AuditActor,
    entries: Vec<AuditEntry>,
) -> String {
    let mut sql = String::new();
    if let Some((channel, payload)) = notice {
        let _ = write!(sql, "SELECT pg_notify({}, {});", literal(channel), literal(&payload));
    }
    if !entries.is_empty() {
        let _ = write!(sql, "SELECT pg_advisory_xact_lock({AUDIT_LOCK_KEY});");
    }
    for entry in entries {
        write_insert(&mut sql, &AuditRow::after(&ChainHead::default(), actor, entry));
    }
    sql
}

/// Writes the statement that appends a row. The server computes its number, the previous hash and its own hash.
fn write_insert(sql: &mut String, row: &AuditRow) {
    let next_seq = "(last.seq + 1)";
    // The input of `chain::hash`: the number with its length, the other fields, and the previous hash of 64 digits.
    let hash_input = format!(
        "decode('01', 'hex') || int8send(length({next_seq}::text)) || convert_to({next_seq}::text, 'UTF8') || {body} || \
         {before} || convert_to(last.hash, 'UTF8')",
        body = bytea_literal(&chain::hashed_fields(row)),
        before = bytea_literal(&[1, 0, 0, 0, 0, 0, 0, 0, 64]),
    );
    let columns: Vec<String> = Column::iter().map(|column| format!("\"{}\"", column.as_str())).collect();
    let values = Column::iter().map(|column| match column {
        Column::Seq => next_seq.to_owned(),
        Column::Previous => "last.hash".to_owned(),
        Column::Hash => format!("encode(sha256({hash_input}), 'hex')"),
        _ => value_literal(row.get(column)),
    });
    let _ = write!(
        sql,
        "INSERT INTO audit ({columns}) SELECT {values} FROM ({last}) last;",
        columns = columns.join(", "),
        values = values.collect::<Vec<_>>().join(", "),
        last = chain::LAST_ENTRY_SQL,
    );
}

fn value_literal(value: Value) -> String {
    match value {
        Value::BigInt(Some(number)) => number.to_string(),
        Value::String(Some(text)) => literal(&text),
        // Null: the table has no other types of columns.
        _ => "NULL".to_owned(),
    }
}

fn literal(text: &str) -> String {
    format!("convert_from({}, 'UTF8')", bytea_literal(text.as_bytes()))
}

fn bytea_literal(bytes: &[u8]) -> String {
    format!("decode('{}', 'hex')", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Event;
    use crate::types::Timestamp;

    #[test]
    fn entry_text_is_never_interpolated_into_sql() {
        let actor = AuditActor {
            address: Some("'); DROP TABLE audit; --".into()),
            request: Some("\\'; --".into()),
            ..AuditActor::service(Timestamp::from_millis(0))
        };
        let entry = AuditEntry::new(Event::LoginFailed).with("name", "'; COMMIT; --");
        let sql = append_statements(Some(("channel", "v2 1".into())), &actor, vec![entry]);
        assert!(!["DROP", "COMMIT", "--", "\\'"].iter().any(|text| sql.contains(text)), "{sql}");
        assert_eq!(sql.matches(';').count(), 3, "{sql}");
    }
}
