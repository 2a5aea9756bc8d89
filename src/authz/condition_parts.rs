//! The parts of the conditions of a policy: their conjuncts and disjuncts, each with its place in the source.
//!
//! Explanations name the part that failed, and coverage counts the values that a part had. The parts of a policy are a list of
//! trees, one for each `when` and `unless`. A tree branches at `&&`, `||`, `!` and `if`; every other expression is a test. What
//! the scope of a policy requires of principal and resource is a test, too ([`ConditionPart::of_scope`]).

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
    /// The principal in the scope: `principal in Scope::"admin"`.
    Principal,
    /// The resource in the scope.
    Resource,
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

    /// What the scope of a policy requires of principal and resource; nothing of one that it leaves open.
    ///
    /// # Errors
    /// Cedar cannot convert the policy.
    pub(crate) fn of_scope(policy: &Policy) -> Result<Vec<Self>, Box<pst::PstConstructionError>> {
        let policy_tree = policy.to_pst()?;
        let source = policy.as_ref().loc();
        let constraints = [
            (ClauseKind::Principal, "principal", policy_tree.body().principal.to_string()),
            (ClauseKind::Resource, "resource", policy_tree.body().resource.to_string()),
        ];
        let constraints = constraints.into_iter().filter(|(.., constraint)| !constraint.is_empty());
        let parts = constraints.filter_map(|(clause, variable, constraint)| {
            let text = format!("{variable} {constraint}");
            let mut part = Self::new(clause, &parse_expression(&text)?);
            part.span = source.and_then(|source| {
                let position = scope_position(source.snippet()?, variable)?;
                let start = source.start() + position;
                Some(span_in(&source.src, start..start + variable.len()))
            });
            Some(Self { text, ..part })
        });
        Ok(parts.collect())
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
            self.span = Some(span_in(&sources.text, bytes));
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

    /// Whether the policy applies only if the part holds, rather than only if it does not.
    pub(crate) fn is_required_to_hold(&self) -> bool {
        self.clause != ClauseKind::Unless
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
}

/// The place of these bytes in a text.
fn span_in(text: &str, bytes: Range<usize>) -> PartSpan {
    let (line, column) = position_in(text, bytes.start);
    let (end_line, end_column) = position_in(text, bytes.end);
    PartSpan { bytes, line, column, end_line, end_column }
}

/// The line and column at a byte offset of a text.
fn position_in(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// The byte offset of a variable in the scope of a policy: its first occurrence outside of annotations and comments.
fn scope_position(policy: &str, variable: &str) -> Option<usize> {
    let mut rest = policy;
    loop {
        let offset = policy.len() - rest.len();
        rest = match rest.chars().next()? {
            '"' => rest.get(1 + literal_length(rest.get(1..)?)?..)?,
            '/' if rest.starts_with("//") => rest.get(rest.find('\n')?..)?,
            letter if letter.is_alphabetic() || letter == '_' || letter == '@' => {
                let end = rest.find(|letter: char| !letter.is_alphanumeric() && !"_@".contains(letter));
                let word = rest.get(..end?)?;
                if word == variable {
                    return Some(offset);
                }
                rest.get(word.len()..)?
            }
            other => rest.get(other.len_utf8()..)?,
        };
    }
}

/// The length of a string literal after its opening quote, with its closing one.
fn literal_length(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (offset, character) in text.char_indices() {
        match character {
            '"' if !is_escaped => return Some(offset + 1),
            _ => is_escaped = character == '\\' && !is_escaped,
        }
    }
    None
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

/// An expression as it is in the source, on one line and without comments.
fn on_one_line(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut characters = source.chars().peekable();
    let (mut is_literal, mut is_escaped, mut is_after_space) = (false, false, false);
    while let Some(character) = characters.next() {
        if is_literal {
            is_literal = is_escaped || character != '"';
            is_escaped = !is_escaped && character == '\\';
            text.push(character);
        } else if character == '/' && characters.peek() == Some(&'/') {
            characters.find(|character| *character == '\n');
            is_after_space = true;
        } else if character.is_whitespace() {
            is_after_space = true;
        } else {
            if is_after_space && needs_space(&text, character) {
                text.push(' ');
            }
            is_after_space = false;
            is_literal = character == '"';
            text.push(character);
        }
    }
    text
}

/// Whether a space between a text and the next character is kept: not within brackets, and not in a method call.
fn needs_space(text: &str, next: char) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let is_method_call =
        next == '(' && text.ends_with(is_name) && text.trim_end_matches(is_name).ends_with('.');
    !(text.is_empty() || text.ends_with(['(', '[', '.']) || ")].,".contains(next) || is_method_call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::{Context, PolicySet};

    const POLICIES: &str = r#"// A comment.
@id("one")
permit (principal, action, resource);

@id("two")
@doc("The \"principal\" and the resource.")
forbid ( // principal
  principal in Scope::"guest",
  action,
  resource is Docs::Form
)
when
{
  context has changes &&
  (context.changes
    .containsAny( // one
    ["role",  "ä // \"  "]
  ) || !(context has x)) // a comment
}
unless { principal in Scope::"admin" && context has changes };
"#;

    fn policy() -> Policy {
        let policies: PolicySet = POLICIES.parse().unwrap();
        policies.policies().find(|policy| policy.annotation("id") == Some("two")).unwrap().clone()
    }

    fn parts() -> Vec<ConditionPart> {
        ConditionPart::of_policy(&policy()).unwrap()
    }

    #[test]
    fn the_scope_has_its_place_in_the_source() {
        let parts = ConditionPart::of_scope(&policy()).unwrap();
        let place = |part: &ConditionPart| {
            let span = part.span.as_ref().unwrap();
            (part.text.clone(), span.line, span.column)
        };
        let expected = [(r#"principal in Scope::"guest""#, 8, 3), (r#"resource is Docs::Form"#, 10, 3)];
        for (part, (text, line, column)) in parts.iter().zip(expected) {
            assert_eq!(place(part), (text.to_owned(), line, column));
        }
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn every_part_has_its_place_in_the_source() {
        let parts = parts();
        let all: Vec<&ConditionPart> = parts.iter().flat_map(ConditionPart::descendants).collect();
        let places: Vec<(String, usize, usize, &str)> = all
            .iter()
            .map(|part| {
                let span = part.span.as_ref().unwrap_or_else(|| panic!("{} has no place", part.text));
                (part.text.clone(), span.line, span.column, POLICIES.get(span.bytes.clone()).unwrap())
            })
            .collect();
        let expected = [
            ("context has changes && ", 14, 3),
            ("context has changes", 14, 3),
            (r#"context.changes.containsAny(["role", "ä // \"  "]) || !(context has x)"#, 15, 4),
            (r#"context.changes.containsAny(["role", "ä // \"  "])"#, 15, 4),
            ("!(context has x)", 18, 8),
            ("context has x", 18, 10),
            (r#"principal in Scope::"admin" && context has changes"#, 20, 10),
            (r#"principal in Scope::"admin""#, 20, 10),
            ("context has changes", 20, 41),
        ];
        assert_eq!(places.len(), expected.len(), "{places:?}");
        for ((text, line, column, source), expected) in places.iter().zip(expected) {
            assert_eq!((*line, *column), (expected.1, expected.2), "{text}: {source}");
            assert!(text == expected.0 || *line == 14 && text.starts_with(expected.0), "{text}");
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
