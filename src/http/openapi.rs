//! The OpenAPI document, from the table of routes.

use super::operation_doc::{problem, problem_or_oauth_error};
use super::route_group::RouteGroup;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathsBuilder,
    Ref, ServerBuilder, tag::TagBuilder,
};

mod bulk_docs;
mod list_parameters;
mod resource_docs;

pub use super::operation_doc::{OperationDoc, enum_query_parameter, header_parameter, query_parameter};
pub(super) use bulk_docs::{bulk_delete, bulk_update};
pub(super) use resource_docs::fetch;
pub use resource_docs::{create, delete, list, list_doc, patch, replace, update};

fn bearer_scheme() -> SecurityScheme {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let description = "An access token of `POST /v2/auth/token`, or an API key.";
    SecurityScheme::Http(bearer.description(Some(description)).build())
}

fn basic_scheme() -> SecurityScheme {
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic);
    let description =
        "An API key as the password (`client_secret_basic` of OAuth). The user name has no effect.";
    SecurityScheme::Http(basic.description(Some(description)).build())
}

/// Returns the document of these routes.
pub fn document(groups: &[RouteGroup]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new()
        .security_scheme("bearer", bearer_scheme())
        .security_scheme("basic", basic_scheme());
    let mut schemas = BTreeMap::new();
    for group in groups {
        for route in group.routes() {
            let mut doc = route.doc();
            doc.operation.tags = Some(vec![group.tag.to_owned()]);
            doc.operation.operation_id = Some(route.operation_id.to_owned());
            if !route.additional_actions.is_empty() {
                let also = ExtensionsBuilder::new().add("x-cedar-also", route.additional_actions).build();
                doc.operation.extensions.get_or_insert_default().merge(also);
            }
            // Explicitly none, so that tools do not assume a missing declaration.
            doc.operation.security.get_or_insert_default();
            let responses = &mut doc.operation.responses.responses;
            for status in doc.problems {
                let (name, response) = match doc.has_oauth_errors {
                    true => (format!("ProblemOrOAuthError{status}"), problem_or_oauth_error(status)),
                    false => (format!("Problem{status}"), problem(status)),
                };
                responses.insert(status.to_string(), Ref::from_response_name(&name).into());
                components = components.response(name, response);
            }
            for (status, response) in doc.responses {
                responses.insert(status.to_string(), response.into());
            }
            let method = match route.method.as_str() {
                "POST" => HttpMethod::Post,
                "PUT" => HttpMethod::Put,
                "PATCH" => HttpMethod::Patch,
                "DELETE" => HttpMethod::Delete,
                _ => HttpMethod::Get,
            };
            paths = paths.path(&route.path, utoipa::openapi::PathItem::new(method, doc.operation));
            for (name, schema) in doc.schemas {
                let other = schemas.get(&name);
                debug_assert!(other.is_none_or(|other| *other == schema), "two schemas have the name {name}");
                schemas.insert(name, schema);
            }
        }
    }
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    let mut seen = HashSet::new();
    let tags = groups.iter().filter(|group| seen.insert(group.tag)).map(|group| {
        let described = groups.iter().filter(|other| other.tag == group.tag);
        let description = described.filter_map(|other| other.tag_description).next();
        TagBuilder::new().name(group.tag).description(description).build()
    });
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Cedargate")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Tokens, the resources of a conversation platform, and authorization decisions by Cedar policies. \
                     `x-cedar-action` names the action that a route authorizes, `x-cedar-also` further actions that it \
                     authorizes depending on the body.",
                ))
                .contact(Some(ContactBuilder::new().name(Some("Cedargate")).build()))
                .license(Some(
                    LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
                )),
        )
        .servers(Some([ServerBuilder::new()
            .url("http://127.0.0.1:8080")
            .description(Some("The default address. The document of a running service has its own."))
            .build()]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags))
        .build()
}

/// Returns the document as it is served and committed. The text is the same in every run.
pub fn document_json(document: &OpenApi) -> String {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    order_extensions(&mut document);
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Sorts the extensions of each object and puts them last, because the order of utoipa is random.
fn order_extensions(value: &mut Value) {
    if let Value::Object(fields) = value {
        let mut names: Vec<String> = fields.keys().filter(|name| name.starts_with("x-")).cloned().collect();
        names.sort_unstable();
        for name in names {
            if let Some((name, extension)) = fields.shift_remove_entry(&name) {
                fields.insert(name, extension);
            }
        }
        fields.values_mut().for_each(order_extensions);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(order_extensions);
    }
}
