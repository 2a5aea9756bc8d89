//! Resources as responses: with their references populated, their permitted actions, and the selected fields.

use super::Problem;
use super::body_budget::Reservation;
use super::entity_tag::is_unmodified;
use super::page::PageWriter;
use super::query::Shape;
use super::state::WorkerState;
use crate::application::Authorizer;
use crate::application::populate::References;
use crate::application::precondition::version;
use crate::authz::Permitted;
use crate::resource::Resource;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

/// The number of hex digits of the digest of a response in an entity tag.
const RESPONSE_DIGEST_LENGTH: usize = 16;

/// What the resources of a page are returned with.
#[derive(Debug)]
pub struct View<'a> {
    authorizer: &'a Authorizer,
    shape: &'a Shape,
    references: References,
    /// The actions that may be permitted on resources of the type, if the response includes them.
    actions: Vec<String>,
    /// The memory of the references.
    _reservation: Reservation,
}

impl<'a> View<'a> {
    /// Loads what these resources are returned with. The resources of each path have at most `max_bytes` together.
    ///
    /// # Errors
    /// 503 if the database is unavailable, or the memory for bodies is exhausted.
    pub async fn load<R: Resource>(
        authorizer: &'a Authorizer,
        shape: &'a Shape,
        request: &HttpRequest,
        resources: &[Permitted<R>],
        max_bytes: usize,
    ) -> Result<Self, Problem> {
        let references = if shape.populate.is_empty() {
            References::default()
        } else {
            let json: Result<Vec<Value>, _> = resources.iter().map(serde_json::to_value).collect();
            let json = json.map_err(Problem::internal)?;
            References::load(authorizer, &shape.populate, &json, max_bytes).await?
        };
        let budget = &WorkerState::from_request(request)?.http.body_budget;
        let reservation = budget.reserve(references.bytes())?;
        let actions =
            if shape.includes_permissions { authorizer.applicable_actions(R::TYPE) } else { Vec::new() };
        Ok(Self { authorizer, shape, references, actions, _reservation: reservation })
    }

    /// Returns the JSON of a resource.
    ///
    /// # Errors
    /// 500 if the resource cannot be serialized.
    pub fn json<R: Resource>(&self, resource: &Permitted<R>) -> Result<Value, Problem> {
        let mut json = serde_json::to_value(resource).map_err(Problem::internal)?;
        self.references.insert_into(&mut json);
        if let Value::Object(fields) = &mut json {
            if self.shape.includes_permissions {
                let permitted = self.authorizer.permitted_actions(resource, &self.actions);
                fields.insert("permissions".to_owned(), permitted.into());
            }
            self.shape.select(fields);
        }
        Ok(json)
    }
}

/// Returns the value of an `ETag` header.
pub fn entity_tag(value: &str) -> String {
    format!("\"{value}\"")
}

/// Returns 200 with a resource, or 304 if the client already has the response (RFC 9110, section 13.1.2).
///
/// # Errors
/// 400 if `If-None-Match` is malformed; 503 if the database is unavailable, or the memory for bodies is exhausted.
pub async fn fetch_response<R: Resource>(
    authorizer: &Authorizer,
    request: &HttpRequest,
    shape: &Shape,
    resource: Permitted<R>,
) -> Result<HttpResponse, Problem> {
    let version = version(&resource);
    let (tag, body) = if shape.is_plain() {
        (version, serde_json::to_string(&resource).map_err(Problem::internal)?)
    } else {
        let resources = [resource];
        let max_bytes = PageWriter::new(request)?.max_bytes();
        let view = View::load(authorizer, shape, request, &resources, max_bytes).await?;
        let [resource] = &resources;
        let body = view.json(resource)?.to_string();
        let tag = match shape.depends_on_resource_only() {
            true => version,
            false => format!("{version}.{}", response_digest(&body)),
        };
        (tag, body)
    };
    let is_unmodified = is_unmodified(request, &tag)?;
    let mut response = if is_unmodified { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, entity_tag(&tag)));
    Ok(match is_unmodified {
        true => response.finish(),
        false => response.content_type(header::ContentType::json()).body(body),
    })
}

fn response_digest(body: &str) -> String {
    hex::encode(digest(&SHA256, body.as_bytes())).chars().take(RESPONSE_DIGEST_LENGTH).collect()
}

/// Returns 200 with a resource and its `ETag`.
pub fn ok_json<R: Resource>(resource: &Permitted<R>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::ETAG, entity_tag(&version(resource)))).json(resource)
}
