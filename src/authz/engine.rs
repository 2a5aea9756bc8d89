//! Decides. Policies are sliced per action when they are loaded: only those that can speak of an action, and of the types
//! that it applies to, are asked about it, which changes no decision, since a policy whose scope does not match neither
//! decides nor errors. What has been decided is remembered under everything that the decision reads.

use super::answer::{self, Answer};
use super::bundle::{Bundle, action_name};
use super::circumstances::Circumstances;
use super::counts::{Counts, Decisions};
use super::domain::Domain;
use super::facts::{Body, Principal, Resourced, SCOPE, Thing, core, uid, with};
use super::permitted::{Denied, Permitted, Undecided, Within};
use super::rules;
use super::slice::{Candidates, Slice};
use super::trail::{Decided, Trail};
use super::unfit::Undecidable;
use super::{BundleError, Fault, Scope, ScopeSet};
use crate::decision_log;
use crate::trace::{self, Step};
use crate::values::{Fingerprint, Near, OrgPath, raw};
use cedar_policy::{Entities, EntityId, EntityUid, Request};
use cedar_policy_core::ast::{self, Entity};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many decisions are remembered.
const REMEMBERED: u64 = 100_000;

/// How many decisions a thread has near.
const NEAR_DECISIONS: usize = 65_536;

thread_local! {
    /// The decisions of late, each by its fingerprint and the number of its engine. The answers are this thread's own copies.
    static NEAR: RefCell<Near<Arc<Answer>>> = const { RefCell::new(Near::EMPTY) };
}

/// A question without its resource: may this one do that, so?
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// What: the name of an action.
    pub action: &'a str,
    /// What else policies may read.
    pub circumstances: &'a Circumstances,
    /// Where the decision is recorded, if it is.
    pub trail: Option<Trail<'a>>,
}

/// Decides by the policies of one bundle.
#[derive(Debug)]
pub struct Engine {
    bundle: Bundle,
    slices: HashMap<String, Slice>,
    domain: Domain,
    cascade: HashMap<Scope, Vec<Scope>>,
    remembered: Cache<Fingerprint, Arc<Answer>>,
    number: u64,
    counts: Counts,
    /// The version of the bundle in words.
    version: Box<RawValue>,
}

impl Engine {
    /// An engine for these policies.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let failed = |error: &dyn std::fmt::Display| {
            BundleError(vec![Fault { file: "policies".into(), line: None, message: error.to_string() }])
        };
        let data = Entities::from_entities(bundle.data.clone(), None).map_err(|error| failed(&error))?;
        let actions = bundle.schema.action_entities().map_err(|error| failed(&error))?;
        let domain = Domain::new(&bundle, &data, &actions);
        let candidates = Candidates::new(&bundle).map_err(|error| failed(&error))?;
        let mut slices = HashMap::new();
        for (number, action) in bundle.schema.actions().enumerate() {
            let slice = Slice::new(&bundle, &domain, &candidates, &actions, action, number);
            slices.insert(action_name(action), slice.map_err(|error| failed(&error))?);
        }
        let cascade = Scope::ALL.into_iter().map(|scope| (scope, reached(&data, scope))).collect();
        // Room for a thousand to begin with.
        let remembered = Cache::with_weighter(1_000, REMEMBERED, UnitWeighter);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            version: raw(&bundle.version()),
            bundle,
            slices,
            domain,
            cascade,
            remembered,
            number,
            counts: Counts::default(),
        })
    }

    /// How many decisions it has made.
    pub fn counts(&self) -> Decisions {
        self.counts.sum()
    }

    /// Tells the engines of a process apart.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it decides by.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The entities of other domains.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn slice(&self, action: &str) -> Option<&Slice> {
        self.slices.get(action)
    }

    /// Whether any policy that can speak of this action reads anything of the context.
    pub fn reads_context(&self, action: &str) -> bool {
        self.slice(action).is_some_and(Slice::reads_context)
    }

    /// The name under which an action is known that a caller names: a whole uid as it stands; a short name in the
    /// namespace of the resource's type, then in the empty one.
    pub fn action_for<'a>(&'a self, name: &'a str, kind: &str) -> &'a str {
        // To look for one letter is quicker than to look for several, and most names are short ones.
        if name.ends_with('"') && name.contains("::\"") {
            // `Action::"read"` of the empty namespace is known by its id.
            return name.strip_prefix("Action::\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
        }
        let namespace = kind.rfind(':').and_then(|end| kind.get(..end)?.strip_suffix(':'));
        let near = namespace.map(|namespace| format!("{namespace}::Action::\"{name}\""));
        near.and_then(|near| self.slices.get_key_value(&near)).map_or(name, |(known, _)| known.as_str())
    }

    /// The names of the actions that apply to these types of principal and resource, in order.
    pub fn actions_between(&self, principal: &str, resource: &str) -> Vec<&str> {
        let fits = |slice: &Slice| {
            slice.principals.contains_key(principal) && slice.resources.contains_key(resource)
        };
        let mut names: Vec<&str> =
            self.slices.iter().filter(|(_, slice)| fits(slice)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// The scopes that a credential grants to a user with this role, the cascade applied: what the credential reaches
    /// and the role reaches too (decision 4). None where that is nothing.
    pub fn effective(&self, claimed: &ScopeSet, role: Scope) -> Option<ScopeSet> {
        let reach = |scope: Scope| self.cascade.get(&scope).into_iter().flatten().copied();
        ScopeSet::new(
            claimed.iter().flat_map(reach).filter(|scope| reach(role).any(|capped| capped == *scope)),
        )
    }

    /// What Cedar says of this question. It is recorded where the question has a trail.
    pub fn decide(&self, ask: &Ask<'_>, resource: &Resourced) -> Arc<Answer> {
        let slice = self.slice(ask.action);
        let is_step = ask.trail.is_some_and(|trail| trail.is_step);
        let trail = ask.trail.filter(|trail| trail.wants(false));
        // A step on the way to another decision is not timed, unless it is recorded.
        let start = (!is_step || trail.is_some()).then(Instant::now);
        let answer = self.answer(slice, ask, resource);
        let trail = trail.filter(|trail| trail.wants(answer.allowed));
        if !is_step || trail.is_some() {
            let latency = start.map_or(Duration::ZERO, |start| start.elapsed());
            if !is_step {
                self.counts.time(latency);
            }
            if let Some(trail) = trail {
                self.record(&trail, slice, ask, (resource.named(), resource), &answer, latency);
            }
        }
        answer
    }

    fn record(
        &self,
        trail: &Trail<'_>,
        slice: Option<&Slice>,
        ask: &Ask<'_>,
        (named, thing): (&RawValue, &Resourced),
        answer: &Answer,
        latency: Duration,
    ) {
        let unknown;
        let action = match slice {
            Some(slice) => &slice.name,
            None => {
                unknown = raw(&ask.action);
                &unknown
            }
        };
        let circumstances = &*read_of(slice, ask);
        let (subject, version) = (ask.principal, &*self.version);
        trail.record(&Decided { subject, action, named, thing, circumstances, answer, version, latency });
    }

    /// The version of its policies, as the decision log has it.
    pub fn shown_version(&self) -> &RawValue {
        &self.version
    }

    fn answer(&self, slice: Option<&Slice>, ask: &Ask<'_>, resource: &Resourced) -> Arc<Answer> {
        let begun = trace::begin();
        let (answer, is_remembered) = self.recall(slice, ask, resource);
        self.counts.add(&answer, is_remembered);
        begun.end(|| {
            let step = Step::new("authorize")
                .with("cedargate.decision", if answer.allowed { "allow" } else { "deny" })
                .with("cedargate.remembered", is_remembered)
                .with("cedargate.policy_version", self.bundle.version().to_owned());
            // An action that the schema does not have is whatever somebody wrote.
            match slice {
                Some(_) => step.with("cedargate.action", ask.action.to_owned()),
                None => step,
            }
        });
        answer
    }

    /// The answer, and whether it was remembered.
    fn recall(&self, slice: Option<&Slice>, ask: &Ask<'_>, resource: &Resourced) -> (Arc<Answer>, bool) {
        let Some(slice) = slice else {
            let error = format!("there is no action {:?}", ask.action);
            return (Arc::new(Answer::undecidable(error)), false);
        };
        let key = slice.print(self.number, ask.principal, resource, ask.circumstances);
        if let Some(answer) = NEAR.with_borrow(|near| near.get(key).cloned()) {
            return (answer, true);
        }
        if let Some(answer) = self.remembered.get(&key) {
            NEAR.with_borrow_mut(|near| near.keep(NEAR_DECISIONS, key, answer::own(&answer)));
            return (answer, true);
        }
        let answer = self.decide_afresh(slice, ask, resource);
        // What went wrong is told with the names of those that it went wrong with.
        if !answer.errors.is_empty() {
            return (Arc::new(answer), false);
        }
        let answer = slice.answers.shared(answer);
        self.remembered.insert(key, Arc::clone(&answer));
        (answer, false)
    }

    fn decide_afresh(&self, slice: &Slice, ask: &Ask<'_>, resource: &Resourced) -> Answer {
        match self.call(slice, ask, resource, |call| rules::answer(&slice.rules, call)) {
            Ok(answer) => {
                if !answer.errors.is_empty() {
                    // An error may cite values, which the decision log masks.
                    tracing::error!(action = ask.action, "a policy could not be evaluated: denied");
                    tracing::debug!(action = ask.action, errors = ?answer.errors, "why a policy could not be evaluated");
                }
                answer
            }
            Err(error) => {
                // A client names the action and the types.
                let message = &error.message;
                tracing::debug!(
                    action = ask.action,
                    error = message,
                    "a question could not be decided: denied"
                );
                Answer::undecidable(error)
            }
        }
    }

    /// What Cedar says of a thing that is not there, or that whoever asks could not name: never yes. What would be
    /// denied of such a thing at home is denied for the same reasons, so that the answer does not tell whether it is
    /// there (decision 16).
    pub fn decide_missing(&self, ask: &Ask<'_>, kind: &str, id: &str) -> Arc<Answer> {
        let start = Instant::now();
        let home = ask.principal.organization.as_deref();
        let slice = self.slice(ask.action);
        let at_home = home.map(|home| Resourced::hypothetical(kind, home));
        let at_home = at_home.map(|thing| (self.answer(slice, ask, &thing), thing));
        let (answer, decided) = at_home.filter(|(answer, _)| !answer.allowed).unwrap_or_else(|| {
            let nowhere = Resourced::nowhere(kind, id);
            (self.answer(slice, ask, &nowhere), nowhere)
        });
        let answer = if answer.allowed { Arc::default() } else { answer };
        if let Some(trail) = ask.trail.filter(|trail| trail.wants(false)) {
            let named = raw(&decision_log::Thing { kind, id });
            self.record(&trail, slice, ask, (&named, &decided), &answer, start.elapsed());
        }
        answer
    }

    /// What `to_ask` learns from Cedar's evaluator of a call. An error says why there is nothing to be asked.
    pub(super) fn call<T>(
        &self,
        slice: &Slice,
        ask: &Ask<'_>,
        resource: &Resourced,
        to_ask: impl FnOnce(&Evaluator<'_>) -> T,
    ) -> Result<T, Undecidable> {
        let unknown = "the subject is not of a type that the schema knows";
        let principal = ask.principal.uid.clone().ok_or(unknown)?;
        let unfit = |what: &str, kind: &dyn std::fmt::Display| {
            format!("the action {} does not apply to the {what} type {kind}", ask.action)
        };
        if !slice.principals.values().any(|kind| kind == principal.type_name()) {
            return Err(unfit("subject", principal.type_name()).into());
        }
        let (kind, id) = resource.body().name();
        let is_new = matches!(resource.body(), Body::Own(own) if own.is_new);
        let thing = slice.resource_type(kind, is_new).ok_or_else(|| unfit("resource", &kind))?;
        let thing = EntityUid::from_type_name_and_id(thing.clone(), EntityId::new(id));
        let entity = match resource.body() {
            Body::Own(own) => {
                // The caller itself: the thing says how it is, or would be, and the credential says with which scopes.
                let none = HashSet::new();
                let also = if thing == principal { &*ask.principal.scopes } else { &none };
                own.entity(&thing, also, slice.reads_resource(ask.circumstances))
            }
            Body::Foreign(foreign) => foreign.entity.clone(),
        };
        let context = slice.context(&self.bundle.schema, ask.circumstances)?;
        let named = match slice.reads_context() {
            true => self.named(slice, ask.circumstances),
            false => Vec::new(),
        };
        // What is known of the two goes before what the data says of them.
        let (one, other) = (principal.as_ref(), thing.as_ref());
        let others = slice.base.iter().cloned().chain(named);
        let others = others.filter(|entity| entity.uid() != one && entity.uid() != other);
        let known = if one == other { Default::default() } else { ask.principal.entities().clone() };
        let entities = with(known, others.chain(entity))?;
        let schema = slice.is_checked(ask.circumstances).then_some(&self.bundle.schema);
        let request = Request::new(principal, slice.action.clone(), thing, context, schema)
            .map_err(|error| slice.unfit_context(ask.circumstances, || error.to_string()))?;
        let request = AsRef::<ast::Request>::as_ref(&request).clone();
        Ok(to_ask(&Evaluator::new(request, &entities, Extensions::all_available())))
    }

    /// The entities that the context names, since policies may look at them, too.
    fn named(&self, slice: &Slice, circumstances: &Circumstances) -> Vec<Arc<Entity>> {
        let said = slice.heard(circumstances).map(|(_, value)| value);
        let scopes = BTreeSet::from_iter([circumstances.scope, circumstances.role].into_iter().flatten());
        let scopes = scopes.into_iter().filter_map(|scope| uid(SCOPE, scope.as_str()));
        let mut named = self.domain.named_in(said);
        named.extend(scopes.filter_map(|scope| self.domain.entity(&scope)));
        named
    }

    /// Whether it is permitted.
    pub fn allows(&self, ask: &Ask<'_>, resource: &Resourced) -> bool {
        self.decide(ask, resource).allowed
    }

    /// Whether the principal could do this to some other thing of this type in its own organization.
    pub fn could(&self, ask: &Ask<'_>, kind: &str) -> bool {
        let home = ask.principal.organization.as_deref();
        let slice = self.slice(ask.action);
        home.is_some_and(|home| self.answer(slice, ask, &Resourced::hypothetical(kind, home)).allowed)
    }

    /// The types of things that an action applies to, in the order of their names.
    pub fn kinds(&self, action: &str) -> Vec<String> {
        self.slice(action).into_iter().flat_map(|slice| slice.resources.keys().cloned()).collect()
    }

    /// The thing, if the action on it is permitted.
    pub fn permit<T: Thing>(&self, ask: &Ask<'_>, thing: Undecided<T>) -> Result<Permitted<T>, Denied> {
        if self.allows(ask, &thing.resourced()) {
            Ok(thing.permitted())
        } else {
            Err(Denied::new(ask.action))
        }
    }

    /// The new resource, if the action is permitted on the organization that is to hold it, at `holder`, and on the
    /// resource itself (decision 14). A new organization is held by the organization above it.
    pub fn permit_new<T: Thing>(
        &self,
        ask: &Ask<'_>,
        holder: &OrgPath,
        thing: Undecided<T>,
    ) -> Result<Permitted<T>, Denied> {
        if self.allows(ask, &Resourced::organization(holder)) && self.allows(ask, &thing.created()) {
            Ok(thing.permitted())
        } else {
            Err(Denied::new(ask.action))
        }
    }

    /// Those of these organizations, the top of their subtree first, of which the action is permitted.
    pub fn permit_organizations(
        &self,
        ask: &Ask<'_>,
        organizations: Vec<OrgPath>,
    ) -> Result<Permitted<Within>, Denied> {
        let allowed = |path: &OrgPath| self.allows(ask, &Resourced::organization(path));
        Within::permitted(organizations, allowed).ok_or_else(|| Denied::new(ask.action))
    }
}

/// The circumstances of a question as a decision can read them: with nothing that is said but not declared.
fn read_of<'a>(slice: Option<&Slice>, ask: &Ask<'a>) -> Cow<'a, Circumstances> {
    let said = &ask.circumstances.said;
    if said.is_empty() {
        return Cow::Borrowed(ask.circumstances);
    }
    let said = slice.map(|slice| slice.declared_of(said)).unwrap_or_default();
    Cow::Owned(Circumstances { said, ..ask.circumstances.clone() })
}

/// The scopes that a scope reaches: itself and those below it.
fn reached(data: &Entities, scope: Scope) -> Vec<Scope> {
    let entity = uid(SCOPE, scope.as_str()).and_then(|uid| data.get(&uid));
    Scope::ALL
        .into_iter()
        .filter(|below| {
            let named = uid(SCOPE, below.as_str()).map(|uid| core(&uid));
            *below == scope
                || entity.is_some_and(|entity| {
                    entity.as_ref().ancestors().any(|above| Some(above) == named.as_ref())
                })
        })
        .collect()
}
