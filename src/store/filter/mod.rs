//! Conditions of policies in SQL: a [`FilterExpr`] as a condition on the rows of a table.
//!
//! A condition is true for exactly the rows for which the expression is true; for the others it is false or null. Every value
//! of an expression is a bound parameter.

mod rows;

use super::list::{Dialect, never};
use crate::authz::filter::{Comparison, EntityId, FilterExpr, Operand, Path, PatternPart, Value};
pub(super) use rows::row_condition;
use sea_orm::sea_query::{Expr, ExprTrait};

/// What the values of a column are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// Texts.
    Text,
    /// Truth values.
    Boolean,
    /// Integers.
    Long,
    /// Ids of entities of this type.
    Entity(String),
}

/// A column with the values of an attribute. It is null in rows without the attribute.
#[derive(Debug, Clone)]
pub(super) struct FilterColumn {
    /// The column.
    pub(super) value: Expr,
    /// What its values are.
    pub(super) kind: ColumnKind,
}

/// A table whose rows are the resources of a filter.
pub(super) trait FilterTable {
    /// Returns the column of an attribute, or of the id for the resource itself; none if the table has no such column.
    fn column(&self, path: &Path) -> Option<FilterColumn>;

    /// Returns the condition that the resource, or one of its ancestors, is among these entities.
    fn is_in(&self, dialect: Dialect, ancestors: &[EntityId]) -> Expr;

    /// Returns the truth value of an expression without `And`, `Or` and `Not` if it is the same for all rows in question.
    fn constant(&self, atom: &FilterExpr) -> Option<bool>;
}

/// A part of a filter that no condition on the table expresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a condition on rows cannot express {0}")]
pub(super) struct Inexpressible(String);

impl Inexpressible {
    fn path(path: &Path) -> Self {
        Self(format!("the attribute {path}, which is no column"))
    }

    fn atom(atom: &FilterExpr) -> Self {
        Self(format!("{atom:?}"))
    }
}

/// Returns the expression without the parts that are the same for all rows in question.
pub(super) fn simplified(table: &impl FilterTable, expr: &FilterExpr) -> FilterExpr {
    match expr {
        FilterExpr::And(parts) => FilterExpr::and(parts.iter().map(|part| simplified(table, part))),
        FilterExpr::Or(parts) => FilterExpr::or(parts.iter().map(|part| simplified(table, part))),
        FilterExpr::Not(inner) => FilterExpr::not(simplified(table, inner)),
        atom => match table.constant(atom) {
            Some(true) => FilterExpr::always(),
            Some(false) => FilterExpr::never(),
            None => atom.clone(),
        },
    }
}

/// Returns the condition of an expression on the rows of a table.
///
/// # Errors
/// The table has no column for an attribute, or the expression compares what columns cannot hold.
pub(super) fn condition(
    dialect: Dialect,
    table: &impl FilterTable,
    expr: &FilterExpr,
) -> Result<Expr, Inexpressible> {
    let render = |expr: &FilterExpr| condition(dialect, table, expr);
    Ok(match expr {
        FilterExpr::And(parts) => {
            let parts = parts.iter().map(render).collect::<Result<Vec<_>, _>>()?;
            parts.into_iter().reduce(ExprTrait::and).map_or_else(always, |all| dialect.expr("(@@)", [all]))
        }
        FilterExpr::Or(parts) => {
            let parts = parts.iter().map(render).collect::<Result<Vec<_>, _>>()?;
            parts.into_iter().reduce(ExprTrait::or).map_or_else(never, |any| dialect.expr("(@@)", [any]))
        }
        // Also true where the inner condition is null.
        FilterExpr::Not(inner) => dialect.negate(render(inner)?),
        FilterExpr::IsTrue(path) => match column(table, path)? {
            FilterColumn { value, kind: ColumnKind::Boolean } => value.eq(true),
            _ => return Err(Inexpressible::atom(expr)),
        },
        FilterExpr::Has(path) => column(table, path)?.value.is_not_null(),
        FilterExpr::Compare { left, op, right } => {
            compare(dialect, table, left, *op, right)?.ok_or_else(|| Inexpressible::atom(expr))?
        }
        FilterExpr::Like { path, pattern } => match column(table, path)? {
            FilterColumn { value, kind: ColumnKind::Text } => like(dialect, value, pattern),
            _ => return Err(Inexpressible::atom(expr)),
        },
        FilterExpr::Contains { set: Operand::Value(Value::Set(items)), element: Operand::Path(path) } => {
            one_of(column(table, path)?, items)
        }
        FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
            table.is_in(dialect, ancestors)
        }
        FilterExpr::Contains { .. }
        | FilterExpr::ContainsAll { .. }
        | FilterExpr::ContainsAny { .. }
        | FilterExpr::IsEmpty(_)
        | FilterExpr::In { .. }
        | FilterExpr::IsInRange { .. } => return Err(Inexpressible::atom(expr)),
    })
}

fn column(table: &impl FilterTable, path: &Path) -> Result<FilterColumn, Inexpressible> {
    table.column(path).ok_or_else(|| Inexpressible::path(path))
}

/// Returns the condition that two operands compare like this; none if SQL cannot compare them.
///
/// # Errors
/// The table has no column for an attribute.
fn compare(
    dialect: Dialect,
    table: &impl FilterTable,
    left: &Operand,
    op: Comparison,
    right: &Operand,
) -> Result<Option<Expr>, Inexpressible> {
    let (column_of, other, op) = match (left, right) {
        (Operand::Path(path), other) => (path, other, op),
        (other, Operand::Path(path)) => (path, other, mirrored(op)),
        (Operand::Value(_), Operand::Value(_)) => return Ok(None),
    };
    let left = column(table, column_of)?;
    // Cedar has no order of other types that columns hold.
    if op != Comparison::Equal && left.kind != ColumnKind::Long {
        return Ok(None);
    }
    let right = match other {
        // Values of different types are not equal, which is no error.
        Operand::Path(path) => Some(column(table, path)?).filter(|right| right.kind == left.kind),
        Operand::Value(value) => {
            bound(&left.kind, value).map(|value| FilterColumn { value, kind: left.kind.clone() })
        }
    };
    Ok(match right {
        Some(right) => {
            let operator = match op {
                Comparison::Equal => "=",
                Comparison::Less => "<",
                Comparison::LessOrEqual => "<=",
                Comparison::Greater => ">",
                Comparison::GreaterOrEqual => ">=",
            };
            Some(dialect.expr(&format!("@@ {operator} @@"), [left.value, right.value]))
        }
        None => (op == Comparison::Equal).then(never),
    })
}

/// Returns the comparison with its operands exchanged.
const fn mirrored(op: Comparison) -> Comparison {
    match op {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
    }
}

/// Returns a value as a parameter that is compared with a column; none if no value of the column is equal to it.
fn bound(kind: &ColumnKind, value: &Value) -> Option<Expr> {
    Some(match (kind, value) {
        (ColumnKind::Text, Value::Text(text)) => Expr::val(text.clone()),
        (ColumnKind::Boolean, Value::Bool(value)) => Expr::val(*value),
        (ColumnKind::Long, Value::Long(number)) => Expr::val(*number),
        (ColumnKind::Entity(kind), Value::Entity(entity)) if *kind == entity.kind => {
            Expr::val(entity.id.clone())
        }
        _ => return None,
    })
    // PostgreSQL has no text with this character, so no row is equal to it.
    .filter(|_| !contains_nul(value))
}

fn contains_nul(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.contains('\0'),
        Value::Entity(entity) => entity.id.contains('\0'),
        _ => false,
    }
}

/// Returns the condition that the value of a column is one of these.
fn one_of(column: FilterColumn, values: &[Value]) -> Expr {
    let values: Vec<Expr> = values.iter().filter_map(|value| bound(&column.kind, value)).collect();
    if values.is_empty() { never() } else { column.value.is_in(values) }
}

/// Returns the condition that a text matches a pattern as a whole, with case.
fn like(dialect: Dialect, text: Expr, pattern: &[PatternPart]) -> Expr {
    let mut sql = String::new();
    for part in pattern {
        match (part, dialect) {
            (PatternPart::Text(part), _) if part.contains('\0') => return never(),
            // The LIKE of SQLite ignores case.
            (PatternPart::Text(part), Dialect::Sqlite) => part.chars().for_each(|letter| match letter {
                '*' | '?' | '[' => sql.extend(['[', letter, ']']),
                other => sql.push(other),
            }),
            (PatternPart::Text(part), Dialect::Postgres) => part.chars().for_each(|letter| {
                if matches!(letter, '%' | '_' | '\\') {
                    sql.push('\\');
                }
                sql.push(letter);
            }),
            (PatternPart::Any, Dialect::Sqlite) => sql.push('*'),
            (PatternPart::Any, Dialect::Postgres) => sql.push('%'),
        }
    }
    dialect.either("@@ GLOB @@", "@@ LIKE @@", [text, Expr::val(sql)])
}

/// The condition that every row meets.
fn always() -> Expr {
    Expr::cust("1 = 1")
}
