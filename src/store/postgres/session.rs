//! A PostgreSQL connection while a query or a unit of work uses it.

use super::availability::Availability;
use super::{unavailable, with_timeout, within};
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

/// How long a connection may take to answer after use, to roll back and for the last check; after that it is closed.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// A connection in use, inside or outside a transaction.
#[derive(Debug)]
pub(in crate::store) struct PgSession {
    connection: Mutex<Option<PoolConnection<Postgres>>>,
    availability: Arc<Availability>,
    deadline: Instant,
    /// Whether prepared statements persist on the connection.
    is_persistent: bool,
    is_in_transaction: bool,
}

impl PgSession {
    /// Wraps a connection for use until `deadline`. Behind a pooler, prepared statements do not persist.
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
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn begin(mut self, statements: &str) -> Result<Self, DbErr> {
        // Set before the statement, since the server may begin the transaction although the reply is lost; it is rolled
        // back.
        self.is_in_transaction = true;
        spans::traced(DbBackend::Postgres, "BEGIN", self.execute_unprepared(statements)).await?;
        Ok(self)
    }

    /// Runs these statements and commits, in one round trip. Locks that they take are held only by the server, however
    /// slow this process or the network is.
    pub(in crate::store) async fn commit(mut self, statements: &str) -> Result<(), DbErr> {
        // In a failed transaction, a lone COMMIT would be a rollback without an error.
        let all = format!("SELECT 1;{statements}COMMIT");
        self.execute_unprepared(&all).await?;
        self.is_in_transaction = false;
        Ok(())
    }

    /// Ends the transaction of a single query, if it has one.
    pub(in crate::store) async fn finish(self) -> Result<(), DbErr> {
        if self.is_in_transaction { self.commit("").await } else { Ok(()) }
    }

    async fn connection(&self) -> MutexGuard<'_, Option<PoolConnection<Postgres>>> {
        self.connection.lock().await
    }

    /// Runs a query until the deadline and records its span.
    async fn run<T>(&self, sql: &str, query: impl Future<Output = Result<T, Error>>) -> Result<T, DbErr> {
        let result = self.availability.run(self.deadline, query);
        let result =
            async { result.await?.map_err(|error| DbErr::Query(RuntimeErr::SqlxError(error.into()))) };
        spans::traced_query(DbBackend::Postgres, sql, result).await
    }

    fn query<'a>(&self, statement: &'a Statement) -> Query<'a, Postgres, SqlxValues> {
        let values = statement.values.clone().unwrap_or(Values(Vec::new()));
        // Values are bound; the SQL comes from the query builder or from constants.
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
        let Some(mut connection) = self.connection.get_mut().take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        let is_in_transaction = self.is_in_transaction;
        runtime.spawn(async move {
            if is_in_transaction {
                let rollback = with_timeout(RELEASE_LIMIT, (&mut *connection).execute("ROLLBACK"));
                if rollback.await.is_err() {
                    // The server rolls back when the connection closes.
                    drop(connection.detach());
                    return;
                }
            }
            // The library waits for an answer without a limit. If the wait ends early, the connection is closed and its place in
            // the pool is free.
            within(RELEASE_LIMIT, connection.return_to_pool()).await;
        });
    }
}
