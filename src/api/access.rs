//! The OpenID AuthZEN Authorization API 1.0: evaluation, evaluations, searches, and the metadata.

use super::question::{self, Asked, Decision, Named, Obstacle, Target, Verdict};
use crate::authz::{Ask, Circumstances, Principal, Resourced};
use crate::http::openapi::Doc;
use crate::http::{Caller, Gate, Json, Problem, Routes, gate, list};
use crate::values::{Id, object_only};
use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The largest body that is taken here: 4 MiB, for batches.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How many results a page has if nothing is said, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// How many rows one search looks at before it answers with what it has found.
const MAX_SCAN: usize = 10_000;
/// How many rows are read at once.
const SCAN: u64 = 500;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("AuthZEN", "/access/v1")
        .post_as("/evaluation", "evaluateAccess", "evaluation", evaluation_doc(), evaluation)
        .also(ALSO)
        .post_as("/evaluations", "evaluateAccess", "evaluations", evaluations_doc(), evaluations)
        .also(ALSO)
        .post_as(
            "/search/subject",
            "evaluateAccess",
            "searchSubjects",
            search_doc("subjects"),
            search_subjects,
        )
        .also(ALSO)
        .post_as(
            "/search/resource",
            "evaluateAccess",
            "searchResources",
            search_doc("resources"),
            search_resources,
        )
        .also(ALSO)
        .post_as("/search/action", "evaluateAccess", "searchActions", search_doc("actions"), search_actions)
        .also(ALSO)
}

const ALSO: &[&str] = &["evaluateForeignAccess", "referTo"];

/// The route of the metadata.
pub fn metadata_routes() -> Routes {
    Routes::new("AuthZEN", "/.well-known").public(
        Method::GET,
        "/authzen-configuration",
        "authzenConfiguration",
        Doc::new("Where the endpoints of the AuthZEN Authorization API are").answer::<Metadata>(
            200,
            "The metadata.",
            None,
        ),
        metadata,
    )
}

/// A JSON body as AuthZEN wants it: whatever is wrong with it is a 400.
struct Body<T>(T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = Json::<T, MAX_BODY>::from_request(request, payload);
        Box::pin(async move {
            match body.await {
                Ok(Json(body)) => Ok(Self(body)),
                Err(problem) if problem.status == StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                    Err(Problem { status: StatusCode::BAD_REQUEST, ..problem })
                }
                Err(problem) => Err(problem),
            }
        })
    }
}

/// Somebody or something.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct Entity {
    /// A Cedar entity type: `User`, `Docs::Document`.
    #[schema(max_length = 200)]
    r#type: String,
    /// The id.
    #[schema(max_length = 200)]
    id: String,
    /// What is said of it. Of the service's own types the store knows better.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

object_only!(Entity, read);

impl Entity {
    fn named(&self) -> Named<'_> {
        Named { kind: &self.r#type, id: &self.id, properties: &self.properties }
    }
}

/// An entity that is searched for: its id is what is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct EntityType {
    /// A Cedar entity type.
    #[schema(max_length = 200)]
    r#type: String,
}

object_only!(EntityType, read);

/// An action.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct Action {
    /// Its name: looked up in the namespace of the resource's type, then in the empty one. A whole uid
    /// (`Docs::Action::"read"`) is taken as it is.
    #[schema(max_length = 200)]
    name: String,
    /// These reach the context.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
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
#[schema(as = Evaluations)]
struct Batch {
    #[schema(value_type = Option<Entity>, nullable = false)]
    subject: Option<Value>,
    #[schema(value_type = Option<Action>, nullable = false)]
    action: Option<Value>,
    #[schema(value_type = Option<Entity>, nullable = false)]
    resource: Option<Value>,
    #[schema(value_type = Option<Object>, nullable = false)]
    context: Option<Value>,
    /// The questions, each with what it has of its own.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    evaluations: Vec<Value>,
    /// How far to go.
    #[serde(default)]
    options: Options,
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

fn evaluation_doc() -> Doc {
    Doc::new("Decide whether somebody may do something (AuthZEN)")
        .describe(
            "Reasons are given where they are asked for, with `context.explain` or the header `X-Explain: true`. Asking about \
             a user is itself a decision (`evaluateAccess`), and so is asking about somebody of another domain \
             (`evaluateForeignAccess`).",
        )
        .body::<Evaluation>(None)
        .answer::<Decision>(200, "The decision, whichever it is.", Some(json!({"decision": true})))
}

fn evaluations_doc() -> Doc {
    Doc::new("Decide several questions at once (AuthZEN)")
        .describe(
            "All of them by one version of the policies. Without `evaluations` it is a single evaluation.",
        )
        .body::<Batch>(None)
        .answer::<Decisions>(200, "The decisions, in the order of the questions.", None)
}

fn search_doc(what: &str) -> Doc {
    Doc::new(format!("Search {what} (AuthZEN)"))
        .describe("Gives exactly those of whom an evaluation would say yes, a page at a time.")
        .body::<Search>(None)
        .answer::<Found>(200, "A page of results.", None)
}

fn wants_reasons(request: &HttpRequest, context: &Map<String, Value>) -> bool {
    context.get("explain").and_then(Value::as_bool).unwrap_or_else(|| {
        request.headers().get("x-explain").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    })
}

/// 200 with the version of the policies that decided.
fn answered(gate: &Gate, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(("X-Policy-Version", gate.engine().bundle().version())).json(body)
}

/// `POST /access/v1/evaluation`.
async fn evaluation(
    gate: Gate,
    (request, Body(question)): (HttpRequest, Body<Evaluation>),
) -> Result<HttpResponse, Problem> {
    single(&gate, &request, question).await
}

async fn single(gate: &Gate, request: &HttpRequest, question: Evaluation) -> Result<HttpResponse, Problem> {
    let Evaluation { subject, action, resource, context } = &question;
    let explain = wants_reasons(request, context);
    match evaluate(gate, subject, action, resource, context, explain).await? {
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
) -> Result<Option<Verdict>, Problem> {
    let (principal, circumstances) = match question::subject(gate, subject.named()).await? {
        Asked::Known(known) => *known,
        Asked::Unknown(obstacle) => return Ok(Some(Verdict::not(obstacle))),
        Asked::Refused => return Ok(None),
    };
    let circumstances = with_said(circumstances, &action.properties, context.clone());
    let target = question::target(gate, resource.named()).await?;
    let name = gate.engine().action_for(&action.name, &resource.r#type);
    let ask =
        Ask { principal: &principal, action: name, circumstances: &circumstances, trail: Some(gate.trail()) };
    Ok(Some(question::decide(gate.engine(), &ask, &target, resource.named(), explain)))
}

/// What is said of the call: the properties of the action, and before them the context.
fn with_said(
    circumstances: Circumstances,
    properties: &Map<String, Value>,
    context: Map<String, Value>,
) -> Circumstances {
    let mut said = properties.clone();
    said.extend(context);
    Circumstances { said, ..circumstances }
}

/// `POST /access/v1/evaluations`.
async fn evaluations(
    gate: Gate,
    (request, Body(batch)): (HttpRequest, Body<Batch>),
) -> Result<HttpResponse, Problem> {
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
        let question: Evaluation = crate::http::body::from_value(Value::Object(defaults), "")?;
        return single(&gate, &request, question).await;
    }
    let most = gate.parts().rules.access_batch_limit;
    if batch.evaluations.len() > most {
        let count = batch.evaluations.len();
        return Err(Problem::field(
            "evaluations",
            format!("there are {count} of them; one batch has at most {most}"),
        ));
    }
    // What holds for all items has to be right, whether or not one of them needs it.
    let defaults: Item = crate::http::body::from_value(Value::Object(defaults), "")?;
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

/// What is there, and not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The decision on one question of a batch; one that fails is a no that says why.
async fn decide_item(
    gate: &Gate,
    request: &HttpRequest,
    defaults: &Item,
    item: &Value,
) -> Result<Decision, Problem> {
    let own = match item {
        Value::Object(_) => serde_path_to_error::deserialize(item).map_err(|error| error.to_string()),
        _ => Err("an evaluation is an object".to_owned()),
    };
    let own: Item = match own {
        Ok(own) => own,
        Err(message) => return Ok(invalid(gate, message)),
    };
    let subject = own.subject.as_ref().or(defaults.subject.as_ref());
    let action = own.action.as_ref().or(defaults.action.as_ref());
    let resource = own.resource.as_ref().or(defaults.resource.as_ref());
    let (Some(subject), Some(action), Some(resource)) = (subject, action, resource) else {
        let missing =
            [("subject", subject.is_none()), ("action", action.is_none()), ("resource", resource.is_none())];
        let missing = missing.iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| *name);
        return Ok(invalid(gate, format!("missing field `{}`", missing.collect::<Vec<_>>().join("`, `"))));
    };
    let none = Map::new();
    let context = own.context.as_ref().or(defaults.context.as_ref()).unwrap_or(&none);
    let explain = wants_reasons(request, context);
    let verdict = evaluate(gate, subject, action, resource, context, explain).await?;
    Ok(Decision::new(&verdict.unwrap_or_else(Verdict::refused), gate.engine(), explain))
}

fn invalid(gate: &Gate, message: String) -> Decision {
    Decision::new(&Verdict::not(Obstacle::new("invalid", message)), gate.engine(), false)
}

/// What is searched for, and who or what it has to do with.
#[derive(Debug, Deserialize, ToSchema)]
struct Search {
    /// Who; without an id where subjects are searched.
    #[schema(value_type = Entity)]
    subject: Value,
    /// Does what; nothing where actions are searched.
    #[schema(value_type = Option<Action>, nullable = false)]
    action: Option<Value>,
    /// To which thing; without an id where resources are searched.
    #[schema(value_type = Entity)]
    resource: Value,
    /// What policies may read besides.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Map<String, Value>,
    /// Which page.
    #[serde(default)]
    page: PageWanted,
}

/// Which page is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct PageWanted {
    /// The `next_token` of the page before; nothing for the first one.
    #[schema(nullable = false)]
    token: Option<String>,
    /// How many results at most; 100 if nothing is said.
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

object_only!(PageWanted, read);

/// A page of results.
#[derive(Debug, Serialize, ToSchema)]
struct Found {
    /// Entities with `type` and `id`, or actions with `name`.
    #[schema(value_type = Vec<Object>)]
    results: Vec<Value>,
    page: PageFound,
}

/// Where a page stands.
#[derive(Debug, Serialize, ToSchema)]
struct PageFound {
    /// What to send for the next page; empty where there is none.
    next_token: String,
    /// How many results this page has.
    count: usize,
}

impl Search {
    fn part<T: DeserializeOwned>(value: &Value, field: &str) -> Result<T, Problem> {
        crate::http::body::from_value(value.clone(), field)
    }

    fn action(&self) -> Result<Action, Problem> {
        let action = self.action.as_ref().ok_or_else(|| Problem::field("action", "it is missing"))?;
        Self::part(action, "action")
    }
}

/// Walks through candidates, and collects a page of those that fit.
struct Walk {
    asked: String,
    limit: usize,
    after: Option<String>,
    looked_at: usize,
    results: Vec<Value>,
    last: Option<String>,
}

impl Walk {
    /// The page that is wanted of the search `what`. A token belongs to the search that it was given for.
    fn new(gate: &Gate, what: &str, search: &Search) -> Result<Self, Problem> {
        let mut asked =
            json!([what, gate.caller.id, search.subject, search.action, search.resource, search.context]);
        asked.sort_all_objects();
        let asked = asked.to_string();
        let said = search.page.limit;
        let (limit, after) = match search.page.token.as_deref() {
            None | Some("") => (said.unwrap_or(PAGE), None),
            Some(token) => match Self::resumed(&asked, token) {
                Some((limit, after)) if said.is_none_or(|said| said == limit) => {
                    (limit, Some(after.to_owned()))
                }
                _ => {
                    return Err(Problem::field(
                        "page.token",
                        "it belongs to another search; send the same question as with the page before",
                    ));
                }
            },
        };
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::field("page.limit", format!("it is {limit}; it must be 1 to {MAX_PAGE}")));
        }
        Ok(Self { asked, limit, after, looked_at: 0, results: Vec::new(), last: None })
    }

    /// The token of the page after this position: it holds for this question, with this limit.
    fn token(asked: &str, limit: usize, after: &str) -> String {
        let print = crate::authn::print(&format!("{asked} {limit} {after}"));
        format!("{print}.{limit}.{after}")
    }

    /// The limit and the position of a token, if it was given for this question.
    fn resumed<'a>(asked: &str, token: &'a str) -> Option<(usize, &'a str)> {
        let (limit, after) = token.split_once('.')?.1.split_once('.')?;
        let limit = limit.parse().ok()?;
        (Self::token(asked, limit, after) == token).then_some((limit, after))
    }

    /// Where to go on.
    fn after(&self) -> Option<&str> {
        self.last.as_deref().or(self.after.as_deref())
    }

    /// Notes a candidate; true where the page is full.
    fn note(&mut self, position: &str, result: Option<Value>) -> bool {
        self.looked_at += 1;
        self.last = Some(position.to_owned());
        self.results.extend(result);
        self.results.len() >= self.limit || self.looked_at >= MAX_SCAN
    }

    /// The page; `is_over` where there is nothing after it.
    fn found(self, is_over: bool) -> Found {
        let next_token = match self.last.filter(|_| !is_over) {
            Some(last) => Self::token(&self.asked, self.limit, &last),
            None => String::new(),
        };
        Found { page: PageFound { next_token, count: self.results.len() }, results: self.results }
    }
}

/// `POST /access/v1/search/subject`: who may do that?
async fn search_subjects(gate: Gate, Body(search): Body<Search>) -> Result<HttpResponse, Problem> {
    let wanted: EntityType = Search::part(&search.subject, "subject")?;
    let resource: Entity = Search::part(&search.resource, "resource")?;
    let action = search.action()?;
    let mut walk = Walk::new(&gate, "subject", &search)?;
    let target = question::target(&gate, resource.named()).await?;
    let engine = gate.engine();
    let name = engine.action_for(&action.name, &resource.r#type);
    let fits = |principal: &Principal, circumstances: Circumstances| {
        let circumstances = with_said(circumstances, &action.properties, search.context.clone());
        let ask = Ask { principal, action: name, circumstances: &circumstances, trail: None };
        question::decide(engine, &ask, &target, resource.named(), false).answer.allowed
    };
    let mut is_over = true;
    if wanted.r#type == "User" {
        let may_ask = gate.step("evaluateAccess");
        'pages: loop {
            let after = walk.after().and_then(|after| after.parse::<Id>().ok());
            let page = gate.parts().store.accounts(&gate.caller.organization, after, SCAN).await?;
            let is_last = page.len() < usize::try_from(SCAN).unwrap_or(usize::MAX);
            for account in page {
                let id = account.id;
                let asked = may_ask.may_evaluate(&account);
                let caller = Caller::of_account(engine, &account).filter(|_| asked);
                let now = Some(gate.parts().clock.now());
                let circumstances = Circumstances { now, ..Circumstances::default() };
                let fits = caller.is_some_and(|caller| fits(&caller.principal, circumstances));
                if walk.note(&id.to_string(), fits.then(|| json!({ "type": "User", "id": id }))) {
                    is_over = false;
                    break 'pages;
                }
            }
            if is_last {
                break;
            }
        }
    } else if !gate.step("evaluateForeignAccess").allows(&gate.caller.organization) {
        return Err(Problem::forbidden("ask about these subjects"));
    } else {
        let after = walk.after().map(str::to_owned);
        let ids =
            engine.domain().ids(&wanted.r#type).filter(|id| after.as_deref().is_none_or(|after| *id > after));
        for id in ids {
            let found = engine.domain().find(&wanted.r#type, id, &Map::new());
            let fits =
                found.is_ok_and(|foreign| fits(&Principal::foreign(foreign), Circumstances::default()));
            if walk.note(id, fits.then(|| json!({ "type": wanted.r#type, "id": id }))) {
                is_over = false;
                break;
            }
        }
    }
    Ok(answered(&gate, &walk.found(is_over)))
}

/// `POST /access/v1/search/resource`: what may this one do that to?
async fn search_resources(gate: Gate, Body(search): Body<Search>) -> Result<HttpResponse, Problem> {
    let wanted: EntityType = Search::part(&search.resource, "resource")?;
    let subject: Entity = Search::part(&search.subject, "subject")?;
    let action = search.action()?;
    let mut walk = Walk::new(&gate, "resource", &search)?;
    let Some((principal, circumstances)) = known_subject(&gate, &subject).await? else {
        return Ok(answered(&gate, &walk.found(true)));
    };
    let circumstances = with_said(circumstances, &action.properties, search.context.clone());
    let engine = gate.engine();
    let name = engine.action_for(&action.name, &wanted.r#type);
    let ask = Ask { principal: &principal, action: name, circumstances: &circumstances, trail: None };
    let result = |id: &str| json!({ "type": wanted.r#type, "id": id });
    let mut is_over = true;
    if gate.parts().kinds.has(&wanted.r#type) {
        'pages: loop {
            let after = walk.after().and_then(|after| after.parse::<Id>().ok());
            let page = gate.candidates(&wanted.r#type, after, SCAN).await?;
            let is_last = page.len() < usize::try_from(SCAN).unwrap_or(usize::MAX);
            for (id, thing) in page {
                let id = id.to_string();
                let fits = thing.is_some_and(|thing| engine.allows(&ask, &thing));
                if walk.note(&id, fits.then(|| result(&id))) {
                    is_over = false;
                    break 'pages;
                }
            }
            if is_last {
                break;
            }
        }
    } else {
        let after = walk.after().map(str::to_owned);
        let ids =
            engine.domain().ids(&wanted.r#type).filter(|id| after.as_deref().is_none_or(|after| *id > after));
        for id in ids {
            let found = engine.domain().find(&wanted.r#type, id, &Map::new());
            let fits = found.is_ok_and(|foreign| engine.allows(&ask, &Resourced::foreign(foreign)));
            if walk.note(id, fits.then(|| result(id))) {
                is_over = false;
                break;
            }
        }
    }
    Ok(answered(&gate, &walk.found(is_over)))
}

/// Who a search is about; none where there is nobody, 403 where the caller may not ask about it.
async fn known_subject(gate: &Gate, subject: &Entity) -> Result<Option<(Principal, Circumstances)>, Problem> {
    match question::subject(gate, subject.named()).await? {
        Asked::Known(known) => Ok(Some(*known)),
        Asked::Unknown(_) => Ok(None),
        Asked::Refused => Err(Problem::forbidden("ask about this subject")),
    }
}

/// `POST /access/v1/search/action`: what may this one do to that?
async fn search_actions(gate: Gate, Body(search): Body<Search>) -> Result<HttpResponse, Problem> {
    let subject: Entity = Search::part(&search.subject, "subject")?;
    let resource: Entity = Search::part(&search.resource, "resource")?;
    let mut walk = Walk::new(&gate, "action", &search)?;
    let Some((principal, circumstances)) = known_subject(&gate, &subject).await? else {
        return Ok(answered(&gate, &walk.found(true)));
    };
    let circumstances = with_said(circumstances, &Map::new(), search.context.clone());
    let target = question::target(&gate, resource.named()).await?;
    let after = walk.after().map(str::to_owned);
    let mut is_over = true;
    for name in
        permitted_actions(&gate, &subject.r#type, &principal, &circumstances, &target, resource.named())
    {
        if after.as_deref().is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        if walk.note(&name, Some(json!({ "name": name }))) {
            is_over = false;
            break;
        }
    }
    Ok(answered(&gate, &walk.found(is_over)))
}

/// The names, as a question would have them, of the actions that a principal may take on a thing, in their order.
pub(super) fn permitted_actions(
    gate: &Gate,
    subject: &str,
    principal: &Principal,
    circumstances: &Circumstances,
    target: &Target,
    named: Named<'_>,
) -> Vec<String> {
    let engine = gate.engine();
    let near = named.kind.rsplit_once("::").map(|(namespace, _)| format!("{namespace}::Action::\""));
    let mut names: Vec<String> = engine
        .actions_between(subject, named.kind)
        .into_iter()
        .filter(|action| {
            let ask = Ask { principal, action, circumstances, trail: None };
            question::decide(engine, &ask, target, named, false).answer.allowed
        })
        .map(|action| {
            let short = near.as_deref().and_then(|near| action.strip_prefix(near)?.strip_suffix('"'));
            short.unwrap_or(action).to_owned()
        })
        .collect();
    names.sort_unstable();
    names
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
    let parts = gate::parts(&request)?;
    let base = list::base_url(&request, &parts.rules);
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
