//! Access tokens: JWTs with the claims of the seed's sample and those that RFC 7519 registers (decision 2).

use super::secret::{SecretError, random_hex};
use crate::authz::ScopeSet;
use crate::types::{Id, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user on whose behalf it is used.
    pub id: Id,
    /// What it was issued for. The cascade is applied when it is used (decision 2).
    pub scope: ScopeSet,
    /// The login that it comes from.
    pub sid: Id,
}

/// The claims as they stand in the token.
#[derive(Serialize, Deserialize)]
struct Payload {
    #[serde(rename = "_id")]
    id: Id,
    scope: String,
    iat: i64,
    exp: i64,
    /// From when on it is good (RFC 7519, 4.1.5); the service itself issues tokens without it.
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
    /// The token.
    pub token: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// An access token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// What it says.
    pub claims: Claims,
    /// Its own name.
    pub jti: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// The keyring by which it is.
    pub keyring_number: u64,
}

/// Why an access token is no good. The messages are those that existing clients know (decision 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good once. Its signature is.
    #[error("jwt expired")]
    Expired,
    /// None of our keys signed it.
    #[error("invalid signature")]
    InvalidSignature,
    /// It names a key that is not known, or not yet.
    #[error("invalid signature")]
    UnknownKey,
    /// It is not one of our tokens.
    #[error("invalid token")]
    Invalid,
}

/// A token with these claims, good for `ttl` seconds from `now`, from the whole second on.
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

/// What a token says, if this key signed it and it is valid at `now`: not before its `nbf`, not from its `exp` on.
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
    // By the service's own clock, as the expiry.
    if payload.nbf.is_some_and(|nbf| nbf > now.seconds()) {
        return Err(TokenError::Invalid);
    }
    if payload.exp <= now.seconds() {
        return Err(TokenError::Expired);
    }
    Ok(VerifiedToken {
        claims: Claims { id: payload.id, scope, sid: payload.sid },
        jti: payload.jti,
        issued_at: from_unix_seconds(payload.iat),
        expires_at: from_unix_seconds(payload.exp),
        keyring_number: 0,
    })
}

fn from_unix_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1_000))
}
