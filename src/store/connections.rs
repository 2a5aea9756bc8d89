//! Connections and transactions with one interface for both databases.

use super::postgres::{PgSession, Pools, Purpose};
use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult,
    Statement,
};
use std::sync::Arc;

/// The connections of a store. On PostgreSQL, reads have their own pool, so that they do not wait behind units of work that
/// wait for locks.
#[derive(Debug, Clone)]
pub(super) enum Connections {
    Sqlite(DatabaseConnection),
    Postgres(Arc<Pools>),
}

/// The transaction of a unit of work.
#[derive(Debug)]
pub(super) enum Transaction {
    Sqlite(DatabaseTransaction),
    Postgres(PgSession),
}

/// Where a [`Reader`](super::Reader) runs its queries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Executor<'a> {
    Connections(&'a Connections),
    Transaction(&'a Transaction),
}

/// Runs one query on a PostgreSQL connection and ends its transaction, if it has one.
macro_rules! on_session {
    ($pools:expr, $purpose:expr, $method:ident($statement:expr)) => {{
        let session = $pools.session($purpose).await?;
        let result = session.$method($statement).await?;
        session.finish().await?;
        Ok(result)
    }};
}

#[async_trait]
impl ConnectionTrait for Connections {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Sqlite(_) => DbBackend::Sqlite,
            Self::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Self::Sqlite(db) => db.execute_raw(statement).await,
            Self::Postgres(pools) => on_session!(pools, Purpose::Write, execute_raw(statement)),
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Sqlite(db) => db.execute_unprepared(sql).await,
            Self::Postgres(pools) => on_session!(pools, Purpose::Write, execute_unprepared(sql)),
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Sqlite(db) => db.query_one_raw(statement).await,
            Self::Postgres(pools) => on_session!(pools, Purpose::Read, query_one_raw(statement)),
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Sqlite(db) => db.query_all_raw(statement).await,
            Self::Postgres(pools) => on_session!(pools, Purpose::Read, query_all_raw(statement)),
        }
    }
}

impl Connections {
    /// Runs a query on the connection that is reserved for readiness checks.
    ///
    /// # Errors
    /// The query fails, or there is no connection in time.
    pub(super) async fn query_health(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Sqlite(db) => db.query_one_raw(statement).await,
            Self::Postgres(pools) => on_session!(pools, Purpose::Health, query_one_raw(statement)),
        }
    }
}

/// Implements `ConnectionTrait` for an enum by delegating to its variants.
macro_rules! delegate {
    ($type:ty, $($variant:ident),+) => {
        #[async_trait]
        impl ConnectionTrait for $type {
            fn get_database_backend(&self) -> DbBackend {
                match self { $(Self::$variant(inner) => inner.get_database_backend(),)+ }
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                match self { $(Self::$variant(inner) => inner.execute_raw(statement).await,)+ }
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                match self { $(Self::$variant(inner) => inner.execute_unprepared(sql).await,)+ }
            }

            async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
                match self { $(Self::$variant(inner) => inner.query_one_raw(statement).await,)+ }
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                match self { $(Self::$variant(inner) => inner.query_all_raw(statement).await,)+ }
            }
        }
    };
}

delegate!(Transaction, Sqlite, Postgres);
delegate!(Executor<'_>, Connections, Transaction);
