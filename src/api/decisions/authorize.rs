//! `POST /v2/authorize`: decisions for other services, in the form of an AuthZEN evaluation.

use super::authzen_evaluation::{authzen_response, example_question, is_explain_requested};
use super::evaluation::{
    self, Decision, DecisionError, POLICY_VERSION, PolicyView, Reasons, merge_client_context,
};
use super::question_names::QuestionNames;
use crate::application::Authorizer;
use crate::application::subjects::{Basis, EntityRef, ResolvedSubject, SubjectResolver, SubjectSelector};
use crate::authz::AuthzRequest;
use crate::http::openapi::OperationDoc;
use crate::http::{Json, Problem, RouteGroup};
use crate::types::{EvaluationId, FieldErrorCode, Term, non_null, object_only};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Decisions", "/v2/authorize")
        .about("Decisions about users and their permissions.")
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
    /// Request context: the fields that the schema declares for the action; others are ignored. `explain: true` requests
    /// reasons.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

impl AuthorizeRequest {
    /// What it names.
    fn names(&self) -> QuestionNames<'_> {
        let ResourceName { r#type, id, properties } = &self.resource;
        let subject = self.subject.as_ref().and_then(|subject| {
            let (kind, id) = (subject.r#type.as_ref()?.as_str(), subject.id.as_ref()?.as_str());
            Some(EntityRef { kind, id, properties: &subject.properties })
        });
        QuestionNames {
            subject,
            action: self.action.name.as_str(),
            action_properties: &self.action.properties,
            resource: EntityRef { kind: r#type.as_str(), id: id.as_str(), properties },
            context: &self.context,
        }
    }
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
    let answer = json!({
        "decision": true,
        "context": {
            "policies": [{"id": "guest"}], "version": "8d969eef6ecad3c23a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92",
            "evaluation_id": "7d0f8a3e5b2c4d6e91a0b3c4d5e6f708"
        }
    });
    OperationDoc::new("Authorize an action")
        .describe(
            "Without a subject, or with the caller's own user, the question is evaluated with the credential of the request; \
             with `basis` `role` for the user's whole role. Other users are evaluated with their role; doing so is authorized \
             as `evaluateAccess`. A user that does not exist or that the caller may not evaluate gives the decision `false` and \
             `unknown_subject` in `context.error`, as in AuthZEN evaluations. `context.explain` or the header `X-Explain: true` requests reasons. A resource that the caller may not refer to is evaluated like one that does not exist.",
        )
        .body::<AuthorizeRequest>(Some(example_question()))
        .response::<Decision>(200, "The decision, allow or deny.", Some(answer))
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
}

/// `POST /v2/authorize`.
async fn evaluate(
    authorizer: Authorizer,
    (request, Json(question)): (HttpRequest, Json<AuthorizeRequest>),
) -> Result<HttpResponse, Problem> {
    let engine = authorizer.engine();
    let ResourceName { r#type, id, properties } = &question.resource;
    let entity_ref = EntityRef { kind: r#type.as_str(), id: id.as_str(), properties };
    let action = engine.resolve_action(question.action.name.as_str(), entity_ref.kind);
    let subject = question.subject.as_ref();
    let subject =
        subject.and_then(|subject| Some((subject.r#type.as_ref()?.as_str(), subject.id.as_ref()?.as_str())));
    let explain = is_explain_requested(&request, &question.context);
    let warnings = match explain {
        true => question.names().warnings(&authorizer),
        false => Vec::new(),
    };
    let result = match resolve_subject(&authorizer, question.subject.as_ref()).await? {
        Ok(ResolvedSubject { principal, context }) => {
            let context = merge_client_context(context, &question.action.properties, &question.context);
            let target = evaluation::resolve_resource(&authorizer, entity_ref).await?;
            let ask = AuthzRequest {
                principal: &principal,
                action,
                context: &context,
                recorder: Some(authorizer.question_recorder(EvaluationId::generate())),
            };
            let explain = explain.then(|| evaluation::visibility(&authorizer, &principal, &target));
            evaluation::decide(engine, &ask, &target, entity_ref, explain)
        }
        Err(error) => {
            let resource = (entity_ref.kind, entity_ref.id);
            evaluation::record_failed_evaluation(
                &authorizer,
                subject.unwrap_or_default(),
                action,
                resource,
                error,
            )
        }
    };
    let result = result.with_warnings(warnings);
    if explain {
        return Ok(authzen_response(&authorizer, &Decision::new(&result, engine, true)));
    }
    let policies = result.answer.policies.iter().map(|policy| PolicyView::summary(policy)).collect();
    let version = engine.bundle().version().to_owned();
    let context = Reasons {
        evaluation_id: result.evaluation_id,
        policies: Some(policies),
        version: Some(version.clone()),
        error: result.error,
        ..Reasons::default()
    };
    Ok(HttpResponse::Ok()
        .insert_header((POLICY_VERSION, version))
        .json(Decision { decision: result.answer.allowed, context: Some(context) }))
}

/// Resolves the subject, if the caller may evaluate it; otherwise returns why the question cannot be decided, as AuthZEN
/// evaluations do.
///
/// # Errors
/// 400 if the body names the subject in no valid way; 403 if the caller may evaluate no such subject.
async fn resolve_subject(
    authorizer: &Authorizer,
    subject: Option<&Subject>,
) -> Result<Result<ResolvedSubject, DecisionError>, Problem> {
    let selector = subject_selector(subject)?;
    match SubjectResolver::for_questions(authorizer).resolve(selector).await {
        Ok(subject) => Ok(Ok(subject)),
        Err(error) => DecisionError::from_subject(authorizer, error).map(Err),
    }
}

/// Returns how the body names the subject.
fn subject_selector(subject: Option<&Subject>) -> Result<SubjectSelector<'_>, Problem> {
    match subject {
        None => Ok(SubjectSelector::Caller),
        Some(Subject { token: Some(token), r#type: None, id: None, basis: None, .. }) => {
            let token = token.expose_secret();
            if token.chars().count() > MAX_TOKEN {
                let message = format!("more than {MAX_TOKEN} characters");
                return Err(Problem::invalid_field("subject.token", FieldErrorCode::TooLong, message));
            }
            Ok(SubjectSelector::Token(token))
        }
        Some(Subject { token: None, r#type: Some(kind), id: Some(id), properties, basis }) => {
            let entity_ref = EntityRef { kind: kind.as_str(), id: id.as_str(), properties };
            Ok(SubjectSelector::Entity(entity_ref, *basis))
        }
        Some(_) => Err(Problem::invalid_field(
            "subject",
            FieldErrorCode::DependentRequired,
            "expected either `token`, or `type` and `id` and optionally `basis`",
        )),
    }
}
