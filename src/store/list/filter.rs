//! The SQL conditions of filters. Each is true or not true for a row, the same on both databases.

use super::dialect::{Dialect, column, never};
use super::query::{Field, Filter, Test};
use super::values;
use sea_orm::sea_query::{Expr, ExprTrait};

/// Returns the condition of a filter on the rows of a table.
pub(in crate::store) fn condition(dialect: Dialect, table: &str, filter: &Filter) -> Expr {
    let condition = match &filter.field {
        Field::Column(name) => scalar(dialect, column(table, name), &filter.test),
        Field::Property { column: name, key } => {
            scalar(dialect, dialect.property(column(table, name), key), &filter.test)
        }
        Field::Elements(path) => {
            values::condition(dialect, &column(table, &path.column), path, &filter.test, scalar)
        }
    };
    if filter.is_negated { dialect.negate(condition) } else { condition }
}

/// Returns the condition that a value passes a test. Null passes only if the test accepts it.
fn scalar(dialect: Dialect, value: Expr, test: &Test) -> Expr {
    match test {
        Test::OneOf { values, or_null } => {
            let mut conditions = Vec::new();
            match values.as_slice() {
                [] => {}
                [one] => conditions.push(value.clone().eq(Expr::val(one.clone()))),
                many => {
                    conditions.push(value.clone().is_in(many.iter().cloned().map(sea_orm::Value::from)));
                }
            }
            if *or_null {
                conditions.push(value.is_null());
            }
            conditions.into_iter().reduce(ExprTrait::or).unwrap_or_else(never)
        }
        Test::Compare(comparison, with) => dialect.compare(value, *comparison, with),
        Test::Contains(part) => dialect.contains(value, part),
        Test::StartsWith(start) => dialect.starts_with(value, start),
    }
}
