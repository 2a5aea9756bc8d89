//! The questions to the solver.

use super::policy_set;
use crate::analysis::failures::may_fail;
use crate::analysis::{Assumptions, Solver};
use crate::authz::Bundle;
use cedar_policy::{Policy, PolicySet, RequestEnv};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet};

/// Which requests a policy matches in an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matching {
    /// At least one.
    Some,
    /// None, whatever the data are.
    None,
    /// None, by the data.
    NoneByData,
}

/// Asks the solver about policies of a bundle.
pub(super) struct Queries<'a> {
    bundle: &'a Bundle,
    solver: Solver,
    /// The number of queries.
    pub(super) count: usize,
}

impl<'a> Queries<'a> {
    pub(super) fn new(bundle: &'a Bundle, solver: Solver) -> Self {
        Self { bundle, solver, count: 0 }
    }

    /// Whether the evaluation of a policy fails for some request of an environment.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn may_fail(
        &mut self,
        policy: &Policy,
        environment: &RequestEnv,
    ) -> Result<bool, String> {
        self.count += 1;
        let fails = may_fail(policy, environment, self.bundle.schema(), &mut self.solver).await;
        fails.map_err(|error| error.0)
    }

    /// Which requests a policy matches in an environment.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn matching(
        &mut self,
        policy: &Policy,
        environment: &RequestEnv,
    ) -> Result<Matching, String> {
        let compiled = self.compile_policy(policy, environment)?;
        self.count += 1;
        let never = self.solver.ask(async |compiler| compiler.check_never_matches_opt(&compiled).await).await;
        if never.map_err(|error| error.0)? {
            return Ok(Matching::None);
        }
        let assumptions = self.assumptions([policy]);
        if assumptions.is_empty() {
            return Ok(Matching::Some);
        }
        let matched = self.matched(&assumptions, policy, environment)?;
        Ok(if self.always_denies(&matched).await? { Matching::NoneByData } else { Matching::Some })
    }

    /// Whether the second policy matches every request of an environment that the first one matches.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn implies(
        &mut self,
        first: &Policy,
        second: &Policy,
        environment: &RequestEnv,
    ) -> Result<bool, String> {
        let compiled = (self.compile_policy(first, environment)?, self.compile_policy(second, environment)?);
        self.count += 1;
        let implies = self
            .solver
            .ask(async |compiler| compiler.check_matches_implies_opt(&compiled.0, &compiled.1).await)
            .await;
        if implies.map_err(|error| error.0)? {
            return Ok(true);
        }
        let assumptions = self.assumptions([first, second]);
        if assumptions.is_empty() {
            return Ok(false);
        }
        let first = self.matched(&assumptions, first, environment)?;
        let second = self.matched(&assumptions, second, environment)?;
        self.set_implies(&first, &second).await
    }

    /// Whether the forbid policies together apply to every request of an environment that the permit matches.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn is_overridden(
        &mut self,
        permit: &Policy,
        forbids: &[&Policy],
        environment: &RequestEnv,
    ) -> Result<bool, String> {
        if forbids.is_empty() {
            return Ok(false);
        }
        let policies = || forbids.iter().copied().chain([permit]);
        let set = self.assumptions(policies()).add_to(&policy_set(policies())?);
        let compiled = self.compile_set(&set, environment)?;
        self.always_denies(&compiled).await
    }

    /// Whether the other policies decide all requests of an environment alike with and without the policy.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn is_redundant(
        &mut self,
        policy: &Policy,
        others: &[&Policy],
        environment: &RequestEnv,
    ) -> Result<bool, String> {
        let all = || others.iter().copied().chain([policy]);
        let assumptions = self.assumptions(all());
        let with = assumptions.add_to(&policy_set(all())?);
        let without = assumptions.add_to(&policy_set(others.iter().copied())?);
        let with = self.compile_set(&with, environment)?;
        let without = self.compile_set(&without, environment)?;
        // A permit can only add allows, and a forbid only remove them.
        match policy.effect() {
            cedar_policy::Effect::Permit => self.set_implies(&with, &without).await,
            cedar_policy::Effect::Forbid => self.set_implies(&without, &with).await,
        }
    }

    fn assumptions<'p>(&self, policies: impl IntoIterator<Item = &'p Policy>) -> Assumptions {
        Assumptions::new(self.bundle.schema(), self.bundle.data(), policies)
    }

    /// The set that allows exactly the requests that the policy matches.
    fn matched(
        &self,
        assumptions: &Assumptions,
        policy: &Policy,
        environment: &RequestEnv,
    ) -> Result<CompiledPolicySet, String> {
        let matched = assumptions.requests_matched_by(policy).ok_or("the policy cannot be converted")?;
        self.compile_set(&matched, environment)
    }

    fn compile_policy(&self, policy: &Policy, environment: &RequestEnv) -> Result<CompiledPolicy, String> {
        CompiledPolicy::compile(policy, environment, self.bundle.schema()).map_err(|error| error.to_string())
    }

    fn compile_set(
        &self,
        policies: &PolicySet,
        environment: &RequestEnv,
    ) -> Result<CompiledPolicySet, String> {
        CompiledPolicySet::compile(policies, environment, self.bundle.schema())
            .map_err(|error| error.to_string())
    }

    async fn always_denies(&mut self, policies: &CompiledPolicySet) -> Result<bool, String> {
        self.count += 1;
        let denies = self.solver.ask(async |compiler| compiler.check_always_denies_opt(policies).await).await;
        denies.map_err(|error| error.0)
    }

    async fn set_implies(
        &mut self,
        first: &CompiledPolicySet,
        second: &CompiledPolicySet,
    ) -> Result<bool, String> {
        self.count += 1;
        let implies = self.solver.ask(async |compiler| compiler.check_implies_opt(first, second).await).await;
        implies.map_err(|error| error.0)
    }
}
