//! OpenTelemetry spans of database queries, by the semantic conventions for databases. They contain the operation and the
//! table, never values.

use crate::telemetry::{self, SpanData, SpanKind};
use sea_orm::{DatabaseConnection, DbBackend};

/// Records a span for each query on a connection, if tracing is enabled.
pub(super) fn trace_queries(db: &mut DatabaseConnection) {
    if telemetry::is_enabled() {
        db.set_metric_callback(|info| {
            let sql = info.statement.sql.as_str();
            telemetry::record_span(info.elapsed, || {
                query_span(info.statement.db_backend, operation(sql), table(sql), info.failed)
            });
        });
    }
}

/// Awaits a query that does not run on a sea-orm connection and records its span.
///
/// # Errors
/// Those of the query.
pub(super) async fn traced_query<T, E>(
    backend: DbBackend,
    sql: &str,
    query: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let timer = telemetry::start_timer();
    let result = query.await;
    timer.record(|| query_span(backend, operation(sql), table(sql), result.is_err()));
    result
}

/// Awaits a database operation that is not a query and records its span.
///
/// # Errors
/// Those of the operation.
pub(super) async fn traced<T, E>(
    backend: DbBackend,
    operation: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let timer = telemetry::start_timer();
    let result = work.await;
    timer.record(|| query_span(backend, operation, None, result.is_err()));
    result
}

fn query_span(backend: DbBackend, operation: &str, table: Option<&str>, is_failure: bool) -> SpanData {
    let system = match backend {
        DbBackend::Postgres => "postgresql",
        _ => "sqlite",
    };
    let name = table.map_or_else(|| operation.to_owned(), |table| format!("{operation} {table}"));
    let span = SpanData { kind: SpanKind::Client, is_failure, ..SpanData::new(name) }
        .with("db.system.name", system)
        .with("db.operation.name", operation.to_owned());
    match table {
        Some(table) => span.with("db.collection.name", table.to_owned()),
        None => span,
    }
}

/// Returns the first word of a statement.
fn operation(sql: &str) -> &str {
    sql.split_ascii_whitespace().next().unwrap_or_default()
}

/// Returns the first table that a statement names. sea-query quotes names and binds values as parameters.
fn table(sql: &str) -> Option<&str> {
    let words = sql.split_ascii_whitespace();
    let next = words.clone().skip(1);
    let mut named = words.zip(next).filter(|(word, _)| matches!(*word, "FROM" | "INTO" | "UPDATE"));
    named.find_map(|(_, name)| name.strip_prefix('"')?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_named_after_operation_and_table() {
        for (sql, expected) in [
            (r#"SELECT "id", "email" FROM "users" WHERE "email" = ?"#, ("SELECT", Some("users"))),
            (r#"INSERT INTO "sessions" ("id") VALUES ($1)"#, ("INSERT", Some("sessions"))),
            (r#"UPDATE "users" SET "role" = $1"#, ("UPDATE", Some("users"))),
            (r#"DELETE FROM "api_keys" WHERE "id" = ?"#, ("DELETE", Some("api_keys"))),
            (r#"SELECT COUNT(*) FROM (SELECT "id" FROM "forms") AS "sub_query""#, ("SELECT", Some("forms"))),
            (r#"SELECT 1 FROM users WHERE "a" = 'FROM "x"'"#, ("SELECT", None)),
            ("SELECT pg_notify($1, $2)", ("SELECT", None)),
            ("", ("", None)),
        ] {
            assert_eq!((operation(sql), table(sql)), expected, "{sql}");
        }
    }
}
