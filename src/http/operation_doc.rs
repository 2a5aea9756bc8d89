//! The OpenAPI operation of a route.

use super::problem::{OAuthErrorBody, ProblemBody};
use crate::application::authorizer::EVALUATE_ACTION;
use crate::application::creation::MAX_ELEMENTS;
use crate::types::{Id, Term};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

type Schemas = Vec<(String, RefOr<Schema>)>;

/// The operation of a route.
#[derive(Clone)]
pub struct OperationDoc {
    pub(super) operation: Operation,
    pub(super) responses: BTreeMap<u16, Response>,
    /// The statuses of its problems, which are described once for all operations.
    pub(super) problems: BTreeSet<u16>,
    /// Whether problems may also have the form of OAuth errors.
    pub(super) has_oauth_errors: bool,
    pub(super) schemas: Schemas,
}

impl OperationDoc {
    /// Creates an operation with this summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self {
            operation: OperationBuilder::new().summary(Some(summary)).build(),
            responses: BTreeMap::new(),
            problems: BTreeSet::new(),
            has_oauth_errors: false,
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

    /// Sets the example of a parameter that was added before.
    #[must_use]
    pub(super) fn parameter_example(mut self, name: &str, example: impl Into<Value>) -> Self {
        for parameter in self.operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && parameter.name == name
            {
                *parameter = ParameterBuilder::from(parameter.clone()).example(Some(example.into())).build();
                break;
            }
        }
        self
    }

    /// Returns the names of the query parameters.
    pub(super) fn query_parameters(&self) -> impl Iterator<Item = &str> {
        let parameters = self.operation.parameters.iter().flatten();
        parameters.filter_map(|parameter| match parameter {
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => {
                Some(parameter.name.as_str())
            }
            _ => None,
        })
    }

    /// Adds a path parameter that is an id. The example is `me` where that is a name of the caller's own user.
    #[must_use]
    pub fn path_id(self, name: &str, description: &str) -> Self {
        let example = if description.contains("`me`") { "me".to_owned() } else { Id::EXAMPLE.to_string() };
        self.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some(description))
                .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))))
                .example(Some(example.into()))
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

    /// Sets the body: one of these, or an array of them.
    #[must_use]
    pub(super) fn body_or_array<T: ToSchema>(mut self, example: Value) -> Self {
        let schema = one_or_array(self.reference::<T>());
        self.json_body(schema, Some(example))
    }

    /// Adds a response with one of these, or an array of them.
    #[must_use]
    pub(super) fn response_or_array<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        let schema = one_or_array(self.reference::<T>());
        self.json_response(status, description, schema, None)
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

    /// Adds a form as another representation of the body.
    #[must_use]
    pub fn or_form<T: ToSchema>(mut self, example: Value) -> Self {
        let schema = self.reference::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        if let Some(RefOr::T(body)) = &mut self.operation.request_body {
            body.content.insert("application/x-www-form-urlencoded".to_owned(), content.into());
        }
        self
    }

    pub(super) fn json_body(self, schema: impl Into<RefOr<Schema>>, example: Option<Value>) -> Self {
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
    pub fn response<T: ToSchema>(mut self, status: u16, description: &str, example: Option<Value>) -> Self {
        let schema = self.reference::<T>();
        self.json_response(status, description, schema, example)
    }

    /// Adds a response that is a list.
    #[must_use]
    pub fn list_response<T: ToSchema>(mut self, description: &str) -> Self {
        let items = self.reference::<T>();
        self.json_response(200, description, ArrayBuilder::new().items(items), None)
    }

    fn json_response(
        mut self,
        status: u16,
        description: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Option<Value>,
    ) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        self.responses.insert(status, response.build());
        self
    }

    /// Declares that a response which was added before may also have this media type.
    #[must_use]
    pub fn or_response<T: ToSchema>(mut self, status: u16, media_type: &str, example: Value) -> Self {
        let schema = self.reference::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        if let Some(response) = self.responses.get_mut(&status) {
            response.content.insert(media_type.to_owned(), content.into());
        }
        self
    }

    /// Declares that a response may also be a stream of server-sent events.
    #[must_use]
    pub fn event_stream(mut self, status: u16) -> Self {
        let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        if let Some(response) = self.responses.get_mut(&status) {
            response.content.insert("text/event-stream".to_owned(), content.into());
        }
        self
    }

    /// Adds a response that is plain text.
    #[must_use]
    pub fn text_response(mut self, status: u16, description: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(description).content("text/plain", content);
        self.responses.insert(status, response.build());
        self
    }

    /// Adds a response without a body.
    #[must_use]
    pub fn empty_response(mut self, status: u16, description: &str) -> Self {
        self.responses.insert(status, ResponseBuilder::new().description(description).build());
        self
    }

    /// Adds a header to a response that was added before.
    #[must_use]
    pub fn response_header(mut self, status: u16, name: &str, kind: Type, description: &str) -> Self {
        if let Some(response) = self.responses.get_mut(&status) {
            let header = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(kind))))
                .description(Some(description))
                .build();
            response.headers.insert(name.to_owned(), header.into());
        }
        self
    }

    /// Declares that the request may have an `Idempotency-Key`.
    #[must_use]
    pub(super) fn accepts_idempotency_key(mut self) -> Self {
        let description = "A unique text of at most 255 characters, such as a UUID. If the request is repeated with the same key \
                           within 24 hours, it is not executed again: the response is that of the first request.";
        let statuses: Vec<u16> = self.responses.keys().copied().filter(|status| *status < 300).collect();
        for status in statuses {
            let description =
                "`true` if the response is that of an earlier request with the same `Idempotency-Key`.";
            self = self.response_header(status, "Idempotency-Replayed", Type::Boolean, description);
        }
        let example = "8e03978e-40d5-43dd-bc93-6894a57f9324";
        let mut parameter = header_parameter("Idempotency-Key", description, example);
        if let Some(RefOr::T(Schema::Object(key))) = &mut parameter.schema {
            key.min_length = Some(1);
            key.max_length = Some(255);
            key.pattern = Some(r"^[!#-\[\]-~]+$".to_owned());
        }
        self.parameter(parameter).problems(&[400, 409])
    }

    /// Adds problems by their statuses.
    #[must_use]
    pub fn problems(mut self, statuses: &[u16]) -> Self {
        self.reference::<ProblemBody<'static>>();
        self.problems.extend(statuses);
        self
    }

    /// Declares that problems may also have the form of OAuth errors.
    #[must_use]
    pub fn oauth_errors(mut self) -> Self {
        self.reference::<OAuthErrorBody<'static>>();
        Self { has_oauth_errors: true, ..self }
    }

    /// Declares the Cedar action, and that a bearer token is required.
    #[must_use]
    pub(super) fn with_authorization(mut self, action: &str) -> Self {
        if self.operation.summary.as_deref() == Some("") {
            self.operation.summary = Some(humanize_action(action));
        }
        self.operation.extensions = Some(ExtensionsBuilder::new().add("x-cedar-action", action).build());
        if action == EVALUATE_ACTION {
            let description = "Only if the database is unavailable: the seconds since it last answered.";
            for status in [200, 204] {
                self = self.response_header(status, "X-Decision-Stale", Type::Integer, description);
            }
        }
        self.requires_bearer().problems(&[401, 403])
    }

    /// Declares that an API key may be sent as a client secret instead of a bearer token.
    #[must_use]
    pub fn accepts_basic(mut self) -> Self {
        let basic = SecurityRequirement::new("basic", [] as [&str; 0]);
        self.operation.security.get_or_insert_default().push(basic);
        self
    }

    /// Declares that a bearer token is required.
    #[must_use]
    pub fn requires_bearer(mut self) -> Self {
        self.operation.security = Some(vec![SecurityRequirement::new("bearer", [] as [&str; 0])]);
        self
    }
}

/// Builds the OpenAPI operation of a route on demand, because all of them together are large.
pub trait OperationDocFn: Fn() -> OperationDoc + Send + Sync + 'static {}

impl<F: Fn() -> OperationDoc + Send + Sync + 'static> OperationDocFn for F {}

impl std::fmt::Debug for OperationDoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperationDoc").finish_non_exhaustive()
    }
}

/// Returns the schema of one or several values.
fn one_or_array(schema: Ref) -> RefOr<Schema> {
    let several = ArrayBuilder::new().items(schema.clone()).min_items(Some(1)).max_items(Some(MAX_ELEMENTS));
    OneOfBuilder::new().item(schema).item(several).into()
}

/// Returns the response of a problem with this status.
pub(super) fn problem(status: u16) -> Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let header = |description: &str| {
        let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        HeaderBuilder::new().schema(Some(text)).description(Some(description)).build()
    };
    let seconds = || {
        let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(1));
        HeaderBuilder::new()
            .schema(Some(number))
            .description(Some("The number of seconds to wait before a retry."))
            .build()
    };
    let response = ResponseBuilder::new()
        .description(status_description(status))
        .content("application/problem+json", content)
        .header("X-Request-ID", header("The request id, as in `requestId`."));
    match status {
        401 => response.header("WWW-Authenticate", header("How to authenticate (RFC 6750, section 3).")),
        403 => response
            .header("WWW-Authenticate", header("How to authenticate, if the access token has expired.")),
        429 | 503 => response.header("Retry-After", seconds()),
        _ => response,
    }
    .build()
}

/// Returns the response of a problem that may also have the form of an OAuth error.
pub(super) fn problem_or_oauth_error(status: u16) -> Response {
    let mut response = problem(status);
    let schema = Ref::from_schema_name(OAuthErrorBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    response.content.insert("application/json".to_owned(), content.into());
    response
}

/// Returns an action as words: `listOrganizationGroups` becomes "List organization groups".
pub(super) fn humanize_action(action: &str) -> String {
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
        400 => "Invalid request; see `errors`.",
        401 => "Missing or invalid credential.",
        403 => "Not authorized, or the access token has expired (`token_expired`).",
        404 => "The resource does not exist or is not accessible.",
        408 => "The request body was not received in time.",
        409 => "Conflict with existing state.",
        410 => "What the request refers to was deleted.",
        412 => "The resource does not have the version in `If-Match`.",
        413 => "The request body or the resource is too large.",
        415 => "Unsupported media type of the request body.",
        429 => "Too many login attempts or requests. Retry after `Retry-After` seconds.",
        500 => "Internal error; the log has an entry with the request id.",
        503 => "Too busy, or the database is unavailable. Retry after `Retry-After` seconds.",
        _ => "An error.",
    }
}

/// Returns a string parameter of the query string.
pub fn query_parameter(name: &str, description: &str, is_required: bool) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(if is_required { Required::True } else { Required::False })
        .description(Some(description))
        .schema(Some(Term::schema()))
        .build()
}

/// Returns an optional query parameter with these values.
pub fn enum_query_parameter<const N: usize>(name: &str, description: &str, words: [&str; N]) -> Parameter {
    let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(words));
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    parameter.required(Required::False).description(Some(description)).schema(Some(schema)).build()
}

/// Returns a request header.
pub fn header_parameter(name: &str, description: &str, example: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::String))
                .max_length(Some(8192))
                .examples([example]),
        ))
        .build()
}
