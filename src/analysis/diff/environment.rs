//! Compares the policies of two versions in one request environment.
//!
//! In the direction from `denying` to `allowing` the question is: is there a request that `allowing` allows and `denying` denies?
//! The changed policies are compared pairwise first; then the changed permits with all forbids, and with those of the other
//! permits that allow what the solver finds; then all policies. A request that the solver finds counts only if Cedar's own
//! authorizer confirms it with all policies and the data of each version.
//!
//! The service denies a request for which a policy fails, and Cedar skips the policy. An unchanged policy fails for the same
//! requests in both versions, so that both deny them. If a changed policy may fail, all policies are compared with the failures
//! as denials.

use super::flatten::{Descendants, descendants, flatten, logic, without_parents};
use super::{Direction, Witness};
use crate::analysis::failures::{failing, with_denying_failures};
use crate::analysis::{Assumptions, Outcome, Scenario, Simplifier, Solver, Undecided};
use crate::authz::Engine;
use crate::authz::cases::PolicyTest;
use cedar_policy::{Effect, Entities, Entity, Policy, PolicySet, Request, RequestEnv, Schema};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env};
use std::collections::{HashMap, HashSet};

/// How often permits that refute a request of the solver are added to its question, before all policies are compared.
const MAX_ROUNDS: usize = 20;

/// How many policies of an action the solver compares at once. More would exhaust its time, or the stack of the process.
const MAX_POLICIES: usize = 300;

/// How many permits are compared at once if there are more policies than [`MAX_POLICIES`].
const PERMITS_OF_A_PART: usize = 10;

/// One of the two versions, in one environment. Without an engine, the version does not have the environment, and denies.
#[derive(Clone, Copy)]
pub(super) struct VersionView<'a> {
    pub(super) engine: Option<&'a Engine>,
}

/// The two versions in one environment.
pub(super) struct EnvironmentQuery<'a> {
    pub(super) environment: &'a RequestEnv,
    pub(super) schema: &'a Schema,
    pub(super) old: VersionView<'a>,
    pub(super) new: VersionView<'a>,
    pub(super) action: &'a str,
}

/// The result of the comparison of some permits with the denying version.
enum PartOutcome {
    /// No request is decided differently.
    None,
    /// A request is.
    Found(Box<Witness>),
    /// The solver needs more policies of the denying version.
    Undecided,
}

/// The policies of a version for the solver.
struct PolicySide {
    all: Vec<Policy>,
    /// Those that the other version does not have.
    changed: Vec<Policy>,
}

/// Both versions in one environment, prepared for the questions in both directions.
pub(super) struct PreparedQuery {
    /// The policies of the old version and of the new one.
    sides: [PolicySide; 2],
    /// Whether the policies contain the hierarchy of the data, because the versions have different data.
    is_flat: bool,
    /// Whether a policy that only one version has may fail, so that the failures of both have to be compared.
    has_changed_failures: bool,
}

impl PolicySide {
    fn with_effect(policies: &[Policy], effect: Effect) -> impl Iterator<Item = &Policy> {
        policies.iter().filter(move |policy| policy.effect() == effect)
    }
}

impl<'a> VersionView<'a> {
    pub(super) fn policies(self, action: &str) -> Vec<&'a Policy> {
        self.engine.map(|engine| engine.policies_of_action(action)).unwrap_or_default()
    }

    fn data(self) -> &'a [Entity] {
        self.engine.map(|engine| engine.bundle().data()).unwrap_or_default()
    }

    /// The decision of the whole policy set. `data`: replace the entities that the data defines.
    pub(super) fn outcome(
        self,
        request: &Request,
        entities: &Entities,
        with_own_data: bool,
    ) -> Option<Outcome> {
        let Some(engine) = self.engine else {
            return Some(Outcome { allowed: false, reason: Vec::new(), errors: Vec::new() });
        };
        let outcome = match with_own_data {
            true => Outcome::of(request, engine.bundle().policy_set(), &self.with_own_data(entities)?),
            false => Outcome::of(request, engine.bundle().policy_set(), entities),
        };
        Some(outcome.with_denying_failures())
    }

    fn with_own_data(self, entities: &Entities) -> Option<Entities> {
        let data = self.data();
        let defined: HashSet<_> = data.iter().map(Entity::uid).collect();
        let others = entities.iter().filter(|entity| !defined.contains(&entity.uid())).cloned();
        Entities::from_entities(others.chain(data.iter().cloned()), None).ok()
    }
}

impl EnvironmentQuery<'_> {
    /// Whether the versions have the same policies and facts in this environment, so that they decide equally.
    pub(super) fn is_equal(&self) -> bool {
        let [old, new] = [self.old, self.new].map(|version| version.policies(self.action));
        let logic_of =
            |policies: &[&Policy]| policies.iter().map(|policy| logic(policy)).collect::<HashSet<_>>();
        logic_of(&old) == logic_of(&new) && self.has_same_facts()
    }

    /// Whether the data of both versions say the same about the entities that policies name.
    fn has_same_facts(&self) -> bool {
        let [old, new] = self.descendants();
        self.old.engine.is_none() || self.new.engine.is_none() || old == new
    }

    fn descendants(&self) -> [Descendants; 2] {
        let named: Vec<&Policy> =
            [self.old, self.new].into_iter().flat_map(|version| version.policies(self.action)).collect();
        [self.old, self.new].map(|version| descendants(version.data(), named.iter().copied()))
    }

    /// Prepares the policies of both versions for the solver, and asks it whether a changed one may fail.
    ///
    /// # Errors
    /// The solver gives no answer, a policy cannot be compiled, or the policies are too many.
    pub(super) async fn prepare(&self, solver: &mut Solver) -> Result<PreparedQuery, Undecided> {
        let is_flat = !self.has_same_facts();
        let sides = self.sides(is_flat)?;
        let count = sides.iter().map(|side| side.all.len()).max().unwrap_or_default();
        if is_flat && count > MAX_POLICIES {
            return Err(Undecided(format!("{count} policies are too many to compare at once")));
        }
        let changed = sides.iter().flat_map(|side| &side.changed);
        let failing = failing(changed, self.environment, self.schema, solver).await?;
        Ok(PreparedQuery { sides, is_flat, has_changed_failures: !failing.is_empty() })
    }

    /// Finds a request that is allowed by one version and denied by the other.
    ///
    /// # Errors
    /// The solver gives no answer, a policy cannot be compiled, or Cedar does not confirm what the solver found.
    pub(super) async fn find(
        &self,
        direction: Direction,
        prepared: &PreparedQuery,
        solver: &mut Solver,
    ) -> Result<Option<Witness>, Undecided> {
        let PreparedQuery { sides: [old, new], is_flat, has_changed_failures } = prepared;
        let is_flat = *is_flat;
        let (denying, allowing) = match direction {
            Direction::Wider => (old, new),
            Direction::Narrower => (new, old),
        };
        let assumptions = self.assumptions(is_flat, denying, allowing);
        if *has_changed_failures {
            return self
                .find_among_failures(direction, [allowing, denying], is_flat, &assumptions, solver)
                .await;
        }
        let sources = self.sources(denying, allowing, is_flat, solver).await?;
        if sources.is_empty() {
            return Ok(None);
        }
        let forbids = |side: &PolicySide| -> Vec<Policy> {
            PolicySide::with_effect(&side.all, Effect::Forbid).cloned().collect()
        };
        // A removed forbid concerns every permit, so that the changed policies alone do not answer the question.
        if sources.iter().all(|policy| policy.effect() == Effect::Permit) && !is_flat {
            let changed = PolicySide::with_effect(&denying.changed, Effect::Permit).cloned();
            let known = changed.chain(forbids(denying)).collect();
            let part: Vec<Policy> = sources.into_iter().chain(forbids(allowing)).collect();
            match self.find_in_part(direction, (&part, known), denying, &assumptions, solver).await? {
                PartOutcome::None => return Ok(None),
                PartOutcome::Found(witness) => return Ok(Some(*witness)),
                PartOutcome::Undecided => {}
            }
        }
        let count = allowing.all.len().max(denying.all.len());
        if count > MAX_POLICIES {
            return self.find_in_parts(direction, denying, allowing, solver).await;
        }
        let Some(model) = self.ask(&allowing.all, &denying.all, &assumptions, solver).await? else {
            return Ok(None);
        };
        match self.confirm(direction, &model, is_flat) {
            Some(witness) => Ok(Some(witness)),
            // An unchanged policy may fail for this request.
            None => {
                self.find_among_failures(direction, [allowing, denying], is_flat, &assumptions, solver).await
            }
        }
    }

    /// Finds a request as [`EnvironmentQuery::find`] does, by the decisions of the service: a policy that fails denies.
    async fn find_among_failures(
        &self,
        direction: Direction,
        sides: [&PolicySide; 2],
        is_flat: bool,
        assumptions: &Assumptions,
        solver: &mut Solver,
    ) -> Result<Option<Witness>, Undecided> {
        let mut prepared = Vec::new();
        for side in sides {
            let count = side.all.len();
            if count > MAX_POLICIES {
                return Err(Undecided(format!(
                    "a policy may fail, and {count} policies are too many to compare at once"
                )));
            }
            let failing = failing(&side.all, self.environment, self.schema, solver).await?;
            prepared.push(with_denying_failures(&side.all, &failing)?);
        }
        let [allowing, denying]: [Vec<Policy>; 2] =
            prepared.try_into().map_err(|_| Undecided("a policy cannot be converted".to_owned()))?;
        match self.ask(&allowing, &denying, assumptions, solver).await? {
            None => Ok(None),
            Some(model) => self.confirm(direction, &model, is_flat).map(Some).ok_or_else(|| {
                Undecided("Cedar does not confirm the request that the solver found".to_owned())
            }),
        }
    }

    /// Finds a request that one of the permits in `part` allows, with the forbids in it, and that the denying version denies. Of
    /// that one, the solver knows the policies in `known`, and in each round the permits that refute its last request.
    async fn find_in_part(
        &self,
        direction: Direction,
        (part, mut known): (&[Policy], Vec<Policy>),
        denying: &PolicySide,
        assumptions: &Assumptions,
        solver: &mut Solver,
    ) -> Result<PartOutcome, Undecided> {
        for _ in 0..MAX_ROUNDS {
            let Some(model) = self.ask(part, &known, assumptions, solver).await? else {
                return Ok(PartOutcome::None);
            };
            if let Some(witness) = self.confirm(direction, &model, false) {
                return Ok(PartOutcome::Found(Box::new(witness)));
            }
            let missing = self.permits_of(direction, &model, denying, &known);
            if missing.is_empty() {
                break;
            }
            known.extend(missing);
        }
        Ok(PartOutcome::Undecided)
    }

    /// Finds a request as [`EnvironmentQuery::find`] does, for a few permits of the allowing version after the other, because the
    /// solver cannot compare all policies at once. A request that no part allows is not allowed.
    async fn find_in_parts(
        &self,
        direction: Direction,
        denying: &PolicySide,
        allowing: &PolicySide,
        solver: &mut Solver,
    ) -> Result<Option<Witness>, Undecided> {
        let data = if self.new.engine.is_some() { self.new.data() } else { self.old.data() };
        let forbids = |side: &PolicySide| -> Vec<Policy> {
            PolicySide::with_effect(&side.all, Effect::Forbid).cloned().collect()
        };
        let (denying_forbids, allowing_forbids) = (forbids(denying), forbids(allowing));
        let permits: Vec<&Policy> = PolicySide::with_effect(&allowing.all, Effect::Permit).collect();
        let denying_permits: HashMap<String, &Policy> = PolicySide::with_effect(&denying.all, Effect::Permit)
            .map(|policy| (logic(policy), policy))
            .collect();
        for permits in permits.chunks(PERMITS_OF_A_PART) {
            let same = permits.iter().filter_map(|permit| denying_permits.get(&logic(permit)));
            let known: Vec<Policy> = same.copied().chain(&denying_forbids).cloned().collect();
            let part: Vec<Policy> = permits.iter().copied().chain(&allowing_forbids).cloned().collect();
            let assumptions = Assumptions::new(self.schema, data, part.iter().chain(&known));
            match self.find_in_part(direction, (&part, known), denying, &assumptions, solver).await? {
                PartOutcome::None => {}
                PartOutcome::Found(witness) => return Ok(Some(*witness)),
                PartOutcome::Undecided => {
                    return Err(Undecided("the policies are too many to compare at once".to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// The permits of the denying version that allow the request after all, as far as the solver does not know them.
    fn permits_of(
        &self,
        direction: Direction,
        model: &Env,
        denying: &PolicySide,
        known: &[Policy],
    ) -> Vec<Policy> {
        let version = if direction == Direction::Wider { self.old } else { self.new };
        let request = Scenario::from_model(model).and_then(|scenario| scenario.to_request(self.schema));
        let outcome = request.and_then(|(request, entities)| version.outcome(&request, &entities, false));
        let reason: HashSet<String> = outcome
            .filter(|outcome| outcome.allowed)
            .into_iter()
            .flat_map(|outcome| outcome.reason)
            .collect();
        let is_missing = |policy: &&Policy| {
            reason.contains::<str>(policy.id().as_ref())
                && known.iter().all(|known| known.id() != policy.id())
        };
        denying.all.iter().filter(is_missing).cloned().collect()
    }

    /// The policies of both versions for the solver.
    fn sides(&self, is_flat: bool) -> Result<[PolicySide; 2], Undecided> {
        let descendants = self.descendants();
        let versions = [self.old, self.new].into_iter().zip(&descendants);
        let mut sides = Vec::new();
        for (version, descendants) in versions {
            let policies = version.policies(self.action);
            let prepared: Option<Vec<Policy>> = match is_flat {
                true => policies.into_iter().map(|policy| flatten(policy, descendants)).collect(),
                false => Some(policies.into_iter().cloned().collect()),
            };
            sides.push(prepared.ok_or_else(|| Undecided("a policy cannot be converted".to_owned()))?);
        }
        let [old, new]: [Vec<Policy>; 2] =
            sides.try_into().map_err(|_| Undecided("a policy cannot be converted".to_owned()))?;
        let known = |policies: &[Policy]| policies.iter().map(logic).collect::<HashSet<_>>();
        let [old_logic, new_logic] = [&old, &new].map(|policies| known(policies));
        let changed = |policies: &[Policy], other: &HashSet<String>| -> Vec<Policy> {
            policies.iter().filter(|policy| !other.contains(&logic(policy))).cloned().collect()
        };
        let (old_changed, new_changed) = (changed(&old, &new_logic), changed(&new, &old_logic));
        Ok([PolicySide { all: old, changed: old_changed }, PolicySide { all: new, changed: new_changed }])
    }

    fn assumptions(&self, is_flat: bool, one: &PolicySide, other: &PolicySide) -> Assumptions {
        let policies = one.all.iter().chain(&other.all);
        match is_flat {
            true => {
                let data: Vec<Entity> = self.old.data().iter().chain(self.new.data()).cloned().collect();
                let mut seen = HashSet::new();
                let flat = without_parents(&data).into_iter().filter(|entity| seen.insert(entity.uid()));
                Assumptions::new(self.schema, &flat.collect::<Vec<_>>(), policies)
            }
            false => {
                let data = if self.new.engine.is_some() { self.new.data() } else { self.old.data() };
                Assumptions::new(self.schema, data, policies)
            }
        }
    }

    /// The changed policies that can make `allowing` allow more: its permits, and the forbids of `denying`. Those are left out
    /// that match nothing that the policy with the same id does not match, too.
    async fn sources(
        &self,
        denying: &PolicySide,
        allowing: &PolicySide,
        is_flat: bool,
        solver: &mut Solver,
    ) -> Result<Vec<Policy>, Undecided> {
        let permits = PolicySide::with_effect(&allowing.changed, Effect::Permit)
            .map(|policy| (policy, &denying.changed));
        let forbids = PolicySide::with_effect(&denying.changed, Effect::Forbid)
            .map(|policy| (policy, &allowing.changed));
        let mut sources = Vec::new();
        for (policy, others) in permits.chain(forbids) {
            let counterpart =
                others.iter().find(|other| other.id() == policy.id() && other.effect() == policy.effect());
            let is_contained = match counterpart {
                Some(counterpart) if !is_flat => self.is_contained(policy, counterpart, solver).await?,
                _ => false,
            };
            if !is_contained {
                sources.push(policy.clone());
            }
        }
        Ok(sources)
    }

    /// Whether a policy matches only requests that another one matches.
    async fn is_contained(
        &self,
        policy: &Policy,
        other: &Policy,
        solver: &mut Solver,
    ) -> Result<bool, Undecided> {
        let compile = |policy: &Policy| {
            CompiledPolicy::compile(policy, self.environment, self.schema).map_err(undecided)
        };
        let (policy, other) = (compile(policy)?, compile(other)?);
        solver.ask(async |compiler| compiler.check_matches_implies_opt(&policy, &other).await).await
    }

    /// A request that the first policies allow and the second ones deny, under the assumptions.
    async fn ask(
        &self,
        allowing: &[Policy],
        denying: &[Policy],
        assumptions: &Assumptions,
        solver: &mut Solver,
    ) -> Result<Option<Env>, Undecided> {
        let compile = |policies: &[Policy]| {
            let set = PolicySet::from_policies(policies.iter().cloned()).map_err(undecided)?;
            CompiledPolicySet::compile(&assumptions.add_to(&set), self.environment, self.schema)
                .map_err(undecided)
        };
        let (allowing, denying) = (compile(allowing)?, compile(denying)?);
        solver
            .ask(async |compiler| compiler.check_implies_with_counterexample_opt(&allowing, &denying).await)
            .await
    }

    /// The request as a witness, if the versions decide it differently with all policies.
    fn confirm(&self, direction: Direction, model: &Env, is_flat: bool) -> Option<Witness> {
        let scenario = Scenario::from_model(model)?;
        let decide = |request: &Request, entities: &Entities| {
            let old = self.old.outcome(request, entities, is_flat)?;
            let new = self.new.outcome(request, entities, is_flat)?;
            Some((old, new))
        };
        let holds = |request: &Request, entities: &Entities| {
            let expected = match direction {
                Direction::Wider => (false, true),
                Direction::Narrower => (true, false),
            };
            decide(request, entities).is_some_and(|(old, new)| (old.allowed, new.allowed) == expected)
        };
        let named = [self.old, self.new].into_iter().flat_map(|version| version.policies(self.action));
        let data = if is_flat || self.new.engine.is_none() { &[] } else { self.new.data() };
        let scenario = Simplifier::new(self.schema, data, named).simplify(scenario, holds);
        let (request, entities) = scenario.to_request(self.schema)?;
        if !holds(&request, &entities) {
            return None;
        }
        let (old, new) = decide(&request, &entities)?;
        let name = format!(
            "{} on {} by {} {}",
            self.action,
            self.environment.resource(),
            self.environment.principal(),
            if direction == Direction::Wider { "is allowed now" } else { "is denied now" },
        );
        let version = if self.new.engine.is_some() { self.new } else { self.old };
        let entities = if is_flat { version.with_own_data(&entities)? } else { entities };
        let policies = version.engine?.bundle().policy_set();
        let test = PolicyTest::from_decision(&name, &request, &entities, policies).ok()?;
        Some(Witness { direction, test, old, new })
    }
}

fn undecided(error: impl std::fmt::Display) -> Undecided {
    Undecided(error.to_string())
}
