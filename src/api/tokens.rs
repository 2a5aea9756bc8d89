//! The token endpoint: login and refresh (see "Tokens" in docs/decisions.md).

mod oauth;

use crate::application::Caller;
use crate::application::token_families::{self, TokenClient, TokenPair};
use crate::authn::{PasswordRules, normalize_password};
use crate::http::authentication::bearer_token;
use crate::http::base_url::base_url;
use crate::http::compression::uncompressed;
use crate::http::openapi::{OperationDoc, header_parameter};
use crate::http::rate_limits::count_caller;
use crate::http::{FieldError, Form, Json, Problem, RouteGroup, WorkerState, body, request_info};
use crate::store::Account;
use crate::types::{Email, FieldErrorCode, Id, Timestamp, non_null};
use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use futures_util::future::{LocalBoxFuture, ready};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::Required;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

/// The maximum size of a body: 16 KiB.
const MAX_BODY: usize = 16 * 1024;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Tokens", "/v2/auth/token")
        .about("Login, refresh, revocation and introspection.")
        .public(Method::POST, "", ("createToken", "the request has the password or the refresh token instead of a credential; attempts are throttled"), create_doc, create)
        .public(Method::GET, "", ("refreshToken", "the handler verifies the access token and the refresh token of the request"), refresh_doc, refresh)
        // After the access token was verified.
        .parses_query()
        .without_head()
}

/// A token request: email and password, or a refresh token and the email of its user.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenRequest {
    #[serde(default, deserialize_with = "parse_email")]
    email: Option<Email>,
    #[serde(default, deserialize_with = "non_null")]
    password: Option<SecretString>,
    #[serde(default, deserialize_with = "non_null")]
    refresh_token: Option<SecretString>,
    #[serde(default, deserialize_with = "parse_email")]
    client_id: Option<Email>,
}

/// A token request: email and password, or a refresh token and the email of its user.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(as = TokenRequest, example = json!({"email": "admin@example.com", "password": "t0pZ3kR3t"}))]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
enum TokenRequestSchema {
    Password(ByPassword),
    RefreshToken(ByRefreshToken),
}

/// Email and password.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct ByPassword {
    /// The email address of the user.
    email: Email,
    /// The password.
    #[schema(max_length = 200)]
    password: String,
}

/// Refresh token, and email address of its user.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct ByRefreshToken {
    /// The refresh token.
    #[schema(pattern = "^[0-9a-f]{24}\\.[0-9a-f]{80}$")]
    refresh_token: String,
    /// The email address of the user that the refresh token was issued to.
    client_id: Email,
}

/// The body of a token request: JSON, or the form of RFC 6749.
enum TokenBody {
    Json(TokenRequest),
    Form(Form),
}

impl FromRequest for TokenBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        match body::is_form(request) {
            Ok(true) => {
                let form = Form::from_request(request, payload);
                Box::pin(async move { form.await.map(Self::Form).map_err(oauth::error) })
            }
            Ok(false) => {
                let json = Json::<TokenRequest, MAX_BODY>::from_request(request, payload);
                Box::pin(async move { json.await.map(|Json(body)| Self::Json(body)) })
            }
            Err(problem) => Box::pin(ready(Err(problem))),
        }
    }
}

/// Parses an email address. The message does not repeat the value, which is a secret if a client confuses the fields.
fn parse_email<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Email>, D::Error> {
    let email = String::deserialize(deserializer)?.parse();
    email.map(Some).map_err(|_| de::Error::custom("expected an email address such as ada@example.com"))
}

/// An access token and a refresh token.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!(sample()))]
struct TokenResponse {
    /// `Bearer`.
    token_type: &'static str,
    /// The access token, a JWT.
    token: String,
    /// The refresh token, which is valid once. A repeated refresh within the grace period returns the same successor.
    refresh_token: String,
    /// The user id.
    user: Id,
    /// The scopes, space-delimited: the role of the user.
    scope: String,
    /// Expiry of the access token.
    expires_at: Timestamp,
}

/// The answer to a token request in JSON, and that to one in a form.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(example = json!(sample()))]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
enum TokenAnswer {
    Token(TokenResponse),
    OAuth(oauth::OAuthTokenResponse),
}

/// The example response of the specification.
fn sample() -> Value {
    json!({
        "tokenType": "Bearer",
        "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJfaWQiOiI1OTllMWZjZDlkYTFjNzI2NDVjOTU4ODYiLCJzY29wZSI6ImFkbWluIiwiaWF0IjoxNTAzNjIwNjI0LCJleHAiOjE1MDQ4MzAyMjR9.Hqvi97eSODiQkcVvYxX_Gi5sN87l7Pj5toGlebghsPM",
        "refreshToken": "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac",
        "user": "599e1fcd9da1c72645c95886",
        "scope": "admin",
        "expiresAt": "2017-08-26T00:23:44.000Z"
    })
}

fn create_doc() -> OperationDoc {
    OperationDoc::new("Create an access token")
        .describe(
            "Send `email` and `password`, or `refreshToken` and `clientId`, the email of its user. An Authorization header is \
             ignored. Repeated failed logins are throttled: 429 with `Retry-After`, whether or not the account exists. OAuth \
             clients send a form with `grant_type=refresh_token` (RFC 6749, section 6); the response then has the members \
             `access_token`, `token_type`, `expires_in`, `refresh_token` and `scope`, and an error the members `error` and \
             `error_description`.",
        )
        .body::<TokenRequestSchema>(Some(json!({"email": "admin@example.com", "password": "t0pZ3kR3t"})))
        .or_form::<oauth::RefreshForm>(oauth::example())
        .parameter(header_parameter(
            "X-Request-ID",
            "An id of the request, which the response, the log and the audit log then have.",
            "5f2b0c1e7d",
        ))
        .response::<TokenAnswer>(200, "An access token and a refresh token.", None)
        .problems(&[401])
        .oauth_errors()
}

fn refresh_doc() -> OperationDoc {
    let parameter = ParameterBuilder::new()
        .name("refreshToken")
        .parameter_in(ParameterIn::Query)
        .required(Required::True)
        .description(Some("A refresh token of the caller. It is valid once; reuse after the grace period revokes its session."))
        .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))))
        .build();
    OperationDoc::new("Refresh a valid access token")
        .describe("Requires an access token that is still valid. With an expired one, use `POST` with `refreshToken` and `clientId`.")
        .parameter(parameter)
        .response::<TokenResponse>(200, "An access token and a refresh token.", None)
        .requires_bearer()
        .problems(&[400, 401, 403])
}

/// `POST /v2/auth/token`.
async fn create(request: HttpRequest, body: TokenBody) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let (origin, url) = (request_info::request_origin(&request), base_url(&request));
    let client = TokenClient { origin: &origin, url: &url, scopes: None };
    match body {
        TokenBody::Json(body) => {
            let pair = match Grant::from_body(body)? {
                Grant::Password { email, password } => {
                    token_families::log_in(state, client, email, password).await?
                }
                Grant::RefreshToken { token, client: expected } => {
                    let expected = |account: &Account| account.email == expected;
                    token_families::rotate(state, client, &token, expected).await?
                }
            };
            Ok(token_response(pair))
        }
        TokenBody::Form(form) => Box::pin(oauth::refresh(state, client, form)).await,
    }
}

/// The credentials of a token request.
enum Grant {
    Password { email: Email, password: SecretString },
    RefreshToken { token: SecretString, client: Email },
}

impl Grant {
    /// Checks which of the fields a body has.
    ///
    /// # Errors
    /// The fields do not belong together, or the password is too long.
    fn from_body(body: TokenRequest) -> Result<Self, Problem> {
        let invalid = |fields: &[&str], code, message: &str| {
            Problem::invalid_fields(
                fields.iter().map(|field| FieldError::new(*field, code, message)).collect(),
            )
        };
        let missing = |field: &str, with: &str| {
            invalid(&[field], FieldErrorCode::DependentRequired, &format!("required with `{with}`"))
        };
        match body {
            TokenRequest { password: Some(_), refresh_token: Some(_), .. } => Err(invalid(
                &["password", "refreshToken"],
                FieldErrorCode::Conflict,
                "send either a password or a refresh token, not both",
            )),
            TokenRequest { password: Some(_), client_id: Some(_), .. } => Err(invalid(
                &["clientId"],
                FieldErrorCode::Conflict,
                "only accepted with `refreshToken`, not with `password`",
            )),
            TokenRequest { email, password: Some(password), .. } => {
                let email = email.ok_or_else(|| missing("email", "password"))?;
                let password = normalize_password(password);
                if password.expose_secret().chars().count() > PasswordRules::MAX {
                    let message = format!("more than {} characters", PasswordRules::MAX);
                    return Err(invalid(&["password"], FieldErrorCode::TooLong, &message));
                }
                Ok(Self::Password { email, password })
            }
            TokenRequest { refresh_token: Some(_), email: Some(_), .. } => Err(invalid(
                &["email"],
                FieldErrorCode::Conflict,
                "only accepted with `password`; send `clientId` with `refreshToken`",
            )),
            TokenRequest { refresh_token: Some(token), client_id, .. } => {
                let client = client_id.ok_or_else(|| missing("clientId", "refreshToken"))?;
                Ok(Self::RefreshToken { token, client })
            }
            TokenRequest { email: Some(_), .. } => Err(missing("password", "email")),
            TokenRequest { client_id: Some(_), .. } => Err(missing("refreshToken", "clientId")),
            _ => Err(invalid(
                &["email", "password"],
                FieldErrorCode::Required,
                "send `email` and `password`, or `refreshToken` and `clientId`",
            )),
        }
    }
}

/// `GET /v2/auth/token?refreshToken=…`: requires a valid bearer token of the same user (see "Refresh requests" in
/// docs/decisions.md).
async fn refresh(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let token = bearer_token(&request).map_err(with_refresh_hint)?.ok_or_else(Problem::missing_bearer)?;
    let caller = Caller::from_token(state, &state.policies.current(), token).await;
    let caller = caller.map_err(|error| with_refresh_hint(error.into()))?;
    count_caller(state, &request, caller.id)?;
    let mut token = None;
    for (name, value) in body::query_pairs(&request)? {
        if name != "refreshToken" || token.is_some() {
            let code = match name.as_str() {
                "refreshToken" => FieldErrorCode::Duplicate,
                _ => FieldErrorCode::UnknownField,
            };
            return Err(Problem::invalid_field(name, code, "only `refreshToken` is accepted, once"));
        }
        token = Some(SecretString::from(value));
    }
    let token = token.ok_or_else(|| {
        Problem::invalid_field("refreshToken", FieldErrorCode::Required, "this parameter is required")
    })?;
    let (origin, url) = (request_info::request_origin(&request), base_url(&request));
    let client = TokenClient { origin: &origin, url: &url, scopes: None };
    let expected = |account: &Account| account.id == caller.id;
    Ok(token_response(token_families::rotate(state, client, &token, expected).await?))
}

/// Replaces the detail of a bearer-token problem. Clients refresh on the messages of an expired or invalid token, so a
/// failed refresh must use none of them (see "Expired token" in docs/decisions.md).
fn with_refresh_hint(problem: Problem) -> Problem {
    if problem.status.is_server_error() || problem.status == StatusCode::BAD_REQUEST {
        return problem;
    }
    let detail = "A valid access token is required. Without one, POST `refreshToken` and `clientId`.";
    Problem { detail: detail.into(), ..problem }
}

/// 200 with a token pair, which must not be cached (RFC 6749, section 5.1).
fn token_response(pair: TokenPair) -> HttpResponse {
    let body = TokenResponse {
        token_type: "Bearer",
        token: pair.access.token,
        refresh_token: pair.refresh.expose().to_owned(),
        user: pair.refresh.user(),
        scope: pair.scope.to_string(),
        expires_at: pair.access.expires_at,
    };
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((header::PRAGMA, "no-cache"));
    uncompressed(response.json(body))
}
