//! The OpenID AuthZEN Authorization API 1.0: the routes, single evaluations, and the metadata.

use super::batch::{evaluations, evaluations_doc};
use super::question::{self, Asked, Basis, Decision, Named, POLICY_VERSION, Target, Verdict, with_said};
use super::search::{ActionSearch, ResourceSearch, SubjectSearch};
use super::search::{search_actions, search_doc, search_resources, search_subjects};
use super::sent::Sent;
use super::understood::{self, Understood, Words};
use crate::authz::Ask;
use crate::http::address::own_address;
use crate::http::openapi::Doc;
use crate::http::{Gate, Parts, Problem, Routes, body};
use crate::values::{Term, null_is_absent, object_only};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("AuthZEN", "/access/v1")
        .post("/evaluation", "evaluateAccess", evaluation_doc, evaluation)
        .called("evaluation")
        .also(ALSO)
        .post("/evaluations", "evaluateAccess", evaluations_doc, evaluations)
        .called("evaluations")
        .also(ALSO)
        .post(
            "/search/subject",
            "evaluateAccess",
            || search_doc::<SubjectSearch>("subjects"),
            search_subjects,
        )
        .called("searchSubjects")
        .also(ALSO)
        .post(
            "/search/resource",
            "evaluateAccess",
            || search_doc::<ResourceSearch>("resources"),
            search_resources,
        )
        .called("searchResources")
        .also(ALSO)
        .post("/search/action", "evaluateAccess", || search_doc::<ActionSearch>("actions"), search_actions)
        .called("searchActions")
        .also(ALSO)
}

const ALSO: &[&str] = &["evaluateForeignAccess", "referTo"];

/// The route of the metadata.
pub fn metadata_routes() -> Routes {
    Routes::new("AuthZEN", "/.well-known").public(
        Method::GET,
        "/authzen-configuration",
        "authzenConfiguration",
        || {
            let doc = Doc::new("Where the endpoints of the AuthZEN Authorization API are");
            doc.answer::<Metadata>(200, "The metadata.", None)
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
    #[serde(default, deserialize_with = "null_is_absent")]
    #[schema(value_type = Option<Object>)]
    properties: Map<String, Value>,
    /// Of the caller's own user: whether to answer for the `credential` in hand, which is the default, or for its whole
    /// `role`. Of other users it is always the role.
    #[serde(default)]
    pub(super) basis: Option<Basis>,
}

object_only!(Subject, read);

impl Subject {
    pub(super) fn named(&self) -> Named<'_> {
        Named { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// Its type and id.
    pub(super) fn name(&self) -> (&str, &str) {
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
    #[serde(default, deserialize_with = "null_is_absent")]
    #[schema(value_type = Option<Object>)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Entity, read);

impl Entity {
    pub(super) fn named(&self) -> Named<'_> {
        Named { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// Its type and id.
    pub(super) fn name(&self) -> (&str, &str) {
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
    #[serde(default, deserialize_with = "null_is_absent")]
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
    #[serde(default, deserialize_with = "null_is_absent")]
    #[schema(value_type = Option<Object>)]
    context: Map<String, Value>,
}

fn evaluation_doc() -> Doc {
    Doc::new("Decide whether somebody may do something (AuthZEN)")
        .describe(
            "Reasons are given where they are asked for, with `context.explain` or the header `X-Explain: true`. Asking about \
             a user is itself a decision (`evaluateAccess`), and so is asking about an external subject \
             (`evaluateForeignAccess`). A question about the caller's own user is answered for the credential in hand, \
             and with `subject.basis` `role` for the user's whole role; one about another user always for its role. \
             Stored data take precedence over `properties`; an attribute that they do not have may be supplied.",
        )
        .body::<Evaluation>(None)
        .answer::<Decision>(200, "The decision, whichever it is.", Some(json!({"decision": true})))
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

pub(super) fn wants_reasons(request: &HttpRequest, context: &Map<String, Value>) -> bool {
    context.get("explain").and_then(Value::as_bool).unwrap_or_else(|| {
        request.headers().get(EXPLAIN).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    })
}

/// The header that asks for reasons.
const EXPLAIN: HeaderName = HeaderName::from_static("x-explain");

/// The type of the answers, which would be made anew for each otherwise.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// 200 with the version of the policies that decided.
pub(super) fn answered(gate: &Gate, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, JSON))
        .insert_header((POLICY_VERSION, gate.engine().bundle().version()))
        .json(body)
}

/// `POST /access/v1/evaluation`.
async fn evaluation(gate: Gate, (request, Sent(body)): (HttpRequest, Sent)) -> Result<HttpResponse, Problem> {
    // Reasons are looked for each time.
    let words = if request.headers().contains_key(EXPLAIN) { None } else { Words::of(&gate, &body) };
    if let Some(verdict) = words.and_then(|words| understood::decide(&gate, words)) {
        return Ok(answered(&gate, &Decision::new(&verdict, gate.engine(), false)));
    }
    // Boxed, so that what is understood already makes no room for it.
    Box::pin(async move { single(&gate, &request, &body::parse(&body)?, words).await }).await
}

pub(super) async fn single(
    gate: &Gate,
    request: &HttpRequest,
    question: &Evaluation,
    words: Option<Words>,
) -> Result<HttpResponse, Problem> {
    let Evaluation { subject, action, resource, context } = question;
    let explain = wants_reasons(request, context);
    match evaluate(gate, subject, action, resource, context, explain, words).await? {
        Some(verdict) => Ok(answered(gate, &Decision::new(&verdict, gate.engine(), explain))),
        None => Err(Problem::forbidden("ask about this subject")),
    }
}

/// The verdict on a question; none where the caller may not ask it.
pub(super) async fn evaluate(
    gate: &Gate,
    subject: &Subject,
    action: &Action,
    resource: &Entity,
    context: &Map<String, Value>,
    explain: bool,
    words: Option<Words>,
) -> Result<Option<Verdict>, Problem> {
    // Before anything is read.
    let before = |named| understood::before(gate, named);
    let read = words.map(|words| (words, [before(subject.named()), before(resource.named())]));
    let name = gate.engine().action_for(action.name.as_str(), resource.r#type.as_str());
    let (principal, circumstances) = match question::subject(gate, subject.named(), subject.basis).await? {
        Asked::Known(principal, circumstances) => (principal, circumstances),
        Asked::Unknown(obstacle) => {
            let (subject, thing) = (subject.name(), resource.name());
            return Ok(Some(question::undecided(gate, subject, name, thing, obstacle)));
        }
        Asked::Refused => return Ok(None),
    };
    let circumstances = with_said(circumstances, &action.properties, context);
    let target = question::target(gate, resource.named()).await?;
    let ask =
        Ask { principal: &principal, action: name, circumstances: &circumstances, trail: Some(gate.trail()) };
    let verdict = question::decide(gate.engine(), &ask, &target, resource.named(), explain);
    if let (Some((words, read)), false, Target::There(thing)) = (read, explain, target) {
        let (action, said) = (name.to_owned(), circumstances.said);
        let is_own = Arc::ptr_eq(&principal, &gate.caller().principal);
        understood::keep(gate, words, Understood { principal, is_own, action, thing, said, read });
    }
    Ok(Some(verdict))
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
    let parts = Parts::of(&request)?;
    let base = own_address(&request);
    let at = |path: &str| format!("{base}/access/v1/{path}");
    Ok(HttpResponse::Ok().json(Metadata {
        access_evaluation_endpoint: at("evaluation"),
        access_evaluations_endpoint: at("evaluations"),
        search_subject_endpoint: at("search/subject"),
        search_resource_endpoint: at("search/resource"),
        search_action_endpoint: at("search/action"),
        access_evaluations_limit: parts.rules.access_batch_limit,
        stored_attributes_take_precedence: true,
        policy_decision_point: base,
    }))
}
