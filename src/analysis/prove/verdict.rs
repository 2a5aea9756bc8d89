//! The results of a proof.

use crate::authz::cases::PolicyTest;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a claim says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimKind {
    /// A `forbid` in a file of claims: no request that it matches is allowed.
    Never,
    /// A `permit` in a file of claims: every request that it matches is allowed.
    Always,
    /// A property that every policy set should have.
    BuiltIn,
}

/// Whether a claim holds.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It holds for all requests.
    Proven,
    /// It does not hold. At least one violation.
    Broken(Vec<Violation>),
    /// It is not known whether it holds, for this reason.
    Unknown(String),
}

impl Verdict {
    /// The word for it in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Broken(_) => "broken",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// What contradicts a claim.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    /// What is wrong, in one sentence.
    pub message: String,
    /// The policies that decide the example, or that are wrong themselves.
    pub policies: Vec<String>,
    /// The request environments in which the same is wrong: action, principal type and resource type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// Policy tests with the requests; they expect what the policies decide now, not what the claim says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<PolicyTest>,
    /// The file and line of what violates a built-in claim: the first of the policies, or else the scopes.
    #[serde(skip)]
    pub place: Option<(String, usize)>,
}

/// A claim and whether it holds.
#[derive(Debug, Clone)]
pub struct CheckedClaim {
    /// Its id.
    pub id: String,
    /// Its text.
    pub doc: String,
    /// What kind of claim it is.
    pub kind: ClaimKind,
    /// Its file and line; none if it is built in.
    pub place: Option<(String, usize)>,
    /// The file and line of what a built-in claim is unknown for: a policy, or the scopes.
    pub unknown_place: Option<(String, usize)>,
    /// Whether it holds.
    pub verdict: Verdict,
    /// The number of request environments (principal type, action and resource type) that were examined.
    pub environments: usize,
    /// The environments that the scope of the claim selects, but in which its conditions are false by the types of the schema.
    pub inapplicable: Vec<String>,
    /// The time of the solver and of the translation for it, on one core.
    pub duration: Duration,
}

/// The result of `policy prove`.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The version of the policies.
    pub version: String,
    /// The solver and its version.
    pub solver: String,
    /// The claims: first the built-in ones, then those of the files in their order.
    pub claims: Vec<CheckedClaim>,
    /// What was assumed of the data files, one sentence an entity.
    pub assumptions: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

impl Proof {
    /// The number of proven, broken and unknown claims.
    pub fn counts(&self) -> [usize; 3] {
        ["proven", "broken", "unknown"]
            .map(|word| self.claims.iter().filter(|claim| claim.verdict.word() == word).count())
    }
}
