//! Extractors: JSON bodies with errors that name the fields, forms, ids in paths, query strings.

use super::body_reader::{body_too_large, read_body};
use super::problem::OAuthErrorCode;
use super::{FieldError, Problem};
use crate::application::fields::{MAX_MESSAGE, from_value, join_path};
use crate::types::strict_json::{self, JsonError};
use crate::types::{FieldErrorCode, truncate_chars};
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use futures_util::future::LocalBoxFuture;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::any::TypeId;
use std::future::{Ready, ready};

/// The default maximum size of a body: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// The maximum number of parameters in a query string.
const MAX_PARAMETERS: usize = 100;

/// A JSON body of at most `MAX` bytes.
#[derive(Debug)]
pub struct Json<T, const MAX: usize = MAX_BODY>(pub T);

impl<T: DeserializeOwned + 'static, const MAX: usize> FromRequest for Json<T, MAX> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_json(request, payload, MAX);
        Box::pin(async move { parse(&bytes.await?).map(Json) })
    }
}

/// Reads a body whose content type is JSON and that has at most `max` bytes.
///
/// # Errors
/// 415 if the content type is another one or the body is compressed; 413 if it is too large; 408 if it is too slow; 503 if there
/// is no memory for it.
pub fn read_json(
    request: &HttpRequest,
    payload: &mut Payload,
    max: usize,
) -> impl Future<Output = Result<web::BytesMut, Problem>> + use<> {
    read_typed_body(request, payload, JSON_TYPE, max)
}

/// The content type of JSON.
const JSON_TYPE: &str = "application/json";

/// The content type of a form.
const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// The maximum size of a form: 16 KiB.
const MAX_FORM: usize = 16 * 1024;

/// The parameters of a form (`application/x-www-form-urlencoded`), the format of OAuth requests.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

impl FromRequest for Form {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_typed_body(request, payload, FORM_TYPE, MAX_FORM);
        Box::pin(async move { Ok(Self(url::form_urlencoded::parse(&bytes.await?).into_owned().collect())) })
    }
}

/// A form of a client of OAuth: if it cannot be read, the response is an OAuth error.
#[derive(Debug)]
pub struct OAuthForm(pub Form);

impl FromRequest for OAuthForm {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (form, has_form) = (Form::from_request(request, payload), has_form(request));
        Box::pin(async move {
            form.await.map(Self).map_err(|problem| match has_form {
                true => problem.as_oauth_error(OAuthErrorCode::InvalidRequest),
                // A client that sends something else than a form is none of OAuth.
                false => problem,
            })
        })
    }
}

impl Form {
    /// Takes the value of a parameter, of at most `max` characters. A parameter without a value counts as omitted (RFC 6749,
    /// section 3.1).
    ///
    /// # Errors
    /// 400 if the parameter is repeated or too long.
    pub fn take(&mut self, name: &str, max: usize) -> Result<Option<String>, Problem> {
        let mut matches = self.0.extract_if(.., |(other, value)| other == name && !value.is_empty());
        let first = matches.next().map(|(_, value)| value);
        if matches.next().is_some() {
            return Err(Problem::invalid_field(name, FieldErrorCode::Duplicate, "duplicate parameter"));
        }
        if first.as_ref().is_some_and(|value| value.chars().count() > max) {
            let message = format!("more than {max} characters");
            return Err(Problem::invalid_field(name, FieldErrorCode::TooLong, message));
        }
        Ok(first)
    }
}

/// Reads a body that has this content type and at most `max` bytes.
fn read_typed_body(
    request: &HttpRequest,
    payload: &mut Payload,
    kind: &'static str,
    max: usize,
) -> impl Future<Output = Result<web::BytesMut, Problem>> + use<> {
    let checked = check_content_type(request, kind)
        .and_then(|()| check_content_encoding(request))
        .and_then(|()| check_length(request, max));
    let (request, mut payload) = (request.clone(), payload.take());
    async move {
        checked?;
        read_body(&request, &mut payload, max).await
    }
}

/// Returns whether the content type of a request is that of a form.
pub fn has_form(request: &HttpRequest) -> bool {
    check_content_type(request, FORM_TYPE).is_ok()
}

/// Returns whether a body that may be JSON or a form is a form.
///
/// # Errors
/// 415 if its content type is neither.
pub fn is_form(request: &HttpRequest) -> Result<bool, Problem> {
    if has_form(request) {
        return Ok(true);
    }
    let expected = format!("{JSON_TYPE} or {FORM_TYPE}");
    check_content_type(request, JSON_TYPE)
        .map(|()| false)
        .map_err(|_| unsupported_media_type(content_type(request), &expected))
}

/// Returns the content type of a request as it was sent; empty if there is none.
fn content_type(request: &HttpRequest) -> &str {
    request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn check_content_type(request: &HttpRequest, kind: &str) -> Result<(), Problem> {
    let sent = content_type(request);
    let essence = sent.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(kind) { Ok(()) } else { Err(unsupported_media_type(sent, kind)) }
}

/// 415 for a body of the content type `sent`; `expected` names those that are accepted.
fn unsupported_media_type(sent: &str, expected: &str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("The body is {sent:?}; send it with Content-Type: {expected}."),
    )
}

/// 415 for a body with a content coding such as gzip: the service decodes none (RFC 9110, section 8.4).
fn check_content_encoding(request: &HttpRequest) -> Result<(), Problem> {
    let is_identity = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if request.headers().get_all(header::CONTENT_ENCODING).all(is_identity) {
        return Ok(());
    }
    let problem = Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "The body is compressed. Send it without Content-Encoding.",
    );
    Err(problem.with_header(header::ACCEPT_ENCODING, "identity"))
}

fn check_length(request: &HttpRequest, max: usize) -> Result<(), Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > max => Err(body_too_large(max)),
        _ => Ok(()),
    }
}

/// Returns whether JSON bytes begin like an object.
pub fn is_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Malformed(error) => malformed(&error),
            JsonError::DuplicateKey(path) => {
                let message = "duplicate key in a JSON object";
                let detail = format!("{path}: {message}");
                let errors = vec![FieldError::new(path, FieldErrorCode::Duplicate, message)];
                Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "duplicate_key", detail) }
            }
        }
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("The body is not JSON: {error}."))
}

/// 400: the body is JSON, but not an object. The message of serde would repeat the body and name an internal type.
pub fn not_an_object() -> Problem {
    Problem::bad_request("Expected a JSON object.")
}

/// Parses a JSON document. The error names every invalid field.
///
/// # Errors
/// 400 if it is malformed, has a duplicate key at any depth, or does not have the form of the type.
pub fn parse<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, Problem> {
    strict_json::check(bytes).map_err(|error| match error {
        JsonError::DuplicateKey(path) => JsonError::DuplicateKey(body_path(bytes, path)),
        malformed @ JsonError::Malformed(_) => malformed,
    })?;
    // serde also accepts an array as the fields of a struct in their order. Only arbitrary JSON may be an array.
    let is_any = TypeId::of::<T>() == TypeId::of::<Value>();
    let is_object = is_object(bytes);
    let first = match serde_json::from_slice(bytes) {
        Ok(value) if is_any || is_object => return Ok(value),
        Ok(_) => return Err(not_an_object()),
        Err(error) => error,
    };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if !value.is_object() {
        return Err(not_an_object());
    }
    // The text has an error that its parsed value does not have.
    from_value::<T>(value, "")?;
    Err(Problem::bad_request(truncate_chars(first.to_string(), MAX_MESSAGE)))
}

/// Returns a path in a body: if the body is an array, its first segment is the label of an element.
fn body_path(bytes: &[u8], path: String) -> String {
    match (bytes.trim_ascii_start().first(), path.split_once('.')) {
        (Some(b'['), Some((index, rest))) => format!("[{index}].{rest}"),
        _ => path,
    }
}

/// Checks the text of a value in a body. `prefix` is its path in the body, for the name of a duplicate key.
///
/// # Errors
/// 400 if it is malformed, or has a duplicate key at any depth.
pub fn check_value(text: &RawValue, prefix: &str) -> Result<(), Problem> {
    strict_json::check(text.get().as_bytes()).map_err(|error| match error {
        JsonError::DuplicateKey(path) => JsonError::DuplicateKey(join_path(prefix, &path)).into(),
        malformed @ JsonError::Malformed(_) => malformed.into(),
    })
}

/// Parses the text of a value in a body. `prefix` is its path in the body, for the names of invalid fields.
///
/// # Errors
/// As [`parse`].
pub fn parse_value<T: DeserializeOwned>(text: &RawValue, prefix: &str) -> Result<T, Problem> {
    check_value(text, prefix)?;
    // Parsed again after an error, to find all invalid fields.
    serde_json::from_str(text.get()).or_else(|_| {
        let value: Value = serde_json::from_str(text.get()).map_err(|error| malformed(&error))?;
        Ok(from_value(value, prefix)?)
    })
}

/// The id in a path as text. The authorizer parses it, because a malformed id and an unknown one give the same response.
#[derive(Debug, Clone)]
pub struct PathId(pub String);

impl FromRequest for PathId {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.match_info().get("id").unwrap_or_default().to_owned())))
    }
}

/// Returns the parameters of a query string.
///
/// # Errors
/// 400: `too_many_parameters` if there are more than 100, `bad_request` if the query string is not UTF-8.
pub fn query_pairs(request: &HttpRequest) -> Result<Vec<(String, String)>, Problem> {
    if percent_decode_str(request.query_string()).decode_utf8().is_err() {
        let detail = "The query string is not UTF-8 with percent-encoding.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail));
    }
    let pairs: Vec<_> = parameters(request)
        .take(MAX_PARAMETERS + 1)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "too_many_parameters",
            format!("The query string has more than {MAX_PARAMETERS} parameters; send at most that many."),
        ));
    }
    Ok(pairs)
}

/// Returns the parameters of a query string, without a second question mark before them: the platform's client library sends
/// one if it is given the query string as a text.
fn parameters(request: &HttpRequest) -> url::form_urlencoded::Parse<'_> {
    let query = request.query_string();
    url::form_urlencoded::parse(query.strip_prefix('?').unwrap_or(query).as_bytes())
}

/// Returns the value of the first parameter with this name.
pub fn query_value(request: &HttpRequest, name: &str) -> Option<String> {
    parameters(request)
        .take(MAX_PARAMETERS)
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Email, Name};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their parsing matters")]
    struct Person {
        name: Name,
        email: Email,
        friends: Vec<Friend>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their parsing matters")]
    struct Friend {
        age: u8,
    }

    fn invalid_fields(json: &str) -> Vec<String> {
        let problem = parse::<Person>(json.as_bytes()).unwrap_err();
        problem.errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn every_invalid_field_is_named_with_its_path() {
        assert_eq!(
            invalid_fields(r#"{"name": "", "email": 7, "friends": [], "hobby": 1}"#),
            ["name", "email", "hobby"]
        );
        assert_eq!(
            invalid_fields(r#"{"name": "A", "email": "a@b.c", "friends": [{"age": 1}, {"age": 300}]}"#),
            ["friends.1.age"]
        );
        assert_eq!(
            invalid_fields(r#"{"name": "A", "email": "a@b.c", "friends": [{"age": 1, "x": 1}]}"#),
            ["friends.0.x"]
        );
        assert_eq!(invalid_fields(r#"{"name": "A", "email": "a@b.c"}"#), ["friends"]);
        assert_eq!(invalid_fields(r#"{"name": "A", "email": "a@b.c", "friends": {"x": 1}}"#), ["friends"]);
    }

    #[test]
    fn a_body_that_is_no_object_is_not_repeated() {
        for json in ["[]", r#"["A", "a@b.c", []]"#, "\"A\"", "7", "null", " true "] {
            let problem = parse::<Person>(json.as_bytes()).unwrap_err();
            assert_eq!((problem.code, problem.errors.len()), ("bad_request", 0), "{json}");
            assert_eq!(problem.detail, "Expected a JSON object.");
        }
        assert!(parse::<Value>(b"[1]").is_ok());
    }

    #[test]
    fn a_duplicate_key_is_rejected_and_named() {
        for (json, path) in [
            (r#"{"name": "A", "name": "B", "email": "a@b.c", "friends": []}"#, "name"),
            (r#"{"name": "A", "email": "a@b.c", "friends": [{"age": 1, "age": 2}]}"#, "friends.0.age"),
        ] {
            let problem = parse::<Person>(json.as_bytes()).unwrap_err();
            assert_eq!((problem.code, problem.errors[0].field.as_str()), ("duplicate_key", path));
            assert_eq!(parse::<Value>(json.as_bytes()).unwrap_err().code, "duplicate_key");
        }
    }

    #[test]
    fn a_long_value_is_not_repeated_in_full() {
        let long = format!(r#"{{"name": "A", "email": "a@b.c", "friends": "{}"}}"#, "x".repeat(10_000));
        assert!(parse::<Person>(long.as_bytes()).unwrap_err().detail.len() < 1_000);
    }

    #[test]
    fn malformed_json_is_reported_with_its_position() {
        let problem = parse::<Person>(b"{\"name\": }").unwrap_err();
        assert_eq!(problem.code, "malformed_json");
        assert!(problem.detail.contains("line 1 column 10"), "{}", problem.detail);
    }
}
