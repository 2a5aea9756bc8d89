//! Constants of residual policies.

use super::tree::{EntityId, Value};
use cedar_policy::pst::{BinaryOp, EntityUID, Expr, Literal, UnaryOp};

/// The constant that an expression is; none if it is no constant, or one that a filter has no value for, such as a record.
///
/// Partial evaluation has computed what is constant, so that only literals and the constructors of extension values remain.
pub(super) fn constant(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(literal) => literal_value(literal),
        Expr::Set(elements) => {
            let elements: Option<Vec<Value>> = elements.iter().map(|element| constant(element)).collect();
            Some(Value::set(elements?))
        }
        Expr::UnaryOp { op, expr } => {
            let Expr::Literal(Literal::String(text)) = &**expr else { return None };
            match op {
                UnaryOp::Datetime => parse_datetime(text).map(Value::Datetime),
                UnaryOp::Duration => parse_duration(text).map(Value::Duration),
                UnaryOp::Decimal => parse_decimal(text).map(Value::Decimal),
                UnaryOp::Ip => Some(Value::Ip(text.to_string())),
                _ => None,
            }
        }
        // Cedar writes a datetime as an offset from 1970-01-01.
        Expr::BinaryOp { op: BinaryOp::Offset, left, right } => match (constant(left)?, constant(right)?) {
            (Value::Datetime(time), Value::Duration(duration)) => {
                time.checked_add(duration).map(Value::Datetime)
            }
            _ => None,
        },
        _ => None,
    }
}

fn literal_value(literal: &Literal) -> Option<Value> {
    Some(match literal {
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Long(value) => Value::Long(*value),
        Literal::String(text) => Value::Text(text.to_string()),
        Literal::EntityUID(uid) => Value::Entity(entity_id(uid)),
        _ => return None,
    })
}

/// The type and id of an entity literal.
pub(super) fn entity_id(uid: &EntityUID) -> EntityId {
    EntityId { kind: uid.ty.to_string(), id: uid.eid.to_string() }
}

/// The milliseconds of a datetime. Cedar writes constants as offsets from the first of January 1970 only.
fn parse_datetime(text: &str) -> Option<i64> {
    (text == "1970-01-01").then_some(0)
}

/// The milliseconds of a duration as Cedar writes it: `-1500ms`.
fn parse_duration(text: &str) -> Option<i64> {
    text.strip_suffix("ms")?.parse().ok()
}

/// The ten-thousandths of a decimal, such as `-1.5`.
fn parse_decimal(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.')?;
    let is_negative = whole.starts_with('-');
    let digits = format!("{fraction:0<4}");
    let fraction: i64 = digits.parse().ok().filter(|_| digits.len() == 4)?;
    let whole: i64 = whole.parse().ok()?;
    let scaled = whole.checked_mul(10_000)?;
    if is_negative { scaled.checked_sub(fraction) } else { scaled.checked_add(fraction) }
}

impl Value {
    /// A set of these values, each once.
    pub(super) fn set(mut elements: Vec<Self>) -> Self {
        elements.sort();
        elements.dedup();
        Self::Set(elements)
    }
}
