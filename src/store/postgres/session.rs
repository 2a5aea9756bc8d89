//! A connection while a query or a unit of work uses it.

use super::availability::Availability;
use super::unavailable;
use crate::store::spans;
use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement, Values};
use sea_query_sqlx::SqlxValues;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Error, Executor, Postgres};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// The time limit of a rollback, after which the connection is closed instead.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// A connection that is in use, within a transaction or not.
#[derive(Debug)]
pub(in crate::store) struct PgSession {
    connection: Mutex<Option<PoolConnection<Postgres>>>,
    availability: Arc<Availability>,
    deadline: Instant,
    /// Whether prepared statements stay on the connection.
    is_persistent: bool,
    is_in_transaction: bool,
}

impl PgSession {
    /// A connection to use until `deadline`; behind a pooler without prepared statements that outlive a transaction.
    pub(super) fn new(
        connection: PoolConnection<Postgres>,
        availability: Arc<Availability>,
        deadline: Instant,
        is_pooled: bool,
    ) -> Self {
        Self {
            connection: Mutex::new(Some(connection)),
            availability,
            deadline,
            is_persistent: !is_pooled,
            is_in_transaction: false,
        }
    }

    /// Begins a transaction.
    pub(super) async fn begin(mut self, statements: &str) -> Result<Self, DbErr> {
        // From here on it is rolled back: the server may have begun it without an answer.
        self.is_in_transaction = true;
        spans::traced(DbBackend::Postgres, "BEGIN", self.execute_unprepared(statements)).await?;
        Ok(self)
    }

    /// Commits the transaction after these statements, in one round trip: locks that they take are held by the server only,
    /// however long this process or the network takes.
    pub(in crate::store) async fn commit(mut self, statements: &str) -> Result<(), DbErr> {
        // In a transaction that has failed, COMMIT alone would be a rollback without an error.
        let all = format!("SELECT 1;{statements}COMMIT");
        self.execute_unprepared(&all).await?;
        self.is_in_transaction = false;
        Ok(())
    }

    /// Ends the transaction of a single query, where it has one.
    pub(in crate::store) async fn finish(self) -> Result<(), DbErr> {
        if self.is_in_transaction { self.commit("").await } else { Ok(()) }
    }

    async fn connection(&self) -> MutexGuard<'_, Option<PoolConnection<Postgres>>> {
        self.connection.lock().await
    }

    /// Runs a query with a time limit, and reports it to the trace.
    async fn run<T>(&self, sql: &str, query: impl Future<Output = Result<T, Error>>) -> Result<T, DbErr> {
        let result = self.availability.run(self.deadline, query);
        let result =
            async { result.await?.map_err(|error| DbErr::Query(RuntimeErr::SqlxError(error.into()))) };
        spans::traced_query(DbBackend::Postgres, sql, result).await
    }

    fn query<'a>(&self, statement: &'a Statement) -> Query<'a, Postgres, SqlxValues> {
        let values = statement.values.clone().unwrap_or(Values(Vec::new()));
        // Values are bound; the text comes from the query builder or from this program.
        let sql = AssertSqlSafe(statement.sql.as_str());
        sqlx::query_with(sql, SqlxValues(values)).persistent(self.is_persistent)
    }
}

fn closed() -> DbErr {
    unavailable("the connection is closed")
}

#[async_trait]
impl ConnectionTrait for PgSession {
    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut guard = self.connection().await;
        let connection = &mut **guard.as_mut().ok_or_else(closed)?;
        let query = self.query(&statement).execute(connection);
        self.run(&statement.sql, query).await.map(Into::into)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut guard = self.connection().await;
        let connection = &mut **guard.as_mut().ok_or_else(closed)?;
        let query = self.availability.run(self.deadline, connection.execute(AssertSqlSafe(sql.to_owned())));
        query.await?.map(Into::into).map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut guard = self.connection().await;
        let connection = &mut **guard.as_mut().ok_or_else(closed)?;
        let query = self.query(&statement).fetch_optional(connection);
        Ok(self.run(&statement.sql, query).await?.map(Into::into))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut guard = self.connection().await;
        let connection = &mut **guard.as_mut().ok_or_else(closed)?;
        let query = self.query(&statement).fetch_all(connection);
        Ok(self.run(&statement.sql, query).await?.into_iter().map(Into::into).collect())
    }
}

impl Drop for PgSession {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.get_mut().take().filter(|_| self.is_in_transaction) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            connection.close_on_drop();
            return;
        };
        runtime.spawn(async move {
            let rollback = (&mut *connection).execute("ROLLBACK");
            if !matches!(tokio::time::timeout(ROLLBACK_LIMIT, rollback).await, Ok(Ok(_))) {
                // The server rolls back when it notices.
                connection.close_on_drop();
            }
        });
    }
}
