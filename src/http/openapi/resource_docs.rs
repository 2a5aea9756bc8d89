//! The documentation of the operations that every resource has.

use super::list_parameters::{list_parameter, list_parameters};
use super::{OperationDoc, enum_query_parameter, header_parameter};
use crate::http::query::{ListSpec, platform_fields};
use crate::resource::Resource;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// The description of the id in a path. No id is the same in all installations.
const RESOURCE_ID: &str = "The id of the resource. The example stands for the id of one that exists: create one with the example of `POST`.";

/// Documents `GET /` of a resource. NDJSON is not declared as a second type of the response, because generated clients would
/// then return either of two types.
pub fn list<R: Resource>(spec: &ListSpec) -> OperationDoc {
    let doc = OperationDoc::from_action().describe(
        "Returns resources from all organizations in which the caller may list them. A filter may be repeated: all of them \
         apply. docs/lists.md describes the query language. With `Accept: application/x-ndjson` the whole list is streamed, \
         one resource a line: see docs/bulk.md.",
    );
    list_doc::<R>(shape_parameters::<R>(doc), spec)
}

/// Documents a list with these filters.
pub fn list_doc<T: ToSchema>(doc: OperationDoc, spec: &ListSpec) -> OperationDoc {
    let doc = list_parameters(doc, spec).list_response::<T>("A JSON array of resources.");
    doc.response_header(
        200,
        "X-Total-Count",
        Type::Integer,
        "The total number of items, unless `total=false`.",
    )
    .response_header(
        200,
        "Link",
        Type::String,
        "The absolute URL of the next page, with all filters: `<…>; rel=\"next\"`.",
    )
    .problems(&[400, 404])
}

/// Adds the parameters of `select`, `populate` and `include`.
fn shape_parameters<R: Resource>(doc: OperationDoc) -> OperationDoc {
    let mut fields: Vec<String> = match R::schema() {
        RefOr::T(Schema::Object(row)) => row.properties.into_keys().collect(),
        _ => Vec::new(),
    };
    let mut references: Vec<String> =
        R::REFERENCE_FIELDS.iter().map(|(field, _)| (*field).to_owned()).collect();
    // Accepted, although no resource has them.
    let others = platform_fields(R::TYPE).iter().map(|&field| field.to_owned());
    fields.extend(others.clone());
    references.extend(others);
    doc.parameter(list_parameter("select", "The fields to return, and `id`.", fields))
        .parameter(list_parameter(
            "populate",
            "The references to replace by the resources that the caller could fetch. A path may lead on, as in \
             `conversation.contact`.",
            references,
        ))
        .parameter(enum_query_parameter(
            "include",
            "`permissions` adds the actions that the caller may perform on each resource.",
            ["permissions"],
        ))
}

/// Documents `GET /{id}` of a resource.
pub(in crate::http) fn fetch<R: Resource>() -> OperationDoc {
    let doc = OperationDoc::from_action()
        .describe("Returns the resource. A missing and an inaccessible one give the same response.")
        .path_id("id", RESOURCE_ID);
    shape_parameters::<R>(doc)
        .parameter(entity_tags(
            "If-None-Match",
            "The `ETag` of an earlier response. If it is still current, the response is 304.",
            "\"9c1185a5c5e9fc54612808977ee8f548\"",
        ))
        .response::<R>(200, "The resource.", None)
        .response_header(200, "ETag", Type::String, "The version of the resource.")
        .empty_response(304, "The client has the current version.")
        .problems(&[400, 404])
}

/// Returns a header parameter that is `*` or entity tags in quotation marks.
fn entity_tags(name: &str, description: &str, example: &str) -> Parameter {
    let mut parameter = header_parameter(name, description, example);
    if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema {
        schema.pattern = Some(r#"^(\*|(W/)?"[!#-+.-~]*"(, (W/)?"[!#-+.-~]*")*)$"#.to_owned());
    }
    parameter
}

fn if_match(doc: OperationDoc) -> OperationDoc {
    doc.parameter(entity_tags(
        "If-Match",
        "The `ETag` of the resource. If the resource has changed since, the response is 412. `*` is every version.",
        "*",
    ))
    .problems(&[400, 412])
}

/// Documents `POST /` of a resource with the body `B`.
pub fn create<R: Resource, B: ToSchema>() -> OperationDoc {
    OperationDoc::from_action()
        .describe(
            "Creates a resource in the organization that `organization` names, by default that of the caller. Resources that \
             it refers to must exist and be accessible.\n\nAn array of at most 1000 creates all resources or none; an error names \
             the index, such as `[3].name`.",
        )
        .body_or_array::<B>(R::examples().0)
        .response_or_array::<R>(201, "The new resource, or an array of the new resources.")
        .response_header(201, "Location", Type::String, "The URL of the new resource. Absent for an array.")
        .response_header(201, "ETag", Type::String, "The version of the resource. Absent for an array.")
        .problems(&[409])
}

/// Documents `PATCH /{id}` of a resource.
pub fn update<R: Resource>() -> OperationDoc {
    patch::<R>(R::Body::schema())
}

/// Documents `PATCH /{id}` of a resource whose update has further fields.
pub fn patch<R: Resource>(body: RefOr<Schema>) -> OperationDoc {
    let doc = OperationDoc::from_action()
        .describe(
            "Sets the fields in the body and leaves the others unchanged. Nested objects and arrays are replaced. `null` clears \
             a field. The response contains the resource only if the caller may fetch it.",
        )
        .path_id("id", RESOURCE_ID);
    let name = format!("{}Patch", R::TYPE);
    let doc = patch_body::<R>(body, &name, doc);
    changed::<R>(doc.json_body(Ref::from_schema_name(name), Some(R::examples().1)))
}

/// Adds the responses to a change.
fn changed<R: Resource>(doc: OperationDoc) -> OperationDoc {
    if_match(doc)
        .response::<R>(200, "The changed resource.", None)
        .response_header(200, "ETag", Type::String, "The version of the resource.")
        .empty_response(204, "The resource was changed. The caller may not fetch it.")
        .problems(&[404, 409])
}

/// Adds the schema of a patch of a resource under this name.
pub(super) fn patch_body<R: Resource>(
    body: RefOr<Schema>,
    name: &str,
    mut doc: OperationDoc,
) -> OperationDoc {
    if let RefOr::T(Schema::Object(body)) = body {
        let mut patch = body;
        patch.required = Vec::new();
        patch.description = Some("The fields to set.".into());
        doc.schemas.push((name.to_owned(), RefOr::T(Schema::Object(patch))));
    }
    R::Body::schemas(&mut doc.schemas);
    doc
}

/// Documents `PUT /{id}` of a resource.
pub fn replace<R: Resource>() -> OperationDoc {
    let doc = OperationDoc::from_action()
        .describe(
            "Replaces the fields that clients write. Those that the body omits get their defaults. The response contains the \
             resource only if the caller may fetch it.",
        )
        .path_id("id", RESOURCE_ID);
    changed::<R>(doc.body::<R::Body>(Some(R::examples().1)))
}

/// Documents `DELETE /{id}` of a resource.
pub fn delete<R: Resource>() -> OperationDoc {
    let doc = OperationDoc::from_action()
        .describe("Deletes the resource. One that others refer to is not deleted: 409.")
        .path_id("id", RESOURCE_ID);
    if_match(doc).empty_response(204, "Deleted.").problems(&[404, 409])
}
