//! Filters for the tables of other services: SQL text with bound parameters, for tables that this service never reads.
//!
//! The SQL is a condition for a WHERE clause. It is true for exactly the rows for which the filter is true; for others it is
//! false or null. Every value is a parameter, and every name is quoted. [`ucast()`] are conditions for other languages.

mod columns;
mod render;
mod sets;
mod ucast;

pub use columns::{ColumnMap, InvalidColumn};
pub use render::{NotExpressible, SqlDialect, TIMES, TableFilter, decimal, render};
pub use ucast::ucast;
