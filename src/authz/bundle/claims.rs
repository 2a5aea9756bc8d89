//! Claims: what the policies never allow, and what they always allow. Policies in form, but no part of the evaluated set.

use super::diagnostics::{Diagnostics, SourceFile};
use super::rules::Rule;
use super::{lint, parse_policies};
use crate::authz::PolicyMetadata;
use cedar_policy::{Entity, Policy, PolicyId, Schema};
use std::sync::Arc;

/// A claim about the policies.
///
/// A `forbid` says that no request that it matches is allowed, a `permit` that every request that it matches is allowed.
#[derive(Debug, Clone)]
pub struct Claim {
    metadata: Arc<PolicyMetadata>,
    policy: Policy,
}

impl Claim {
    /// Its id, text, effect and place.
    pub fn metadata(&self) -> &PolicyMetadata {
        &self.metadata
    }

    /// The claim as a policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Parses and validates the claims of these files, with the same rules as policies. Each needs a text in `@doc`, too.
pub(super) fn parse_claims(
    files: &[SourceFile],
    schema: Option<&Schema>,
    data: &[Entity],
    diagnostics: &mut Diagnostics,
) -> Vec<Claim> {
    let (policies, metadata) = parse_policies(files, schema, diagnostics);
    lint(&policies, &metadata, data, diagnostics);
    let mut claims = Vec::new();
    for (id, metadata) in metadata {
        if metadata.doc.as_deref().is_none_or(|doc| doc.trim().is_empty())
            && let Some(file) = files.iter().find(|file| file.name == metadata.file)
        {
            let message = format!("the claim {id:?} has no @doc(\"…\") annotation that says what it means");
            diagnostics.0.push(file.diagnostic(Rule::InvalidClaim, Some(metadata.line), message).about(&id));
        }
        if let Some(policy) = policies.policy(&PolicyId::new(&id)) {
            claims.push(Claim { metadata: Arc::new(metadata), policy: policy.clone() });
        }
    }
    let position = |claim: &Claim| files.iter().position(|file| file.name == claim.metadata.file);
    claims.sort_by_key(|claim| (position(claim), claim.metadata.line));
    claims
}
