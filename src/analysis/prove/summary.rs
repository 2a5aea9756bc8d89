//! The results of the tasks, by claim.

use super::examples::Examples;
use super::plan::{Plan, PlannedClaim, Task};
use super::verdict::{CheckedClaim, ClaimKind, Verdict, Violation};
use super::worker::{Outcome, TaskResult};
use crate::authz::CASCADE_CLAIM;
use cedar_policy_symcc::Env;
use std::collections::BTreeMap;
use std::time::Duration;

/// The claims with their verdicts. `results` has the result of each task of the plan; none if its worker ended before.
pub(super) fn checked_claims(plan: &Plan, results: Vec<Option<TaskResult>>) -> Vec<CheckedClaim> {
    let examples = Examples::new(&plan.bundle);
    let mut summaries: Vec<Summary<'_>> = plan.claims.iter().map(|_| Summary::default()).collect();
    for (task, result) in plan.tasks.iter().zip(results) {
        if let Some(summary) = summaries.get_mut(task.claim()) {
            summary.add(task, result);
        }
    }
    let claims = plan.claims.iter().zip(summaries).filter(|(claim, _)| claim.is_selected);
    claims.map(|(claim, summary)| summary.finish(claim, plan, &examples)).collect()
}

/// The results of the tasks of a claim.
#[derive(Default)]
struct Summary<'a> {
    environments: usize,
    duration: Duration,
    violations: Vec<Violation>,
    unknown: Option<String>,
    /// The policies of the tasks whose result is unknown.
    unknown_policies: Vec<String>,
    /// The requests that were found, by what is wrong.
    found: BTreeMap<String, Vec<(&'a Task, Box<Env>)>>,
}

impl<'a> Summary<'a> {
    fn add(&mut self, task: &'a Task, result: Option<TaskResult>) {
        // Without a result nothing is proven.
        let Some(result) = result else {
            return self.set_unknown("the check of the claim failed".to_owned());
        };
        self.environments += result.environments;
        self.duration += result.duration;
        match result.outcome {
            Outcome::Holds => {}
            Outcome::Found(model) => self.found.entry(subject(task)).or_default().push((task, model)),
            Outcome::MatchesNothing => self.violations.push(matches_nothing(task)),
            Outcome::Unknown(reason) => {
                self.unknown_policies.extend(policy_of(task));
                self.set_unknown(reason);
            }
        }
    }

    fn set_unknown(&mut self, reason: String) {
        self.unknown.get_or_insert(reason);
    }

    fn finish(mut self, claim: &PlannedClaim, plan: &Plan, examples: &Examples<'_>) -> CheckedClaim {
        for (_, found) in std::mem::take(&mut self.found) {
            match violation(&found, plan, examples) {
                Ok(violation) => self.violations.push(violation),
                Err(reason) => {
                    self.unknown_policies.extend(found.first().and_then(|(task, _)| policy_of(task)));
                    self.set_unknown(reason);
                }
            }
        }
        let mut unknown_place = None;
        if claim.kind == ClaimKind::BuiltIn {
            for violation in &mut self.violations {
                violation.place = place(&violation.policies, claim, plan);
            }
            unknown_place = place(&self.unknown_policies, claim, plan);
        }
        let verdict = match (self.violations.is_empty(), self.unknown) {
            (false, _) => Verdict::Broken(self.violations),
            (true, Some(reason)) => Verdict::Unknown(reason),
            (true, None) => Verdict::Proven,
        };
        let PlannedClaim { id, doc, kind, place, inapplicable, .. } = claim;
        CheckedClaim {
            id: id.clone(),
            doc: doc.clone(),
            kind: *kind,
            place: place.clone(),
            unknown_place,
            verdict,
            environments: self.environments,
            inapplicable: inapplicable.clone(),
            duration: self.duration,
        }
    }
}

/// The policy of a task that is about one.
fn policy_of(task: &Task) -> Option<String> {
    match task {
        Task::CanFail { policy, .. } | Task::PolicyMatches { policy, .. } => Some(policy.id().to_string()),
        Task::Holds { .. } | Task::ClaimMatches { .. } | Task::IsMonotone { .. } => None,
    }
}

/// The place of the first of these policies; without one, the place of the scopes if the claim is about them.
fn place(policies: &[String], claim: &PlannedClaim, plan: &Plan) -> Option<(String, usize)> {
    let policy = policies.iter().find_map(|id| plan.bundle.policy(id));
    match policy {
        Some(policy) => Some((policy.file.clone(), policy.line)),
        None if claim.id == CASCADE_CLAIM => plan.bundle.scopes_place(),
        None => None,
    }
}

/// What is wrong if a task finds a request: tasks with the same subject are reported once.
fn subject(task: &Task) -> String {
    match task {
        Task::CanFail { policy, .. } => policy.id().to_string(),
        Task::IsMonotone { step, .. } => format!("{step:04}"),
        Task::Holds { .. } | Task::ClaimMatches { .. } | Task::PolicyMatches { .. } => String::new(),
    }
}

fn matches_nothing(task: &Task) -> Violation {
    let (message, policies) = match task {
        Task::PolicyMatches { policy, .. } => {
            let id = policy.id().to_string();
            (format!("the policy {id} matches no request"), vec![id])
        }
        _ => ("the claim matches no request, so that it says nothing".to_owned(), Vec::new()),
    };
    Violation { message, policies, environments: Vec::new(), tests: Vec::new(), place: None }
}

/// The first of these requests that the authorizer confirms, with the environments of all.
fn violation(found: &[(&Task, Box<Env>)], plan: &Plan, examples: &Examples<'_>) -> Result<Violation, String> {
    let environments = found.iter().filter_map(|(task, _)| Some(plan.environment_of(task)?.name())).collect();
    let mut last = "no request was found".to_owned();
    for (task, model) in found {
        match example(task, model, plan, examples) {
            Ok(violation) => return Ok(Violation { environments, ..violation }),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

fn example(task: &Task, model: &Env, plan: &Plan, examples: &Examples<'_>) -> Result<Violation, String> {
    let environment = plan.environment_of(task).ok_or("no such environment")?;
    match task {
        Task::Holds { policy, .. } => {
            examples.of_claim(model, plan.file_claim(*policy).ok_or("no such claim")?, environment)
        }
        Task::CanFail { policy, .. } => examples.of_failure(model, policy, environment),
        Task::IsMonotone { step, .. } => {
            let step = plan.steps.get(*step).ok_or("no such step")?;
            examples.of_cascade(model, &step.lower.scope, &step.higher.scope, environment)
        }
        Task::ClaimMatches { .. } | Task::PolicyMatches { .. } => Err("no request contradicts it".to_owned()),
    }
}
