//! Creating, moving, changing and deleting organizations, for the API and the first start.

use super::changes::{AuthorizedUpdate, Patch, UpdateRequest};
use super::creation::{AuthorizedNew, NewResource};
use super::fields::from_value;
use super::writes::WritableResource;
use super::{Authorizer, Error, ErrorKind};
use crate::authz::{AuthzResource, Permitted, Unchecked};
use crate::resource::CreationInfo;
use crate::resource::organization::{Organization, OrganizationBody};
use crate::store::{AuditEntry, Event, Reader, SortKey, SortOrder, UnitOfWork};
use crate::types::{FieldErrorCode, Id, OrgPath, OrganizationStatus};
use serde_json::Value;

/// A new organization, authorized on its parent.
#[derive(Debug)]
pub struct NewOrganization {
    fields: OrganizationBody,
    parent: Id,
    creation: CreationInfo,
}

/// A creation is authorized on the parent: by default the organization of the caller.
impl NewResource for OrganizationBody {
    type Resource = Organization;
    type Authorized = NewOrganization;

    fn parse(body: Value) -> Result<Self, Error> {
        from_value(body, "")
    }

    async fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> Result<AuthorizedNew<NewOrganization>, Error> {
        let parent =
            authorizer.lookups().resolve_owner_org(&authorizer.reader(), self.parent, "parent").await?;
        authorizer.require(&parent)?;
        let resource = NewOrganization { fields: self, parent: parent.org_id(), creation };
        Ok(AuthorizedNew { resource, owner: parent.org_id(), references: Vec::new() })
    }

    async fn lock(_: &Authorizer, work: &UnitOfWork, _: &[NewOrganization]) -> Result<(), Error> {
        Ok(work.lock_tree().await?)
    }

    /// Authorizes the organization at its place in the tree, which has been locked.
    async fn store(
        authorizer: &Authorizer,
        work: &UnitOfWork,
        authorized: NewOrganization,
    ) -> Result<Permitted<Organization>, Error> {
        let NewOrganization { fields, parent, creation } = authorized;
        let parent = current_path(work, parent).await?;
        let path = child_path(&parent, creation.id, 0)?;
        let row = fields.into_row(path.clone(), creation.now);
        let row = authorizer.authorize_new(&parent, Unchecked::new(row, path))?;
        let row = work.insert(row).await?;
        work.audit(organization_event(Event::OrganizationCreated, &row, &row.path));
        Ok(row)
    }
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

impl WritableResource for Organization {
    /// The deepest first.
    fn deletion_order() -> Vec<SortKey> {
        vec![SortKey::new("level", SortOrder::Descending)]
    }

    async fn lock_shared(work: &UnitOfWork) -> Result<(), Error> {
        Ok(work.lock_tree().await?)
    }

    async fn authorize_change(
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        resource: Option<Unchecked<Self>>,
        change: UpdateRequest<'_>,
    ) -> Result<AuthorizedUpdate<Self>, Error> {
        proposed_change(authorizer, reader, resource, change).await
    }

    /// A new `parent` moves the organization and its subtree.
    async fn save(
        _: &Authorizer,
        work: &UnitOfWork,
        update: AuthorizedUpdate<Self>,
        _: &Patch,
    ) -> Result<Permitted<Self>, Error> {
        let AuthorizedUpdate { before, row, .. } = update;
        let (old, path) = (before.path.clone(), row.path.clone());
        let row = work.save(row).await?;
        if before.status != row.status {
            apply_status_change(work, &row)?;
        }
        if old != path {
            work.move_subtree(&row, &old, &path).await?;
            // Admins of the old and of the new parent see the event.
            let moved = |org_path| {
                organization_event(Event::OrganizationMoved, &row, org_path)
                    .with("from", old.to_string())
                    .with("to", path.to_string())
            };
            [&old, &path].into_iter().for_each(|org_path| work.audit(moved(org_path)));
        }
        Ok(row)
    }

    /// An organization that still owns resources is not deleted.
    async fn delete(authorizer: &Authorizer, work: &UnitOfWork, row: &Permitted<Self>) -> Result<(), Error> {
        let holdings = work.count_held_resources(row.id, &authorizer.state().resource_types).await?;
        if !holdings.is_empty() {
            let what: Vec<String> =
                holdings.iter().map(|(kind, count)| format!("{count} of type {kind}")).collect();
            return Err(Error::conflict(format!(
                "The organization still owns resources: {}. Delete or move them first.",
                what.join(", ")
            )));
        }
        work.delete(row).await?;
        work.audit(organization_event(Event::OrganizationDeleted, row, &row.path));
        Ok(())
    }
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
