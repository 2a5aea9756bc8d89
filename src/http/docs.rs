//! The OpenAPI document and its page. Both work under a base path: the page refers to its files and to the document by
//! relative addresses, and the document names the address of the service under `servers`.

use super::Problem;
use super::base_url::base_url;
use super::openapi;
use super::route_group::RouteGroup;
use super::routes;
use actix_web::body::SizedStream;
use actix_web::http::{Method, header};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use futures_util::stream;
use std::sync::{Arc, OnceLock};
use utoipa::openapi::Server;
use utoipa_swagger_ui::Config;

/// The methods of these paths.
const ALLOWED: &str = "GET, HEAD";

/// The paths, all of them public, and why.
pub const PUBLIC_PATHS: [(&str, &str); 3] = [
    ("/openapi.json", "the OpenAPI document, the same for everyone; no data"),
    ("/docs", "leads to the page of the OpenAPI document"),
    ("/docs/{file}", "the page of the OpenAPI document; no data"),
];

/// The placeholder of the base URL in the cached document.
const ADDRESS: &str = "{address}";

/// The document as it is served, built on the first request.
#[derive(Debug, Clone)]
pub struct OpenApiDocument {
    routes: Arc<Vec<RouteGroup>>,
    /// The text before and after the base URL.
    text: Arc<OnceLock<(web::Bytes, web::Bytes)>>,
}

impl OpenApiDocument {
    /// Creates the document of these routes.
    pub fn new(routes: Arc<Vec<RouteGroup>>) -> Self {
        Self { routes, text: Arc::default() }
    }

    fn text(&self) -> &(web::Bytes, web::Bytes) {
        self.text.get_or_init(|| {
            let mut document = openapi::document(&self.routes);
            document.servers = Some(vec![Server::new(ADDRESS)]);
            let text = openapi::document_json(&document);
            let (before, after) = text.split_once(ADDRESS).unwrap_or((&text, ""));
            (before.to_owned().into(), after.to_owned().into())
        })
    }

    /// Returns 200 with the document.
    fn to_response(&self, request: &HttpRequest) -> HttpResponse {
        let (before, after) = self.text().clone();
        // The base URL has no character that JSON escapes: it is a configured URL or a plain host name.
        let chunks = [before, base_url(request).into(), after];
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let body = SizedStream::new(length, stream::iter(chunks.map(Ok::<_, Error>)));
        HttpResponse::Ok().content_type("application/json").body(body)
    }
}

/// Mounts `/openapi.json`, and the page at `/docs/`.
pub fn mount(server: &mut web::ServiceConfig, document: &OpenApiDocument) {
    let document = document.clone();
    server.service(resource("/openapi.json").route(routes::method_route(&Method::GET).to(
        move |request: HttpRequest| {
            let answer = document.to_response(&request);
            async move { answer }
        },
    )));
    server.service(resource("/docs").route(routes::method_route(&Method::GET).to(async || {
        // Relative, because a proxy may have removed a base path (RFC 9110, section 10.2.2).
        HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, "docs/")).finish()
    })));
    server.service(resource("/docs/{file:.*}").route(routes::method_route(&Method::GET).to(file)));
}

fn resource(path: &str) -> actix_web::Resource {
    let refused = async || Err::<HttpResponse, Problem>(routes::method_not_allowed(ALLOWED.to_owned()));
    web::resource(path).default_service(web::to(refused))
}

/// `GET /docs/{file}`.
async fn file(path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let config = Arc::new(Config::from("../openapi.json"));
    let file = utoipa_swagger_ui::serve(&path, config).map_err(Problem::internal)?;
    let file = file.ok_or_else(routes::path_not_found)?;
    let mut response = HttpResponse::Ok();
    if file.gzpipped {
        response.insert_header(header::ContentEncoding::Gzip);
    }
    let is_text = file.content_type.starts_with("text/");
    let kind = if is_text { file.content_type + "; charset=utf-8" } else { file.content_type };
    Ok(response.content_type(kind).body(file.bytes.into_owned()))
}
