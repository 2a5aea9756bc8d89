//! Mutants: changed policies that the policy tests do not notice, and the tests that are missing.
//!
//! A mutant is noticed if a test fails with it. Of those that no test notices, the solver proves some equivalent: they decide
//! every request that the schema and the data allow like the original, with a failure of a policy as a denial. For each other
//! one it finds a request that is decided differently, which becomes a missing test.

use super::failures::{failing, may_fail, with_denying_failures};
use super::mutation::{Mutation, MutationOperator, Neighbours, mutations};
use super::parentheses::readable_policy;
use super::{Assumptions, Outcome, Scenario, Simplifier, Solver, Undecided};
use crate::authz::cases::{ParsedEntities, PolicyTest, PreparedTest};
use crate::authz::{Bundle, PolicyMetadata};
use cedar_policy::{
    Entities, EvalResult, Expression, Policy, PolicySet, Request, RequestEnv, ValidationMode, Validator,
    eval_expression,
};
use cedar_policy_symcc::{CompiledPolicySet, Env};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum MutantStatus {
    /// A test fails with it.
    Noticed {
        /// The first such test.
        test: String,
    },
    /// No test notices it. It is proven that it decides every request like the original.
    Equivalent,
    /// No test notices it.
    Survived {
        /// The missing test that would notice it.
        #[serde(rename = "missingTest")]
        missing_test: String,
    },
    /// No test notices it, and whether it is equivalent is not known.
    Undecided {
        /// Why not.
        reason: String,
    },
}

/// A changed policy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mutant {
    /// The id of the policy.
    pub policy: String,
    /// Its file.
    pub file: String,
    /// The line of its `@id`.
    pub line: usize,
    /// The kind of change.
    pub operator: MutationOperator,
    /// What is changed.
    pub description: String,
    /// The change of the policy as a unified diff. Empty for mutants that a test notices.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
    /// What became of it.
    #[serde(flatten)]
    pub status: MutantStatus,
    #[serde(skip)]
    changed: Option<Policy>,
}

/// The mutants of all policies.
#[derive(Debug, Clone)]
pub struct Mutants {
    /// The valid mutants, by file and line of the policy.
    pub mutants: Vec<Mutant>,
    /// How many changed policies are invalid. They are not counted as mutants.
    pub invalid: usize,
    /// The assumptions with which mutants were proven equivalent, as sentences.
    pub assumptions: Vec<String>,
    /// The tests that are missing: for each surviving mutant one that notices it.
    pub missing_tests: Vec<PolicyTest>,
}

impl Mutants {
    /// Changes every policy and runs the tests with each change. `progress` gets the number of policies that are done, and of
    /// all.
    ///
    /// Mutants that no test notices are undecided until [`Mutants::decide`].
    pub fn find(bundle: &Bundle, tests: &[PreparedTest<'_>], mut progress: impl FnMut(usize, usize)) -> Self {
        let neighbours = Neighbours::new(bundle.data());
        let validator = Validator::new(bundle.schema().clone());
        let mut policies: Vec<(&Arc<PolicyMetadata>, &Policy)> = bundle
            .policy_set()
            .policies()
            .filter_map(|policy| Some((bundle.policy(policy.id().as_ref())?, policy)))
            .collect();
        policies.sort_by(|(one, _), (other, _)| (&one.file, one.line).cmp(&(&other.file, other.line)));
        let mut found =
            Self { mutants: Vec::new(), invalid: 0, assumptions: Vec::new(), missing_tests: Vec::new() };
        for (done, (metadata, policy)) in policies.iter().enumerate() {
            progress(done, policies.len());
            let run = PolicyRun::new(bundle, policy, tests);
            for mutation in mutations(policy, &neighbours) {
                if mutation.policy.as_ref().is_some_and(|changed| !is_valid(&validator, changed)) {
                    found.invalid += 1;
                    continue;
                }
                let status = match run.noticing_test(&mutation) {
                    Some(test) => MutantStatus::Noticed { test: test.name().to_owned() },
                    None => MutantStatus::Undecided { reason: "no solver was asked".to_owned() },
                };
                found.mutants.push(mutant(metadata, policy, mutation, status));
            }
        }
        progress(policies.len(), policies.len());
        found
    }

    /// The number of mutants that are not decided yet.
    pub fn undecided(&self) -> usize {
        self.mutants.iter().filter(|mutant| matches!(mutant.status, MutantStatus::Undecided { .. })).count()
    }

    /// The mutants that no test notices and that are not equivalent.
    pub fn surviving(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|mutant| matches!(mutant.status, MutantStatus::Survived { .. }))
    }

    /// The number of mutants that a test notices, and of those that are proven equivalent.
    pub fn noticed_and_equivalent(&self) -> (usize, usize) {
        let count = |is_counted: fn(&MutantStatus) -> bool| {
            self.mutants.iter().filter(|mutant| is_counted(&mutant.status)).count()
        };
        let noticed = count(|status| matches!(status, MutantStatus::Noticed { .. }));
        (noticed, count(|status| matches!(status, MutantStatus::Equivalent)))
    }

    /// Marks the mutants that no test notices as undecided for this reason.
    pub fn leave_undecided(&mut self, because: &str) {
        for mutant in &mut self.mutants {
            if let MutantStatus::Undecided { reason } = &mut mutant.status {
                because.clone_into(reason);
            }
        }
    }

    /// Decides the undecided mutants: equivalent, or surviving with the test that is missing.
    pub async fn decide(
        &mut self,
        bundle: &Bundle,
        solver: &mut Solver,
        mut progress: impl FnMut(usize, usize),
    ) {
        let mut comparison = Comparison::new(bundle);
        let total = self.undecided();
        let mut done = 0;
        for mutant in &mut self.mutants {
            if !matches!(mutant.status, MutantStatus::Undecided { .. }) {
                continue;
            }
            progress(done, total);
            done += 1;
            mutant.status = comparison.status(mutant, &mut self.missing_tests, solver).await;
        }
        progress(done, total);
        self.assumptions = comparison.assumptions.into_iter().collect();
    }
}

fn mutant(metadata: &PolicyMetadata, policy: &Policy, mutation: Mutation, status: MutantStatus) -> Mutant {
    let diff = match status {
        MutantStatus::Noticed { .. } => String::new(),
        _ => diff(policy, &mutation),
    };
    Mutant {
        policy: metadata.id.clone(),
        file: metadata.file.clone(),
        line: metadata.line,
        operator: mutation.operator,
        description: mutation.description,
        diff,
        status,
        changed: mutation.policy,
    }
}

/// The change as a unified diff of the formatted policies.
fn diff(policy: &Policy, mutation: &Mutation) -> String {
    let original = policy.to_pst().map_or_else(|_| policy.to_string(), |tree| tree.body().to_string());
    let old = formatted(&original);
    let new = mutation.policy.as_ref().map_or_else(String::new, |changed| formatted(&changed.to_string()));
    let diff = similar::TextDiff::from_lines(&old, &new);
    let (id, description) = (policy.id(), &mutation.description);
    diff.unified_diff().header(id.as_ref(), &format!("{id} {description}")).to_string()
}

fn formatted(policy: &str) -> String {
    let config = cedar_policy_formatter::Config::default();
    let text = cedar_policy_formatter::policies_str_to_pretty(&readable_policy(policy), &config);
    let text = text.unwrap_or_else(|_| policy.to_owned());
    format!("{}\n", text.trim_end())
}

/// Whether a policy would be accepted at a start: it is valid at level 1, without warnings.
fn is_valid(validator: &Validator, policy: &Policy) -> bool {
    PolicySet::from_policies([policy.clone()]).is_ok_and(|policies| {
        validator
            .validate_with_level(&policies, ValidationMode::Strict, 1)
            .validation_passed_without_warnings()
    })
}

/// Whether a policy applies to a request; none if its evaluation fails.
fn applies(condition: &Expression, request: &Request, entities: &Entities) -> Option<bool> {
    match eval_expression(request, entities, condition) {
        Ok(EvalResult::Bool(value)) => Some(value),
        Ok(_) | Err(_) => None,
    }
}

/// The tests of the actions of one policy, and whether the policy applies to each.
struct PolicyRun<'a> {
    bundle: &'a Bundle,
    policy: &'a Policy,
    tests: Vec<(&'a PreparedTest<'a>, Option<bool>)>,
}

impl<'a> PolicyRun<'a> {
    fn new(bundle: &'a Bundle, policy: &'a Policy, tests: &'a [PreparedTest<'a>]) -> Self {
        let condition = Expression::from(policy.as_ref().condition());
        // A change of the scope only removes actions, so that tests of other actions cannot notice it.
        let scope = Expression::from(policy.as_ref().template().action_constraint().as_expr());
        let tests = tests
            .iter()
            .filter(|test| applies(&scope, &test.request, &test.entities) != Some(false))
            .map(|test| (test, applies(&condition, &test.request, &test.entities)))
            .collect();
        Self { bundle, policy, tests }
    }

    /// The first test that fails with the changed policy.
    fn noticing_test(&self, mutation: &Mutation) -> Option<&PreparedTest<'_>> {
        let policies = with_change(self.bundle.policy_set(), self.policy, mutation.policy.as_ref())?;
        let condition =
            mutation.policy.as_ref().map(|changed| Expression::from(changed.as_ref().condition()));
        let noticing = self.tests.iter().find(|(test, original)| {
            let changed = match &condition {
                Some(condition) => applies(condition, &test.request, &test.entities),
                None => Some(false),
            };
            // The result of a test depends on which policies apply, and on nothing else.
            changed != *original && test.check(&policies).is_err()
        });
        noticing.map(|(test, _)| *test)
    }
}

/// The policy set in which one policy is changed or deleted. None if the set cannot be built.
fn with_change(policies: &PolicySet, policy: &Policy, changed: Option<&Policy>) -> Option<PolicySet> {
    let kept = policies.policies().filter(|other| other.id() != policy.id());
    PolicySet::from_policies(kept.chain(changed).cloned()).ok()
}

/// Compares policy sets with their mutants.
struct Comparison<'a> {
    bundle: &'a Bundle,
    /// The policies that can apply in a request environment. Others never match there.
    policies: HashMap<RequestEnv, Vec<&'a Policy>>,
    /// Those of them that may fail, as far as they were examined.
    failing: HashMap<RequestEnv, Vec<Policy>>,
    /// The sentences of all assumptions that were used.
    assumptions: BTreeSet<String>,
}

impl<'a> Comparison<'a> {
    fn new(bundle: &'a Bundle) -> Self {
        let mut policies: HashMap<RequestEnv, Vec<&Policy>> = HashMap::new();
        for policy in bundle.policy_set().policies() {
            for environment in policy.get_valid_request_envs(bundle.schema()) {
                policies.entry(environment).or_default().push(policy);
            }
        }
        Self { bundle, policies, failing: HashMap::new(), assumptions: BTreeSet::new() }
    }

    /// Decides a mutant. A missing test is added to `missing` unless one of them notices the mutant already.
    async fn status(
        &mut self,
        mutant: &Mutant,
        missing: &mut Vec<PolicyTest>,
        solver: &mut Solver,
    ) -> MutantStatus {
        let undecided = |reason: &str| MutantStatus::Undecided { reason: reason.to_owned() };
        let policies = self.bundle.policy_set();
        let Some(original) = policies.policy(&cedar_policy::PolicyId::new(&mutant.policy)) else {
            return undecided("the policy is missing");
        };
        let Some(changed) = with_change(policies, original, mutant.changed.as_ref()) else {
            return undecided("the changed policies cannot be combined");
        };
        if let Some(test) = missing.iter().find(|test| self.is_noticed(test, &changed)) {
            return MutantStatus::Survived { missing_test: test.name.clone() };
        }
        let difference = match self.difference(original, mutant.changed.as_ref(), solver).await {
            Ok(difference) => difference,
            Err(Undecided(reason)) => return MutantStatus::Undecided { reason },
        };
        let Some(model) = difference else { return MutantStatus::Equivalent };
        match self.missing_test(mutant, &model, &changed) {
            Some(test) => {
                let missing_test = test.name.clone();
                missing.push(test);
                MutantStatus::Survived { missing_test }
            }
            None => undecided("the request that the solver found is decided alike by Cedar"),
        }
    }

    fn is_noticed(&self, test: &PolicyTest, changed: &PolicySet) -> bool {
        let prepared = test.prepare(self.bundle.schema(), &mut ParsedEntities::default());
        prepared.is_ok_and(|test| test.check(changed).is_err())
    }

    /// A request that the policies decide differently with the changed policy; none if there is no such request.
    async fn difference(
        &mut self,
        original: &Policy,
        changed: Option<&Policy>,
        solver: &mut Solver,
    ) -> Result<Option<Env>, Undecided> {
        let schema = self.bundle.schema();
        let mut environments: BTreeSet<RequestEnv> = original.get_valid_request_envs(schema).collect();
        environments.extend(changed.into_iter().flat_map(|changed| changed.get_valid_request_envs(schema)));
        // A difference in one environment decides the mutant, even if another environment is undecided.
        let mut undecided = None;
        for environment in environments {
            match self.difference_in(&environment, original, changed, solver).await {
                Ok(None) => {}
                Ok(Some(model)) => return Ok(Some(model)),
                Err(reason) => undecided = Some(reason),
            }
        }
        undecided.map_or(Ok(None), Err)
    }

    async fn difference_in(
        &mut self,
        environment: &RequestEnv,
        original: &Policy,
        changed: Option<&Policy>,
        solver: &mut Solver,
    ) -> Result<Option<Env>, Undecided> {
        let schema = self.bundle.schema();
        let unchanged = self.policies.get(environment).into_iter().flatten().copied();
        let unchanged: Vec<&Policy> = unchanged.filter(|policy| policy.id() != original.id()).collect();
        let all = || unchanged.iter().copied().chain([original]).chain(changed);
        let assumptions = Assumptions::new(schema, self.bundle.data(), all());
        self.assumptions.extend(assumptions.sentences());
        if !self.failing.contains_key(environment) {
            let policies = self.policies.get(environment).into_iter().flatten().copied();
            let failing = failing(policies, environment, schema, solver).await?;
            self.failing.insert(environment.clone(), failing);
        }
        let failing_before = self.failing.get(environment).cloned().unwrap_or_default();
        let others = failing_before.iter().filter(|policy| policy.id() != original.id());
        let mut failing_after: Vec<Policy> = others.cloned().collect();
        if let Some(changed) = changed
            && may_fail(changed, environment, schema, solver).await?
        {
            failing_after.push(changed.clone());
        }
        let compile = |policy: Option<&Policy>, failing: &[Policy]| {
            let policies: Vec<Policy> = unchanged.iter().copied().chain(policy).cloned().collect();
            let policies = PolicySet::from_policies(with_denying_failures(&policies, failing)?)
                .map_err(|error| Undecided(error.to_string()))?;
            CompiledPolicySet::compile(&assumptions.add_to(&policies), environment, schema)
                .map_err(|error| Undecided(error.to_string()))
        };
        let before = compile(Some(original), &failing_before)?;
        let after = compile(changed, &failing_after)?;
        solver
            .ask(async |compiler| compiler.check_equivalent_with_counterexample_opt(&before, &after).await)
            .await
    }

    /// The test of a request that the solver found. None if Cedar decides it alike with the changed policies.
    fn missing_test(&self, mutant: &Mutant, model: &Env, changed: &PolicySet) -> Option<PolicyTest> {
        let (schema, policies) = (self.bundle.schema(), self.bundle.policy_set());
        let is_different = |request: &Request, entities: &Entities| {
            let allows = |policies| Outcome::of(request, policies, entities).with_denying_failures().allowed;
            allows(policies) != allows(changed)
        };
        let named = policies.policies().chain(&mutant.changed);
        let simplifier = Simplifier::new(schema, self.bundle.data(), named);
        let scenario = simplifier.simplify(Scenario::from_model(model)?, is_different);
        let (request, entities) = scenario.to_request(schema)?;
        let (action, resource) = (request.action()?, request.resource()?);
        let name = format!(
            "{CONFIRM}{} on {}, notices {} {}",
            action.id().unescaped(),
            resource.type_name(),
            mutant.policy,
            mutant.description
        );
        let test = PolicyTest::from_decision(&name, &request, &entities, policies).ok()?;
        is_different(&request, &entities).then_some(test)
    }
}

/// The start of the names of missing tests: a person confirms that the decision is intended, and then renames the test.
pub const CONFIRM: &str = "confirm: ";
