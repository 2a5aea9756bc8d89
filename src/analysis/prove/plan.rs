//! The plan of a proof: the claims, the request environments and the tasks, each of which a worker can do on its own.

use super::cascade::{CascadeStep, cascade_steps, has_scopes};
use super::verdict::ClaimKind;
use crate::analysis::assumptions::Assumptions;
use crate::authz::{BUILT_IN_CLAIMS, Bundle, Claim, is_row_environment};
use cedar_policy::{Policy, PolicySet, RequestEnv};
use cedar_policy_symcc::CompiledPolicySet;
use std::sync::{Arc, OnceLock};

/// A claim of the plan.
#[derive(Debug)]
pub(super) struct PlannedClaim {
    pub(super) id: String,
    pub(super) doc: String,
    pub(super) kind: ClaimKind,
    pub(super) place: Option<(String, usize)>,
    /// The environments that its scope selects, but in which its conditions are false by the types of the schema.
    pub(super) inapplicable: Vec<String>,
    /// Whether it is to be proven.
    pub(super) is_selected: bool,
}

/// A request environment and the policies that can apply in it.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) request: RequestEnv,
    pub(super) policies: PolicySet,
    /// What the data says of the entities that the policies and the claims name.
    pub(super) assumptions: Assumptions,
    compiled: OnceLock<Result<Arc<CompiledPolicySet>, String>>,
}

/// Something that is asked about a claim.
#[derive(Debug)]
pub(super) enum Task {
    /// Whether a claim of a file holds in an environment.
    Holds { claim: usize, policy: usize, environment: usize },
    /// Whether a claim of a file matches any request.
    ClaimMatches { claim: usize, policy: usize },
    /// Whether a policy can fail in an environment.
    CanFail { claim: usize, policy: Policy, environment: usize },
    /// Whether a policy matches any request.
    PolicyMatches { claim: usize, policy: Policy },
    /// Whether the higher scope may do what the lower one may do, in an environment.
    IsMonotone { claim: usize, step: usize, environment: usize },
}

impl Task {
    /// The position of the claim that it belongs to.
    pub(super) fn claim(&self) -> usize {
        match self {
            Self::Holds { claim, .. }
            | Self::ClaimMatches { claim, .. }
            | Self::CanFail { claim, .. }
            | Self::PolicyMatches { claim, .. }
            | Self::IsMonotone { claim, .. } => *claim,
        }
    }
}

/// All claims and tasks.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) bundle: Arc<Bundle>,
    pub(super) claims: Vec<PlannedClaim>,
    pub(super) environments: Vec<Environment>,
    pub(super) steps: Vec<CascadeStep>,
    pub(super) tasks: Vec<Task>,
}

/// The environments in which a policy or claim can match.
fn environments_of(policy: &Policy, bundle: &Bundle, all: &[RequestEnv]) -> Vec<usize> {
    let valid: Vec<RequestEnv> = policy.get_valid_request_envs(bundle.schema()).collect();
    all.iter().enumerate().filter(|(_, request)| valid.contains(request)).map(|(index, _)| index).collect()
}

/// A policy with the scope of another one, and without its conditions. None if Cedar cannot convert it, which a validated policy
/// does not cause.
fn without_conditions(policy: &Policy) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    json.as_object_mut()?.insert("conditions".to_owned(), serde_json::Value::Array(Vec::new()));
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

impl Plan {
    pub(super) fn new(bundle: Arc<Bundle>) -> Self {
        let mut requests: Vec<RequestEnv> = bundle.schema().request_envs().collect();
        requests.sort_by_key(environment_name);
        let mut sorted: Vec<&Policy> = bundle.policy_set().policies().collect();
        sorted.sort_by_key(|policy| policy.id().to_string());
        let policies: Vec<(Policy, Vec<usize>)> = sorted
            .into_iter()
            .map(|policy| (policy.clone(), environments_of(policy, &bundle, &requests)))
            .collect();
        // A claim about a list is about the organization: rows need no permit.
        let is_claimed =
            |&index: &usize| requests.get(index).is_some_and(|request| !is_row_environment(request));
        let claims = bundle.claims().iter().map(|claim| {
            environments_of(claim.policy(), &bundle, &requests).into_iter().filter(is_claimed).collect()
        });
        let claims: Vec<Vec<usize>> = claims.collect();
        let inapplicable = bundle.claims().iter().zip(&claims).map(|(claim, applicable)| {
            let selected = without_conditions(claim.policy())
                .map(|scope| environments_of(&scope, &bundle, &requests))
                .unwrap_or_default();
            let others =
                selected.into_iter().filter(|index| is_claimed(index) && !applicable.contains(index));
            others.filter_map(|index| requests.get(index).map(environment_name)).collect()
        });
        let inapplicable: Vec<Vec<String>> = inapplicable.collect();
        let environments = requests
            .into_iter()
            .enumerate()
            .map(|(index, request)| Environment::new(&bundle, request, index, &policies, &claims))
            .collect();
        let steps = cascade_steps(bundle.data());
        let mut plan = Self {
            claims: planned_claims(bundle.claims(), inapplicable),
            environments,
            steps,
            tasks: Vec::new(),
            bundle,
        };
        plan.add_built_in_tasks(&policies);
        let first = BUILT_IN_CLAIMS.len();
        for (policy, environments) in claims.into_iter().enumerate() {
            let claim = first + policy;
            plan.tasks.push(Task::ClaimMatches { claim, policy });
            let holds =
                environments.into_iter().map(|environment| Task::Holds { claim, policy, environment });
            plan.tasks.extend(holds);
        }
        plan
    }

    /// Leaves out all claims but those with these ids.
    ///
    /// # Errors
    /// The first id that no claim has.
    pub(super) fn select(&mut self, ids: &[String]) -> Result<(), String> {
        for id in ids {
            if !self.claims.iter().any(|claim| claim.id == *id) {
                return Err(id.clone());
            }
        }
        for claim in &mut self.claims {
            claim.is_selected = ids.contains(&claim.id);
        }
        let claims = &self.claims;
        self.tasks.retain(|task| claims.get(task.claim()).is_some_and(|claim| claim.is_selected));
        Ok(())
    }

    fn add_built_in_tasks(&mut self, policies: &[(Policy, Vec<usize>)]) {
        for (policy, environments) in policies {
            let can_fail = |environment: &usize| Task::CanFail {
                claim: 0,
                policy: policy.clone(),
                environment: *environment,
            };
            self.tasks.extend(environments.iter().map(can_fail));
            self.tasks.push(Task::PolicyMatches { claim: 1, policy: policy.clone() });
        }
        for (environment, Environment { request, .. }) in self.environments.iter().enumerate() {
            if has_scopes(&self.bundle, request.principal()) {
                let tasks =
                    (0..self.steps.len()).map(|step| Task::IsMonotone { claim: 2, step, environment });
                self.tasks.extend(tasks);
            }
        }
    }

    /// The environment of a task; none if it examines several.
    pub(super) fn environment_of(&self, task: &Task) -> Option<&Environment> {
        match task {
            Task::Holds { environment, .. }
            | Task::CanFail { environment, .. }
            | Task::IsMonotone { environment, .. } => self.environments.get(*environment),
            Task::ClaimMatches { .. } | Task::PolicyMatches { .. } => None,
        }
    }

    /// The claim of a file at this position.
    pub(super) fn file_claim(&self, position: usize) -> Option<&Claim> {
        self.bundle.claims().get(position)
    }

    /// What was assumed, over all environments.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let bundle = &self.bundle;
        let policies = bundle.policy_set().policies().chain(bundle.claims().iter().map(Claim::policy));
        Assumptions::new(bundle.schema(), bundle.data(), policies).sentences()
    }
}

fn planned_claims(claims: &[Claim], inapplicable: Vec<Vec<String>>) -> Vec<PlannedClaim> {
    let built_in = BUILT_IN_CLAIMS.into_iter().map(|(id, doc)| PlannedClaim {
        id: id.to_owned(),
        doc: doc.to_owned(),
        kind: ClaimKind::BuiltIn,
        place: None,
        inapplicable: Vec::new(),
        is_selected: true,
    });
    let of_files = claims.iter().zip(inapplicable).map(|(claim, inapplicable)| {
        let metadata = claim.metadata();
        PlannedClaim {
            id: metadata.id.clone(),
            doc: metadata.doc.clone().unwrap_or_default(),
            kind: if metadata.permits { ClaimKind::Always } else { ClaimKind::Never },
            place: Some((metadata.file.clone(), metadata.line)),
            inapplicable,
            is_selected: true,
        }
    });
    built_in.chain(of_files).collect()
}

impl Environment {
    fn new(
        bundle: &Bundle,
        request: RequestEnv,
        index: usize,
        policies: &[(Policy, Vec<usize>)],
        claims: &[Vec<usize>],
    ) -> Self {
        let applicable: Vec<&Policy> = policies
            .iter()
            .filter(|(_, environments)| environments.contains(&index))
            .map(|(policy, _)| policy)
            .collect();
        let claims =
            bundle.claims().iter().zip(claims).filter(|(_, environments)| environments.contains(&index));
        let named = applicable.iter().copied().chain(claims.map(|(claim, _)| claim.policy()));
        let assumptions = Assumptions::new(bundle.schema(), bundle.data(), named);
        // The ids are unique already.
        let policies = PolicySet::from_policies(applicable.into_iter().cloned()).unwrap_or_default();
        Self { request, policies, assumptions, compiled: OnceLock::new() }
    }

    /// The policies with the assumptions, translated for the solver.
    ///
    /// # Errors
    /// The policies cannot be translated.
    pub(super) fn compiled(&self, bundle: &Bundle) -> Result<Arc<CompiledPolicySet>, String> {
        let compile = || {
            let policies = self.assumptions.add_to(&self.policies);
            let compiled = CompiledPolicySet::compile(&policies, &self.request, bundle.schema());
            compiled.map(Arc::new).map_err(|error| error.to_string())
        };
        self.compiled.get_or_init(compile).clone()
    }

    /// The action, the principal type and the resource type, such as `fetchForm User Form`.
    pub(super) fn name(&self) -> String {
        environment_name(&self.request)
    }
}

fn environment_name(request: &RequestEnv) -> String {
    let action = request.action();
    let namespace = action.type_name().namespace();
    let separator = if namespace.is_empty() { "" } else { "::" };
    let action = action.id().unescaped();
    format!("{namespace}{separator}{action} {} {}", request.principal(), request.resource())
}
