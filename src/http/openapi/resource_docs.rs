//! The documentation of the operations that every resource has.

use super::OperationDoc;
use crate::http::list::{DEFAULT_LIMIT, ListField, MAX_LIMIT};
use crate::resource::Resource;
use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, Ref, RefOr, Required, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

/// Documents `GET /` of a resource.
pub(in crate::http) fn list<R: Resource>(fields: &[ListField]) -> OperationDoc {
    let doc = OperationDoc::from_action()
        .describe("Returns resources from all organizations in which the caller may list them.");
    list_doc::<R>(doc, fields)
}

/// Documents a list with filters for these fields.
pub fn list_doc<T: ToSchema>(mut doc: OperationDoc, fields: &[ListField]) -> OperationDoc {
    let parameter = |name: &str, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(description))
    };
    let number = |min: u64, max: Option<u64>, default: u64| {
        let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
        number.format(Some(format)).minimum(Some(min)).maximum(max).default(Some(json!(default)))
    };
    let sorts = fields.iter().filter(|field| field.is_sortable);
    let orders = sorts.flat_map(|field| [field.name.clone(), format!("-{}", field.name)]);
    let order = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(orders));
    let sort = ArrayBuilder::new().items(order).min_items(Some(1)).unique_items(true);
    doc = doc
        .parameter(
            parameter(
                "limit",
                "The maximum number of items. A page of large items has fewer, and a `Link` to the rest.",
            )
            .schema(Some(number(1, Some(MAX_LIMIT), DEFAULT_LIMIT)))
            .build(),
        )
        .parameter(
            parameter("offset", "The number of items to skip.").schema(Some(number(0, None, 0))).build(),
        )
        .parameter(
            parameter("sort", "Fields to sort by, each once, `-` before one for descending: `a,-b`.")
                .schema(Some(sort))
                .style(Some(ParameterStyle::Form))
                .explode(Some(false))
                .build(),
        );
    for field in fields {
        let parameter = parameter(&field.name, field.description);
        doc = doc.parameter(match &field.schema {
            Some(schema) => parameter.schema(Some(schema.clone())).build(),
            None => {
                let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
                parameter.content("application/json", ContentBuilder::new().schema(Some(any)).build()).build()
            }
        });
    }
    doc.list_response::<T>("A JSON array of resources.")
        .response_header(200, "X-Total-Count", Type::Integer, "The total number of items.")
        .response_header(
            200,
            "Link",
            Type::String,
            "The absolute URL of the next page, with all filters: `<…>; rel=\"next\"`.",
        )
        .problems(&[400, 404])
}

/// Documents `GET /{id}` of a resource.
pub(in crate::http) fn fetch<R: Resource>() -> OperationDoc {
    OperationDoc::from_action()
        .describe("Returns the resource. A missing and an inaccessible one give the same response.")
        .path_id("id", "The id of the resource.")
        .response::<R>(200, "The resource.", None)
        .problems(&[404])
}

/// Documents `POST /` of a resource with the body `B`.
pub fn create<R: Resource, B: ToSchema>() -> OperationDoc {
    OperationDoc::from_action()
        .describe(
            "Creates a resource in the organization that `organization` names, by default that of the caller. Resources that \
             it refers to must exist and be accessible.",
        )
        .body::<B>(None)
        .response::<R>(201, "The new resource.", None)
        .response_header(201, "Location", Type::String, "The URL of the new resource.")
        .problems(&[409])
}

/// Documents `PATCH /{id}` of a resource.
pub fn update<R: Resource>() -> OperationDoc {
    patch::<R>(R::Body::schema())
}

/// Documents `PATCH /{id}` of a resource whose update has further fields.
pub fn patch<R: Resource>(body: RefOr<Schema>) -> OperationDoc {
    let mut doc = OperationDoc::from_action()
        .describe(
            "Sets the fields in the body and leaves the others unchanged. Nested objects and arrays are replaced. `null` clears \
             a field. The response contains the resource only if the caller may fetch it.",
        )
        .path_id("id", "The id of the resource.");
    let name = format!("{}Patch", R::TYPE);
    if let RefOr::T(Schema::Object(body)) = body {
        let mut patch = body;
        patch.required = Vec::new();
        patch.description = Some("The fields to set.".into());
        doc.schemas.push((name.clone(), RefOr::T(Schema::Object(patch))));
    }
    R::Body::schemas(&mut doc.schemas);
    doc.json_body(Ref::from_schema_name(name), None)
        .response::<R>(200, "The changed resource.", None)
        .empty_response(204, "The resource was changed. The caller may not fetch it.")
        .problems(&[404, 409])
}

/// Documents `DELETE /{id}` of a resource.
pub fn delete<R: Resource>() -> OperationDoc {
    OperationDoc::from_action()
        .describe("Deletes the resource. One that others refer to is not deleted: 409.")
        .path_id("id", "The id of the resource.")
        .empty_response(204, "Deleted.")
        .problems(&[404, 409])
}
