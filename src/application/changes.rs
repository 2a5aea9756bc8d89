//! Changing resources of any type: what is authorized before a row is written.

use super::fields::from_value;
use super::precondition::Precondition;
use super::{Authorizer, Error};
use crate::authz::{Permitted, Unchecked};
use crate::resource::{self, CreationInfo, Reference, Resource};
use crate::store::Reader;
use crate::types::{Id, OrgPath};
use serde_json::{Map, Value};

/// The body of an update: a JSON object whose fields are merged at the top level.
pub type Patch = Map<String, Value>;

/// Returns the fields of a new row of this organization that the service sets.
pub fn creation_info(authorizer: &Authorizer, organization: Id) -> CreationInfo {
    CreationInfo { id: authorizer.new_id(), organization, now: authorizer.state().clock.now() }
}

/// The requested change of a resource.
#[derive(Debug, Clone, Copy)]
pub struct UpdateRequest<'a> {
    /// The fields to set.
    pub patch: &'a Patch,
    /// The names of changed fields that are not columns of the row, such as the password.
    pub extra_changes: &'a [&'a str],
    /// The versions of the resource on which it is changed.
    pub precondition: &'a Precondition,
}

/// A changed row that may be saved after its new references have been checked.
#[derive(Debug)]
pub struct AuthorizedUpdate<R> {
    /// The row before the change.
    pub before: Permitted<R>,
    /// The changed row.
    pub row: Permitted<R>,
    /// The references that it did not have before.
    pub references: Vec<Reference>,
}

impl UpdateRequest<'_> {
    /// Authorizes the change with the names of the changed fields: on the resource as it is, and on it as it would be.
    /// `adjust` sets derived fields. It returns the new path of the owning organization if the field `organization` does not
    /// determine that.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`]; `precondition_failed`; invalid fields if the patch is invalid or moves the resource to an
    /// inaccessible organization.
    pub async fn authorize<R: Resource>(
        &self,
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        resource: Option<Unchecked<R>>,
        adjust: impl FnOnce(&mut R) -> Option<OrgPath>,
    ) -> Result<AuthorizedUpdate<R>, Error> {
        // Policies can name known fields only. A request with another one is rejected when its body is parsed.
        let changes = |fields: Vec<String>| {
            let extra_changes = self.extra_changes.iter().map(|&field| field.to_owned());
            let updatable = fields.into_iter().filter(|field| R::is_updatable(field));
            Some(updatable.chain(extra_changes).collect::<Vec<String>>())
        };
        let mut home_context = authorizer.request_context();
        home_context.changes = changes(self.patch.keys().cloned().collect());
        let mut request_context = authorizer.request_context();
        request_context.changes = resource.as_ref().map_or_else(
            || home_context.changes.clone(),
            |resource| changes(resource.changed_fields(self.patch)),
        );
        let row = authorizer.authorize_with_home_context(resource, &request_context, &home_context)?;
        self.precondition.check(&row)?;

        let body: R::Body = from_value(Value::Object(resource::apply_patch(&*row, self.patch)?), "")?;
        let mut changed: R = resource::replace_fields(&*row, &body, authorizer.state().clock.now())?;
        let owner_path = match adjust(&mut changed) {
            Some(location) => location,
            None if changed.organization() == row.organization() => row.path().clone(),
            None => {
                let named = Some(changed.organization());
                authorizer
                    .for_prerequisite("referTo")
                    .lookups()
                    .resolve_owner_org(reader, named, "organization")
                    .await?
            }
        };
        let references = new_references(&*row, &changed);
        if changed.granted_role() != row.granted_role() {
            request_context.role = changed.granted_role();
        }
        let before = row;
        let row = authorizer.authorize_changed(
            &before,
            before.with_changes(changed, owner_path),
            &request_context,
        )?;
        Ok(AuthorizedUpdate { before, row, references })
    }
}

/// Returns the references that the old row does not have. Existing ones are not checked again: their targets may have been
/// deleted since.
fn new_references<R: Resource>(old: &R, new: &R) -> Vec<Reference> {
    let existing = old.references();
    let is_new = |reference: &Reference| {
        !existing.iter().any(|old| (old.kind, old.id) == (reference.kind, reference.id))
    };
    new.references().into_iter().filter(is_new).collect()
}
