//! Lists: parameters (`limit`, `offset`, `sort`, a filter for each field), and responses with total and link to the next page.

use super::base_url::absolute_url;
use super::page::PageWriter;
use super::{FieldError, Problem, body};
use crate::resource::Resource;
use crate::store::{FilterValue, ListQuery, ListResult, SortOrder};
use crate::types::strict_json::{self, JsonError};
use crate::types::{Email, FieldErrorCode, Id, InvalidValue, NO_NUL_PATTERN, OrgPath, quoted};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use std::collections::HashSet;
use std::str::FromStr;
use utoipa::Number;
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};

/// The default number of resources in a page.
pub const DEFAULT_LIMIT: u64 = 100;
/// The maximum number of resources in a page.
pub const MAX_LIMIT: u64 = 1000;

/// The requested page of a list.
#[derive(Debug)]
pub struct ListRequest {
    /// The query.
    pub query: ListQuery,
    /// The parameters of the query string without `limit` and `offset`.
    other_parameters: Vec<(String, String)>,
}

/// Returns the requested organization of a list, on which it is authorized. It is read before the other parameters, so that a
/// caller who may not list receives no errors about these.
pub fn organization(request: &HttpRequest) -> Option<String> {
    body::query_value(request, "organization")
}

/// The maximum length of a filter.
const MAX_FILTER: usize = 2000;

/// A field by which a list is filtered and sorted.
#[derive(Clone)]
pub struct ListField {
    /// The name in JSON.
    pub name: String,
    /// The column.
    pub column: String,
    /// The schema of its filter; none if the filter is JSON, for objects and arrays.
    pub schema: Option<Object>,
    /// The description of its filter.
    pub description: &'static str,
    /// Whether the list can be sorted by it.
    pub is_sortable: bool,
}

impl ListField {
    /// The description of a filter by equality.
    pub const EXACT_MATCH: &'static str = "Exact match.";

    /// Creates a field whose values have this schema, without references.
    pub fn new(name: &str, column: &str, schema: RefOr<Schema>, what: &'static str) -> Self {
        let schema = match schema {
            RefOr::T(Schema::Object(schema)) if value_type(&schema) != Type::Object => {
                Some(filter_schema(schema))
            }
            _ => None,
        };
        Self {
            name: name.to_owned(),
            column: column.to_owned(),
            schema,
            description: what,
            is_sortable: true,
        }
    }
}

/// Returns the schema of a filter for the schema of a field.
fn filter_schema(mut schema: Object) -> Object {
    let is_text =
        value_type(&schema) == Type::String && schema.enum_values.is_none() && schema.format.is_none();
    if is_text && schema.pattern.as_deref().is_none_or(|pattern| pattern == NO_NUL_PATTERN) {
        schema.pattern = Some(NO_NUL_PATTERN.to_owned());
        schema.max_length = Some(schema.max_length.map_or(MAX_FILTER, |most| most.min(MAX_FILTER)));
    }
    schema
}

/// Returns the type of a schema's non-null values.
fn value_type(schema: &Object) -> Type {
    match &schema.schema_type {
        SchemaType::Type(kind) => kind.clone(),
        SchemaType::Array(kinds) => {
            kinds.iter().find(|kind| **kind != Type::Null).cloned().unwrap_or(Type::String)
        }
        SchemaType::AnyValue => Type::Object,
    }
}

/// Returns the fields of a resource that are columns, in the order of its schema.
pub fn fields<R: Resource>() -> Vec<ListField> {
    let RefOr::T(Schema::Object(row)) = R::schema() else { return Vec::new() };
    let mut components = Vec::new();
    R::schemas(&mut components);
    let resolved = |schema: RefOr<Schema>| match &schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default().to_owned();
            components.iter().find(|(known, _)| *known == name).map_or(schema, |(_, schema)| schema.clone())
        }
        RefOr::T(_) => schema,
    };
    row.properties
        .into_iter()
        .filter_map(|(name, schema)| {
            let column = R::column_name(&name)?;
            Some(ListField::new(&name, &column, resolved(non_null(schema)), ListField::EXACT_MATCH))
        })
        .collect()
}

/// Returns the schema of a nullable field without null.
fn non_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::OneOf(choice)) => choice
            .items
            .into_iter()
            .find(|item| {
                !matches!(
                    item,
                    RefOr::T(Schema::Object(Object { schema_type: SchemaType::Type(Type::Null), .. }))
                )
            })
            .unwrap_or_else(|| RefOr::T(Schema::Object(Object::new()))),
        other => other,
    }
}

impl std::fmt::Debug for ListField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.name, self.column)
    }
}

impl ListField {
    /// Parses a filter into a column value.
    fn parse_value(&self, text: &str) -> Result<FilterValue, InvalidValue> {
        let Some(schema) = &self.schema else { return parse_json_value(text) };
        match value_type(schema) {
            Type::String => parse_text_value(schema, text),
            Type::Boolean => match text {
                "true" => Ok(FilterValue::Boolean(true)),
                "false" => Ok(FilterValue::Boolean(false)),
                _ => Err(InvalidValue::new(
                    FieldErrorCode::InvalidFormat,
                    format!("expected true or false, got {}", quoted(text)),
                )),
            },
            Type::Integer => {
                let number: i64 = text.parse().map_err(|_| {
                    let message = format!("expected an integer, got {}", quoted(text));
                    InvalidValue::new(FieldErrorCode::InvalidFormat, message)
                })?;
                let out_of_range = |message| Err(InvalidValue::new(FieldErrorCode::OutOfRange, message));
                match (as_i64(schema.minimum.as_ref()), as_i64(schema.maximum.as_ref())) {
                    (Some(min), _) if number < min => out_of_range(format!("{number} is less than {min}")),
                    (_, Some(max)) if number > max => out_of_range(format!("{number} is more than {max}")),
                    _ => Ok(FilterValue::Integer(number)),
                }
            }
            Type::Object | Type::Array | Type::Number | Type::Null => parse_json_value(text),
        }
    }
}

fn as_i64(number: Option<&Number>) -> Option<i64> {
    match number? {
        Number::Int(number) => i64::try_from(*number).ok(),
        Number::UInt(number) => i64::try_from(*number).ok(),
        Number::Float(_) => None,
    }
}

/// Parses the filter of a string field into a column value.
fn parse_text_value(schema: &Object, text: &str) -> Result<FilterValue, InvalidValue> {
    /// The text in the form in which the column stores a value of type `T`.
    fn normalized<T: FromStr<Err = InvalidValue> + ToString>(
        text: &str,
    ) -> Result<FilterValue, InvalidValue> {
        Ok(FilterValue::Text(text.parse::<T>()?.to_string()))
    }
    if text.contains('\0') {
        return Err(InvalidValue::new(
            FieldErrorCode::InvalidFormat,
            "the character U+0000 cannot be stored, so nothing matches it",
        ));
    }
    if let Some(allowed) = &schema.enum_values {
        if allowed.iter().any(|value| value.as_str() == Some(text)) {
            return Ok(FilterValue::Text(text.to_owned()));
        }
        let values: Vec<&str> = allowed.iter().filter_map(|value| value.as_str()).collect();
        return Err(InvalidValue::new(
            FieldErrorCode::UnknownValue,
            format!("expected one of {}; got {}", values.join(", "), quoted(text)),
        ));
    }
    match (&schema.format, schema.pattern.as_deref()) {
        (Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), _) => {
            return Ok(FilterValue::Time(text.parse()?));
        }
        (Some(SchemaFormat::KnownFormat(KnownFormat::Email)), _) => return normalized::<Email>(text),
        (_, Some(Id::PATTERN)) => return normalized::<Id>(text),
        (_, Some(OrgPath::PATTERN)) => return normalized::<OrgPath>(text),
        _ => {}
    }
    let (length, min) = (text.chars().count(), schema.min_length.unwrap_or(0));
    let max = schema.max_length.unwrap_or(MAX_FILTER);
    if (min..=max).contains(&length) {
        return Ok(FilterValue::Text(text.to_owned()));
    }
    let code = if length < min { FieldErrorCode::TooShort } else { FieldErrorCode::TooLong };
    Err(InvalidValue::new(code, format!("expected {min} to {max} characters, got {length}")))
}

/// Parses the filter of an object or array: JSON in its normalized form.
fn parse_json_value(text: &str) -> Result<FilterValue, InvalidValue> {
    let invalid =
        |code, error: &dyn std::fmt::Display| InvalidValue::new(code, format!("invalid JSON: {error}"));
    strict_json::check(text.as_bytes()).map_err(|error| match error {
        JsonError::DuplicateKey(_) => invalid(FieldErrorCode::Duplicate, &error),
        JsonError::Malformed(_) => invalid(FieldErrorCode::InvalidFormat, &error),
    })?;
    let mut value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| invalid(FieldErrorCode::InvalidFormat, &error))?;
    value.sort_all_objects();
    Ok(FilterValue::Text(value.to_string()))
}

impl ListRequest {
    /// Parses the query string of a list with these fields.
    ///
    /// # Errors
    /// 400 with the invalid parameters. Unknown ones are invalid, because a misspelled filter would return everything.
    pub fn parse(request: &HttpRequest, fields: &[ListField]) -> Result<Self, Problem> {
        let mut query = ListQuery { limit: DEFAULT_LIMIT, ..ListQuery::default() };
        let mut errors = Vec::new();
        let mut seen = Vec::new();
        let mut other_parameters = Vec::new();
        for (name, text) in body::query_pairs(request)? {
            if seen.contains(&name) {
                errors.push(FieldError::new(name, FieldErrorCode::Duplicate, "duplicate parameter"));
                continue;
            }
            seen.push(name.clone());
            let parsed = match name.as_str() {
                "limit" => parse_number(&text, 1, MAX_LIMIT).map(|limit| query.limit = limit),
                "offset" => {
                    parse_number(&text, 0, i64::MAX.unsigned_abs()).map(|offset| query.offset = offset)
                }
                "sort" => parse_sort(&text, fields).map(|sort| query.sort = sort),
                _ => match fields.iter().find(|field| field.name == name) {
                    Some(field) => match field.parse_value(&text) {
                        // The authorization handles a malformed organization like a missing one.
                        Err(_) if name == "organization" => Ok(()),
                        value => value.map(|value| query.filters.push((field.column.clone(), value))),
                    },
                    None => Err(InvalidValue::new(
                        FieldErrorCode::UnknownField,
                        format!("unknown parameter; expected one of {}", parameter_names(fields)),
                    )),
                },
            };
            match parsed {
                Err(error) => errors.push(FieldError::new(name, error.code, error)),
                Ok(()) if name != "limit" && name != "offset" => other_parameters.push((name, text)),
                Ok(()) => {}
            }
        }
        if errors.is_empty() {
            Ok(Self { query, other_parameters })
        } else {
            Err(Problem::invalid_fields(errors))
        }
    }
}

fn parameter_names(fields: &[ListField]) -> String {
    let mut names = vec!["limit", "offset", "sort"];
    names.extend(fields.iter().map(|field| field.name.as_str()));
    names.join(", ")
}

fn parse_number(text: &str, min: u64, max: u64) -> Result<u64, InvalidValue> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        parsed => {
            let code =
                if parsed.is_ok() { FieldErrorCode::OutOfRange } else { FieldErrorCode::InvalidFormat };
            let message = format!("expected an integer from {min} to {max}, got {}", quoted(text));
            Err(InvalidValue::new(code, message))
        }
    }
}

fn parse_sort(text: &str, fields: &[ListField]) -> Result<Vec<(String, SortOrder)>, InvalidValue> {
    let mut seen = HashSet::new();
    text.split(',')
        .map(|item| {
            let (name, order) = item
                .strip_prefix('-')
                .map_or((item, SortOrder::Ascending), |name| (name, SortOrder::Descending));
            let field = fields.iter().find(|field| field.is_sortable && field.name == name);
            let field = field.ok_or_else(|| {
                let fields = fields.iter().filter(|field| field.is_sortable);
                let names: Vec<&str> = fields.map(|field| field.name.as_str()).collect();
                let message =
                    format!("cannot sort by {}; expected one of {}", quoted(name), names.join(", "));
                InvalidValue::new(FieldErrorCode::UnknownValue, message)
            })?;
            if !seen.insert(name) {
                let message = format!("duplicate field {}", quoted(name));
                return Err(InvalidValue::new(FieldErrorCode::Duplicate, message));
            }
            Ok((field.column.clone(), order))
        })
        .collect()
}

/// Returns 200 with a page, `X-Total-Count`, and a `Link` to the next page if there is one.
///
/// # Errors
/// 503 if the budget for bodies is exhausted.
pub fn list_response(
    request: &HttpRequest,
    list_request: &ListRequest,
    page: PageWriter,
    listed: ListResult,
) -> Result<HttpResponse, Problem> {
    let mut response = HttpResponse::Ok();
    response.insert_header(("X-Total-Count", listed.total));
    // A page that reached its size limit has fewer rows than `limit`.
    let next = list_request.query.offset.saturating_add(listed.item_count.min(list_request.query.limit));
    if next < listed.total && listed.item_count > 0 {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.extend_pairs(&list_request.other_parameters);
        pairs
            .append_pair("limit", &list_request.query.limit.to_string())
            .append_pair("offset", &next.to_string());
        let link = format!("<{}?{}>; rel=\"next\"", absolute_url(request, request.path()), pairs.finish());
        response.insert_header((header::LINK, link));
    }
    page.finish(request, response)
}
