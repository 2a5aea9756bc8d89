//! The truth of a Cedar expression: where it is true, and where its evaluation fails.

use super::tree::{FilterExpr, Path};

/// Where a boolean Cedar expression is true, false, or an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Truth {
    /// Where it is true. Implies `defined`.
    pub(super) yes: FilterExpr,
    /// Where its evaluation does not fail.
    pub(super) defined: FilterExpr,
}

impl Truth {
    /// True or false where `defined`, an error elsewhere.
    pub(super) fn new(yes: FilterExpr, defined: FilterExpr) -> Self {
        Self { yes: FilterExpr::and([defined.clone(), yes]), defined }
    }

    /// A constant.
    pub(super) fn constant(value: bool) -> Self {
        Self::total(if value { FilterExpr::always() } else { FilterExpr::never() })
    }

    /// An expression whose evaluation never fails.
    pub(super) fn total(yes: FilterExpr) -> Self {
        Self { yes, defined: FilterExpr::always() }
    }

    /// An expression whose evaluation always fails.
    pub(super) fn error() -> Self {
        Self { yes: FilterExpr::never(), defined: FilterExpr::never() }
    }

    /// Where it is false.
    pub(super) fn no(&self) -> FilterExpr {
        FilterExpr::and([self.defined.clone(), FilterExpr::not(self.yes.clone())])
    }

    /// Where it is neither false nor an error, as Cedar's `&&`: the right side is evaluated only where the left one is true.
    pub(super) fn and(self, right: Self) -> Self {
        let left_is_not_true = FilterExpr::not(self.yes.clone());
        let right_matters = if self.yes.implies(&right.defined) {
            FilterExpr::always()
        } else {
            FilterExpr::or([left_is_not_true, right.defined])
        };
        let defined = FilterExpr::and([self.defined, right_matters]);
        Self { yes: FilterExpr::and([self.yes, right.yes]), defined }
    }

    /// Cedar's `||`: the right side is evaluated only where the left one is false.
    pub(super) fn or(self, right: Self) -> Self {
        let left_is_false = FilterExpr::not(self.yes.clone());
        let right_matters = if left_is_false.implies(&right.defined) {
            FilterExpr::always()
        } else {
            FilterExpr::or([self.yes.clone(), right.defined])
        };
        let from_right = FilterExpr::and([self.defined.clone(), right.yes]);
        let yes = FilterExpr::or([self.yes, from_right]);
        Self { yes, defined: FilterExpr::and([self.defined, right_matters]) }
    }

    /// Cedar's `!`.
    pub(super) fn not(self) -> Self {
        Self { yes: self.no(), defined: self.defined }
    }

    /// Cedar's `if`: one of the branches is evaluated.
    pub(super) fn conditional(self, then: Self, otherwise: Self) -> Self {
        let is_false = self.no();
        let not_true = FilterExpr::not(self.yes.clone());
        let defined = FilterExpr::and([
            self.defined,
            FilterExpr::or([not_true, then.defined]),
            FilterExpr::or([self.yes.clone(), otherwise.defined]),
        ]);
        let yes = FilterExpr::or([
            FilterExpr::and([self.yes, then.yes]),
            FilterExpr::and([is_false, otherwise.yes]),
        ]);
        Self { yes, defined }
    }

    /// `==` of two booleans.
    pub(super) fn equals(self, other: Self) -> Self {
        let both_false = FilterExpr::and([self.no(), other.no()]);
        let yes = FilterExpr::or([FilterExpr::and([self.yes, other.yes]), both_false]);
        Self { yes, defined: FilterExpr::and([self.defined, other.defined]) }
    }

    /// The number of atoms and operators.
    pub(super) fn size(&self) -> usize {
        self.yes.size() + self.defined.size()
    }
}

/// Where an attribute of the resource is present.
pub(super) fn is_present(path: &Path) -> FilterExpr {
    if path.is_resource() { FilterExpr::always() } else { FilterExpr::Has(path.clone()) }
}
