//! Policies that have no effect, or not the one that their text suggests: vacuous, unusable, overridden, shadowed and
//! redundant ones.
//!
//! Each is proven for all requests that the schema allows, with the facts of the data as [`Assumptions`]. Pairs of policies
//! are compared before sets of policies, because the time of the solver grows with the number of policies and entities.
//!
//! A policy that may fail is none of them, because its failure denies the request.

mod edit;
mod log;
mod queries;
mod suggest;
mod usage;

pub use edit::narrow;
pub use log::{LogEntry, LogError, LoggedDecision, LoggedSearch, read_log};
pub use suggest::{Suggestion, SuggestionCheck, SuggestionError, suggest};
pub use usage::{Usage, UsageWindow, usage_findings};

use super::{Assumptions, Finding, Level, Region, Solver};
use crate::authz::{Bundle, PolicyMetadata};
use cedar_policy::{
    Effect, Entities, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, RequestEnv,
};
use queries::{Matching, Queries};
use std::collections::BTreeSet;

/// The rules, with their meanings.
pub const RULES: [(&str, &str); 9] = [
    ("vacuous", "The policy matches no request"),
    ("unusable", "No principal can satisfy the permit, by the entity data"),
    ("overridden", "A forbid applies to every request that the permit matches"),
    ("shadowed", "Another policy with the same effect matches every request that this policy matches"),
    ("redundant", "Removing the policy changes no decision"),
    ("unused-policy", "No logged request was allowed by the permit"),
    ("unused-action", "The permit allowed no logged request with some of its actions"),
    ("unused-scope", "The permit allowed only logged requests with a higher scope than it requires"),
    ("unused-key", "The API key was not used in the period"),
];

/// The maximum number of entities that the policies of one request environment may name for a comparison of sets.
const MAX_SET_ENTITIES: usize = 60;

/// The maximum number of pairs of policies that are compared.
const MAX_PAIRS: usize = 50_000;

/// What the analysis found.
#[derive(Debug, Default)]
pub struct Analysis {
    /// The policies without effect.
    pub findings: Vec<Finding>,
    /// What could not be decided, and why.
    pub undecided: Vec<String>,
    /// The facts of the entity data on which the findings depend.
    pub assumptions: Vec<String>,
    /// The number of queries.
    pub queries: usize,
}

/// A policy with the request environments in which it matches a request.
struct Analyzed<'a> {
    policy: &'a Policy,
    metadata: &'a PolicyMetadata,
    environments: BTreeSet<RequestEnv>,
    /// Whether its evaluation may fail. It has an effect then: the failure denies the request.
    may_fail: bool,
}

/// Analyzes the policies of a bundle. `progress` is called with the number of policies that are done, and of all steps.
pub async fn analyze(bundle: &Bundle, solver: Solver, progress: impl Fn(usize, usize)) -> Analysis {
    let mut analyzer =
        Analyzer { bundle, queries: Queries::new(bundle, solver), pairs: 0, analysis: Analysis::default() };
    let policies = in_file_order(bundle);
    let total = 3 * policies.len();
    let mut analyzed = Vec::new();
    for (number, (policy, metadata)) in policies.into_iter().enumerate() {
        progress(number, total);
        analyzed.extend(analyzer.examine(policy, metadata).await);
    }
    let mut without_effect = BTreeSet::new();
    // All pairs before the first set: of two equivalent policies only the second one has no effect.
    for (step, compare_sets) in [(1, false), (2, true)] {
        for (index, subject) in analyzed.iter().enumerate() {
            progress(step * total / 3 + index, total);
            if subject.may_fail || without_effect.contains(&index) {
                continue;
            }
            let found = match compare_sets {
                false => analyzer.compare_pairs(&analyzed, index, &without_effect).await,
                true => analyzer.compare_sets(&analyzed, index, &without_effect).await,
            };
            match found {
                Ok(true) => {
                    without_effect.insert(index);
                }
                Ok(false) => {}
                Err(reason) => {
                    let undecided = format!("the effect of {:?}: {reason}", subject.metadata.id);
                    analyzer.analysis.undecided.push(undecided);
                }
            }
        }
    }
    let position = |finding: &Finding| (finding.file.clone(), finding.region);
    analyzer.analysis.findings.sort_by_key(position);
    let assumptions = Assumptions::new(bundle.schema(), bundle.data(), bundle.policy_set().policies());
    let queries = analyzer.queries.count;
    Analysis { assumptions: assumptions.sentences(), queries, ..analyzer.analysis }
}

/// The policies with their metadata, in the order of files and lines.
fn in_file_order(bundle: &Bundle) -> Vec<(&Policy, &PolicyMetadata)> {
    let with_metadata = |policy| {
        let policy: &Policy = policy;
        Some((policy, &**bundle.policy(policy.id().as_ref())?))
    };
    let mut policies: Vec<_> = bundle.policy_set().policies().filter_map(with_metadata).collect();
    policies.sort_by_key(|(_, metadata)| (&metadata.file, metadata.line));
    policies
}

/// A finding about a policy, with the place of its scope and conditions.
pub(super) fn policy_finding(
    rule: &'static str,
    level: Level,
    policy: &Policy,
    metadata: &PolicyMetadata,
    message: String,
) -> Finding {
    // The line of the `@id`; the end of the policy is known if it was parsed from a file.
    let end =
        policy.as_ref().loc().map(|location| Region::of(&location.src, location.start(), location.end()));
    let region = match end {
        Some(region) => Region { start_line: metadata.line, start_column: 1, ..region },
        None => Region::line(metadata.line),
    };
    let (file, policy) = (Some(metadata.file.clone()), Some(metadata.id.clone()));
    Finding { rule, level, file, region: Some(region), policy, message }
}

struct Analyzer<'a> {
    bundle: &'a Bundle,
    queries: Queries<'a>,
    /// The number of pairs that were compared.
    pairs: usize,
    analysis: Analysis,
}

impl<'a> Analyzer<'a> {
    fn report(&mut self, rule: &'static str, policy: &Policy, metadata: &PolicyMetadata, message: String) {
        self.analysis.findings.push(policy_finding(rule, Level::Warning, policy, metadata, message));
    }

    /// A policy with the environments in which it matches a request. None if it matches and fails for no request, or if that
    /// is not known.
    async fn examine(&mut self, policy: &'a Policy, metadata: &'a PolicyMetadata) -> Option<Analyzed<'a>> {
        let mut environments = BTreeSet::new();
        let mut may_fail = false;
        let mut is_excluded_by_data = false;
        for environment in policy.get_valid_request_envs(self.bundle.schema()) {
            match self.queries.may_fail(policy, &environment).await {
                Ok(fails) => may_fail |= fails,
                Err(reason) => {
                    let reason = format!("whether {} can fail: {reason}", metadata.id);
                    self.analysis.undecided.push(reason);
                    return None;
                }
            }
            match self.queries.matching(policy, &environment).await {
                Ok(Matching::Some) => {
                    environments.insert(environment);
                }
                Ok(Matching::NoneByData) => is_excluded_by_data = true,
                Ok(Matching::None) => {}
                Err(reason) => {
                    let reason = format!("whether {} matches a request: {reason}", metadata.id);
                    self.analysis.undecided.push(reason);
                    return None;
                }
            }
        }
        if may_fail {
            return Some(Analyzed { policy, metadata, environments, may_fail });
        }
        if environments.is_empty() && is_excluded_by_data {
            let message =
                format!("by the entity data, no principal or resource can satisfy {:?}", metadata.id);
            self.report(if metadata.permits { "unusable" } else { "vacuous" }, policy, metadata, message);
        } else if environments.is_empty() {
            let message = format!("{:?} matches no request", metadata.id);
            self.report("vacuous", policy, metadata, message);
        } else if let Some(group) = self.empty_group(policy, &environments).filter(|_| metadata.permits) {
            let message =
                format!("no principal can satisfy {:?}: {group} has no members in the data", metadata.id);
            self.report("unusable", policy, metadata, message);
        } else {
            return Some(Analyzed { policy, metadata, environments, may_fail });
        }
        None
    }

    /// The group that the principal has to be in, if the data define it and none of its possible members.
    ///
    /// Users are stored in the database, and have scopes and organizations as parents.
    fn empty_group(&self, policy: &Policy, environments: &BTreeSet<RequestEnv>) -> Option<EntityUid> {
        let group = match policy.principal_constraint() {
            PrincipalConstraint::In(group) | PrincipalConstraint::IsIn(_, group) => group,
            PrincipalConstraint::Any | PrincipalConstraint::Eq(_) | PrincipalConstraint::Is(_) => {
                return None;
            }
        };
        let data = Entities::from_entities(self.bundle.data().to_vec(), None).ok()?;
        data.get(&group)?;
        let types: BTreeSet<&EntityTypeName> = environments.iter().map(RequestEnv::principal).collect();
        let is_stored = |kind: &&EntityTypeName| kind.namespace().is_empty();
        if types.iter().any(is_stored) || types.contains(group.type_name()) {
            return None;
        }
        let is_member = |uid: &EntityUid| types.contains(uid.type_name()) && data.is_ancestor_of(&group, uid);
        (!data.iter().any(|entity| is_member(&entity.uid()))).then_some(group)
    }

    /// Reports whether one other policy overrides or shadows a policy, and returns whether it does.
    ///
    /// # Errors
    /// Why it is not known.
    async fn compare_pairs(
        &mut self,
        all: &[Analyzed<'a>],
        index: usize,
        without_effect: &BTreeSet<usize>,
    ) -> Result<bool, String> {
        let Some(subject) = all.get(index) else { return Ok(false) };
        let (policy, metadata) = (subject.policy, subject.metadata);
        let others = || {
            let others = all
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index && !without_effect.contains(other));
            others.filter(|(_, other)| subject.environments.is_subset(&other.environments))
        };
        for (other_index, other) in others() {
            self.pairs += 1;
            if self.pairs > MAX_PAIRS {
                return Err(format!("there are more than {MAX_PAIRS} pairs of policies to compare"));
            }
            let is_same_effect = policy.effect() == other.policy.effect();
            if (!is_same_effect && !metadata.permits) || !self.is_implied(subject, other).await? {
                continue;
            }
            if !is_same_effect {
                let message = format!(
                    "the forbid {:?} applies to every request that {:?} matches",
                    other.metadata.id, metadata.id
                );
                self.report("overridden", policy, metadata, message);
                return Ok(true);
            }
            // Of two policies that match the same requests, the second one is reported.
            let is_equivalent = other_index > index
                && subject.environments == other.environments
                && self.is_implied(other, subject).await?;
            if !is_equivalent {
                let message =
                    format!("{:?} matches every request that {:?} matches", other.metadata.id, metadata.id);
                self.report("shadowed", policy, metadata, message);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the other policy matches every request that the subject matches.
    async fn is_implied(&mut self, subject: &Analyzed<'a>, other: &Analyzed<'a>) -> Result<bool, String> {
        for environment in &subject.environments {
            if !self.queries.implies(subject.policy, other.policy, environment).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reports whether the other policies together override a policy or make it redundant, and returns whether they do.
    ///
    /// # Errors
    /// Why it is not known.
    async fn compare_sets(
        &mut self,
        all: &[Analyzed<'a>],
        index: usize,
        without_effect: &BTreeSet<usize>,
    ) -> Result<bool, String> {
        let Some(subject) = all.get(index) else { return Ok(false) };
        let mut is_overridden = subject.metadata.permits;
        for environment in &subject.environments {
            let in_environment = all.iter().enumerate().filter(|(other, analyzed)| {
                *other != index
                    && !without_effect.contains(other)
                    && analyzed.environments.contains(environment)
            });
            let others: Vec<&Policy> = in_environment.map(|(_, analyzed)| analyzed.policy).collect();
            let named: BTreeSet<EntityUid> = others
                .iter()
                .flat_map(|policy| policy.entity_literals())
                .chain(subject.policy.entity_literals())
                .collect();
            if named.len() > MAX_SET_ENTITIES {
                return Err(format!(
                    "the policies of {} name {} entities, and sets of policies are compared with at most {MAX_SET_ENTITIES}",
                    environment.action(),
                    named.len()
                ));
            }
            let forbids: Vec<&Policy> =
                others.iter().copied().filter(|other| other.effect() == Effect::Forbid).collect();
            is_overridden =
                is_overridden && self.queries.is_overridden(subject.policy, &forbids, environment).await?;
            if !is_overridden && !self.queries.is_redundant(subject.policy, &others, environment).await? {
                return Ok(false);
            }
        }
        let id = &subject.metadata.id;
        let (rule, message) = match is_overridden {
            true => {
                ("overridden", format!("forbid policies together apply to every request that {id:?} matches"))
            }
            false => ("redundant", format!("no decision changes without {id:?}")),
        };
        self.report(rule, subject.policy, subject.metadata, message);
        Ok(true)
    }
}

/// A policy set of these policies.
///
/// # Errors
/// Two of them have the same id.
fn policy_set<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Result<PolicySet, String> {
    PolicySet::from_policies(policies.into_iter().cloned()).map_err(|error| error.to_string())
}
