//! Who may do what: for each action, scope, location of the resource and kind of credential, whether requests are allowed, are
//! denied, or depend on something else.
//!
//! A cell covers all requests of its kind: the scope of the caller, the organizations, the credential and the action are fixed,
//! and everything else is unknown: the rest of the context, and the attributes of the caller and of the resource. Cedar's
//! type-aware partial evaluation decides what it can; what is left of the policies is the condition of a cell.

mod domains;
mod evaluation;
mod place;
mod simplification;
mod substitution;

pub use domains::{DataMatrix, DataRow, DomainAccess, DomainRow, domain_access};
pub use place::Place;

use crate::authz::{Bundle, Engine, Scope, ScopeSet, action_name, is_row_environment};
use cedar_policy::{EntityTypeName, EntityUid};
use evaluation::Evaluator;
use serde::Serialize;

/// The type of the callers that have scopes.
pub(super) const USER: &str = "User";

/// The type of the organizations.
pub(super) const ORGANIZATION: &str = "Organization";

/// Where a resource is, as seen from the organization of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Location {
    /// In the organization of the caller.
    Own,
    /// In an organization below it.
    Below,
    /// In an organization beside it.
    Sibling,
}

impl Location {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Own, Self::Below, Self::Sibling];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Below => "below",
            Self::Sibling => "sibling",
        }
    }
}

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialType {
    /// An access token of a session.
    Session,
    /// An API key.
    ApiKey,
    /// An API key that the setting CEDARGATE_PROVISIONING_KEYS lists.
    ProvisioningKey,
}

impl CredentialType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Session, Self::ApiKey, Self::ProvisioningKey];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::ApiKey => "apiKey",
            Self::ProvisioningKey => "provisioningKey",
        }
    }
}

/// Whether the requests of a cell are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// All of them.
    Allowed,
    /// Some of them, or it could not be decided.
    Depends,
    /// None of them.
    Denied,
}

/// Which resources a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Resources that exist; of users, those other than the caller.
    Existing,
    /// The resource that the action creates.
    New,
    /// The user who is the caller.
    OwnRecord,
}

/// A policy that applies to the requests of a cell under a condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Condition {
    /// The id of the policy.
    pub policy: String,
    /// What is left of its conditions, as a Cedar expression.
    pub expression: String,
}

/// The result for the requests of a cell, and the policies that determine it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Outcome {
    /// Whether they are allowed.
    pub verdict: Verdict,
    /// The permits that match all of them.
    pub permits: Vec<String>,
    /// The forbids that match all of them.
    pub forbids: Vec<String>,
    /// The permits that match some of them. Empty if that makes no difference.
    pub conditional_permits: Vec<Condition>,
    /// The forbids that match some of them. Empty if that makes no difference.
    pub conditional_forbids: Vec<Condition>,
}

/// A cell of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The kind of the credential.
    pub credential: CredentialType,
    /// The scope of the credential; the caller also has the scopes below it.
    pub scope: Scope,
    /// Where the resource is.
    pub location: Location,
    /// The index of its result in [`AccessRow::outcomes`].
    pub outcome: usize,
}

/// A row of the table: an action on a type of resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessRow {
    /// The name of the action.
    pub action: String,
    /// The types of the resources; several if all of them have the same cells.
    pub resources: Vec<String>,
    /// Which resources of these types.
    pub target: Target,
    /// The different results.
    pub outcomes: Vec<Outcome>,
    /// The cells. The own record of the caller is in its own organization only.
    pub cells: Vec<Cell>,
}

impl AccessRow {
    /// The result of a cell; none if the row has no such cell.
    pub fn outcome(
        &self,
        credential: CredentialType,
        scope: Scope,
        location: Location,
    ) -> Option<(usize, &Outcome)> {
        let cell = self
            .cells
            .iter()
            .find(|cell| cell.credential == credential && cell.scope == scope && cell.location == location)?;
        Some((cell.outcome, self.outcomes.get(cell.outcome)?))
    }
}

/// The rows of all actions of users, ordered by resource type and action.
///
/// # Errors
/// The policies cannot be evaluated partially.
pub fn access_rows(engine: &Engine) -> Result<Vec<AccessRow>, String> {
    let bundle = engine.bundle();
    let mut evaluator = Evaluator::new(bundle)?;
    let mut rows = Vec::new();
    for action in bundle.schema().actions() {
        let mut action_rows = Vec::new();
        for resource in resource_types(bundle, action) {
            for target in targets(action, &resource) {
                action_rows.push(row(engine, &mut evaluator, action, &resource, target)?);
            }
        }
        rows.extend(merge(action_rows));
    }
    rows.sort_by(|one, other| order(one).cmp(&order(other)));
    Ok(rows)
}

fn order(row: &AccessRow) -> (bool, &[String], &str, Target) {
    (row.resources.len() < 2, &row.resources, &row.action, row.target)
}

/// The resource types of the requests of users with this action, in ascending order.
fn resource_types(bundle: &Bundle, action: &EntityUid) -> Vec<EntityTypeName> {
    let environments = bundle.schema().request_envs().filter(|environment| environment.action() == action);
    // A list is permitted on the organization; its rows need no permit.
    let environments = environments.filter(|environment| !is_row_environment(environment));
    let of_users = environments.filter(|environment| environment.principal().to_string() == USER);
    let mut types: Vec<EntityTypeName> = of_users.map(|environment| environment.resource().clone()).collect();
    types.sort();
    types.dedup();
    types
}

/// Whether the action creates resources of this type, by its name.
fn is_created(action: &EntityUid, resource: &EntityTypeName) -> bool {
    let id = action.id().unescaped();
    id.strip_prefix("create") == Some(resource.basename()) && resource.to_string() != ORGANIZATION
}

fn targets(action: &EntityUid, resource: &EntityTypeName) -> Vec<Target> {
    if is_created(action, resource) {
        vec![Target::New]
    } else if resource.to_string() == USER {
        vec![Target::Existing, Target::OwnRecord]
    } else {
        vec![Target::Existing]
    }
}

fn row(
    engine: &Engine,
    evaluator: &mut Evaluator<'_>,
    action: &EntityUid,
    resource: &EntityTypeName,
    target: Target,
) -> Result<AccessRow, String> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut cells = Vec::new();
    let is_applicable = |location: &Location| target != Target::OwnRecord || *location == Location::Own;
    for (credential, same) in evaluator.distinguished_credentials(action) {
        for scope in Scope::ALL {
            let scopes = engine.effective_scopes(&ScopeSet::from(scope), scope);
            for location in Location::ALL.into_iter().filter(is_applicable) {
                let outcome = evaluator.outcome(&evaluation::Question {
                    action,
                    resource,
                    scopes: scopes.as_ref(),
                    location,
                    credential,
                    is_own_record: target == Target::OwnRecord,
                })?;
                let index = outcomes.iter().position(|known| *known == outcome).unwrap_or_else(|| {
                    outcomes.push(outcome);
                    outcomes.len() - 1
                });
                cells.extend(same.iter().map(|&credential| Cell {
                    credential,
                    scope,
                    location,
                    outcome: index,
                }));
            }
        }
    }
    cells.sort_by_key(|cell| (cell.credential, cell.scope, cell.location));
    Ok(AccessRow {
        action: action_name(action),
        resources: vec![resource.to_string()],
        target,
        outcomes,
        cells,
    })
}

/// Makes one row of the rows of an action, if they differ in nothing but the type.
fn merge(rows: Vec<AccessRow>) -> Vec<AccessRow> {
    let existing = || rows.iter().filter(|row| row.target == Target::Existing);
    let Some(first) = existing().next() else { return rows };
    let is_mergeable = existing().count() > 2
        && rows.iter().all(|row| row.target != Target::New)
        && existing().all(|row| row.cells == first.cells && row.outcomes == first.outcomes);
    if !is_mergeable {
        return rows;
    }
    let resources = existing().flat_map(|row| row.resources.iter().cloned()).collect();
    let merged = AccessRow { resources, ..first.clone() };
    let own_record = rows.into_iter().find(|row| {
        row.target == Target::OwnRecord
            && row.cells.iter().any(|cell| {
                let of_others = merged.outcome(cell.credential, cell.scope, cell.location);
                of_others.map(|(_, outcome)| outcome) != row.outcomes.get(cell.outcome)
            })
    });
    [merged].into_iter().chain(own_record).collect()
}

#[cfg(test)]
mod tests;
