//! Opening the database, and bringing it to the present form.

use super::database_file::{self, DatabaseFile};
use super::durability::Durability;
use super::facts::Facts;
use super::freshness::Freshness;
use super::revocations::Settlement;
use super::{Cause, Store, StoreError, Work, is_shared, migrate, spans};
use crate::values::Clock;
use migrations::Migrator;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{ConnectOptions as _, Connection as _};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn options(url: &str, connections: u32, create: bool) -> Result<ConnectOptions, StoreError> {
    let is_file = url.starts_with("sqlite:");
    // Of an address with a password in it the library is told the parts only: its errors and its log repeat the whole.
    let mut options = ConnectOptions::new(if is_file { url } else { "postgres://database" });
    if !is_file {
        let parts: PgConnectOptions = url.parse().map_err(|error| {
            StoreError::Foreign(format!(
                "its address is not such as postgres://user:password@host:5432/name, with %40 for a @ in the password: \
                 {error}"
            ))
        })?;
        let parts = parts.disable_statement_logging();
        options.map_sqlx_postgres_opts(move |_| parts.clone());
    }
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(3))
        .connect_timeout(Duration::from_secs(3))
        .sqlx_logging(false)
        // A connection is tried before it is used: a database that was restarted costs a reconnect, not a failed request.
        .test_before_acquire(true)
        // A commit that fails, for example on a full disk, leaves a connection whose count of transactions is wrong: the next
        // unit of work on it would be a savepoint, whose commit succeeds and stores nothing.
        .map_sqlx_sqlite_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    // Waits for the rollback that was sent when the transaction was dropped.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
        })
        .map_sqlx_sqlite_opts(move |options| {
            options
                .create_if_missing(create)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(5))
                .journal_mode(sea_orm::sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sea_orm::sqlx::sqlite::SqliteSynchronous::Full)
        });
    Ok(options)
}

impl Store {
    /// Opens the database at `url` (`sqlite://file` or `postgres://…`) with at most `connections` connections, and brings
    /// it to the present form. A SQLite file is made where there is none.
    ///
    /// During an outage of PostgreSQL, decisions may use what was read before for `stale_limit`.
    pub async fn open(
        url: &str,
        connections: u32,
        stale_limit: Duration,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        // Created here and never again: a file that is moved away later is missing, not empty. SQLite gives the files that it
        // creates beside it the same owner and mode.
        let path = database_file::path_of_url(url);
        if let Some(path) = &path {
            database_file::prepare(path)?;
        }
        let first = Database::connect(options(url, 1, true)?).await;
        let first = first.map_err(|error| match &path {
            Some(path) => StoreError::Unavailable(match database_file::permission_fault(path) {
                Some(fault) => fault,
                None => format!("{url} does not open; does another program keep it locked? ({error})"),
            }),
            None => error.into(),
        })?;
        let migrated = migrate::migrate(&first).await;
        first.close().await?;
        migrated?;
        // Only now: a connection to SQLite goes on for a while to believe of the tables what it saw first.
        let mut db = Database::connect(options(url, connections, false)?).await?;
        spans::watch(&mut db);
        // With PostgreSQL it begins to remember when it hears what other processes write.
        let freshness = match is_shared(&db) {
            true => Freshness::after_contact(stale_limit, clock.clone()),
            false => Freshness::always(),
        };
        let facts = Arc::new(Facts::new(freshness));
        if is_shared(&db) {
            tokio::spawn(Facts::listen(Arc::downgrade(&facts), url.to_owned(), db.clone()));
        }
        let durability = match &path {
            Some(path) => Durability::of_file(DatabaseFile::of(path)?),
            None => Durability::default(),
        };
        Ok(Self { db, facts, durability: Arc::new(durability) })
    }

    /// Checks that the database answers, can be written, and has the schema that this program gave it: one that was
    /// replaced by an older one has not.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.check_writable().await?;
        let known = Migrator::migrations();
        let last = known.last().map(|step| step.name().to_owned()).unwrap_or_default();
        let mut select = Query::select();
        select
            .column("version")
            .from(migrate::APPLIED_STEPS)
            .and_where(Expr::col("version").eq(last.as_str()));
        match self.db.query_one(&select).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Foreign(format!("the database has no longer the step {last}"))),
        }
    }

    /// How many connections there are, and how many of them nobody uses.
    pub fn connections(&self) -> (u32, u32) {
        let (size, idle) = match self.db.get_database_backend() {
            DbBackend::Postgres => {
                let pool = self.db.get_postgres_connection_pool();
                (pool.size(), pool.num_idle())
            }
            _ => {
                let pool = self.db.get_sqlite_connection_pool();
                (pool.size(), pool.num_idle())
            }
        };
        (size, u32::try_from(idle).unwrap_or(u32::MAX))
    }

    /// Starts a unit of work that somebody causes.
    pub async fn begin(&self, cause: Cause) -> Result<Work, StoreError> {
        // SQLite has one writer: asking for its place at once spares a transaction that has read the refusal to write.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let begun = self.db.begin_with_options(options);
        let tx = spans::timed(self.db.get_database_backend(), "BEGIN", begun).await?;
        let facts = Arc::clone(&self.facts);
        let settlement = Settlement::new(&self.durability);
        Ok(Work { tx, facts, written: Mutex::default(), cause, entries: Mutex::default(), settlement })
    }
}
