//! Workers: each has a solver process of its own, and takes one task after the other.

use super::cascade::{CascadeStep, specialize, to_policy_set};
use super::plan::{Environment, Plan, Task};
use super::query::{Asker, Query, QueryLabel};
use crate::authz::is_row_environment;
use cedar_policy::{Policy, PolicySet};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env};
use std::time::{Duration, Instant};

/// The result of a task.
#[derive(Debug)]
pub(super) struct TaskResult {
    /// How many environments were examined.
    pub(super) environments: usize,
    pub(super) outcome: Outcome,
    pub(super) duration: Duration,
}

/// What a task found.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing contradicts the claim.
    Holds,
    /// This request contradicts it.
    Found(Box<Env>),
    /// The claim or the policy matches no request.
    MatchesNothing,
    /// It is not known, for this reason.
    Unknown(String),
}

impl From<Option<Env>> for Outcome {
    fn from(model: Option<Env>) -> Self {
        model.map_or(Self::Holds, |model| Self::Found(Box::new(model)))
    }
}

/// A worker.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    plan: &'a Plan,
    asker: Asker,
}

impl<'a> Worker<'a> {
    pub(super) fn new(plan: &'a Plan, asker: Asker) -> Self {
        Self { plan, asker }
    }

    /// Does a task. `number` is its position in the plan.
    pub(super) async fn execute(&mut self, number: usize, task: &Task) -> TaskResult {
        let started = Instant::now();
        let (environments, outcome) = match task {
            Task::Holds { policy, environment, .. } => (1, self.holds(number, *policy, *environment).await),
            Task::ClaimMatches { policy, .. } => (0, self.claim_matches(number, *policy).await),
            Task::CanFail { policy, environment, .. } => {
                (1, self.can_fail(number, policy, *environment).await)
            }
            Task::PolicyMatches { policy, .. } => self.policy_matches(number, policy).await,
            Task::IsMonotone { step, environment, .. } => {
                (1, self.is_monotone(number, *step, *environment).await)
            }
        };
        let outcome = outcome.unwrap_or_else(Outcome::Unknown);
        TaskResult { environments, outcome, duration: started.elapsed() }
    }

    fn label(
        &self,
        number: (usize, usize),
        task: usize,
        subject: String,
        proving_answer: &'static str,
    ) -> QueryLabel<'a> {
        let claim = self.plan.tasks.get(task).and_then(|task| self.plan.claims.get(task.claim()));
        QueryLabel { claim: claim.map_or("", |claim| claim.id.as_str()), number, subject, proving_answer }
    }

    fn environment(&self, index: usize) -> Result<&'a Environment, String> {
        self.plan.environments.get(index).ok_or_else(|| "no such environment".to_owned())
    }

    fn compile(&self, policies: &PolicySet, environment: &Environment) -> Result<CompiledPolicySet, String> {
        CompiledPolicySet::compile(policies, &environment.request, self.plan.bundle.schema())
            .map_err(|error| error.to_string())
    }

    /// Whether a claim of a file holds in an environment.
    async fn holds(&mut self, number: usize, claim: usize, environment: usize) -> Result<Outcome, String> {
        let environment = self.environment(environment)?;
        let claim = self.plan.file_claim(claim).ok_or("no such claim")?;
        let matched = environment.assumptions.requests_matched_by(claim.policy());
        let matched = matched.ok_or("the claim cannot be converted to a permit")?;
        let requests = self.compile(&matched, environment)?;
        let policies = environment.compiled(&self.plan.bundle)?;
        let is_always = claim.metadata().permits;
        let query =
            if is_always { Query::Implies(requests, policies) } else { Query::Disjoint(policies, requests) };
        let label = self.label((number, 0), number, environment.name(), "unsat");
        Ok(self.asker.ask(&label, &query).await.map_err(|error| error.0)?.into())
    }

    /// Whether a claim of a file matches any request.
    async fn claim_matches(&mut self, number: usize, claim: usize) -> Result<Outcome, String> {
        let claim = self.plan.file_claim(claim).ok_or("no such claim")?;
        // A claim about a list is about the organization.
        let (_, is_matching) = self.can_match(number, claim.policy(), false).await?;
        Ok(if is_matching { Outcome::Holds } else { Outcome::MatchesNothing })
    }

    /// Whether a policy matches any request.
    async fn policy_matches(&mut self, number: usize, policy: &Policy) -> (usize, Result<Outcome, String>) {
        match self.can_match(number, policy, true).await {
            Ok((environments, true)) => (environments, Ok(Outcome::Holds)),
            Ok((environments, false)) => (environments, Ok(Outcome::MatchesNothing)),
            Err(reason) => (1, Err(reason)),
        }
    }

    /// In how many environments was examined whether the policy matches a request, and whether one was found. `has_rows`: also
    /// in those of the rows of lists.
    async fn can_match(
        &mut self,
        number: usize,
        policy: &Policy,
        has_rows: bool,
    ) -> Result<(usize, bool), String> {
        let valid: Vec<_> = policy.get_valid_request_envs(self.plan.bundle.schema()).collect();
        let environments = self.plan.environments.iter().filter(|one| valid.contains(&one.request));
        let environments = environments.filter(|one| has_rows || !is_row_environment(&one.request));
        let mut unknown = None;
        let mut examined = 0;
        for environment in environments {
            examined += 1;
            let matched = environment.assumptions.requests_matched_by(policy);
            let matched = matched.ok_or("the policy cannot be converted to a permit")?;
            let query = Query::AlwaysDenies(self.compile(&matched, environment)?);
            let subject = format!("{} {}", policy.id(), environment.name());
            let label = self.label((number, examined), number, subject, "sat, in one environment at least");
            match self.asker.ask(&label, &query).await {
                Ok(Some(_)) => return Ok((examined, true)),
                Ok(None) => {}
                Err(error) => unknown = Some(error.0),
            }
        }
        unknown.map_or(Ok((examined, false)), Err)
    }

    /// Whether a policy can fail in an environment.
    async fn can_fail(
        &mut self,
        number: usize,
        policy: &Policy,
        environment: usize,
    ) -> Result<Outcome, String> {
        let environment = self.environment(environment)?;
        let schema = self.plan.bundle.schema();
        let compiled = CompiledPolicy::compile(policy, &environment.request, schema);
        let query = Query::NeverErrors(compiled.map_err(|error| error.to_string())?);
        let subject = format!("{} {}", policy.id(), environment.name());
        let label = self.label((number, 0), number, subject, "unsat");
        Ok(self.asker.ask(&label, &query).await.map_err(|error| error.0)?.into())
    }

    /// Whether the higher scope of a step may do what the lower one may do, in an environment.
    async fn is_monotone(
        &mut self,
        number: usize,
        step: usize,
        environment: usize,
    ) -> Result<Outcome, String> {
        let environment = self.environment(environment)?;
        let CascadeStep { lower, higher } = self.plan.steps.get(step).ok_or("no such step")?;
        let special =
            |scopes| specialize(&self.plan.bundle, &environment.policies, scopes, &environment.request);
        let (narrow, wide) = (special(lower)?, special(higher)?);
        if narrow == wide {
            return Ok(Outcome::Holds);
        }
        let is_permit = |(_, policy): &(String, serde_json::Value)| {
            policy.get("effect").is_some_and(|effect| effect == "permit")
        };
        if !narrow.iter().any(is_permit) {
            return Ok(Outcome::Holds);
        }
        let compile = |policies: &[(String, serde_json::Value)]| {
            let policies = environment.assumptions.add_to(&to_policy_set(policies)?);
            self.compile(&policies, environment)
        };
        let query = Query::Implies(compile(&narrow)?, compile(&wide)?.into());
        let subject = format!(
            "{} {} {}",
            lower.scope.id().unescaped(),
            higher.scope.id().unescaped(),
            environment.name()
        );
        let label = self.label((number, 0), number, subject, "unsat");
        Ok(self.asker.ask(&label, &query).await.map_err(|error| error.0)?.into())
    }
}
