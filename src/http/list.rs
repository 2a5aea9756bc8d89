//! The responses of lists: the page, its total, and the link to the next page.

use super::Problem;
use super::base_url::absolute_url;
use super::page::PageWriter;
use super::query::ListRequest;
use crate::resource;
use crate::store::{ListResult, Page};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
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

/// Returns the response of a list of something else than resources.
///
/// # Errors
/// 503 if the budget for bodies is exhausted.
pub fn table_response<T: Serialize>(
    request: &HttpRequest,
    list_request: &ListRequest,
    page: Page<T>,
) -> Result<HttpResponse, Problem> {
    let Page { items, total, has_more } = page;
    let mut writer = PageWriter::new(request)?;
    let written = items.iter().take_while(|item| writer.push(item)).count();
    let listed = ListResult {
        total,
        item_count: u64::try_from(written).unwrap_or(u64::MAX),
        has_more: has_more || written < items.len(),
    };
    let last = written.checked_sub(1).and_then(|index| items.get(index));
    let last = last.map(resource::to_json_object).transpose()?;
    list_response(request, list_request, writer, &listed, last.as_ref())
}
