//! Claims: what the policies never allow, and what they always allow. Policies in form, but no part of the evaluated set.

use super::diagnostics::{Diagnostics, SourceFile};
use super::lint;
use super::policies::parse_policies;
use super::rules::Rule;
use crate::authz::PolicyMetadata;
use crate::authz::snapshot::Snapshot;
use crate::authz::snapshot_file::FileKind;
use crate::authz::version::hash_of;
use crate::types::{Cache, Validity, Versions};
use cedar_policy::{Entity, Policy, PolicyId, Schema};
use std::sync::{Arc, LazyLock};

/// The id of the claim about the cascade of scopes.
pub const CASCADE_CLAIM: &str = "cascade-is-monotone";

/// The claims that `policy prove` makes about all policies: id and text.
pub const BUILT_IN_CLAIMS: [(&str, &str); 3] = [
    ("policies-never-fail", "No policy can raise an evaluation error."),
    ("policies-can-match", "Every policy matches some request."),
    (CASCADE_CLAIM, "Whatever a scope may do, every scope above it in guest < agent < bot < admin may do."),
];

/// The maximum size of the cached files of claims, in bytes of their texts: 8 MiB.
const MAX_CACHED_BYTES: u64 = 8 * 1024 * 1024;

/// Valid claims, by a hash of the files that their validation depends on: schema, data and claims. Validating the claims takes
/// several times as long as validating the policies, of which there are fewer, and which change more often.
static VALID_CLAIMS: LazyLock<Cache<String, Arc<[Claim]>>> =
    LazyLock::new(|| Cache::new(MAX_CACHED_BYTES, true));

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

/// Parses and validates the claims of a snapshot, with its schema and data. Those that were valid with the same files of
/// schema, data and claims before are not validated again.
pub(super) fn read_claims(
    snapshot: &Snapshot,
    schema: Option<&Schema>,
    data: &[Entity],
    diagnostics: &mut Diagnostics,
) -> Arc<[Claim]> {
    let key = hash_of(snapshot.files(), &[FileKind::Schema, FileKind::Data, FileKind::Claims]);
    if let Some(claims) = VALID_CLAIMS.get(&key, &Versions::default()) {
        return claims;
    }
    let files: Vec<SourceFile> = snapshot
        .of_kind(FileKind::Claims)
        .map(|file| SourceFile::new(file.path.clone(), file.text.to_string()))
        .collect();
    let mut found = Diagnostics::default();
    let claims: Arc<[Claim]> = parse_claims(&files, schema, data, &mut found).into();
    if schema.is_some() && found.0.is_empty() {
        let bytes: usize = files.iter().map(|file| file.text.len()).sum();
        let weight = u64::try_from(bytes).unwrap_or(u64::MAX).max(1);
        VALID_CLAIMS.insert_weighted(key, Arc::clone(&claims), Validity::default(), weight);
    }
    diagnostics.0.append(&mut found.0);
    claims
}

/// Parses and validates the claims of these files, with the same rules as policies. Each needs a text in `@doc`, too.
fn parse_claims(
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
        if BUILT_IN_CLAIMS.iter().any(|(built_in, _)| *built_in == id)
            && let Some(file) = files.iter().find(|file| file.name == metadata.file)
        {
            let message = format!("the id {id:?} is that of a built-in claim; use another one");
            diagnostics.0.push(file.diagnostic(Rule::ReservedId, Some(metadata.line), message).about(&id));
        }
        if let Some(policy) = policies.policy(&PolicyId::new(&id)) {
            claims.push(Claim { metadata: Arc::new(metadata), policy: policy.clone() });
        }
    }
    let position = |claim: &Claim| files.iter().position(|file| file.name == claim.metadata.file);
    claims.sort_by_key(|claim| (position(claim), claim.metadata.line));
    claims
}
