//! Narrower policies: only the actions and scopes that the decision log shows. Each is proven to be contained in the policy
//! that it replaces, and to keep every logged allow.

use super::edit::narrow;
use super::in_file_order;
use super::queries::Queries;
use super::usage::{PermitUse, Usage, higher_scope, listed_actions, source};
use crate::analysis::replay::{FlipGroupReport, ReplayError, ReplayPolicies, replay};
use crate::analysis::{Solver, format_policies};
use crate::authz::{Bundle, BundleError, Engine};
use cedar_policy::{Policy, PolicySet};
use serde::Serialize;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A narrower policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// The id of the policy.
    pub policy: String,
    /// Its file.
    pub file: String,
    /// The actions that the narrower policy no longer permits.
    pub removed_actions: Vec<String>,
    /// The scope that the narrower policy requires, if that is another one.
    pub scope: Option<String>,
    /// The number of request environments in which it is proven to be contained in the old one.
    pub environments: usize,
    #[serde(skip)]
    old: Policy,
    #[serde(skip)]
    new: Policy,
    #[serde(skip)]
    text: String,
}

/// Narrower policies, and what was checked.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SuggestionCheck {
    /// The policies that can be narrowed.
    pub suggestions: Vec<Suggestion>,
    /// The change of the files as a unified diff.
    pub diff: String,
    /// The number of logged allows that were decided again, with the same result.
    pub replayed: u64,
    /// The number of lines that could not be decided again, because their inputs are masked.
    pub not_replayable: u64,
    /// Why a policy was not narrowed.
    pub rejected: Vec<String>,
}

/// Why no narrower policies can be suggested.
#[derive(Debug, thiserror::Error)]
pub enum SuggestionError {
    /// A file of the log cannot be read.
    #[error(transparent)]
    Log(#[from] ReplayError),
    /// The narrower policies are invalid.
    #[error(transparent)]
    Policies(#[from] BundleError),
}

/// Narrows the permits of a bundle to what the logged decisions of these files use.
///
/// # Errors
/// A file cannot be read, or the narrower policies are invalid.
pub async fn suggest(
    bundle: &Bundle,
    usage: &Usage,
    files: &[PathBuf],
    solver: Solver,
) -> Result<SuggestionCheck, SuggestionError> {
    let mut check = SuggestionCheck::default();
    let mut queries = Queries::new(bundle, solver);
    for (policy, metadata) in in_file_order(bundle).into_iter().filter(|(_, metadata)| metadata.permits) {
        let Some(used) = usage.permits.get(&metadata.id) else { continue };
        let Some(suggestion) = narrower(policy, &metadata.file, used) else { continue };
        match prove(bundle, &mut queries, suggestion).await {
            Ok(suggestion) => check.suggestions.push(suggestion),
            Err(reason) => check.rejected.push(format!("{:?} is not narrowed: {reason}", metadata.id)),
        }
    }
    // A policy that would deny a logged allow is not narrowed. Without it, the others are checked again.
    while !check.suggestions.is_empty() {
        let losses = replay_narrowed(bundle, &mut check, files)?;
        if losses.is_empty() {
            break;
        }
        for (policy, count) in &losses {
            check.rejected.push(format!("{policy:?} is not narrowed: {count} logged allows would be denied"));
        }
        check.suggestions.retain(|suggestion| !losses.contains_key(&suggestion.policy));
    }
    check.diff = diff(&check.suggestions);
    Ok(check)
}

/// The policy with only the actions and the scope that were used. None if these are all that it permits.
fn narrower(policy: &Policy, file: &str, used: &PermitUse) -> Option<Suggestion> {
    let (kept, removed): (Vec<_>, Vec<_>) =
        listed_actions(policy).into_iter().partition(|(_, name)| used.actions.contains_key(name));
    let scope = higher_scope(policy, used).map(|(_, lowest)| lowest);
    if kept.is_empty() || (removed.is_empty() && scope.is_none()) {
        return None;
    }
    let kept: Vec<String> = kept.into_iter().map(|(uid, _)| uid.to_string()).collect();
    let action = match kept.as_slice() {
        _ if removed.is_empty() => None,
        [one] => Some(format!("action == {one}")),
        several => Some(format!("action in [{}]", several.join(", "))),
    };
    let kind = match policy.principal_constraint() {
        cedar_policy::PrincipalConstraint::IsIn(kind, _) => format!(" is {kind}"),
        _ => String::new(),
    };
    let principal = scope.map(|scope| format!("principal{kind} in Scope::\"{scope}\""));
    let text = narrow(source(policy), action.as_deref(), principal.as_deref())?;
    Some(Suggestion {
        policy: policy.id().to_string(),
        file: file.to_owned(),
        removed_actions: removed.into_iter().map(|(_, name)| name).collect(),
        scope: scope.map(|scope| scope.to_string()),
        environments: 0,
        old: policy.clone(),
        new: Policy::parse(Some(policy.id().clone()), &text).ok()?,
        text,
    })
}

/// Proves that the old policy never fails, and matches every request that the new one matches.
///
/// A narrower scope evaluates the conditions for fewer requests, so that a failure of them would deny fewer.
async fn prove(
    bundle: &Bundle,
    queries: &mut Queries<'_>,
    suggestion: Suggestion,
) -> Result<Suggestion, String> {
    let mut environments = 0;
    for environment in suggestion.old.get_valid_request_envs(bundle.schema()) {
        if queries.may_fail(&suggestion.old, &environment).await? {
            return Err("its evaluation may fail, and the failure denies the request".to_owned());
        }
    }
    for environment in suggestion.new.get_valid_request_envs(bundle.schema()) {
        if !queries.implies(&suggestion.new, &suggestion.old, &environment).await? {
            return Err("it is not proven to be contained in the old one".to_owned());
        }
        environments += 1;
    }
    Ok(Suggestion { environments, ..suggestion })
}

/// Decides the lines of the files again with the narrower policies. Returns how many logged allows would be denied, by policy.
///
/// # Errors
/// As [`suggest`].
fn replay_narrowed(
    bundle: &Bundle,
    check: &mut SuggestionCheck,
    files: &[PathBuf],
) -> Result<BTreeMap<String, u64>, SuggestionError> {
    let narrowed: BTreeMap<&str, &Policy> =
        check.suggestions.iter().map(|suggestion| (suggestion.policy.as_str(), &suggestion.new)).collect();
    let policies = bundle.policy_set().policies().map(|policy| {
        let id: &str = policy.id().as_ref();
        (*narrowed.get(id).unwrap_or(&policy)).clone()
    });
    let policies = PolicySet::from_policies(policies).unwrap_or_default();
    let engine = Engine::new(bundle.with_policies(policies))?;
    let report = replay(files, ReplayPolicies::Against(&engine), &|_, _| ())?;
    let mut losses: BTreeMap<String, u64> = BTreeMap::new();
    let flips = report.flips.into_iter();
    let (groups, not_grouped): (Vec<_>, Vec<u64>) =
        flips.map(|flips| (flips.groups, flips.not_grouped)).unzip();
    let denied: Vec<FlipGroupReport> = groups.into_iter().flatten().filter(|group| !group.allowed).collect();
    for group in &denied {
        for id in group.policies.iter().filter(|id| narrowed.contains_key(id.as_str())) {
            *losses.entry(id.clone()).or_default() += group.count;
        }
    }
    // Flips of which only the number is known may concern each policy.
    for count in not_grouped.into_iter().filter(|count| *count > 0) {
        losses.extend(narrowed.keys().map(|id| ((*id).to_owned(), count)));
    }
    let lost: u64 = denied.iter().map(|group| group.count).sum();
    (check.replayed, check.not_replayable) = (report.allows.saturating_sub(lost), report.masked);
    Ok(losses)
}

/// The change of the files as a unified diff, which `git apply` and `patch -p1` apply.
fn diff(suggestions: &[Suggestion]) -> String {
    let files: BTreeSet<&str> = suggestions.iter().map(|suggestion| suggestion.file.as_str()).collect();
    let mut all = String::new();
    for file in files {
        let mut edits: Vec<(usize, usize, &str)> = Vec::new();
        let mut old = String::new();
        for suggestion in suggestions.iter().filter(|suggestion| suggestion.file == file) {
            if let Some(location) = suggestion.old.as_ref().loc() {
                edits.push((location.start(), location.end(), &suggestion.text));
                old = location.src.to_string();
            }
        }
        edits.sort_unstable_by_key(|(start, ..)| std::cmp::Reverse(*start));
        let mut new = old.clone();
        for (start, end, text) in edits {
            new.replace_range(start..end, text);
        }
        // A file that is not formatted is not formatted by the way.
        let is_formatted = format_policies(&old).is_ok_and(|formatted| formatted == old);
        let new = if is_formatted { format_policies(&new).unwrap_or(new) } else { new };
        let diff = TextDiff::from_lines(&old, &new);
        let (before, after) = (format!("a/{file}"), format!("b/{file}"));
        all.push_str(&diff.unified_diff().header(&before, &after).to_string());
    }
    all
}
