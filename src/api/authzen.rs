//! The OpenID AuthZEN Authorization API 1.0: the routes, single evaluations, and the metadata.

use super::authzen_batch::{evaluations, evaluations_doc};
use super::authzen_body::RawBody;
use super::authzen_search::{ActionSearch, ResourceSearch, SubjectSearch};
use super::authzen_search::{search_actions, search_doc, search_resources, search_subjects};
use super::evaluation::{
    self, Basis, Decision, EntityRef, EvaluationResult, POLICY_VERSION, ResolvedResource, ResolvedSubject,
    merge_client_context,
};
use super::question_cache::{self, CachedQuestion, QuestionKey};
use crate::application::Authorizer;
use crate::authz::AuthzRequest;
use crate::http::base_url::base_url;
use crate::http::openapi::OperationDoc;
use crate::http::{Problem, RouteGroup, WorkerState, body};
use crate::types::{Term, null_as_default, object_only};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("AuthZEN", "/access/v1")
        .post("/evaluation", "evaluateAccess", evaluation_doc, evaluation)
        .with_operation_id("evaluation")
        .additional_actions(PREREQUISITES)
        .post("/evaluations", "evaluateAccess", evaluations_doc, evaluations)
        .with_operation_id("evaluations")
        .additional_actions(PREREQUISITES)
        .post(
            "/search/subject",
            "evaluateAccess",
            || search_doc::<SubjectSearch>("subjects"),
            search_subjects,
        )
        .with_operation_id("searchSubjects")
        .additional_actions(PREREQUISITES)
        .post(
            "/search/resource",
            "evaluateAccess",
            || search_doc::<ResourceSearch>("resources"),
            search_resources,
        )
        .with_operation_id("searchResources")
        .additional_actions(PREREQUISITES)
        .post("/search/action", "evaluateAccess", || search_doc::<ActionSearch>("actions"), search_actions)
        .with_operation_id("searchActions")
        .additional_actions(PREREQUISITES)
}

const PREREQUISITES: &[&str] = &["evaluateForeignAccess", "referTo"];

/// The route of the metadata.
pub fn metadata_routes() -> RouteGroup {
    RouteGroup::new("AuthZEN", "/.well-known").public(
        Method::GET,
        "/authzen-configuration",
        "authzenConfiguration",
        || {
            let doc = OperationDoc::new("Where the endpoints of the AuthZEN Authorization API are");
            doc.response::<Metadata>(200, "The metadata.", None)
        },
        metadata,
    )
}

/// The subject of a question.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Subject {
    /// A Cedar entity type: `User`, `Docs::Person`.
    pub(super) r#type: Term,
    /// The id; of the caller's own user also `me`.
    pub(super) id: Term,
    /// What is said of an external subject: attributes that its stored data do not have. Stored data take precedence, and
    /// of users nothing is taken from here.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    properties: Map<String, Value>,
    /// Of the caller's own user: whether to answer for the `credential` in hand, which is the default, or for its whole
    /// `role`. Of other users it is always the role.
    #[serde(default)]
    pub(super) basis: Option<Basis>,
}

object_only!(Subject, read);

impl Subject {
    pub(super) fn entity_ref(&self) -> EntityRef<'_> {
        EntityRef { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// Its type and id.
    pub(super) fn type_and_id(&self) -> (&str, &str) {
        (self.r#type.as_str(), self.id.as_str())
    }
}

/// A resource that a question names.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Entity {
    /// A Cedar entity type: `User`, `Docs::Document`.
    pub(super) r#type: Term,
    /// The id.
    pub(super) id: Term,
    /// What is said of an external resource: attributes that its stored data do not have. Stored data take precedence, and
    /// of the service's own types nothing is taken from here.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Entity, read);

impl Entity {
    pub(super) fn entity_ref(&self) -> EntityRef<'_> {
        EntityRef { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// Its type and id.
    pub(super) fn type_and_id(&self) -> (&str, &str) {
        (self.r#type.as_str(), self.id.as_str())
    }
}

/// An action.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Action {
    /// Its name: looked up in the namespace of the resource's type, then in the empty one. A whole uid
    /// (`Docs::Action::"read"`) is taken as it is.
    pub(super) name: Term,
    /// These reach the context.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Action, read);

/// May this one do that?
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({
    "subject": {"type": "User", "id": "599e1fcd9da1c72645c95886"},
    "action": {"name": "fetchConversation"},
    "resource": {"type": "Conversation", "id": "599e1fcd9da1c72645c95887"}
}))]
pub(super) struct Evaluation {
    subject: Subject,
    action: Action,
    resource: Entity,
    /// What policies may read besides. `explain: true` asks for reasons.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    context: Map<String, Value>,
}

fn evaluation_doc() -> OperationDoc {
    OperationDoc::new("Decide whether somebody may do something (AuthZEN)")
        .describe(
            "Reasons are given where they are asked for, with `context.explain` or the header `X-Explain: true`. Asking about \
             a user is itself a decision (`evaluateAccess`), and so is asking about an external subject \
             (`evaluateForeignAccess`). A question about the caller's own user is answered for the credential in hand, \
             and with `subject.basis` `role` for the user's whole role; one about another user always for its role. \
             Stored data take precedence over `properties`; an attribute that they do not have may be supplied.",
        )
        .body::<Evaluation>(None)
        .response::<Decision>(200, "The decision, whichever it is.", Some(json!({"decision": true})))
        .response_header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

pub(super) fn is_explain_requested(request: &HttpRequest, context: &Map<String, Value>) -> bool {
    context.get("explain").and_then(Value::as_bool).unwrap_or_else(|| {
        request.headers().get(X_EXPLAIN).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    })
}

/// The header that asks for reasons.
const X_EXPLAIN: HeaderName = HeaderName::from_static("x-explain");

/// The type of the answers, which would be made anew for each otherwise.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// 200 with the version of the policies that decided.
pub(super) fn authzen_response(authorizer: &Authorizer, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, JSON))
        .insert_header((POLICY_VERSION, authorizer.engine().bundle().version()))
        .json(body)
}

/// `POST /access/v1/evaluation`.
async fn evaluation(
    authorizer: Authorizer,
    (request, RawBody(body)): (HttpRequest, RawBody),
) -> Result<HttpResponse, Problem> {
    // Reasons are looked for each time.
    let key = if request.headers().contains_key(X_EXPLAIN) {
        None
    } else {
        QuestionKey::for_request(&authorizer, &body)
    };
    if let Some(result) = key.and_then(|key| question_cache::decide(&authorizer, key)) {
        return Ok(authzen_response(&authorizer, &Decision::new(&result, authorizer.engine(), false)));
    }
    // Boxed, so that what is understood already makes no room for it.
    Box::pin(async move { evaluate_single(&authorizer, &request, &body::parse(&body)?, key).await }).await
}

pub(super) async fn evaluate_single(
    authorizer: &Authorizer,
    request: &HttpRequest,
    question: &Evaluation,
    key: Option<QuestionKey>,
) -> Result<HttpResponse, Problem> {
    let Evaluation { subject, action, resource, context } = question;
    let explain = is_explain_requested(request, context);
    match evaluate(authorizer, subject, action, resource, context, explain, key).await? {
        Some(result) => {
            Ok(authzen_response(authorizer, &Decision::new(&result, authorizer.engine(), explain)))
        }
        None => Err(Problem::forbidden("ask about this subject")),
    }
}

/// The verdict on a question; none where the caller may not ask it.
pub(super) async fn evaluate(
    authorizer: &Authorizer,
    subject: &Subject,
    action: &Action,
    resource: &Entity,
    context: &Map<String, Value>,
    explain: bool,
    key: Option<QuestionKey>,
) -> Result<Option<EvaluationResult>, Problem> {
    // Before anything is read.
    let entity_version = |entity_ref| question_cache::entity_version(authorizer, entity_ref);
    let versions =
        key.map(|key| (key, [entity_version(subject.entity_ref()), entity_version(resource.entity_ref())]));
    let name = authorizer.engine().resolve_action(action.name.as_str(), resource.r#type.as_str());
    let (principal, circumstances) =
        match evaluation::resolve_subject(authorizer, subject.entity_ref(), subject.basis).await? {
            ResolvedSubject::Principal(principal, circumstances) => (principal, circumstances),
            ResolvedSubject::Error(error) => {
                let (subject, resource_name) = (subject.type_and_id(), resource.type_and_id());
                return Ok(Some(evaluation::record_failed_evaluation(
                    authorizer,
                    subject,
                    name,
                    resource_name,
                    error,
                )));
            }
            ResolvedSubject::Forbidden => return Ok(None),
        };
    let circumstances = merge_client_context(circumstances, &action.properties, context);
    let target = evaluation::resolve_resource(authorizer, resource.entity_ref()).await?;
    let ask = AuthzRequest {
        principal: &principal,
        action: name,
        context: &circumstances,
        recorder: Some(authorizer.decision_recorder()),
    };
    let result = evaluation::decide(authorizer.engine(), &ask, &target, resource.entity_ref(), explain);
    if let (Some((key, versions)), false, ResolvedResource::Found(resource)) = (versions, explain, target) {
        let (action, said) = (name.to_owned(), circumstances.client_context);
        let is_own = Arc::ptr_eq(&principal, &authorizer.caller().principal);
        question_cache::insert(
            authorizer,
            key,
            CachedQuestion { principal, is_own, action, resource, client_context: said, versions },
        );
    }
    Ok(Some(result))
}

/// Where the endpoints are.
#[derive(Debug, Serialize, ToSchema)]
struct Metadata {
    /// The address of the service.
    policy_decision_point: String,
    /// One question.
    access_evaluation_endpoint: String,
    /// Several at once.
    access_evaluations_endpoint: String,
    /// Who may do that?
    search_subject_endpoint: String,
    /// What may this one do that to?
    search_resource_endpoint: String,
    /// What may this one do to that?
    search_action_endpoint: String,
    /// How many questions a batch may have.
    access_evaluations_limit: usize,
    /// Stored data take precedence over `properties` in a question: these only supply attributes that are not stored.
    stored_attributes_take_precedence: bool,
}

/// `GET /.well-known/authzen-configuration`.
async fn metadata(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let base = base_url(&request);
    let url = |path: &str| format!("{base}/access/v1/{path}");
    Ok(HttpResponse::Ok().json(Metadata {
        access_evaluation_endpoint: url("evaluation"),
        access_evaluations_endpoint: url("evaluations"),
        search_subject_endpoint: url("search/subject"),
        search_resource_endpoint: url("search/resource"),
        search_action_endpoint: url("search/action"),
        access_evaluations_limit: state.request_config.access_batch_limit,
        stored_attributes_take_precedence: true,
        policy_decision_point: base,
    }))
}
