//! Appending to the audit log on PostgreSQL: as statements that run with the COMMIT in one round trip.
//!
//! Appends exclude one another by an advisory lock, since each entry has the hash of the one before. The server holds the
//! lock from the first of these statements to the COMMIT and waits for no client meanwhile, so that a process that stops
//! at any moment keeps no other from appending.

use super::audit::{AuditRow, COLUMNS, Cause, Entry};
use super::chain::{self, Head};
use std::fmt::Write;

/// The advisory lock of the audit log: any number that nothing else uses.
const LOCK: i64 = 4_839_272;

/// The statements that notify other processes and append the entries, each ending in a semicolon.
///
/// They have no parameters, which a message of several statements cannot have. All texts are written as hex digits.
pub(super) fn statements(notice: Option<(&str, String)>, cause: &Cause, entries: Vec<Entry>) -> String {
    let mut sql = String::new();
    if let Some((channel, payload)) = notice {
        let _ = write!(sql, "SELECT pg_notify({}, {});", literal(channel), literal(&payload));
    }
    if !entries.is_empty() {
        let _ = write!(sql, "SELECT pg_advisory_xact_lock({LOCK});");
    }
    for entry in entries {
        insert(&mut sql, &AuditRow::following(&Head::default(), cause, entry));
    }
    sql
}

/// Appends a row after the last one. Its number, the hash of the row before and its own hash are computed by the server.
fn insert(sql: &mut String, row: &AuditRow) {
    let columns = COLUMNS.map(|column| format!("\"{column}\"")).join(", ");
    let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "NULL".to_owned(), literal);
    let number = "(last.seq + 1)";
    // The bytes of `chain::hash`: the number with its length, the body, and the hash before, which has 64 digits.
    let hashed = format!(
        "decode('01', 'hex') || int8send(length({number}::text)) || convert_to({number}::text, 'UTF8') || {body} || \
         {before} || convert_to(last.hash, 'UTF8')",
        body = bytes(&chain::body(row)),
        before = bytes(&[1, 0, 0, 0, 0, 0, 0, 0, 64]),
    );
    let _ = write!(
        sql,
        "INSERT INTO audit ({columns}) SELECT {number}, {time}, {event}, {outcome}, {optional}, {details}, last.hash, \
         encode(sha256({hashed}), 'hex') FROM ({last}) last;",
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
        last = chain::LAST,
    );
}

fn literal(text: &str) -> String {
    format!("convert_from({}, 'UTF8')", bytes(text.as_bytes()))
}

fn bytes(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2 + 16);
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    format!("decode('{digits}', 'hex')")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Event;
    use crate::values::Timestamp;

    #[test]
    fn no_text_of_an_entry_is_part_of_the_statement() {
        let cause = Cause {
            address: Some("'); DROP TABLE audit; --".into()),
            request: Some("\\'; --".into()),
            ..Cause::service(Timestamp::from_millis(0))
        };
        let entry = Entry::new(Event::LoginFailed).with("name", "'; COMMIT; --");
        let sql = statements(Some(("channel", "v2 1".into())), &cause, vec![entry]);
        assert!(!["DROP", "COMMIT", "--", "\\'"].iter().any(|text| sql.contains(text)), "{sql}");
        assert_eq!(sql.matches(';').count(), 3, "{sql}");
    }
}
