//! Brings a database to the schema of this program. Each step is one transaction together with the row that records it:
//! a process that is killed leaves either both or neither.

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

/// The table in which sea-orm-migration records the steps that a database has.
pub(super) const APPLIED_STEPS: &str = "seaql_migrations";

/// How long a start waits for another process that migrates a PostgreSQL database.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// The time between two attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);

/// Applies the steps that a SQLite database does not have yet, in their order. Several processes may do so at once.
///
/// # Errors
///
/// [`StoreError::Foreign`] for a database that a newer program migrated, or that another program created.
pub(super) async fn migrate(db: &DatabaseConnection) -> Result<(), StoreError> {
    // A database that has all steps is neither locked nor written.
    while next_step(&applied_steps(&SchemaManager::new(db)).await?)?.is_some() {
        // The lock for writing comes before the first read: otherwise SQLite refuses to write what another process has
        // written since.
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

/// The same for PostgreSQL, also through a connection pooler in transaction mode.
///
/// # Errors
///
/// Those of [`migrate`], and [`StoreError::Unavailable`] where another process migrates for more than a minute.
pub(super) async fn migrate_postgres(db: &DatabaseConnection, is_pooled: bool) -> Result<(), StoreError> {
    loop {
        let tx = db.begin().await?;
        // The time limits of requests are too short for migrations.
        let limits = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'; \
                      SET LOCAL idle_in_transaction_session_timeout = '60s'";
        tx.execute_unprepared(limits).await?;
        // A server connection behind a pooler may have prepared statements of the same names.
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

/// Checks that a database has all steps, and writes nothing.
///
/// # Errors
///
/// [`StoreError::Foreign`] for a database that has not, that a newer program migrated, or that another program created.
pub(super) async fn require_all_steps(db: &DatabaseConnection) -> Result<(), StoreError> {
    require_steps(&SchemaManager::new(db)).await
}

async fn require_steps(tables: &SchemaManager<'_>) -> Result<(), StoreError> {
    let applied = applied_steps(tables).await?;
    let Some(step) = next_step(&applied)? else { return Ok(()) };
    Err(StoreError::Misconfigured(if applied.is_empty() {
        "the database has no tables of this program; `cedargate serve` and `cedargate user add` create them"
            .into()
    } else {
        format!(
            "the database was created by an older version of this program: it does not have the step {}; start \
             `cedargate serve` of this version, which migrates it",
            step.name()
        )
    }))
}

/// The same for PostgreSQL, also through a connection pooler in transaction mode.
///
/// # Errors
///
/// Those of [`require_all_steps`].
pub(super) async fn require_all_steps_postgres(
    db: &DatabaseConnection,
    is_pooled: bool,
) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    // A server connection behind a pooler may have prepared statements of the same names.
    if is_pooled {
        tx.execute_unprepared("DEALLOCATE ALL").await?;
    }
    require_steps(&SchemaManager::new(&tx)).await?;
    if is_pooled {
        tx.execute_unprepared("DEALLOCATE ALL").await?;
    }
    Ok(tx.commit().await?)
}

/// Keeps other processes from migrating until the transaction ends.
async fn acquire_lock(tx: &DatabaseTransaction) -> Result<(), StoreError> {
    let started = Instant::now();
    loop {
        let mut query = Query::select();
        // An arbitrary number.
        query.expr_as(Expr::cust("pg_try_advisory_xact_lock(4839271)"), "locked");
        let row = tx.query_one(&query).await?;
        let is_locked = row.map(|row| bool::try_get(&row, "", "locked")).transpose().map_err(DbErr::from)?;
        if is_locked == Some(true) {
            return Ok(());
        }
        if started.elapsed() > LOCK_LIMIT {
            return Err(StoreError::Unavailable(format!(
                "another process has been migrating it for more than {LOCK_LIMIT:?}"
            )));
        }
        tracing::info!("waiting for another process that migrates the database");
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// Applies the first step that the database does not have; false where it has all of them.
async fn apply_next_step(tx: &DatabaseTransaction) -> Result<bool, StoreError> {
    let Some(step) = next_step(&applied_steps(&SchemaManager::new(tx)).await?)? else { return Ok(false) };
    tracing::info!(step = step.name(), "the database is being migrated");
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

/// The names of the steps that the database has.
async fn applied_steps(schema: &SchemaManager<'_>) -> Result<Vec<String>, StoreError> {
    if !schema.has_table(APPLIED_STEPS).await? {
        if schema.has_table("users").await? {
            return Err(StoreError::Misconfigured(
                "the database has a table `users` but was not made by this program; name another database"
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

/// The first step that is not among the applied ones.
fn next_step(applied: &[String]) -> Result<Option<Box<dyn sea_orm_migration::MigrationTrait>>, StoreError> {
    let steps = Migrator::migrations();
    let unknown = |name: &&String| steps.iter().all(|step| step.name() != name.as_str());
    let newer: Vec<&str> = applied.iter().filter(unknown).map(String::as_str).collect();
    if !newer.is_empty() {
        return Err(StoreError::Misconfigured(format!(
            "the database was migrated by a newer version of this program: it has the step {}, which this \
             version does not know; start the newer version, or restore a backup",
            newer.join(", ")
        )));
    }
    Ok(steps.into_iter().find(|step| applied.iter().all(|name| name != step.name())))
}
