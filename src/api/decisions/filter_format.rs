//! The forms of a filter: an expression tree, UCAST, and SQL.

use crate::authz::filter::{EntityId, Filter, FilterExpr, Operand, Path, PatternPart, Value};
use crate::store::table_filter::{self, ColumnMap, NotExpressible, SqlDialect, decimal};
use crate::types::Timestamp;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// A form of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Tree,
    Ucast,
    Sql(SqlDialect),
}

impl Format {
    pub(super) const ALL: [Self; 4] =
        [Self::Tree, Self::Ucast, Self::Sql(SqlDialect::Postgres), Self::Sql(SqlDialect::Sqlite)];

    /// Its media type.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Tree => "application/json",
            Self::Ucast => "application/vnd.cedargate.ucast+json",
            Self::Sql(SqlDialect::Postgres) => "application/vnd.cedargate.sql.postgresql+json",
            Self::Sql(SqlDialect::Sqlite) => "application/vnd.cedargate.sql.sqlite+json",
        }
    }

    /// The form that a range of an `Accept` header names.
    pub(super) fn accepted_by(range: &str) -> Option<Self> {
        match range {
            "*/*" | "application/*" => Some(Self::Tree),
            _ => Self::ALL.into_iter().find(|format| range.eq_ignore_ascii_case(format.media_type())),
        }
    }
}

/// The inputs of the forms, in addition to the filter.
pub(super) struct Rendered<'a> {
    pub(super) columns: &'a ColumnMap,
    /// The type of the resources.
    pub(super) kind: &'a str,
    /// The types that their ancestors can have.
    pub(super) ancestor_types: &'a BTreeSet<String>,
}

impl Rendered<'_> {
    /// The condition of a filter; none if its kind says all.
    ///
    /// # Errors
    /// The form has no such condition, or a column is missing.
    pub(super) fn render(&self, filter: &Filter, format: Format) -> Result<Option<Json>, NotExpressible> {
        let Self { columns, kind, ancestor_types } = *self;
        match (format, filter) {
            (Format::Sql(dialect), _) => {
                let condition = table_filter::render(filter, dialect, columns, kind, ancestor_types)?;
                let dialect = match dialect {
                    SqlDialect::Postgres => "postgresql",
                    SqlDialect::Sqlite => "sqlite",
                };
                Ok(Some(
                    json!({ "dialect": dialect, "sql": condition.sql, "parameters": condition.parameters }),
                ))
            }
            (_, Filter::Always | Filter::Never) => Ok(None),
            (Format::Tree, Filter::When(expr)) => Ok(Some(tree(expr))),
            (Format::Ucast, Filter::When(expr)) => {
                table_filter::ucast(expr, columns, kind, ancestor_types).map(Some)
            }
        }
    }
}

/// An expression as JSON.
fn tree(expr: &FilterExpr) -> Json {
    let parts = |parts: &[FilterExpr]| parts.iter().map(tree).collect::<Vec<_>>();
    match expr {
        FilterExpr::And(all) => json!({ "type": "and", "conditions": parts(all) }),
        FilterExpr::Or(any) => json!({ "type": "or", "conditions": parts(any) }),
        FilterExpr::Not(inner) => json!({ "type": "not", "condition": tree(inner) }),
        FilterExpr::IsTrue(path) => json!({ "type": "isTrue", "path": path.names() }),
        FilterExpr::Has(path) => json!({ "type": "has", "path": path.names() }),
        FilterExpr::Compare { left, op, right } => {
            json!({ "type": "compare", "left": operand(left), "operator": op.as_str(), "right": operand(right) })
        }
        FilterExpr::Like { path, pattern } => {
            json!({ "type": "like", "path": path.names(), "pattern": pattern.iter().map(pattern_part).collect::<Vec<_>>() })
        }
        FilterExpr::Contains { set, element } => {
            json!({ "type": "contains", "set": operand(set), "element": operand(element) })
        }
        FilterExpr::ContainsAll { set, elements } => {
            json!({ "type": "containsAll", "set": operand(set), "elements": operand(elements) })
        }
        FilterExpr::ContainsAny { set, elements } => {
            json!({ "type": "containsAny", "set": operand(set), "elements": operand(elements) })
        }
        FilterExpr::IsEmpty(path) => json!({ "type": "isEmpty", "path": path.names() }),
        FilterExpr::In { entity, ancestors } => {
            json!({ "type": "in", "entity": operand(entity), "entities": ancestors.iter().map(entity_json).collect::<Vec<_>>() })
        }
        FilterExpr::IsInRange { address, ranges } => {
            json!({ "type": "isInRange", "path": address.names(), "ranges": ranges })
        }
    }
}

fn pattern_part(part: &PatternPart) -> Json {
    match part {
        PatternPart::Text(text) => json!({ "text": text }),
        PatternPart::Any => json!({ "any": true }),
    }
}

fn operand(operand: &Operand) -> Json {
    match operand {
        Operand::Path(path) => json!({ "path": Path::names(path) }),
        Operand::Value(value) => json!({ "value": value_json(value) }),
    }
}

fn entity_json(entity: &EntityId) -> Json {
    json!({ "type": entity.kind, "id": entity.id })
}

/// A constant, with the name of its type where JSON has no such values.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Long(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Datetime(millis) if !table_filter::TIMES.contains(millis) => {
            json!({ "millisecondsSince1970": millis })
        }
        Value::Datetime(millis) => json!({ "datetime": Timestamp::from_millis(*millis).to_string() }),
        Value::Duration(millis) => json!({ "milliseconds": millis }),
        Value::Decimal(number) => json!({ "decimal": decimal(*number) }),
        Value::Ip(address) => json!({ "ip": address }),
        Value::Entity(entity) => entity_json(entity),
        Value::Set(values) => values.iter().map(value_json).collect(),
    }
}
