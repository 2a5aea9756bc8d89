//! A filter as SQL text.

use super::columns::{ColumnMap, ColumnName};
use crate::authz::filter::{Comparison, EntityId, Filter, FilterExpr, Operand, Path, PatternPart, Value};
use crate::types::Timestamp;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The maximum number of parameters: that of SQLite, which is less than that of PostgreSQL.
const MAX_PARAMETERS: usize = 32_000;
/// The maximum number of atoms and operators, since SQLite limits the depth of an expression to 1,000.
const MAX_SIZE: usize = 900;

/// The milliseconds of the times of the years 1 to 9999, which have a form in RFC 3339 that PostgreSQL reads.
pub const TIMES: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// The milliseconds of all times that a column of PostgreSQL can have.
const COLUMN_TIMES: RangeInclusive<i64> = -210_866_803_200_000..=9_224_318_015_999_999;

/// A dialect of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlDialect {
    /// PostgreSQL: parameters are `$1`, `$2`, ….
    Postgres,
    /// SQLite: parameters are `?1`, `?2`, ….
    Sqlite,
}

/// A condition in SQL.
#[derive(Debug, Clone, PartialEq)]
pub struct TableFilter {
    /// The condition.
    pub sql: String,
    /// The values of its parameters, in their order.
    pub parameters: Vec<Json>,
}

/// Why a filter cannot be a condition on a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExpressible {
    /// Attributes without a column, by their keys in the column map.
    #[error("no column is given for {}", .0.iter().cloned().collect::<Vec<_>>().join(", "))]
    MissingColumns(BTreeSet<String>),
    /// The dialect has no such condition.
    #[error("{0}")]
    Unsupported(String),
}

/// The condition of a filter on the table with these columns. `ancestor_types` are the types that the ancestors of its rows can
/// have; `kind` is the type of its rows.
///
/// # Errors
/// A column is missing, or the dialect has no such condition.
pub fn render(
    filter: &Filter,
    dialect: SqlDialect,
    columns: &ColumnMap,
    kind: &str,
    ancestor_types: &BTreeSet<String>,
) -> Result<TableFilter, NotExpressible> {
    let mut renderer =
        Renderer { dialect, columns, kind, ancestor_types, parameters: Vec::new(), missing: BTreeSet::new() };
    let sql = match filter {
        Filter::Always => ALWAYS.to_owned(),
        Filter::Never => NEVER.to_owned(),
        Filter::When(expr) => {
            check_size(expr)?;
            renderer.condition(expr)?
        }
    };
    let Renderer { parameters, missing, .. } = renderer;
    if !missing.is_empty() {
        return Err(NotExpressible::MissingColumns(missing));
    }
    if parameters.len() > MAX_PARAMETERS {
        return Err(NotExpressible::Unsupported(format!(
            "the condition has more than {MAX_PARAMETERS} parameters"
        )));
    }
    Ok(TableFilter { sql, parameters })
}

/// Checks that a condition has not too many parts.
///
/// # Errors
/// It has more than [`MAX_SIZE`].
pub(super) fn check_size(expr: &FilterExpr) -> Result<(), NotExpressible> {
    if expr.size() > MAX_SIZE {
        return Err(NotExpressible::Unsupported(format!("the condition has more than {MAX_SIZE} parts")));
    }
    Ok(())
}

const ALWAYS: &str = "1 = 1";
const NEVER: &str = "1 = 0";

pub(super) struct Renderer<'a> {
    pub(super) dialect: SqlDialect,
    columns: &'a ColumnMap,
    kind: &'a str,
    ancestor_types: &'a BTreeSet<String>,
    parameters: Vec<Json>,
    missing: BTreeSet<String>,
}

impl Renderer<'_> {
    /// A condition that is true where an expression is true. In parentheses where its operator binds weaker than `AND`.
    fn condition(&mut self, expr: &FilterExpr) -> Result<String, NotExpressible> {
        Ok(match expr {
            FilterExpr::And(parts) => self.joined(parts, " AND ", ALWAYS)?,
            FilterExpr::Or(parts) => self.joined(parts, " OR ", NEVER)?,
            // The condition is null where an attribute is absent.
            FilterExpr::Not(inner) => format!("(({}) IS NOT TRUE)", self.condition(inner)?),
            FilterExpr::IsTrue(path) => match self.dialect {
                SqlDialect::Postgres => format!("{} IS TRUE", self.column(path)),
                SqlDialect::Sqlite => format!("{} = 1", self.column(path)),
            },
            FilterExpr::Has(path) => format!("{} IS NOT NULL", self.column(path)),
            FilterExpr::Compare { left, op, right } => self.compare(left, *op, right)?,
            FilterExpr::Like { path, pattern } => self.like(path, pattern),
            FilterExpr::Contains { set, element } => self.contains(set, element)?,
            FilterExpr::ContainsAll { set, elements } => self.contains_all(set, elements)?,
            FilterExpr::ContainsAny { set, elements } => self.contains_any(set, elements)?,
            FilterExpr::IsEmpty(path) => match self.dialect {
                SqlDialect::Postgres => format!("cardinality({}) = 0", self.column(path)),
                SqlDialect::Sqlite => format!("json_array_length({}) = 0", self.column(path)),
            },
            FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
                self.is_below(ancestors)
            }
            FilterExpr::In { .. } => {
                return Err(unsupported("an entity that an attribute names has no columns"));
            }
            FilterExpr::IsInRange { address, ranges } => self.is_in_range(address, ranges)?,
        })
    }

    fn joined(
        &mut self,
        parts: &[FilterExpr],
        operator: &str,
        empty: &str,
    ) -> Result<String, NotExpressible> {
        let parts = parts.iter().map(|part| self.condition(part)).collect::<Result<Vec<_>, _>>()?;
        Ok(match parts.is_empty() {
            true => empty.to_owned(),
            false => format!("({})", parts.join(operator)),
        })
    }

    /// The quoted column of an attribute. A missing one is recorded.
    pub(super) fn column(&mut self, path: &Path) -> String {
        match self.columns.attribute(path) {
            Some(column) => column.quoted(self.dialect),
            None => {
                self.missing.insert(ColumnMap::key(path));
                String::new()
            }
        }
    }

    /// The placeholder of a parameter.
    fn parameter(&mut self, value: Json) -> String {
        self.parameters.push(value);
        let number = self.parameters.len();
        match self.dialect {
            SqlDialect::Postgres => format!("${number}"),
            SqlDialect::Sqlite => format!("?{number}"),
        }
    }

    /// A constant as a parameter; none if no value of a column is equal to it.
    ///
    /// # Errors
    /// The database cannot express it.
    pub(super) fn value(&mut self, value: &Value) -> Result<Option<String>, NotExpressible> {
        let is_postgres = self.dialect == SqlDialect::Postgres;
        Ok(Some(match value {
            Value::Bool(value) => self.parameter(json!(value)),
            Value::Long(number) | Value::Duration(number) => self.parameter(json!(number)),
            Value::Text(text) | Value::Entity(EntityId { id: text, .. }) => {
                // PostgreSQL has no text with this character.
                if is_postgres && text.contains('\0') {
                    return Ok(None);
                }
                self.parameter(json!(text))
            }
            Value::Datetime(millis) if is_postgres => {
                if !TIMES.contains(millis) {
                    return Err(unsupported("a time is before the year 1 or after the year 9999"));
                }
                let time = self.parameter(json!(Timestamp::from_millis(*millis).to_string()));
                format!("CAST(CAST({time} AS text) AS timestamptz)")
            }
            Value::Datetime(millis) => self.parameter(json!(millis)),
            Value::Decimal(number) if is_postgres => {
                let number = self.parameter(json!(decimal(*number)));
                format!("CAST(CAST({number} AS text) AS numeric)")
            }
            Value::Ip(address) if is_postgres => {
                let address = self.parameter(json!(address));
                format!("CAST(CAST({address} AS text) AS inet)")
            }
            Value::Decimal(_) => return Err(unsupported("SQLite has no exact decimals")),
            Value::Ip(_) => return Err(unsupported("SQLite has no IP addresses")),
            Value::Set(_) => return Err(unsupported("a set is no single value")),
        }))
    }

    /// An operand of a comparison; none if no value is equal to it.
    ///
    /// # Errors
    /// The database cannot express it.
    pub(super) fn operand(
        &mut self,
        operand: &Operand,
        other: &Operand,
    ) -> Result<Option<String>, NotExpressible> {
        match operand {
            Operand::Path(path) => {
                let is_text =
                    matches!(other, Operand::Value(Value::Text(_) | Value::Entity(_)) | Operand::Path(_));
                let column = self.column(path);
                // The collation of a column could ignore case.
                Ok(Some(match (self.dialect, is_text) {
                    (SqlDialect::Sqlite, true) => format!("{column} COLLATE BINARY"),
                    _ => column,
                }))
            }
            Operand::Value(value) => self.value(value),
        }
    }

    fn compare(&mut self, left: &Operand, op: Comparison, right: &Operand) -> Result<String, NotExpressible> {
        if let (Operand::Path(path), Operand::Value(Value::Datetime(millis))) = (left, right)
            && self.dialect == SqlDialect::Postgres
            && !COLUMN_TIMES.contains(millis)
        {
            // A bound that keeps a sum from overflowing, for example.
            let holds = match op {
                Comparison::Equal => false,
                Comparison::Less | Comparison::LessOrEqual => *millis > 0,
                Comparison::Greater | Comparison::GreaterOrEqual => *millis < 0,
            };
            return Ok(if holds { format!("{} IS NOT NULL", self.column(path)) } else { NEVER.to_owned() });
        }
        let sql = match op {
            Comparison::Equal => "=",
            other => other.as_str(),
        };
        match (self.operand(left, right)?, self.operand(right, left)?) {
            (Some(left), Some(right)) => Ok(format!("{left} {sql} {right}")),
            _ => Ok(NEVER.to_owned()),
        }
    }

    fn like(&mut self, path: &Path, pattern: &[PatternPart]) -> String {
        let column = self.column(path);
        let mut sql = String::new();
        for part in pattern {
            match (part, self.dialect) {
                (PatternPart::Any, SqlDialect::Postgres) => sql.push('%'),
                (PatternPart::Any, SqlDialect::Sqlite) => sql.push('*'),
                (PatternPart::Text(text), SqlDialect::Postgres) if text.contains('\0') => {
                    return NEVER.to_owned();
                }
                (PatternPart::Text(text), SqlDialect::Postgres) => {
                    for letter in text.chars() {
                        if matches!(letter, '%' | '_' | '\\') {
                            sql.push('\\');
                        }
                        sql.push(letter);
                    }
                }
                (PatternPart::Text(text), SqlDialect::Sqlite) => {
                    for letter in text.chars() {
                        match letter {
                            '*' | '?' | '[' => sql.extend(['[', letter, ']']),
                            other => sql.push(other),
                        }
                    }
                }
            }
        }
        let pattern = self.parameter(json!(sql));
        match self.dialect {
            SqlDialect::Postgres => format!("{column} LIKE {pattern} ESCAPE '\\'"),
            // LIKE ignores case in SQLite.
            SqlDialect::Sqlite => format!("{column} GLOB {pattern}"),
        }
    }

    fn is_in_range(&mut self, address: &Path, ranges: &[String]) -> Result<String, NotExpressible> {
        let column = self.column(address);
        let mut within = Vec::new();
        for range in ranges {
            if let Some(range) = self.value(&Value::Ip(range.clone()))? {
                within.push(format!("{column} <<= {range}"));
            }
        }
        Ok(format!("({})", within.join(" OR ")))
    }

    /// Whether the row is one of these entities, or its parent is one of them. The entities that are below them in the entity
    /// data are among them already.
    fn is_below(&mut self, ancestors: &[EntityId]) -> String {
        let mut by_type: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for ancestor in ancestors {
            by_type.entry(&ancestor.kind).or_default().push(Value::Entity(ancestor.clone()));
        }
        let mut conditions = Vec::new();
        for (kind, entities) in by_type {
            if kind == self.kind {
                let column = self.column(&Path::resource());
                conditions.push(self.one_of(&column, &entities));
            }
            if self.ancestor_types.contains(kind) {
                match self
                    .columns
                    .parent(kind)
                    .map(|column| column.map(|column| ColumnName::quoted(column, self.dialect)))
                {
                    Some(Some(column)) => conditions.push(self.one_of(&column, &entities)),
                    Some(None) => {}
                    None => {
                        self.missing.insert(ColumnMap::parent_key(kind));
                    }
                }
            }
        }
        match conditions.is_empty() {
            true => NEVER.to_owned(),
            false => format!("({})", conditions.join(" OR ")),
        }
    }

    /// Whether a column has one of these texts or entities.
    fn one_of(&mut self, column: &str, values: &[Value]) -> String {
        let parameters: Vec<String> =
            values.iter().filter_map(|value| self.value(value).ok().flatten()).collect();
        let collation = match self.dialect {
            SqlDialect::Sqlite => " COLLATE BINARY",
            SqlDialect::Postgres => "",
        };
        match parameters.is_empty() {
            true => NEVER.to_owned(),
            false => format!("{column}{collation} IN ({})", parameters.join(", ")),
        }
    }
}

pub(super) fn unsupported(reason: &str) -> NotExpressible {
    NotExpressible::Unsupported(reason.to_owned())
}

/// A decimal of ten-thousandths as text.
pub fn decimal(ten_thousandths: i64) -> String {
    let sign = if ten_thousandths < 0 { "-" } else { "" };
    let digits = ten_thousandths.unsigned_abs();
    format!("{sign}{}.{:04}", digits / 10_000, digits % 10_000)
}
