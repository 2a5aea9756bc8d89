//! Appends to the audit log on PostgreSQL, as statements that run with the COMMIT in one round trip.
//!
//! Each entry contains the hash of its predecessor, so an advisory lock serializes the appends. The server holds the
//! lock from the first of these statements to the COMMIT without waiting for the client, so that a stopped process
//! never blocks other writers.

use super::audit::{AuditActor, AuditEntry, AuditRow, COLUMNS};
use super::chain::{self, ChainHead};
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
    let columns = COLUMNS.map(|column| format!("\"{column}\"")).join(", ");
    let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "NULL".to_owned(), literal);
    let next_seq = "(last.seq + 1)";
    // The input of `chain::hash`: the number with its length, the other fields, and the previous hash of 64 digits.
    let hash_input = format!(
        "decode('01', 'hex') || int8send(length({next_seq}::text)) || convert_to({next_seq}::text, 'UTF8') || {body} || \
         {before} || convert_to(last.hash, 'UTF8')",
        body = bytea_literal(&chain::hashed_fields(row)),
        before = bytea_literal(&[1, 0, 0, 0, 0, 0, 0, 0, 64]),
    );
    let _ = write!(
        sql,
        "INSERT INTO audit ({columns}) SELECT {next_seq}, {time}, {event}, {outcome}, {optional}, {details}, last.hash, \
         encode(sha256({hash_input}), 'hex') FROM ({last}) last;",
        time = row.time.millis(),
        event = literal(&row.event),
        outcome = literal(&row.outcome),
        optional = [
            &row.actor,
            &row.credential,
            &row.credential_id,
            &row.subject_type,
            &row.subject,
            &row.organization,
            &row.path,
            &row.address,
            &row.request,
        ]
        .map(optional)
        .join(", "),
        details = literal(&row.details),
        last = chain::LAST_ENTRY_SQL,
    );
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
