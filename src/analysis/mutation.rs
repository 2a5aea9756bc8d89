//! Mutation operators: the small changes of a policy that its tests should notice.

use super::parentheses::readable_expression;
use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, EntityOrSlot, EntityType, EntityUID, Expr, Literal, Name,
    PrincipalConstraint, ResourceConstraint, StaticPolicy, Template, UnaryOp,
};
use cedar_policy::{Entities, Entity, EntityUid, Policy, pst};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MutationOperator {
    /// The policy is deleted.
    DeletePolicy,
    /// An action is deleted from the list of actions.
    DeleteAction,
    /// The constraint on principal or resource is deleted.
    DeleteConstraint,
    /// A `when` or `unless` is deleted.
    DeleteCondition,
    /// `when` becomes `unless`, or the reverse; or the test of an `if` is negated.
    NegateCondition,
    /// An operand of `&&` or `||` is deleted.
    DeleteOperand,
    /// `&&` becomes `||`.
    AndToOr,
    /// `||` becomes `&&`.
    OrToAnd,
    /// `==` becomes `!=`, or the reverse.
    NegateEquality,
    /// An entity is replaced by its parent or child in the data, such as a scope by the next one of the cascade.
    NeighbourEntity,
    /// An element of a set is deleted.
    DeleteElement,
}

/// A changed policy.
#[derive(Debug, Clone)]
pub(super) struct Mutation {
    pub operator: MutationOperator,
    /// What is changed, after the id of the policy, such as `without the action Action::"read"`.
    pub description: String,
    /// The changed policy; none if it is deleted.
    pub policy: Option<Policy>,
}

/// The parents and children of the entities of the data.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<EntityUID, Vec<EntityUID>>);

impl Neighbours {
    /// The neighbours in these data, of the same type.
    pub(super) fn new(data: &[Entity]) -> Self {
        let mut neighbours: HashMap<EntityUID, Vec<EntityUID>> = HashMap::new();
        let entities = Entities::from_entities(data.to_vec(), None).unwrap_or_else(|_| Entities::empty());
        for entity in data {
            let uid = entity.uid();
            let ancestors: Vec<&EntityUid> =
                entities.ancestors(&uid).into_iter().flatten().filter(|other| **other != uid).collect();
            // A missing entity is an ancestor of itself to Cedar.
            let is_between = |parent: &EntityUid, other: &EntityUid| {
                parent != other && entities.is_ancestor_of(parent, other)
            };
            let is_parent = |parent: &EntityUid| !ancestors.iter().any(|other| is_between(parent, other));
            for parent in ancestors.iter().copied().filter(|parent| is_parent(parent)) {
                let (Some(child), Some(parent)) = (pst_uid(&uid), pst_uid(parent)) else { continue };
                if child.ty == parent.ty {
                    neighbours.entry(child.clone()).or_default().push(parent.clone());
                    neighbours.entry(parent).or_default().push(child);
                }
            }
        }
        neighbours.values_mut().for_each(|uids| uids.sort_by(|one, other| one.eid.cmp(&other.eid)));
        Self(neighbours)
    }

    fn of(&self, uid: &EntityUID) -> &[EntityUID] {
        self.0.get(uid).map_or(&[], Vec::as_slice)
    }
}

fn pst_uid(uid: &EntityUid) -> Option<EntityUID> {
    let namespace = uid.type_name().namespace();
    let namespace = namespace.split("::").filter(|name| !name.is_empty());
    let name = Name::qualified(namespace, uid.type_name().basename()).ok()?;
    Some(EntityUID { ty: EntityType::from_name(name), eid: uid.id().unescaped().into() })
}

/// All changes of a policy, without those that give the same policy.
pub(super) fn mutations(policy: &Policy, neighbours: &Neighbours) -> Vec<Mutation> {
    let mut all = vec![Mutation {
        operator: MutationOperator::DeletePolicy,
        description: "deleted".to_owned(),
        policy: None,
    }];
    let Ok(tree) = policy.to_pst() else { return all };
    let template = tree.body();
    let mut seen = HashSet::from([template.to_string()]);
    for change in scope_changes(template, neighbours).into_iter().chain(clause_changes(template, neighbours))
    {
        if !seen.insert(change.value.to_string()) {
            continue;
        }
        let changed = StaticPolicy::try_from(change.value).ok();
        let changed = changed.and_then(|changed| Policy::from_pst(pst::Policy::Static(changed)).ok());
        let Some(changed) = changed else { continue };
        let (operator, description) = (change.operator, change.description);
        all.push(Mutation { operator, description, policy: Some(changed.new_id(policy.id().clone())) });
    }
    all
}

/// A changed value.
struct Change<T> {
    operator: MutationOperator,
    description: String,
    value: T,
}

impl<T> Change<T> {
    fn new(operator: MutationOperator, description: String, value: T) -> Self {
        Self { operator, description, value }
    }

    fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Change<U> {
        Change { operator: self.operator, description: self.description, value: wrap(self.value) }
    }
}

fn scope_changes(template: &Template, neighbours: &Neighbours) -> Vec<Change<Template>> {
    let mut changes = Vec::new();
    if let ActionConstraint::In(uids) = &template.action
        && uids.len() > 1
    {
        for (index, uid) in uids.iter().enumerate() {
            let action = ActionConstraint::In(without(uids, index));
            let description = format!("without the action {uid}");
            let mut changed = template.clone();
            changed.action = action;
            changes.push(Change::new(MutationOperator::DeleteAction, description, changed));
        }
    }
    for change in principal_changes(&template.principal, neighbours) {
        let mut changed = template.clone();
        changes.push(change.map(|principal| {
            changed.principal = principal;
            changed
        }));
    }
    for change in resource_changes(&template.resource, neighbours) {
        let mut changed = template.clone();
        changes.push(change.map(|resource| {
            changed.resource = resource;
            changed
        }));
    }
    changes
}

fn principal_changes(
    constraint: &PrincipalConstraint,
    neighbours: &Neighbours,
) -> Vec<Change<PrincipalConstraint>> {
    let mut changes = Vec::new();
    let mut delete = |description: &str, value| {
        changes.push(Change::new(MutationOperator::DeleteConstraint, description.to_owned(), value));
    };
    match constraint {
        PrincipalConstraint::Any => {}
        PrincipalConstraint::IsIn(kind, _) => {
            delete("for principals outside of the entity", PrincipalConstraint::Is(kind.clone()));
        }
        _ => delete("for any principal", PrincipalConstraint::Any),
    }
    let replaced = |uid: EntityUID| match constraint {
        PrincipalConstraint::IsIn(kind, _) => {
            PrincipalConstraint::IsIn(kind.clone(), EntityOrSlot::Entity(uid))
        }
        _ => PrincipalConstraint::In(EntityOrSlot::Entity(uid)),
    };
    if let PrincipalConstraint::In(EntityOrSlot::Entity(uid))
    | PrincipalConstraint::IsIn(_, EntityOrSlot::Entity(uid)) = constraint
    {
        changes.extend(neighbour_changes(uid, neighbours).into_iter().map(|change| change.map(replaced)));
    }
    changes
}

fn resource_changes(
    constraint: &ResourceConstraint,
    neighbours: &Neighbours,
) -> Vec<Change<ResourceConstraint>> {
    let mut changes = Vec::new();
    let mut delete = |description: &str, value| {
        changes.push(Change::new(MutationOperator::DeleteConstraint, description.to_owned(), value));
    };
    match constraint {
        ResourceConstraint::Any => {}
        ResourceConstraint::IsIn(kind, _) => {
            delete("for resources outside of the entity", ResourceConstraint::Is(kind.clone()));
        }
        _ => delete("for any resource", ResourceConstraint::Any),
    }
    let replaced = |uid: EntityUID| match constraint {
        ResourceConstraint::IsIn(kind, _) => {
            ResourceConstraint::IsIn(kind.clone(), EntityOrSlot::Entity(uid))
        }
        _ => ResourceConstraint::In(EntityOrSlot::Entity(uid)),
    };
    if let ResourceConstraint::In(EntityOrSlot::Entity(uid))
    | ResourceConstraint::IsIn(_, EntityOrSlot::Entity(uid)) = constraint
    {
        changes.extend(neighbour_changes(uid, neighbours).into_iter().map(|change| change.map(replaced)));
    }
    changes
}

fn neighbour_changes(uid: &EntityUID, neighbours: &Neighbours) -> Vec<Change<EntityUID>> {
    let change = |neighbour: &EntityUID| {
        let description = format!("with {neighbour} instead of {uid}");
        Change::new(MutationOperator::NeighbourEntity, description, neighbour.clone())
    };
    neighbours.of(uid).iter().map(change).collect()
}

fn clause_changes(template: &Template, neighbours: &Neighbours) -> Vec<Change<Template>> {
    let clauses = template.clauses();
    let mut changes = Vec::new();
    for (index, clause) in clauses.iter().enumerate() {
        let (expression, word, other_word, wrap, other): (_, _, _, fn(Arc<Expr>) -> Clause, _) = match clause
        {
            Clause::When(expression) => {
                (expression, "when", "unless", Clause::When, Clause::Unless(expression.clone()))
            }
            Clause::Unless(expression) => {
                (expression, "unless", "when", Clause::Unless, Clause::When(expression.clone()))
            }
        };
        let text = format!("{word} {{ {} }}", shortened(expression));
        let description = format!("without {text}");
        changes.push(Change::new(MutationOperator::DeleteCondition, description, without(clauses, index)));
        let description = format!("with {other_word} instead of {text}");
        changes.push(Change::new(
            MutationOperator::NegateCondition,
            description,
            replaced(clauses, index, other),
        ));
        for change in expression_changes(expression, neighbours) {
            changes.push(change.map(|changed| replaced(clauses, index, wrap(changed))));
        }
    }
    let with_clauses = |change: Change<Vec<Clause>>| {
        let changed = template.clone().try_with_clauses(change.value).ok()?;
        Some(Change::new(change.operator, change.description, changed))
    };
    changes.into_iter().filter_map(with_clauses).collect()
}

/// All changes of one place in an expression.
fn expression_changes(expression: &Arc<Expr>, neighbours: &Neighbours) -> Vec<Change<Arc<Expr>>> {
    match &**expression {
        Expr::BinaryOp { op: op @ (BinaryOp::And | BinaryOp::Or), .. } => {
            chain_changes(expression, *op, neighbours)
        }
        Expr::BinaryOp { op, left, right } => {
            let mut changes: Vec<_> = equality_change(*op, left, right).into_iter().collect();
            changes.extend(within(left, neighbours, |left| binary(*op, left, right.clone())));
            changes.extend(within(right, neighbours, |right| binary(*op, left.clone(), right)));
            changes
        }
        Expr::UnaryOp { op, expr } => {
            within(expr, neighbours, |expr| Arc::new(Expr::UnaryOp { op: *op, expr }))
        }
        Expr::GetAttr { expr, attr } => {
            within(expr, neighbours, |expr| Arc::new(Expr::GetAttr { expr, attr: attr.clone() }))
        }
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            let build =
                |cond, then_expr, else_expr| Arc::new(Expr::IfThenElse { cond, then_expr, else_expr });
            let negated = Arc::new(Expr::UnaryOp { op: UnaryOp::Not, expr: cond.clone() });
            let description = format!("with the negation of {}", shortened(cond));
            let negated = build(negated, then_expr.clone(), else_expr.clone());
            let mut changes = vec![Change::new(MutationOperator::NegateCondition, description, negated)];
            changes
                .extend(within(cond, neighbours, |cond| build(cond, then_expr.clone(), else_expr.clone())));
            changes
                .extend(within(then_expr, neighbours, |then| build(cond.clone(), then, else_expr.clone())));
            changes
                .extend(within(else_expr, neighbours, |other| build(cond.clone(), then_expr.clone(), other)));
            changes
        }
        Expr::Set(elements) => set_changes(elements, neighbours),
        Expr::Literal(Literal::EntityUID(uid)) => {
            let wrap = |uid| Arc::new(Expr::Literal(Literal::EntityUID(uid)));
            neighbour_changes(uid, neighbours).into_iter().map(|change| change.map(wrap)).collect()
        }
        Expr::Is { expr, entity_type, in_expr: Some(ancestor) } => within(ancestor, neighbours, |ancestor| {
            let (expr, entity_type) = (expr.clone(), entity_type.clone());
            Arc::new(Expr::Is { expr, entity_type, in_expr: Some(ancestor) })
        }),
        _ => Vec::new(),
    }
}

/// The changes of an operand, each put back into the whole.
fn within(
    operand: &Arc<Expr>,
    neighbours: &Neighbours,
    wrap: impl Fn(Arc<Expr>) -> Arc<Expr>,
) -> Vec<Change<Arc<Expr>>> {
    expression_changes(operand, neighbours).into_iter().map(|change| change.map(&wrap)).collect()
}

/// The changes of `a && b && c`: an operand is missing, one operator is another, or an operand is changed.
fn chain_changes(expression: &Arc<Expr>, op: BinaryOp, neighbours: &Neighbours) -> Vec<Change<Arc<Expr>>> {
    let operands = operands(expression, op);
    let mut changes = Vec::new();
    for (index, operand) in operands.iter().enumerate() {
        if let Some(rest) = chain(op, without(&operands, index)) {
            let description = format!("without {}", shortened(operand));
            changes.push(Change::new(MutationOperator::DeleteOperand, description, rest));
        }
    }
    let (operator, words, other) = match op {
        BinaryOp::And => (MutationOperator::AndToOr, "|| instead of &&", BinaryOp::Or),
        _ => (MutationOperator::OrToAnd, "&& instead of ||", BinaryOp::And),
    };
    for (index, operand) in operands.iter().enumerate().skip(1) {
        let (left, right) = operands.split_at(index);
        if let (Some(left), Some(right)) = (chain(op, left.to_vec()), chain(op, right.to_vec())) {
            let description = format!("with {words} before {}", shortened(operand));
            changes.push(Change::new(operator, description, binary(other, left, right)));
        }
    }
    for (index, operand) in operands.iter().enumerate() {
        for change in expression_changes(operand, neighbours) {
            let Change { operator, description, value } = change;
            let changed = chain(op, replaced(&operands, index, value));
            changes.extend(changed.map(|changed| Change::new(operator, description, changed)));
        }
    }
    changes
}

fn equality_change(op: BinaryOp, left: &Arc<Expr>, right: &Arc<Expr>) -> Option<Change<Arc<Expr>>> {
    let other = match op {
        BinaryOp::Eq => BinaryOp::NotEq,
        BinaryOp::NotEq => BinaryOp::Eq,
        _ => return None,
    };
    let changed = binary(other, left.clone(), right.clone());
    let original = binary(op, left.clone(), right.clone());
    let description = format!("with {} instead of {}", shortened(&changed), shortened(&original));
    Some(Change::new(MutationOperator::NegateEquality, description, changed))
}

fn set_changes(elements: &[Arc<Expr>], neighbours: &Neighbours) -> Vec<Change<Arc<Expr>>> {
    let mut changes = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        if elements.len() > 1 {
            let description = format!("without the element {}", shortened(element));
            let changed = Arc::new(Expr::Set(without(elements, index)));
            changes.push(Change::new(MutationOperator::DeleteElement, description, changed));
        }
        let wrap = |changed| Arc::new(Expr::Set(replaced(elements, index, changed)));
        changes.extend(within(element, neighbours, wrap));
    }
    changes
}

/// The operands of a chain of one operator.
fn operands(expression: &Arc<Expr>, operator: BinaryOp) -> Vec<Arc<Expr>> {
    match &**expression {
        Expr::BinaryOp { op, left, right } if *op == operator => {
            let mut all = operands(left, operator);
            all.extend(operands(right, operator));
            all
        }
        _ => vec![expression.clone()],
    }
}

/// The chain of these operands; none without operands.
fn chain(operator: BinaryOp, operands: Vec<Arc<Expr>>) -> Option<Arc<Expr>> {
    operands.into_iter().reduce(|left, right| binary(operator, left, right))
}

fn binary(op: BinaryOp, left: Arc<Expr>, right: Arc<Expr>) -> Arc<Expr> {
    Arc::new(Expr::BinaryOp { op, left, right })
}

fn without<T: Clone>(items: &[T], index: usize) -> Vec<T> {
    let kept = items.iter().enumerate().filter(|(other, _)| *other != index);
    kept.map(|(_, item)| item.clone()).collect()
}

fn replaced<T: Clone>(items: &[T], index: usize, value: T) -> Vec<T> {
    let mut items = items.to_vec();
    if let Some(item) = items.get_mut(index) {
        *item = value;
    }
    items
}

/// The maximum number of characters of an expression in a description.
const MAX_SHORTENED: usize = 80;

/// An expression on one line, shortened.
fn shortened(expression: &Expr) -> String {
    let text = readable_expression(&expression.to_string());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_SHORTENED) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default().trim_end()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_changes_one_place() {
        use MutationOperator::*;
        let text = r#"permit (principal in Scope::"agent", action in [Action::"a", Action::"b"], resource is Form)
            when { context.x == 1 && (context.y || !context.z) }
            unless { principal in [Scope::"admin", Scope::"guest"] };"#;
        let uid = |id: &str| format!("Scope::{id:?}").parse::<EntityUid>().unwrap();
        let scope = |(id, parents): (&str, &[&str])| {
            Entity::new_no_attrs(uid(id), parents.iter().copied().map(uid).collect())
        };
        let data = [("admin", &["agent"] as &[&str]), ("agent", &["guest"]), ("guest", &[])].map(scope);
        let changes: Vec<(MutationOperator, String)> =
            mutations(&text.parse().unwrap(), &Neighbours::new(&data))
                .into_iter()
                .map(|mutation| (mutation.operator, mutation.description))
                .collect();
        let expected = [
            (DeletePolicy, "deleted"),
            (DeleteAction, r#"without the action Action::"a""#),
            (DeleteAction, r#"without the action Action::"b""#),
            (DeleteConstraint, "for any principal"),
            (NeighbourEntity, r#"with Scope::"admin" instead of Scope::"agent""#),
            (NeighbourEntity, r#"with Scope::"guest" instead of Scope::"agent""#),
            (DeleteConstraint, "for any resource"),
            (DeleteCondition, "without when { context.x == 1 && (context.y || !context.z) }"),
            (NegateCondition, "with unless instead of when { context.x == 1 && (context.y || !context.z) }"),
            (DeleteOperand, "without context.x == 1"),
            (DeleteOperand, "without context.y || !context.z"),
            (AndToOr, "with || instead of && before context.y || !context.z"),
            (NegateEquality, "with context.x != 1 instead of context.x == 1"),
            (DeleteOperand, "without context.y"),
            (DeleteOperand, "without !context.z"),
            (OrToAnd, "with && instead of || before !context.z"),
        ];
        for (index, (operator, description)) in expected.iter().enumerate() {
            assert_eq!(
                (changes[index].0, changes[index].1.as_str()),
                (*operator, *description),
                "{changes:#?}"
            );
        }
        let elements = changes.iter().filter(|(operator, _)| *operator == DeleteElement).count();
        let neighbours = changes.iter().filter(|(operator, _)| *operator == NeighbourEntity).count();
        assert_eq!((changes.len(), elements, neighbours), (22, 2, 4), "{changes:#?}");
    }
}
