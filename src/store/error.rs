//! What can go wrong with a database, without HTTP in it.

use sea_orm::{DbErr, RuntimeErr, SqlErr};
use sqlx::Error;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is too busy. It may work a moment later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database refuses writes: its disk is full or fails, it is read-only, or its file was moved away.
    #[error("the database cannot be written: {0}")]
    NotWritable(String),
    /// A revocation could not be stored, but is in effect in this process.
    #[error("the revocation could not be stored: {0}")]
    RevocationNotStored(String),
    /// Another row has this value already, where each may have it once.
    #[error("another one has the same {0} already")]
    Duplicate(String),
    /// Another row refers to this one, or this one to a row that is no longer there.
    #[error("something else still refers to it, or what it refers to has gone")]
    Referenced,
    /// A resource is larger than what is stored of one.
    #[error("the resource has {bytes} bytes as JSON; at most {max} are stored")]
    TooLarge {
        /// Its size, as JSON.
        bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// The database was migrated by a newer program, or is not one of this program's.
    #[error("{0}")]
    Misconfigured(String),
    /// The database says something that this program does not understand.
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

/// The column that a message about a unique constraint names: SQLite says `table.column`, PostgreSQL quotes
/// `table_column_key`.
fn constraint_column(message: &str) -> String {
    let name = message.rsplit(['"', ' ']).find(|word| !word.is_empty()).unwrap_or(message);
    let name = name.trim_end_matches("_key").trim_end_matches("_pkey");
    name.rsplit(['.', '_']).next().unwrap_or(name).to_owned()
}

/// Whether the storage of the database refuses to be written.
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
        // SQLite: READONLY, FULL, and IOERR unless it is one of reading.
        _ => code.parse::<u32>().is_ok_and(|code| match code & 0xff {
            8 | 13 => true,
            10 => !matches!(code, 10 | 266 | 522),
            _ => false,
        }),
    }
}

/// Whether trying again later may help: no connection, a lost one, a server that is starting or stopping, a lock that
/// another transaction or program holds, a time limit.
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

/// Whether an error code of PostgreSQL ends the connection: class 08 (connection), 57P (the server shuts down or starts),
/// and 25P03 (a transaction was idle for too long).
pub(super) fn is_connection_code(code: &str) -> bool {
    code.len() == 5 && (code.starts_with("08") || code.starts_with("57P") || code == "25P03")
}

/// Whether an error code says that the database is too busy, or locked.
fn is_busy_code(code: &str) -> bool {
    match code.len() {
        // PostgreSQL's classes 53 (resources) and 40 (serialization and deadlocks), lock_timeout, statement_timeout.
        5 => code.starts_with("53") || code.starts_with("40") || matches!(code, "55P03" | "57014"),
        // SQLite's BUSY, LOCKED, IOERR, FULL and CANTOPEN with their extended codes.
        _ => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)),
    }
}

/// Whether an error is not an answer of the database: the connection itself failed.
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
