//! The parts of a policy that are true or false: its scope, and the operands of `&&`, `||`, `!` and `if` in its conditions.
//!
//! They are evaluated as Cedar evaluates the policy, with short circuits, so that the result says which parts a request
//! reached.

use super::condition_parts::{ClauseKind, Composition, ConditionPart};
use super::policy_source::PolicySource;
use cedar_policy::pst::{ActionConstraint, Expr, PrincipalConstraint, ResourceConstraint};
use cedar_policy::{Entities, EvalResult, Expression, Policy, Request, eval_expression};
use std::ops::Range;

/// Which part of a policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// An action of the scope.
    Action,
    /// The constraint on the principal.
    Principal,
    /// The constraint on the resource.
    Resource,
    /// An operand in a `when` or `unless` condition.
    Condition,
}

/// A part of a policy.
#[derive(Debug, Clone)]
pub struct PolicyPart {
    /// Which part of the policy it is.
    pub kind: PartKind,
    /// Its text in the file.
    pub text: String,
    /// The bytes of the file that it occupies.
    pub span: Range<usize>,
}

/// The value of a part in the evaluation of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartValue {
    /// It is true.
    True,
    /// It is false.
    False,
    /// Its evaluation fails.
    Error,
}

#[derive(Debug)]
struct Node {
    part: Option<usize>,
    operator: Operator,
}

#[derive(Debug)]
enum Operator {
    /// An element of the scope.
    Scope(Expression),
    /// A part of a condition that has no parts.
    Test(Box<ConditionPart>),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    If(Box<[Node; 3]>),
}

/// The parts of a policy, in the order of evaluation.
#[derive(Debug)]
pub struct PolicyParts {
    parts: Vec<PolicyPart>,
    actions: Vec<Node>,
    scope: Vec<Node>,
    conditions: Vec<Node>,
    span: Range<usize>,
}

impl PolicyParts {
    /// The parts of a policy. None if the policy was not parsed from text.
    pub fn new(policy: &Policy) -> Option<Self> {
        let source = PolicySource::of(policy)?;
        let mut builder = Builder { parts: Vec::new(), source: &source };
        let (actions, scope) = builder.scope(policy)?;
        let clauses = ConditionPart::of_policy(policy).ok()?;
        // Several clauses are a conjunction: each of them is an operand.
        let is_operand = clauses.len() > 1;
        let conditions = clauses.into_iter().map(|clause| {
            let is_negated = clause.clause == ClauseKind::Unless;
            let node = builder.node(clause, is_operand);
            if is_negated { Node { part: None, operator: Operator::Not(Box::new(node)) } } else { node }
        });
        let conditions = conditions.collect();
        Some(Self { parts: builder.parts, actions, scope, conditions, span: source.effect..source.end })
    }

    /// The parts.
    pub fn parts(&self) -> &[PolicyPart] {
        &self.parts
    }

    /// The bytes of the file from `permit` or `forbid` to the end of the policy.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Evaluates the policy and returns its value. `record` gets the index and the value of each part that is reached.
    ///
    /// Each action of the scope is a part of its own, and reached in every evaluation. Principal and resource are reached by
    /// requests with one of the actions, and conditions by requests that the whole scope matches.
    pub fn evaluate(
        &self,
        request: &Request,
        entities: &Entities,
        record: &mut dyn FnMut(usize, PartValue),
    ) -> PartValue {
        let mut evaluation = Evaluation { request, entities, record };
        let actions: Vec<PartValue> = self.actions.iter().map(|action| evaluation.value(action)).collect();
        if !actions.is_empty() && !actions.contains(&PartValue::True) {
            return PartValue::False;
        }
        for node in self.scope.iter().chain(&self.conditions) {
            let value = evaluation.value(node);
            if value != PartValue::True {
                return value;
            }
        }
        PartValue::True
    }
}

struct Builder<'a> {
    parts: Vec<PolicyPart>,
    source: &'a PolicySource<'a>,
}

impl Builder<'_> {
    /// The nodes of the actions, and those of principal and resource. Unconstrained ones have none.
    fn scope(&mut self, policy: &Policy) -> Option<(Vec<Node>, Vec<Node>)> {
        let tree = policy.to_pst().ok()?;
        let tree = tree.body();
        let uids = match &tree.action {
            ActionConstraint::Any => &[],
            ActionConstraint::Eq(uid) => std::slice::from_ref(uid),
            ActionConstraint::In(uids) => uids.as_slice(),
        };
        let spans = self.source.actions.iter().cloned();
        let actions = uids.iter().zip(spans).map(|(uid, span)| {
            // An action may be in a group that the policy names.
            self.scope_node(PartKind::Action, Some(format!("action in {uid}")), span)
        });
        let actions = actions.collect::<Option<Vec<Node>>>()?;
        let text = |span: &Range<usize>| self.source.text.get(span.clone()).map(str::to_owned);
        let mut scope = Vec::new();
        if tree.principal != PrincipalConstraint::Any {
            let span = self.source.principal.clone();
            scope.push((PartKind::Principal, text(&span), span));
        }
        if tree.resource != ResourceConstraint::Any {
            let span = self.source.resource.clone();
            scope.push((PartKind::Resource, text(&span), span));
        }
        let scope = scope.into_iter().map(|(kind, text, span)| self.scope_node(kind, text, span));
        Some((actions, scope.collect::<Option<Vec<Node>>>()?))
    }

    fn scope_node(&mut self, kind: PartKind, expression: Option<String>, span: Range<usize>) -> Option<Node> {
        let operator = Operator::Scope(expression?.parse().ok()?);
        let text = self.source.text.get(span.clone())?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.parts.push(PolicyPart { kind, text, span });
        Some(Node { part: Some(self.parts.len() - 1), operator })
    }

    /// The node of a part of a condition. A composite part is listed only if it is an operand itself.
    fn node(&mut self, mut part: ConditionPart, is_operand: bool) -> Node {
        let children = std::mem::take(&mut part.children);
        let is_test = matches!(part.composition, Composition::Test);
        let is_constant = matches!(*part.expression, Expr::Literal(_));
        let is_listed = match part.composition {
            Composition::Test => !is_constant,
            // The value of a negation follows from that of its operand.
            Composition::Not => false,
            Composition::All | Composition::Any | Composition::If => is_operand,
        };
        let index = part.span.as_ref().filter(|_| is_listed).map(|span| {
            let (text, span) = (part.text.clone(), span.bytes.clone());
            self.parts.push(PolicyPart { kind: PartKind::Condition, text, span });
            self.parts.len() - 1
        });
        if is_test {
            return Node { part: index, operator: Operator::Test(Box::new(part)) };
        }
        let is_operand = is_operand || part.composition != Composition::Not;
        let nodes: Vec<Node> = children.into_iter().map(|child| self.node(child, is_operand)).collect();
        let operator = match part.composition {
            Composition::Not => nodes.into_iter().next().map(|node| Operator::Not(Box::new(node))),
            Composition::Any => Some(Operator::Any(nodes)),
            Composition::If => nodes.try_into().ok().map(|nodes| Operator::If(Box::new(nodes))),
            Composition::All | Composition::Test => Some(Operator::All(nodes)),
        };
        Node { part: index, operator: operator.unwrap_or_else(|| Operator::Test(Box::new(part))) }
    }
}

struct Evaluation<'a> {
    request: &'a Request,
    entities: &'a Entities,
    record: &'a mut dyn FnMut(usize, PartValue),
}

impl Evaluation<'_> {
    fn value(&mut self, node: &Node) -> PartValue {
        let value = match &node.operator {
            Operator::Scope(expression) => {
                part_value(match eval_expression(self.request, self.entities, expression) {
                    Ok(EvalResult::Bool(value)) => Some(value),
                    Ok(_) | Err(_) => None,
                })
            }
            Operator::Test(part) => part_value(part.evaluate(self.request, self.entities)),
            Operator::Not(operand) => match self.value(operand) {
                PartValue::True => PartValue::False,
                PartValue::False => PartValue::True,
                PartValue::Error => PartValue::Error,
            },
            Operator::All(operands) => self.first_other_than(PartValue::True, operands),
            Operator::Any(operands) => self.first_other_than(PartValue::False, operands),
            Operator::If(operands) => {
                let [test, then, other] = operands.as_ref();
                match self.value(test) {
                    PartValue::True => self.value(then),
                    PartValue::False => self.value(other),
                    PartValue::Error => PartValue::Error,
                }
            }
        };
        if let Some(part) = node.part {
            (self.record)(part, value);
        }
        value
    }

    /// The value of the first operand that has another value than this one; this one if there is none.
    fn first_other_than(&mut self, neutral: PartValue, operands: &[Node]) -> PartValue {
        for operand in operands {
            let value = self.value(operand);
            if value != neutral {
                return value;
            }
        }
        neutral
    }
}

fn part_value(value: Option<bool>) -> PartValue {
    match value {
        Some(true) => PartValue::True,
        Some(false) => PartValue::False,
        None => PartValue::Error,
    }
}
