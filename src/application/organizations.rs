//! Creating, moving, changing and deleting organizations, for the API and the first start.

use super::changes::{AuthorizedUpdate, Patch, UpdateRequest, creation_info};
use super::precondition::Precondition;
use super::{Authorizer, Error, ErrorKind};
use crate::authz::{AuthzResource, Permitted, Unchecked};
use crate::resource::CreationInfo;
use crate::resource::organization::{Organization, OrganizationBody};
use crate::store::{AuditEntry, Event, Reader, UnitOfWork};
use crate::types::{FieldErrorCode, Id, OrgPath, OrganizationStatus};
use serde_json::Value;

/// Creates an organization, if permitted on its parent: by default the organization of the caller.
///
/// # Errors
/// The policies do not permit it, or the parent is missing, inaccessible or too deep in the tree.
pub async fn create(
    authorizer: &Authorizer,
    fields: OrganizationBody,
) -> Result<Permitted<Organization>, Error> {
    let parent =
        authorizer.lookups().resolve_owner_org(&authorizer.reader(), fields.parent, "parent").await?;
    let CreationInfo { id, now, .. } = creation_info(authorizer, parent.org_id());
    authorizer.require(&parent)?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let parent = current_path(&work, parent.org_id()).await?;
    let path = child_path(&parent, id, 0)?;
    let row = fields.into_row(path.clone(), now);
    let row = authorizer.authorize_new(&parent, Unchecked::new(row, path))?;
    let row = work.insert(row).await?;
    work.audit(organization_event(Event::OrganizationCreated, &row, &row.path));
    work.commit().await?;
    Ok(row)
}

/// Creates an audit entry about an organization at `path`.
pub(super) fn organization_event(event: Event, organization: &Organization, path: &OrgPath) -> AuditEntry {
    AuditEntry::new(event).target(Organization::TYPE, organization.id).in_organization(path)
}

/// The current path of an organization. The caller has locked the tree.
async fn current_path(work: &UnitOfWork, organization: Id) -> Result<OrgPath, Error> {
    let path = work.path(organization).await?;
    path.ok_or_else(|| {
        let message = format!("Organization {organization} does not exist or is not accessible");
        Error::invalid_field("parent", FieldErrorCode::NotFound, message)
    })
}

/// The path of an organization below `parent` that has `subtree_depth` levels below itself.
fn child_path(parent: &OrgPath, own: Id, subtree_depth: usize) -> Result<OrgPath, Error> {
    let path = parent.child(own);
    if path.level() + subtree_depth > OrgPath::MAX_LEVEL {
        let most = OrgPath::MAX_LEVEL;
        return Err(Error::invalid_field(
            "parent",
            FieldErrorCode::TooDeep,
            format!("the organization tree would have more than {most} levels"),
        ));
    }
    Ok(path)
}

/// Changes an organization, if permitted. A new `parent` moves the organization and its subtree.
///
/// # Errors
/// As [`Authorizer::authorize`]; `precondition_failed`; or the fields or the new place in the tree are invalid.
pub async fn update(
    authorizer: &Authorizer,
    id: &str,
    patch: &Patch,
    precondition: &Precondition,
) -> Result<Permitted<Organization>, Error> {
    let reader = authorizer.reader();
    let change = UpdateRequest { patch, extra_changes: &[], precondition };
    let unchecked = authorizer.lookups().find_unchecked(id).await?;
    let proposal = proposed_change(authorizer, &reader, unchecked, change).await?;
    authorizer.lookups().check_references(&reader, proposal.references).await?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let unchecked = authorizer.lookups().find_unchecked_in::<Organization>(&work, id).await?;
    let old = match &unchecked {
        Some(_) => work.path(proposal.row.id).await?,
        None => None,
    };
    let AuthorizedUpdate { before, row, .. } =
        proposed_change(authorizer, &work.reader(), unchecked, change).await?;
    let path = row.path.clone();
    let row = work.save(row).await?;
    if before.status != row.status {
        apply_status_change(&work, &row)?;
    }
    if let Some(old) = old.filter(|old| *old != path) {
        work.move_subtree(&row, &old, &path).await?;
        // Admins of the old and of the new parent see the event.
        let moved = |org_path| {
            organization_event(Event::OrganizationMoved, &row, org_path)
                .with("from", old.to_string())
                .with("to", path.to_string())
        };
        [&old, &path].into_iter().for_each(|org_path| work.audit(moved(org_path)));
    }
    work.commit().await?;
    Ok(row)
}

/// Makes a change of the status take effect with the next request of each user of the organization and of those below it.
fn apply_status_change(work: &UnitOfWork, organization: &Organization) -> Result<(), Error> {
    let event = match organization.status {
        OrganizationStatus::Active => Event::OrganizationActivated,
        OrganizationStatus::Inactive if organization.parent.is_none() => {
            let message = "The root organization cannot become inactive, because no user could then log in to activate it.";
            return Err(Error::new(ErrorKind::Conflict, "root_organization", message));
        }
        OrganizationStatus::Inactive => Event::OrganizationDeactivated,
    };
    work.invalidate_all();
    work.audit(organization_event(event, organization, &organization.path));
    Ok(())
}

/// Authorizes the change, and returns the changed organization with its new path.
async fn proposed_change(
    authorizer: &Authorizer,
    reader: &Reader<'_>,
    unchecked: Option<Unchecked<Organization>>,
    change: UpdateRequest<'_>,
) -> Result<AuthorizedUpdate<Organization>, Error> {
    let parent = match change.patch.get("parent").and_then(Value::as_str).map(str::parse::<Id>) {
        Some(Ok(parent)) => reader.path(parent).await?,
        _ => None,
    };
    // A parent that is not accessible is a field error, like one that does not exist; it moves nothing.
    let parent = parent.filter(|parent| authorizer.for_prerequisite("referTo").is_permitted_in(parent));
    let mut moved = None;
    let proposal = change.authorize(authorizer, reader, unchecked, |row: &mut Organization| {
        let parent =
            parent.filter(|parent| row.parent == Some(parent.org_id()) && row.path.parent() != row.parent)?;
        let old = row.move_to(parent.child(row.id));
        moved = Some((old, parent));
        Some(row.path.clone())
    });
    let proposal = proposal.await?;
    // After the authorization, so that the errors disclose nothing about inaccessible organizations.
    if let Some((old, parent)) = moved {
        if parent.is_within(old.org_id()) {
            return Err(Error::invalid_field(
                "parent",
                FieldErrorCode::Cycle,
                "an organization cannot be its own ancestor",
            ));
        }
        let deepest = reader.subtree(&old).await?.iter().map(OrgPath::level).max();
        let subtree_depth = deepest.unwrap_or_default().saturating_sub(old.level());
        child_path(&parent, old.org_id(), subtree_depth)?;
    }
    if proposal.row.parent.is_none() != proposal.row.path.parent().is_none() {
        let message = "`parent` is required for non-root organizations, and not allowed for the root";
        return Err(Error::invalid_field("parent", FieldErrorCode::NotAllowed, message));
    }
    Ok(proposal)
}

/// Deletes an organization, if permitted.
///
/// # Errors
/// As [`Authorizer::authorize`]; `precondition_failed`; a conflict if the organization still owns resources.
pub async fn delete(authorizer: &Authorizer, id: &str, precondition: &Precondition) -> Result<(), Error> {
    authorizer.lookups().find_authorized::<Organization>(id).await?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let row = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<Organization>(&work, id).await?,
        &authorizer.request_context(),
    )?;
    precondition.check(&row)?;
    let holdings = work.count_held_resources(row.id, &authorizer.state().resource_types).await?;
    if !holdings.is_empty() {
        let what: Vec<String> =
            holdings.iter().map(|(kind, count)| format!("{count} of type {kind}")).collect();
        return Err(Error::conflict(format!(
            "The organization still owns resources: {}. Delete or move them first.",
            what.join(", ")
        )));
    }
    work.delete(&row).await?;
    work.audit(organization_event(Event::OrganizationDeleted, &row, &row.path));
    Ok(work.commit().await?)
}
