//! The active policies, the permission matrix, policy reload, and the permissions of a user.

use super::decisions::authzen_search::permitted_actions;
use super::decisions::evaluation::{self, POLICY_VERSION, PolicyView};
use crate::analysis::ProofRecord;
use crate::application::Authorizer;
use crate::application::policy_proof::{self, ActiveProof};
use crate::application::policy_reload::{self, ReloadError, ReloadOutcome, Trigger};
use crate::application::subjects::{Basis, EntityRef, ResolvedSubject, SubjectError, SubjectResolver};
use crate::authz::{
    Engine, InvalidVersion, Losses, PolicyHandle, ScopeCells, VersionPrefix, matrix_rows, short_version,
};
use crate::http::openapi::{self, OperationDoc};
use crate::http::{Json, PathId, Problem, RouteGroup, body, query_check};
use crate::types::{FieldErrorCode, Term, quoted};
use actix_web::dev::Payload;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Policies", "/v2/policies")
        .about("The active policies, and what they permit.")
        .get("", "fetchPolicies", fetch_doc, fetch)
        .post("/reload", "reloadPolicies", reload_doc, reload)
        .on_root_organization()
}

/// The route of the permissions of a user.
pub fn permission_routes() -> RouteGroup {
    RouteGroup::new("Policies", "/v2/users")
        .get("/{id}/permissions", "evaluateAccess", permissions_doc, permissions)
        .with_operation_id("listPermissions")
        .parses_query()
        .additional_actions(&["referTo"])
}

/// The active policies.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Policies {
    /// The policy version: a SHA-256 over schema, policies, data and claims.
    version: String,
    /// The policy files.
    files: Vec<String>,
    /// The policies.
    policies: Vec<PolicyView>,
    /// The permission matrix, one row per action.
    matrix: Vec<MatrixRow>,
    /// What is proven about the active version.
    proof: ProofView,
    /// Why the current files were rejected; absent if they are active or pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fault: Option<String>,
    /// A version that becomes active only when it is confirmed; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pending: Option<PendingView>,
}

/// Whether the claims about the active policies are proven for all requests.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProofView {
    /// Whether every claim is proven for the active version.
    proven: bool,
    /// `proven`; `incomplete` if a claim is broken or could not be decided; `missing` if nothing is recorded for the active
    /// version; `unreadable` if the record cannot be read.
    state: ProofState,
    /// The record of `policy prove --record`; absent if there is none for the active version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    record: Option<ProofRecord>,
}

/// The state of the proof of the active policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ProofState {
    Proven,
    Incomplete,
    Missing,
    Unreadable,
}

impl From<ActiveProof> for ProofView {
    fn from(proof: ActiveProof) -> Self {
        let (state, record) = match proof {
            ActiveProof::Proven(record) => (ProofState::Proven, Some(*record)),
            ActiveProof::Incomplete(record) => (ProofState::Incomplete, Some(*record)),
            ActiveProof::Missing => (ProofState::Missing, None),
            ActiveProof::Unreadable(_) => (ProofState::Unreadable, None),
        };
        Self { proven: state == ProofState::Proven, state, record }
    }
}

/// A candidate that needs a confirmation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingView {
    /// The version to confirm.
    pub version: String,
    /// The ids of the forbid policies that would be lost.
    pub lost_policies: Vec<String>,
    /// The ids of the forbid policies whose scope or conditions would change.
    pub changed_policies: Vec<String>,
    /// The names of the files that are missing or have become empty.
    pub lost_files: Vec<String>,
}

impl PendingView {
    /// The candidate that needs a confirmation, if any.
    pub fn from_handle(policies: &PolicyHandle) -> Option<Self> {
        let pending = policies.pending()?;
        let Losses { policies, changed, files } = pending.losses.clone();
        let version = pending.version.clone();
        Some(Self { version, lost_policies: policies, changed_policies: changed, lost_files: files })
    }
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
    /// The version to activate although it loses a forbid policy or a file, or at least 8 of the first digits of the pending
    /// version; the files must have it.
    #[serde(default, deserialize_with = "crate::types::non_null")]
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

/// The result of a reload.
#[derive(Debug, Serialize, ToSchema)]
struct Reloaded {
    /// Whether the version has changed.
    changed: bool,
    /// The active version.
    version: String,
}

/// The permissions of a user on a resource.
#[derive(Debug, Serialize, ToSchema)]
struct Permissions {
    /// The user.
    user: crate::types::Id,
    /// The resource type.
    r#type: String,
    /// The resource id.
    id: String,
    /// The permitted actions, sorted by name.
    actions: Vec<String>,
}

fn fetch_doc() -> OperationDoc {
    OperationDoc::new("Get the active policies and the permission matrix")
        .describe("The active version with its policies, the pending version if one needs a confirmation, and which scopes may do what.")
        .response::<Policies>(
        200,
        "The policies.",
        None,
    )
}

fn reload_doc() -> OperationDoc {
    OperationDoc::new("Reload policies")
        .describe(
            "Invalid policies, and policies whose own tests fail, are rejected: 409 `invalid_policies`, with file and line. \
             A version that loses a forbid policy or a file is held as pending: 409 `confirmation_required`. It becomes \
             active when the request names it in `version`. The body may be left out.",
        )
        .body::<ReloadRequest>(Some(json!({})))
        .optional_body()
        .response::<Reloaded>(200, "The version in the files is active.", None)
        .problems(&[409])
}

fn permissions_doc() -> OperationDoc {
    OperationDoc::new("List a user's permissions")
        .describe(
            "All actions that the user may perform on a resource, by default on its organization; for menus and buttons. The \
             caller's own user is evaluated with the credential of the request, and with `basis=role` with its whole role; \
             another user always with its role.",
        )
        .path_id("id", "The id of the user, or `me`.")
        .parameter(openapi::query_parameter("type", "The resource type; requires `id`.", false))
        .parameter(openapi::query_parameter("id", "The resource id; requires `type`.", false))
        .parameter(openapi::enum_query_parameter(
            "basis",
            "`credential`, the default for the caller's own user, or `role`, the default for others.",
            ["credential", "role"],
        ))
        .response::<Permissions>(200, "The permitted actions.", None)
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
        .problems(&[400, 404])
}

/// `GET /v2/policies`.
async fn fetch(authorizer: Authorizer, (): ()) -> Result<HttpResponse, Problem> {
    authorizer.require(&authorizer.caller().organization)?;
    let state = authorizer.shared_state();
    let proof = web::block(move || policy_proof::active_proof(&state.policies)).await;
    let proof = ProofView::from(proof.map_err(Problem::internal)?);
    Ok(HttpResponse::Ok().json(view(&authorizer, authorizer.engine(), proof)))
}

fn view(authorizer: &Authorizer, engine: &Engine, proof: ProofView) -> Policies {
    let bundle = engine.bundle();
    let rows = matrix_rows(engine).into_iter().map(|row| {
        let [own, below, sibling, above] = row.cells.map(ScopeDecisions::from);
        MatrixRow { resource: row.kind, action: row.action, own, below, sibling, above }
    });
    Policies {
        version: bundle.version().to_owned(),
        files: bundle.file_paths().map(str::to_owned).collect(),
        policies: bundle.policies().map(|policy| PolicyView::detailed(policy)).collect(),
        matrix: rows.collect(),
        proof,
        fault: authorizer.state().policies.failure().map(|failure| failure.to_string()),
        pending: PendingView::from_handle(&authorizer.state().policies),
    }
}

/// Requires that the action is permitted on the root organization.
///
/// # Errors
/// 403 if it is not.
pub(super) async fn require_on_root(authorizer: &Authorizer) -> Result<(), Problem> {
    let root = authorizer.state().store.root().await?;
    Ok(authorizer.require(&root.ok_or_else(|| Problem::internal("there is no root organization"))?)?)
}

/// `POST /v2/policies/reload`. It is authorized on the root organization, because the policies apply to every organization.
async fn reload(authorizer: Authorizer, ReloadBody(body): ReloadBody) -> Result<HttpResponse, Problem> {
    require_on_root(&authorizer).await?;
    let confirmed = body.version.map(|version| parse_version("version", &version)).transpose()?;
    let trigger = confirmed.map_or(Trigger::Request, Trigger::Confirmation);
    // In a task of its own: it is completed and recorded even if the client closes the connection.
    let reload = policy_reload::reload(authorizer.shared_state(), authorizer.audit_actor(), trigger);
    let result = actix_web::rt::spawn(reload).await.map_err(Problem::internal)?;
    let version = authorizer.state().policies.current().bundle().version().to_owned();
    match result.map_err(|error| reload_problem(error, &version))? {
        ReloadOutcome::Active(changed) => Ok(HttpResponse::Ok().json(Reloaded { changed, version })),
        ReloadOutcome::Pending(pending) => Err(Problem::new(
            StatusCode::CONFLICT,
            "confirmation_required",
            format!(
                "Version {} is pending and version {} stays active; {}. Send {{\"version\": \"{}\"}} to confirm it.",
                short_version(&pending.version),
                short_version(&version),
                pending.losses,
                pending.version
            ),
        )),
    }
}

/// Returns the problem of a failed reload. `active` is the version that stays.
fn reload_problem(error: ReloadError, active: &str) -> Problem {
    let active = short_version(active);
    let conflict = |code, detail| Problem::new(StatusCode::CONFLICT, code, detail);
    match error {
        ReloadError::Invalid(error) => {
            let detail = format!("Invalid policies; version {active} stays active. {error}");
            conflict("invalid_policies", detail)
        }
        ReloadError::VersionMismatch(actual) => conflict(
            "policy_version_mismatch",
            format!(
                "The policy files have the version {}, not the confirmed one; version {active} stays active.",
                short_version(&actual)
            ),
        ),
        ReloadError::Store(error) => error.into(),
        ReloadError::Internal(error) => Problem::internal(error),
    }
}

/// Parses a version, or its first digits.
fn parse_version(name: &str, value: &str) -> Result<VersionPrefix, Problem> {
    value.parse().map_err(|error: InvalidVersion| {
        Problem::invalid_field(name, FieldErrorCode::InvalidFormat, error.to_string())
    })
}

fn parse_term(name: &str, value: &str) -> Result<String, Problem> {
    let term: Term = value.parse().map_err(|error| Problem::invalid_field_value(name, &error))?;
    Ok(term.to_string())
}

/// Parses the query parameter `basis`.
fn parse_basis(value: &str, is_own: bool) -> Result<Basis, Problem> {
    match value {
        "role" => Ok(Basis::Role),
        "credential" if is_own => Ok(Basis::Credential),
        "credential" => {
            let message = "`credential` is only available for the caller's own user";
            Err(Problem::invalid_field("basis", FieldErrorCode::NotAllowed, message))
        }
        _ => Err(Problem::invalid_field(
            "basis",
            FieldErrorCode::UnknownValue,
            format!("expected `credential` or `role`, got {}", quoted(value)),
        )),
    }
}

/// 400: `given` requires `missing`.
fn missing_parameter(missing: &str, given: &str) -> Problem {
    Problem::invalid_field(missing, FieldErrorCode::DependentRequired, format!("required with `{given}`"))
}

/// `GET /v2/users/{id}/permissions?type=…&id=…`.
async fn permissions(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
) -> Result<HttpResponse, Problem> {
    let resolver = SubjectResolver::for_recorded_checks(&authorizer);
    let user = resolver.find_user(authorizer.resolve_id(&id.0)).await.map_err(|error| match error {
        SubjectError::UnknownUser => Problem::not_found("User"),
        SubjectError::Failed(error) => error.into(),
        _ => evaluation::subject_forbidden(&authorizer),
    })?;
    let (mut kind, mut resource_id, mut basis) = (None, None, None);
    let pairs = body::query_pairs(&request)?;
    query_check::check_names(&["type", "id", "basis"], &pairs)?;
    for (name, value) in pairs {
        match name.as_str() {
            "type" => kind = Some(parse_term(&name, &value)?),
            "id" => resource_id = Some(parse_term(&name, &value)?),
            _ => basis = Some(parse_basis(&value, user.id == authorizer.caller().id)?),
        }
    }
    let (kind, resource_id) = match (kind, resource_id) {
        (Some(kind), Some(resource_id)) => (kind, resource_id),
        (None, None) => ("Organization".to_owned(), user.organization().to_string()),
        (Some(_), None) => return Err(missing_parameter("id", "type")),
        (None, Some(_)) => return Err(missing_parameter("type", "id")),
    };
    let none = Map::new();
    let entity_ref = EntityRef { kind: &kind, id: &resource_id, properties: &none };
    let actions = match resolver.user_subject(&user, basis) {
        Ok(ResolvedSubject { principal, context }) => {
            let target = evaluation::resolve_resource(&authorizer, entity_ref).await?;
            permitted_actions(&authorizer, "User", &principal, &context, &target, entity_ref)
        }
        // A blocked user may do nothing.
        Err(_) => Vec::new(),
    };
    Ok(HttpResponse::Ok()
        .insert_header((POLICY_VERSION, authorizer.engine().bundle().version()))
        .json(Permissions { user: user.id, r#type: kind, id: resource_id, actions }))
}
