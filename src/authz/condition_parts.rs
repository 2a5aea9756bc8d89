//! The parts of the conditions of a policy: their conjuncts and disjuncts, each with its place in the source.
//!
//! Explanations name the part that failed, and coverage counts the values that a part had. The parts of a policy are a list of
//! trees, one for each `when` and `unless`. A tree branches at `&&`, `||`, `!` and `if`; every other expression is a test.

use cedar_policy::pst::{self, BinaryOp, Expr, UnaryOp};
use cedar_policy::{Entities, EvalResult, Expression, Policy, Request, eval_expression};
use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

/// The place of a part in its file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartSpan {
    /// The bytes of the part in its file.
    pub(crate) bytes: Range<usize>,
    /// The line of its first character.
    pub(crate) line: usize,
    /// The column of its first character.
    pub(crate) column: usize,
    /// The line of its last character.
    pub(crate) end_line: usize,
    /// The column after its last character.
    pub(crate) end_column: usize,
}

/// The clause of a policy that contains a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClauseKind {
    /// `when { … }`
    When,
    /// `unless { … }`
    Unless,
}

/// How a part is composed of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Composition {
    /// All children have to hold: `a && b`.
    All,
    /// One of the children has to hold: `a || b`.
    Any,
    /// The only child must not hold: `!a`.
    Not,
    /// The second child has to hold if the first one does, else the third: `if a then b else c`.
    If,
    /// An expression without parts.
    Test,
}

/// A boolean part of a condition.
#[derive(Debug)]
pub(crate) struct ConditionPart {
    pub(crate) clause: ClauseKind,
    pub(crate) composition: Composition,
    pub(crate) expression: Arc<Expr>,
    /// The parts of which it is composed, in the order of the source.
    pub(crate) children: Vec<Self>,
    /// Its place in the source; none if the policy was not parsed from text.
    pub(crate) span: Option<PartSpan>,
    /// Its text in Cedar syntax, on one line and without comments.
    pub(crate) text: String,
    /// The expression for an evaluation, parsed on first use.
    parsed: OnceLock<Option<Expression>>,
}

impl ConditionPart {
    /// The parts of a policy: one for each `when` and `unless`, in the order of the source.
    ///
    /// # Errors
    /// Cedar cannot convert the policy.
    pub(crate) fn of_policy(policy: &Policy) -> Result<Vec<Self>, Box<pst::PstConstructionError>> {
        let policy_tree = policy.to_pst()?;
        let mut parts: Vec<Self> = policy_tree
            .body()
            .clauses()
            .iter()
            .map(|clause| match clause {
                pst::Clause::When(expression) => Self::new(ClauseKind::When, expression),
                pst::Clause::Unless(expression) => Self::new(ClauseKind::Unless, expression),
            })
            .collect();
        if let Some(sources) = SourceExpressions::of_policy(policy) {
            let mut position = 0;
            for part in &mut parts {
                part.locate(&sources, &mut position, usize::MAX);
            }
        }
        Ok(parts)
    }

    fn new(clause: ClauseKind, expression: &Arc<Expr>) -> Self {
        let (composition, children) = match &**expression {
            Expr::BinaryOp { op: BinaryOp::And, .. } => (Composition::All, chain(expression, BinaryOp::And)),
            Expr::BinaryOp { op: BinaryOp::Or, .. } => (Composition::Any, chain(expression, BinaryOp::Or)),
            Expr::UnaryOp { op: UnaryOp::Not, expr } => (Composition::Not, vec![expr]),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                (Composition::If, vec![cond, then_expr, else_expr])
            }
            _ => (Composition::Test, Vec::new()),
        };
        let children = children.into_iter().map(|child| Self::new(clause, child)).collect();
        let (text, expression) = (expression.to_string(), Arc::clone(expression));
        Self { clause, composition, expression, children, span: None, text, parsed: OnceLock::new() }
    }

    /// Finds the part in the source, from `position` on and before `end`, and its children in it.
    fn locate(&mut self, sources: &SourceExpressions, position: &mut usize, end: usize) {
        let found = sources.find(&self.expression, *position..end);
        let end = found.as_ref().map_or(end, |bytes| bytes.end);
        if let Some(bytes) = found {
            *position = bytes.start;
            if let Some(source) = sources.text.get(bytes.clone()) {
                self.text = on_one_line(source);
            }
            self.span = Some(sources.span(bytes));
        }
        for child in &mut self.children {
            child.locate(sources, position, end);
        }
        if self.span.is_some() {
            *position = end;
        }
    }

    /// The part and all parts in it, each before its children.
    pub(crate) fn descendants(&self) -> Vec<&Self> {
        let mut all = vec![self];
        for child in &self.children {
            all.extend(child.descendants());
        }
        all
    }

    /// Whether the part holds for a request; none if its evaluation fails.
    ///
    /// The part is evaluated alone: a test that another conjunct guards, such as `context has x && context.x`, may fail.
    pub(crate) fn evaluate(&self, request: &Request, entities: &Entities) -> Option<bool> {
        let parsed = self.parsed.get_or_init(|| Expression::from_str(&self.text).ok());
        match eval_expression(request, entities, parsed.as_ref()?) {
            Ok(EvalResult::Bool(value)) => Some(value),
            Ok(_) | Err(_) => None,
        }
    }
}

/// The operands of a chain of one operator: `a`, `b` and `c` of `a && b && c`.
fn chain(expression: &Arc<Expr>, operator: BinaryOp) -> Vec<&Arc<Expr>> {
    let mut operands = Vec::new();
    let mut pending = vec![expression];
    while let Some(next) = pending.pop() {
        match &**next {
            Expr::BinaryOp { op, left, right } if *op == operator => pending.extend([right, left]),
            _ => operands.push(next),
        }
    }
    operands
}

/// The expressions of the conditions of a policy, as they are in the source.
struct SourceExpressions {
    text: Arc<str>,
    /// In ascending order of their first byte, an outer expression before its parts.
    expressions: Vec<(Range<usize>, Arc<Expr>)>,
}

impl SourceExpressions {
    /// The expressions of a policy; none if it was not parsed from text.
    fn of_policy(policy: &Policy) -> Option<Self> {
        let text = Arc::clone(&policy.as_ref().loc()?.src);
        let condition = policy.as_ref().non_scope_constraints()?;
        let locations = condition.subexpressions().filter_map(|expression| expression.source_loc());
        // Ordered by the start, then by the end, the longest first.
        let ranges: BTreeSet<(usize, std::cmp::Reverse<usize>)> =
            locations.map(|location| (location.start(), std::cmp::Reverse(location.end()))).collect();
        let expressions = ranges.into_iter().filter_map(|(start, end)| {
            let range = start..end.0;
            Some((range.clone(), parse_expression(text.get(range)?)?))
        });
        let expressions = expressions.collect();
        Some(Self { text, expressions })
    }

    /// The first occurrence of an expression within these bytes.
    fn find(&self, expression: &Expr, within: Range<usize>) -> Option<Range<usize>> {
        let is_within = |range: &Range<usize>| range.start >= within.start && range.end <= within.end;
        let mut found = self.expressions.iter().filter(|(range, _)| is_within(range));
        found.find(|(_, source)| **source == *expression).map(|(range, _)| range.clone())
    }

    fn span(&self, bytes: Range<usize>) -> PartSpan {
        let (line, column) = self.position(bytes.start);
        let (end_line, end_column) = self.position(bytes.end);
        PartSpan { bytes, line, column, end_line, end_column }
    }

    /// The line and column at a byte offset.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }
}

/// Parses an expression of a policy. None if it is not one.
fn parse_expression(text: &str) -> Option<Arc<Expr>> {
    let policy =
        Policy::parse(None, format!("permit (principal, action, resource) when {{ {text} }};")).ok()?;
    let tree = policy.to_pst().ok()?;
    match tree.body().clauses().as_slice() {
        [pst::Clause::When(expression)] => Some(Arc::clone(expression)),
        _ => None,
    }
}

/// An expression as it is in the source, without comments and with single spaces instead of white space.
fn on_one_line(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut characters = source.chars().peekable();
    let (mut is_literal, mut is_escaped) = (false, false);
    while let Some(character) = characters.next() {
        if is_literal {
            is_literal = is_escaped || character != '"';
            is_escaped = !is_escaped && character == '\\';
            text.push(character);
        } else if character == '/' && characters.peek() == Some(&'/') {
            characters.find(|character| *character == '\n');
            push_space(&mut text);
        } else if character.is_whitespace() {
            push_space(&mut text);
        } else {
            is_literal = character == '"';
            text.push(character);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn push_space(text: &mut String) {
    if !text.is_empty() && !text.ends_with(' ') {
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::{Context, PolicySet};

    const POLICIES: &str = r#"// A comment.
@id("one")
permit (principal, action, resource);

@id("two")
forbid (principal, action, resource)
when
{
  context has changes &&
  (context.changes.containsAny // one
    (["role",  "ä // \"  "]) || !(context has x)) // a comment
}
unless { principal in Scope::"admin" && context has changes };
"#;

    fn parts() -> Vec<ConditionPart> {
        let policies: PolicySet = POLICIES.parse().unwrap();
        let policy = policies.policies().find(|policy| policy.annotation("id") == Some("two")).unwrap();
        ConditionPart::of_policy(policy).unwrap()
    }

    #[test]
    fn every_part_has_its_place_in_the_source() {
        let parts = parts();
        let all: Vec<&ConditionPart> = parts.iter().flat_map(ConditionPart::descendants).collect();
        let places: Vec<(String, usize, usize, &str)> = all
            .iter()
            .map(|part| {
                let span = part.span.as_ref().unwrap_or_else(|| panic!("{} has no place", part.text));
                (part.text.clone(), span.line, span.column, &POLICIES[span.bytes.clone()])
            })
            .collect();
        let expected = [
            ("context has changes && ", 9, 3),
            ("context has changes", 9, 3),
            (r#"context.changes.containsAny (["role", "ä // \"  "]) || !(context has x)"#, 10, 4),
            (r#"context.changes.containsAny (["role", "ä // \"  "])"#, 10, 4),
            ("!(context has x)", 11, 33),
            ("context has x", 11, 35),
            (r#"principal in Scope::"admin" && context has changes"#, 13, 10),
            (r#"principal in Scope::"admin""#, 13, 10),
            ("context has changes", 13, 41),
        ];
        assert_eq!(places.len(), expected.len(), "{places:?}");
        for ((text, line, column, source), expected) in places.iter().zip(expected) {
            assert_eq!((*line, *column), (expected.1, expected.2), "{text}: {source}");
            assert!(text == expected.0 || *line == 9 && text.starts_with(expected.0), "{text}");
        }
        let compositions: Vec<Composition> = all.iter().map(|part| part.composition).collect();
        use Composition::{All, Any, Not, Test};
        assert_eq!(compositions, [All, Test, Any, Test, Not, Test, All, Test, Test]);
        assert_eq!((all[5].clause, all[6].clause), (ClauseKind::When, ClauseKind::Unless));
    }

    #[test]
    fn parts_are_evaluated_alone() {
        let uid = |text: &str| text.parse().unwrap();
        let request = Request::new(
            uid("User::\"a\""),
            uid("Action::\"b\""),
            uid("Form::\"c\""),
            Context::from_json_str(r#"{"x": 1}"#, None).unwrap(),
            None,
        );
        let (request, entities) = (request.unwrap(), Entities::empty());
        let values: Vec<Option<bool>> =
            parts()[0].descendants().iter().map(|part| part.evaluate(&request, &entities)).collect();
        let expected = [Some(false), Some(false), None, None, Some(false), Some(true)];
        assert_eq!(values, expected);
    }
}
