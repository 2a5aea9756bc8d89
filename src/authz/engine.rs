//! Decides. Policies are sliced per action when they are loaded: only those that can speak of an action are asked about
//! it, which changes no decision, since a policy whose scope does not match neither decides nor errors.

use super::bundle::{About, Bundle, action_name};
use super::facts::{Circumstances, Principal, Resourced, SCOPE, Thing, uid};
use super::permitted::{Denied, Permitted, Undecided, Within};
use super::{BundleError, Fault, Scope, ScopeSet};
use crate::values::OrgPath;
use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Entities, Entity, EntityUid, Policy, PolicySet, Request,
    RestrictedExpression, Schema,
};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// A question without its resource: may this one do that, so?
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// What: the name of an action.
    pub action: &'a str,
    /// What else policies may read.
    pub circumstances: &'a Circumstances,
}

/// What Cedar says.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Whether it is permitted. Where anything went wrong, it is not.
    pub allowed: bool,
    /// The policies that decided: those that permitted, or those that forbade; none where none permitted.
    pub policies: Vec<About>,
    /// What went wrong.
    pub errors: Vec<String>,
}

impl Answer {
    fn undecidable(error: impl ToString) -> Self {
        Self { errors: vec![error.to_string()], ..Self::default() }
    }
}

/// The policies that can speak of one action, and the data that they may read.
#[derive(Debug)]
struct Slice {
    action: EntityUid,
    policies: PolicySet,
    base: Entities,
    context: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

/// Decides by the policies of one bundle.
#[derive(Debug)]
pub struct Engine {
    bundle: Bundle,
    slices: HashMap<String, Slice>,
    cascade: HashMap<Scope, Vec<Scope>>,
    authorizer: Authorizer,
}

impl Engine {
    /// An engine for these policies.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let failed = |error: &dyn std::fmt::Display| {
            BundleError(vec![Fault { file: "policies".into(), line: None, message: error.to_string() }])
        };
        let actions = bundle.schema.action_entities().map_err(|error| failed(&error))?;
        let mut slices = HashMap::new();
        for action in bundle.schema.actions() {
            let slice = Slice::new(&bundle, &actions, action).map_err(|error| failed(&error))?;
            slices.insert(action_name(action), slice);
        }
        let data = Entities::from_entities(bundle.data.clone(), None).map_err(|error| failed(&error))?;
        let cascade = Scope::ALL.into_iter().map(|scope| (scope, reached(&data, scope))).collect();
        Ok(Self { bundle, slices, cascade, authorizer: Authorizer::new() })
    }

    /// What it decides by.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The scopes that a credential grants to a user with this role, the cascade applied: what the credential reaches
    /// and the role reaches too (decision 4). None where that is nothing.
    pub fn effective(&self, claimed: &ScopeSet, role: Scope) -> Option<ScopeSet> {
        let reach = |scope: Scope| self.cascade.get(&scope).into_iter().flatten().copied();
        ScopeSet::new(
            claimed.iter().flat_map(reach).filter(|scope| reach(role).any(|capped| capped == *scope)),
        )
    }

    /// What Cedar says of this question.
    pub fn decide(&self, ask: &Ask<'_>, resource: &Resourced) -> Answer {
        let Some(slice) = self.slices.get(ask.action) else {
            return Answer::undecidable(format!("there is no action {:?}", ask.action));
        };
        match self.response(slice, ask, resource) {
            Ok(response) => {
                let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
                if !errors.is_empty() {
                    // A policy that errs is skipped, so a broken forbid would fail open.
                    tracing::error!(action = ask.action, ?errors, "a policy could not be evaluated: denied");
                }
                let ids = response.diagnostics().reason().map(<_ as AsRef<str>>::as_ref);
                let mut policies: Vec<About> = ids.filter_map(|id| self.bundle.policy(id)).cloned().collect();
                policies.sort_by(|one, two| one.id.cmp(&two.id));
                Answer {
                    allowed: response.decision() == Decision::Allow && errors.is_empty(),
                    policies,
                    errors,
                }
            }
            Err(error) => {
                tracing::warn!(action = ask.action, error, "a question could not be decided: denied");
                Answer::undecidable(error)
            }
        }
    }

    /// What Cedar says of a thing that is not there, or that whoever asks could not name: never yes. What would be
    /// denied of such a thing at home is denied for the same reasons, so that the answer does not tell whether it is
    /// there (decision 16).
    pub fn decide_missing(&self, ask: &Ask<'_>, kind: &str, id: &str) -> Answer {
        let at_home = self.decide(ask, &Resourced::hypothetical(kind, &ask.principal.organization));
        if at_home.allowed { self.decide(ask, &Resourced::nowhere(kind, id)) } else { at_home }
    }

    fn response(
        &self,
        slice: &Slice,
        ask: &Ask<'_>,
        resource: &Resourced,
    ) -> Result<cedar_policy::Response, String> {
        let named = |uid: &Option<EntityUid>| uid.clone().ok_or_else(|| "it has no entity type".to_owned());
        let (principal, thing) = (named(&ask.principal.uid)?, named(&resource.uid)?);
        let context = slice.context(&self.bundle.schema, ask.circumstances)?;
        let request = Request::new(
            principal.clone(),
            slice.action.clone(),
            thing.clone(),
            context,
            Some(&self.bundle.schema),
        )
        .map_err(|error| error.to_string())?;
        let entities = slice
            .base
            .clone()
            .add_entities(entities(principal, ask.principal, thing, resource)?, None)
            .map_err(|error| error.to_string())?;
        Ok(self.authorizer.is_authorized(&request, &slice.policies, &entities))
    }

    /// Whether it is permitted.
    pub fn allows(&self, ask: &Ask<'_>, resource: &Resourced) -> bool {
        self.decide(ask, resource).allowed
    }

    /// Whether the principal could do this to some other thing of this type in its own organization.
    pub fn could(&self, ask: &Ask<'_>, kind: &str) -> bool {
        self.allows(ask, &Resourced::hypothetical(kind, &ask.principal.organization))
    }

    /// The types of things that an action applies to, in the order of their names.
    pub fn kinds(&self, action: &str) -> impl Iterator<Item = &str> {
        self.slices.get(action).into_iter().flat_map(|slice| slice.kinds.iter().map(String::as_str))
    }

    /// The thing, if the action on it is permitted.
    pub fn permit<T: Thing>(&self, ask: &Ask<'_>, thing: Undecided<T>) -> Result<Permitted<T>, Denied> {
        if self.allows(ask, &thing.resourced()) {
            Ok(thing.permitted())
        } else {
            Err(Denied::new(ask.action))
        }
    }

    /// The new thing, if the action is permitted in the organization that is to hold it.
    pub fn permit_within<T: Thing>(
        &self,
        ask: &Ask<'_>,
        thing: Undecided<T>,
    ) -> Result<Permitted<T>, Denied> {
        if self.allows(ask, &Resourced::organization(thing.path())) {
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

/// The scopes that a scope reaches: itself and those below it.
fn reached(data: &Entities, scope: Scope) -> Vec<Scope> {
    let Some(uid) = uid(SCOPE, &scope) else { return Vec::new() };
    Scope::ALL
        .into_iter()
        .filter(|below| {
            *below == scope
                || self::uid(SCOPE, below).is_some_and(|below| {
                    data.ancestors(&uid)
                        .is_some_and(|mut ancestors| ancestors.any(|ancestor| *ancestor == below))
                })
        })
        .collect()
}

/// The entities of principal and resource; one where they are the same user. Then the thing says how it is, or would be,
/// and the credential says with which scopes.
fn entities(
    principal: EntityUid,
    caller: &Principal,
    thing: EntityUid,
    resource: &Resourced,
) -> Result<Vec<Entity>, String> {
    let same = principal == thing;
    let attributes =
        |pairs: &[(&'static str, RestrictedExpression)]| -> HashMap<String, RestrictedExpression> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
    let own = attributes(&resource.attributes);
    let mut parents = resource.parents.clone();
    let made =
        |uid, attributes, parents| Entity::new(uid, attributes, parents).map_err(|error| error.to_string());
    if same {
        parents.extend(caller.scopes.iter().cloned());
        return Ok(vec![made(thing, own, parents)?]);
    }
    Ok(vec![
        made(
            principal,
            attributes(&caller.attributes),
            caller.scopes.iter().chain(&caller.above).cloned().collect(),
        )?,
        made(thing, own, parents)?,
    ])
}

impl Slice {
    fn new(
        bundle: &Bundle,
        actions: &Entities,
        action: &EntityUid,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let is_group = |group: &EntityUid| {
            group == action
                || actions.ancestors(action).is_some_and(|mut above| above.any(|found| found == group))
        };
        let mut policies = PolicySet::new();
        for policy in bundle.policies.policies() {
            match policy.action_constraint() {
                ActionConstraint::Any => policies.add(policy.clone())?,
                ActionConstraint::Eq(uid) if uid == *action => policies.add(policy.clone())?,
                ActionConstraint::In(groups) if groups.iter().any(is_group) => {
                    policies.add(specialized(policy, action)?)?;
                }
                ActionConstraint::Eq(_) | ActionConstraint::In(_) => {}
            }
        }
        // The action's own place among its groups, for policies that ask for it in a condition; all actions where one
        // asks for others.
        let asks_for_others = policies
            .policies()
            .flat_map(Policy::entity_literals)
            .any(|literal| literal.type_name().basename() == "Action" && !is_group(&literal));
        let known = actions.iter().filter(|entity| asks_for_others || is_group(&entity.uid())).cloned();
        let base = Entities::from_entities(bundle.data.iter().cloned().chain(known), None)?;
        let kinds = bundle.schema.resources_for_action(action).into_iter().flatten();
        Ok(Self {
            action: action.clone(),
            policies,
            base,
            context: bundle.contexts.get(action).cloned().unwrap_or_default(),
            kinds: kinds.map(ToString::to_string).collect(),
        })
    }

    /// The context of a call, with what the action's context declares.
    fn context(&self, schema: &Schema, circumstances: &Circumstances) -> Result<Context, String> {
        let mut known = circumstances.known();
        known.retain(|(name, _)| self.context.contains(*name));
        let is_known = |name: &String| known.iter().any(|(known, _)| known == name);
        let said: serde_json::Map<String, Value> = circumstances
            .said
            .iter()
            .filter(|(name, _)| self.context.contains(*name) && !is_known(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let said = if said.is_empty() {
            Context::empty()
        } else {
            Context::from_json_value(Value::Object(said), Some((schema, &self.action)))
                .map_err(|error| format!("context: {error}"))?
        };
        let known = known.into_iter().map(|(name, value)| (name.to_owned(), value));
        said.merge(known).map_err(|error| error.to_string())
    }
}

/// The same policy for this one action: an `==` is quicker than a search in a list.
fn specialized(policy: &Policy, action: &EntityUid) -> Result<Policy, Box<dyn std::error::Error>> {
    let mut form = policy.to_json()?;
    let entity = json!({ "type": action.type_name().to_string(), "id": action.id().unescaped() });
    if let Some(form) = form.as_object_mut() {
        form.insert("action".into(), json!({ "op": "==", "entity": entity }));
    }
    Ok(Policy::from_json(Some(policy.id().clone()), form)?)
}
