//! AuthZEN subject, resource and action searches. They return exactly the candidates that an evaluation would allow, in
//! pages.

use super::authzen_body::AuthzenJson;
use super::authzen_evaluation::{Action, Entity, Subject, authzen_response, example_question};
use super::evaluation::{self, DecisionError, ResolvedResource, merge_client_context};
use super::question_names::{SearchNames, SearchedPart, check_context};
use super::search_answer::{AskedSearch, ResultPage, SearchContext, SearchRemarks, SearchResults};
use crate::application::Authorizer;
use crate::application::fields::from_value;
use crate::application::subjects::{
    Basis, EVALUATE_EXTERNAL_ACTION, EntityRef, ResolvedSubject, SubjectResolver,
};
use crate::authz::{AuthzRequest, DecisionContext, Principal};
use crate::decision_log::SearchResult;
use crate::http::Problem;
use crate::http::openapi::OperationDoc;
use crate::types::{FieldErrorCode, Id, JsonInteger, Term, null_as_default, object_only};
use actix_web::HttpResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::time::Instant;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The default and the maximum number of results of a page.
const DEFAULT_PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1000;
/// The maximum number of candidates that one request evaluates.
const MAX_SCAN: usize = 10_000;
/// The number of rows read at once.
pub(super) const SCAN_BATCH: u64 = 500;

/// The entity type to search for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct EntityType {
    /// A Cedar entity type.
    pub(super) r#type: Term,
}

object_only!(EntityType, read);

/// The subject type to search for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct SubjectType {
    /// A Cedar entity type.
    r#type: Term,
    /// Evaluate the caller's own user with the `credential` of the request, the default, or with its whole `role`.
    /// Other users are always evaluated with their role.
    #[serde(default)]
    basis: Option<Basis>,
}

object_only!(SubjectType, read);

/// An example of a search for this part of a question: without the id of a subject or resource, and without an action.
pub(super) fn example(searched: &str) -> Value {
    let mut question = example_question();
    match question.get_mut(searched).and_then(Value::as_object_mut) {
        Some(action) if searched == "action" => drop(action.shift_remove("name")),
        Some(entity) => drop(entity.shift_remove("id")),
        None => {}
    }
    if let Some(question) = question.as_object_mut() {
        question.retain(|_, part| part.as_object().is_none_or(|part| !part.is_empty()));
    }
    question
}

/// Documents a search with the body `B`, of which this is an example.
pub(super) fn search_doc<B: ToSchema>(what: &str, example: Value) -> OperationDoc {
    OperationDoc::new(format!("Search {what} (AuthZEN)"))
        .describe(
            "Returns exactly the candidates that an evaluation would allow, in pages. A request evaluates at most 10,000 \
             candidates, and may return less than a full page with a token for the next one. An unknown action, a \
             misspelt type, and a request context in which no candidate can be evaluated are 400. The caller's own user is \
             evaluated with the credential of the request unless `subject.basis` is `role`. `context.warnings` names what the \
             schema or the data do not have, and `context.error` why the subject or resource could not be evaluated, as in an \
             explained evaluation.",
        )
        .body::<B>(Some(example))
        .response::<SearchResults>(200, "A page of results.", None)
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
}

/// The body of a search. Which part is searched for depends on the endpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Search {
    pub(super) subject: Value,
    action: Option<Value>,
    pub(super) resource: Value,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) context: Map<String, Value>,
    #[serde(default, deserialize_with = "null_as_default")]
    page: PageRequest,
}

/// The OpenAPI schema of a search.
macro_rules! search_schema {
    ($(#[doc = $doc:literal])* $name:ident { $(#[doc = $who:literal] $part:ident: $kind:ty,)+ }) => {
        $(#[doc = $doc])*
        #[derive(Debug, ToSchema)]
        #[expect(dead_code, reason = "only the OpenAPI document uses it")]
        pub(super) struct $name {
            $(#[doc = $who] $part: $kind,)+
            /// Request context for policies.
            #[schema(value_type = Option<Object>)]
            context: Option<Map<String, Value>>,
            /// The requested page.
            page: Option<PageRequest>,
        }
    };
}

search_schema!(
    /// A subject search: who may perform the action on the resource.
    SubjectSearch {
        #[doc = "The subject type."]
        subject: SubjectType,
        #[doc = "The action."]
        action: Action,
        #[doc = "The resource."]
        resource: Entity,
    }
);
search_schema!(
    /// A resource search: on which resources the subject may perform the action.
    ResourceSearch {
        #[doc = "The subject."]
        subject: Subject,
        #[doc = "The action."]
        action: Action,
        #[doc = "The resource type."]
        resource: EntityType,
    }
);
search_schema!(
    /// An action search: which actions the subject may perform on the resource.
    ActionSearch {
        #[doc = "The subject."]
        subject: Subject,
        #[doc = "The resource."]
        resource: Entity,
    }
);

/// The requested page.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct PageRequest {
    /// The `next_token` of the previous page; absent for the first page.
    #[serde(default)]
    token: Option<String>,
    /// The maximum number of results: 100 by default, at most 1,000. With 0 the page is empty and has no `next_token`.
    #[serde(default)]
    #[schema(value_type = Option<usize>, minimum = 0)]
    limit: Option<JsonInteger>,
}

object_only!(PageRequest, read);

impl Search {
    /// Parses a part of a search.
    ///
    /// # Errors
    /// 400 naming the field, if the value is invalid.
    pub(super) fn parse_part<T: DeserializeOwned>(value: &Value, field: &str) -> Result<T, Problem> {
        Ok(from_value(value.clone(), field)?)
    }

    /// Returns the action.
    ///
    /// # Errors
    /// 400 if it is missing or invalid.
    pub(super) fn action(&self) -> Result<Action, Problem> {
        let action = self.action.as_ref().ok_or_else(|| {
            Problem::invalid_field("action", FieldErrorCode::Required, "this field is required")
        })?;
        Self::parse_part(action, "action")
    }
}

/// Collects the permitted candidates of a page.
pub(super) struct PageBuilder {
    /// What is searched for.
    what: &'static str,
    started: Instant,
    query: String,
    /// The maximum number of results.
    pub(super) limit: usize,
    after: Option<String>,
    scanned: usize,
    results: Vec<Value>,
    last: Option<String>,
    /// What the answer says about the question.
    pub(super) remarks: SearchRemarks,
}

impl PageBuilder {
    /// Starts the requested page of a search. A page token is only valid for the query that it was issued for.
    ///
    /// # Errors
    /// 400 if the page or its token is invalid.
    pub(super) fn new(authorizer: &Authorizer, what: &'static str, search: &Search) -> Result<Self, Problem> {
        let mut query = json!([
            what,
            authorizer.caller().id,
            search.subject,
            search.action,
            search.resource,
            search.context
        ]);
        query.sort_all_objects();
        let query = query.to_string();
        let requested_limit = match search.page.limit {
            None => None,
            Some(JsonInteger(limit)) => match usize::try_from(limit) {
                Ok(limit) => Some(limit.min(MAX_PAGE_SIZE)),
                Err(_) => {
                    return Err(Problem::invalid_field(
                        "page.limit",
                        FieldErrorCode::OutOfRange,
                        format!("expected 0 or more, got {limit}"),
                    ));
                }
            },
        };
        let (limit, after) = match search.page.token.as_deref() {
            None | Some("") => (requested_limit.unwrap_or(DEFAULT_PAGE_SIZE), None),
            Some(token) => match Self::parse_token(&query, token) {
                Some((limit, after))
                    if requested_limit.is_none_or(|requested_limit| requested_limit == limit) =>
                {
                    (limit, Some(after.to_owned()))
                }
                _ => {
                    return Err(Problem::invalid_field(
                        "page.token",
                        FieldErrorCode::Mismatch,
                        "page token does not match this query",
                    ));
                }
            },
        };
        let started = Instant::now();
        Ok(Self {
            what,
            started,
            query,
            limit,
            after,
            scanned: 0,
            results: Vec::new(),
            last: None,
            remarks: SearchRemarks::default(),
        })
    }

    /// The page token for the page after this position, bound to the query and the limit.
    fn token(query: &str, limit: usize, after: &str) -> String {
        let digest = crate::authn::short_digest(&format!("{query} {limit} {after}"));
        format!("{digest}.{limit}.{after}")
    }

    /// The limit and the position of a token, if it was issued for this query.
    fn parse_token<'a>(query: &str, token: &'a str) -> Option<(usize, &'a str)> {
        let (limit, after) = token.split_once('.')?.1.split_once('.')?;
        let limit = limit.parse().ok().filter(|limit| *limit <= MAX_PAGE_SIZE)?;
        (Self::token(query, limit, after) == token).then_some((limit, after))
    }

    /// The position after which to continue.
    pub(super) fn after(&self) -> Option<&str> {
        self.last.as_deref().or(self.after.as_deref())
    }

    /// Adds a candidate; returns true if the page ends with it. A full page ends at the first result of the next one, so that
    /// the last page has no `next_token` (AuthZEN 1.0).
    pub(super) fn push(&mut self, position: &str, result: Option<Value>) -> bool {
        if result.is_some() && self.results.len() >= self.limit {
            return true;
        }
        self.scanned += 1;
        self.last = Some(position.to_owned());
        self.results.extend(result);
        self.scanned >= MAX_SCAN
    }

    /// The response with the page, after recording the search; `is_complete` if no candidates are left. With limit 0 there is
    /// no next page: its token would repeat the same page without end.
    pub(super) fn respond(
        self,
        authorizer: &Authorizer,
        asked: &AskedSearch<'_>,
        is_complete: bool,
    ) -> HttpResponse {
        let next_token = match is_complete || self.limit == 0 {
            false => Self::token(&self.query, self.limit, self.after().unwrap_or_default()),
            true => String::new(),
        };
        let (count, examined) = (self.results.len(), self.scanned);
        let result = SearchResult { kind: self.what, results: count, examined, is_complete };
        let evaluation_id = asked.record(authorizer, result, self.started.elapsed());
        let SearchRemarks { warnings, error } = self.remarks;
        let context = SearchContext { evaluation_id, warnings, error };
        let page = ResultPage { next_token, count };
        authzen_response(authorizer, &SearchResults { results: self.results, page, context })
    }
}

/// `POST /access/v1/search/subject`.
///
/// # Errors
/// 400 if the search is invalid; 403 if the caller may not evaluate the subjects; 503 if the database is unavailable.
pub(super) async fn search_subjects(
    authorizer: Authorizer,
    AuthzenJson(search): AuthzenJson<Search>,
) -> Result<HttpResponse, Problem> {
    let requested_type: SubjectType = Search::parse_part(&search.subject, "subject")?;
    let resource: Entity = Search::parse_part(&search.resource, "resource")?;
    let action = search.action()?;
    let mut builder = PageBuilder::new(&authorizer, "subject", &search)?;
    let kind = requested_type.r#type.as_str();
    let (action_name, resource_type) = (action.name.as_str(), resource.r#type.as_str());
    let names = SearchNames {
        subject: SearchedPart::Type(kind),
        action: Some((action_name, &action.properties)),
        resource: SearchedPart::Entity(resource.entity_ref()),
        context: &search.context,
    };
    names.check(&authorizer)?;
    builder.remarks.warnings = names.warnings(&authorizer);
    let target = evaluation::resolve_resource(&authorizer, resource.entity_ref()).await?;
    builder.remarks.add_target(&target, resource_type);
    let engine = authorizer.engine();
    let name = engine.resolve_action(action_name, resource_type);
    // The context of the caller's own user has the most fields.
    let own_context = if kind == "User" { authorizer.request_context() } else { authorizer.bare_context() };
    let own_context = merge_client_context(own_context, &action.properties, &search.context);
    check_context(engine, &[name], &own_context)?;
    let is_permitted = |ResolvedSubject { principal, context }: ResolvedSubject| {
        let context = merge_client_context(context, &action.properties, &search.context);
        let ask = AuthzRequest { principal: &principal, action: name, context: &context, recorder: None };
        evaluation::decide(engine, &ask, &target, resource.entity_ref(), None).answer.allowed
    };
    let is_complete = if kind == "User" {
        push_users(&authorizer, requested_type.basis, &mut builder, is_permitted).await?
    } else {
        let resolver = SubjectResolver::for_questions(&authorizer);
        resolver.require_external().map_err(|_| Problem::forbidden(EVALUATE_EXTERNAL_ACTION))?;
        let (after, properties) = (builder.after().map(str::to_owned), Map::new());
        let is_page_full = engine.external_entities().ids(kind, after.as_deref()).into_iter().any(|id| {
            let subject = resolver.external_subject(EntityRef { kind, id, properties: &properties });
            builder.push(id, subject.is_ok_and(is_permitted).then(|| json!({ "type": kind, "id": id })))
        });
        !is_page_full
    };
    let asked = AskedSearch {
        subject: (kind, None),
        action: Some(name),
        resource: (resource_type, Some(resource.id.as_str())),
        context: &own_context,
    };
    Ok(builder.respond(&authorizer, &asked, is_complete))
}

/// Adds the permitted users of the caller's subtree that the caller may evaluate. Returns whether there are no more.
///
/// # Errors
/// The database is unavailable.
async fn push_users(
    authorizer: &Authorizer,
    basis: Option<Basis>,
    builder: &mut PageBuilder,
    is_permitted: impl Fn(ResolvedSubject) -> bool,
) -> Result<bool, Problem> {
    let resolver = SubjectResolver::for_questions(authorizer);
    let caller = authorizer.caller();
    loop {
        let after = builder.after().and_then(|after| after.parse::<Id>().ok());
        let page = authorizer.state().store.accounts(&caller.organization, after, SCAN_BATCH).await?;
        let is_last = page.len() < usize::try_from(SCAN_BATCH).unwrap_or(usize::MAX);
        for account in page {
            let id = account.id;
            let is_permitted = resolver.candidate(&account, basis).is_some_and(&is_permitted);
            if builder.push(&id.to_string(), is_permitted.then(|| json!({ "type": "User", "id": id }))) {
                return Ok(false);
            }
        }
        if is_last {
            return Ok(true);
        }
    }
}

/// Resolves the subject of a search; none if it cannot be evaluated, which the answer then says.
///
/// # Errors
/// 403 if the caller may not evaluate it; 503 if the database is unavailable.
pub(super) async fn resolve_subject(
    authorizer: &Authorizer,
    subject: &Subject,
    remarks: &mut SearchRemarks,
) -> Result<Option<ResolvedSubject>, Problem> {
    match SubjectResolver::for_questions(authorizer).resolve(subject.selector()).await {
        Ok(subject) => Ok(Some(subject)),
        Err(error) => {
            remarks.error = Some(DecisionError::from_subject(authorizer, error)?);
            Ok(None)
        }
    }
}

/// `POST /access/v1/search/action`.
///
/// # Errors
/// 400 if the search is invalid; 403 if the caller may not evaluate the subject; 503 if the database is unavailable.
pub(super) async fn search_actions(
    authorizer: Authorizer,
    AuthzenJson(search): AuthzenJson<Search>,
) -> Result<HttpResponse, Problem> {
    let subject: Subject = Search::parse_part(&search.subject, "subject")?;
    let resource: Entity = Search::parse_part(&search.resource, "resource")?;
    let mut builder = PageBuilder::new(&authorizer, "action", &search)?;
    let (subject_type, resource_type) = (subject.r#type.as_str(), resource.r#type.as_str());
    let names = SearchNames {
        subject: SearchedPart::Entity(subject.entity_ref()),
        action: None,
        resource: SearchedPart::Entity(resource.entity_ref()),
        context: &search.context,
    };
    names.check(&authorizer)?;
    builder.remarks.warnings = names.warnings(&authorizer);
    let asked = |id, context| AskedSearch {
        subject: (subject_type, Some(id)),
        action: None,
        resource: (resource_type, Some(resource.id.as_str())),
        context,
    };
    let resolved = resolve_subject(&authorizer, &subject, &mut builder.remarks).await?;
    let Some(ResolvedSubject { principal, context }) = resolved else {
        let context = merge_client_context(authorizer.bare_context(), &Map::new(), &search.context);
        return Ok(builder.respond(&authorizer, &asked(subject.id.as_str(), &context), true));
    };
    let request_context = merge_client_context(context, &Map::new(), &search.context);
    let engine = authorizer.engine();
    check_context(engine, &engine.applicable_actions(subject_type, resource_type), &request_context)?;
    let target = evaluation::resolve_resource(&authorizer, resource.entity_ref()).await?;
    builder.remarks.add_target(&target, resource_type);
    let after = builder.after().map(str::to_owned);
    let mut is_complete = true;
    for name in permitted_actions(
        &authorizer,
        subject.r#type.as_str(),
        &principal,
        &request_context,
        &target,
        resource.entity_ref(),
    ) {
        if after.as_deref().is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        if builder.push(&name, Some(json!({ "name": name }))) {
            is_complete = false;
            break;
        }
    }
    Ok(builder.respond(&authorizer, &asked(principal.uid_parts().1, &request_context), is_complete))
}

/// The names of the actions that a principal may perform on a resource, sorted, in the form that a question uses.
pub(in crate::api) fn permitted_actions(
    authorizer: &Authorizer,
    subject: &str,
    principal: &Principal,
    request_context: &DecisionContext,
    target: &ResolvedResource,
    entity_ref: EntityRef<'_>,
) -> Vec<String> {
    let engine = authorizer.engine();
    let prefix = entity_ref.kind.rsplit_once("::").map(|(namespace, _)| format!("{namespace}::Action::\""));
    let mut names: Vec<String> = engine
        .applicable_actions(subject, entity_ref.kind)
        .into_iter()
        .filter(|action| {
            let ask = AuthzRequest { principal, action, context: request_context, recorder: None };
            evaluation::decide(engine, &ask, target, entity_ref, None).answer.allowed
        })
        .map(|action| {
            let short = prefix.as_deref().and_then(|prefix| action.strip_prefix(prefix)?.strip_suffix('"'));
            short.unwrap_or(action).to_owned()
        })
        .collect();
    names.sort_unstable();
    names
}
