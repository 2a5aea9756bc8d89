//! Users: every caller is one.

use super::password_change::{PasswordFields, hash_password, take_secret};
use crate::application::login_throttle::LoginThrottle;
use crate::application::{Authorizer, Error};
use crate::authn::PasswordRules;
use crate::authz::{Attribute, AuthzResource, Permitted, Scope, UserAttributes};
use crate::http::body::from_value;
use crate::http::crud::{self, AuthorizedUpdate, Patch, UpdateRequest};
use crate::http::openapi::{self, OperationDoc};
use crate::http::{Json, PathId, Problem, RouteGroup};
use crate::resource::{self, Resource};
use crate::store::{AuditEntry, EndReason, Event, SessionSelection, UnitOfWork};
use crate::types::{Email, Id, JsonObject, Name, Timestamp, Url, UserStatus};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<User>("Users", "/v2/users")
        .list::<User>("listUsers")
        .fetch::<User>()
        .post("", "createUser", create_doc, create)
        .additional_actions(&["referTo"])
        .patch("/{id}", "updateUser", update_doc, update)
        .additional_actions(&["referTo"])
        .remove("/{id}", "deleteUser", openapi::delete::<User>, delete)
}

/// A user.
pub type User = Model;

/// A user. The password is stored separately, as a hash, and never returned.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "users")]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization of the user.
    pub organization: Id,
    /// The email address, which is unique and used to log in.
    pub email: Email,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// The given name and the family name.
    pub name: String,
    /// Avatar URL.
    pub avatar: Option<Url>,
    /// The role, which caps the scopes of the credentials.
    pub role: Scope,
    /// The status: a blocked user cannot authenticate.
    pub status: UserStatus,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserBody {
    /// The organization of the user, which determines where the user may act. By default the organization of the caller:
    /// for an admin of the root organization that is the root, above all tenants.
    pub organization: Option<Id>,
    /// The email address, which is unique and used to log in.
    pub email: Email,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// Avatar URL.
    pub avatar: Option<Url>,
    /// The highest scope of the credentials; `guest` by default. At most the scope of the caller. Guests and
    /// agents act in their own organization only, bots and admins also in the organizations below it.
    #[serde(default = "default_role")]
    pub role: Scope,
    /// The status: a blocked user cannot authenticate.
    #[serde(default)]
    pub status: UserStatus,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

const fn default_role() -> Scope {
    Scope::Guest
}

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for User {
    const TYPE: &'static str = "User";

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.organization, self.role, self.status, &self.email)
    }

    fn granted_role(&self) -> Option<Scope> {
        Some(self.role)
    }
}

/// The attributes of a user, as the schema declares them.
fn attributes(
    organization: Id,
    role: Scope,
    status: UserStatus,
    email: &Email,
) -> Vec<(&'static str, Attribute)> {
    UserAttributes { organization, role, status, email: Some(email) }.attributes()
}

/// The columns that the Cedar entity of a user is built from.
#[derive(Debug, FromQueryResult)]
pub struct UserDecisionRow {
    id: Id,
    organization: Id,
    role: Scope,
    status: UserStatus,
    email: Email,
}

impl AuthzResource for UserDecisionRow {
    const TYPE: &'static str = User::TYPE;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.organization, self.role, self.status, &self.email)
    }
}

impl Resource for User {
    type Entity = Entity;
    type DecisionRow = UserDecisionRow;
    type Body = UserBody;

    const FETCH_ACTION: &'static str = "fetchUser";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Organization, "organization"),
        (Column::Role, "role"),
        (Column::Status, "status"),
        (Column::Email, "email"),
    ];

    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt", "name"];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

/// The `name` of a user: the given name and the family name.
fn full_name(given: Option<&Name>, family: Option<&Name>) -> String {
    let names: Vec<&str> = [given, family].into_iter().flatten().map(Name::as_str).collect();
    names.join(" ")
}

/// The schema of a body with an additional password property.
fn with_secret(schema: RefOr<Schema>, name: &str, what: &str) -> RefOr<Schema> {
    let secret = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some(what))
        .min_length(Some(PasswordRules::MIN))
        .max_length(Some(PasswordRules::MAX))
        .write_only(true)
        .build();
    with_property(schema, name, secret)
}

/// The schema of a body with an additional property.
fn with_property(schema: RefOr<Schema>, name: &str, property: Object) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            object.properties.insert(name.into(), RefOr::T(Schema::Object(property)));
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}

/// The OpenAPI schema of a new user: the fields of a user and a password.
#[derive(Debug)]
pub struct NewUser;

impl PartialSchema for NewUser {
    fn schema() -> RefOr<Schema> {
        with_secret(
            UserBody::schema(),
            "password",
            "The password. A user without one cannot log in, but can use API keys.",
        )
    }
}

impl ToSchema for NewUser {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        UserBody::schemas(schemas);
    }
}

fn create_doc() -> OperationDoc {
    openapi::create::<User, NewUser>()
}

fn update_doc() -> OperationDoc {
    let body = with_secret(
        UserBody::schema(),
        "password",
        "The new password. It ends all other sessions of the user.",
    );
    let current = "The current password, which is required to change your own password.";
    let body = with_secret(body, "currentPassword", current);
    let end_keys = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Boolean, Type::Null]))
        .description(Some(
            "With `password`: whether to delete all API keys of the user. The default is true if an admin sets the password of \
             another user, and false for one's own password.",
        ))
        .write_only(true)
        .build();
    openapi::patch::<User>(with_property(body, "endKeys", end_keys))
}

/// `POST /v2/users`.
async fn create(
    authorizer: Authorizer,
    (request, Json(fields)): (HttpRequest, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let user = create_user(&authorizer, fields).await?;
    Ok(crud::created(&request, user.id, &user))
}

/// Creates a user from the fields of a body, if permitted.
pub async fn create_user(authorizer: &Authorizer, fields: Patch) -> Result<Permitted<User>, Problem> {
    create_user_with(authorizer, fields, |_| Ok(())).await
}

/// Creates a user, and calls `before_commit` before the transaction commits. If that fails, no user is created,
/// because its random password would be unknown.
pub async fn create_user_with(
    authorizer: &Authorizer,
    mut fields: Patch,
    before_commit: impl FnOnce(&User) -> Result<(), Error>,
) -> Result<Permitted<User>, Problem> {
    let password = take_secret(&mut fields, "password")?;
    let body: UserBody = from_value(Value::Object(fields), "")?;
    let mut fields = resource::to_json_object(&body)?;
    let name = full_name(body.given_name.as_ref(), body.family_name.as_ref());
    fields.insert("name".into(), Value::String(name));
    let row: User = resource::build_row(
        &fields,
        crud::creation_info(authorizer, authorizer.caller().organization.org_id()),
    )?;
    let row = crud::authorize_new_row(authorizer, row).await?;
    let hash = match password {
        Some(password) => Some(hash_password(authorizer, &row, password).await?),
        None => None,
    };
    let now = authorizer.state().clock.now();
    let work = authorizer.begin().await?;
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let row = work.insert(row).await?;
    work.audit(
        user_event(Event::UserCreated, &row).with("role", row.role.as_str()).with("password", hash.is_some()),
    );
    if let Some(hash) = hash {
        work.set_password(&row, &hash, now).await?;
    }
    before_commit(&row)?;
    work.commit().await?;
    Ok(row)
}

/// `PATCH /v2/users/{id}`.
async fn update(
    authorizer: Authorizer,
    (id, Json(patch)): (PathId, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let row = apply_update(&authorizer, &id.0, patch).await?;
    Ok(crud::updated(&authorizer, &row))
}

/// Updates a user, if permitted. Changing your own password requires the current one (see "Own user" in
/// docs/decisions.md). Blocking a user ends all of its sessions and API keys permanently.
pub async fn apply_update(
    authorizer: &Authorizer,
    id: &str,
    mut patch: Patch,
) -> Result<Permitted<User>, Problem> {
    let password = PasswordFields::take(&mut patch)?;
    let change = UpdateRequest { patch: &patch, extra_changes: password.changes() };
    let update_name = |row: &mut User| {
        row.name = full_name(row.given_name.as_ref(), row.family_name.as_ref());
        None
    };
    let proposal = change
        .authorize(
            authorizer,
            &authorizer.reader(),
            authorizer.lookups().find_unchecked(id).await?,
            update_name,
        )
        .await?;
    authorizer.lookups().check_references(&authorizer.reader(), proposal.references).await?;
    let password = password.prepare(authorizer, &proposal.row).await?;
    let work = authorizer.begin().await?;
    let unchecked = authorizer.lookups().find_unchecked_in(&work, id).await?;
    // The session may have ended while the password was hashed.
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let AuthorizedUpdate { before, row, .. } =
        change.authorize(authorizer, &work.reader(), unchecked, update_name).await?;
    if let Some(password) = &password {
        password.check_unchanged(authorizer, &work, &row).await?;
    }
    ensure_root_admin_remains(&work, &before, Some(&row)).await?;
    match row.status {
        UserStatus::Blocked => work.note_user_blocked(row.id, now),
        UserStatus::Active if patch.contains_key("status") => work.note_user_unblocked(row.id),
        UserStatus::Active => {}
    }
    let row = work.save(row).await?;
    audit_change(&work, &before, &row);
    if let Some(password) = password {
        password.set(authorizer, &work, &row, now).await?;
    }
    if row.status == UserStatus::Blocked {
        work.end_sessions(row.id, SessionSelection::All, EndReason::Blocked, now).await?;
        work.delete_api_keys(&row, EndReason::Blocked).await?;
    }
    work.commit().await?;
    Ok(row)
}

/// 409 if the user is the last active admin of the root organization and would no longer be one. Nobody else could appoint
/// another one. `after` is the changed user; none if it is deleted.
async fn ensure_root_admin_remains(
    work: &UnitOfWork,
    before: &Permitted<User>,
    after: Option<&Permitted<User>>,
) -> Result<(), Problem> {
    let is_root_admin = |user: &Permitted<User>| {
        user.path().parent().is_none() && user.role == Scope::Admin && user.status == UserStatus::Active
    };
    if !is_root_admin(before) || after.is_some_and(is_root_admin) {
        return Ok(());
    }
    if work.has_other_root_admin(before.id).await? {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::CONFLICT,
        "last_root_admin",
        "The user is the last active admin of the root organization. It cannot be deleted, blocked, moved or given another \
         role before another active user of the root organization has the role admin.",
    ))
}

/// `DELETE /v2/users/{id}`.
async fn delete(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let work = authorizer.begin().await?;
    let row = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<User>(&work, &id.0).await?,
        &authorizer.request_context(),
    )?;
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    ensure_root_admin_remains(&work, &row, None).await?;
    work.note_user_blocked(row.id, now);
    work.delete(&row).await?;
    work.audit(user_event(Event::UserDeleted, &row));
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Clears the login back-off of a user, if the caller may update the user. The back-off of client addresses is not
/// affected.
pub async fn unlock(authorizer: &Authorizer, id: Id) -> Result<(), Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.to_string()).await?;
    let work = authorizer.begin().await?;
    let accounts = LoginThrottle::account_keys(&user.email, &user.id.to_string());
    work.clear_account_attempts(&accounts).await?;
    work.audit(user_event(Event::UserUnlocked, &user));
    Ok(work.commit().await?)
}

/// Creates an audit entry about a user, in the organization of the user.
pub(super) fn user_event(event: Event, user: &Permitted<User>) -> AuditEntry {
    AuditEntry::new(event).target_user(user.id).in_organization(user.path())
}

/// Records changes of organization, role, status and email in the audit log.
fn audit_change(work: &UnitOfWork, before: &Permitted<User>, row: &Permitted<User>) {
    if before.organization != row.organization {
        // In the organization that the user leaves; the events below are recorded in the new one.
        let (from, to) = (before.organization.to_string(), row.organization.to_string());
        work.audit(user_event(Event::UserMoved, before).with("from", from).with("to", to));
    }
    if before.role != row.role {
        let (from, to) = (before.role.as_str(), row.role.as_str());
        work.audit(user_event(Event::UserRoleChanged, row).with("from", from).with("to", to));
    }
    match (before.status, row.status) {
        (UserStatus::Active, UserStatus::Blocked) => work.audit(user_event(Event::UserBlocked, row)),
        (UserStatus::Blocked, UserStatus::Active) => work.audit(user_event(Event::UserUnblocked, row)),
        _ => {}
    }
    if before.email != row.email {
        work.audit(user_event(Event::UserEmailChanged, row));
    }
}
