//! Migrations: bring a database to the schema of this program. Each migration runs in a transaction with the row that
//! records it, so that a killed process leaves both or neither.

use super::StoreError;
use crate::types::Clock;
use migrations::Migrator;
use sea_orm::sea_query::{Expr, Query};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait, TryGetable,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager};
use std::time::{Duration, Instant};

/// The table in which sea-orm-migration records the applied migrations.
pub(super) const APPLIED_STEPS: &str = "seaql_migrations";

/// How long to wait for another process that is migrating a PostgreSQL database.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// The time between attempts to get the lock, and between the lines in the log about it.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);
const LOCK_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The key of the advisory lock of migrations: an arbitrary number.
const LOCK_KEY: u32 = 4_839_271;
/// How long PostgreSQL may take to answer around a migration. The migration itself has no limit except for `lock_timeout`.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Applies the missing migrations to a SQLite database. Several processes may do so at once.
///
/// # Errors
///
/// [`StoreError::Misconfigured`] if the database was migrated by a newer version or created by another program.
pub(super) async fn migrate(db: &DatabaseConnection) -> Result<(), StoreError> {
    // An up-to-date database is neither locked nor written.
    while next_step(&applied_steps(&SchemaManager::new(db)).await?)?.is_some() {
        // Take the write lock before the first read: a transaction that has read may not write once another process has
        // written.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let tx = db.begin_with_options(options).await?;
        // Another process may have applied it meanwhile.
        if let Some(step) = next_step(&applied_steps(&SchemaManager::new(&tx)).await?)? {
            apply_step(&tx, &*step).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Applies the missing migrations to a PostgreSQL database, also through a connection pooler in transaction mode.
///
/// # Errors
///
/// As [`migrate`], and [`StoreError::Unavailable`] if another process has been migrating for more than a minute or the server
/// does not answer.
pub(super) async fn migrate_postgres(db: &DatabaseConnection, is_pooled: bool) -> Result<(), StoreError> {
    loop {
        // A pooler may have no free connection while other processes migrate.
        let tx = within_limit(LOCK_LIMIT, begin_migration(db, is_pooled)).await?;
        acquire_lock(&tx).await?;
        let step =
            within_limit(ANSWER_LIMIT, async { next_step(&applied_steps(&SchemaManager::new(&tx)).await?) })
                .await?;
        if let Some(step) = &step {
            apply_step(&tx, &**step).await?;
        }
        within_limit(ANSWER_LIMIT, async {
            deallocate(&tx, is_pooled).await?;
            Ok(tx.commit().await?)
        })
        .await?;
        if step.is_none() {
            return Ok(());
        }
    }
}

/// Begins a transaction with the time limits of a migration.
async fn begin_migration(
    db: &DatabaseConnection,
    is_pooled: bool,
) -> Result<DatabaseTransaction, StoreError> {
    let tx = db.begin().await?;
    // The timeouts of requests are too short for migrations.
    let limits = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'; \
                  SET LOCAL idle_in_transaction_session_timeout = '60s'";
    tx.execute_unprepared(limits).await?;
    deallocate(&tx, is_pooled).await?;
    Ok(tx)
}

/// Removes the prepared statements of a server connection behind a pooler, which may have the same names as those of this process.
async fn deallocate(tx: &DatabaseTransaction, is_pooled: bool) -> Result<(), DbErr> {
    if is_pooled {
        tx.execute_unprepared("DEALLOCATE ALL").await?;
    }
    Ok(())
}

/// Returns the result of this work, or an error if the server does not answer.
async fn within_limit<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let no_answer = |_| StoreError::Unavailable(format!("no answer within {limit:?} about its migrations"));
    tokio::time::timeout(limit, work).await.map_err(no_answer)?
}

/// Checks that a SQLite database has all migrations, without writing.
///
/// # Errors
///
/// [`StoreError::Misconfigured`] if migrations are missing, or as for [`migrate`].
pub(super) async fn require_all_steps(db: &DatabaseConnection) -> Result<(), StoreError> {
    require_steps(&SchemaManager::new(db)).await
}

async fn require_steps(tables: &SchemaManager<'_>) -> Result<(), StoreError> {
    let applied = applied_steps(tables).await?;
    let Some(step) = next_step(&applied)? else { return Ok(()) };
    Err(StoreError::Misconfigured(if applied.is_empty() {
        "the database has no tables of this program; run `cedargate serve` or `cedargate user add` to create them"
            .into()
    } else {
        format!(
            "the database was created by an older version of this program: the migration {} is missing; start \
             `cedargate serve` of this version to migrate it",
            step.name()
        )
    }))
}

/// Checks that a PostgreSQL database has all migrations, also through a connection pooler in transaction mode.
///
/// # Errors
///
/// As [`require_all_steps`].
pub(super) async fn require_all_steps_postgres(
    db: &DatabaseConnection,
    is_pooled: bool,
) -> Result<(), StoreError> {
    within_limit(ANSWER_LIMIT, async {
        let tx = db.begin().await?;
        deallocate(&tx, is_pooled).await?;
        require_steps(&SchemaManager::new(&tx)).await?;
        deallocate(&tx, is_pooled).await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// Prevents other processes from migrating until the transaction ends.
async fn acquire_lock(tx: &DatabaseTransaction) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut logged: Option<Instant> = None;
    loop {
        let mut query = Query::select();
        query.expr_as(Expr::cust(format!("pg_try_advisory_xact_lock({LOCK_KEY})")), "locked");
        let row = within_limit(ANSWER_LIMIT, async { Ok(tx.query_one(&query).await?) }).await?;
        let is_locked = row.map(|row| bool::try_get(&row, "", "locked")).transpose().map_err(DbErr::from)?;
        if is_locked == Some(true) {
            return Ok(());
        }
        if started.elapsed() > LOCK_LIMIT {
            return Err(StoreError::Unavailable(format!(
                "another process has been migrating the database for more than {LOCK_LIMIT:?}: it holds the advisory lock \
                 {LOCK_KEY} (see pg_locks)"
            )));
        }
        if logged.is_none_or(|logged| logged.elapsed() >= LOCK_LOG_INTERVAL) {
            logged = Some(Instant::now());
            tracing::info!(
                limit = ?LOCK_LIMIT,
                "waiting for another process that is migrating the database (advisory lock {LOCK_KEY})"
            );
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// Applies a migration and records it.
async fn apply_step(tx: &DatabaseTransaction, step: &dyn MigrationTrait) -> Result<(), StoreError> {
    tracing::info!(step = step.name(), "migrating the database");
    Migrator::install(tx).await?;
    step.up(&SchemaManager::new(tx)).await?;
    let mut record = Query::insert();
    record
        .into_table(APPLIED_STEPS)
        .columns(["version", "applied_at"])
        .values_panic([step.name().into(), Clock::system().now().seconds().into()]);
    tx.execute(&record).await?;
    Ok(())
}

/// Returns the names of the applied migrations.
async fn applied_steps(schema: &SchemaManager<'_>) -> Result<Vec<String>, StoreError> {
    if !schema.has_table(APPLIED_STEPS).await? {
        if schema.has_table("users").await? {
            return Err(StoreError::Misconfigured(
                "the database has a table `users` but was not created by this program; configure another database"
                    .into(),
            ));
        }
        return Ok(Vec::new());
    }
    let mut select = Query::select();
    select.column("version").from(APPLIED_STEPS);
    let rows = schema.get_connection().query_all(&select).await?;
    let names = rows.iter().map(|row| String::try_get(row, "", "version"));
    Ok(names.collect::<Result<_, _>>().map_err(DbErr::from)?)
}

/// Returns the first missing migration.
fn next_step(applied: &[String]) -> Result<Option<Box<dyn MigrationTrait>>, StoreError> {
    let steps = Migrator::migrations();
    let unknown = |name: &&String| steps.iter().all(|step| step.name() != name.as_str());
    let newer: Vec<&str> = applied.iter().filter(unknown).map(String::as_str).collect();
    if !newer.is_empty() {
        return Err(StoreError::Misconfigured(format!(
            "the database was migrated by a newer version of this program: this version does not know its migration \
             {}; start the newer version, or restore a backup",
            newer.join(", ")
        )));
    }
    Ok(steps.into_iter().find(|step| applied.iter().all(|name| name != step.name())))
}
