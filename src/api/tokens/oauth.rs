//! The token endpoint for OAuth libraries: the refresh grant as a form (RFC 6749, section 6).

use crate::application::AppState;
use crate::application::token_families::{
    self, INVALID_REFRESH_TOKEN, INVALID_SCOPE, TokenClient, TokenPair,
};
use crate::authz::ScopeSet;
use crate::http::compression::uncompressed;
use crate::http::problem::OAuthErrorCode;
use crate::http::{Form, Problem};
use crate::store::Account;
use crate::types::{Email, FieldErrorCode};
use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The only grant type.
pub(in crate::api) const REFRESH_GRANT: &str = "refresh_token";

/// The form of a refresh (RFC 6749, section 6). Other parameters are ignored.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
pub(super) struct RefreshForm {
    /// `refresh_token`.
    #[schema(pattern = "^refresh_token$")]
    grant_type: String,
    /// The refresh token.
    #[schema(pattern = "^[0-9a-f]{24}\\.[0-9a-f]{80}$")]
    refresh_token: String,
    /// The email address of the user that the refresh token was issued to.
    client_id: Email,
    /// The scopes of the new access token, space-delimited; by default the role of the user.
    #[schema(nullable = false, max_length = 100)]
    scope: Option<String>,
}

/// An example of the form.
pub(super) fn example() -> Value {
    json!({
        "grant_type": REFRESH_GRANT,
        "refresh_token": "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac",
        "client_id": "admin@example.com",
    })
}

/// An access token and a refresh token (RFC 6749, section 5.1).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OAuthTokenResponse {
    /// The access token, a JWT.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// The lifetime of the access token in seconds.
    expires_in: u64,
    /// The next refresh token.
    refresh_token: String,
    /// The scopes of the access token, space-delimited.
    scope: String,
}

/// Exchanges the refresh token of a form.
///
/// # Errors
/// An OAuth error if a parameter is missing or invalid, or if the token is; others if the database is unavailable.
pub(super) async fn refresh(
    state: &AppState,
    client: TokenClient<'_>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let request = RefreshRequest::parse(form).map_err(error)?;
    let client = TokenClient { scopes: request.scopes.as_ref(), ..client };
    let expected = |account: &Account| account.email == request.client;
    let pair = token_families::rotate(state, client, &request.token, expected).await;
    let TokenPair { access, refresh, scope } = pair.map_err(|failure| error(failure.into()))?;
    let body = OAuthTokenResponse {
        access_token: access.token,
        token_type: "Bearer",
        expires_in: state.clock.now().seconds_until(access.expires_at),
        refresh_token: refresh.expose().to_owned(),
        scope: scope.to_string(),
    };
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((header::PRAGMA, "no-cache"));
    Ok(uncompressed(response.json(body)))
}

struct RefreshRequest {
    token: SecretString,
    client: Email,
    scopes: Option<ScopeSet>,
}

impl RefreshRequest {
    fn parse(mut form: Form) -> Result<Self, Problem> {
        let missing =
            |name: &str| Problem::invalid_field(name, FieldErrorCode::Required, "this parameter is required");
        let grant_type = form.take("grant_type", 200)?.ok_or_else(|| missing("grant_type"))?;
        if grant_type != REFRESH_GRANT {
            let detail = "The only grant type is refresh_token. Log in with JSON: email and password.";
            return Err(Problem::new(StatusCode::BAD_REQUEST, UNSUPPORTED_GRANT_TYPE, detail));
        }
        let token = form.take("refresh_token", 4096)?.ok_or_else(|| missing("refresh_token"))?;
        let client = form.take("client_id", 400)?.ok_or_else(|| missing("client_id"))?;
        let client = client.parse().map_err(|_| {
            let message = "expected the email address of the user that the refresh token was issued to";
            Problem::invalid_field("client_id", FieldErrorCode::InvalidFormat, message)
        })?;
        let scopes = form.take("scope", 100)?.map(|scope| scope.parse::<ScopeSet>()).transpose();
        let scopes = scopes
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, INVALID_SCOPE, error.to_string()))?;
        Ok(Self { token: token.into(), client, scopes })
    }
}

const UNSUPPORTED_GRANT_TYPE: &str = "unsupported_grant_type";

/// Returns a problem of this endpoint as an OAuth error.
pub(super) fn error(problem: Problem) -> Problem {
    let code = match problem.code {
        INVALID_REFRESH_TOKEN => OAuthErrorCode::InvalidGrant,
        INVALID_SCOPE => OAuthErrorCode::InvalidScope,
        UNSUPPORTED_GRANT_TYPE => OAuthErrorCode::UnsupportedGrantType,
        _ if problem.status == StatusCode::INTERNAL_SERVER_ERROR => OAuthErrorCode::ServerError,
        _ if problem.status.is_server_error() || problem.status == StatusCode::TOO_MANY_REQUESTS => {
            OAuthErrorCode::TemporarilyUnavailable
        }
        _ => OAuthErrorCode::InvalidRequest,
    };
    let status =
        if problem.status == StatusCode::UNAUTHORIZED { StatusCode::BAD_REQUEST } else { problem.status };
    let is_challenge = |(name, _): &(header::HeaderName, String)| *name == header::WWW_AUTHENTICATE;
    let headers = problem.headers.iter().filter(|header| !is_challenge(header)).cloned().collect();
    Problem { status, headers, ..problem }.as_oauth_error(code)
}
