//! Which actions list resources of this service, and which requests are about the rows of a list.

use super::entity_uid::ORGANIZATION;
use cedar_policy::{EntityTypeName, EntityUid, RequestEnv};

/// Whether the rows of a list action of this service have this type: `Form` for `listForms`.
pub(crate) fn is_listed(action: &EntityUid, kind: &EntityTypeName) -> bool {
    let is_local = action.type_name().namespace().is_empty() && kind.namespace().is_empty();
    let name = action.id().unescaped().strip_prefix("list").and_then(|name| name.strip_suffix('s'));
    is_local && name == Some(kind.basename())
}

/// Whether the requests of an environment are about the rows of a list ([`is_listed`]), which are decided within lists only.
pub(crate) fn is_row_environment(environment: &RequestEnv) -> bool {
    is_listed(environment.action(), environment.resource())
        && environment.resource().to_string() != ORGANIZATION
}
