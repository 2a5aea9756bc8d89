//! `POST /v2/authorize`: decisions for other services, in the form of an AuthZEN evaluation.

use super::evaluation::{
    self, Basis, Decision, DecisionError, EntityRef, POLICY_VERSION, PolicyView, Reasons, ResolvedSubject,
    merge_client_context,
};
use super::users::User;
use crate::application::{Authorizer, Caller, Error, ErrorKind};
use crate::authz::AuthzRequest;
use crate::http::openapi::OperationDoc;
use crate::http::{Json, Problem, RouteGroup};
use crate::types::{FieldErrorCode, Id, Term, non_null, object_only};
use actix_web::HttpResponse;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Decisions", "/v2/authorize")
        .post("", "evaluateAccess", doc, evaluate)
        .additional_actions(&["referTo"])
}

/// An authorization question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AuthorizeRequest {
    /// The subject; by default the caller.
    #[serde(default, deserialize_with = "non_null")]
    #[schema(value_type = Option<SubjectChoice>, nullable = false)]
    subject: Option<Subject>,
    /// The action.
    action: ActionName,
    /// The resource. List and create actions are evaluated on the owning organization.
    resource: ResourceName,
    /// Request context: the fields that the schema declares for the action; others are ignored.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

/// A subject: the bearer of a token with the scopes of that token, or a user with its role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Subject {
    #[serde(default, deserialize_with = "non_null")]
    token: Option<SecretString>,
    #[serde(default, deserialize_with = "non_null")]
    r#type: Option<Term>,
    #[serde(default, deserialize_with = "non_null")]
    id: Option<Term>,
    #[serde(default)]
    properties: Map<String, Value>,
    #[serde(default, deserialize_with = "non_null")]
    basis: Option<Basis>,
}

object_only!(Subject, read);

/// A subject: the bearer of a token with the scopes of that token, or a user with its role.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
enum SubjectChoice {
    Bearer(TokenSubject),
    User(NamedSubject),
}

/// The bearer of a token, with the scopes of that token.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct TokenSubject {
    /// An access token or an API key.
    #[schema(max_length = 8192)]
    token: String,
    /// Ignored.
    #[schema(value_type = Object, required = false)]
    properties: Map<String, Value>,
}

/// A user, or an external subject.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct NamedSubject {
    /// `User`, or an external entity type.
    r#type: Term,
    /// The id.
    id: Term,
    /// Attributes of an external subject that its stored data do not have. Stored data take precedence; for users the
    /// properties are ignored.
    #[schema(value_type = Object, required = false)]
    properties: Map<String, Value>,
    /// For the caller's own user: evaluate with the `credential` of the request, the default, or with its whole `role`.
    /// Other users are always evaluated with their role.
    #[schema(required = false)]
    basis: Basis,
}

/// The maximum length of a token, in characters.
const MAX_TOKEN: usize = 8192;

/// An action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ActionName {
    /// The name, as in the schema: `fetchConversation`.
    name: Term,
    /// Added to the request context, where the schema declares them for the action.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

object_only!(ActionName, read);

/// A resource.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ResourceName {
    /// The type, as in the schema: `Conversation`.
    r#type: Term,
    /// The id.
    id: Term,
    /// Attributes of an external resource that its stored data do not have. Stored data take precedence; for the service's
    /// own types the properties are ignored.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

object_only!(ResourceName, read);

fn doc() -> OperationDoc {
    let question = json!({
        "subject": {"type": "User", "id": "599e1fcd9da1c72645c95886"},
        "action": {"name": "fetchConversation"},
        "resource": {"type": "Conversation", "id": "599e1fcd9da1c72645c95887"}
    });
    let answer = json!({
        "decision": true,
        "context": {"policies": [{"id": "guest"}], "version": "0f3b6c5d9a7e1824"}
    });
    OperationDoc::new("Authorize an action")
        .describe(
            "Without a subject, or with the caller's own user, the question is evaluated with the credential of the request; \
             with `basis` `role` for the user's whole role. Other users are evaluated with their role; doing so is authorized \
             as `evaluateAccess`. A resource that the caller may not refer to is evaluated like one that does not exist.",
        )
        .body::<AuthorizeRequest>(Some(question))
        .response::<Decision>(200, "The decision, allow or deny.", Some(answer))
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
}

/// `POST /v2/authorize`.
async fn evaluate(
    authorizer: Authorizer,
    Json(question): Json<AuthorizeRequest>,
) -> Result<HttpResponse, Problem> {
    let engine = authorizer.engine();
    let ResourceName { r#type, id, properties } = &question.resource;
    let entity_ref = EntityRef { kind: r#type.as_str(), id: id.as_str(), properties };
    let action = engine.resolve_action(question.action.name.as_str(), entity_ref.kind);
    let subject = question.subject.as_ref();
    let subject =
        subject.and_then(|subject| Some((subject.r#type.as_ref()?.as_str(), subject.id.as_ref()?.as_str())));
    let result = match resolve_subject_choice(&authorizer, question.subject.as_ref()).await? {
        ResolvedSubject::Principal(principal, context) => {
            let context = merge_client_context(context, &question.action.properties, &question.context);
            let target = evaluation::resolve_resource(&authorizer, entity_ref).await?;
            let ask = AuthzRequest {
                principal: &principal,
                action,
                context: &context,
                recorder: Some(authorizer.decision_recorder()),
            };
            evaluation::decide(engine, &ask, &target, entity_ref, false)
        }
        ResolvedSubject::Error(error) => {
            let resource = (entity_ref.kind, entity_ref.id);
            evaluation::record_failed_evaluation(
                &authorizer,
                subject.unwrap_or_default(),
                action,
                resource,
                error,
            )
        }
        ResolvedSubject::Forbidden => return Err(Problem::forbidden("evaluateAccess")),
    };
    let policies = result.answer.policies.iter().map(|policy| PolicyView::summary(policy)).collect();
    let version = engine.bundle().version().to_owned();
    let context = Reasons {
        policies: Some(policies),
        version: Some(version.clone()),
        error: result.error,
        ..Reasons::default()
    };
    Ok(HttpResponse::Ok()
        .insert_header((POLICY_VERSION, version))
        .json(Decision { decision: result.answer.allowed, context: Some(context) }))
}

/// Resolves the subject, if the caller may evaluate it. A user that does not exist or is not accessible is a field error.
async fn resolve_subject_choice(
    authorizer: &Authorizer,
    subject: Option<&Subject>,
) -> Result<ResolvedSubject, Problem> {
    match subject {
        None => {
            authorizer.for_prerequisite("evaluateAccess").find_authorized::<User>("me").await?;
            Ok(evaluation::caller_as_subject(authorizer))
        }
        Some(Subject { token: Some(token), r#type: None, id: None, basis: None, .. }) => {
            resolve_token_subject(authorizer, token).await
        }
        Some(Subject { token: None, r#type: Some(kind), id: Some(id), properties, basis }) => {
            let entity_ref = EntityRef { kind: kind.as_str(), id: id.as_str(), properties };
            match evaluation::resolve_subject(authorizer, entity_ref, *basis).await? {
                ResolvedSubject::Error(DecisionError { code: "unknown_subject", message, .. }) => {
                    let (field, code) = match kind.as_str() {
                        "User" => ("subject.id", FieldErrorCode::NotFound),
                        _ => ("subject.type", FieldErrorCode::UnknownType),
                    };
                    Err(Problem::invalid_field(field, code, message))
                }
                ResolvedSubject::Error(DecisionError { code: "invalid", message, .. }) => {
                    Err(Problem::invalid_field("subject.basis", FieldErrorCode::NotAllowed, message))
                }
                resolved => Ok(resolved),
            }
        }
        Some(_) => Err(Problem::invalid_field(
            "subject",
            FieldErrorCode::DependentRequired,
            "expected either `token`, or `type` and `id` and optionally `basis`",
        )),
    }
}

async fn resolve_token_subject(
    authorizer: &Authorizer,
    token: &SecretString,
) -> Result<ResolvedSubject, Problem> {
    let state = authorizer.state();
    let token = secrecy::ExposeSecret::expose_secret(token);
    if token.chars().count() > MAX_TOKEN {
        return Err(Problem::invalid_field(
            "subject.token",
            FieldErrorCode::TooLong,
            format!("more than {MAX_TOKEN} characters"),
        ));
    }
    let error = match Caller::from_token(state, authorizer.engine(), token).await {
        Ok(caller) => match authorizer
            .for_prerequisite("evaluateAccess")
            .find_authorized::<User>(&caller.id.to_string())
            .await
        {
            Ok(_) => {
                let context = authorizer.request_context_for(caller.credential);
                return Ok(ResolvedSubject::Principal(Arc::clone(&caller.principal), context));
            }
            // The token of an inaccessible user is reported like one of no user.
            Err(error) if error.kind == ErrorKind::NotFound => Error::invalid_token(),
            Err(error) => return Err(error.into()),
        },
        Err(error) if error.kind.is_server_error() => return Err(error.into()),
        Err(error) => error,
    };
    // A caller that may not evaluate other users does not learn why their tokens are invalid.
    match authorizer.for_prerequisite("evaluateAccess").find_authorized::<User>(&Id::NIL.to_string()).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(ResolvedSubject::Error(DecisionError::new(error.code, error.message))),
    }
}
