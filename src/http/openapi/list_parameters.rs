//! The parameters of lists. Each is typed, so that generated clients can send it.

use super::OperationDoc;
use crate::http::query::field::{MAX_FILTER, ValueKind};
use crate::http::query::selection::DRY_RUN;
use crate::http::query::value::{MAX_CONTAINS, MAX_VALUES};
use crate::http::query::{DEFAULT_LIMIT, ListSpec, MAX_LIMIT, QueryField};
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, RefOr, Required, SchemaFormat};

/// A list, a quoted text, or a comparison or none and a text that does not begin like an operator.
const TEXT: &str = r#"^!?(\[[A-Za-z0-9]{1,20}(,[A-Za-z0-9]{1,20}){0,9}\]|"[A-Za-z0-9 !]{0,20}"|([~^]|>=?|<=?)?[^!<>~^\["\u0000][^\u0000]*)$"#;
/// A date that exists in every year.
const DATE: &str = "20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])";
const ID: &str = "[0-9a-fA-F]{24}";

/// Adds the parameters of a list.
pub(super) fn list_parameters(doc: OperationDoc, spec: &ListSpec) -> OperationDoc {
    let sortable = spec.fields.iter().filter(|field| field.is_sortable);
    let orders = sortable.flat_map(|field| [field.name.clone(), format!("-{}", field.name)]).collect();
    let mut doc = doc
        .parameter(parameter(
            "limit",
            "The maximum number of items. A page of large items has fewer, and a `Link` to the rest.",
            number(1, Some(MAX_LIMIT), DEFAULT_LIMIT),
        ))
        .parameter(parameter("offset", "The number of items to skip.", number(0, None, 0)));
    if spec.has_cursors {
        let cursor = text().pattern(Some("^[0-9a-f]+$")).max_length(Some(32 * 1024));
        doc = doc.parameter(parameter(
            "after",
            "The cursor in the `Link` to the next page. Not with `offset`.",
            cursor,
        ));
    }
    let doc = doc
        .parameter(list_parameter(
            "sort",
            "Fields to sort by, each once, `-` before one for descending: `a,-b`. Items without a value are last.",
            orders,
        ))
        .parameter(parameter(
            "total",
            "Whether the items are counted for `X-Total-Count`. `false` is faster on long lists.",
            ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean)).default(Some(json!(true))),
        ));
    filter_parameters(doc, spec)
}

/// Adds the parameters of the filters.
pub(super) fn filter_parameters(mut doc: OperationDoc, spec: &ListSpec) -> OperationDoc {
    for field in &spec.fields {
        doc = doc.parameter(filter_parameter(field));
        if field.free_objects.is_some() {
            doc = doc.parameter(free_parameter(field));
        }
    }
    if spec.resource.is_some() {
        doc = doc.parameter(org_path_parameter());
    }
    doc
}

/// Returns the parameter of a dry run.
pub(super) fn dry_run_parameter() -> Parameter {
    let schema =
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean)).default(Some(json!(false)));
    builder(DRY_RUN, "Whether nothing is changed, and the response says what would be.")
        .schema(Some(schema))
        .example(Some(json!(true)))
        .build()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

fn number(min: u64, max: Option<u64>, default: u64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(min))
        .maximum(max)
        .default(Some(json!(default)))
}

fn builder(name: &str, description: &str) -> ParameterBuilder {
    let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    builder.required(Required::False).description(Some(description))
}

fn parameter(name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    builder(name, description).schema(Some(schema)).build()
}

/// Returns a parameter that is a list of some of these values, separated by commas. Clients that repeat the parameter instead are
/// understood, too.
pub(super) fn list_parameter(name: &str, description: &str, values: Vec<String>) -> Parameter {
    let items = text().enum_values(Some(values));
    let list = ArrayBuilder::new().items(items).min_items(Some(1)).unique_items(true);
    builder(name, description)
        .schema(Some(list))
        .style(Some(ParameterStyle::Form))
        .explode(Some(false))
        .build()
}

fn org_path_parameter() -> Parameter {
    let pattern = format!("^\\^?{ID}(#{ID})*$");
    let examples = [format!("^{}", crate::types::Id::EXAMPLE)];
    let schema = text().pattern(Some(pattern)).examples(examples);
    parameter(
        "orgPath",
        "`^` and the id or path of an organization: of it and of those below it. Without `^`: of it alone. Not with \
         `organization`.",
        schema,
    )
}

/// Returns the parameter for values in the free objects of a field, such as `meta.intent=order`.
fn free_parameter(field: &QueryField) -> Parameter {
    let name = &field.name;
    let value = text().pattern(Some(r"^!?(([~^]|>=?|<=?)?[A-Za-z][^\u0000]*|(>=?|<=?)?[1-9][0-9]{0,5})$"));
    let value = value.max_length(Some(MAX_CONTAINS));
    let schema = ObjectBuilder::new()
        .property_names(Some(text().pattern(Some(format!("^{name}\\.[A-Za-z0-9_]{{1,40}}$"))).build()))
        .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
        .examples([json!({ (format!("{name}.intent")): "order", (format!("{name}.count")): ">=5" })]);
    let description = format!(
        "Values within `{name}`: each property is a parameter of its own, such as `{name}.intent=order`. Numbers, `true` and \
         `false` match values of their own type; quoted, they are texts."
    );
    // The name is not sent. It differs from that of the field also where generators replace punctuation.
    builder(&format!("{name}.key"), &description)
        .schema(Some(schema))
        .style(Some(ParameterStyle::Form))
        .explode(Some(true))
        .build()
}

/// Returns the parameter of a filter.
fn filter_parameter(field: &QueryField) -> Parameter {
    let description = match field.description {
        "" => operators(&field.kind).to_owned(),
        other => other.to_owned(),
    };
    parameter(&field.name, &description, filter_schema(&field.kind))
}

/// Returns the operators of a kind of values, as text.
fn operators(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Json => "The whole value as JSON, or `null`; `!` before it for the opposite.",
        ValueKind::Time | ValueKind::Integer { .. } => {
            "A value, `[a,b]`, `null`, or `>`, `>=`, `<`, `<=` and a value; `!` before it for the opposite."
        }
        ValueKind::Text { .. } | ValueKind::Any => {
            "A value, `[a,b]`, `null`, `~` and a part, `^` and a beginning, or `>`, `>=`, `<`, `<=` and a value; `!` before it \
             for the opposite. A value in quotation marks is a JSON string."
        }
        ValueKind::Email | ValueKind::Path => {
            "A value, `[a,b]`, `null`, `~` and a part, or `^` and a beginning; `!` before it for the opposite."
        }
        ValueKind::Id | ValueKind::Enum(_) | ValueKind::Boolean => {
            "A value, `[a,b]` or `null`; `!` before it for the opposite."
        }
    }
}

/// Returns the pattern of a value, `[a,b]` or `null`, with or without `!`.
fn one_of(value: &str) -> String {
    let most = MAX_VALUES - 1;
    format!("^!?(null|{value}|\\[({value}|null)(,({value}|null)){{0,{most}}}\\])$")
}

fn filter_schema(kind: &ValueKind) -> RefOr<Schema> {
    let id = crate::types::Id::EXAMPLE.to_string();
    match kind {
        ValueKind::Text { max, .. } => text()
            .pattern(Some(TEXT))
            .max_length(Some((*max).min(MAX_CONTAINS)))
            .examples(["value", "[a,b]", "!value", "null", "~part", "^beginning", ">=value", "\"!quoted\""])
            .into(),
        ValueKind::Any => text().max_length(Some(MAX_FILTER)).into(),
        ValueKind::Id => text()
            .pattern(Some(one_of(ID)))
            .examples([id.clone(), format!("[{id},null]"), format!("!{id}"), "null".to_owned()])
            .into(),
        ValueKind::Path => text()
            .pattern(Some(format!("^!?(null|\\^?{ID}(#{ID})*)$")))
            .examples([id.clone(), format!("^{id}")])
            .into(),
        ValueKind::Email => either(
            text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Email))),
            text().pattern(Some("^!?(null|[~^][A-Za-z0-9@.-]{1,200})$")).examples([
                "~@example.com",
                "^ada",
                "!null",
            ]),
        ),
        ValueKind::Enum(values) => either(
            text().enum_values(Some(values.clone())),
            text().pattern(Some(one_of(&format!("({})", values.join("|"))))).examples(enum_examples(values)),
        ),
        ValueKind::Time => either(
            text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))),
            text()
                .pattern(Some(format!(
                    "^!?(null|(>=?|<=?){DATE}(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)?)$"
                )))
                .examples([">=2020-09-14", "<2020-09-14T12:00:00Z", "!null"]),
        ),
        ValueKind::Integer { min, max } => {
            let integer = ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::Integer))
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
                .minimum((*min != i64::MIN).then_some(*min))
                .maximum((*max != i64::MAX).then_some(*max));
            let digits = max.to_string().len().saturating_sub(1).clamp(1, 15);
            let digit = format!("[1-9][0-9]{{0,{}}}", digits - 1);
            let operators = text()
                .pattern(Some(format!("^!?(null|(>=?|<=?)?{digit}|\\[{digit}(,{digit}){{0,9}}\\])$")))
                .examples([">=5", "<10", "[1,2]", "!null"]);
            either(integer, operators)
        }
        ValueKind::Boolean => either(
            ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean)),
            text().pattern(Some("^!?(null|true|false)$")).examples(["!true", "null"]),
        ),
        ValueKind::Json => text()
            .pattern(Some(r"^!?(null|\{\}|\[\]|[\[{].+[\]}])$"))
            .content_media_type("application/json")
            .examples(["{}", "!{}", "null"])
            .into(),
    }
}

fn enum_examples(values: &[String]) -> Vec<Value> {
    let Some(first) = values.first() else { return Vec::new() };
    vec![json!(format!("!{first}")), json!(format!("[{}]", values.join(","))), json!("null")]
}

/// Returns the schema of a value, or of a text with an operator.
fn either(value: ObjectBuilder, operators: ObjectBuilder) -> RefOr<Schema> {
    AnyOfBuilder::new().item(value).item(operators).into()
}
