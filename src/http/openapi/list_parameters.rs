//! The parameters of lists. Each is typed, so that generated clients can send it.

use super::OperationDoc;
use crate::http::query::field::{MAX_FILTER, ValueKind};
use crate::http::query::selection::DRY_RUN;
use crate::http::query::value::MAX_CONTAINS;
use crate::http::query::{DEFAULT_LIMIT, ListSpec, MAX_LIMIT, QueryField};
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, RefOr, Required, SchemaFormat};

/// A day of any year with four digits.
const DATE: &str = "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|\
     ([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)";
const TIME_OF_DAY: &str =
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
/// A number in a free object.
const NUMBER: &str = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,6})?";
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
    // A text in quotation marks, a number, or another text.
    let quoted = quoted_pattern(0, MAX_CONTAINS);
    let plain = r#"[^\u0000!><~^\["0-9-][^\u0000]*"#;
    let item = format!(r#"({quoted}|{NUMBER}|[^\u0000,"0-9 -][^\u0000,]*)"#);
    let value = text().pattern(Some(format!(
        r"^!?(null|true|false|[~^]?({plain}|{quoted})|(>=?|<=?)?({plain}|{quoted}|{NUMBER})|{})$",
        list_pattern(&item)
    )));
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
    format!("^!?(null|{value}|{})$", list_pattern(&format!("({value}|null)")))
}

/// Returns the pattern of `[a,b]`.
fn list_pattern(item: &str) -> String {
    format!(r"\[ *{item}(, *{item})*\]")
}

/// Returns how often a character is repeated. The length of the parameter limits long texts, too.
fn repeated(min: usize, max: usize) -> String {
    match (min, max) {
        (0, MAX_FILTER..) => "*".to_owned(),
        (1, MAX_FILTER..) => "+".to_owned(),
        _ => format!("{{{min},{max}}}"),
    }
}

/// Returns the pattern of a JSON string of so many characters, without escapes of four digits.
fn quoted_pattern(min: usize, max: usize) -> String {
    format!(r#""([^"\\\u0000-\u001f]|\\["\\/bfnrt]){}""#, repeated(min, max))
}

/// Returns the pattern of the filter of a text of so many characters.
fn text_pattern(min: usize, max: usize) -> String {
    let quoted = quoted_pattern(min, max);
    // The first character is another one than those that follow.
    let rest = if max >= MAX_FILTER { "*".to_owned() } else { repeated(0, max.saturating_sub(1)) };
    let list = list_pattern(&format!(r#"({quoted}|[^\u0000,"\[ ][^\u0000,]{rest})"#));
    let contained = format!(
        r#"([^\u0000"][^\u0000]{}|{})"#,
        repeated(0, MAX_CONTAINS - 1),
        quoted_pattern(1, MAX_CONTAINS)
    );
    let compared = format!(r#"([^\u0000"][^\u0000]*|{})"#, quoted_pattern(0, MAX_FILTER));
    let start = format!(r#"([^\u0000"][^\u0000]*|{})"#, quoted_pattern(1, MAX_FILTER));
    let optional = if min == 0 { "?" } else { "" };
    let plain = format!(r#"([^\u0000!><~^\["][^\u0000]{rest}){optional}"#);
    format!(r"^!?(null|{list}|{quoted}|~{contained}|\^{start}|(>=?|<=?){compared}|{plain})$")
}

fn filter_schema(kind: &ValueKind) -> RefOr<Schema> {
    let id = crate::types::Id::EXAMPLE.to_string();
    match kind {
        ValueKind::Text { min, max } => text()
            .pattern(Some(text_pattern(*min, *max)))
            .max_length(Some(MAX_FILTER))
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
                    "^!?(null|{DATE}{TIME_OF_DAY}|(>=?|<=?){DATE}({TIME_OF_DAY})?|{})$",
                    list_pattern(&format!("({DATE}{TIME_OF_DAY}|null)"))
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
                .pattern(Some(format!("^!?(null|(>=?|<=?)?{digit}|{})$", list_pattern(&digit))))
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
