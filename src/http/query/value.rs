//! The value of a filter: an operator and what follows it.
//!
//! `value` · `[a,b]` · `null` · `>v` `>=v` `<v` `<=v` · `~text` · `^text`, each with `!` before it for the opposite. A value in
//! quotation marks is a JSON string, so that a value that begins like an operator can be written.

use super::field::{MAX_FILTER, QueryField, ValueKind};
use crate::store::{Comparison, Filter, FilterValue, Test};
use crate::types::strict_json::{self, JsonError};
use crate::types::{Email, FieldErrorCode, Id, InvalidValue, OrgPath, Timestamp, quoted};
use serde_json::{Number, Value};
use std::str::FromStr;

/// The maximum number of values in `[a,b]`.
pub const MAX_VALUES: usize = 200;
/// The maximum number of characters that are searched ignoring case.
pub const MAX_CONTAINS: usize = 200;
/// The integers that every JSON reader keeps exactly: those below 2^53.
const MAX_NUMBER: f64 = 9_007_199_254_740_992.0;

/// The characters with which an operator begins.
const OPERATORS: [char; 7] = ['!', '>', '<', '~', '^', '[', '"'];

/// Returns whether the value of a filter is a plain value, without an operator.
pub fn is_plain(text: &str) -> bool {
    text != "null" && !text.starts_with(OPERATORS)
}

/// Parses the filter of a field.
///
/// # Errors
/// The operator is not one of the field, or the value is not valid for it.
pub fn parse(field: &QueryField, text: &str) -> Result<Filter, InvalidValue> {
    let (is_negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    if is_negated && text.starts_with('!') {
        let message = "`!` is written once; quote a value that begins with it, as in `\"!\"`";
        return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
    }
    let test = parse_test(&field.kind, text)?;
    Ok(Filter { field: field.field.clone(), test, is_negated })
}

fn parse_test(kind: &ValueKind, text: &str) -> Result<Test, InvalidValue> {
    if text == "null" {
        return Ok(Test::OneOf { values: Vec::new(), or_null: true });
    }
    if *kind == ValueKind::Json {
        return Ok(Test::OneOf { values: vec![parse_json(text)?], or_null: false });
    }
    let comparisons = [
        (">=", Comparison::GreaterOrEqual),
        ("<=", Comparison::LessOrEqual),
        (">", Comparison::Greater),
        ("<", Comparison::Less),
    ];
    for (operator, comparison) in comparisons {
        if let Some(operand) = text.strip_prefix(operator) {
            require(kind.is_ordered(), kind, operator)?;
            return Ok(Test::Compare(comparison, parse_compared(kind, operand)?));
        }
    }
    if let Some(operand) = text.strip_prefix('~') {
        require(kind.is_text(), kind, "~")?;
        return Ok(Test::Contains(parse_part(operand, MAX_CONTAINS)?));
    }
    if let Some(operand) = text.strip_prefix('^') {
        require(kind.is_text(), kind, "^")?;
        return Ok(Test::StartsWith(parse_part(operand, MAX_FILTER)?));
    }
    if text.starts_with('[') {
        return parse_list(kind, text);
    }
    Ok(Test::OneOf { values: vec![parse_operand(kind, &Operand::parse(text)?)?], or_null: false })
}

/// Requires that a field has an operator.
fn require(is_supported: bool, kind: &ValueKind, operator: &str) -> Result<(), InvalidValue> {
    if is_supported {
        return Ok(());
    }
    let mut supported = vec!["a value", "[a,b]", "null"];
    if kind.is_ordered() {
        supported.extend([">", ">=", "<", "<="]);
    }
    if kind.is_text() {
        supported.extend(["~", "^"]);
    }
    Err(InvalidValue::new(
        FieldErrorCode::UnknownOperator,
        format!(
            "the operator {operator} is not supported here; expected {}, with or without !",
            supported.join(", ")
        ),
    ))
}

/// What follows an operator.
enum Operand {
    /// As it is.
    Plain(String),
    /// A JSON string, without its quotation marks.
    Quoted(String),
}

impl Operand {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let operand = if text.starts_with('"') {
            Self::Quoted(serde_json::from_str(text).map_err(|_| unquotable(text))?)
        } else {
            Self::Plain(text.to_owned())
        };
        if operand.text().contains('\0') {
            let message = "the character U+0000 cannot be stored, so nothing matches it";
            return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
        }
        Ok(operand)
    }

    fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Quoted(text) => text,
        }
    }
}

fn unquotable(text: &str) -> InvalidValue {
    let message = format!("{} begins with a quotation mark, but is not a JSON string", quoted(text));
    InvalidValue::new(FieldErrorCode::InvalidFormat, message)
}

/// Parses `[a,b]`. Values that contain a comma, or spaces at an end, are quoted.
fn parse_list(kind: &ValueKind, text: &str) -> Result<Test, InvalidValue> {
    let Some(mut rest) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        let message =
            format!("{} begins with [, but does not end with ]; quote it if it is a value", quoted(text));
        return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
    };
    let (mut values, mut or_null) = (Vec::new(), false);
    while !rest.is_empty() {
        if values.len() >= MAX_VALUES {
            let message = format!("more than {MAX_VALUES} values");
            return Err(InvalidValue::new(FieldErrorCode::TooManyItems, message));
        }
        rest = rest.trim_start_matches(' ');
        let end = match rest.starts_with('"') {
            true => quoted_length(rest)?,
            false => rest.find(',').unwrap_or(rest.len()),
        };
        let (item, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let after = after.trim_start_matches(' ');
        match item.trim_end_matches(' ') {
            "null" => or_null = true,
            item => values.push(parse_operand(kind, &Operand::parse(item)?)?),
        }
        rest = match after.strip_prefix(',') {
            Some(next) if next.trim_matches(' ').is_empty() => {
                let message = format!("{} ends with a comma", quoted(text));
                return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
            }
            Some(next) => next,
            None if after.is_empty() => "",
            None => return Err(unquotable(rest)),
        };
    }
    Ok(Test::OneOf { values, or_null })
}

/// Returns the length of the JSON string with which a text begins.
fn quoted_length(text: &str) -> Result<usize, InvalidValue> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match strings.next() {
        Some(Ok(_)) => Ok(strings.byte_offset()),
        _ => Err(unquotable(text)),
    }
}

/// Parses a text that is searched.
fn parse_part(text: &str, max: usize) -> Result<String, InvalidValue> {
    let operand = Operand::parse(text)?;
    check_length(operand.text(), 1, max)?;
    Ok(operand.text().to_owned())
}

fn check_length(text: &str, min: usize, max: usize) -> Result<(), InvalidValue> {
    let length = text.chars().count();
    if (min..=max).contains(&length) {
        return Ok(());
    }
    let code = if length < min { FieldErrorCode::TooShort } else { FieldErrorCode::TooLong };
    Err(InvalidValue::new(code, format!("expected {min} to {max} characters, got {length}")))
}

/// Parses the value of a comparison. A date is the first moment of its day in UTC.
fn parse_compared(kind: &ValueKind, text: &str) -> Result<FilterValue, InvalidValue> {
    if text.is_empty() {
        let message = "expected a value after the operator; the empty text is `\"\"`";
        return Err(InvalidValue::new(FieldErrorCode::TooShort, message));
    }
    let operand = Operand::parse(text)?;
    match kind {
        ValueKind::Time => match is_date(operand.text()) {
            true => Ok(FilterValue::Time(format!("{}T00:00:00Z", operand.text()).parse()?)),
            false => Ok(FilterValue::Time(operand.text().parse()?)),
        },
        // Not limited in length: any text can be compared with any other one.
        ValueKind::Text { .. } => {
            check_length(operand.text(), 0, MAX_FILTER)?;
            Ok(FilterValue::Text(operand.text().to_owned()))
        }
        ValueKind::Any => match parse_operand(kind, &operand)? {
            FilterValue::Boolean(_) => Err(InvalidValue::new(
                FieldErrorCode::InvalidFormat,
                "true and false have no order; quote them to compare texts",
            )),
            value => Ok(value),
        },
        _ => parse_operand(kind, &operand),
    }
}

/// Returns whether a text has the form of a date: `2020-09-14`.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Parses a value of a field.
fn parse_operand(kind: &ValueKind, operand: &Operand) -> Result<FilterValue, InvalidValue> {
    /// The text in the form in which the column stores a value of type `T`.
    fn normalized<T: FromStr<Err = InvalidValue> + ToString>(
        text: &str,
    ) -> Result<FilterValue, InvalidValue> {
        Ok(FilterValue::Text(text.parse::<T>()?.to_string()))
    }
    let text = operand.text();
    let malformed = |message: String| Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
    match kind {
        ValueKind::Text { min, max } => {
            check_length(text, *min, *max)?;
            Ok(FilterValue::Text(text.to_owned()))
        }
        ValueKind::Id => normalized::<Id>(text),
        ValueKind::Path => normalized::<OrgPath>(text),
        ValueKind::Email => normalized::<Email>(text),
        ValueKind::Enum(allowed) if allowed.iter().any(|value| value == text) => {
            Ok(FilterValue::Text(text.to_owned()))
        }
        ValueKind::Enum(allowed) => Err(InvalidValue::new(
            FieldErrorCode::UnknownValue,
            format!("expected one of {}; got {}", allowed.join(", "), quoted(text)),
        )),
        ValueKind::Time if is_date(text) => malformed(format!(
            "a time equals no date; for the day use two comparisons: >={text} and < the next day"
        )),
        ValueKind::Time => Ok(FilterValue::Time(text.parse::<Timestamp>()?)),
        ValueKind::Boolean => match text {
            "true" => Ok(FilterValue::Boolean(true)),
            "false" => Ok(FilterValue::Boolean(false)),
            _ => malformed(format!("expected true or false, got {}", quoted(text))),
        },
        ValueKind::Integer { min, max } => match text.parse::<i64>() {
            Ok(number) if (*min..=*max).contains(&number) => Ok(FilterValue::Integer(number)),
            Ok(number) => Err(InvalidValue::new(
                FieldErrorCode::OutOfRange,
                format!("expected a number from {min} to {max}, got {number}"),
            )),
            Err(_) => malformed(format!("expected an integer, got {}", quoted(text))),
        },
        ValueKind::Json => parse_json(text),
        ValueKind::Any => parse_any(operand),
    }
}

/// Parses a value in a free object: without quotation marks a JSON number or truth value, and else a text.
fn parse_any(operand: &Operand) -> Result<FilterValue, InvalidValue> {
    let Operand::Plain(text) = operand else {
        check_length(operand.text(), 0, MAX_FILTER)?;
        return Ok(FilterValue::Text(operand.text().to_owned()));
    };
    match text.as_str() {
        "true" => return Ok(FilterValue::Boolean(true)),
        "false" => return Ok(FilterValue::Boolean(false)),
        _ => {}
    }
    match serde_json::from_str::<Number>(text) {
        Ok(number) if number.as_f64().is_some_and(|number| number.abs() < MAX_NUMBER) => {
            Ok(FilterValue::Number(number))
        }
        Ok(_) => Err(InvalidValue::new(
            FieldErrorCode::OutOfRange,
            format!(
                "{} is a number of 2^53 or more, which not every JSON reader keeps exactly",
                quoted(text)
            ),
        )),
        Err(_) => {
            check_length(text, 0, MAX_FILTER)?;
            Ok(FilterValue::Text(text.clone()))
        }
    }
}

/// Parses an object or array: JSON in its normalized form.
fn parse_json(text: &str) -> Result<FilterValue, InvalidValue> {
    let invalid =
        |code, error: &dyn std::fmt::Display| InvalidValue::new(code, format!("invalid JSON: {error}"));
    strict_json::check(text.as_bytes()).map_err(|error| match error {
        JsonError::DuplicateKey(_) => invalid(FieldErrorCode::Duplicate, &error),
        JsonError::Malformed(_) => invalid(FieldErrorCode::InvalidFormat, &error),
    })?;
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| invalid(FieldErrorCode::InvalidFormat, &error))?;
    value.sort_all_objects();
    Ok(FilterValue::Text(value.to_string()))
}
