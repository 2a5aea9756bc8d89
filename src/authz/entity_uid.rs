//! Uids of Cedar entities, and the names of the entity types that the service itself uses.

use super::Scope;
use crate::types::{Cache, Validity, Versions};
use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid};
use std::str::FromStr;
use std::sync::LazyLock;

pub(super) const USER: &str = "User";
pub(super) const SCOPE: &str = "Scope";
pub(super) const ORGANIZATION: &str = "Organization";
/// The enumerated type of the kinds of credentials.
pub(super) const CREDENTIAL: &str = "Credential";
/// The enumerated type of the fields that updates can change.
pub(super) const FIELD: &str = "Field";

/// The uid of an entity; none if `kind` is not a valid type name.
pub(super) fn uid(kind: &str, id: &str) -> Option<EntityUid> {
    Some(EntityUid::from_type_name_and_id(type_name(kind)?, EntityId::new(id)))
}

/// The parsed name of a type; none if it is invalid. Cached, since Cedar takes longer to parse a name than to evaluate a
/// request.
pub(super) fn type_name(kind: &str) -> Option<EntityTypeName> {
    static TYPE_NAMES: LazyLock<Cache<String, EntityTypeName>> = LazyLock::new(|| Cache::new(1_000, true));
    if let Some(cached) = TYPE_NAMES.get(kind, &Versions::default()) {
        return Some(cached);
    }
    let name = EntityTypeName::from_str(kind).ok()?;
    TYPE_NAMES.insert(kind.to_owned(), name.clone(), Validity::default());
    Some(name)
}

/// The uid of a scope.
pub(super) fn scope_uid(scope: Scope) -> Option<EntityUid> {
    uid(SCOPE, scope.as_str())
}

/// The scopes that a scope implies: itself and those below it in the cascade.
pub(super) fn implied_scopes(data: &Entities, scope: Scope) -> Vec<Scope> {
    let is_implied = |implied: Scope| match (scope_uid(implied), scope_uid(scope)) {
        (Some(implied), Some(scope)) => data.is_ancestor_of(&implied, &scope),
        _ => false,
    };
    Scope::ALL.into_iter().filter(|implied| *implied == scope || is_implied(*implied)).collect()
}
