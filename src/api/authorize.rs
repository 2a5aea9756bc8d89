//! Decisions for other services: may this one do that? In the shape of AuthZEN's evaluation.

use super::question::{
    self, Asked, Basis, Decision, Named, Obstacle, POLICY_VERSION, PolicyView, Reasons, with_said,
};
use super::users::User;
use crate::authz::Ask;
use crate::http::openapi::Doc;
use crate::http::{Caller, Gate, Json, Problem, Routes};
use crate::values::{Id, Term, given, object_only};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Decisions", "/v2/authorize").post("", "evaluateAccess", doc, evaluate).also(&["referTo"])
}

/// A question: may this one do that?
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Who. The bearer itself if nothing is said.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<SubjectChoice>, nullable = false)]
    subject: Option<Subject>,
    /// Does what.
    action: ActionName,
    /// To which thing. List and create are asked of the organization that holds the things.
    resource: ThingName,
    /// What else policies may read: the fields that the schema declares for the action; others are passed over.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

/// Who: the bearer of a token, with the scopes of that token, or a user, by its role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Subject {
    #[serde(default, deserialize_with = "given")]
    token: Option<SecretString>,
    #[serde(default, deserialize_with = "given")]
    r#type: Option<Term>,
    #[serde(default, deserialize_with = "given")]
    id: Option<Term>,
    #[serde(default)]
    properties: Map<String, Value>,
    #[serde(default, deserialize_with = "given")]
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
struct ThingName {
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

object_only!(ThingName, read);

fn doc() -> Doc {
    let question = json!({
        "subject": {"type": "User", "id": "599e1fcd9da1c72645c95886"},
        "action": {"name": "fetchConversation"},
        "resource": {"type": "Conversation", "id": "599e1fcd9da1c72645c95887"}
    });
    let answer = json!({
        "decision": true,
        "context": {"policies": [{"id": "guest"}], "version": "0f3b6c5d9a7e1824"}
    });
    Doc::new("Decide whether somebody may do something")
        .describe(
            "Without a subject: whether the bearer itself may, with the credential in hand. So is a question answered that \
             names the bearer's own user, unless its `basis` is `role`; one about another user is answered for that user's \
             role. Asking about another user is itself a decision (`evaluateAccess`). A thing that the bearer could not name is decided about as one that is not there.",
        )
        .body::<Question>(Some(question))
        .answer::<Decision>(200, "The decision, whichever it is.", Some(answer))
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

/// `POST /v2/authorize`.
async fn evaluate(gate: Gate, Json(question): Json<Question>) -> Result<HttpResponse, Problem> {
    let engine = gate.engine();
    let ThingName { r#type, id, properties } = &question.resource;
    let named = Named { kind: r#type.as_str(), id: id.as_str(), properties };
    let action = engine.action_for(question.action.name.as_str(), named.kind);
    let subject = question.subject.as_ref();
    let subject =
        subject.and_then(|subject| Some((subject.r#type.as_ref()?.as_str(), subject.id.as_ref()?.as_str())));
    let verdict = match asked(&gate, question.subject.as_ref()).await? {
        Asked::Known(principal, circumstances) => {
            let circumstances = with_said(circumstances, &question.action.properties, &question.context);
            let target = question::target(&gate, named).await?;
            let ask = Ask {
                principal: &principal,
                action,
                circumstances: &circumstances,
                trail: Some(gate.trail()),
            };
            question::decide(engine, &ask, &target, named, false)
        }
        Asked::Unknown(obstacle) => {
            let thing = (named.kind, named.id);
            question::undecided(&gate, subject.unwrap_or_default(), action, thing, obstacle)
        }
        Asked::Refused => return Err(Problem::forbidden("evaluateAccess")),
    };
    let policies = verdict.answer.policies.iter().map(|about| PolicyView::short(about)).collect();
    let version = engine.bundle().version().to_owned();
    let context = Reasons {
        policies: Some(policies),
        version: Some(version.clone()),
        error: verdict.obstacle,
        ..Reasons::default()
    };
    Ok(HttpResponse::Ok()
        .insert_header((POLICY_VERSION, version))
        .json(Decision { decision: verdict.answer.allowed, context: Some(context) }))
}

/// Who is asked about, if the caller may ask about it. A user that is missing or out of reach is a wrong field.
async fn asked(gate: &Gate, subject: Option<&Subject>) -> Result<Asked, Problem> {
    match subject {
        None => {
            gate.step("evaluateAccess").find::<User>("me").await?;
            Ok(question::in_hand(gate))
        }
        Some(Subject { token: Some(token), r#type: None, id: None, basis: None, .. }) => {
            of_token(gate, token).await
        }
        Some(Subject { token: None, r#type: Some(kind), id: Some(id), properties, basis }) => {
            let named = Named { kind: kind.as_str(), id: id.as_str(), properties };
            match question::subject(gate, named, *basis).await? {
                Asked::Unknown(Obstacle { code: "unknown_subject", message, .. }) => {
                    let field = if kind.as_str() == "User" { "subject.id" } else { "subject.type" };
                    Err(Problem::field(field, message))
                }
                Asked::Unknown(Obstacle { code: "invalid", message, .. }) => {
                    Err(Problem::field("subject.basis", message))
                }
                asked => Ok(asked),
            }
        }
        Some(_) => Err(Problem::field(
            "subject",
            "it has either `token`, or `type` and `id`, and with these perhaps `basis`",
        )),
    }
}

async fn of_token(gate: &Gate, token: &SecretString) -> Result<Asked, Problem> {
    let parts = gate.parts();
    let invalid = || Problem::unauthorized("invalid_token", "invalid token");
    let token = secrecy::ExposeSecret::expose_secret(token);
    if token.chars().count() > MAX_TOKEN {
        return Err(Problem::field("subject.token", format!("it has more than {MAX_TOKEN} characters")));
    }
    let obstacle = match Caller::of_token(parts, gate.engine(), token).await {
        Ok(caller) => match gate.step("evaluateAccess").find::<User>(&caller.id.to_string()).await {
            Ok(_) => {
                let circumstances = gate.circumstances_of(caller.credential);
                return Ok(Asked::Known(Arc::clone(&caller.principal), circumstances));
            }
            // A token of somebody out of reach is like one of nobody.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => invalid(),
            Err(problem) => return Err(problem),
        },
        Err(problem) if problem.status.is_server_error() => return Err(problem),
        Err(problem) => problem,
    };
    // Whoever may not ask about others is not told what is wrong with their tokens.
    match gate.step("evaluateAccess").find::<User>(&Id::NONE.to_string()).await {
        Err(problem) if problem.status != StatusCode::NOT_FOUND => Err(problem),
        _ => Ok(Asked::Unknown(Obstacle::new(obstacle.code, obstacle.detail))),
    }
}
