//! Filters as conditions of UCAST (`@ucast/core`), with the operators that its interpreters have.

use crate::authz::filter::{Comparison, EntityId, FilterExpr, Operand, Path, PatternPart, Value};
use crate::store::table_filter::{ColumnMap, NotExpressible, decimal};
use crate::types::Timestamp;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Writes conditions of UCAST.
pub(super) struct Ucast<'a> {
    pub(super) columns: &'a ColumnMap,
    /// The type of the resources.
    pub(super) kind: &'a str,
    /// The types that their ancestors can have.
    pub(super) ancestor_types: &'a BTreeSet<String>,
}

impl Ucast<'_> {
    /// The condition of an expression.
    ///
    /// # Errors
    /// UCAST has no such condition, or the field of a parent is missing.
    pub(super) fn condition(&self, expr: &FilterExpr) -> Result<Json, NotExpressible> {
        Ok(match expr {
            FilterExpr::And(parts) => compound("and", self.all(parts)?),
            FilterExpr::Or(parts) => compound("or", self.all(parts)?),
            FilterExpr::Not(inner) => compound("not", vec![self.condition(inner)?]),
            FilterExpr::IsTrue(path) => self.field(path, "eq", json!(true)),
            FilterExpr::Has(path) => self.field(path, "exists", json!(true)),
            FilterExpr::IsEmpty(path) => self.field(path, "size", json!(0)),
            FilterExpr::Like { path, pattern } => {
                self.field(path, "regex", json!(regular_expression(pattern)))
            }
            FilterExpr::Compare { left: Operand::Path(path), op, right } => {
                self.field(path, operator(*op), self.operand(right))
            }
            FilterExpr::Contains {
                set: Operand::Value(Value::Set(values)),
                element: Operand::Path(path),
            } => self.field(path, "in", values.iter().map(value_json).collect()),
            FilterExpr::Contains { set: Operand::Path(path), element: Operand::Value(value) } => {
                self.field(path, "all", json!([value_json(value)]))
            }
            FilterExpr::ContainsAll {
                set: Operand::Path(path),
                elements: Operand::Value(Value::Set(values)),
            } => self.field(path, "all", values.iter().map(value_json).collect()),
            FilterExpr::ContainsAny {
                set: Operand::Path(path),
                elements: Operand::Value(Value::Set(values)),
            }
            | FilterExpr::ContainsAny {
                set: Operand::Value(Value::Set(values)),
                elements: Operand::Path(path),
            } => {
                let each = values.iter().map(|value| self.field(path, "all", json!([value_json(value)])));
                compound("or", each.collect())
            }
            FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
                self.is_below(ancestors)?
            }
            FilterExpr::Compare { .. }
            | FilterExpr::Contains { .. }
            | FilterExpr::ContainsAll { .. }
            | FilterExpr::ContainsAny { .. }
            | FilterExpr::In { .. }
            | FilterExpr::IsInRange { .. } => {
                return Err(NotExpressible::Unsupported("UCAST has no such condition".to_owned()));
            }
        })
    }

    fn all(&self, parts: &[FilterExpr]) -> Result<Vec<Json>, NotExpressible> {
        parts.iter().map(|part| self.condition(part)).collect()
    }

    fn name(&self, path: &Path) -> String {
        self.columns.attribute_name(path).unwrap_or_else(|| match path.is_resource() {
            true => "id".to_owned(),
            false => path.to_string(),
        })
    }

    fn field(&self, path: &Path, operator: &str, value: Json) -> Json {
        field(&self.name(path), operator, value)
    }

    fn operand(&self, operand: &Operand) -> Json {
        match operand {
            Operand::Path(path) => json!({ "field": self.name(path) }),
            Operand::Value(value) => value_json(value),
        }
    }

    fn is_below(&self, ancestors: &[EntityId]) -> Result<Json, NotExpressible> {
        let mut by_type: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ancestor in ancestors {
            by_type.entry(&ancestor.kind).or_default().push(&ancestor.id);
        }
        let mut conditions = Vec::new();
        for (kind, ids) in by_type {
            if kind == self.kind {
                conditions.push(self.field(&Path::resource(), "in", json!(ids)));
            }
            if self.ancestor_types.contains(kind) {
                match self.columns.parent_name(kind) {
                    Some(Some(name)) => conditions.push(field(&name, "in", json!(ids))),
                    Some(None) => {}
                    None => {
                        return Err(NotExpressible::MissingColumns(BTreeSet::from([ColumnMap::parent_key(
                            kind,
                        )])));
                    }
                }
            }
        }
        Ok(compound("or", conditions))
    }
}

fn compound(operator: &str, value: Vec<Json>) -> Json {
    json!({ "type": "compound", "operator": operator, "value": value })
}

fn field(name: &str, operator: &str, value: Json) -> Json {
    json!({ "type": "field", "operator": operator, "field": name, "value": value })
}

const fn operator(op: Comparison) -> &'static str {
    match op {
        Comparison::Equal => "eq",
        Comparison::Less => "lt",
        Comparison::LessOrEqual => "lte",
        Comparison::Greater => "gt",
        Comparison::GreaterOrEqual => "gte",
    }
}

/// A pattern as a regular expression of JavaScript for the whole text.
fn regular_expression(pattern: &[PatternPart]) -> String {
    let mut expression = String::from("^");
    for part in pattern {
        match part {
            PatternPart::Any => expression.push_str("[\\s\\S]*"),
            PatternPart::Text(text) => {
                for letter in text.chars() {
                    if "\\^$.*+?()[]{}|/-".contains(letter) {
                        expression.push('\\');
                    }
                    expression.push(letter);
                }
            }
        }
    }
    expression.push('$');
    expression
}

/// A constant: entities are their ids, since the field of an attribute has entities of one type.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Long(number) | Value::Duration(number) => json!(number),
        Value::Text(text) | Value::Ip(text) | Value::Entity(EntityId { id: text, .. }) => json!(text),
        Value::Datetime(millis) => json!(Timestamp::from_millis(*millis).to_string()),
        Value::Decimal(number) => json!(decimal(*number)),
        Value::Set(values) => values.iter().map(value_json).collect(),
    }
}
