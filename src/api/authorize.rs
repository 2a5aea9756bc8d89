//! Decisions for other services: may this one do that? In the shape of AuthZEN's evaluation.

use super::users::User;
use crate::authn::Bearer;
use crate::authz::{Answer, Ask, Circumstances, Principal, Resourced};
use crate::http::openapi::Doc;
use crate::http::{Caller, Gate, Json, Problem, Routes};
use crate::values::{Id, object_only};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Decisions", "/v2/authorize").post("", "evaluateAccess", doc(), evaluate).also(&["referTo"])
}

/// A question: may this one do that?
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Who. The bearer itself if nothing is said.
    #[schema(nullable = false)]
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
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Subject {
    /// An access token or an API key.
    #[schema(value_type = Option<String>, nullable = false, max_length = 8192)]
    token: Option<SecretString>,
    /// `User`.
    #[schema(nullable = false, max_length = 200)]
    r#type: Option<String>,
    /// The id of the user.
    #[schema(nullable = false, max_length = 200)]
    id: Option<String>,
    /// Passed over: what is known of users comes from the store.
    #[serde(default, rename = "properties")]
    #[schema(value_type = Object)]
    _properties: Map<String, Value>,
}

object_only!(Subject, read);

/// An action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ActionName {
    /// Its name, as in the schema: `fetchConversation`.
    #[schema(max_length = 200)]
    name: String,
    /// Passed over.
    #[serde(default, rename = "properties")]
    #[schema(value_type = Object)]
    _properties: Map<String, Value>,
}

object_only!(ActionName, read);

/// A thing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ThingName {
    /// Its type, as in the schema: `Conversation`.
    #[schema(max_length = 200)]
    r#type: String,
    /// Its id.
    #[schema(max_length = 200)]
    id: String,
    /// Passed over: what is known of things comes from the store.
    #[serde(default, rename = "properties")]
    #[schema(value_type = Object)]
    _properties: Map<String, Value>,
}

object_only!(ThingName, read);

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
struct Decision {
    /// Whether it is permitted. Where it cannot be decided, it is not.
    decision: bool,
    /// Why.
    context: Reasons,
}

/// Why it was decided so.
#[derive(Debug, Serialize, ToSchema)]
struct Reasons {
    /// The policies that permitted, or those that forbade; none where none permitted.
    policies: Vec<PolicyName>,
    /// The version of the policies.
    version: String,
    /// What stood in the way of a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<Obstacle>,
}

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
struct PolicyName {
    /// Its id.
    id: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    doc: Option<String>,
}

/// What stood in the way of a decision.
#[derive(Debug, Serialize, ToSchema)]
struct Obstacle {
    /// A word for programs to go by: `undecidable`, `token_expired`, `invalid_token`, `blocked`.
    code: &'static str,
    /// A sentence for people.
    message: String,
}

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
            "Without a subject: whether the bearer itself may. Asking about another user is itself a decision \
             (`evaluateAccess`). A thing that the bearer could not name is decided about as one that is not there.",
        )
        .body::<Question>(Some(question))
        .answer::<Decision>(200, "The decision, whichever it is.", Some(answer))
}

/// The subject of a question: a principal and its credential, or what stands in the way.
enum Asked {
    Known(Box<(Principal, Circumstances)>),
    Unknown(Obstacle),
}

impl Asked {
    fn known(principal: Principal, circumstances: Circumstances) -> Self {
        Self::Known(Box::new((principal, circumstances)))
    }
}

/// `POST /v2/authorize`.
async fn evaluate(gate: Gate, Json(question): Json<Question>) -> Result<HttpResponse, Problem> {
    let parts = gate.parts();
    let answer = match asked(&gate, question.subject).await? {
        Asked::Known(known) => {
            let (principal, mut circumstances) = *known;
            circumstances.said = question.context;
            let ask =
                Ask { principal: &principal, action: &question.action.name, circumstances: &circumstances };
            let ThingName { r#type, id, .. } = &question.resource;
            Ok(match thing(&gate, r#type, id).await? {
                Some(resource) => parts.engine.decide(&ask, &resource),
                None => parts.engine.decide_missing(&ask, r#type, id),
            })
        }
        Asked::Unknown(obstacle) => Err(obstacle),
    };
    let version = parts.engine.bundle().version().to_owned();
    Ok(HttpResponse::Ok().json(decision(answer, version)))
}

fn decision(answer: Result<Arc<Answer>, Obstacle>, version: String) -> Decision {
    let (answer, obstacle) = match answer {
        Ok(answer) => (answer, None),
        Err(obstacle) => (Arc::default(), Some(obstacle)),
    };
    let undecidable = || Obstacle { code: "undecidable", message: answer.errors.join("; ") };
    let error = obstacle.or_else(|| (!answer.errors.is_empty()).then(undecidable));
    let policies = answer
        .policies
        .iter()
        .map(|policy| PolicyName { id: policy.id.clone(), doc: policy.doc.clone() })
        .collect();
    Decision { decision: answer.allowed, context: Reasons { policies, version, error } }
}

/// Who is asked about, if the caller may ask about it.
async fn asked(gate: &Gate, subject: Option<Subject>) -> Result<Asked, Problem> {
    match subject {
        None => {
            gate.find::<User>("me").await?;
            Ok(Asked::known(gate.caller.principal.clone(), gate.circumstances()))
        }
        Some(Subject { token: Some(token), r#type: None, id: None, .. }) => of_token(gate, &token).await,
        Some(Subject { token: None, r#type: Some(kind), id: Some(id), .. }) if kind == "User" => {
            of_user(gate, &id).await
        }
        Some(Subject { token: None, r#type: Some(kind), id: Some(_), .. }) => Err(Problem::field(
            "subject.type",
            format!("{kind:?} is not a type of subject; the type is \"User\""),
        )),
        Some(_) => Err(Problem::field("subject", "it has either `token`, or `type` and `id`")),
    }
}

async fn of_token(gate: &Gate, token: &SecretString) -> Result<Asked, Problem> {
    let parts = gate.parts();
    let invalid = || Problem::unauthorized("invalid_token", "invalid token");
    let bearer = secrecy::ExposeSecret::expose_secret(token).parse::<Bearer>();
    let found = match bearer {
        Ok(bearer) => Caller::of_bearer(parts, &bearer).await,
        Err(_) => Err(invalid()),
    };
    let obstacle = match found {
        Ok(caller) => match gate.find::<User>(&caller.id.to_string()).await {
            Ok(_) => {
                let credential = Some(caller.credential.as_str().to_owned());
                let now = Some(parts.clock.now());
                return Ok(Asked::known(
                    caller.principal,
                    Circumstances { credential, now, ..Circumstances::default() },
                ));
            }
            // A token of somebody out of reach is like one of nobody.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => invalid(),
            Err(problem) => return Err(problem),
        },
        Err(problem) if problem.status.is_server_error() => return Err(problem),
        Err(problem) => problem,
    };
    // Whoever may not ask about others is not told what is wrong with their tokens.
    match gate.find::<User>(&Id::NONE.to_string()).await {
        Err(problem) if problem.status != StatusCode::NOT_FOUND => Err(problem),
        _ => Ok(Asked::Unknown(Obstacle { code: obstacle.code, message: obstacle.detail })),
    }
}

async fn of_user(gate: &Gate, id: &str) -> Result<Asked, Problem> {
    let parts = gate.parts();
    let user = may_ask(gate, id, "subject.id").await?;
    let account = parts.store.account(user).await?;
    let now = Some(parts.clock.now());
    Ok(match account.and_then(|account| Caller::of_account(parts, account)) {
        Some(caller) => Asked::known(caller.principal, Circumstances { now, ..Circumstances::default() }),
        None => Asked::Unknown(Obstacle { code: "blocked", message: "the user is blocked".into() }),
    })
}

/// The user, if the caller may ask about it. One that is missing or out of reach is a wrong field.
async fn may_ask(gate: &Gate, id: &str, field: &str) -> Result<Id, Problem> {
    match gate.find::<User>(id).await {
        Ok(user) => Ok(user.id),
        Err(problem) if problem.status == StatusCode::NOT_FOUND => {
            Err(Problem::field(field, "there is no such User within your reach"))
        }
        Err(problem) => Err(problem),
    }
}

/// What is asked about, if it is there and the caller could name it.
async fn thing(gate: &Gate, kind: &str, id: &str) -> Result<Option<Resourced>, Problem> {
    match id.parse() {
        Ok(id) => gate.nameable(&gate.reader(), kind, id).await,
        Err(_) => Ok(None),
    }
}
