//! Errors of the store, independent of HTTP.

use sea_orm::{DbErr, RuntimeErr, SqlErr};
use sqlx::Error;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unreachable or overloaded. A retry may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database rejects writes: its disk is full or faulty, it is read-only, or its file was moved away.
    #[error("the database is not writable: {0}")]
    NotWritable(String),
    /// A revocation could not be stored but is in effect in this process.
    #[error("the revocation could not be stored: {0}")]
    RevocationNotStored(String),
    /// A unique column already has this value in another row. The text is the name of the column.
    #[error("{0} is already in use")]
    Duplicate(String),
    /// Another row refers to this row, or this row to one that no longer exists.
    #[error("conflict with a referenced or referencing row")]
    Referenced,
    /// A resource exceeds the maximum size.
    #[error("the resource has {bytes} bytes as JSON; at most {max} are allowed")]
    TooLarge {
        /// The size as JSON.
        bytes: usize,
        /// The maximum size.
        max: usize,
    },
    /// The configuration or the state of the database needs a change by an operator.
    #[error("{0}")]
    Misconfigured(String),
    /// An unexpected error of the database.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(message)) => {
                return Self::Duplicate(constraint_column(&message));
            }
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => return Self::Referenced,
            _ => {}
        }
        let message = error.to_string();
        if is_write_refused(&error) {
            return Self::NotWritable(message);
        }
        if is_transient(&error) { Self::Unavailable(message) } else { Self::Failed(message) }
    }
}

/// Returns the column in the message about a unique constraint: SQLite writes `table.column`, PostgreSQL quotes
/// `table_column_key`.
fn constraint_column(message: &str) -> String {
    let name = message.rsplit(['"', ' ']).find(|word| !word.is_empty()).unwrap_or(message);
    let name = name.trim_end_matches("_key").trim_end_matches("_pkey");
    name.rsplit(['.', '_']).next().unwrap_or(name).to_owned()
}

/// Returns whether the storage of the database rejects writes.
fn is_write_refused(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| is_write_refused_code(&code))
}

fn is_write_refused_code(code: &str) -> bool {
    match code.len() {
        // PostgreSQL: disk_full, io_error, read_only_sql_transaction.
        5 => matches!(code, "53100" | "58030" | "25006"),
        // SQLite: READONLY, FULL, and IOERR except for read errors.
        _ => code.parse::<u32>().is_ok_and(|code| match code & 0xff {
            8 | 13 => true,
            10 => !matches!(code, 10 | 266 | 522),
            _ => false,
        }),
    }
}

/// Returns whether a retry may succeed: no connection, a lost one, a server that starts or stops, a lock of another
/// transaction or program, a timeout.
fn is_transient(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => match error
            .as_database_error()
        {
            Some(error) => error.code().is_some_and(|code| is_connection_code(&code) || is_busy_code(&code)),
            None => is_connection_error(error),
        },
        _ => false,
    }
}

/// Returns whether an error code of PostgreSQL ends the connection: class 08 (connection exception), 57P (the server shuts
/// down or starts), and 25P03 (idle-in-transaction timeout).
pub(super) fn is_connection_code(code: &str) -> bool {
    code.len() == 5 && (code.starts_with("08") || code.starts_with("57P") || code == "25P03")
}

/// Returns whether an error code means that the database is overloaded or locked.
fn is_busy_code(code: &str) -> bool {
    match code.len() {
        // PostgreSQL: classes 53 (resources) and 40 (serialization failures and deadlocks), lock_timeout, statement_timeout.
        5 => code.starts_with("53") || code.starts_with("40") || matches!(code, "55P03" | "57014"),
        // SQLite: BUSY, LOCKED, IOERR, FULL and CANTOPEN with their extended codes.
        _ => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)),
    }
}

/// Returns whether the connection itself failed, rather than the database returning an error.
pub(super) fn is_connection_error(error: &Error) -> bool {
    matches!(
        error,
        Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::BeginFailed
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed
    )
}

#[cfg(test)]
mod tests {
    use super::constraint_column;

    #[test]
    fn the_column_of_a_violated_constraint_is_named() {
        assert_eq!(constraint_column("UNIQUE constraint failed: users.email"), "email");
        assert_eq!(
            constraint_column("duplicate key value violates unique constraint \"users_email_key\""),
            "email"
        );
    }
}
