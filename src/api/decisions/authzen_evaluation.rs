//! AuthZEN evaluations of a single question, and the parts of a question that batches and searches have too.

use super::authzen_body::RawBody;
use super::evaluation::{
    self, Decision, DecisionError, EvaluationResult, POLICY_VERSION, merge_client_context,
};
use super::question_names::{EXPLAIN, QuestionNames};
use crate::application::Authorizer;
use crate::application::subjects::{
    Basis, EntityRef, ResolvedSubject, SubjectError, SubjectResolver, SubjectSelector,
};
use crate::authz::AuthzRequest;
use crate::http::openapi::OperationDoc;
use crate::http::{Problem, body};
use crate::types::{EvaluationId, Id, Term, null_as_default, object_only};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The subject of a question.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Subject {
    /// A Cedar entity type: `User`, `Docs::Person`.
    pub(super) r#type: Term,
    /// The id; `me` is the caller's own user.
    pub(super) id: Term,
    /// Attributes of an external subject that its stored data do not have. Stored data take precedence; for users the
    /// properties are ignored.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    properties: Map<String, Value>,
    /// For the caller's own user: evaluate with the `credential` of the request, the default, or with its whole `role`.
    /// Other users are always evaluated with their role.
    #[serde(default)]
    pub(super) basis: Option<Basis>,
}

object_only!(Subject, read);

impl Subject {
    pub(super) fn entity_ref(&self) -> EntityRef<'_> {
        EntityRef { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// How it names the subject of a question.
    pub(super) fn selector(&self) -> SubjectSelector<'_> {
        SubjectSelector::Entity(self.entity_ref(), self.basis)
    }

    /// The type and the id.
    pub(super) fn type_and_id(&self) -> (&str, &str) {
        (self.r#type.as_str(), self.id.as_str())
    }
}

/// A resource.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Entity {
    /// A Cedar entity type: `User`, `Docs::Document`.
    pub(super) r#type: Term,
    /// The id.
    pub(super) id: Term,
    /// Attributes of an external resource that its stored data do not have. Stored data take precedence; for the service's
    /// own types the properties are ignored.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Entity, read);

impl Entity {
    pub(super) fn entity_ref(&self) -> EntityRef<'_> {
        EntityRef { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// The type and the id.
    pub(super) fn type_and_id(&self) -> (&str, &str) {
        (self.r#type.as_str(), self.id.as_str())
    }
}

/// An action.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Action {
    /// The name, resolved in the namespace of the resource type, then in the empty namespace. A full uid
    /// (`Docs::Action::"read"`) is used as it is.
    pub(super) name: Term,
    /// Added to the request context.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Action, read);

/// An evaluation request.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(super) struct Evaluation {
    subject: Subject,
    action: Action,
    resource: Entity,
    /// Request context for policies. `explain: true` requests reasons.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    context: Map<String, Value>,
}

/// An example of a question, about the caller's own user.
pub(super) fn example_question() -> Value {
    json!({
        "subject": {"type": "User", "id": "me"},
        "action": {"name": "fetchConversation"},
        "resource": {"type": "Conversation", "id": Id::EXAMPLE},
    })
}

pub(super) fn evaluation_doc() -> OperationDoc {
    let example = json!({
        "decision": true, "context": {"evaluation_id": "7d0f8a3e5b2c4d6e91a0b3c4d5e6f708"}
    });
    OperationDoc::new("Evaluate access (AuthZEN)")
        .describe(
            "`context.explain` or the header `X-Explain: true` requests reasons. Evaluating a user is authorized as \
             `evaluateAccess`, evaluating an external subject as `evaluateExternalAccess`. The caller's own user is evaluated \
             with the credential of the request, or with its whole role if `subject.basis` is `role`; another user always \
             with its role. Stored data take precedence over `properties`, which supply attributes that are not stored.",
        )
        .body::<Evaluation>(Some(example_question()))
        .response::<Decision>(200, "The decision, allow or deny.", Some(example))
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
}

pub(super) fn is_explain_requested(request: &HttpRequest, context: &Map<String, Value>) -> bool {
    context.get(EXPLAIN).and_then(Value::as_bool).unwrap_or_else(|| {
        request.headers().get(X_EXPLAIN).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    })
}

/// The header that requests reasons.
const X_EXPLAIN: HeaderName = HeaderName::from_static("x-explain");

/// The content type, as a constant so that responses do not allocate it.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// 200 with the policy version as a header.
pub(super) fn authzen_response(authorizer: &Authorizer, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, JSON))
        .insert_header((POLICY_VERSION, authorizer.engine().bundle().version()))
        .json(body)
}

/// `POST /access/v1/evaluation`.
///
/// # Errors
/// 400 if the body is invalid; else as [`evaluate_single`].
pub(super) async fn evaluation(
    authorizer: Authorizer,
    (request, RawBody(body)): (HttpRequest, RawBody),
) -> Result<HttpResponse, Problem> {
    evaluate_single(&authorizer, &request, &body::parse(&body)?).await
}

/// Evaluates a question that is not part of a batch, and returns the response.
///
/// # Errors
/// 403 if the caller may not evaluate the subject; 503 if the database is unavailable.
pub(super) async fn evaluate_single(
    authorizer: &Authorizer,
    request: &HttpRequest,
    question: &Evaluation,
) -> Result<HttpResponse, Problem> {
    let Evaluation { subject, action, resource, context } = question;
    let explain = is_explain_requested(request, context);
    match evaluate(authorizer, subject, action, resource, context, explain).await? {
        Some(result) => {
            Ok(authzen_response(authorizer, &Decision::new(&result, authorizer.engine(), explain)))
        }
        None => Err(evaluation::subject_forbidden(authorizer)),
    }
}

/// Evaluates a question; none if the caller may not evaluate its subject.
///
/// # Errors
/// 503 if the database is unavailable.
pub(super) async fn evaluate(
    authorizer: &Authorizer,
    subject: &Subject,
    action: &Action,
    resource: &Entity,
    context: &Map<String, Value>,
    explain: bool,
) -> Result<Option<EvaluationResult>, Problem> {
    let name = authorizer.engine().resolve_action(action.name.as_str(), resource.r#type.as_str());
    let warnings = |authorizer: &Authorizer| match explain {
        true => {
            let names = QuestionNames {
                subject: Some(subject.entity_ref()),
                action: action.name.as_str(),
                action_properties: &action.properties,
                resource: resource.entity_ref(),
                context,
            };
            names.warnings(authorizer)
        }
        false => Vec::new(),
    };
    let resolved = SubjectResolver::for_questions(authorizer).resolve(subject.selector()).await;
    let ResolvedSubject { principal, context: request_context } = match resolved {
        Ok(resolved) => resolved,
        Err(SubjectError::Forbidden) => return Ok(None),
        Err(error) => {
            let error = DecisionError::from_subject(authorizer, error)?;
            let (subject, resource_name) = (subject.type_and_id(), resource.type_and_id());
            let result =
                evaluation::record_failed_evaluation(authorizer, subject, name, resource_name, error);
            return Ok(Some(result.with_warnings(warnings(authorizer))));
        }
    };
    let request_context = merge_client_context(request_context, &action.properties, context);
    let target = evaluation::resolve_resource(authorizer, resource.entity_ref()).await?;
    let ask = AuthzRequest {
        principal: &principal,
        action: name,
        context: &request_context,
        recorder: Some(authorizer.question_recorder(EvaluationId::generate())),
    };
    let explain = explain.then(|| evaluation::visibility(authorizer, &principal, &target));
    let result = evaluation::decide(authorizer.engine(), &ask, &target, resource.entity_ref(), explain);
    Ok(Some(result.with_warnings(warnings(authorizer))))
}
