//! Which cells of the table a request belongs to.

use super::{CredentialType, Location, ORGANIZATION, Target, USER};
use crate::authz::Scope;
use cedar_policy::{Entities, EntityUid, EvalResult, Request};
use std::collections::BTreeSet;

/// The cells that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The type of the resource.
    pub resource: String,
    /// The kind of the credential; none if the request does not say.
    pub credential: Option<CredentialType>,
    /// The highest scope of the caller.
    pub scope: Scope,
    /// Where the resource is.
    pub location: Location,
    /// Whether the resource is the caller.
    pub is_own_record: bool,
}

impl Place {
    /// The cells of a request. None if its principal is no user with a scope, or its resource is elsewhere.
    pub fn of(request: &Request, entities: &Entities) -> Option<Self> {
        let (principal, resource) = (request.principal()?, request.resource()?);
        if principal.type_name().to_string() != USER {
            return None;
        }
        let ancestors = |uid: &EntityUid| -> BTreeSet<String> {
            entities.ancestors(uid).into_iter().flatten().map(ToString::to_string).collect()
        };
        let above_principal = ancestors(principal);
        let has_scope = |scope: &Scope| above_principal.contains(&format!("Scope::\"{scope}\""));
        let scope = Scope::ALL.into_iter().rev().find(has_scope)?;
        let own = organization(principal, entities)?;
        let other = organization(resource, entities)?;
        let location = if own == other {
            Location::Own
        } else if ancestors(&other).contains(&own.to_string()) {
            Location::Below
        } else if ancestors(&own).contains(&other.to_string()) {
            return None;
        } else {
            Location::Sibling
        };
        Some(Self {
            resource: resource.type_name().to_string(),
            credential: credential(request),
            scope,
            location,
            is_own_record: principal == resource,
        })
    }

    /// Whether a cell of a row for this type of resource is among the cells.
    pub fn contains(
        &self,
        (resources, target): (&[String], Target),
        (credential, scope, location): (CredentialType, Scope, Location),
    ) -> bool {
        let is_target = (target == Target::OwnRecord) == self.is_own_record;
        is_target
            && resources.contains(&self.resource)
            && self.credential.is_none_or(|known| known == credential)
            && (self.scope, self.location) == (scope, location)
    }
}

/// The organization of a user or a resource; of an organization it is the organization itself.
fn organization(uid: &EntityUid, entities: &Entities) -> Option<EntityUid> {
    if uid.type_name().to_string() == ORGANIZATION {
        return Some(uid.clone());
    }
    match entities.get(uid)?.attr("organization")?.ok()? {
        EvalResult::EntityUid(organization) => Some(organization),
        _ => None,
    }
}

fn credential(request: &Request) -> Option<CredentialType> {
    let context = request.context()?;
    let name = match context.get("credential")? {
        EvalResult::String(name) => name,
        EvalResult::EntityUid(uid) => uid.id().unescaped().to_owned(),
        _ => return None,
    };
    let is_provisioning = matches!(context.get("provisioning"), Some(EvalResult::Bool(true)));
    match (name.as_str(), is_provisioning) {
        ("session", _) => Some(CredentialType::Session),
        ("apiKey", false) => Some(CredentialType::ApiKey),
        ("apiKey", true) => Some(CredentialType::ProvisioningKey),
        _ => None,
    }
}
