//! Who may do what in external domains: their principals have no scopes, and their resources are in no organization.

use super::evaluation::Evaluator;
use super::{Outcome, USER};
use crate::authz::{Bundle, action_name};
use cedar_policy::{EntityTypeName, EntityUid, PartialEntities, PartialEntityUid};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The maximum number of principals in a table of the data.
const MAX_PRINCIPALS: usize = 12;

/// The maximum number of resources in a table of the data.
const MAX_RESOURCES: usize = 40;

/// The largest number of entities with which tables of the data are computed.
const MAX_ENTITIES: usize = 2_000;

/// Who may do what in an external domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainAccess {
    /// The namespace of its actions; empty for actions without one.
    pub namespace: String,
    /// Its request environments, with the result for all requests of each.
    pub rows: Vec<DomainRow>,
    /// The decisions for the entities of its data.
    pub data: Result<DataMatrix, String>,
}

/// A request environment: an action, and the types of principal and resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainRow {
    /// The name of the action.
    pub action: String,
    /// The type of the principals.
    pub principal: String,
    /// The type of the resources.
    pub resource: String,
    /// The result for all requests.
    pub outcome: Outcome,
}

/// The decisions for entities of the data: for each resource and action, one per principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataMatrix {
    /// The principals: the columns.
    pub principals: Vec<String>,
    /// How many principals of the data are left out.
    pub other_principals: usize,
    /// How many resources of the data are left out.
    pub other_resources: usize,
    /// The rows.
    pub rows: Vec<DataRow>,
}

/// A row of a [`DataMatrix`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataRow {
    /// The resource.
    pub resource: String,
    /// The action.
    pub action: String,
    /// The results, one per principal; none where the action does not apply to the principal.
    pub outcomes: Vec<Option<Outcome>>,
}

/// An action with the types that it applies to.
struct Environment {
    action: EntityUid,
    principal: EntityTypeName,
    resource: EntityTypeName,
}

/// The tables of all domains whose principals are not users of this service, ordered by namespace.
///
/// # Errors
/// The policies cannot be evaluated partially.
pub fn domain_access(bundle: &Bundle) -> Result<Vec<DomainAccess>, String> {
    let mut evaluator = Evaluator::new(bundle)?;
    let mut domains: BTreeMap<String, Vec<Environment>> = BTreeMap::new();
    for environment in bundle.schema().request_envs() {
        if environment.principal().to_string() == USER {
            continue;
        }
        domains.entry(environment.action().type_name().namespace()).or_default().push(Environment {
            action: environment.action().clone(),
            principal: environment.principal().clone(),
            resource: environment.resource().clone(),
        });
    }
    let mut result = Vec::new();
    for (namespace, mut environments) in domains {
        environments.sort_by_cached_key(|environment| {
            (
                environment.resource.to_string(),
                environment.action.to_string(),
                environment.principal.to_string(),
            )
        });
        let rows = environments.iter().map(|environment| domain_row(&mut evaluator, environment));
        let rows = rows.collect::<Result<_, String>>()?;
        let data = data_matrix(bundle, &mut evaluator, &environments);
        result.push(DomainAccess { namespace, rows, data });
    }
    Ok(result)
}

fn domain_row(evaluator: &mut Evaluator<'_>, environment: &Environment) -> Result<DomainRow, String> {
    let Environment { action, principal, resource } = environment;
    let outcome = evaluator.outcome_of(
        PartialEntityUid::new(principal.clone(), None),
        action,
        PartialEntityUid::new(resource.clone(), None),
        &PartialEntities::empty(),
    )?;
    Ok(DomainRow {
        action: action_name(action),
        principal: principal.to_string(),
        resource: resource.to_string(),
        outcome,
    })
}

/// The decisions for the entities of the data that the environments apply to.
///
/// # Errors
/// Why there is no such table.
fn data_matrix(
    bundle: &Bundle,
    evaluator: &mut Evaluator<'_>,
    environments: &[Environment],
) -> Result<DataMatrix, String> {
    let of_type = |is_wanted: &dyn Fn(&EntityTypeName) -> bool| -> Vec<EntityUid> {
        let uids = bundle.data().iter().map(|entity| entity.uid());
        let mut uids: Vec<EntityUid> = uids.filter(|uid| is_wanted(uid.type_name())).collect();
        uids.sort_by_cached_key(ToString::to_string);
        uids
    };
    let principals = of_type(&|kind| environments.iter().any(|environment| environment.principal == *kind));
    let resources = of_type(&|kind| environments.iter().any(|environment| environment.resource == *kind));
    if principals.is_empty() || resources.is_empty() {
        return Err("The policy data have no principal or no resource of this domain.".to_owned());
    }
    let count = bundle.data().len();
    if count > MAX_ENTITIES {
        return Err(format!(
            "The policy data have {count} entities; this table is made for at most {MAX_ENTITIES}."
        ));
    }
    let entities = PartialEntities::from_concrete(evaluator.data().clone(), bundle.schema());
    let entities = entities.map_err(|error| error.to_string())?;
    let shown: Vec<&EntityUid> = principals.iter().take(MAX_PRINCIPALS).collect();
    let mut rows = Vec::new();
    for resource in resources.iter().take(MAX_RESOURCES) {
        let of_resource =
            environments.iter().filter(|environment| environment.resource == *resource.type_name());
        let actions: BTreeSet<&EntityUid> = of_resource.map(|environment| &environment.action).collect();
        for action in actions {
            let is_applicable = |principal: &EntityUid| {
                environments.iter().any(|environment| {
                    environment.action == *action
                        && environment.principal == *principal.type_name()
                        && environment.resource == *resource.type_name()
                })
            };
            let mut outcomes = Vec::new();
            for principal in &shown {
                outcomes.push(match is_applicable(principal) {
                    true => Some(evaluator.outcome_of(
                        PartialEntityUid::from_concrete((*principal).clone()),
                        action,
                        PartialEntityUid::from_concrete(resource.clone()),
                        &entities,
                    )?),
                    false => None,
                });
            }
            rows.push(DataRow { resource: resource.to_string(), action: action_name(action), outcomes });
        }
    }
    Ok(DataMatrix {
        principals: shown.into_iter().map(ToString::to_string).collect(),
        other_principals: principals.len().saturating_sub(MAX_PRINCIPALS),
        other_resources: resources.len().saturating_sub(MAX_RESOURCES),
        rows,
    })
}
