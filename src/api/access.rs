//! The OpenID AuthZEN Authorization API 1.0: evaluation, evaluations, searches, and the metadata.

use super::question::{self, Asked, Decision, Named, Obstacle, POLICY_VERSION, Target, Verdict, with_said};
use super::search::{ActionSearch, ResourceSearch, SubjectSearch};
use super::search::{search_actions, search_doc, search_resources, search_subjects};
use super::sent::Sent;
use super::understood::{self, Understood, Words};
use crate::authz::Ask;
use crate::http::address::own_address;
use crate::http::openapi::Doc;
use crate::http::{Gate, Parts, Problem, Routes, body};
use crate::values::{Term, given, object_only};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

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

/// Somebody or something.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Entity {
    /// A Cedar entity type: `User`, `Docs::Document`.
    pub(super) r#type: Term,
    /// The id.
    pub(super) id: Term,
    /// What is said of it. Of the service's own types the store knows better.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) properties: Map<String, Value>,
}

object_only!(Entity, read);

impl Entity {
    pub(super) fn named(&self) -> Named<'_> {
        Named { kind: self.r#type.as_str(), id: self.id.as_str(), properties: &self.properties }
    }

    /// Its type and id.
    fn name(&self) -> (&str, &str) {
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
    #[serde(default)]
    #[schema(value_type = Object)]
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
struct Evaluation {
    subject: Entity,
    action: Action,
    resource: Entity,
    /// What policies may read besides. `explain: true` asks for reasons.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
}

/// Several questions. What stands here and not in an item holds for that item.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = EvaluationsFields, bound = "")]
struct Batch<T> {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Entity>, nullable = false)]
    subject: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Action>, nullable = false)]
    action: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Entity>, nullable = false)]
    resource: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>, nullable = false)]
    context: Option<Value>,
    /// The questions: objects with what each has of its own of `subject`, `action`, `resource` and `context`. One that
    /// cannot be understood is answered by a no that says why.
    #[serde(default = "Vec::new")]
    #[schema(value_type = Vec<Value>)]
    evaluations: Vec<T>,
    /// How far to go.
    #[serde(default)]
    options: Options,
}

/// Several questions, or where there are no `evaluations` a single one.
#[derive(Debug)]
struct Evaluations;

impl PartialSchema for Evaluations {
    fn schema() -> RefOr<Schema> {
        let needs =
            |names: &[&str]| names.iter().fold(ObjectBuilder::new(), |object, name| object.required(*name));
        let several = needs(&["evaluations"]).property("evaluations", ArrayBuilder::new().min_items(Some(1)));
        let one = needs(&["subject", "action", "resource"]);
        AllOfBuilder::new()
            .description(Some("Several questions, or where there are no `evaluations` a single one."))
            .item(Ref::from_schema_name(Batch::<Read>::name()))
            .item(AnyOfBuilder::new().item(several).item(one))
            .into()
    }
}

impl ToSchema for Evaluations {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Batch::<Read>::name().into_owned(), Batch::<Read>::schema()));
        Batch::<Read>::schemas(schemas);
    }
}

/// How far a batch goes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct Options {
    /// Through all of them, or up to the first no or yes.
    #[serde(default)]
    evaluations_semantic: Semantic,
}

object_only!(Options, read);

/// How far a batch goes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Semantic {
    /// Through all of them.
    #[default]
    ExecuteAll,
    /// Up to the first no.
    DenyOnFirstDeny,
    /// Up to the first yes.
    PermitOnFirstPermit,
}

/// The answers of a batch, in the order of its questions.
#[derive(Debug, Serialize, ToSchema)]
struct Decisions {
    evaluations: Vec<Decision>,
}

/// The answers of a batch, or that of a single question.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is for the document only")]
enum DecisionOrMore {
    Several(Decisions),
    One(Decision),
}

fn evaluation_doc() -> Doc {
    Doc::new("Decide whether somebody may do something (AuthZEN)")
        .describe(
            "Reasons are given where they are asked for, with `context.explain` or the header `X-Explain: true`. Asking about \
             a user is itself a decision (`evaluateAccess`), and so is asking about somebody of another domain \
             (`evaluateForeignAccess`).",
        )
        .body::<Evaluation>(None)
        .answer::<Decision>(200, "The decision, whichever it is.", Some(json!({"decision": true})))
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

fn evaluations_doc() -> Doc {
    Doc::new("Decide several questions at once (AuthZEN)")
        .describe(
            "All of them by one version of the policies and as of one time; of a thing that is written meanwhile, each \
             sees what is there when its turn comes. Without `evaluations` it is a single evaluation.",
        )
        .body::<Evaluations>(None)
        .answer::<DecisionOrMore>(200, "The decisions, in the order of the questions.", None)
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

fn wants_reasons(request: &HttpRequest, context: &Map<String, Value>) -> bool {
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

async fn single(
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
async fn evaluate(
    gate: &Gate,
    subject: &Entity,
    action: &Action,
    resource: &Entity,
    context: &Map<String, Value>,
    explain: bool,
    words: Option<Words>,
) -> Result<Option<Verdict>, Problem> {
    // Before anything is read.
    let read =
        words.map(|words| (words, [subject, resource].map(|named| understood::before(gate, named.named()))));
    let name = gate.engine().action_for(action.name.as_str(), resource.r#type.as_str());
    let (principal, circumstances) = match question::subject(gate, subject.named()).await? {
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
        understood::keep(gate, words, Understood { principal, action, thing, said, read });
    }
    Ok(Some(verdict))
}

/// `POST /access/v1/evaluations`.
async fn evaluations(
    gate: Gate,
    (request, Sent(body)): (HttpRequest, Sent),
) -> Result<HttpResponse, Problem> {
    let batch = Batch::read(&body, gate.parts().rules.access_batch_limit)?;
    let mut defaults = Map::new();
    for (name, value) in [
        ("subject", batch.subject),
        ("action", batch.action),
        ("resource", batch.resource),
        ("context", batch.context),
    ] {
        value.into_iter().for_each(|value| drop(defaults.insert(name.to_owned(), value)));
    }
    if batch.evaluations.is_empty() {
        let question: Evaluation = body::from_value(Value::Object(defaults), "")?;
        return single(&gate, &request, &question, None).await;
    }
    // What holds for all items has to be right, whether or not one of them needs it.
    let defaults: Item = body::from_value(Value::Object(defaults), "")?;
    let gate = gate.for_many();
    let mut decisions = Vec::with_capacity(batch.evaluations.len());
    for item in &batch.evaluations {
        let decision = decide_item(&gate, &request, &defaults, item).await?;
        let is_last = match batch.options.evaluations_semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !decision.decision,
            Semantic::PermitOnFirstPermit => decision.decision,
        };
        decisions.push(decision);
        if is_last {
            break;
        }
    }
    Ok(answered(&gate, &Decisions { evaluations: decisions }))
}

/// What an item of a batch has of its own, or what all of them have.
#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self")]
struct Item {
    #[serde(default, deserialize_with = "given")]
    subject: Option<Entity>,
    #[serde(default, deserialize_with = "given")]
    action: Option<Action>,
    #[serde(default, deserialize_with = "given")]
    resource: Option<Entity>,
    #[serde(default, deserialize_with = "given")]
    context: Option<Map<String, Value>>,
}

object_only!(Item, read);

/// An item of a batch, or what is wrong with it.
#[derive(Debug, Deserialize)]
#[serde(from = "Item")]
struct Read(Result<Item, String>);

impl From<Item> for Read {
    fn from(item: Item) -> Self {
        Self(Ok(item))
    }
}

impl Batch<Read> {
    /// Reads all of at most so many items at once, or where that fails one by one, so that what is wrong with one is told of
    /// that one.
    fn read(body: &[u8], most: usize) -> Result<Self, Problem> {
        // There are no more items than braces, and a few in each, so that what is too much is not read into memory.
        let is_usual = memchr::memchr_iter(b'{', body).count() <= most.saturating_mul(8);
        if is_usual
            && body::is_object(body)
            && let Ok(text) = std::str::from_utf8(body)
            && let Ok(batch) = serde_json::from_str::<Self>(text)
            && batch.evaluations.len() <= most
        {
            return Ok(batch);
        }
        let Batch { subject, action, resource, context, evaluations, options } =
            body::parse::<Batch<Box<RawValue>>>(body)?;
        let count = evaluations.len();
        if count > most {
            let message = format!("there are {count} of them; one batch has at most {most}");
            return Err(Problem::field("evaluations", message));
        }
        let evaluations = evaluations.iter().map(|item| Read::one(item)).collect();
        Ok(Self { subject, action, resource, context, evaluations, options })
    }
}

impl Read {
    fn one(text: &RawValue) -> Self {
        if !text.get().starts_with('{') {
            return Self(Err("an evaluation is an object".to_owned()));
        }
        Self(serde_json::from_str(text.get()).or_else(|_| {
            // Once more, to say where it is wrong; a field that stands twice is not: the last one counts.
            let value: Value = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
            serde_path_to_error::deserialize(&value).map_err(|error| error.to_string())
        }))
    }
}

/// The decision on one question of a batch; one that fails is a no that says why.
async fn decide_item(
    gate: &Gate,
    request: &HttpRequest,
    defaults: &Item,
    Read(item): &Read,
) -> Result<Decision, Problem> {
    let own = match item {
        Ok(own) => own,
        Err(message) => return Ok(invalid(gate, defaults, message.clone())),
    };
    let subject = own.subject.as_ref().or(defaults.subject.as_ref());
    let action = own.action.as_ref().or(defaults.action.as_ref());
    let resource = own.resource.as_ref().or(defaults.resource.as_ref());
    let (Some(subject), Some(action), Some(resource)) = (subject, action, resource) else {
        let missing =
            [("subject", subject.is_none()), ("action", action.is_none()), ("resource", resource.is_none())];
        let missing = missing.iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| *name);
        let message = format!("missing field `{}`", missing.collect::<Vec<_>>().join("`, `"));
        let known = Item {
            subject: subject.cloned(),
            action: action.cloned(),
            resource: resource.cloned(),
            ..Item::default()
        };
        return Ok(invalid(gate, &known, message));
    };
    let none = Map::new();
    let context = own.context.as_ref().or(defaults.context.as_ref()).unwrap_or(&none);
    let explain = wants_reasons(request, context);
    let verdict = evaluate(gate, subject, action, resource, context, explain, None).await?;
    Ok(Decision::new(&verdict.unwrap_or_else(Verdict::refused), gate.engine(), explain))
}

/// The decision on a question that cannot be understood, of which this is known.
fn invalid(gate: &Gate, known: &Item, message: String) -> Decision {
    let subject = known.subject.as_ref().map(Entity::name).unwrap_or_default();
    let action = known.action.as_ref().map(|action| action.name.as_str()).unwrap_or_default();
    let thing = known.resource.as_ref().map(Entity::name).unwrap_or_default();
    let verdict = question::undecided(gate, subject, action, thing, Obstacle::new("invalid", message));
    Decision::new(&verdict, gate.engine(), false)
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
        policy_decision_point: base,
    }))
}
