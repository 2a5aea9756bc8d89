//! Filters for the tables of other services: SQL text with bound parameters, for tables that this service never reads.
//!
//! The SQL is a condition for a WHERE clause. It is true for exactly the rows for which the filter is true; for others it is
//! false or null. Every value is a parameter, and every name is quoted.

mod columns;
mod render;
mod sets;

pub use columns::{ColumnMap, InvalidColumn};
pub use render::{NotExpressible, SqlDialect, TableFilter, decimal, render};
