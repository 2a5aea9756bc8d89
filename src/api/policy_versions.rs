//! The archive of policy versions: what was active, when, and on whose request.

use super::policies::require_on_root;
use crate::application::Authorizer;
use crate::application::policy_archive::{self, PolicyArchiveError};
use crate::authz::{FileKind, Snapshot, SnapshotFile, VersionPrefix};
use crate::http::list;
use crate::http::openapi::{self, OperationDoc};
use crate::http::query::{ListRequest, ListSpec, QueryField};
use crate::http::{Problem, RouteGroup, WorkerState};
use crate::store::{ActivationTrigger, PolicyActivationRow, PolicyVersionRow, Store, StoreError};
use crate::types::{Id, Timestamp, string_schema};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::sync::Arc;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

/// The routes. They are authorized on the root organization, since the policies apply to every organization and the history
/// names users of the root.
pub fn routes() -> RouteGroup {
    let spec = Arc::new(ListSpec::plain(fields()));
    let documented = Arc::clone(&spec);
    RouteGroup::new("Policies", "/v2/policies/versions")
        .get(
            "",
            "fetchPolicies",
            move || list_doc(&documented),
            move |authorizer, request| list(authorizer, request, Arc::clone(&spec)),
        )
        .parses_query()
        .with_operation_id("listPolicyVersions")
        .on_root_organization()
        .get("/{version}", "fetchPolicies", fetch_doc, fetch)
        .with_operation_id("fetchPolicyVersion")
        .on_root_organization()
}

/// A policy version that was active.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyVersion {
    /// The version: a SHA-256 over schema, policies, data and claims.
    version: String,
    /// Whether it is the active version of the process that answers.
    is_active: bool,
    /// When it became active for the first time.
    first_activated_at: Timestamp,
    /// When it became active for the last time.
    last_activated_at: Timestamp,
    /// What made it active for the last time.
    trigger: ActivationTrigger,
    /// The user who requested or confirmed the last activation; null for the service itself and the command line.
    actor: Option<Id>,
    /// The kind of that user's credential, or `terminal`; null for the service itself.
    credential: Option<String>,
    /// The number of its files.
    file_count: i64,
    /// The total size of its files in bytes.
    bytes: i64,
}

/// A policy version with its files and its history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyVersionDetail {
    #[serde(flatten)]
    version: PolicyVersion,
    /// The files. Policy tests are not part of a version.
    files: Vec<PolicyFile>,
    /// When it became active, the newest activation first. The newest 1,000 activations of all versions are kept.
    activations: Vec<PolicyActivation>,
}

/// A file of a policy version.
#[derive(Debug, Serialize, ToSchema)]
struct PolicyFile {
    /// The kind of file.
    kind: FileKind,
    /// The path, as configured when the version became active.
    path: String,
    /// The content, without a byte-order mark.
    #[schema(value_type = String)]
    text: Arc<str>,
}

/// An activation of a policy version.
#[derive(Debug, Serialize, ToSchema)]
struct PolicyActivation {
    /// When the version became active.
    time: Timestamp,
    /// What made it active.
    trigger: ActivationTrigger,
    /// The user who requested or confirmed it; null for the service itself and the command line.
    actor: Option<Id>,
    /// The kind of that user's credential, or `terminal`; null for the service itself.
    credential: Option<String>,
}

impl PolicyVersion {
    /// Describes a version of the archive. `active` is the active version.
    pub(crate) fn new(row: PolicyVersionRow, active: &str) -> Self {
        Self {
            is_active: row.version == active,
            version: row.version,
            first_activated_at: row.first_activated_at,
            last_activated_at: row.last_activated_at,
            trigger: row.trigger,
            actor: row.actor,
            credential: row.credential,
            file_count: row.files,
            bytes: row.bytes,
        }
    }
}

impl PolicyVersionDetail {
    /// Reads the history of a version, and adds its files. `active` is the active version.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(crate) async fn read(
        store: &Store,
        row: PolicyVersionRow,
        snapshot: &Snapshot,
        active: &str,
    ) -> Result<Self, StoreError> {
        let activations = store.policy_activations(&row.version).await?;
        Ok(Self {
            version: PolicyVersion::new(row, active),
            files: snapshot.files().iter().cloned().map(PolicyFile::from).collect(),
            activations: activations.into_iter().map(PolicyActivation::from).collect(),
        })
    }
}

impl From<SnapshotFile> for PolicyFile {
    fn from(file: SnapshotFile) -> Self {
        Self { kind: file.kind, path: file.path, text: file.text }
    }
}

impl From<PolicyActivationRow> for PolicyActivation {
    fn from(row: PolicyActivationRow) -> Self {
        Self { time: row.time, trigger: row.trigger, actor: row.actor, credential: row.credential }
    }
}

/// The filters and the columns by which the list is sorted.
fn fields() -> Vec<QueryField> {
    let field =
        |name: &str, column: &str, schema: RefOr<Schema>| QueryField::column(name, column, schema, "");
    let version = string_schema("").max_length(Some(64));
    vec![
        QueryField { is_sortable: false, ..field("version", "version", version.into()) },
        field("firstActivatedAt", "first_activated_at", Timestamp::schema()),
        field("lastActivatedAt", "last_activated_at", Timestamp::schema()),
        QueryField { is_sortable: false, ..field("trigger", "trigger", ActivationTrigger::schema()) },
        QueryField { is_sortable: false, ..field("actor", "actor", Id::schema()) },
    ]
}

fn list_doc(spec: &ListSpec) -> OperationDoc {
    openapi::list_doc::<PolicyVersion>(
        OperationDoc::new("List policy versions").describe(
            "The versions that were active, by default in the order in which they became active for the first time; \
             `sort=-lastActivatedAt` returns the newest first. `CEDARGATE_POLICY_VERSIONS_KEPT` versions are kept.",
        ),
        spec,
    )
}

fn fetch_doc() -> OperationDoc {
    OperationDoc::new("Get a policy version with its files")
        .describe(
            "The files of a version that was active, and when it was. At least 8 of the first digits of the version are \
             sufficient if no other version begins with them: 400 `ambiguous_version`.",
        )
        .parameter(version_parameter())
        .response::<PolicyVersionDetail>(200, "The version.", None)
        .problems(&[400, 404, 503])
}

fn version_parameter() -> Parameter {
    ParameterBuilder::new()
        .name("version")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The version, or at least 8 of its first digits."))
        .schema(Some(string_schema("")))
        .build()
}

/// `GET /v2/policies/versions`.
async fn list(
    authorizer: Authorizer,
    request: HttpRequest,
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    require_on_root(&authorizer).await?;
    let mut wanted = ListRequest::parse(&request, &spec)?;
    for key in &mut wanted.query.sort {
        // Activations of the same millisecond are in the order in which they were recorded.
        if key.column == "last_activated_at" {
            key.column = "last_activation".to_owned();
        }
    }
    let page = authorizer.state().store.policy_versions(&wanted.query).await?;
    let active = authorizer.state().policies.current();
    let page = page.map(|row| PolicyVersion::new(row, active.bundle().version()));
    list::table_response(&request, &wanted, page)
}

/// `GET /v2/policies/versions/{version}`.
async fn fetch(authorizer: Authorizer, request: HttpRequest) -> Result<HttpResponse, Problem> {
    require_on_root(&authorizer).await?;
    let prefix = request.match_info().get("version").unwrap_or_default();
    let prefix: VersionPrefix = prefix.parse().map_err(|_| Problem::not_found("Policy version"))?;
    let store = &authorizer.state().store;
    let row = policy_archive::find_version(store, &prefix).await.map_err(archive_problem)?;
    // For the files while the response is written; the middleware counts the response itself.
    let budget = &WorkerState::from_request(&request)?.http.body_budget;
    let _reservation = budget.reserve(usize::try_from(row.bytes).unwrap_or(usize::MAX))?;
    let snapshot = policy_archive::read_files(store, &row).await.map_err(archive_problem)?;
    let active = authorizer.state().policies.current();
    let detail = PolicyVersionDetail::read(store, row, &snapshot, active.bundle().version()).await?;
    Ok(HttpResponse::Ok().json(detail))
}

fn archive_problem(error: PolicyArchiveError) -> Problem {
    match error {
        PolicyArchiveError::NotFound(_) => Problem::not_found("Policy version"),
        PolicyArchiveError::Ambiguous(prefix) => {
            let detail = format!("Several policy versions begin with {prefix}; give more digits.");
            Problem::new(StatusCode::BAD_REQUEST, "ambiguous_version", detail)
        }
        PolicyArchiveError::Store(error) => error.into(),
        error @ PolicyArchiveError::Damaged(_) => Problem::internal(error),
    }
}
