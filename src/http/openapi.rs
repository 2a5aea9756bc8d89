//! The OpenAPI document, from the table of routes.

use super::list::{DEFAULT_LIMIT, ListField, MAX_LIMIT};
use super::problem::ProblemBody;
use super::routes::RouteGroup;
use crate::application::authorizer::EVALUATE_ACTION;
use crate::resource::Resource;
use crate::types::Term;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, ParameterStyle,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, KnownFormat, OpenApi, OpenApiBuilder, PathsBuilder, Ref, RefOr, Required,
    SchemaFormat, tag::TagBuilder,
};
use utoipa::{PartialSchema, ToSchema};

type Schemas = Vec<(String, RefOr<Schema>)>;

/// The operation of a route.
#[derive(Clone)]
pub struct OperationDoc {
    operation: Operation,
    responses: BTreeMap<u16, Response>,
    /// The statuses of its problems, which are described once for all operations.
    problems: BTreeSet<u16>,
    schemas: Schemas,
}

impl OperationDoc {
    /// Creates an operation with this summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self {
            operation: OperationBuilder::new().summary(Some(summary)).build(),
            responses: BTreeMap::new(),
            problems: BTreeSet::new(),
            schemas: Vec::new(),
        }
        .problems(&[429, 500, 503])
    }

    /// Creates an operation whose summary derives from its action: `listForms` becomes "List forms".
    pub fn from_action() -> Self {
        Self::new("")
    }

    /// Sets the description.
    #[must_use]
    pub fn describe(mut self, text: &str) -> Self {
        self.operation.description = Some(text.to_owned());
        self
    }

    /// Adds a parameter of the path or the query string.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.operation.parameters.get_or_insert_default().push(parameter.into());
        self
    }

    /// Adds a path parameter that is an id.
    #[must_use]
    pub fn path_id(self, name: &str, what: &str) -> Self {
        self.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some(what))
                .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))))
                .build(),
        )
    }

    fn reference<T: ToSchema>(&mut self) -> Ref {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name())
    }

    /// Sets the body.
    #[must_use]
    pub fn body<T: ToSchema>(mut self, example: Option<Value>) -> Self {
        let schema = self.reference::<T>();
        self.json_body(schema, example)
    }

    /// Declares the body optional.
    #[must_use]
    pub fn optional_body(mut self) -> Self {
        if let Some(RefOr::T(body)) = &mut self.operation.request_body {
            body.required = Some(Required::False);
        }
        self
    }

    /// Sets a form as the body.
    #[must_use]
    pub fn form<T: ToSchema>(mut self, example: Value) -> Self {
        let schema = self.reference::<T>();
        self.body_with_type("application/x-www-form-urlencoded", schema, Some(example))
    }

    fn json_body(self, schema: impl Into<RefOr<Schema>>, example: Option<Value>) -> Self {
        self.body_with_type("application/json", schema, example)
    }

    fn body_with_type(
        mut self,
        kind: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Option<Value>,
    ) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
        let body = RequestBodyBuilder::new().required(Some(Required::True)).content(kind, content);
        self.operation.request_body = Some(body.build().into());
        self.problems(&[400, 408, 413, 415])
    }

    /// Adds a response with a body.
    #[must_use]
    pub fn response<T: ToSchema>(mut self, status: u16, what: &str, example: Option<Value>) -> Self {
        let schema = self.reference::<T>();
        self.json_response(status, what, schema, example)
    }

    /// Adds a response that is a list.
    #[must_use]
    pub fn list_response<T: ToSchema>(mut self, what: &str) -> Self {
        let items = self.reference::<T>();
        self.json_response(200, what, ArrayBuilder::new().items(items), None)
    }

    fn json_response(
        mut self,
        status: u16,
        what: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Option<Value>,
    ) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
        let answer = ResponseBuilder::new().description(what).content("application/json", content);
        self.responses.insert(status, answer.build());
        self
    }

    /// Adds a response that is plain text.
    #[must_use]
    pub fn text_response(mut self, status: u16, what: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let answer = ResponseBuilder::new().description(what).content("text/plain", content);
        self.responses.insert(status, answer.build());
        self
    }

    /// Adds a response without a body.
    #[must_use]
    pub fn empty_response(mut self, status: u16, what: &str) -> Self {
        self.responses.insert(status, ResponseBuilder::new().description(what).build());
        self
    }

    /// Adds a header to a response that was added before.
    #[must_use]
    pub fn response_header(mut self, status: u16, name: &str, kind: Type, what: &str) -> Self {
        if let Some(answer) = self.responses.get_mut(&status) {
            let header = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(kind))))
                .description(Some(what))
                .build();
            answer.headers.insert(name.to_owned(), header.into());
        }
        self
    }

    /// Adds problems by their statuses.
    #[must_use]
    pub fn problems(mut self, statuses: &[u16]) -> Self {
        self.reference::<ProblemBody<'static>>();
        self.problems.extend(statuses);
        self
    }

    /// Declares the Cedar action, and that a bearer token is required.
    #[must_use]
    pub(super) fn with_authorization(mut self, action: &str) -> Self {
        if self.operation.summary.as_deref() == Some("") {
            self.operation.summary = Some(humanize_action(action));
        }
        self.operation.extensions = Some(ExtensionsBuilder::new().add("x-cedar-action", action).build());
        if action == EVALUATE_ACTION {
            let what = "Only while the database is away: the seconds since it last answered.";
            for status in [200, 204] {
                self = self.response_header(status, "X-Decision-Stale", Type::Integer, what);
            }
        }
        self.requires_bearer().problems(&[401, 403])
    }

    /// Declares that a bearer token is required.
    #[must_use]
    pub fn requires_bearer(mut self) -> Self {
        self.operation.security = Some(vec![SecurityRequirement::new("bearer", [] as [&str; 0])]);
        self
    }
}

impl std::fmt::Debug for OperationDoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doc").finish_non_exhaustive()
    }
}

/// Returns the response of a problem with this status.
fn problem(status: u16) -> Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let header = |what: &str| {
        let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        HeaderBuilder::new().schema(Some(text)).description(Some(what)).build()
    };
    let seconds = || {
        let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(1));
        HeaderBuilder::new()
            .schema(Some(number))
            .description(Some("In how many seconds to try again."))
            .build()
    };
    let answer = ResponseBuilder::new()
        .description(status_description(status))
        .content("application/problem+json", content)
        .header("X-Request-ID", header("The id of the request, as in `requestId`."));
    match status {
        401 => answer.header("WWW-Authenticate", header("How to authenticate (RFC 6750, 3).")),
        403 => answer.header("WWW-Authenticate", header("For an expired access token, how to authenticate.")),
        429 | 503 => answer.header("Retry-After", seconds()),
        _ => answer,
    }
    .build()
}

/// Returns an action as words: `listOrganizationGroups` becomes "List organization groups".
fn humanize_action(action: &str) -> String {
    let mut words = String::new();
    for (index, letter) in action.chars().enumerate() {
        match letter {
            _ if index == 0 => words.extend(letter.to_uppercase()),
            _ if letter.is_uppercase() => {
                words.push(' ');
                words.extend(letter.to_lowercase());
            }
            _ => words.push(letter),
        }
    }
    words
}

fn status_description(status: u16) -> &'static str {
    match status {
        400 => "The request is not what it should be; `errors` lists the fields.",
        401 => "No valid caller.",
        403 => "The policies do not permit this, or the access token has expired (`token_expired`).",
        404 => "There is no such thing within the caller's reach.",
        408 => "The body did not arrive in time.",
        409 => "It collides with what is there.",
        413 => "The body or the resource is too large.",
        415 => "The body is not of the type that is taken here.",
        429 => "Too many attempts or requests. Try again after `Retry-After` seconds.",
        500 => "Something went wrong in the service; its log says what, under the request's id.",
        503 => "Too busy, or the database cannot be reached. Try again after `Retry-After` seconds.",
        _ => "An error.",
    }
}

/// Returns a string parameter of the query string.
pub fn query_parameter(name: &str, what: &str, is_required: bool) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(if is_required { Required::True } else { Required::False })
        .description(Some(what))
        .schema(Some(Term::schema()))
        .build()
}

/// Returns an optional query parameter with these values.
pub fn enum_query_parameter<const N: usize>(name: &str, what: &str, words: [&str; N]) -> Parameter {
    let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(words));
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    parameter.required(Required::False).description(Some(what)).schema(Some(schema)).build()
}

/// Returns a request header.
pub fn header_parameter(name: &str, what: &str, example: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::String))
                .max_length(Some(8192))
                .examples([example]),
        ))
        .build()
}

/// Documents `GET /` of a resource.
pub(super) fn list<R: Resource>(fields: &[ListField]) -> OperationDoc {
    let doc = OperationDoc::from_action().describe(
        "What is there, of the organizations within the caller's reach of which the list is permitted.",
    );
    list_doc::<R>(doc, fields)
}

/// Documents a list with filters for these fields.
pub fn list_doc<T: ToSchema>(mut doc: OperationDoc, fields: &[ListField]) -> OperationDoc {
    let parameter = |name: &str, what: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(what))
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
                "How many at most. A page whose rows are large has fewer, and a `Link` to the rest.",
            )
            .schema(Some(number(1, Some(MAX_LIMIT), DEFAULT_LIMIT)))
            .build(),
        )
        .parameter(parameter("offset", "How many to pass over.").schema(Some(number(0, None, 0))).build())
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
    doc.list_response::<T>("The things, a bare list.")
        .response_header(200, "X-Total-Count", Type::Integer, "How many there are in all.")
        .response_header(
            200,
            "Link",
            Type::String,
            "The next part, absolute, with every filter: `<…>; rel=\"next\"`.",
        )
        .problems(&[400, 404])
}

/// Documents `GET /{id}` of a resource.
pub(super) fn fetch<R: Resource>() -> OperationDoc {
    OperationDoc::from_action()
        .path_id("id", "The id of the thing.")
        .response::<R>(200, "The thing.", None)
        .problems(&[404])
}

/// Documents `POST /` of a resource with the body `B`.
pub fn create<R: Resource, B: ToSchema>() -> OperationDoc {
    OperationDoc::from_action()
        .body::<B>(None)
        .response::<R>(201, "The new thing.", None)
        .response_header(201, "Location", Type::String, "The address of the new resource.")
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
            "Sets the fields that are sent, nested objects and lists as a whole, and leaves the others as they are. `null` \
             clears a field. The answer contains the resource only if the caller may fetch it.",
        )
        .path_id("id", "The id of the thing.");
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
        .path_id("id", "The id of the thing.")
        .empty_response(204, "It is gone.")
        .problems(&[404, 409])
}

/// Returns the document of these routes.
pub fn document(groups: &[RouteGroup]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new().security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("An access token of `POST /v2/auth/token`, or an API key."))
                .build(),
        ),
    );
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
            let responses = &mut doc.operation.responses.responses;
            for status in doc.problems {
                let name = format!("Problem{status}");
                responses.insert(status.to_string(), Ref::from_response_name(&name).into());
                components = components.response(name, problem(status));
            }
            for (status, answer) in doc.responses {
                responses.insert(status.to_string(), answer.into());
            }
            let method = match route.method.as_str() {
                "POST" => HttpMethod::Post,
                "PATCH" => HttpMethod::Patch,
                "DELETE" => HttpMethod::Delete,
                _ => HttpMethod::Get,
            };
            paths = paths.path(&route.path, utoipa::openapi::PathItem::new(method, doc.operation));
            schemas.extend(doc.schemas);
        }
    }
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    let mut named = HashSet::new();
    let tags = groups
        .iter()
        .filter(|group| named.insert(group.tag))
        .map(|group| TagBuilder::new().name(group.tag).build());
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Cedargate")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Tokens, the resources of a conversation platform, and decisions: who may do what, by Cedar policies. \
                     `x-cedar-action` names the action that a route asks about, `x-cedar-also` those that it asks about \
                     besides, depending on the body.",
                ))
                .license(Some(utoipa::openapi::LicenseBuilder::new().name("MIT OR Apache-2.0").build())),
        )
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
