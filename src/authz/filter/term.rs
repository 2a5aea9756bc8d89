//! The operands of comparisons in residual policies.

use super::constant::{constant, entity_id};
use super::translator::{Refusal, Translator};
use super::tree::{Comparison, EntityId, FilterExpr, Operand, Path, Value};
use super::truth::{Truth, is_present};
use crate::authz::schema_type::SchemaType;
use cedar_policy::pst::{BinaryOp, Expr, Literal, Var};
use std::cmp::Ordering;
use std::sync::Arc;

/// A value of an expression that is not a condition.
#[derive(Debug, Clone)]
pub(super) enum Term {
    /// A constant.
    Constant(Value),
    /// An attribute of the resource, or the resource.
    Path(Path),
    /// A number attribute of the resource plus a constant. Its evaluation fails if the sum overflows.
    Sum(Number, i64),
    /// A set whose elements are not all constant.
    Elements(Vec<Arc<Expr>>),
    /// Its evaluation always fails.
    Error,
}

/// An attribute with a number: a long, or a datetime or duration in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Number {
    path: Path,
    /// A constant of its type.
    value: fn(i64) -> Value,
}

impl Number {
    /// Whether it is present and compares so to a number that may be out of range.
    fn compare(&self, op: Comparison, number: i128) -> FilterExpr {
        let holds = match i64::try_from(number) {
            Ok(i64::MIN) => (op == Comparison::GreaterOrEqual).then_some(true),
            Ok(i64::MAX) => (op == Comparison::LessOrEqual).then_some(true),
            Ok(_) => None,
            Err(_) => Some(op.holds(0.cmp(&number))),
        };
        match (holds, i64::try_from(number)) {
            (Some(false), _) => FilterExpr::never(),
            (Some(true), _) | (None, Err(_)) => is_present(&self.path),
            (None, Ok(number)) => FilterExpr::Compare {
                left: Operand::Path(self.path.clone()),
                op,
                right: Operand::Value((self.value)(number)),
            },
        }
    }
}

impl Term {
    /// Where its evaluation does not fail. The elements of a set have conditions of their own.
    pub(super) fn defined(&self) -> FilterExpr {
        match self {
            Self::Constant(_) | Self::Elements(_) => FilterExpr::always(),
            Self::Path(path) => is_present(path),
            Self::Sum(number, addend) => {
                let addend = i128::from(*addend);
                FilterExpr::and([
                    number.compare(Comparison::GreaterOrEqual, i128::from(i64::MIN) - addend),
                    number.compare(Comparison::LessOrEqual, i128::from(i64::MAX) - addend),
                ])
            }
            Self::Error => FilterExpr::never(),
        }
    }

    pub(super) fn operand(&self) -> Option<Operand> {
        match self {
            Self::Constant(value) => Some(Operand::Value(value.clone())),
            Self::Path(path) => Some(Operand::Path(path.clone())),
            Self::Sum(..) | Self::Elements(_) | Self::Error => None,
        }
    }
}

impl Translator<'_> {
    /// The value of an expression.
    ///
    /// # Errors
    /// It cannot be translated.
    pub(super) fn term(&self, expr: &Expr) -> Result<Term, Refusal> {
        if let Expr::Literal(Literal::EntityUID(uid)) = expr
            && self.is_row(&entity_id(uid))
        {
            return Ok(Term::Path(Path::resource()));
        }
        if let Some(value) = constant(expr) {
            return Ok(Term::Constant(value));
        }
        match expr {
            Expr::Var(Var::Resource) => Ok(Term::Path(Path::resource())),
            Expr::Set(elements) => Ok(Term::Elements(elements.clone())),
            Expr::GetAttr { expr: of, attr } => self.attribute(expr, of, attr),
            Expr::BinaryOp {
                op: op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Offset | BinaryOp::DurationSince),
                left,
                right,
            } => self.sum(expr, *op, (left, right)),
            Expr::ResidualError => Ok(Term::Error),
            _ => Err(Refusal::new(expr, "a filter has no such value")),
        }
    }

    fn attribute(&self, expr: &Expr, of: &Expr, name: &str) -> Result<Term, Refusal> {
        match self.term(of)? {
            Term::Path(path) => {
                if !path.is_resource() && !matches!(self.path_type(&path), Some(SchemaType::Record(_))) {
                    return Err(Refusal::new(
                        expr,
                        "it is an attribute of another entity, which is not in the row",
                    ));
                }
                Ok(Term::Path(path.child(name)))
            }
            // Partial evaluation knows the attributes of all entities that an ordinary decision has.
            Term::Constant(Value::Entity(entity)) => match self.may_be_row(&entity) {
                true => Err(Refusal::new(expr, "the entity may be the resource itself")),
                false => Ok(Term::Error),
            },
            Term::Error => Ok(Term::Error),
            Term::Constant(_) | Term::Sum(..) | Term::Elements(_) => {
                Err(Refusal::new(expr, "a filter has no such value"))
            }
        }
    }

    fn sum(&self, expr: &Expr, op: BinaryOp, (left, right): (&Expr, &Expr)) -> Result<Term, Refusal> {
        let (left, right) = (self.term(left)?, self.term(right)?);
        let (path, addend, is_negative) = match (left, right, op) {
            (Term::Error, _, _) | (_, Term::Error, _) => return Ok(Term::Error),
            (Term::Path(path), Term::Constant(value), BinaryOp::Sub | BinaryOp::DurationSince) => {
                (path, value, true)
            }
            (Term::Path(path), Term::Constant(value), _) => (path, value, false),
            (Term::Constant(value), Term::Path(path), BinaryOp::Add) => (path, value, false),
            _ => {
                return Err(Refusal::new(
                    expr,
                    "only an attribute plus or minus a constant can be translated",
                ));
            }
        };
        let addend =
            number(&addend).map(|addend| if is_negative { addend.checked_neg() } else { Some(addend) });
        match addend.flatten() {
            Some(addend) => Ok(Term::Sum(self.number(path), addend)),
            None => Err(Refusal::new(expr, "only an attribute plus or minus a constant can be translated")),
        }
    }

    fn number(&self, path: Path) -> Number {
        let value = match self.path_type(&path) {
            Some(SchemaType::Extension(name)) if name == "datetime" => Value::Datetime,
            Some(SchemaType::Extension(name)) if name == "duration" => Value::Duration,
            _ => Value::Long,
        };
        Number { path, value }
    }

    /// The declared type of an attribute of the resource.
    pub(super) fn path_type(&self, path: &Path) -> Option<&SchemaType> {
        path.names().iter().try_fold(self.resource_type?, |kind, name| match kind {
            SchemaType::Record(fields) => fields.get(name).map(|(kind, _)| kind),
            _ => None,
        })
    }

    /// A comparison of two values.
    ///
    /// # Errors
    /// It cannot be translated.
    pub(super) fn compare(
        &self,
        expr: &Expr,
        op: Comparison,
        (left, right): (&Expr, &Expr),
    ) -> Result<Truth, Refusal> {
        self.compare_terms(expr, op, (self.term(left)?, self.term(right)?))
    }

    /// Compares two terms.
    ///
    /// # Errors
    /// The expression is not translatable.
    pub(super) fn compare_terms(
        &self,
        expr: &Expr,
        op: Comparison,
        (left, right): (Term, Term),
    ) -> Result<Truth, Refusal> {
        let defined = FilterExpr::and([left.defined(), right.defined()]);
        let (left, op, right) = match (&left, &right) {
            (Term::Constant(_), Term::Path(_) | Term::Sum(..)) => (right, op.flipped(), left),
            _ => (left, op, right),
        };
        let yes = match (&left, &right) {
            (Term::Error, _) | (_, Term::Error) => return Ok(Truth::error()),
            (Term::Sum(path, addend), Term::Constant(value)) => {
                let Some(value) = number(value) else {
                    return Err(Refusal::new(expr, "a filter has no such value"));
                };
                path.compare(op, i128::from(value) - i128::from(*addend))
            }
            (Term::Sum(..), _) | (_, Term::Sum(..)) => {
                return Err(Refusal::new(expr, "a sum can be compared with a constant only"));
            }
            (Term::Elements(_), _) | (_, Term::Elements(_)) => {
                return Err(Refusal::new(expr, "a set whose elements are not constant cannot be compared"));
            }
            (Term::Constant(left), Term::Constant(right)) => {
                return Ok(Truth::constant(op.holds(left.cmp(right))));
            }
            (Term::Path(one), Term::Path(other)) if one == other => {
                let holds = op.holds(Ordering::Equal);
                return Ok(Truth::new(
                    if holds { FilterExpr::always() } else { FilterExpr::never() },
                    defined,
                ));
            }
            _ => self.compare_operands(expr, op, (&left, &right))?,
        };
        Ok(Truth::new(yes, defined))
    }

    fn compare_operands(
        &self,
        expr: &Expr,
        op: Comparison,
        (left, right): (&Term, &Term),
    ) -> Result<FilterExpr, Refusal> {
        let types: Vec<&SchemaType> = [left, right]
            .into_iter()
            .filter_map(|term| match term {
                Term::Path(path) => self.path_type(path),
                _ => None,
            })
            .collect();
        let (Some(left), Some(right)) = (left.operand(), right.operand()) else {
            return Err(Refusal::new(expr, "a filter has no such value"));
        };
        if types.iter().any(|kind| matches!(kind, SchemaType::Set(_))) {
            return Ok(FilterExpr::and([
                FilterExpr::ContainsAll { set: left.clone(), elements: right.clone() },
                FilterExpr::ContainsAll { set: right, elements: left },
            ]));
        }
        let is_record = |kind: &&SchemaType| matches!(kind, SchemaType::Record(_) | SchemaType::Other);
        // The resource itself has the type of its attributes here.
        let compares_resource =
            [&left, &right].into_iter().any(|operand| operand.path().is_some_and(Path::is_resource));
        if types.iter().any(is_record) && !compares_resource {
            return Err(Refusal::new(expr, "records cannot be compared"));
        }
        Ok(FilterExpr::Compare { left, op, right })
    }

    /// Whether an entity is the resource.
    fn is_row(&self, entity: &EntityId) -> bool {
        self.is_principal && *entity == self.principal
    }

    /// Whether an entity that a policy names can be one of the resources. The facts of the principal are known.
    pub(super) fn may_be_row(&self, entity: &EntityId) -> bool {
        entity.kind == self.kind && *entity != self.principal
    }
}

/// A long, or the milliseconds of a datetime or duration.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Long(number) | Value::Datetime(number) | Value::Duration(number) => Some(*number),
        _ => None,
    }
}
