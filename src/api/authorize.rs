//! Decisions for other services: may this one do that? In the shape of AuthZEN's evaluation.

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

/// A question: may this one do that?
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AuthorizeRequest {
    /// Who. The bearer itself if nothing is said.
    #[serde(default, deserialize_with = "non_null")]
    #[schema(value_type = Option<SubjectChoice>, nullable = false)]
    subject: Option<Subject>,
    /// Does what.
    action: ActionName,
    /// To which thing. List and create are asked of the organization that holds the things.
    resource: ResourceName,
    /// What else policies may read: the fields that the schema declares for the action; others are passed over.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

/// Who: the bearer of a token, with the scopes of that token, or a user, by its role.
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

/// Who: the bearer of a token, with the scopes of that token, or a user, by its role.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is for the document only")]
enum SubjectChoice {
    Bearer(TokenSubject),
    User(NamedSubject),
}

/// The bearer of a token, with the scopes of that token.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is for the document only")]
struct TokenSubject {
    /// An access token or an API key.
    #[schema(max_length = 8192)]
    token: String,
    /// Passed over.
    #[schema(value_type = Object, required = false)]
    properties: Map<String, Value>,
}

/// A user, or an external subject.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is for the document only")]
struct NamedSubject {
    /// `User`, or a type of another domain.
    r#type: Term,
    /// Its id.
    id: Term,
    /// What is said of an external subject: attributes that its stored data do not have. Stored data take precedence, and
    /// of users nothing is taken from here.
    #[schema(value_type = Object, required = false)]
    properties: Map<String, Value>,
    /// Of the caller's own user: whether to answer for the `credential` in hand, which is the default, or for its whole
    /// `role`. Of other users it is always the role.
    #[schema(required = false)]
    basis: Basis,
}

/// How many characters a token has at most.
const MAX_TOKEN: usize = 8192;

/// An action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ActionName {
    /// Its name, as in the schema: `fetchConversation`.
    name: Term,
    /// These reach the context, where the schema declares them for the action.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

object_only!(ActionName, read);

/// A thing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ResourceName {
    /// Its type, as in the schema: `Conversation`.
    r#type: Term,
    /// Its id.
    id: Term,
    /// What is said of an external resource: attributes that its stored data do not have. Stored data take precedence, and
    /// of the service's own types nothing is taken from here.
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
    OperationDoc::new("Decide whether somebody may do something")
        .describe(
            "Without a subject: whether the bearer itself may, with the credential in hand. So is a question answered that \
             names the bearer's own user, unless its `basis` is `role`; one about another user is answered for that user's \
             role. Asking about another user is itself a decision (`evaluateAccess`). A thing that the bearer could not name is decided about as one that is not there.",
        )
        .body::<AuthorizeRequest>(Some(question))
        .response::<Decision>(200, "The decision, whichever it is.", Some(answer))
        .response_header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
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
        ResolvedSubject::Principal(principal, circumstances) => {
            let circumstances =
                merge_client_context(circumstances, &question.action.properties, &question.context);
            let target = evaluation::resolve_resource(&authorizer, entity_ref).await?;
            let ask = AuthzRequest {
                principal: &principal,
                action,
                context: &circumstances,
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

/// Who is asked about, if the caller may ask about it. A user that is missing or out of reach is a wrong field.
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
    let parts = authorizer.state();
    let token = secrecy::ExposeSecret::expose_secret(token);
    if token.chars().count() > MAX_TOKEN {
        return Err(Problem::invalid_field(
            "subject.token",
            FieldErrorCode::TooLong,
            format!("more than {MAX_TOKEN} characters"),
        ));
    }
    let error = match Caller::from_token(parts, authorizer.engine(), token).await {
        Ok(caller) => match authorizer
            .for_prerequisite("evaluateAccess")
            .find_authorized::<User>(&caller.id.to_string())
            .await
        {
            Ok(_) => {
                let circumstances = authorizer.request_context_for(caller.credential);
                return Ok(ResolvedSubject::Principal(Arc::clone(&caller.principal), circumstances));
            }
            // The token of an inaccessible user is reported like one of no user.
            Err(error) if error.kind == ErrorKind::NotFound => Error::invalid_token(),
            Err(error) => return Err(error.into()),
        },
        Err(error) if error.kind.is_server_error() => return Err(error.into()),
        Err(error) => error,
    };
    // Whoever may not ask about others is not told what is wrong with their tokens.
    match authorizer.for_prerequisite("evaluateAccess").find_authorized::<User>(&Id::NIL.to_string()).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(ResolvedSubject::Error(DecisionError::new(error.code, error.message))),
    }
}
