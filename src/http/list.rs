//! The responses of lists: the page, its total, and the link to the next page.

use super::Problem;
use super::base_url::absolute_url;
use super::page::PageWriter;
use super::query::ListRequest;
use crate::store::ListResult;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};

/// Returns 200 with a page, `X-Total-Count` unless the total was not wanted, and a `Link` to the next page if there is one.
/// `last` is the JSON of the last resource of the page.
///
/// # Errors
/// 503 if the budget for bodies is exhausted.
pub fn list_response(
    request: &HttpRequest,
    list_request: &ListRequest,
    page: PageWriter,
    listed: &ListResult,
    last: Option<&Map<String, Value>>,
) -> Result<HttpResponse, Problem> {
    let mut response = HttpResponse::Ok();
    if let Some(total) = listed.total {
        response.insert_header(("X-Total-Count", total));
    }
    if let Some(parameters) = list_request.next(listed, last) {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.extend_pairs(&parameters);
        let link = format!("<{}?{}>; rel=\"next\"", absolute_url(request, request.path()), pairs.finish());
        response.insert_header((header::LINK, link));
    }
    page.finish(request, response)
}

/// Returns the response of a list of something else than resources: `written` items of `total` are on the page.
///
/// # Errors
/// 503 if the budget for bodies is exhausted.
pub fn counted_response(
    request: &HttpRequest,
    list_request: &ListRequest,
    page: PageWriter,
    written: usize,
    total: u64,
) -> Result<HttpResponse, Problem> {
    let item_count = u64::try_from(written).unwrap_or(u64::MAX);
    let query = &list_request.query;
    let listed = ListResult {
        total: (!query.skips_total).then_some(total),
        item_count,
        has_more: query.offset.saturating_add(item_count) < total,
    };
    list_response(request, list_request, page, &listed, None)
}
