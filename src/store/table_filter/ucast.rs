//! Filters as conditions of UCAST (`@ucast/core`), with the operators that its interpreters have.
//!
//! Interpreters disagree about absent fields: in memory an absent field is less than every value, in SQL a comparison with null
//! is null. Each test of a field therefore stands beside a test that the field exists, so that it is true or false.

use super::render::{TIMES, check_size};
use super::{ColumnMap, NotExpressible};
use crate::authz::filter::{Comparison, EntityId, FilterExpr, Operand, Path, PatternPart, Value};
use crate::types::Timestamp;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// The largest number up to which the interpreters, in JavaScript, have every integer: 2^53 - 1.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Returns the conditions of an expression. The parameters are those of [`render`](fn@super::render).
///
/// # Errors
///
/// UCAST has no such condition, the field of a parent is missing, or the condition has too many parts.
pub fn ucast(
    expr: &FilterExpr,
    columns: &ColumnMap,
    kind: &str,
    ancestor_types: &BTreeSet<String>,
) -> Result<Json, NotExpressible> {
    check_size(expr)?;
    Ucast { columns, kind, ancestor_types }.condition(expr)
}

/// Writes conditions of UCAST.
struct Ucast<'a> {
    columns: &'a ColumnMap,
    kind: &'a str,
    ancestor_types: &'a BTreeSet<String>,
}

impl Ucast<'_> {
    fn condition(&self, expr: &FilterExpr) -> Result<Json, NotExpressible> {
        Ok(match expr {
            FilterExpr::And(parts) => compound("and", self.all(parts)?),
            FilterExpr::Or(parts) => compound("or", self.all(parts)?),
            FilterExpr::Not(inner) => compound("not", vec![self.condition(inner)?]),
            FilterExpr::IsTrue(path) => self.test(path, "eq", json!(true)),
            FilterExpr::Has(path) => exists(&self.name(path)),
            FilterExpr::IsEmpty(path) => self.test(path, "size", json!(0)),
            FilterExpr::Like { path, pattern } => {
                self.test(path, "regex", json!(regular_expression(pattern)))
            }
            FilterExpr::Compare { left: Operand::Path(path), op, right: Operand::Value(value) } => {
                match value {
                    Value::Datetime(millis) if !TIMES.contains(millis) => {
                        self.compare_beyond(path, *op, *millis)
                    }
                    value => self.test(path, operator(*op), scalar(value)?),
                }
            }
            FilterExpr::Contains {
                set: Operand::Value(Value::Set(values)),
                element: Operand::Path(path),
            } => self.test(path, "in", scalars(values)?),
            FilterExpr::Contains { set: Operand::Path(path), element: Operand::Value(value) } => {
                self.test(path, "all", json!([scalar(value)?]))
            }
            FilterExpr::ContainsAll {
                set: Operand::Path(path),
                elements: Operand::Value(Value::Set(values)),
            } => self.test(path, "all", scalars(values)?),
            FilterExpr::ContainsAny {
                set: Operand::Path(path),
                elements: Operand::Value(Value::Set(values)),
            }
            | FilterExpr::ContainsAny {
                set: Operand::Value(Value::Set(values)),
                elements: Operand::Path(path),
            } => {
                let each = values.iter().map(|value| Ok(self.test(path, "all", json!([scalar(value)?]))));
                compound("or", each.collect::<Result<_, NotExpressible>>()?)
            }
            FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
                self.is_below(ancestors)?
            }
            FilterExpr::Compare { .. }
            | FilterExpr::Contains { .. }
            | FilterExpr::ContainsAll { .. }
            | FilterExpr::ContainsAny { .. }
            | FilterExpr::In { .. }
            | FilterExpr::IsInRange { .. } => return Err(unsupported("such condition")),
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

    fn test(&self, path: &Path, operator: &str, value: Json) -> Json {
        let name = self.name(path);
        match path.is_resource() {
            true => field(&name, operator, value),
            false => present(&name, operator, value),
        }
    }

    /// Compares a time with a bound that no field has, such as one that keeps a sum from overflowing.
    fn compare_beyond(&self, path: &Path, op: Comparison, millis: i64) -> Json {
        let is_less = matches!(op, Comparison::Less | Comparison::LessOrEqual);
        match op != Comparison::Equal && is_less == (millis > 0) {
            true => exists(&self.name(path)),
            false => compound("or", Vec::new()),
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
                conditions.push(self.test(&Path::resource(), "in", json!(ids)));
            }
            if self.ancestor_types.contains(kind) {
                match self.columns.parent_name(kind) {
                    Some(Some(name)) => conditions.push(present(&name, "in", json!(ids))),
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

/// The condition that a field exists and passes a test.
fn present(name: &str, operator: &str, value: Json) -> Json {
    compound("and", vec![exists(name), field(name, operator, value)])
}

fn exists(name: &str) -> Json {
    field(name, "exists", json!(true))
}

fn unsupported(what: &str) -> NotExpressible {
    NotExpressible::Unsupported(format!("UCAST has no {what}"))
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

/// A constant: an entity is its id, since the field of an attribute has entities of one type.
///
/// # Errors
/// Interpreters would compare the value differently from Cedar.
fn scalar(value: &Value) -> Result<Json, NotExpressible> {
    Ok(match value {
        Value::Bool(value) => json!(value),
        Value::Long(number) | Value::Duration(number) if number.unsigned_abs() <= MAX_INTEGER => {
            json!(number)
        }
        Value::Long(_) | Value::Duration(_) => return Err(unsupported("integers beyond 53 bits")),
        Value::Text(text) | Value::Entity(EntityId { id: text, .. }) => json!(text),
        Value::Datetime(millis) if !TIMES.contains(millis) => {
            return Err(unsupported("times before the year 1 or after the year 9999"));
        }
        Value::Datetime(millis) => json!(Timestamp::from_millis(*millis).to_string()),
        Value::Decimal(_) => return Err(unsupported("decimals")),
        Value::Ip(_) => return Err(unsupported("IP addresses")),
        Value::Set(_) => return Err(unsupported("equality of sets")),
    })
}

fn scalars(values: &[Value]) -> Result<Json, NotExpressible> {
    values.iter().map(scalar).collect()
}
