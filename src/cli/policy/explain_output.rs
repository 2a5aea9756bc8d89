//! What `cedargate policy explain` prints.

use crate::api::decisions::evaluation::{Decision, PolicyView};
use crate::authz::{
    Engine, ExplainedPart, ExplainedPolicy, LeastChange, Outcome, ReadValue, Scope, ScopeSet,
};
use serde::Serialize;
use serde_json::Value;

/// A decision with what was asked.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedDecision {
    pub(super) subject: String,
    pub(super) action: String,
    pub(super) resource: String,
    /// Whether the resource is of a stored type and does not exist.
    #[serde(rename = "resource_is_missing")]
    pub(super) is_missing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scopes: Option<EvaluatedScopes>,
    /// The short form of the policy version, for people.
    #[serde(skip)]
    pub(super) short_version: String,
    #[serde(flatten)]
    pub(super) decision: Decision,
}

/// The scopes for which a user was evaluated.
#[derive(Debug, Serialize)]
pub(super) struct EvaluatedScopes {
    /// Those of `--scope`; none for the whole role.
    pub(super) requested: Option<ScopeSet>,
    /// Those that apply: the requested ones and those below them, capped by the role.
    pub(super) effective: Option<ScopeSet>,
    pub(super) role: Scope,
    /// Those of the role and those below it.
    #[serde(skip)]
    pub(super) of_role: Option<ScopeSet>,
    /// The requested scopes that the role does not have, so that they do not apply.
    pub(super) not_in_role: Vec<Scope>,
}

impl EvaluatedScopes {
    /// Creates the scopes of a user with this role, evaluated for these scopes if there are any.
    pub(super) fn new(engine: &Engine, requested: Option<ScopeSet>, role: Scope) -> Self {
        let of_role = engine.effective_scopes(&ScopeSet::from(role), role);
        let effective = match &requested {
            Some(requested) => engine.effective_scopes(requested, role),
            None => of_role.clone(),
        };
        let is_missing = |scope: &Scope| !contains(of_role.as_ref(), *scope);
        let not_in_role = requested.iter().flat_map(ScopeSet::iter).filter(is_missing).collect();
        Self { requested, effective, role, of_role, not_in_role }
    }

    fn line(&self) -> String {
        let effective = self.effective.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        match &self.requested {
            Some(requested) if !self.not_in_role.is_empty() => {
                let missing: Vec<&str> = self.not_in_role.iter().map(|scope| scope.as_str()).collect();
                format!(
                    "  asked for a credential with the scope {requested}, but the role {} of the user does not have {}; evaluated \
                     for the effective scopes: {effective}",
                    self.role,
                    missing.join(" ")
                )
            }
            Some(requested) => format!(
                "  evaluated for a credential with the scope {requested} of a user with the role {}; effective scopes: {effective}",
                self.role
            ),
            None => format!("  evaluated for the whole role {}; effective scopes: {effective}", self.role),
        }
    }
}

/// Whether a set has this scope.
fn contains(scopes: Option<&ScopeSet>, scope: Scope) -> bool {
    scopes.is_some_and(|scopes| scopes.iter().any(|one| one == scope))
}

impl ExplainedDecision {
    /// The decision as a JSON object.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The decision as lines of text.
    pub(super) fn to_text(&self) -> String {
        let decision = if self.decision.decision { "allow" } else { "deny" };
        let mut lines = vec![format!("{decision}: {} {} {}", self.subject, self.action, self.resource)];
        lines.extend(self.scopes.as_ref().map(EvaluatedScopes::line));
        if self.is_missing {
            lines.push(format!("  the resource {} does not exist", self.resource));
        }
        let Some(context) = &self.decision.context else { return lines.join("\n") };
        if self.decision.decision {
            lines.push("  permitted by".to_owned());
            lines.extend(context.policies.iter().flatten().map(policy_line));
        }
        lines.extend(context.error.as_ref().map(|error| format!("  error: {}", error.message)));
        if let Some(reasons) = &context.reasons {
            lines.extend(heading(reasons.outcome, reasons.policies.is_empty()).map(str::to_owned));
            lines.extend(reasons.policies.iter().flat_map(policy_lines));
            let change_line = |change| change_line(change, self.scopes.as_ref());
            lines.extend(reasons.changes.iter().map(change_line));
        }
        lines.extend(
            context
                .warnings
                .iter()
                .map(|warning| format!("  warning: {}: {}", warning.field, warning.message)),
        );
        lines.push(format!("  policy version {}", self.short_version));
        lines.join("\n")
    }
}

/// The line before the policies of an explanation.
const fn heading(outcome: Outcome, is_empty: bool) -> Option<&'static str> {
    match (outcome, is_empty) {
        (Outcome::Allowed, true) => None,
        (Outcome::Allowed, false) => Some("  forbid policies that match except for their conditions:"),
        (Outcome::Forbidden, _) => Some("  forbidden by"),
        (Outcome::NotPermitted, true) => Some("  not permitted: no policy permits this action"),
        (Outcome::NotPermitted, false) => {
            Some("  not permitted: policies that match except for their conditions, principal or resource:")
        }
    }
}

fn policy_line(policy: &PolicyView) -> String {
    let (file, line) = (policy.file.as_deref().unwrap_or_default(), policy.line.unwrap_or_default());
    format!("    {}  {file}:{line}  {}", policy.id, policy.doc.as_deref().unwrap_or_default())
}

fn policy_lines(policy: &ExplainedPolicy) -> Vec<String> {
    let ExplainedPolicy { id, file, line, .. } = policy;
    let mut lines = vec![format!("    {id}  {file}:{line}  {}", policy.doc.as_deref().unwrap_or_default())];
    for part in &policy.parts {
        lines.push(part_line(part, file));
        lines.extend(part.values.iter().map(value_line));
    }
    lines
}

fn part_line(part: &ExplainedPart, file: &str) -> String {
    let holds = match part.holds {
        Some(true) => "holds",
        Some(false) => "does not hold",
        None => "cannot be evaluated alone",
    };
    let place = match (part.line, part.column) {
        (Some(line), Some(column)) => format!("  {file}:{line}:{column}"),
        _ => String::new(),
    };
    format!("      {}: {} {holds}{place}", part.clause, part.expression)
}

fn value_line(value: &ReadValue) -> String {
    match (&value.value, value.missing) {
        (Some(Value::Array(elements)), _) if elements.is_empty() => format!("        {} = none", value.name),
        (Some(shown), _) => format!("        {} = {shown}", value.name),
        (None, missing) => format!("        {} is {}", value.name, missing.unwrap_or("absent")),
    }
}

fn change_line(change: &LeastChange, scopes: Option<&EvaluatedScopes>) -> String {
    match change {
        LeastChange::Scope { scope, .. } => {
            let limit = match scopes.filter(|scopes| !contains(scopes.of_role.as_ref(), *scope)) {
                Some(scopes) => format!(", which the role {} does not have", scopes.role),
                None => String::new(),
            };
            format!("  requires the scope {scope}{limit} (checked: with it, the decision is allow)")
        }
        LeastChange::Context { text, .. } => format!("  allowed {text} (checked)"),
    }
}
