//! The policies in force: which files and policies there are, who may do what, and having them read again.

use super::question::{self, Asked, Named, POLICY_VERSION, PolicyView};
use super::search::permitted_actions;
use super::users::User;
use crate::authz::{BundleError, Engine, ScopeCells, matrix_rows};
use crate::http::openapi::{self, Doc};
use crate::http::{Gate, Parts, PathId, Problem, Routes, audit, body};
use crate::store::{Cause, Entry, Event, Outcome};
use crate::values::Term;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Map;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Policies", "/v2/policies")
        .get("", "fetchPolicies", fetch_doc, fetch)
        .post("/reload", "reloadPolicies", reload_doc, reload)
        .of_root()
}

/// The route of what a user may do.
pub fn permission_routes() -> Routes {
    Routes::new("Policies", "/v2/users")
        .get("/{id}/permissions", "evaluateAccess", permissions_doc, permissions)
        .called("listPermissions")
        .also(&["referTo"])
}

/// The policies in force.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Policies {
    /// A hash over schema, policies and data.
    version: String,
    /// The files that they were read from.
    files: Vec<String>,
    /// The policies.
    policies: Vec<PolicyView>,
    /// The permission matrix, one row per action.
    matrix: Vec<MatrixRow>,
    /// Why the files as they are now are not in force; nothing where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fault: Option<String>,
}

/// The permission matrix for one action: the decisions on a resource of the caller's own organization, of an organization
/// below it, of one beside it and of the one above it.
#[derive(Debug, Serialize, ToSchema)]
struct MatrixRow {
    /// The resource type; `*` if all types of the action have the same decisions.
    resource: String,
    /// The action.
    action: String,
    own: ScopeDecisions,
    below: ScopeDecisions,
    sibling: ScopeDecisions,
    above: ScopeDecisions,
}

/// The decisions for the four scopes: `+` allow, `-` deny, `self` allow for the caller's own user only.
#[derive(Debug, Serialize, ToSchema)]
struct ScopeDecisions {
    guest: &'static str,
    agent: &'static str,
    bot: &'static str,
    admin: &'static str,
}

impl From<ScopeCells> for ScopeDecisions {
    fn from([guest, agent, bot, admin]: ScopeCells) -> Self {
        Self { guest, agent, bot, admin }
    }
}

/// What came of reading the policies again.
#[derive(Debug, Serialize, ToSchema)]
struct Reloaded {
    /// Whether they are others than before.
    changed: bool,
    /// The version in force.
    version: String,
}

/// What a user may do.
#[derive(Debug, Serialize, ToSchema)]
struct Permissions {
    /// The user.
    user: crate::values::Id,
    /// The type of the thing.
    r#type: String,
    /// Its id.
    id: String,
    /// The actions that the user may take on it, in the order of their names.
    actions: Vec<String>,
}

fn fetch_doc() -> Doc {
    Doc::new("The policies in force, and who may do what").answer::<Policies>(200, "The policies.", None)
}

fn reload_doc() -> Doc {
    Doc::new("Have the policies read again")
        .describe("A bundle that cannot be used changes nothing: 409, with what is wrong and where.")
        .answer::<Reloaded>(200, "They are in force.", None)
        .problems(&[409])
}

fn permissions_doc() -> Doc {
    Doc::new("What a user may do, for menus and buttons")
        .describe("Every action that the user may take on a thing by its role; on its organization if no thing is named.")
        .path_id("id", "The id of the user, or `me`.")
        .parameter(openapi::query("type", "The type of the thing; with `id`.", false))
        .parameter(openapi::query("id", "The id of the thing; with `type`.", false))
        .answer::<Permissions>(200, "The actions.", None)
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
        .problems(&[400, 404])
}

/// `GET /v2/policies`.
async fn fetch(gate: Gate, (): ()) -> Result<HttpResponse, Problem> {
    gate.require(&gate.caller().organization)?;
    Ok(HttpResponse::Ok().json(view(&gate, gate.engine())))
}

fn view(gate: &Gate, engine: &Engine) -> Policies {
    let bundle = engine.bundle();
    let rows = matrix_rows(engine).into_iter().map(|row| {
        let [own, below, sibling, above] = row.cells.map(ScopeDecisions::from);
        MatrixRow { resource: row.kind, action: row.action, own, below, sibling, above }
    });
    Policies {
        version: bundle.version().to_owned(),
        files: bundle.files().to_vec(),
        policies: bundle.policies().map(|about| PolicyView::whole(about)).collect(),
        matrix: rows.collect(),
        fault: gate.parts().policies.failure().map(|failure| failure.to_string()),
    }
}

/// `POST /v2/policies/reload`: asked of the root organization, since the policies are everybody's.
async fn reload(gate: Gate, (): ()) -> Result<HttpResponse, Problem> {
    let root = gate.parts().store.root().await?;
    gate.require(&root.ok_or_else(|| Problem::internal("there is no root organization"))?)?;
    // By a task of its own: a request whose client goes away ends, and what was begun is told all the same.
    let reading = actix_web::rt::spawn(read_again(gate.shared_parts(), gate.cause()));
    let outcome = reading.await.map_err(Problem::internal)??;
    let version = gate.parts().policies.current().bundle().version().to_owned();
    match outcome {
        Ok(changed) => Ok(HttpResponse::Ok().json(Reloaded { changed, version })),
        Err(error) => Err(Problem::new(
            StatusCode::CONFLICT,
            "bad_policies",
            format!("The policies cannot be used; version {version} stays in force. {error}"),
        )),
    }
}

/// Has the policies read again, whoever wants it: whether they are others than before. The audit trail tells of it where they
/// are, and where they cannot be used.
pub async fn read_again(parts: Arc<Parts>, cause: Cause) -> Result<Result<bool, BundleError>, Problem> {
    let reader = Arc::clone(&parts);
    let outcome = actix_web::web::block(move || reader.policies.reload()).await.map_err(Problem::internal)?;
    let version = parts.policies.current().bundle().version().to_owned();
    let entry = match &outcome {
        Ok(false) => return Ok(outcome),
        Ok(true) => Entry::new(Event::PoliciesReloaded),
        Err(error) => {
            let reason: String = error.to_string().chars().take(1_000).collect();
            Entry::new(Event::PoliciesRefused).outcome(Outcome::Failed).with("reason", reason)
        }
    };
    audit::note(&parts, cause, entry.with("version", version)).await;
    Ok(outcome)
}

fn term(name: &str, value: &str) -> Result<String, Problem> {
    let term: Term = value.parse().map_err(|error| Problem::field(name, error))?;
    Ok(term.to_string())
}

/// `GET /v2/users/{id}/permissions?type=…&id=…`.
async fn permissions(gate: Gate, (request, id): (HttpRequest, PathId)) -> Result<HttpResponse, Problem> {
    let user = gate.find::<User>(&id.0).await?;
    let (mut kind, mut thing) = (None, None);
    for (name, value) in body::query_pairs(&request)? {
        match name.as_str() {
            "type" if kind.is_none() => kind = Some(term(&name, &value)?),
            "id" if thing.is_none() => thing = Some(term(&name, &value)?),
            _ => return Err(Problem::field(name, "`type` and `id`, each once, are all that is taken here")),
        }
    }
    let (kind, thing) = match (kind, thing) {
        (Some(kind), Some(thing)) => (kind, thing),
        (None, None) => ("Organization".to_owned(), user.organization.to_string()),
        (Some(_), None) => return Err(Problem::field("id", "it is needed with `type`")),
        (None, Some(_)) => return Err(Problem::field("type", "it is needed with `id`")),
    };
    let none = Map::new();
    let named = Named { kind: &kind, id: &thing, properties: &none };
    let actions = match question::user_by_role(&gate, user.id).await? {
        Asked::Known(principal, circumstances) => {
            let target = question::target(&gate, named).await?;
            permitted_actions(&gate, "User", &principal, &circumstances, &target, named)
        }
        Asked::Unknown(_) | Asked::Refused => Vec::new(),
    };
    Ok(HttpResponse::Ok()
        .insert_header((POLICY_VERSION, gate.engine().bundle().version()))
        .json(Permissions { user: user.id, r#type: kind, id: thing, actions }))
}
