//! Access tokens: JWTs with the claims of the specification and registered ones (see "Token claims" in docs/decisions.md).

use super::secret::{SecretError, random_hex};
use crate::authz::ScopeSet;
use crate::types::{Id, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// The claims of an access token that depend on the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user on whose behalf the token is used.
    pub id: Id,
    /// The granted scopes. The scope cascade is applied when the token is used (see "Token claims" in docs/decisions.md).
    pub scope: ScopeSet,
    /// The session that the token belongs to.
    pub sid: Id,
}

/// The claims as serialized.
#[derive(Serialize, Deserialize)]
struct Payload {
    #[serde(rename = "_id")]
    id: Id,
    /// The same as `_id`. Tokens that were issued by earlier versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<Id>,
    scope: String,
    iat: i64,
    exp: i64,
    /// The time before which the token is invalid (RFC 7519, section 4.1.5). Tokens of this service have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    iss: String,
    aud: String,
    jti: String,
    sid: Id,
}

/// A token that has just been issued.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token in compact serialization.
    pub token: String,
    /// The time of expiry.
    pub expires_at: Timestamp,
}

/// A token whose signature and claims were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Its claims.
    pub claims: Claims,
    /// The token id.
    pub jti: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// The time of expiry: that of the token, or the end of its key if that is earlier.
    pub expires_at: Timestamp,
    /// Its issuer, a URL of the service.
    pub issuer: String,
    /// The number of the key ring that verified it.
    pub keyring_number: u64,
}

/// Why an access token is rejected. Existing clients depend on the messages (see "Expired token" in docs/decisions.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token has expired; its signature is valid.
    #[error("jwt expired")]
    Expired,
    /// No key of the service signed it.
    #[error("invalid signature")]
    InvalidSignature,
    /// Its `kid` is unknown; another process may have added the key.
    #[error("invalid signature")]
    UnknownKey,
    /// It is malformed, or a claim is wrong.
    #[error("invalid token")]
    Invalid,
}

/// Issues a token; see [`super::Keyring::issue`].
///
/// # Errors
/// The system has no random bytes, or the token cannot be signed.
pub(super) fn issue(
    (header, key): (&Header, &EncodingKey),
    issuer: &str,
    claims: &Claims,
    now: Timestamp,
    ttl: u64,
) -> Result<IssuedToken, SecretError> {
    let iat = now.seconds();
    let exp = now.plus_seconds(ttl).seconds();
    let payload = Payload {
        id: claims.id,
        sub: Some(claims.id),
        scope: claims.scope.to_string(),
        iat,
        exp,
        nbf: None,
        iss: issuer.to_owned(),
        aud: issuer.to_owned(),
        jti: random_hex::<16>()?,
        sid: claims.sid,
    };
    let token = jsonwebtoken::encode(header, &payload, key).map_err(|_| SecretError)?;
    Ok(IssuedToken { token, expires_at: from_unix_seconds(exp) })
}

/// Verifies the signature and claims of a token, except its expiry: `nbf` must not be later than `now`.
///
/// # Errors
/// The signature does not match, or the token is invalid in another way. The signature is verified first.
pub(super) fn verify(
    token: &str,
    key: &DecodingKey,
    validation: &Validation,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    let payload = jsonwebtoken::decode::<Payload>(token, key, validation)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::InvalidSignature,
            _ => TokenError::Invalid,
        })?
        .claims;
    let scope = payload.scope.parse().map_err(|_| TokenError::Invalid)?;
    // Not checked by the library, which would use the clock of the system.
    if payload.nbf.is_some_and(|nbf| nbf > now.seconds()) {
        return Err(TokenError::Invalid);
    }
    if payload.sub.is_some_and(|sub| sub != payload.id) || payload.aud != payload.iss {
        return Err(TokenError::Invalid);
    }
    Ok(VerifiedToken {
        claims: Claims { id: payload.id, scope, sid: payload.sid },
        jti: payload.jti,
        issued_at: from_unix_seconds(payload.iat),
        expires_at: from_unix_seconds(payload.exp),
        issuer: payload.iss,
        keyring_number: 0,
    })
}

fn from_unix_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1_000))
}
