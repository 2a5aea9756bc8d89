//! Organizations: the tenants, a tree under one root. Everything is held by one of them.

use crate::authz::{Thing, Undecided};
use crate::http::crud::{self, Change, Patch, Proposal};
use crate::http::{Gate, Json, PathId, Problem, Routes, openapi};
use crate::resource::{self, IdRow, Reference, Resource};
use crate::store::{Entry, Event, Reader, Work};
use crate::values::{Email, Id, JsonObject, Label, Name, OrgPath, Timestamp, Url, json_list, word};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> Routes {
    Routes::of::<Organization>("Organizations", "/v2/organizations")
        .list::<Organization>("listOrganizations")
        .fetch::<Organization>()
        .post("", "createOrganization", openapi::create::<Organization, OrganizationBody>, create)
        .also(&["referTo"])
        .patch("/{id}", "updateOrganization", openapi::update::<Organization>, update)
        .also(&["referTo"])
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
    /// The organization.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// The name that it shows.
    pub display_name: Option<Name>,
    /// Its address.
    pub email: Option<Email>,
    /// Whether it is in use.
    pub status: OrganizationStatus,
    /// Its place on the web.
    pub url: Option<Url>,
    /// Its country.
    pub country: Option<Label>,
    /// Its picture.
    pub logo: Option<Url>,
    /// What it does.
    pub industry: Option<Label>,
    /// The organization above it; none above the root.
    pub parent: Option<Id>,
    /// Its place in the tree.
    pub path: OrgPath,
    /// How many organizations stand above it.
    pub level: i64,
    /// Words for it.
    pub tags: Tags,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of an organization.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationBody {
    /// Its name.
    pub name: Name,
    /// The name that it shows.
    pub display_name: Option<Name>,
    /// Its address.
    pub email: Option<Email>,
    /// Whether it is in use.
    #[serde(default)]
    pub status: OrganizationStatus,
    /// Its place on the web.
    pub url: Option<Url>,
    /// Its country.
    pub country: Option<Label>,
    /// Its picture.
    pub logo: Option<Url>,
    /// What it does.
    pub industry: Option<Label>,
    /// The organization above it; the caller's if none.
    pub parent: Option<Id>,
    /// Words for it.
    #[serde(default)]
    pub tags: Tags,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// Words for something, at most 50.
    Tags, Label, 50
);

word!(
    /// Whether an organization is active. While it is inactive, the users of the organization and of all organizations below
    /// it cannot log in, and their access tokens, refresh tokens and API keys are not accepted. The root organization cannot
    /// become inactive.
    OrganizationStatus { Active = "active", Inactive = "inactive" }
);

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Thing for Organization {
    const TYPE: &'static str = "Organization";

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for Organization {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = OrganizationBody;

    const FETCH: &'static str = "fetchOrganization";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    const READ_ONLY: &'static [&'static str] = &["id", "createdAt", "updatedAt", "path", "level"];

    fn holder_column() -> Column {
        Column::Id
    }

    fn organization(&self) -> Id {
        self.id
    }

    fn references(&self) -> Vec<Reference> {
        self.parent.iter().map(|parent| Reference::to::<Self>("parent", *parent)).collect()
    }
}

/// `POST /v2/organizations`: asked of the organization that is to stand above it.
async fn create(
    gate: Gate,
    (request, Json(body)): (HttpRequest, Json<OrganizationBody>),
) -> Result<HttpResponse, Problem> {
    let parent = gate.holder(&gate.reader(), body.parent, "parent").await?;
    let stamp = crud::stamp(&gate, parent.own());
    gate.require(&parent)?;
    let work = gate.begin().await?;
    work.lock_tree().await?;
    let parent = current(&work, parent.own()).await?;
    let path = below(&parent, stamp.id, 0)?;
    let mut fields = resource::object(&body)?;
    fields.insert("parent".into(), Value::String(parent.own().to_string()));
    fields.insert("path".into(), Value::String(path.to_string()));
    fields.insert("level".into(), path.level().into());
    let row: Organization = resource::compose(&fields, stamp)?;
    let row = gate.decide_new(&parent, Undecided::new(row, path))?;
    let row = work.insert(row).await?;
    work.audit(about(Event::OrganizationCreated, &row, &row.path));
    work.commit().await?;
    Ok(crud::created(&request, row.id, &row))
}

/// An entry of the audit trail about an organization that stands there.
fn about(event: Event, organization: &Organization, place: &OrgPath) -> Entry {
    Entry::new(event).subject(Organization::TYPE, organization.id).within(place)
}

/// Where an organization stands, now that the tree keeps still.
async fn current(work: &Work, organization: Id) -> Result<OrgPath, Problem> {
    let path = work.path(organization).await?;
    path.ok_or_else(|| {
        Problem::field("parent", format!("there is no Organization {organization} within your reach"))
    })
}

/// The path of an organization below `parent`, with `deeper` levels below itself.
fn below(parent: &OrgPath, own: Id, deeper: usize) -> Result<OrgPath, Problem> {
    let path = parent.child(own);
    if path.level() + deeper > OrgPath::MAX_LEVEL {
        let most = OrgPath::MAX_LEVEL;
        return Err(Problem::field(
            "parent",
            format!("the tree of organizations would be deeper than {most} levels"),
        ));
    }
    Ok(path)
}

/// `PATCH /v2/organizations/{id}`. With another `parent` it moves, and everything below it moves along.
async fn update(gate: Gate, (id, Json(patch)): (PathId, Json<Patch>)) -> Result<HttpResponse, Problem> {
    let reader = gate.reader();
    let first = changed(&gate, &reader, gate.look_up(&id.0).await?, &patch).await?;
    gate.check_references(&reader, first.references).await?;
    let work = gate.begin().await?;
    work.lock_tree().await?;
    let thing = gate.look_up_in::<Organization>(&work, &id.0).await?;
    let old = match &thing {
        Some(_) => work.path(first.row.id).await?,
        None => None,
    };
    let Proposal { before, row, .. } = changed(&gate, &work.reader(), thing, &patch).await?;
    let path = row.path.clone();
    let row = work.save(row).await?;
    if before.status != row.status {
        set_status(&work, &row)?;
    }
    if let Some(old) = old.filter(|old| *old != path) {
        work.move_below(&row, &old, &path).await?;
        // Of both, the place that it leaves and the one that it comes to.
        let moved = |place| {
            about(Event::OrganizationMoved, &row, place)
                .with("from", old.to_string())
                .with("to", path.to_string())
        };
        [&old, &path].into_iter().for_each(|place| work.audit(moved(place)));
    }
    work.commit().await?;
    Ok(crud::updated(&gate, &row))
}

/// Makes a change of the status take effect with the next request of each user of the organization and of those below it.
fn set_status(work: &Work, organization: &Organization) -> Result<(), Problem> {
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
    work.audit(about(event, organization, &organization.path));
    Ok(())
}

/// The changed organization at its new place, if the caller may change it like this.
async fn changed(
    gate: &Gate,
    reader: &Reader<'_>,
    thing: Option<Undecided<Organization>>,
    patch: &Patch,
) -> Result<Proposal<Organization>, Problem> {
    let parent = match patch.get("parent").and_then(Value::as_str).map(str::parse::<Id>) {
        Some(Ok(parent)) => reader.path(parent).await?,
        _ => None,
    };
    // A parent that the caller may not name is, like one that is missing, a wrong field: no move.
    let parent = parent.filter(|parent| gate.step("referTo").allows(parent));
    let mut place = None;
    let change = Change { patch, also: &[] };
    let proposal = change.proposed(gate, reader, thing, |row: &mut Organization| {
        let parent =
            parent.filter(|parent| row.parent == Some(parent.own()) && row.path.parent() != row.parent)?;
        let old = std::mem::replace(&mut row.path, parent.child(row.id));
        row.level = i64::try_from(row.path.level()).unwrap_or(i64::MAX);
        place = Some((old, parent));
        Some(row.path.clone())
    });
    let proposal = proposal.await?;
    // Only now, so that nobody learns of a place that is out of reach.
    if let Some((old, parent)) = place {
        if parent.is_within(old.own()) {
            return Err(Problem::field("parent", "an organization cannot stand below itself"));
        }
        let below_it = reader.subtree(&old).await?.iter().map(OrgPath::level).max();
        let deeper = below_it.unwrap_or_default().saturating_sub(old.level());
        below(&parent, old.own(), deeper)?;
    }
    if proposal.row.parent.is_none() != proposal.row.path.parent().is_none() {
        return Err(Problem::field("parent", "every organization but the root has one above it"));
    }
    Ok(proposal)
}

/// `DELETE /v2/organizations/{id}`: only one that holds nothing.
async fn delete(gate: Gate, id: PathId) -> Result<HttpResponse, Problem> {
    gate.find::<Organization>(&id.0).await?;
    let work = gate.begin().await?;
    work.lock_tree().await?;
    let row = gate.decide(gate.look_up_in::<Organization>(&work, &id.0).await?, &gate.circumstances())?;
    let holdings = work.holdings(row.id, &gate.parts().kinds).await?;
    if !holdings.is_empty() {
        let what: Vec<String> =
            holdings.iter().map(|(kind, count)| format!("{count} of type {kind}")).collect();
        return Err(Problem::conflict(format!(
            "The organization still holds things: {}. Delete or move them first.",
            what.join(", ")
        )));
    }
    work.delete(&row).await?;
    work.audit(about(Event::OrganizationDeleted, &row, &row.path));
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}
