//! Explanations of decisions, as the API returns them.

use super::Scope;
use super::condition_parts::ClauseKind;
use super::policy_metadata::PolicyMetadata;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The attributes that an explanation may show, and whose tests it may report one by one.
///
/// What is hidden is not read: no part of an explanation depends on it, except as far as the decision itself does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visibility {
    /// Whether the attributes and ancestors of the principal are shown.
    pub principal: bool,
    /// Whether those of the resource are shown.
    pub resource: bool,
    /// Whether `context.changes` is shown, which the service derives from the stored resource.
    pub changes: bool,
}

impl Visibility {
    /// Everything is shown.
    pub const ALL: Self = Self { principal: true, resource: true, changes: true };
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ExplanationOutcome)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A policy permits the request, and none forbids it.
    Allowed,
    /// A policy forbids the request.
    Forbidden,
    /// No policy permits the request, and none forbids it.
    NotPermitted,
}

/// Why a request is allowed or denied, down to the conditions of the policies.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct Explanation {
    /// Whether the request is allowed, forbidden, or permitted by no policy.
    pub outcome: Outcome,
    /// `forbidden`: the policies that forbid it, with the parts of their conditions that hold. `not_permitted`: the policies
    /// that came nearest to a permit, with what does not hold. `allowed`: the forbid policies that match the request except for
    /// their conditions, with what does not hold. At most 10.
    pub policies: Vec<ExplainedPolicy>,
    /// The least changes of the request that give an allow: of the scope, and of single fields of the context. Each of them was
    /// evaluated, and allowed. Empty if none was found, and for a resource that does not exist or is not accessible.
    pub changes: Vec<LeastChange>,
}

/// A policy of an explanation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExplainedPolicy {
    /// Its id.
    pub id: String,
    /// `permit` or `forbid`.
    #[schema(value_type = String, examples("permit", "forbid"))]
    pub effect: &'static str,
    /// Its description (`@doc`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub doc: Option<String>,
    /// The name of its file.
    pub file: String,
    /// The line of its id, from 1.
    pub line: usize,
    /// The parts that decided. At most 20.
    pub parts: Vec<ExplainedPart>,
}

/// A part of a policy: a conjunct or disjunct of a condition, or what the scope of the policy requires.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExplainedPart {
    /// `when` or `unless`; `principal` or `resource` for the scope of the policy.
    #[schema(value_type = String, examples("when", "unless", "principal", "resource"))]
    pub clause: &'static str,
    /// The expression, in Cedar syntax.
    pub expression: String,
    /// Whether it holds. Absent if it reads attributes that the caller may not see: then this part, or another part without
    /// `holds`, decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub holds: Option<bool>,
    /// The line of its first character in the file of the policy, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<usize>,
    /// The column of its first character, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub column: Option<usize>,
    /// The values that it reads. At most 10.
    pub values: Vec<ReadValue>,
}

/// A value that a part of a policy reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadValue {
    /// What is read: `context.changes`, `resource.owner`, `principal`, `ancestors of principal`.
    pub name: String,
    /// The value. Entities are in Cedar syntax, such as `Docs::Person::"dan"`. Long texts and lists are truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub value: Option<Value>,
    /// Why there is no value: `absent`, or `hidden` if the caller may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub missing: Option<&'static str>,
}

/// A change of the request that gives an allow.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LeastChange {
    /// A credential with another scope.
    Scope {
        /// The lowest sufficient scope.
        scope: Scope,
        /// A description of the change.
        text: String,
    },
    /// Another value of one field of the context.
    Context {
        /// The field.
        #[schema(examples("context.changes"))]
        field: String,
        /// The new value, in Cedar's JSON format; absent if the field is removed.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        value: Option<Value>,
        /// A description of the change.
        #[schema(examples("without \"role\" in context.changes"))]
        text: String,
    },
}

impl LeastChange {
    /// A description of the change.
    pub fn text(&self) -> &str {
        match self {
            Self::Scope { text, .. } | Self::Context { text, .. } => text,
        }
    }
}

impl ExplainedPolicy {
    pub(super) fn new(policy: &PolicyMetadata, parts: Vec<ExplainedPart>) -> Self {
        Self {
            id: policy.id.clone(),
            effect: if policy.permits { "permit" } else { "forbid" },
            doc: policy.doc.clone(),
            file: policy.file.rsplit('/').next().unwrap_or_default().to_owned(),
            line: policy.line,
            parts,
        }
    }
}

impl ClauseKind {
    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::When => "when",
            Self::Unless => "unless",
            Self::Principal => "principal",
            Self::Resource => "resource",
        }
    }
}
