//! Organizations: the tenants, a tree with one root. Each resource belongs to one of them.

use crate::application::Authorizer;
use crate::authz::{AuthzResource, Unchecked};
use crate::http::crud::{self, AuthorizedUpdate, Patch, UpdateRequest};
use crate::http::{Json, PathId, Problem, RouteGroup, openapi};
use crate::resource::{self, IdRow, Reference, Resource};
use crate::store::{AuditEntry, Event, Reader, UnitOfWork};
use crate::types::{
    Email, FieldErrorCode, Id, JsonObject, Label, Name, OrgPath, OrganizationStatus, Timestamp, Url,
    json_list,
};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Organization>("Organizations", "/v2/organizations")
        .list::<Organization>("listOrganizations")
        .fetch::<Organization>()
        .post("", "createOrganization", openapi::create::<Organization, OrganizationBody>, create)
        .additional_actions(&["referTo"])
        .patch("/{id}", "updateOrganization", openapi::update::<Organization>, update)
        .additional_actions(&["referTo"])
        .remove("/{id}", "deleteOrganization", openapi::delete::<Organization>, delete)
}

/// An organization.
pub type Organization = Model;

/// An organization.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "organizations")]
#[serde(rename_all = "camelCase")]
#[schema(as = Organization)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The name.
    pub name: Name,
    /// The display name.
    pub display_name: Option<Name>,
    /// Contact email.
    pub email: Option<Email>,
    /// The status.
    pub status: OrganizationStatus,
    /// Website URL.
    pub url: Option<Url>,
    /// Country.
    pub country: Option<Label>,
    /// Logo URL.
    pub logo: Option<Url>,
    /// Industry.
    pub industry: Option<Label>,
    /// The parent organization; null for the root.
    pub parent: Option<Id>,
    /// The path from the root organization to this one.
    pub path: OrgPath,
    /// The number of ancestors.
    pub level: i64,
    /// Tags.
    pub tags: Tags,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of an organization.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationBody {
    /// The name.
    pub name: Name,
    /// The display name.
    pub display_name: Option<Name>,
    /// Contact email.
    pub email: Option<Email>,
    /// The status.
    #[serde(default)]
    pub status: OrganizationStatus,
    /// Website URL.
    pub url: Option<Url>,
    /// Country.
    pub country: Option<Label>,
    /// Logo URL.
    pub logo: Option<Url>,
    /// Industry.
    pub industry: Option<Label>,
    /// The parent organization; by default the organization of the caller.
    pub parent: Option<Id>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// Up to 50 tags.
    Tags, Label, 50
);

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Organization {
    const TYPE: &'static str = "Organization";

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for Organization {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = OrganizationBody;

    const FETCH_ACTION: &'static str = "fetchOrganization";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt", "path", "level"];

    const CONTAINER_COLUMN: &'static str = "parent";

    fn organization_column() -> Column {
        Column::Id
    }

    fn organization(&self) -> Id {
        self.id
    }

    fn references(&self) -> Vec<Reference> {
        self.parent.iter().map(|parent| Reference::new::<Self>("parent", *parent)).collect()
    }
}

/// `POST /v2/organizations`: authorized on the parent organization.
async fn create(
    authorizer: Authorizer,
    (request, Json(body)): (HttpRequest, Json<OrganizationBody>),
) -> Result<HttpResponse, Problem> {
    let parent = authorizer.lookups().resolve_owner_org(&authorizer.reader(), body.parent, "parent").await?;
    let stamp = crud::creation_info(&authorizer, parent.org_id());
    authorizer.require(&parent)?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let parent = current_path(&work, parent.org_id()).await?;
    let path = child_path(&parent, stamp.id, 0)?;
    let mut fields = resource::to_json_object(&body)?;
    fields.insert("parent".into(), Value::String(parent.org_id().to_string()));
    fields.insert("path".into(), Value::String(path.to_string()));
    fields.insert("level".into(), path.level().into());
    let row: Organization = resource::build_row(&fields, stamp)?;
    let row = authorizer.authorize_new(&parent, Unchecked::new(row, path))?;
    let row = work.insert(row).await?;
    work.audit(organization_event(Event::OrganizationCreated, &row, &row.path));
    work.commit().await?;
    Ok(crud::created(&request, row.id, &row))
}

/// Creates an audit entry about an organization at `path`.
fn organization_event(event: Event, organization: &Organization, path: &OrgPath) -> AuditEntry {
    AuditEntry::new(event).target(Organization::TYPE, organization.id).in_organization(path)
}

/// The current path of an organization. The caller has locked the tree.
async fn current_path(work: &UnitOfWork, organization: Id) -> Result<OrgPath, Problem> {
    let path = work.path(organization).await?;
    path.ok_or_else(|| {
        let message = format!("Organization {organization} does not exist or is not accessible");
        Problem::invalid_field("parent", FieldErrorCode::NotFound, message)
    })
}

/// The path of an organization below `parent` that has `subtree_depth` levels below itself.
fn child_path(parent: &OrgPath, own: Id, subtree_depth: usize) -> Result<OrgPath, Problem> {
    let path = parent.child(own);
    if path.level() + subtree_depth > OrgPath::MAX_LEVEL {
        let most = OrgPath::MAX_LEVEL;
        return Err(Problem::invalid_field(
            "parent",
            FieldErrorCode::TooDeep,
            format!("the organization tree would have more than {most} levels"),
        ));
    }
    Ok(path)
}

/// `PATCH /v2/organizations/{id}`. A new `parent` moves the organization and its subtree.
async fn update(
    authorizer: Authorizer,
    (id, Json(patch)): (PathId, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let reader = authorizer.reader();
    let proposal =
        proposed_change(&authorizer, &reader, authorizer.lookups().find_unchecked(&id.0).await?, &patch)
            .await?;
    authorizer.lookups().check_references(&reader, proposal.references).await?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let unchecked = authorizer.lookups().find_unchecked_in::<Organization>(&work, &id.0).await?;
    let old = match &unchecked {
        Some(_) => work.path(proposal.row.id).await?,
        None => None,
    };
    let AuthorizedUpdate { before, row, .. } =
        proposed_change(&authorizer, &work.reader(), unchecked, &patch).await?;
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
    Ok(crud::updated(&authorizer, &row))
}

/// Makes a change of the status take effect with the next request of each user of the organization and of those below it.
fn apply_status_change(work: &UnitOfWork, organization: &Organization) -> Result<(), Problem> {
    let event = match organization.status {
        OrganizationStatus::Active => Event::OrganizationActivated,
        OrganizationStatus::Inactive if organization.parent.is_none() => {
            let message =
                "The root organization cannot become inactive: nobody could log in to activate it again.";
            return Err(Problem::new(StatusCode::CONFLICT, "root_organization", message));
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
    patch: &Patch,
) -> Result<AuthorizedUpdate<Organization>, Problem> {
    let parent = match patch.get("parent").and_then(Value::as_str).map(str::parse::<Id>) {
        Some(Ok(parent)) => reader.path(parent).await?,
        _ => None,
    };
    // A parent that is not accessible is a field error, like one that does not exist; it moves nothing.
    let parent = parent.filter(|parent| authorizer.for_prerequisite("referTo").is_permitted_in(parent));
    let mut moved = None;
    let change = UpdateRequest { patch, extra_changes: &[] };
    let proposal = change.authorize(authorizer, reader, unchecked, |row: &mut Organization| {
        let parent =
            parent.filter(|parent| row.parent == Some(parent.org_id()) && row.path.parent() != row.parent)?;
        let old = std::mem::replace(&mut row.path, parent.child(row.id));
        row.level = i64::try_from(row.path.level()).unwrap_or(i64::MAX);
        moved = Some((old, parent));
        Some(row.path.clone())
    });
    let proposal = proposal.await?;
    // After the authorization, so that the errors disclose nothing about inaccessible organizations.
    if let Some((old, parent)) = moved {
        if parent.is_within(old.org_id()) {
            return Err(Problem::invalid_field(
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
        return Err(Problem::invalid_field("parent", FieldErrorCode::NotAllowed, message));
    }
    Ok(proposal)
}

/// `DELETE /v2/organizations/{id}`: 409 if the organization still owns resources.
async fn delete(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    authorizer.lookups().find_authorized::<Organization>(&id.0).await?;
    let work = authorizer.begin().await?;
    work.lock_tree().await?;
    let row = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<Organization>(&work, &id.0).await?,
        &authorizer.request_context(),
    )?;
    let holdings = work.count_held_resources(row.id, &authorizer.state().resource_types).await?;
    if !holdings.is_empty() {
        let what: Vec<String> =
            holdings.iter().map(|(kind, count)| format!("{count} of type {kind}")).collect();
        return Err(Problem::conflict(format!(
            "The organization still owns resources: {}. Delete or move them first.",
            what.join(", ")
        )));
    }
    work.delete(&row).await?;
    work.audit(organization_event(Event::OrganizationDeleted, &row, &row.path));
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}
