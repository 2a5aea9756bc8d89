//! Examples: the requests that a solver found, checked by Cedar's own authorizer and written as policy tests.

use super::plan::Environment;
use super::verdict::Violation;
use crate::analysis::counterexample::{Outcome, Scenario, Simplifier};
use crate::authz::cases::PolicyTest;
use crate::authz::{Bundle, Claim};
use cedar_policy::{Entities, Entity, EntityUid, Policy, PolicySet, Request};
use cedar_policy_symcc::Env;
use std::collections::HashSet;

/// A solver's request that the authorizer decides otherwise than the solver says.
const NOT_CONFIRMED: &str =
    "the solver found a request, but Cedar's own authorizer does not confirm that it contradicts the claim";

/// Makes examples of what a solver found.
#[derive(Debug)]
pub(super) struct Examples<'a> {
    bundle: &'a Bundle,
    simplifier: Simplifier<'a>,
    /// The entities of the data files that policies or claims name, with their ancestors. An example contains only those to
    /// which it refers, and the assumptions are about all of them.
    named_data: Vec<Entity>,
}

impl<'a> Examples<'a> {
    pub(super) fn new(bundle: &'a Bundle) -> Self {
        let policies = || bundle.policy_set().policies().chain(bundle.claims().iter().map(Claim::policy));
        let simplifier = Simplifier::new(bundle.schema(), bundle.data(), policies());
        let named: HashSet<EntityUid> = policies().flat_map(Policy::entity_literals).collect();
        Self { bundle, simplifier, named_data: with_ancestors(bundle.data(), named) }
    }

    /// A request that contradicts a claim of a file.
    ///
    /// # Errors
    /// The authorizer does not confirm it.
    pub(super) fn of_claim(
        &self,
        model: &Env,
        claim: &Claim,
        environment: &Environment,
    ) -> Result<Violation, String> {
        let metadata = claim.metadata();
        let matched = environment.assumptions.requests_matched_by(claim.policy()).ok_or(NOT_CONFIRMED)?;
        let is_always = metadata.permits;
        let holds = |request: &Request, entities: &Entities| {
            self.with_named_data(entities)
                .is_some_and(|entities| Outcome::of(request, &matched, &entities).allowed)
                && Outcome::of(request, self.bundle.policy_set(), entities).allowed != is_always
        };
        let scenario = self.simplified(model, holds)?;
        let outcome = self.outcome(&scenario)?;
        let action = environment.request.action();
        let message = match (is_always, outcome.reason.as_slice()) {
            (false, reason) => format!("{action} is allowed by {}", reason.join(", ")),
            (true, []) => format!("{action} is denied, since no policy permits it"),
            (true, reason) => format!("{action} is denied by {}", reason.join(", ")),
        };
        let name = format!("{}: {action} is {}", metadata.id, if is_always { "denied" } else { "allowed" });
        let tests = vec![self.test(&scenario, &name)?];
        Ok(Violation { message, policies: outcome.reason, environments: Vec::new(), tests, place: None })
    }

    /// A request for which the evaluation of a policy fails.
    ///
    /// # Errors
    /// The authorizer does not confirm it.
    pub(super) fn of_failure(
        &self,
        model: &Env,
        policy: &Policy,
        environment: &Environment,
    ) -> Result<Violation, String> {
        let id = policy.id().to_string();
        let world = environment.assumptions.add_to(&PolicySet::new());
        let holds = |request: &Request, entities: &Entities| {
            let outcome = Outcome::of(request, self.bundle.policy_set(), entities);
            outcome.errors.contains(&id)
                && self
                    .with_named_data(entities)
                    .is_some_and(|entities| Outcome::of(request, &world, &entities).reason.is_empty())
        };
        let scenario = self.simplified(model, holds)?;
        let message = format!("the evaluation of the policy {id} fails for {}", environment.request.action());
        let tests = vec![self.test(&scenario, &format!("the evaluation of {id} fails"))?];
        Ok(Violation { message, policies: vec![id], environments: Vec::new(), tests, place: None })
    }

    /// A request that is allowed for a scope and denied for the scope above it, as two tests.
    ///
    /// # Errors
    /// The authorizer does not confirm it.
    pub(super) fn of_cascade(
        &self,
        model: &Env,
        lower: &EntityUid,
        higher: &EntityUid,
        environment: &Environment,
    ) -> Result<Violation, String> {
        let action = environment.request.action();
        let decision = |request: &Request, entities: &Entities, scope: &EntityUid| {
            let entities = self.with_scope(request, entities, scope)?;
            Some(Outcome::of(request, self.bundle.policy_set(), &entities))
        };
        let allows = |request: &Request, entities: &Entities, scope: &EntityUid| {
            decision(request, entities, scope).map(|outcome| outcome.allowed)
        };
        let holds = |request: &Request, entities: &Entities| {
            allows(request, entities, lower) == Some(true) && allows(request, entities, higher) == Some(false)
        };
        let scenario = self.simplified(model, holds)?;
        let (request, entities) =
            scenario.to_request(self.bundle.schema()).ok_or_else(|| NOT_CONFIRMED.to_owned())?;
        let outcome = decision(&request, &entities, higher).ok_or_else(|| NOT_CONFIRMED.to_owned())?;
        let (low, high) = (lower.id().unescaped(), higher.id().unescaped());
        let reason = match outcome.reason.as_slice() {
            [] => "no policy permits it".to_owned(),
            reason => format!("denied by {}", reason.join(", ")),
        };
        let message = format!("{action} is allowed for the scope {low}, but not for {high}: {reason}");
        let test = |scope: &EntityUid, name: String| {
            let entities =
                self.with_scope(&request, &entities, scope).ok_or_else(|| NOT_CONFIRMED.to_owned())?;
            PolicyTest::from_decision(&name, &request, &entities, self.bundle.policy_set())
        };
        let tests = vec![
            test(lower, format!("{action} is allowed for {low}"))?,
            test(higher, format!("{action} is denied for {high}"))?,
        ];
        Ok(Violation { message, policies: outcome.reason, environments: Vec::new(), tests, place: None })
    }

    /// The entities with this scope as the only scope of the principal. None if they would not be valid.
    fn with_scope(&self, request: &Request, entities: &Entities, scope: &EntityUid) -> Option<Entities> {
        let is_scope = |uid: &EntityUid| uid.type_name() == scope.type_name();
        let principal = request.principal()?;
        let (_, attributes, parents) = entities.get(principal)?.clone().into_inner();
        let parents: HashSet<EntityUid> =
            parents.into_iter().filter(|parent| !is_scope(parent)).chain([scope.clone()]).collect();
        let principal = Entity::new(principal.clone(), attributes, parents).ok()?;
        // The scopes themselves are those of the data files.
        let scopes = self.bundle.data().iter().filter(|entity| is_scope(&entity.uid())).cloned();
        let others =
            entities.iter().filter(|entity| entity.uid() != principal.uid() && !is_scope(&entity.uid()));
        let all: Vec<Entity> = others.cloned().chain(scopes).chain([principal.clone()]).collect();
        Entities::from_entities(all, None).ok()
    }

    /// The entities with those of the data files that the assumptions are about, as they are defined there.
    fn with_named_data(&self, entities: &Entities) -> Option<Entities> {
        let defined: HashSet<EntityUid> = self.named_data.iter().map(Entity::uid).collect();
        let others = entities.iter().filter(|entity| !defined.contains(&entity.uid()));
        Entities::from_entities(others.chain(&self.named_data).cloned(), None).ok()
    }

    fn simplified(
        &self,
        model: &Env,
        holds: impl Fn(&Request, &Entities) -> bool,
    ) -> Result<Scenario, String> {
        let not_confirmed = || NOT_CONFIRMED.to_owned();
        let scenario = Scenario::from_model(model).ok_or_else(not_confirmed)?;
        let scenario = self.simplifier.simplify(scenario, &holds);
        let (request, entities) = scenario.to_request(self.bundle.schema()).ok_or_else(not_confirmed)?;
        if holds(&request, &entities) { Ok(scenario) } else { Err(not_confirmed()) }
    }

    fn outcome(&self, scenario: &Scenario) -> Result<Outcome, String> {
        let outcome = scenario.evaluate(self.bundle.policy_set(), self.bundle.schema());
        outcome.ok_or_else(|| NOT_CONFIRMED.to_owned())
    }

    fn test(&self, scenario: &Scenario, name: &str) -> Result<PolicyTest, String> {
        let test = scenario.to_policy_test(name, self.bundle.policy_set(), self.bundle.schema());
        test.ok_or_else(|| NOT_CONFIRMED.to_owned())
    }
}

/// The entities of the data with these ids, and their ancestors.
fn with_ancestors(data: &[Entity], named: HashSet<EntityUid>) -> Vec<Entity> {
    // The data has been validated with the bundle.
    let Ok(all) = Entities::from_entities(data.to_vec(), None) else { return Vec::new() };
    let ancestors = named.iter().flat_map(|uid| all.ancestors(uid).into_iter().flatten().cloned());
    let wanted: HashSet<EntityUid> = ancestors.chain(named.iter().cloned()).collect();
    data.iter().filter(|entity| wanted.contains(&entity.uid())).cloned().collect()
}
