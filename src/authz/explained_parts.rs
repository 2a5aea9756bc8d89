//! Which parts of a condition decide: those that do not hold if it does not, and those that hold if it does.

use super::condition_parts::{Composition, ConditionPart};
use super::explanation::ExplainedPart;
use super::part_values::PartReader;
use cedar_policy::pst::Expr;

/// The maximum number of parts of a policy in an explanation.
const MAX_PARTS: usize = 20;

/// The value of a part, as far as the explanation may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    False,
    /// The part reads something hidden, or its evaluation fails.
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// How many parts of a policy a request does not meet, or may not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnmetParts {
    /// The constraints of its scope.
    pub(super) scope: usize,
    /// The parts of its conditions.
    pub(super) conditions: usize,
}

impl UnmetParts {
    /// All of them.
    pub(super) const fn total(self) -> usize {
        self.scope + self.conditions
    }
}

impl PartReader<'_> {
    /// How many parts of a policy have to change for the policy to match. A hidden part counts as unmet, so that the number does
    /// not depend on what is hidden.
    pub(super) fn unmet_parts(&self, scope: &[ConditionPart], conditions: &[ConditionPart]) -> UnmetParts {
        let unmet = |part: &ConditionPart| self.unmet(part, part.is_required_to_hold());
        UnmetParts { scope: scope.iter().map(unmet).sum(), conditions: conditions.iter().map(unmet).sum() }
    }

    /// How many tests have to change for a part to have the value `wanted`.
    fn unmet(&self, part: &ConditionPart, wanted: bool) -> usize {
        let truth = self.truth(part);
        if truth == Truth::from(wanted) {
            return 0;
        }
        match (part.composition, wanted) {
            (Composition::Test | Composition::If, _) => 1,
            (Composition::Not, _) => part.children.iter().map(|child| self.unmet(child, !wanted)).sum(),
            (Composition::All, false) | (Composition::Any, true) => {
                part.children.iter().map(|child| self.unmet(child, wanted)).min().unwrap_or(1)
            }
            // What follows a known part that decides is not evaluated: `context.x` after `context has x`, which is false.
            (Composition::All, true) | (Composition::Any, false) => {
                let is_decisive =
                    |child: &&ConditionPart| truth == Truth::Unknown || self.truth(child) == truth;
                part.children.iter().filter(is_decisive).map(|child| self.unmet(child, wanted)).sum()
            }
        }
    }

    /// The parts by which a policy does not match: the constraints of its scope, else the first condition that is not met.
    pub(super) fn explain_unmet(
        &self,
        scope: &[ConditionPart],
        conditions: &[ConditionPart],
    ) -> Vec<ExplainedPart> {
        let mut explained = Vec::new();
        self.add_unmet(scope, &mut explained);
        if explained.iter().any(|part| part.holds.is_some()) {
            return explained;
        }
        // The scope may match, as far as is visible.
        let parts = self.explain_conditions(conditions, false);
        if parts.iter().any(|part| part.holds.is_some()) {
            return parts;
        }
        explained.extend(parts);
        explained
    }

    /// The parts that make these conditions hold or not, as `holds` says: the first condition that is not met, or all of them
    /// if they are met.
    pub(super) fn explain_conditions(&self, parts: &[ConditionPart], holds: bool) -> Vec<ExplainedPart> {
        let mut explained = Vec::new();
        if holds {
            for part in parts {
                self.explain(part, part.is_required_to_hold(), &mut explained);
            }
            return explained;
        }
        let is_unmet = |part: &&ConditionPart| self.truth(part) == Truth::from(!part.is_required_to_hold());
        if let Some(part) = parts.iter().find(is_unmet) {
            self.explain(part, !part.is_required_to_hold(), &mut explained);
        } else {
            for part in parts.iter().filter(|part| self.truth(part) == Truth::Unknown) {
                self.add_unknown(part, &mut explained);
            }
        }
        explained
    }

    /// Whether a part holds, as far as that may be shown.
    fn truth(&self, part: &ConditionPart) -> Truth {
        let children = || part.children.iter().map(|child| self.truth(child));
        match part.composition {
            Composition::Test | Composition::If if self.is_hidden(&part.expression) => Truth::Unknown,
            Composition::Test | Composition::If => {
                part.evaluate(self.request, self.entities).map_or(Truth::Unknown, Truth::from)
            }
            Composition::Not => match children().next() {
                Some(Truth::True) => Truth::False,
                Some(Truth::False) => Truth::True,
                Some(Truth::Unknown) | None => Truth::Unknown,
            },
            Composition::All => combined(children(), Truth::False),
            Composition::Any => combined(children(), Truth::True),
        }
    }

    /// Adds the tests by which a part has the value `holds`.
    fn explain(&self, part: &ConditionPart, holds: bool, explained: &mut Vec<ExplainedPart>) {
        let has_value = |child: &&ConditionPart| self.truth(child) == Truth::from(holds);
        match (part.composition, holds) {
            (Composition::Test | Composition::If, _) => self.add_part(part, explained),
            (Composition::Not, _) => match part.children.as_slice() {
                [child] if child.composition != Composition::Test => self.explain(child, !holds, explained),
                _ => self.add_part(part, explained),
            },
            // Every child has the value.
            (Composition::All, true) | (Composition::Any, false) => {
                for child in part.children.iter().filter(|child| !is_guard(child, part)) {
                    self.explain(child, holds, explained);
                }
            }
            // One child with the value is enough.
            (Composition::All, false) | (Composition::Any, true) => {
                match part.children.iter().find(has_value) {
                    Some(child) => self.explain(child, holds, explained),
                    None => self.add_unknown(part, explained),
                }
            }
        }
    }

    /// Adds the tests of a part whose value is unknown, without those that are known: they did not decide.
    fn add_unknown(&self, part: &ConditionPart, explained: &mut Vec<ExplainedPart>) {
        if part.children.is_empty() || part.composition == Composition::If {
            return self.add_part(part, explained);
        }
        for child in part.children.iter().filter(|child| self.truth(child) == Truth::Unknown) {
            self.add_unknown(child, explained);
        }
    }

    /// Adds a part with what it reads.
    pub(super) fn add_part(&self, part: &ConditionPart, explained: &mut Vec<ExplainedPart>) {
        if explained.len() >= MAX_PARTS {
            return;
        }
        let holds = match self.truth(part) {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Unknown => None,
        };
        explained.push(ExplainedPart {
            clause: part.clause.as_str(),
            expression: part.text.clone(),
            holds,
            line: part.span.as_ref().map(|span| span.line),
            column: part.span.as_ref().map(|span| span.column),
            values: self.values(&part.expression),
        });
    }

    /// Adds those of these parts that do not hold, or may not hold.
    fn add_unmet(&self, parts: &[ConditionPart], explained: &mut Vec<ExplainedPart>) {
        for part in parts.iter().filter(|part| self.truth(part) != Truth::True) {
            self.add_part(part, explained);
        }
    }
}

/// The value of a composition in which one child with the value `decisive` decides.
fn combined(children: impl Iterator<Item = Truth>, decisive: Truth) -> Truth {
    let mut is_known = true;
    for child in children {
        if child == decisive {
            return decisive;
        }
        is_known &= child != Truth::Unknown;
    }
    match (is_known, decisive) {
        (false, _) => Truth::Unknown,
        (true, Truth::True) => Truth::False,
        (true, _) => Truth::True,
    }
}

/// Whether a child of a conjunction only guards another one, such as `context has x` in `context has x && context.x == 1`.
fn is_guard(child: &ConditionPart, parent: &ConditionPart) -> bool {
    parent.composition == Composition::All
        && parent.children.len() > 1
        && matches!(&*child.expression, Expr::HasAttr { .. })
}
