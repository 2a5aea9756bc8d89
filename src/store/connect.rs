//! Opening the database and migrating it.

use super::cache::RowCache;
use super::connections::{Connections, Transaction};
use super::database_file::{self, DatabaseFile};
use super::durability::Durability;
use super::freshness::Freshness;
use super::postgres::{ConnectTarget, Pools};
use super::revocations::PendingRevocations;
use super::{AuditActor, Store, StoreError, UnitOfWork, migrate, spans, statistics};
use crate::config::{CacheName, Config};
use crate::types::Clock;
use migrations::Migrator;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use secrecy::ExposeSecret;
use sqlx::Connection as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn connect_options(url: &str, config: &Config, connections: u32, create: bool) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(config.database_acquire_timeout_ms))
        .connect_timeout(Duration::from_secs(3))
        .sqlx_logging(false)
        // A failed commit, for example on a full disk, leaves a connection with a wrong transaction depth: the next
        // unit of work on it would be a savepoint, whose commit succeeds and stores nothing.
        .map_sqlx_sqlite_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    // Waits for the rollback that was queued when the transaction was dropped.
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
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                .analysis_limit(statistics::SAMPLE_ROWS)
        });
    options
}

/// What to do if the tables are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SchemaMode {
    /// Create them, and the SQLite file.
    Create,
    /// Fail.
    Require,
}

impl Store {
    /// Returns whether opening the database would create it: the SQLite file does not exist, or the database is in memory.
    pub fn is_missing(config: &Config) -> bool {
        let url = config.database_url.expose_secret();
        let path = database_file::path_of_url(url);
        url.starts_with("sqlite:") && path.is_none_or(|path| matches!(path.try_exists(), Ok(false)))
    }

    /// Opens the configured database and migrates it. Creates a SQLite file that does not exist.
    ///
    /// # Errors
    ///
    /// If the database is unavailable, or was created by a newer version or another program.
    pub async fn open(config: &Config, clock: &Clock) -> Result<Self, StoreError> {
        Self::open_with(SchemaMode::Create, config, clock).await
    }

    /// Opens the configured database, which must exist and have all migrations.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the SQLite file does not exist, [`StoreError::Misconfigured`] if the database
    /// does not have the tables of this version.
    pub async fn open_existing(config: &Config, clock: &Clock) -> Result<Self, StoreError> {
        Self::open_with(SchemaMode::Require, config, clock).await
    }

    async fn open_with(schema: SchemaMode, config: &Config, clock: &Clock) -> Result<Self, StoreError> {
        let url = config.database_url.expose_secret();
        if url.starts_with("sqlite:") {
            Self::open_sqlite(schema, url, config).await
        } else {
            Self::open_postgres(schema, config, clock).await
        }
    }

    async fn open_sqlite(schema: SchemaMode, url: &str, config: &Config) -> Result<Self, StoreError> {
        // Created only here: if the file is moved away later, the database is missing, not empty. SQLite creates its
        // companion files with the owner and mode of the database file.
        let path = database_file::path_of_url(url);
        match (&path, schema) {
            (Some(path), SchemaMode::Create) => database_file::create_if_missing(path)?,
            (Some(path), SchemaMode::Require) => database_file::require_exists(path)?,
            (None, _) => {}
        }
        let first = Database::connect(connect_options(url, config, 1, schema == SchemaMode::Create))
            .await
            .map_err(|error| {
                let fault = path.as_deref().and_then(|path| {
                    database_file::permission_problem(path).or_else(|| database_file::open_error(path))
                });
                StoreError::Unavailable(fault.unwrap_or_else(|| {
                    format!("cannot open {url}: {error}; another program may have locked the file")
                }))
            })?;
        let migrated = match schema {
            SchemaMode::Create => migrate::migrate(&first).await,
            SchemaMode::Require => migrate::require_all_steps(&first).await,
        };
        if migrated.is_ok()
            && schema == SchemaMode::Create
            && let Err(error) = statistics::update_statistics(&first).await
        {
            tracing::warn!("the statistics of the database were not updated: {error}");
        }
        first.close().await?;
        migrated?;
        // Opened after the migration, since a connection to SQLite caches the schema and the statistics that it saw first.
        let mut db =
            Database::connect(connect_options(url, config, config.database_connections, false)).await?;
        spans::trace_queries(&mut db);
        let durability = match &path {
            Some(path) => Durability::for_file(DatabaseFile::new(path)?),
            None => Durability::default(),
        };
        let cache = Arc::new(RowCache::new(Freshness::always(), config.is_cache_on(CacheName::Rows)));
        Ok(Self { db: Connections::Sqlite(db), cache, durability: Arc::new(durability) })
    }

    async fn open_postgres(schema: SchemaMode, config: &Config, clock: &Clock) -> Result<Self, StoreError> {
        let target = ConnectTarget::for_database(config).await?;
        let single = target.connect_once().await?;
        let connection = DatabaseConnection::from(single.clone());
        match schema {
            SchemaMode::Create => migrate::migrate_postgres(&connection, target.is_pooled).await?,
            SchemaMode::Require => migrate::require_all_steps_postgres(&connection, target.is_pooled).await?,
        }
        let pools = Arc::new(Pools::open(&target, &single, config).await?);
        // The row cache is on while notifications are received, and for a limited time in an outage.
        let limit = Duration::from_secs(config.stale_decisions);
        let cache = Arc::new(RowCache::new(
            Freshness::with_max_stale(limit, pools.outage(), clock.clone()),
            config.is_cache_on(CacheName::Rows),
        ));
        if target.is_pooled && config.database_listen_url.is_none() {
            tracing::warn!(
                "a connection pooler in transaction mode does not pass on notifications, so the row cache is off; set \
                 CEDARGATE_DATABASE_LISTEN_URL to the address of the server itself to turn it on"
            );
        } else {
            tokio::spawn(RowCache::listen(Arc::downgrade(&cache), config.clone(), Arc::clone(&pools)));
        }
        let store = Self { db: Connections::Postgres(pools), cache, durability: Arc::default() };
        if schema == SchemaMode::Create {
            store.reset_foreign_changes().await?;
        }
        Ok(store)
    }

    /// Checks that the database answers, is writable, and has the latest migration of this program. A restored older backup
    /// does not have it.
    ///
    /// # Errors
    ///
    /// If one of the checks fails.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.check_writable().await?;
        let migrations = Migrator::migrations();
        let last = migrations.last().map(|step| step.name().to_owned()).unwrap_or_default();
        let mut select = Query::select();
        select
            .column("version")
            .from(migrate::APPLIED_STEPS)
            .and_where(Expr::col("version").eq(last.as_str()));
        match self.db.query_health(self.db.get_database_backend().build(&select)).await? {
            Some(_) => Ok(()),
            None => {
                Err(StoreError::Misconfigured(format!("the database no longer has the migration {last}")))
            }
        }
    }

    /// Returns the number of connections, and how many of them are idle.
    pub fn connections(&self) -> (u32, u32) {
        let (size, idle) = match &self.db {
            Connections::Postgres(pools) => pools.count(),
            Connections::Sqlite(db) => {
                let pool = db.get_sqlite_connection_pool();
                (pool.size(), pool.num_idle())
            }
        };
        (size, u32::try_from(idle).unwrap_or(u32::MAX))
    }

    /// Begins a unit of work on behalf of an actor.
    ///
    /// # Errors
    ///
    /// If the database is unavailable, or no connection becomes free in time.
    pub async fn begin(&self, actor: AuditActor) -> Result<UnitOfWork, StoreError> {
        self.begin_with(actor, false).await
    }

    /// Begins a unit of work that is dropped at its end, and therefore rolled back.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub async fn begin_dry_run(&self, actor: AuditActor) -> Result<UnitOfWork, StoreError> {
        self.begin_with(actor, true).await
    }

    async fn begin_with(&self, actor: AuditActor, is_dry_run: bool) -> Result<UnitOfWork, StoreError> {
        let tx = match &self.db {
            Connections::Postgres(pools) => Transaction::Postgres(pools.begin().await?),
            Connections::Sqlite(db) => {
                // SQLite has a single writer. Taking the write lock at once avoids a transaction that has read and then
                // may not write.
                let options = TransactionOptions {
                    sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                    ..TransactionOptions::default()
                };
                let transaction = db.begin_with_options(options);
                Transaction::Sqlite(spans::traced(DbBackend::Sqlite, "BEGIN", transaction).await?)
            }
        };
        let cache = Arc::clone(&self.cache);
        let pending_revocations = PendingRevocations::new(&self.durability, is_dry_run);
        Ok(UnitOfWork {
            tx,
            cache,
            write_set: Mutex::default(),
            actor,
            entries: Mutex::default(),
            pending_revocations,
            deferred_commit: None,
            stored_resources: Mutex::default(),
        })
    }
}
