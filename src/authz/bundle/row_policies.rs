//! Whether the policies of lists can be conditions on the rows of their tables.
//!
//! A list whose policies cannot be a condition would have to be refused, or to return rows that it should not. Such policies
//! are therefore not loaded.

use super::diagnostics::{BundleDiagnostic, Diagnostics};
use super::rules::Rule;
use super::schema::SchemaTypes;
use super::style::find_in_policy;
use crate::authz::filter::row_refusal;
use crate::authz::list_actions::is_row_environment;
use crate::authz::policy_metadata::PolicyMetadata;
use crate::authz::snapshot::StoredType;
use cedar_policy::{Effect, Policy, PolicySet, Schema};
use std::collections::{BTreeMap, BTreeSet};

/// Reports forbid policies of lists that cannot be conditions on rows, and permits that apply to rows only. Invalid policies
/// are reported as such only.
pub(super) fn check(
    policies: &PolicySet,
    metadata: &BTreeMap<String, PolicyMetadata>,
    schema: Option<&(Schema, SchemaTypes)>,
    stored: &[StoredType],
    diagnostics: &mut Diagnostics,
) {
    let Some((schema, (_, entity_types))) = schema else { return };
    let is_invalid = |policy: &Policy| {
        let id: &str = policy.id().as_ref();
        diagnostics.0.iter().any(|found| !found.rule.is_warning() && found.policy.as_deref() == Some(id))
    };
    let valid: Vec<&Policy> = policies.policies().filter(|policy| !is_invalid(policy)).collect();
    for policy in valid {
        let Some(metadata) = metadata.get::<str>(policy.id().as_ref()) else { continue };
        let (rows, others): (Vec<_>, Vec<_>) =
            policy.get_valid_request_envs(schema).partition(is_row_environment);
        let kinds: BTreeSet<String> = rows.iter().map(|row| row.resource().to_string()).collect();
        let mut report = |rule, text: Option<&str>, message: String| {
            diagnostics.0.push(BundleDiagnostic {
                line: Some(metadata.line),
                bytes: text.and_then(|text| find_in_policy(policy, text)),
                ..BundleDiagnostic::new(rule, &metadata.file, message).about(&metadata.id)
            });
        };
        if policy.effect() == Effect::Permit {
            if !kinds.is_empty() && others.is_empty() {
                let message = "the rows of a list need no permit, so that this policy has no effect; permit the list on \
                               the organization, and forbid it on rows";
                report(Rule::RowPermit, None, message.to_owned());
            }
            continue;
        }
        for kind in kinds.iter().filter(|kind| stored.iter().any(|stored| stored.name == kind.as_str())) {
            match row_refusal(policy, kind, entity_types.get(kind)) {
                Ok(None) => {}
                Ok(Some(refusal)) => {
                    let (expression, reason) = (refusal.expression, refusal.reason);
                    let message =
                        format!("the rows of a list of {kind} cannot be filtered by {expression}: {reason}");
                    report(Rule::RowPolicy, Some(&expression), message);
                    // One of the types is enough.
                    break;
                }
                Err(error) => report(Rule::RowPolicy, None, error.to_string()),
            }
        }
    }
}
