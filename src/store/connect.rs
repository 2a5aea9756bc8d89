//! Opening the database, and bringing it to the present form.

use super::facts::Facts;
use super::{Store, StoreError, Work, is_shared};
use migrations::Migrator;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use secrecy::ExposeSecret;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn options(url: &str, connections: u32, create: bool) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(3))
        .connect_timeout(Duration::from_secs(3))
        .sqlx_logging(false)
        // A connection is tried before it is used: a database that was restarted costs a reconnect, not a failed request.
        .test_before_acquire(true)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .create_if_missing(create)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(5))
                .journal_mode(sea_orm::sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sea_orm::sqlx::sqlite::SqliteSynchronous::Normal)
        });
    options
}

impl Store {
    /// Opens the database at `url` (`sqlite://file` or `postgres://…`) with at most `connections` connections. A
    /// SQLite file is made where there is none.
    pub async fn connect(url: &str, connections: u32) -> Result<Self, StoreError> {
        if url.starts_with("sqlite:") {
            // Made here and never again: a file that is moved away later is missing, not empty.
            let opened = async { Database::connect(options(url, 1, true)).await?.close().await };
            opened.await.map_err(|error| {
                StoreError::Unavailable(format!(
                    "{url} does not open; does another program keep it locked? ({error})"
                ))
            })?;
        }
        let db = Database::connect(options(url, connections, false)).await?;
        // With PostgreSQL it begins to remember when it hears what other processes write.
        let facts = Arc::new(Facts::new(!is_shared(&db)));
        if is_shared(&db) {
            tokio::spawn(Facts::listen(Arc::downgrade(&facts), url.to_owned()));
        }
        Ok(Self { db, url: url.to_owned().into(), facts })
    }

    /// Applies the migrations that the database does not have yet. Refuses a database that has one which this
    /// program does not know: a newer program made it.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // Of several processes that start at once, one after the other: PostgreSQL keeps the others waiting. (SQLite has
        // one writer anyhow.)
        let turn = if is_shared(&self.db) {
            let turn = Database::connect(options(self.url.expose_secret(), 1, false)).await?;
            turn.execute_unprepared("SELECT pg_advisory_lock(4839271)").await?;
            Some(turn)
        } else {
            None
        };
        let migrated = self.migrate_in_turn().await;
        if let Some(turn) = turn {
            turn.close().await?;
        }
        migrated
    }

    async fn migrate_in_turn(&self) -> Result<(), StoreError> {
        let known: HashSet<String> =
            Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
        let tables = SchemaManager::new(&self.db);
        if tables.has_table("seaql_migrations").await? {
            let applied = Migrator::get_migration_models(&self.db).await?;
            let newer: Vec<String> =
                applied.into_iter().map(|step| step.version).filter(|name| !known.contains(name)).collect();
            if !newer.is_empty() {
                return Err(StoreError::Foreign(format!(
                    "the database was migrated by a newer version of this program: it has the step {}, which this \
                     version does not know; start the newer version, or restore a backup",
                    newer.join(", ")
                )));
            }
        } else if tables.has_table("users").await? {
            return Err(StoreError::Foreign(
                "the database has a table `users` but was not made by this program; name another database"
                    .into(),
            ));
        }
        Ok(Migrator::up(&self.db, None).await?)
    }

    /// Whether the database answers and has the form that this program gave it: one that was replaced by an older one has
    /// not.
    pub async fn check(&self) -> Result<(), StoreError> {
        let known = Migrator::migrations();
        let last = known.last().map(|step| step.name().to_owned()).unwrap_or_default();
        let mut select = Query::select();
        select.column("version").from("seaql_migrations").and_where(Expr::col("version").eq(last.as_str()));
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

    /// Starts a unit of work.
    pub async fn begin(&self) -> Result<Work, StoreError> {
        // SQLite has one writer: asking for its place at once spares a transaction that has read the refusal to write.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let tx = self.db.begin_with_options(options).await?;
        Ok(Work { tx, facts: Arc::clone(&self.facts), written: Mutex::default() })
    }
}
