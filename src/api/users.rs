//! The routes of users.

use crate::application::Authorizer;
use crate::application::changes::Patch;
use crate::application::password_change::PasswordChange;
use crate::application::users::{self, CreateUser, UpdateUser, take_secret};
use crate::authn::PasswordRules;
use crate::http::crud;
use crate::http::openapi::{self, OperationDoc};
use crate::http::{IfMatch, Json, PathId, Problem, RouteGroup};
use crate::resource::user::{User, UserBody};
use crate::types::FieldErrorCode;
use actix_web::HttpResponse;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<User>("Users", "/v2/users")
        .about("The people and programs that log in.")
        .list::<User>("listUsers")
        .fetch::<User>()
        .post("", "createUser", create_doc, crud::create::<CreateUser>)
        .idempotent_without(&["password"])
        .additional_actions(&["referTo"])
        .patch("/{id}", "updateUser", update_doc, update)
        .idempotent_without(&["password", "currentPassword"])
        .additional_actions(&["referTo"])
        .delete::<User>("deleteUser")
        .bulk::<User>("listUsers", ("updateUser", "updateUsers"), ("deleteUser", "deleteUsers"))
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

/// `PATCH /v2/users/{id}`.
async fn update(
    authorizer: Authorizer,
    (id, IfMatch(precondition), Json(mut patch)): (PathId, IfMatch, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let password = take_password_change(&mut patch)?;
    let row = users::update(&authorizer, &id.0, UpdateUser { patch, password, precondition }).await;
    let row = row.map_err(|error| error.also_accepting(&["password", "currentPassword", "endKeys"]))?;
    Ok(crud::updated(&authorizer, &row))
}

/// Removes the fields that concern the password from a patch, and returns the change; none if there is no new password.
fn take_password_change(patch: &mut Patch) -> Result<Option<PasswordChange>, Problem> {
    let password = take_secret(patch, "password")?;
    let current = take_secret(patch, "currentPassword")?;
    let end_keys = match patch.remove("endKeys") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(end_keys)) => Some(end_keys),
        Some(_) => {
            let message = "expected a boolean";
            return Err(Problem::invalid_field("endKeys", FieldErrorCode::InvalidType, message));
        }
    };
    if let Some(password) = password {
        return Ok(Some(PasswordChange { password, current, end_keys }));
    }
    for (field, is_given) in [("currentPassword", current.is_some()), ("endKeys", end_keys.is_some())] {
        if is_given {
            let message = "only accepted with `password`";
            return Err(Problem::invalid_field(field, FieldErrorCode::DependentRequired, message));
        }
    }
    Ok(None)
}
