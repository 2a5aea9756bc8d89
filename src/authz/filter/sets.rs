//! Conditions about sets: `contains`, `containsAll`, `containsAny` and `isEmpty`.

use super::term::Term;
use super::translation::truth_value;
use super::translator::{Refusal, Translator};
use super::tree::{Comparison, FilterExpr, Operand, Value};
use super::truth::{Truth, is_present};
use cedar_policy::pst::{BinaryOp, Expr};
use std::sync::Arc;

const NO_SUCH_SET: &str = "a filter has no such set";

impl Translator<'_> {
    /// Whether a set is empty.
    ///
    /// # Errors
    /// The expression is not translatable.
    pub(super) fn is_empty(&self, expr: &Expr, set: &Expr) -> Result<Truth, Refusal> {
        match self.term(set)? {
            Term::Path(path) => {
                let defined = is_present(&path);
                Ok(Truth::new(FilterExpr::IsEmpty(path), defined))
            }
            Term::Constant(Value::Set(elements)) => Ok(Truth::constant(elements.is_empty())),
            // Not constant, so that it has elements.
            Term::Elements(elements) => Ok(Truth::new(FilterExpr::never(), self.all_defined(&elements)?)),
            Term::Error => Ok(Truth::error()),
            Term::Constant(_) | Term::Sum(..) => Err(Refusal::new(expr, NO_SUCH_SET)),
        }
    }

    /// Whether a set contains an element.
    ///
    /// # Errors
    /// The expression is not translatable.
    pub(super) fn contains(&self, expr: &Expr, (set, element): (&Expr, &Expr)) -> Result<Truth, Refusal> {
        let set_term = self.term(set)?;
        if let Term::Elements(elements) = &set_term {
            // `[a, b].contains(c)` is `a == c || b == c`, where nothing fails.
            let equals = elements.iter().map(|one| {
                let (left, right) = (Arc::clone(one), Arc::new(element.clone()));
                self.truth(&Expr::BinaryOp { op: BinaryOp::Eq, left, right })
            });
            return all_evaluated(equals.collect::<Result<_, _>>()?, FilterExpr::or);
        }
        let element_term = self.term(element)?;
        let defined = FilterExpr::and([set_term.defined(), element_term.defined()]);
        let yes = match (&set_term, &element_term) {
            (Term::Error, _) | (_, Term::Error) => return Ok(Truth::error()),
            (Term::Constant(Value::Set(elements)), Term::Constant(element)) => {
                truth_value(elements.contains(element))
            }
            (Term::Constant(Value::Set(elements)), _) if elements.is_empty() => FilterExpr::never(),
            (Term::Constant(Value::Set(elements)), Term::Sum(..)) => {
                let equals = elements.iter().map(|value| {
                    self.compare_terms(
                        expr,
                        Comparison::Equal,
                        (element_term.clone(), Term::Constant(value.clone())),
                    )
                });
                let equals: Result<Vec<Truth>, Refusal> = equals.collect();
                FilterExpr::or(equals?.into_iter().map(|equal| equal.yes))
            }
            _ => match (set_term.operand(), element_term.operand()) {
                (Some(set), Some(element)) => FilterExpr::Contains { set, element },
                _ => return Err(Refusal::new(expr, NO_SUCH_SET)),
            },
        };
        Ok(Truth::new(yes, defined))
    }

    /// Whether a set contains all elements of another one.
    ///
    /// # Errors
    /// The expression is not translatable.
    pub(super) fn contains_all(
        &self,
        expr: &Expr,
        (set, elements): (&Expr, &Expr),
    ) -> Result<Truth, Refusal> {
        if let Term::Elements(elements) = self.term(elements)? {
            return self.each_contained(set, &elements, FilterExpr::and);
        }
        let atom = |set, elements| FilterExpr::ContainsAll { set, elements };
        let constant = |set: &[Value], elements: &[Value]| elements.iter().all(|value| set.contains(value));
        self.two_sets(expr, (set, elements), atom, constant)
    }

    /// Whether a set contains any element of another one.
    ///
    /// # Errors
    /// The expression is not translatable.
    pub(super) fn contains_any(
        &self,
        expr: &Expr,
        (set, elements): (&Expr, &Expr),
    ) -> Result<Truth, Refusal> {
        if let Term::Elements(elements) = self.term(elements)? {
            return self.each_contained(set, &elements, FilterExpr::or);
        }
        if let Term::Elements(of_set) = self.term(set)? {
            return self.each_contained(elements, &of_set, FilterExpr::or);
        }
        let atom = |set, elements| FilterExpr::ContainsAny { set, elements };
        let constant = |set: &[Value], elements: &[Value]| elements.iter().any(|value| set.contains(value));
        self.two_sets(expr, (set, elements), atom, constant)
    }

    /// A condition on two sets, neither of which has elements that are not constant.
    fn two_sets(
        &self,
        expr: &Expr,
        (set, elements): (&Expr, &Expr),
        atom: impl Fn(Operand, Operand) -> FilterExpr,
        constant: impl Fn(&[Value], &[Value]) -> bool,
    ) -> Result<Truth, Refusal> {
        let (set, elements) = (self.term(set)?, self.term(elements)?);
        let defined = FilterExpr::and([set.defined(), elements.defined()]);
        let yes = match (&set, &elements) {
            (Term::Error, _) | (_, Term::Error) => return Ok(Truth::error()),
            (Term::Constant(Value::Set(set)), Term::Constant(Value::Set(elements))) => {
                truth_value(constant(set, elements))
            }
            // Without elements, the result does not depend on the set.
            (_, Term::Constant(Value::Set(elements))) if elements.is_empty() => {
                truth_value(constant(&[], &[]))
            }
            _ => match (set.operand(), elements.operand()) {
                (Some(set), Some(elements)) => atom(set, elements),
                _ => return Err(Refusal::new(expr, NO_SUCH_SET)),
            },
        };
        Ok(Truth::new(yes, defined))
    }

    /// Whether a set contains these elements: all or any of them, as `combine` says.
    fn each_contained(
        &self,
        set: &Expr,
        elements: &[Arc<Expr>],
        combine: fn(Vec<FilterExpr>) -> FilterExpr,
    ) -> Result<Truth, Refusal> {
        let contained = elements.iter().map(|element| {
            let (left, right) = (Arc::new(set.clone()), Arc::clone(element));
            self.truth(&Expr::BinaryOp { op: BinaryOp::Contains, left, right })
        });
        all_evaluated(contained.collect::<Result<_, _>>()?, combine)
    }

    /// Where no element of a set fails.
    fn all_defined(&self, elements: &[Arc<Expr>]) -> Result<FilterExpr, Refusal> {
        let defined = elements.iter().map(|element| match self.truth(element) {
            Ok(truth) => Ok(truth.defined),
            Err(_) => self.term(element).map(|term| term.defined()),
        });
        Ok(FilterExpr::and(defined.collect::<Result<Vec<_>, _>>()?))
    }
}

/// A combination of conditions that are all evaluated, whatever their values.
fn all_evaluated(truths: Vec<Truth>, combine: fn(Vec<FilterExpr>) -> FilterExpr) -> Result<Truth, Refusal> {
    let (yes, defined): (Vec<FilterExpr>, Vec<FilterExpr>) =
        truths.into_iter().map(|truth| (truth.yes, truth.defined)).unzip();
    Ok(Truth::new(combine(yes), FilterExpr::and(defined)))
}
