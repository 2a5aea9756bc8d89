//! Brings a database to the schema of this program. Each step is one transaction together with the row that records it:
//! a process that is killed leaves either both or neither.

use super::{StoreError, is_shared};
use crate::values::Clock;
use migrations::Migrator;
use sea_orm::sea_query::{Func, Query};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
    TryGetable,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};

/// The table in which sea-orm-migration records the steps that a database has.
pub(super) const APPLIED_STEPS: &str = "seaql_migrations";

/// The advisory lock under which PostgreSQL databases are migrated: an arbitrary number.
const LOCK: i64 = 4_839_271;

/// Applies the steps that the database does not have yet, in their order. Several processes may do so at once.
///
/// # Errors
///
/// [`StoreError::Foreign`] for a database that a newer program migrated, or that another program created.
pub(super) async fn migrate(db: &DatabaseConnection) -> Result<(), StoreError> {
    // A database that has all steps is neither locked nor written.
    while next_step(&applied_steps(&SchemaManager::new(db)).await?)?.is_some() {
        apply_next_step(db).await?;
    }
    Ok(())
}

/// Applies the first step that the database does not have; none where another process has just applied the last one.
async fn apply_next_step(db: &DatabaseConnection) -> Result<(), StoreError> {
    // The lock for writing comes before the first read: otherwise SQLite refuses to write what another process has written since.
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let tx = db.begin_with_options(options).await?;
    if is_shared(&tx) {
        // Until the end of the transaction, so that it works through a connection pool in transaction mode, too.
        let mut lock = Query::select();
        lock.expr(Func::cust("pg_advisory_xact_lock").arg(LOCK));
        tx.execute(&lock).await?;
    }
    let Some(step) = next_step(&applied_steps(&SchemaManager::new(&tx)).await?)? else {
        return Ok(tx.rollback().await?);
    };
    tracing::info!(step = step.name(), "the database is being migrated");
    Migrator::install(&tx).await?;
    step.up(&SchemaManager::new(&tx)).await?;
    let mut record = Query::insert();
    record
        .into_table(APPLIED_STEPS)
        .columns(["version", "applied_at"])
        .values_panic([step.name().into(), Clock::system().now().seconds().into()]);
    tx.execute(&record).await?;
    Ok(tx.commit().await?)
}

/// The names of the steps that the database has.
async fn applied_steps(tables: &SchemaManager<'_>) -> Result<Vec<String>, StoreError> {
    if !tables.has_table(APPLIED_STEPS).await? {
        if tables.has_table("users").await? {
            return Err(StoreError::Foreign(
                "the database has a table `users` but was not made by this program; name another database"
                    .into(),
            ));
        }
        return Ok(Vec::new());
    }
    let mut select = Query::select();
    select.column("version").from(APPLIED_STEPS);
    let rows = tables.get_connection().query_all(&select).await?;
    let names = rows.iter().map(|row| String::try_get(row, "", "version"));
    Ok(names.collect::<Result<_, _>>().map_err(DbErr::from)?)
}

/// The first step that is not among the applied ones.
fn next_step(applied: &[String]) -> Result<Option<Box<dyn sea_orm_migration::MigrationTrait>>, StoreError> {
    let steps = Migrator::migrations();
    let unknown = |name: &&String| steps.iter().all(|step| step.name() != name.as_str());
    let newer: Vec<&str> = applied.iter().filter(unknown).map(String::as_str).collect();
    if !newer.is_empty() {
        return Err(StoreError::Foreign(format!(
            "the database was migrated by a newer version of this program: it has the step {}, which this \
             version does not know; start the newer version, or restore a backup",
            newer.join(", ")
        )));
    }
    Ok(steps.into_iter().find(|step| applied.iter().all(|name| name != step.name())))
}
