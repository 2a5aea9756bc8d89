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
use sea_orm_migration::{MigratorTrait, SchemaManager};
use std::time::{Duration, Instant};

/// The table in which sea-orm-migration records the applied migrations.
pub(super) const APPLIED_STEPS: &str = "seaql_migrations";

/// How long to wait for another process that is migrating a PostgreSQL database.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// The time between attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);

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
        apply_next_step(&tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Applies the missing migrations to a PostgreSQL database, also through a connection pooler in transaction mode.
///
/// # Errors
///
/// As [`migrate`], and [`StoreError::Unavailable`] if another process has been migrating for more than a minute.
pub(super) async fn migrate_postgres(db: &DatabaseConnection, is_pooled: bool) -> Result<(), StoreError> {
    loop {
        let tx = db.begin().await?;
        // The timeouts of requests are too short for migrations.
        let limits = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'; \
                      SET LOCAL idle_in_transaction_session_timeout = '60s'";
        tx.execute_unprepared(limits).await?;
        // A server connection behind a pooler may have prepared statements with the same names.
        let deallocate =
            async || if is_pooled { tx.execute_unprepared("DEALLOCATE ALL").await.map(drop) } else { Ok(()) };
        deallocate().await?;
        acquire_lock(&tx).await?;
        let is_applied = apply_next_step(&tx).await?;
        deallocate().await?;
        tx.commit().await?;
        if !is_applied {
            return Ok(());
        }
    }
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
    let tx = db.begin().await?;
    // A server connection behind a pooler may have prepared statements with the same names.
    if is_pooled {
        tx.execute_unprepared("DEALLOCATE ALL").await?;
    }
    require_steps(&SchemaManager::new(&tx)).await?;
    if is_pooled {
        tx.execute_unprepared("DEALLOCATE ALL").await?;
    }
    Ok(tx.commit().await?)
}

/// Prevents other processes from migrating until the transaction ends.
async fn acquire_lock(tx: &DatabaseTransaction) -> Result<(), StoreError> {
    let started = Instant::now();
    loop {
        let mut query = Query::select();
        // The key of the lock: an arbitrary number.
        query.expr_as(Expr::cust("pg_try_advisory_xact_lock(4839271)"), "locked");
        let row = tx.query_one(&query).await?;
        let is_locked = row.map(|row| bool::try_get(&row, "", "locked")).transpose().map_err(DbErr::from)?;
        if is_locked == Some(true) {
            return Ok(());
        }
        if started.elapsed() > LOCK_LIMIT {
            return Err(StoreError::Unavailable(format!(
                "another process has been migrating the database for more than {LOCK_LIMIT:?}"
            )));
        }
        tracing::info!("waiting for another process that is migrating the database");
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// Applies the first missing migration. Returns false if there is none.
async fn apply_next_step(tx: &DatabaseTransaction) -> Result<bool, StoreError> {
    let Some(step) = next_step(&applied_steps(&SchemaManager::new(tx)).await?)? else { return Ok(false) };
    tracing::info!(step = step.name(), "migrating the database");
    Migrator::install(tx).await?;
    step.up(&SchemaManager::new(tx)).await?;
    let mut record = Query::insert();
    record
        .into_table(APPLIED_STEPS)
        .columns(["version", "applied_at"])
        .values_panic([step.name().into(), Clock::system().now().seconds().into()]);
    tx.execute(&record).await?;
    Ok(true)
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
fn next_step(applied: &[String]) -> Result<Option<Box<dyn sea_orm_migration::MigrationTrait>>, StoreError> {
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
