//! Translates residual conditions to filters, exactly: an expression that a filter cannot state is refused.

use super::term::Term;
use super::translator::{AncestorRule, Refusal, Translator};
use super::tree::{Comparison, EntityId, FilterExpr, Operand, Path, PatternPart, Value};
use super::truth::{Truth, is_present};
use crate::authz::entity_uid::{ORGANIZATION, uid};
use crate::authz::schema_type::SchemaType;
use cedar_policy::EntityUid;
use cedar_policy::pst::{BinaryOp, EntityType, Expr, Literal, PatternElem, UnaryOp};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The maximum number of atoms and operators of a translated expression, since a nested `if` repeats its condition.
const MAX_SIZE: usize = 10_000;

impl Translator<'_> {
    /// Where a condition is true, and where it fails.
    ///
    /// # Errors
    /// The condition cannot be translated.
    pub(super) fn truth(&self, expr: &Expr) -> Result<Truth, Refusal> {
        let truth = self.translate(expr)?;
        match truth.size() {
            size if size > MAX_SIZE => Err(Refusal::new(expr, "its translation is too long")),
            _ => Ok(truth),
        }
    }

    fn translate(&self, expr: &Expr) -> Result<Truth, Refusal> {
        match expr {
            Expr::Literal(Literal::Bool(value)) => Ok(Truth::constant(*value)),
            Expr::ResidualError => Ok(Truth::error()),
            Expr::UnaryOp { op, expr: operand } => self.unary(expr, *op, operand),
            Expr::BinaryOp { op, left, right } => self.binary(expr, *op, (left, right)),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                Ok(self.truth(cond)?.conditional(self.truth(then_expr)?, self.truth(else_expr)?))
            }
            Expr::HasAttr { expr: of, attrs } => self.has(expr, of, attrs.iter().map(|name| name.as_str())),
            Expr::Like { expr: of, pattern } => self.like(expr, of, pattern),
            Expr::Is { expr: of, entity_type, in_expr } => {
                let is = self.is(expr, of, entity_type)?;
                match in_expr {
                    Some(ancestor) => Ok(is.and(self.is_in(expr, (of, ancestor))?)),
                    None => Ok(is),
                }
            }
            _ => match self.term(expr)? {
                Term::Path(path) if self.path_type(&path) == Some(&SchemaType::Boolean) => {
                    Ok(Truth::new(FilterExpr::IsTrue(path.clone()), is_present(&path)))
                }
                Term::Error => Ok(Truth::error()),
                _ => Err(Refusal::new(expr, "a filter has no such condition")),
            },
        }
    }

    fn unary(&self, expr: &Expr, op: UnaryOp, operand: &Expr) -> Result<Truth, Refusal> {
        let ranges: &[&str] = match op {
            UnaryOp::Not => return Ok(self.truth(operand)?.not()),
            UnaryOp::IsEmpty => return self.is_empty(expr, operand),
            UnaryOp::IsIPv4 => &["0.0.0.0/0"],
            UnaryOp::IsIPV6 => &["::/0"],
            UnaryOp::IsLoopback => &["127.0.0.0/8", "::1/128"],
            UnaryOp::IsMulticast => &["224.0.0.0/4", "ff00::/8"],
            _ => return Err(Refusal::new(expr, "a filter has no such condition")),
        };
        self.in_ranges(expr, operand, ranges.iter().map(|&range| range.to_owned()).collect())
    }

    fn binary(
        &self,
        expr: &Expr,
        op: BinaryOp,
        (left, right): (&Arc<Expr>, &Arc<Expr>),
    ) -> Result<Truth, Refusal> {
        match op {
            BinaryOp::And => return Ok(self.truth(left)?.and(self.truth(right)?)),
            BinaryOp::Or => return Ok(self.truth(left)?.or(self.truth(right)?)),
            _ => {}
        }
        // A conditional operand: `(if a then b else c) == d` is `if a then b == d else c == d`.
        let with = |left: &Arc<Expr>, right: &Arc<Expr>| {
            let (left, right) = (Arc::clone(left), Arc::clone(right));
            Arc::new(Expr::BinaryOp { op, left, right })
        };
        let conditional = |cond: &Arc<Expr>, then_expr, else_expr| {
            self.truth(&Expr::IfThenElse { cond: Arc::clone(cond), then_expr, else_expr })
        };
        if let Expr::IfThenElse { cond, then_expr, else_expr } = &**left {
            return conditional(cond, with(then_expr, right), with(else_expr, right));
        }
        if let Expr::IfThenElse { cond, then_expr, else_expr } = &**right {
            // The left operand is evaluated first, but it fails in both branches if it fails at all.
            return conditional(cond, with(left, then_expr), with(left, else_expr));
        }
        let operands = (&**left, &**right);
        match op {
            BinaryOp::Eq | BinaryOp::NotEq => {
                let is_equal = match is_condition(left) || is_condition(right) {
                    true => self.truth(left)?.equals(self.truth(right)?),
                    false => self.compare(expr, Comparison::Equal, operands)?,
                };
                Ok(if op == BinaryOp::Eq { is_equal } else { is_equal.not() })
            }
            BinaryOp::Less | BinaryOp::DecimalLessThan => self.compare(expr, Comparison::Less, operands),
            BinaryOp::LessEq | BinaryOp::DecimalLessEq => {
                self.compare(expr, Comparison::LessOrEqual, operands)
            }
            BinaryOp::Greater | BinaryOp::DecimalGreater => self.compare(expr, Comparison::Greater, operands),
            BinaryOp::GreaterEq | BinaryOp::DecimalGreaterEq => {
                self.compare(expr, Comparison::GreaterOrEqual, operands)
            }
            BinaryOp::In => self.is_in(expr, operands),
            BinaryOp::Contains => self.contains(expr, operands),
            BinaryOp::ContainsAll => self.contains_all(expr, operands),
            BinaryOp::ContainsAny => self.contains_any(expr, operands),
            BinaryOp::IsInRange => match self.term(right)? {
                Term::Constant(Value::Ip(range)) => self.in_ranges(expr, left, vec![range]),
                _ => Err(Refusal::new(expr, "the range is not constant")),
            },
            BinaryOp::HasTag | BinaryOp::GetTag => Err(Refusal::new(expr, "tags cannot be translated")),
            _ => Err(Refusal::new(expr, "a filter has no such condition")),
        }
    }

    fn in_ranges(&self, expr: &Expr, address: &Expr, ranges: Vec<String>) -> Result<Truth, Refusal> {
        match self.term(address)? {
            Term::Path(path) => {
                let defined = is_present(&path);
                Ok(Truth::new(FilterExpr::IsInRange { address: path, ranges }, defined))
            }
            Term::Error => Ok(Truth::error()),
            _ => Err(Refusal::new(expr, "the address is not an attribute of the resource")),
        }
    }

    fn like(&self, expr: &Expr, of: &Expr, pattern: &[PatternElem]) -> Result<Truth, Refusal> {
        match self.term(of)? {
            Term::Path(path) => {
                let defined = is_present(&path);
                Ok(Truth::new(FilterExpr::Like { path, pattern: pattern_parts(pattern) }, defined))
            }
            Term::Error => Ok(Truth::error()),
            _ => Err(Refusal::new(expr, "the text is not an attribute of the resource")),
        }
    }

    fn has<'n>(
        &self,
        expr: &Expr,
        of: &Expr,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Truth, Refusal> {
        let of = self.term(of)?;
        let defined = of.defined();
        match of {
            Term::Path(mut path) => {
                for name in names {
                    if !path.is_resource() && !matches!(self.path_type(&path), Some(SchemaType::Record(_))) {
                        let reason = "it is an attribute of another entity, which is not in the row";
                        return Err(Refusal::new(expr, reason));
                    }
                    path = path.child(name);
                }
                Ok(Truth::new(FilterExpr::Has(path), defined))
            }
            // Partial evaluation knows the attributes of all entities that an ordinary decision has.
            Term::Constant(Value::Entity(entity)) if !self.may_be_row(&entity) => Ok(Truth::constant(false)),
            Term::Constant(Value::Entity(_)) => {
                Err(Refusal::new(expr, "the entity may be the resource itself"))
            }
            Term::Error => Ok(Truth::error()),
            _ => Err(Refusal::new(expr, "a filter has no such condition")),
        }
    }

    fn is(&self, expr: &Expr, of: &Expr, entity_type: &EntityType) -> Result<Truth, Refusal> {
        let expected = entity_type.to_string();
        let of = self.term(of)?;
        let defined = of.defined();
        let kind = match &of {
            Term::Path(path) if path.is_resource() => Some(self.kind),
            Term::Path(path) => match self.path_type(path) {
                Some(SchemaType::Entity(kind) | SchemaType::Enum(kind, _)) => Some(kind.as_str()),
                _ => None,
            },
            Term::Constant(Value::Entity(entity)) => Some(entity.kind.as_str()),
            Term::Error => return Ok(Truth::error()),
            _ => None,
        };
        let kind = kind.ok_or_else(|| Refusal::new(expr, "the type of the entity is not known"))?;
        let holds = if kind == expected { FilterExpr::always() } else { FilterExpr::never() };
        Ok(Truth::new(holds, defined))
    }

    /// `in`: whether the left entity, or one of its ancestors, is one of the right ones.
    fn is_in(&self, expr: &Expr, (left, right): (&Expr, &Expr)) -> Result<Truth, Refusal> {
        let (left, right) = (self.term(left)?, self.term(right)?);
        let defined = FilterExpr::and([left.defined(), right.defined()]);
        let yes = match (&left, &right) {
            (Term::Error, _) | (_, Term::Error) => return Ok(Truth::error()),
            (Term::Path(path), Term::Constant(Value::Entity(entity))) if path.is_resource() => {
                self.row_is_in([entity])
            }
            (Term::Path(path), Term::Constant(Value::Set(entities))) if path.is_resource() => {
                let entities = entities.iter().filter_map(|value| match value {
                    Value::Entity(entity) => Some(entity),
                    _ => None,
                });
                self.row_is_in(entities)
            }
            (Term::Path(path), Term::Path(_) | Term::Elements(_)) if path.is_resource() => {
                return Err(Refusal::new(expr, "the row does not contain its own ancestors as attributes"));
            }
            (Term::Constant(Value::Entity(entity)), _) if self.may_be_row(entity) => {
                return Err(Refusal::new(expr, "the entity may be the resource itself"));
            }
            (Term::Constant(Value::Entity(entity)), _) => {
                let own = self.with_ancestors(entity);
                self.any_is_named(expr, &own, &right)?
            }
            _ => {
                return Err(Refusal::new(
                    expr,
                    "the ancestors of an entity that an attribute names are not in the row",
                ));
            }
        };
        Ok(Truth::new(yes, defined))
    }

    fn uid_of_principal(&self) -> Option<EntityUid> {
        uid(&self.principal.kind, &self.principal.id)
    }

    /// An entity and its ancestors, as an ordinary decision knows them.
    fn with_ancestors(&self, entity: &EntityId) -> Vec<Value> {
        let uid = uid(&entity.kind, &entity.id);
        let ancestors = uid.iter().flat_map(|uid| self.entities.ancestors(uid).into_iter().flatten());
        let ancestors = ancestors
            .map(|uid| EntityId { kind: uid.type_name().to_string(), id: uid.id().unescaped().to_owned() });
        [entity.clone()].into_iter().chain(ancestors).map(Value::Entity).collect()
    }

    /// Whether one of these entities is what a term names: an entity, or a set of entities.
    fn any_is_named(&self, expr: &Expr, entities: &[Value], term: &Term) -> Result<FilterExpr, Refusal> {
        let known = Operand::Value(Value::set(entities.to_vec()));
        match term {
            Term::Constant(Value::Set(named)) => {
                Ok(truth_value(named.iter().any(|value| entities.contains(value))))
            }
            Term::Constant(value) => Ok(truth_value(entities.contains(value))),
            Term::Path(path) => match self.path_type(path) {
                _ if path.is_resource() => {
                    Ok(FilterExpr::or(entities.iter().filter_map(|value| match value {
                        Value::Entity(entity) if entity.kind == self.kind => Some(is_row(entity)),
                        _ => None,
                    })))
                }
                Some(SchemaType::Set(_)) => {
                    Ok(FilterExpr::ContainsAny { set: Operand::Path(path.clone()), elements: known })
                }
                Some(SchemaType::Entity(_) | SchemaType::Enum(..)) => {
                    Ok(FilterExpr::Contains { set: known, element: Operand::Path(path.clone()) })
                }
                _ => Err(Refusal::new(expr, "the type of the attribute is not known")),
            },
            Term::Elements(elements) => {
                let terms: Result<Vec<Term>, Refusal> =
                    elements.iter().map(|element| self.term(element)).collect();
                let terms = terms?;
                let defined: Vec<FilterExpr> = terms.iter().map(Term::defined).collect();
                let named: Result<Vec<FilterExpr>, Refusal> =
                    terms.iter().map(|term| self.any_is_named(expr, entities, term)).collect();
                let named = FilterExpr::or(named?);
                Ok(FilterExpr::and(defined.into_iter().chain([named])))
            }
            Term::Sum(..) | Term::Error => Ok(FilterExpr::never()),
        }
    }

    /// Whether the resource, or one of its ancestors, is one of these entities.
    fn row_is_in<'e>(&self, entities: impl IntoIterator<Item = &'e EntityId>) -> FilterExpr {
        let entities: BTreeSet<EntityId> = entities.into_iter().cloned().collect();
        match &self.ancestors {
            AncestorRule::Organizations { of_principal } => {
                let is_possible = |entity: &EntityId| entity.kind == ORGANIZATION || entity.kind == self.kind;
                let possible = entities.iter().filter(|entity| is_possible(entity)).cloned();
                let is_principal = match entities.is_disjoint(of_principal) {
                    true => FilterExpr::never(),
                    false => is_row(&self.principal),
                };
                FilterExpr::or([row_in(possible.collect()), is_principal])
            }
            AncestorRule::Data(data) => {
                // The principal, which is not in the data, can be a parent of rows, too.
                let is_below = |ancestor: &EntityId| {
                    let ancestor = uid(&ancestor.kind, &ancestor.id);
                    ancestor.is_some_and(|ancestor| {
                        self.uid_of_principal()
                            .is_some_and(|uid| self.entities.is_ancestor_of(&ancestor, &uid))
                    })
                };
                let principal = entities.iter().any(is_below).then(|| self.principal.clone());
                let below = entities.iter().flat_map(|entity| data.descendants(entity));
                let all: BTreeSet<EntityId> =
                    below.chain(entities.iter().cloned()).chain(principal).collect();
                let is_possible = |entity: &EntityId| {
                    self.ancestor_types.contains(&entity.kind)
                        || (entity.kind == self.kind && entities.contains(entity))
                };
                row_in(all.into_iter().filter(is_possible).collect())
            }
        }
    }
}

/// Whether the resource is this entity.
pub(super) fn is_row(entity: &EntityId) -> FilterExpr {
    FilterExpr::Compare {
        left: Operand::Path(Path::resource()),
        op: Comparison::Equal,
        right: Operand::Value(Value::Entity(entity.clone())),
    }
}

fn row_in(ancestors: Vec<EntityId>) -> FilterExpr {
    match ancestors.is_empty() {
        true => FilterExpr::never(),
        false => FilterExpr::In { entity: Operand::Path(Path::resource()), ancestors },
    }
}

pub(super) fn truth_value(value: bool) -> FilterExpr {
    if value { FilterExpr::always() } else { FilterExpr::never() }
}

/// Whether an expression is a boolean that is not just a value.
fn is_condition(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { op, .. } => !matches!(
            op,
            BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Mul
                | BinaryOp::Offset
                | BinaryOp::DurationSince
                | BinaryOp::GetTag
        ),
        Expr::UnaryOp { op, .. } => matches!(
            op,
            UnaryOp::Not
                | UnaryOp::IsEmpty
                | UnaryOp::IsIPv4
                | UnaryOp::IsIPV6
                | UnaryOp::IsLoopback
                | UnaryOp::IsMulticast
        ),
        Expr::HasAttr { .. } | Expr::Like { .. } | Expr::Is { .. } => true,
        _ => false,
    }
}

fn pattern_parts(pattern: &[PatternElem]) -> Vec<PatternPart> {
    let mut parts: Vec<PatternPart> = Vec::new();
    for element in pattern {
        match (element, parts.last_mut()) {
            (PatternElem::Char(letter), Some(PatternPart::Text(text))) => text.push(*letter),
            (PatternElem::Char(letter), _) => parts.push(PatternPart::Text(letter.to_string())),
            (PatternElem::Wildcard, Some(PatternPart::Any)) => {}
            (PatternElem::Wildcard, _) => parts.push(PatternPart::Any),
        }
    }
    parts
}
