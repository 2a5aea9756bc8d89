//! The filter of a question: partial evaluation, and the combination of the translated policies.

use super::stored::StoredEntity;
use super::translation::is_row;
use super::translator::{AncestorRule, DataHierarchy, Refusal, Translator};
use super::tree::{EntityId, Filter, FilterExpr, Operand, Path, Value};
use super::truth::Truth;
use crate::authz::action_policies::ActionPolicies;
use crate::authz::entity_uid::{ORGANIZATION, type_name, uid};
use crate::authz::external_entities::ExternalEntities;
use crate::authz::{AuthzRequest, Engine};
use cedar_policy::pst::Clause;
use cedar_policy::{
    Effect, Entities, Entity, EntityTypeName, EntityUid, PartialEntities, PartialEntityUid, PartialRequest,
    Policy, PolicySet,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The maximum number of resources of a type in the entity data, each of which a filter decides by its stored attributes.
const MAX_STORED: usize = 1_000;

/// Why a question has no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The question cannot be evaluated: each decision would be a denial.
    #[error("{0}")]
    Failed(String),
    /// These policies cannot be translated, in the order of their ids.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Untranslatable(Vec<UntranslatablePolicy>),
    /// The entity data have too many resources of the type.
    #[error("the entity data have more than {MAX_STORED} entities of the type {0}")]
    TooManyStored(String),
    /// A stored attribute has a value that a filter cannot state.
    #[error("the stored value of {path} of {entity} cannot be translated")]
    StoredValue {
        /// The entity.
        entity: EntityId,
        /// The attribute.
        path: Path,
    },
}

/// A policy that cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntranslatablePolicy {
    /// The id of the policy.
    pub policy: String,
    /// The expression, and why it cannot be translated.
    pub refusal: Refusal,
}

impl fmt::Display for UntranslatablePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, refusal: Refusal { expression, reason } } = self;
        write!(f, "policy {policy}: {expression}: {reason}")
    }
}

/// A question about all resources of a type.
struct Question<'a> {
    engine: &'a Engine,
    action_policies: &'a ActionPolicies,
    /// The policies to evaluate.
    policies: &'a PolicySet,
    request: &'a AuthzRequest<'a>,
    principal: EntityUid,
    kind: &'a EntityTypeName,
    kind_name: String,
    ancestor_types: BTreeSet<String>,
    /// Whether a resource needs a permit.
    needs_permit: bool,
}

impl Engine {
    /// The resources of the type `kind` on which a request is allowed: those for which [`Engine::decide`] allows it.
    ///
    /// # Errors
    /// The request cannot be evaluated, or a policy cannot be translated.
    pub fn filter(&self, request: &AuthzRequest<'_>, kind: &str) -> Result<Filter, FilterError> {
        let action_policies = self.known_action(request)?;
        let kind = action_policies.resource_type(kind, false).ok_or_else(|| {
            FilterError::Failed(format!(
                "the action {} does not apply to the resource type {kind}",
                request.action
            ))
        })?;
        let policies = &action_policies.policy_set;
        self.filter_by(request, action_policies, (policies, kind), true)
    }

    /// The rows that a list contains: those of the organizations on which the list action is permitted that no policy forbids.
    /// `None` if no policy distinguishes the rows of an organization for the principal.
    ///
    /// # Errors
    /// The request cannot be evaluated, or a policy cannot be translated.
    pub fn row_filter(&self, request: &AuthzRequest<'_>) -> Result<Option<Filter>, FilterError> {
        let action_policies = self.known_action(request)?;
        let Some(rows) = action_policies.rows.as_ref().filter(|rows| rows.read_rows()) else {
            return Ok(None);
        };
        let row_reading = (&rows.row_reading, &rows.kind);
        if matches!(self.filter_by(request, action_policies, row_reading, false), Ok(Filter::Always)) {
            return Ok(None);
        }
        self.filter_by(request, action_policies, (&rows.policy_set, &rows.kind), false).map(Some)
    }

    /// The types that the ancestors of the entities of a type can have.
    pub fn ancestor_types(&self, kind: &str) -> BTreeSet<String> {
        let kind = type_name(kind);
        let ancestors =
            kind.iter().flat_map(|kind| self.bundle().schema.ancestors(kind).into_iter().flatten());
        ancestors.map(ToString::to_string).collect()
    }

    fn known_action(&self, request: &AuthzRequest<'_>) -> Result<&ActionPolicies, FilterError> {
        let unknown = || FilterError::Failed(format!("unknown action {:?}", request.action));
        self.action_policies(request.action).ok_or_else(unknown)
    }

    fn filter_by(
        &self,
        request: &AuthzRequest<'_>,
        action_policies: &ActionPolicies,
        (policies, kind): (&PolicySet, &EntityTypeName),
        needs_permit: bool,
    ) -> Result<Filter, FilterError> {
        let unknown = || FilterError::Failed("the subject type is not in the schema".to_owned());
        let principal = request.principal.uid.clone().ok_or_else(unknown)?;
        if !action_policies.principals.values().any(|kind| kind == principal.type_name()) {
            let (action, kind) = (request.action, principal.type_name());
            return Err(FilterError::Failed(format!(
                "the action {action} does not apply to the subject type {kind}"
            )));
        }
        let question = Question {
            engine: self,
            action_policies,
            policies,
            request,
            principal,
            kind,
            kind_name: kind.to_string(),
            ancestor_types: self.ancestor_types(&kind.to_string()),
            needs_permit,
        };
        Ok(Filter::from_expr(question.filter()?))
    }
}

impl Question<'_> {
    fn filter(&self) -> Result<FilterExpr, FilterError> {
        if self.is_own_type() {
            return self.filter_of(false);
        }
        let mut expr = self.filter_of(false)?;
        if self.principal.type_name() == self.kind {
            // The row that is the principal determines the attributes of the principal, too.
            let is_own = is_row(&entity_id(&self.principal));
            let of_own = FilterExpr::and([is_own.clone(), self.filter_of(true)?]);
            expr = FilterExpr::or([FilterExpr::and([FilterExpr::not(is_own), expr]), of_own]);
        }
        self.with_stored(expr)
    }

    /// Whether the resources are in the database of the service.
    fn is_own_type(&self) -> bool {
        self.engine.bundle().is_stored_type(self.kind.basename()) && self.kind.namespace().is_empty()
    }

    /// The filter for all resources, or for the resource that is the principal.
    fn filter_of(&self, is_principal: bool) -> Result<FilterExpr, FilterError> {
        let entities = self.entities(is_principal).map_err(FilterError::Failed)?;
        let conditions = self.residuals(&entities, is_principal).map_err(FilterError::Failed)?;
        let translator = self.translator(&entities, is_principal);
        let mut permits = Vec::new();
        let mut required = Vec::new();
        let mut refused = Vec::new();
        for (policy, condition) in &conditions {
            match translator.policy(condition) {
                Ok(truth) => {
                    required.push(truth.defined.clone());
                    match policy.effect() {
                        Effect::Permit => permits.push(truth.yes),
                        Effect::Forbid => required.push(FilterExpr::not(truth.yes)),
                    }
                }
                Err(refusal) => {
                    refused.push(UntranslatablePolicy { policy: policy.id().to_string(), refusal });
                }
            }
        }
        let required = FilterExpr::and(required);
        let is_permit_possible = !permits.is_empty() || !refused.is_empty() || !self.needs_permit;
        if required.as_constant() == Some(false) || !is_permit_possible {
            return Ok(FilterExpr::never());
        }
        if !refused.is_empty() {
            refused.sort_by(|one, other| one.policy.cmp(&other.policy));
            return Err(FilterError::Untranslatable(refused));
        }
        let permitted = if self.needs_permit { FilterExpr::or(permits) } else { FilterExpr::always() };
        Ok(FilterExpr::and([permitted, required]))
    }

    /// The entities of an ordinary decision besides the resource, each with all of its ancestors.
    fn entities(&self, is_principal: bool) -> Result<Entities, String> {
        let request = self.request;
        let context_entities = match self.action_policies.reads_context() {
            true => self.engine.context_entities(self.action_policies, request.context),
            false => Vec::new(),
        };
        let principal = request.principal.entity.clone();
        // The data may have resources of the type: they are rows, too.
        let literals = self.action_policies.literal_entities.iter().cloned();
        let context_entities = context_entities.into_iter().map(Arc::unwrap_or_clone);
        let is_row = |entity: &Entity| entity.uid().type_name() == self.kind;
        let others = literals.chain(context_entities).filter(|entity| !is_row(entity));
        let others: BTreeMap<EntityUid, Entity> = others.map(|entity| (entity.uid(), entity)).collect();
        let principal = principal.filter(|_| !is_principal).map(Arc::unwrap_or_clone);
        Entities::empty()
            .upsert_entities(others.into_values().chain(principal), None)
            .map_err(|error| error.to_string())
    }

    /// What remains of the policies.
    fn residuals(
        &self,
        entities: &Entities,
        is_principal: bool,
    ) -> Result<Vec<(Policy, Vec<Clause>)>, String> {
        let schema = self.engine.bundle().schema();
        let context =
            self.action_policies.context(schema, self.request.context).map_err(|error| error.message)?;
        let resource = match is_principal {
            true => PartialEntityUid::from_concrete(self.principal.clone()),
            false => PartialEntityUid::new(self.kind.clone(), None),
        };
        let principal = PartialEntityUid::from_concrete(self.principal.clone());
        let action = self.action_policies.action.clone();
        let request = PartialRequest::new(principal, action, resource, Some(context), schema);
        let request = request.map_err(|error| error.to_string())?;
        let entities =
            PartialEntities::from_concrete(entities.clone(), schema).map_err(|error| error.to_string())?;
        let response = self.policies.tpe(&request, &entities, schema).map_err(|error| error.to_string())?;
        let conditions = response.policies().map(|policy| {
            let clauses = policy.to_pst().map_err(|error| error.to_string())?.body().clauses().to_vec();
            Ok((policy, clauses))
        });
        let mut conditions = conditions.collect::<Result<Vec<_>, String>>()?;
        // The order of a hash map, else.
        conditions.sort_by(|(one, _), (other, _)| one.id().cmp(other.id()));
        Ok(conditions)
    }

    fn translator<'a>(&'a self, entities: &'a Entities, is_principal: bool) -> Translator<'a> {
        let kind = self.kind_name.as_str();
        let ancestors = match self.is_own_type() {
            true => {
                let ancestors = entities.ancestors(&self.principal).into_iter().flatten().map(entity_id);
                let is_row = self.principal.type_name() == self.kind;
                let others = ancestors.filter(|ancestor| is_row && ancestor.kind != ORGANIZATION);
                AncestorRule::Organizations { of_principal: others.collect() }
            }
            false => AncestorRule::Data(self.engine.external_entities()),
        };
        let resource_type = self.engine.bundle().entity_types.get(kind);
        Translator {
            kind,
            resource_type,
            principal: entity_id(&self.principal),
            is_principal,
            entities,
            ancestor_types: &self.ancestor_types,
            ancestors,
        }
    }

    /// The filter in which the resources of the entity data are decided by their stored attributes.
    fn with_stored(&self, expr: FilterExpr) -> Result<FilterExpr, FilterError> {
        let kind = self.kind_name.as_str();
        let data = self.engine.external_entities();
        let mut by_filter: BTreeMap<String, (FilterExpr, Vec<Value>)> = BTreeMap::new();
        let mut stored = Vec::new();
        if expr.as_constant() == Some(false) {
            return Ok(expr);
        }
        for (count, id) in data.ids(kind, None).enumerate() {
            if count == MAX_STORED {
                return Err(FilterError::TooManyStored(kind.to_owned()));
            }
            let entity = uid(kind, id).and_then(|uid| data.entity(&uid));
            let Some(entity) = entity else { continue };
            let entity = StoredEntity::new(&entity, self.stored_ancestors(&entity.uid()));
            let special = entity.specialize(&expr).map_err(|path| {
                FilterError::Failed(format!(
                    "the stored value of {path} of {} cannot be translated",
                    entity.id()
                ))
            })?;
            if special != expr {
                let id = Value::Entity(entity.id().clone());
                stored.push(id.clone());
                by_filter.entry(format!("{special:?}")).or_insert((special, Vec::new())).1.push(id);
            }
        }
        if stored.is_empty() {
            return Ok(expr);
        }
        let others = FilterExpr::and([FilterExpr::not(is_one_of(stored)), expr]);
        let special =
            by_filter.into_values().map(|(special, ids)| FilterExpr::and([is_one_of(ids), special]));
        Ok(FilterExpr::or([others].into_iter().chain(special)))
    }
}

impl Question<'_> {
    /// The ancestors of an entity of the data. One of them can be the principal, which is not in the data.
    fn stored_ancestors(&self, uid: &EntityUid) -> BTreeSet<EntityId> {
        let data = self.engine.external_entities();
        let mut ancestors: BTreeSet<EntityId> = data.ancestors_of(uid).map(entity_id).collect();
        if ancestors.contains(&entity_id(&self.principal))
            && let Some(principal) = &self.request.principal.entity
        {
            let entities = Entities::from_entities([(**principal).clone()], None);
            let above = entities
                .iter()
                .flat_map(|entities| entities.ancestors(&self.principal).into_iter().flatten());
            ancestors.extend(above.map(entity_id));
        }
        ancestors
    }
}

/// Whether the resource is one of these entities.
fn is_one_of(entities: Vec<Value>) -> FilterExpr {
    FilterExpr::Contains {
        set: Operand::Value(Value::set(entities)),
        element: Operand::Path(Path::resource()),
    }
}

fn entity_id(uid: &EntityUid) -> EntityId {
    EntityId { kind: uid.type_name().to_string(), id: uid.id().unescaped().to_owned() }
}

impl Translator<'_> {
    /// Where a policy applies, and where it fails.
    ///
    /// # Errors
    /// The first expression that cannot be translated.
    fn policy(&self, clauses: &[Clause]) -> Result<Truth, Refusal> {
        clauses.iter().try_fold(Truth::constant(true), |all, clause| {
            let truth = match clause {
                Clause::When(expr) => self.truth(expr)?,
                Clause::Unless(expr) => self.truth(expr)?.not(),
            };
            Ok(all.and(truth))
        })
    }
}

impl DataHierarchy for ExternalEntities {
    fn descendants(&self, entity: &EntityId) -> Vec<EntityId> {
        let ancestor = uid(&entity.kind, &entity.id);
        let below = ancestor.iter().flat_map(|ancestor| self.descendants_of(ancestor));
        below.map(|uid| entity_id(&uid)).collect()
    }
}
