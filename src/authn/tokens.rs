//! Access tokens: JWTs with the claims of the seed's sample and those that RFC 7519 registers (decision 2).

use super::secret::{SecretError, random_hex};
use crate::authz::ScopeSet;
use crate::values::{Id, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// A key that signs access tokens, with HS256 and nothing else (RFC 8725, 3.1).
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Its name, in the header of the tokens that it signs.
    pub kid: String,
    /// The key.
    pub secret: SecretSlice<u8>,
}

impl SigningKey {
    /// The algorithm that all keys are used with.
    pub const ALGORITHM: &'static str = "HS256";
}

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
    iss: String,
    aud: String,
    jti: String,
    sid: Id,
}

/// A token that has just been issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// An access token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Its own name.
    pub jti: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
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
    /// It is not one of our tokens.
    #[error("invalid token")]
    Invalid,
}

/// The keys that sign: one that signs now, and all that are good for checking.
pub struct TokenKeys {
    signs: (Header, EncodingKey),
    checks: HashMap<String, DecodingKey>,
    validation: Validation,
    issuer: String,
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys").field("kids", &self.checks.keys()).finish_non_exhaustive()
    }
}

impl TokenKeys {
    /// `first` signs; the others are good for checking what they signed. `issuer` is both `iss` and `aud`.
    pub fn new(first: &SigningKey, others: &[SigningKey], issuer: &str) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(first.kid.clone());
        let checks = [first].into_iter().chain(others).map(|key| {
            let secret = key.secret.expose_secret();
            (key.kid.clone(), DecodingKey::from_secret(secret))
        });
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        // The expiry is checked below, by the service's own clock, and last of all.
        validation.validate_exp = false;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Self {
            signs: (header, EncodingKey::from_secret(first.secret.expose_secret())),
            checks: checks.collect(),
            validation,
            issuer: issuer.to_owned(),
        }
    }

    /// A token with these claims, good for `ttl` seconds from `now`, from the whole second on.
    pub fn issue(&self, claims: &Claims, now: Timestamp, ttl: u64) -> Result<Issued, SecretError> {
        let iat = now.seconds();
        let exp = now.plus_seconds(ttl).seconds();
        let payload = Payload {
            id: claims.id,
            scope: claims.scope.to_string(),
            iat,
            exp,
            iss: self.issuer.clone(),
            aud: self.issuer.clone(),
            jti: random_hex::<16>()?,
            sid: claims.sid,
        };
        let (header, key) = &self.signs;
        let token = jsonwebtoken::encode(header, &payload, key).map_err(|_| SecretError)?;
        Ok(Issued { token, expires_at: Timestamp::from_millis(exp.saturating_mul(1_000)) })
    }

    /// What a token says, if one of our keys signed it and it has not expired at `now`.
    pub fn verify(&self, token: &SecretString, now: Timestamp) -> Result<Verified, TokenError> {
        let token = token.expose_secret();
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let kid = header.kid.ok_or(TokenError::InvalidSignature)?;
        let key = self.checks.get(&kid).ok_or(TokenError::InvalidSignature)?;
        let payload = jsonwebtoken::decode::<Payload>(token, key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::InvalidSignature,
                _ => TokenError::Invalid,
            })?
            .claims;
        let scope = payload.scope.parse().map_err(|_| TokenError::Invalid)?;
        if payload.exp <= now.seconds() {
            return Err(TokenError::Expired);
        }
        let moment = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        Ok(Verified {
            claims: Claims { id: payload.id, scope, sid: payload.sid },
            jti: payload.jti,
            issued_at: moment(payload.iat),
            expires_at: moment(payload.exp),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Scope;

    fn key(kid: &str) -> SigningKey {
        SigningKey { kid: kid.into(), secret: vec![7; 32].into() }
    }

    fn issued(keys: &TokenKeys, now: Timestamp) -> SecretString {
        let claims = Claims { id: Id::EXAMPLE, scope: Scope::Admin.into(), sid: Id::EXAMPLE };
        keys.issue(&claims, now, 60).unwrap().token.into()
    }

    #[test]
    fn a_token_is_good_until_the_second_of_its_expiry() {
        let keys = TokenKeys::new(&key("a"), &[], "us");
        let now = Timestamp::from_millis(1_700_000_000_500);
        let token = issued(&keys, now);
        assert_eq!(keys.verify(&token, now).unwrap().claims.scope.to_string(), "admin");
        assert!(keys.verify(&token, Timestamp::from_millis(1_700_000_059_999)).is_ok());
        assert_eq!(
            keys.verify(&token, Timestamp::from_millis(1_700_000_060_000)).unwrap_err(),
            TokenError::Expired
        );
    }

    #[test]
    fn a_token_of_another_key_issuer_or_kid_is_refused_even_when_it_has_expired() {
        let keys = TokenKeys::new(&key("a"), &[], "us");
        let now = Timestamp::from_millis(0);
        let late = Timestamp::from_millis(9_000_000);
        let foreign = SigningKey { kid: "a".into(), secret: vec![8; 32].into() };
        let wrong = issued(&TokenKeys::new(&foreign, &[], "us"), now);
        assert_eq!(keys.verify(&wrong, late), Err(TokenError::InvalidSignature));
        let wrong = issued(&TokenKeys::new(&key("b"), &[], "us"), now);
        assert_eq!(keys.verify(&wrong, now), Err(TokenError::InvalidSignature));
        let wrong = issued(&TokenKeys::new(&key("a"), &[], "them"), now);
        assert_eq!(keys.verify(&wrong, now), Err(TokenError::Invalid));
        let old = TokenKeys::new(&key("b"), &[key("a")], "us");
        assert!(old.verify(&issued(&keys, now), now).is_ok(), "a key that signs no more still checks");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let keys = TokenKeys::new(&key("a"), &[], "us");
        for text in ["a.b.c", "eyJhbGciOiJub25lIn0.e30.", "", "…"] {
            assert_eq!(
                keys.verify(&text.into(), Timestamp::from_millis(0)),
                Err(TokenError::Invalid),
                "{text}"
            );
        }
    }
}
