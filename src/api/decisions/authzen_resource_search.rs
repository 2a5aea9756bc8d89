//! The AuthZEN resource search: on which resources the subject may perform the action.
//!
//! Resources of this service are searched by one query, whose condition is the policies; only if these cannot be a condition,
//! each resource is evaluated.

use super::authzen_body::AuthzenJson;
use super::authzen_evaluation::Subject;
use super::authzen_search::{EntityType, PageBuilder, SCAN_BATCH, Search, resolve_subject};
use super::evaluation::merge_client_context;
use super::question_names::{SearchNames, SearchedPart, check_context};
use super::search_answer::AskedSearch;
use crate::application::Authorizer;
use crate::application::subjects::ResolvedSubject;
use crate::authz::{AuthzRequest, ResourceEntity};
use crate::http::Problem;
use crate::types::Id;
use actix_web::HttpResponse;
use serde_json::{Map, Value, json};

/// `POST /access/v1/search/resource`.
///
/// # Errors
/// 400 if the search is invalid; 403 if the caller may not evaluate the subject; 503 if the database is unavailable.
pub(super) async fn search_resources(
    authorizer: Authorizer,
    AuthzenJson(search): AuthzenJson<Search>,
) -> Result<HttpResponse, Problem> {
    let requested_type: EntityType = Search::parse_part(&search.resource, "resource")?;
    let subject: Subject = Search::parse_part(&search.subject, "subject")?;
    let action = search.action()?;
    let mut builder = PageBuilder::new(&authorizer, "resource", &search)?;
    let kind = requested_type.r#type.as_str();
    let names = SearchNames {
        subject: SearchedPart::Entity(subject.entity_ref()),
        action: Some((action.name.as_str(), &action.properties)),
        resource: SearchedPart::Type(kind),
        context: &search.context,
    };
    names.check(&authorizer)?;
    builder.remarks.warnings = names.warnings(&authorizer);
    let engine = authorizer.engine();
    let name = engine.resolve_action(action.name.as_str(), kind);
    let subject_type = subject.r#type.as_str();
    let asked = |id, context| AskedSearch {
        subject: (subject_type, Some(id)),
        action: Some(name),
        resource: (kind, None),
        context,
    };
    let resolved = resolve_subject(&authorizer, &subject, &mut builder.remarks).await?;
    let Some(ResolvedSubject { principal, context }) = resolved else {
        let context = merge_client_context(authorizer.bare_context(), &action.properties, &search.context);
        return Ok(builder.respond(&authorizer, &asked(subject.id.as_str(), &context), true));
    };
    let request_context = merge_client_context(context, &action.properties, &search.context);
    check_context(engine, &[name], &request_context)?;
    let request =
        AuthzRequest { principal: &principal, action: name, context: &request_context, recorder: None };
    let is_complete = if !authorizer.state().resource_types.contains(kind) {
        push_external(&authorizer, &request, kind, &mut builder)
    } else if let Some(is_complete) = push_selected(&authorizer, &request, kind, &mut builder).await? {
        is_complete
    } else {
        push_evaluated(&authorizer, &request, kind, &mut builder).await?
    };
    Ok(builder.respond(&authorizer, &asked(principal.uid_parts().1, &request_context), is_complete))
}

/// Returns a result of a search.
fn result(kind: &str, id: &str) -> Value {
    json!({ "type": kind, "id": id })
}

/// Adds the permitted resources of a type, as a query selects them. Returns whether there are no more; none if no query can.
///
/// # Errors
/// The database is unavailable.
async fn push_selected(
    authorizer: &Authorizer,
    request: &AuthzRequest<'_>,
    kind: &str,
    builder: &mut PageBuilder,
) -> Result<Option<bool>, Problem> {
    let after = builder.after().and_then(|after| after.parse::<Id>().ok());
    // One more than the page, which tells whether any follow.
    let limit = u64::try_from(builder.limit).unwrap_or(u64::MAX).saturating_add(1);
    let found = authorizer.lookups().search_referenceable(request, kind, after, limit).await?;
    let Some(ids) = found else { return Ok(None) };
    for id in ids {
        let id = id.to_string();
        if builder.push(&id, Some(result(kind, &id))) {
            return Ok(Some(false));
        }
    }
    Ok(Some(true))
}

/// Adds the permitted resources of a type after evaluating each. Returns whether there are no more.
///
/// # Errors
/// The database is unavailable.
async fn push_evaluated(
    authorizer: &Authorizer,
    request: &AuthzRequest<'_>,
    kind: &str,
    builder: &mut PageBuilder,
) -> Result<bool, Problem> {
    loop {
        let after = builder.after().and_then(|after| after.parse::<Id>().ok());
        let page = authorizer.lookups().page_referenceable(kind, after, SCAN_BATCH).await?;
        let is_last = page.len() < usize::try_from(SCAN_BATCH).unwrap_or(usize::MAX);
        for (id, resource) in page {
            let id = id.to_string();
            let is_permitted =
                resource.is_some_and(|resource| authorizer.engine().allows(request, &resource));
            if builder.push(&id, is_permitted.then(|| result(kind, &id))) {
                return Ok(false);
            }
        }
        if is_last {
            return Ok(true);
        }
    }
}

/// Adds the permitted entities of an external type. Returns whether there are no more.
fn push_external(
    authorizer: &Authorizer,
    request: &AuthzRequest<'_>,
    kind: &str,
    builder: &mut PageBuilder,
) -> bool {
    let engine = authorizer.engine();
    let after = builder.after().map(str::to_owned);
    for id in engine.external_entities().ids(kind, after.as_deref()) {
        let found = engine.external_entities().resolve(kind, id, &Map::new());
        let is_permitted =
            found.is_ok_and(|entity| engine.allows(request, &ResourceEntity::external(entity)));
        if builder.push(id, is_permitted.then(|| result(kind, id))) {
            return false;
        }
    }
    true
}
