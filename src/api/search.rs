//! The searches of AuthZEN: who may do that, what may this one do it to, and what may it do. They give exactly those of
//! whom an evaluation would say yes, a page at a time.

use super::access::{Action, Entity, Subject, answered};
use super::question::{self, Asked, Basis, Named, Target, with_said};
use super::sent::Body;
use crate::authz::{Ask, Circumstances, Principal, Resourced};
use crate::http::openapi::Doc;
use crate::http::{Caller, Gate, Problem};
use crate::values::{Id, Term, Whole, null_is_absent, object_only};
use actix_web::HttpResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// How many results a page has if nothing is said, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// How many rows one search looks at before it answers with what it has found.
const MAX_SCAN: usize = 10_000;
/// How many rows are read at once.
const SCAN: u64 = 500;

/// An entity that is searched for: its id is what is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct EntityType {
    /// A Cedar entity type.
    r#type: Term,
}

object_only!(EntityType, read);

/// The subjects that are searched for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct SubjectType {
    /// A Cedar entity type.
    r#type: Term,
    /// Whether the caller's own user is found by the `credential` in hand, which is the default, or by its whole `role`.
    /// Other users are always found by their role.
    #[serde(default)]
    basis: Option<Basis>,
}

object_only!(SubjectType, read);

/// The document of a search whose body is a `B`.
pub(super) fn search_doc<B: ToSchema>(what: &str) -> Doc {
    Doc::new(format!("Search {what} (AuthZEN)"))
        .describe(
            "Gives exactly those of whom an evaluation would say yes, a page at a time. A search looks at 10,000 \
             candidates at most, and may then answer with less than a full page and a token to go on with. The caller's own \
             user is asked about with the credential in hand unless `subject.basis` is `role`.",
        )
        .body::<B>(None)
        .answer::<Found>(200, "A page of results.", None)
        .header(200, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

/// What is searched for, and who or what it has to do with. The kind of search says what each part is.
#[derive(Debug, Deserialize)]
pub(super) struct Search {
    subject: Value,
    action: Option<Value>,
    resource: Value,
    #[serde(default, deserialize_with = "null_is_absent")]
    context: Map<String, Value>,
    #[serde(default, deserialize_with = "null_is_absent")]
    page: PageWanted,
}

/// A search as it is documented.
macro_rules! search {
    ($(#[doc = $doc:literal])* $name:ident { $(#[doc = $who:literal] $part:ident: $kind:ty,)+ }) => {
        $(#[doc = $doc])*
        #[derive(Debug, ToSchema)]
        #[expect(dead_code, reason = "it is for the document only")]
        pub(super) struct $name {
            $(#[doc = $who] $part: $kind,)+
            /// What policies may read besides.
            #[schema(value_type = Option<Object>)]
            context: Option<Map<String, Value>>,
            /// Which page.
            page: Option<PageWanted>,
        }
    };
}

search!(
    /// Who may do that?
    SubjectSearch {
        #[doc = "What kind of subject."]
        subject: SubjectType,
        #[doc = "Does what."]
        action: Action,
        #[doc = "To which thing."]
        resource: Entity,
    }
);
search!(
    /// What may this one do that to?
    ResourceSearch {
        #[doc = "Who."]
        subject: Subject,
        #[doc = "Does what."]
        action: Action,
        #[doc = "To what kind of thing."]
        resource: EntityType,
    }
);
search!(
    /// What may this one do to that?
    ActionSearch {
        #[doc = "Who."]
        subject: Subject,
        #[doc = "To which thing."]
        resource: Entity,
    }
);

/// Which page is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct PageWanted {
    /// The `next_token` of the page before; nothing for the first one.
    #[serde(default)]
    token: Option<String>,
    /// How many results at most: 100 by default, and never more than 1,000. With 0 the page is empty and has no
    /// `next_token`.
    #[serde(default)]
    #[schema(value_type = Option<usize>, minimum = 0)]
    limit: Option<Whole>,
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
            json!([what, gate.caller().id, search.subject, search.action, search.resource, search.context]);
        asked.sort_all_objects();
        let asked = asked.to_string();
        let said = match search.page.limit {
            None => None,
            Some(Whole(limit)) => match usize::try_from(limit) {
                Ok(limit) => Some(limit.min(MAX_PAGE)),
                Err(_) => {
                    return Err(Problem::field("page.limit", format!("it is {limit}; it must be 0 or more")));
                }
            },
        };
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
        let limit = limit.parse().ok().filter(|limit| *limit <= MAX_PAGE)?;
        (Self::token(asked, limit, after) == token).then_some((limit, after))
    }

    /// Where to go on.
    fn after(&self) -> Option<&str> {
        self.last.as_deref().or(self.after.as_deref())
    }

    /// Notes a candidate; true where the search ends with it. A full page ends only with what would be the first of the
    /// next one: after the last page there is none (AuthZEN 1.0, `next_token`).
    fn note(&mut self, position: &str, result: Option<Value>) -> bool {
        if result.is_some() && self.results.len() >= self.limit {
            return true;
        }
        self.looked_at += 1;
        self.last = Some(position.to_owned());
        self.results.extend(result);
        self.looked_at >= MAX_SCAN
    }

    /// The page; `is_over` where there is nothing after it. A page of no results has no next one: its token would stand for
    /// the same page again, and a client that follows tokens would never end.
    fn found(self, is_over: bool) -> Found {
        let next_token = match is_over || self.limit == 0 {
            false => Self::token(&self.asked, self.limit, self.after().unwrap_or_default()),
            true => String::new(),
        };
        Found { page: PageFound { next_token, count: self.results.len() }, results: self.results }
    }
}

/// `POST /access/v1/search/subject`: who may do that?
pub(super) async fn search_subjects(gate: Gate, Body(search): Body<Search>) -> Result<HttpResponse, Problem> {
    let wanted: SubjectType = Search::part(&search.subject, "subject")?;
    let resource: Entity = Search::part(&search.resource, "resource")?;
    let action = search.action()?;
    let mut walk = Walk::new(&gate, "subject", &search)?;
    let target = question::target(&gate, resource.named()).await?;
    let engine = gate.engine();
    let name = engine.action_for(action.name.as_str(), resource.r#type.as_str());
    let fits = |principal: &Principal, circumstances: Circumstances| {
        let circumstances = with_said(circumstances, &action.properties, &search.context);
        let ask = Ask { principal, action: name, circumstances: &circumstances, trail: None };
        question::decide(engine, &ask, &target, resource.named(), false).answer.allowed
    };
    let mut is_over = true;
    if wanted.r#type.as_str() == "User" {
        let may_ask = gate.step("evaluateAccess");
        'pages: loop {
            let after = walk.after().and_then(|after| after.parse::<Id>().ok());
            let page = gate.parts().store.accounts(&gate.caller().organization, after, SCAN).await?;
            let is_last = page.len() < usize::try_from(SCAN).unwrap_or(usize::MAX);
            for account in page {
                let id = account.id;
                let asked = may_ask.may_evaluate(&account);
                let in_hand = id == gate.caller().id && wanted.basis != Some(Basis::Role);
                let fits = asked
                    && match in_hand {
                        true => fits(&gate.caller().principal, gate.circumstances()),
                        false => Caller::of_account(engine, &account)
                            .is_some_and(|caller| fits(&caller.principal, gate.moment())),
                    };
                if walk.note(&id.to_string(), fits.then(|| json!({ "type": "User", "id": id }))) {
                    is_over = false;
                    break 'pages;
                }
            }
            if is_last {
                break;
            }
        }
    } else if !gate.step("evaluateForeignAccess").allows(&gate.caller().organization) {
        return Err(Problem::forbidden("ask about these subjects"));
    } else {
        let after = walk.after().map(str::to_owned);
        for id in engine.domain().ids(wanted.r#type.as_str(), after.as_deref()) {
            let found = engine.domain().find(wanted.r#type.as_str(), id, &Map::new());
            let fits = found.is_ok_and(|foreign| fits(&Principal::foreign(foreign), gate.moment()));
            if walk.note(id, fits.then(|| json!({ "type": wanted.r#type, "id": id }))) {
                is_over = false;
                break;
            }
        }
    }
    Ok(answered(&gate, &walk.found(is_over)))
}

/// `POST /access/v1/search/resource`: what may this one do that to?
pub(super) async fn search_resources(
    gate: Gate,
    Body(search): Body<Search>,
) -> Result<HttpResponse, Problem> {
    let wanted: EntityType = Search::part(&search.resource, "resource")?;
    let subject: Subject = Search::part(&search.subject, "subject")?;
    let action = search.action()?;
    let mut walk = Walk::new(&gate, "resource", &search)?;
    let Some((principal, circumstances)) = known_subject(&gate, &subject).await? else {
        return Ok(answered(&gate, &walk.found(true)));
    };
    let circumstances = with_said(circumstances, &action.properties, &search.context);
    let engine = gate.engine();
    let name = engine.action_for(action.name.as_str(), wanted.r#type.as_str());
    let ask = Ask { principal: &principal, action: name, circumstances: &circumstances, trail: None };
    let result = |id: &str| json!({ "type": wanted.r#type, "id": id });
    let mut is_over = true;
    if gate.parts().kinds.has(wanted.r#type.as_str()) {
        'pages: loop {
            let after = walk.after().and_then(|after| after.parse::<Id>().ok());
            let page = gate.candidates(wanted.r#type.as_str(), after, SCAN).await?;
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
        for id in engine.domain().ids(wanted.r#type.as_str(), after.as_deref()) {
            let found = engine.domain().find(wanted.r#type.as_str(), id, &Map::new());
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
async fn known_subject(
    gate: &Gate,
    subject: &Subject,
) -> Result<Option<(Arc<Principal>, Circumstances)>, Problem> {
    match question::subject(gate, subject.named(), subject.basis).await? {
        Asked::Known(principal, circumstances) => Ok(Some((principal, circumstances))),
        Asked::Unknown(_) => Ok(None),
        Asked::Refused => Err(Problem::forbidden("ask about this subject")),
    }
}

/// `POST /access/v1/search/action`: what may this one do to that?
pub(super) async fn search_actions(gate: Gate, Body(search): Body<Search>) -> Result<HttpResponse, Problem> {
    let subject: Subject = Search::part(&search.subject, "subject")?;
    let resource: Entity = Search::part(&search.resource, "resource")?;
    let mut walk = Walk::new(&gate, "action", &search)?;
    let Some((principal, circumstances)) = known_subject(&gate, &subject).await? else {
        return Ok(answered(&gate, &walk.found(true)));
    };
    let circumstances = with_said(circumstances, &Map::new(), &search.context);
    let target = question::target(&gate, resource.named()).await?;
    let after = walk.after().map(str::to_owned);
    let mut is_over = true;
    for name in permitted_actions(
        &gate,
        subject.r#type.as_str(),
        &principal,
        &circumstances,
        &target,
        resource.named(),
    ) {
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
