//! Reading what a request brings: JSON bodies with errors that name the fields, ids in paths, query strings.

use super::{FieldError, Problem};
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::{Ready, ready};

/// The largest body, unless a route says less: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// How many wrong fields one answer lists.
const MAX_ERRORS: usize = 20;

/// A JSON body of at most `MAX` bytes.
#[derive(Debug)]
pub struct Json<T, const MAX: usize = MAX_BODY>(pub T);

impl<T: DeserializeOwned + 'static, const MAX: usize> FromRequest for Json<T, MAX> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let checked = check_content_type(request).and_then(|()| check_length(request, MAX));
        let mut payload = payload.take();
        Box::pin(async move {
            checked?;
            let mut bytes = web::BytesMut::new();
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|_| Problem::bad_request("The body broke off."))?;
                if bytes.len() + chunk.len() > MAX {
                    return Err(too_large(MAX));
                }
                bytes.extend_from_slice(&chunk);
            }
            parse(&bytes).map(Json)
        })
    }
}

fn check_content_type(request: &HttpRequest) -> Result<(), Problem> {
    let sent =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = sent.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("The body is {sent:?}; send it with Content-Type: application/json."),
    ))
}

fn too_large(max: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("The body is larger than {max} bytes, the most that is taken here."),
    )
}

fn check_length(request: &HttpRequest, max: usize) -> Result<(), Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > max => Err(too_large(max)),
        _ => Ok(()),
    }
}

/// A value from the bytes of a JSON document. Where it is well-formed but not such a value, every wrong field is named.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("The body is not JSON: {error}."))
    })?;
    if !value.is_object() && !value.is_array() {
        // serde's own message would repeat it, and name a type that only we know.
        return Err(Problem::bad_request("The body is JSON, but not an object: send {…} with the fields."));
    }
    from_value(value, "")
}

/// A value from JSON; `within` is where that JSON stands in the body, for the names of wrong fields.
pub fn from_value<T: DeserializeOwned>(mut value: Value, within: &str) -> Result<T, Problem> {
    let mut errors: Vec<FieldError> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(parsed) if errors.is_empty() => return Ok(parsed),
            Ok(_) => break,
            Err(error) => error,
        };
        let (field, top) = place(&error);
        if errors.iter().any(|known| known.field == joined(within, &field)) {
            break;
        }
        errors.push(FieldError::new(joined(within, &field), error.inner().to_string()));
        // Without the wrong field the others can be checked too.
        let removed = value.as_object_mut().and_then(|fields| fields.remove(&top));
        if removed.is_none() || errors.len() >= MAX_ERRORS {
            break;
        }
    }
    // A field that was wrong has been taken out, so that it is missing now is no second error.
    Err(Problem::fields(errors))
}

/// Where an error is: the path of the field, and its first step. serde tells the names of unknown and missing fields in
/// its message only.
fn place(error: &serde_path_to_error::Error<serde_json::Error>) -> (String, String) {
    let path = error.path().to_string();
    let path = path.replace('[', ".").replace(']', "").trim_start_matches('.').to_owned();
    let message = error.inner().to_string();
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    let field = match named {
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path,
        Some(name) => joined(&path, name),
        None => path,
    };
    let top = field.split('.').next().unwrap_or_default().to_owned();
    (field, top)
}

fn joined(within: &str, field: &str) -> String {
    match (within.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (_, true) => within.to_owned(),
        _ => format!("{within}.{field}"),
    }
}

/// The id in a path as it stands there; whether it is one is the gate's to say, since a malformed id and one of nothing
/// answer alike.
#[derive(Debug, Clone)]
pub struct PathId(pub String);

impl FromRequest for PathId {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.match_info().get("id").unwrap_or_default().to_owned())))
    }
}

/// The pairs of a query string.
pub fn query_pairs(request: &HttpRequest) -> Vec<(String, String)> {
    url::form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{Email, Name};
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

    fn wrong(json: &str) -> Vec<String> {
        let problem = parse::<Person>(json.as_bytes()).unwrap_err();
        problem.errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn every_wrong_field_is_named_with_its_path() {
        assert_eq!(
            wrong(r#"{"name": "", "email": 7, "friends": [], "hobby": 1}"#),
            ["name", "email", "hobby"]
        );
        assert_eq!(
            wrong(r#"{"name": "A", "email": "a@b.c", "friends": [{"age": 1}, {"age": 300}]}"#),
            ["friends.1.age"]
        );
        assert_eq!(
            wrong(r#"{"name": "A", "email": "a@b.c", "friends": [{"age": 1, "x": 1}]}"#),
            ["friends.0.x"]
        );
        assert_eq!(wrong(r#"{"name": "A", "email": "a@b.c"}"#), ["friends"]);
        assert_eq!(wrong("[]"), [""]);
    }

    #[test]
    fn in_a_list_the_path_begins_with_the_place_in_it() {
        let problem = parse::<Vec<Friend>>(br#"[{"age": 1}, {"age": -1}]"#).unwrap_err();
        assert_eq!(problem.errors[0].field, "1.age");
    }

    #[test]
    fn what_is_no_json_says_where() {
        let problem = parse::<Person>(b"{\"name\": }").unwrap_err();
        assert_eq!(problem.code, "malformed_json");
        assert!(problem.detail.contains("line 1 column 10"), "{}", problem.detail);
    }
}
