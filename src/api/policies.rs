//! The policies in force: which files and policies there are, who may do what, and having them read again.

use super::policy_reload::{self, PendingView, Reload, Trigger};
use super::question::{self, Asked, Basis, Named, POLICY_VERSION, PolicyView};
use super::search::permitted_actions;
use super::users::User;
use crate::authz::{Engine, ScopeCells, matrix_rows};
use crate::http::openapi::{self, Doc};
use crate::http::{Gate, Json, PathId, Problem, Routes, body};
use crate::values::{Term, quoted};
use actix_web::dev::Payload;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
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
    /// A version that becomes active only when it is confirmed; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pending: Option<PendingView>,
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

/// A request to reload the policies.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReloadRequest {
    /// The version to activate although it loses a forbid policy or a file; the files must have it.
    #[serde(default, deserialize_with = "crate::values::given")]
    #[schema(nullable = false)]
    version: Option<String>,
}

/// The largest body of a request to reload, in bytes.
const MAX_RELOAD_BODY: usize = 1_024;

/// The body of a request to reload, which may be left out.
#[derive(Debug)]
struct ReloadBody(ReloadRequest);

impl FromRequest for ReloadBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        let is_empty = length.is_none_or(|length| length.as_bytes() == b"0")
            && !headers.contains_key(header::TRANSFER_ENCODING);
        // HTTP/2 allows a body with neither header; a body without a content type is not read.
        if is_empty && !headers.contains_key(header::CONTENT_TYPE) {
            return Box::pin(async { Ok(Self(ReloadRequest::default())) });
        }
        let body = Json::<ReloadRequest, MAX_RELOAD_BODY>::from_request(request, payload);
        Box::pin(async move { body.await.map(|Json(body)| Self(body)) })
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
    Doc::new("Reload the policies")
        .describe(
            "Invalid policies, and policies whose own tests fail, are rejected: 409 `bad_policies`, with file and line. \
             A version that loses a forbid policy or a file is held as pending: 409 `confirmation_required`. It becomes \
             active when the request names it in `version`. The body may be left out.",
        )
        .body::<ReloadRequest>(Some(json!({ "version": "8d969eef6ecad3c2" })))
        .optional_body()
        .answer::<Reloaded>(200, "The version in the files is active.", None)
        .problems(&[409])
}

fn permissions_doc() -> Doc {
    Doc::new("What a user may do, for menus and buttons")
        .describe(
            "Every action that the user may take on a resource, and on its organization if none is named. For the caller's own \
             user that is by the credential in hand, and with `basis=role` by its whole role; for another user by its role.",
        )
        .path_id("id", "The id of the user, or `me`.")
        .parameter(openapi::query("type", "The type of the thing; with `id`.", false))
        .parameter(openapi::query("id", "The id of the thing; with `type`.", false))
        .parameter(openapi::query_word(
            "basis",
            "`credential`, the default for the caller's own user, or `role`, the default for others.",
            ["credential", "role"],
        ))
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
        pending: PendingView::of(&gate.parts().policies),
    }
}

/// `POST /v2/policies/reload`. It is authorized on the root organization, because the policies apply to every organization.
async fn reload(gate: Gate, ReloadBody(body): ReloadBody) -> Result<HttpResponse, Problem> {
    let root = gate.parts().store.root().await?;
    gate.require(&root.ok_or_else(|| Problem::internal("there is no root organization"))?)?;
    let trigger = body.version.map_or(Trigger::Request, Trigger::Confirmation);
    // In a task of its own: it is completed and recorded even if the client closes the connection.
    let reload = policy_reload::reload(gate.shared_parts(), gate.cause(), trigger);
    let result = actix_web::rt::spawn(reload).await.map_err(Problem::internal)?;
    let version = gate.parts().policies.current().bundle().version().to_owned();
    match result.map_err(|error| error.problem(&version))? {
        Reload::Active(changed) => Ok(HttpResponse::Ok().json(Reloaded { changed, version })),
        Reload::Held(pending) => Err(Problem::new(
            StatusCode::CONFLICT,
            "confirmation_required",
            format!(
                "Version {} is pending and version {version} stays active; {}. Send {{\"version\": \"{}\"}} to confirm it.",
                pending.version, pending.losses, pending.version
            ),
        )),
    }
}

fn term(name: &str, value: &str) -> Result<String, Problem> {
    let term: Term = value.parse().map_err(|error| Problem::field(name, error))?;
    Ok(term.to_string())
}

/// A basis as a query names it.
fn basis_of(value: &str, is_own: bool) -> Result<Basis, Problem> {
    match value {
        "role" => Ok(Basis::Role),
        "credential" if is_own => Ok(Basis::Credential),
        "credential" => {
            Err(Problem::field("basis", "`credential` is for the caller's own user; leave it out"))
        }
        _ => Err(Problem::field("basis", format!("expected `credential` or `role`, got {}", quoted(value)))),
    }
}

/// `GET /v2/users/{id}/permissions?type=…&id=…`.
async fn permissions(gate: Gate, (request, id): (HttpRequest, PathId)) -> Result<HttpResponse, Problem> {
    let user = gate.find::<User>(&id.0).await?;
    let (mut kind, mut thing, mut basis) = (None, None, None);
    for (name, value) in body::query_pairs(&request)? {
        match name.as_str() {
            "type" if kind.is_none() => kind = Some(term(&name, &value)?),
            "id" if thing.is_none() => thing = Some(term(&name, &value)?),
            "basis" if basis.is_none() => basis = Some(basis_of(&value, user.id == gate.caller().id)?),
            _ => {
                let known = "`type`, `id` and `basis`, each once, are all that is taken here";
                return Err(Problem::field(name, known));
            }
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
    let asked = match user.id == gate.caller().id && basis != Some(Basis::Role) {
        true => question::in_hand(&gate),
        false => question::user_by_role(&gate, user.id).await?,
    };
    let actions = match asked {
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
