//! Resources of external domains that the entity data have: their stored attributes take precedence over those of the row.

use super::pattern::matches;
use super::translation::truth_value;
use super::tree::{EntityId, FilterExpr, Operand, Path, Value};
use cedar_policy::{Entity, EvalResult};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An entity of the data.
#[derive(Debug)]
pub(super) struct StoredEntity {
    id: EntityId,
    attributes: BTreeMap<String, StoredValue>,
    ancestors: BTreeSet<EntityId>,
}

#[derive(Debug)]
enum StoredValue {
    Value(Value),
    Record(BTreeMap<String, StoredValue>),
    /// A value that a filter cannot state.
    Opaque,
}

/// What the data say about a path.
enum Lookup {
    /// The attribute is not stored: the row has it.
    Row,
    Absent,
    Value(Value),
    Record,
    Opaque,
}

impl StoredEntity {
    pub(super) fn new(entity: &Entity, ancestors: BTreeSet<EntityId>) -> Self {
        let uid = entity.uid();
        let id = EntityId { kind: uid.type_name().to_string(), id: uid.id().unescaped().to_owned() };
        let attributes = entity
            .attrs()
            .map(|(name, value)| (name.to_owned(), value.map_or(StoredValue::Opaque, StoredValue::from)));
        Self { id, attributes: attributes.collect(), ancestors }
    }

    pub(super) fn id(&self) -> &EntityId {
        &self.id
    }

    /// The expression for this resource: what the data determine is constant.
    ///
    /// # Errors
    /// The path of a stored value that a filter cannot state.
    pub(super) fn specialize(&self, expr: &FilterExpr) -> Result<FilterExpr, Path> {
        let all = |parts: &[FilterExpr]| {
            parts.iter().map(|part| self.specialize(part)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match expr {
            FilterExpr::And(parts) => FilterExpr::and(all(parts)?),
            FilterExpr::Or(parts) => FilterExpr::or(all(parts)?),
            FilterExpr::Not(inner) => FilterExpr::not(self.specialize(inner)?),
            FilterExpr::Has(path) => match self.lookup(path) {
                Lookup::Row => expr.clone(),
                Lookup::Absent => FilterExpr::never(),
                Lookup::Value(_) | Lookup::Record | Lookup::Opaque => FilterExpr::always(),
            },
            FilterExpr::IsTrue(path) => self.test(expr, path, |value| *value == Value::Bool(true))?,
            FilterExpr::IsEmpty(path) => self.test(expr, path, |value| *value == Value::Set(Vec::new()))?,
            FilterExpr::Like { path, pattern } => {
                self.test(expr, path, |value| matches!(value, Value::Text(text) if matches(pattern, text)))?
            }
            FilterExpr::IsInRange { address, ranges } => self.test(
                expr,
                address,
                |value| matches!(value, Value::Ip(address) if is_in_ranges(address, ranges)),
            )?,
            FilterExpr::In { entity, ancestors } => match entity {
                Operand::Path(path) if path.is_resource() => {
                    let is_one =
                        |ancestor: &EntityId| *ancestor == self.id || self.ancestors.contains(ancestor);
                    truth_value(ancestors.iter().any(is_one))
                }
                Operand::Path(path) => return Err(path.clone()),
                Operand::Value(_) => expr.clone(),
            },
            FilterExpr::Compare { left, op, right } => self.pair((left, right), |left, right| {
                let known = match (&left, &right) {
                    (Operand::Value(left), Operand::Value(right)) => Some(op.holds(left.cmp(right))),
                    _ => None,
                };
                known.map_or(FilterExpr::Compare { left, op: *op, right }, truth_value)
            })?,
            FilterExpr::Contains { set, element } => {
                self.pair((set, element), |set, element| match (&set, &element) {
                    (Operand::Value(Value::Set(values)), Operand::Value(value)) => {
                        truth_value(values.contains(value))
                    }
                    _ => FilterExpr::Contains { set, element },
                })?
            }
            FilterExpr::ContainsAll { set, elements } => {
                self.pair((set, elements), |set, elements| match (&set, &elements) {
                    (Operand::Value(Value::Set(set)), Operand::Value(Value::Set(elements))) => {
                        truth_value(elements.iter().all(|value| set.contains(value)))
                    }
                    _ => FilterExpr::ContainsAll { set, elements },
                })?
            }
            FilterExpr::ContainsAny { set, elements } => {
                self.pair((set, elements), |set, elements| match (&set, &elements) {
                    (Operand::Value(Value::Set(set)), Operand::Value(Value::Set(elements))) => {
                        truth_value(elements.iter().any(|value| set.contains(value)))
                    }
                    _ => FilterExpr::ContainsAny { set, elements },
                })?
            }
        })
    }

    fn lookup(&self, path: &Path) -> Lookup {
        let Some((first, rest)) = path.names().split_first() else {
            return Lookup::Value(Value::Entity(self.id.clone()));
        };
        let Some(mut value) = self.attributes.get(first) else { return Lookup::Row };
        for name in rest {
            match value {
                StoredValue::Record(fields) => match fields.get(name) {
                    Some(field) => value = field,
                    None => return Lookup::Absent,
                },
                StoredValue::Value(_) | StoredValue::Opaque => return Lookup::Opaque,
            }
        }
        match value {
            StoredValue::Value(value) => Lookup::Value(value.clone()),
            StoredValue::Record(_) => Lookup::Record,
            StoredValue::Opaque => Lookup::Opaque,
        }
    }

    /// The result of a test of one value.
    fn test(
        &self,
        expr: &FilterExpr,
        path: &Path,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<FilterExpr, Path> {
        match self.lookup(path) {
            Lookup::Row => Ok(expr.clone()),
            Lookup::Absent => Ok(FilterExpr::never()),
            Lookup::Value(value) => Ok(truth_value(holds(&value))),
            Lookup::Record | Lookup::Opaque => Err(path.clone()),
        }
    }

    /// A test of two operands, of which those are values that the data determine.
    fn pair(
        &self,
        (one, other): (&Operand, &Operand),
        test: impl Fn(Operand, Operand) -> FilterExpr,
    ) -> Result<FilterExpr, Path> {
        let resolve = |operand: &Operand| match operand {
            Operand::Value(_) => Ok(Some(operand.clone())),
            Operand::Path(path) => match self.lookup(path) {
                Lookup::Row => Ok(Some(operand.clone())),
                Lookup::Absent => Ok(None),
                Lookup::Value(value) => Ok(Some(Operand::Value(value))),
                Lookup::Record | Lookup::Opaque => Err(path.clone()),
            },
        };
        Ok(match (resolve(one)?, resolve(other)?) {
            (Some(one), Some(other)) => test(one, other),
            _ => FilterExpr::never(),
        })
    }
}

impl From<EvalResult> for StoredValue {
    fn from(result: EvalResult) -> Self {
        let value = match result {
            EvalResult::Bool(value) => Value::Bool(value),
            EvalResult::Long(value) => Value::Long(value),
            EvalResult::String(text) => Value::Text(text),
            EvalResult::EntityUid(uid) => Value::Entity(EntityId {
                kind: uid.type_name().to_string(),
                id: uid.id().unescaped().to_owned(),
            }),
            EvalResult::Set(elements) => {
                let elements = elements.iter().map(|element| match Self::from(element.clone()) {
                    Self::Value(value) => Some(value),
                    Self::Record(_) | Self::Opaque => None,
                });
                match elements.collect::<Option<Vec<Value>>>() {
                    Some(elements) => Value::set(elements),
                    None => return Self::Opaque,
                }
            }
            EvalResult::Record(record) => {
                let fields = record.iter().map(|(name, value)| (name.to_owned(), Self::from(value.clone())));
                return Self::Record(fields.collect());
            }
            _ => return Self::Opaque,
        };
        Self::Value(value)
    }
}

/// Whether an address or range, as Cedar writes it, is in one of these ranges.
fn is_in_ranges(address: &str, ranges: &[String]) -> bool {
    let parse =
        |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(address) = parse(address) else { return false };
    ranges.iter().filter_map(|range| parse(range)).any(|range| range.contains(&address))
}
