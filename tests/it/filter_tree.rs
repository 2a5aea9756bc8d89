//! Evaluates filters in memory, as a client does that has the tree. Independent of the service's own code.

use cedargate::authz::filter::{Comparison, EntityId, Filter, FilterExpr, Operand, Path, PatternPart, Value};
use serde_json::{Map, Value as Json};
use std::cmp::Ordering;
use std::net::Ipv4Addr;

/// Whether a filter contains a row with this type, id and attributes, and with this parent.
pub(crate) fn holds(
    filter: &Filter,
    (kind, id): (&str, &str),
    attributes: &Map<String, Json>,
    parent: Option<(&str, &str)>,
) -> bool {
    let row = Row { own: entity(kind, id), attributes, parent: parent.map(|(kind, id)| entity(kind, id)) };
    match filter {
        Filter::Always => true,
        Filter::Never => false,
        Filter::When(expr) => row.holds(expr),
    }
}

fn entity(kind: &str, id: &str) -> EntityId {
    EntityId { kind: kind.to_owned(), id: id.to_owned() }
}

struct Row<'a> {
    own: EntityId,
    attributes: &'a Map<String, Json>,
    parent: Option<EntityId>,
}

impl Row<'_> {
    fn holds(&self, expr: &FilterExpr) -> bool {
        let get = |path: &Path| self.get(path);
        let both = |one: &Operand, other: &Operand| self.operand(one).zip(self.operand(other));
        match expr {
            FilterExpr::And(parts) => parts.iter().all(|part| self.holds(part)),
            FilterExpr::Or(parts) => parts.iter().any(|part| self.holds(part)),
            FilterExpr::Not(inner) => !self.holds(inner),
            FilterExpr::IsTrue(path) => get(path) == Some(Value::Bool(true)),
            FilterExpr::Has(path) => path.names().is_empty() || self.json(path).is_some(),
            FilterExpr::Compare { left, op, right } => {
                both(left, right).is_some_and(|(left, right)| match op {
                    Comparison::Equal => is_equal(&left, &right),
                    Comparison::Less => order(&left, &right).is_lt(),
                    Comparison::LessOrEqual => order(&left, &right).is_le(),
                    Comparison::Greater => order(&left, &right).is_gt(),
                    Comparison::GreaterOrEqual => order(&left, &right).is_ge(),
                })
            }
            FilterExpr::Like { path, pattern } => match get(path) {
                Some(Value::Text(text)) => is_like(&text.chars().collect::<Vec<_>>(), &elements(pattern)),
                _ => false,
            },
            FilterExpr::Contains { set, element } => {
                both(set, element).is_some_and(|(set, element)| items(&set).contains(&element))
            }
            FilterExpr::ContainsAll { set, elements } => both(set, elements)
                .is_some_and(|(set, elements)| items(&elements).iter().all(|one| items(&set).contains(one))),
            FilterExpr::ContainsAny { set, elements } => both(set, elements)
                .is_some_and(|(set, elements)| items(&elements).iter().any(|one| items(&set).contains(one))),
            FilterExpr::IsEmpty(path) => get(path).is_some_and(|set| items(&set).is_empty()),
            FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
                ancestors.iter().any(|one| *one == self.own || Some(one) == self.parent.as_ref())
            }
            FilterExpr::IsInRange { address, ranges } => match get(address) {
                Some(Value::Ip(address)) => ranges.iter().any(|range| is_in_range(&address, range)),
                _ => false,
            },
            FilterExpr::In { .. } => panic!("unexpected {expr:?}"),
        }
    }

    fn operand(&self, operand: &Operand) -> Option<Value> {
        match operand {
            Operand::Path(path) => self.get(path),
            Operand::Value(value) => Some(value.clone()),
        }
    }

    fn json(&self, path: &Path) -> Option<&Json> {
        let (first, rest) = path.names().split_first()?;
        rest.iter().try_fold(self.attributes.get(first)?, |value, name| value.get(name))
    }

    fn get(&self, path: &Path) -> Option<Value> {
        if path.is_resource() {
            return Some(Value::Entity(self.own.clone()));
        }
        self.json(path).map(value)
    }
}

fn value(json: &Json) -> Value {
    match json {
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Long(number.as_i64().unwrap()),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(values) => Value::Set(values.iter().map(value).collect()),
        object if object.get("fn").is_some() => {
            let text = object["arg"].as_str().unwrap();
            match object["fn"].as_str().unwrap() {
                "datetime" => Value::Datetime(text.parse::<cedargate::types::Timestamp>().unwrap().millis()),
                "decimal" => {
                    let (whole, fraction) = text.split_once('.').unwrap();
                    Value::Decimal(format!("{whole}{fraction:0<4}").parse().unwrap())
                }
                _ => Value::Ip(text.to_owned()),
            }
        }
        object => Value::Entity(entity(object["type"].as_str().unwrap(), object["id"].as_str().unwrap())),
    }
}

fn order(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Long(left), Value::Long(right))
        | (Value::Datetime(left), Value::Datetime(right))
        | (Value::Decimal(left), Value::Decimal(right)) => left.cmp(right),
        _ => panic!("{left:?} and {right:?} have no order"),
    }
}

fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Ip(left), Value::Ip(right)) => is_in_range(left, right) && is_in_range(right, left),
        _ => left == right,
    }
}

/// Whether all addresses of an IPv4 range are in another one.
fn is_in_range(address: &str, range: &str) -> bool {
    let parse = |text: &str| {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        (address.parse::<Ipv4Addr>().unwrap().to_bits(), length.parse::<u32>().unwrap())
    };
    let ((address, length), (start, prefix)) = (parse(address), parse(range));
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or_default();
    prefix <= length && address & mask == start & mask
}

fn items(set: &Value) -> &[Value] {
    match set {
        Value::Set(values) => values,
        _ => panic!("{set:?} is no set"),
    }
}

fn elements(pattern: &[PatternPart]) -> Vec<Option<char>> {
    let parts = pattern.iter().flat_map(|part| match part {
        PatternPart::Any => vec![None],
        PatternPart::Text(text) => text.chars().map(Some).collect(),
    });
    parts.collect()
}

fn is_like(text: &[char], pattern: &[Option<char>]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((None, rest)) => (0..=text.len()).any(|start| is_like(&text[start..], rest)),
        Some((Some(letter), rest)) => text.first() == Some(letter) && is_like(&text[1..], rest),
    }
}
