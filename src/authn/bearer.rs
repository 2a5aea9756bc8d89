//! The bearer token of a request (RFC 6750, section 2.1): an access token or an API key.

use super::ApiKey;
use crate::types::{FieldErrorCode, InvalidValue};
use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;

/// The token of an `Authorization: Bearer` header.
#[derive(Debug, Clone)]
pub enum BearerToken {
    /// An access token, not verified yet.
    Jwt(SecretString),
    /// An API key, not looked up yet.
    ApiKey(ApiKey),
}

impl BearerToken {
    /// The token in plain text.
    pub fn expose(&self) -> &str {
        match self {
            Self::Jwt(token) => token.expose_secret(),
            Self::ApiKey(key) => key.expose(),
        }
    }

    /// Returns the text after `Bearer` in an Authorization header, in whatever form.
    ///
    /// # Errors
    ///
    /// If the header has another scheme or no token.
    pub fn token_from_header(header: &str) -> Result<&str, InvalidValue> {
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_start()),
            _ => Err(InvalidValue::new(
                FieldErrorCode::InvalidFormat,
                "the header is not `Authorization: Bearer <token>`",
            )),
        }
    }
}

impl FromStr for BearerToken {
    type Err = InvalidValue;

    fn from_str(token: &str) -> Result<Self, InvalidValue> {
        let is_jwt_part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if token.split('.').count() == 3 && token.split('.').all(is_jwt_part) {
            return Ok(Self::Jwt(token.into()));
        }
        token.parse().map(Self::ApiKey).map_err(|_| {
            InvalidValue::new(FieldErrorCode::InvalidFormat, "neither an access token nor an API key")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(header: &str) -> Result<BearerToken, InvalidValue> {
        BearerToken::token_from_header(header)?.parse()
    }

    #[test]
    fn the_scheme_is_case_insensitive() {
        for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert!(matches!(parse(header), Ok(BearerToken::Jwt(_))), "{header}");
        }
        for header in
            ["", "Bearer", "Bearer ", "Basic a.b.c", "a.b.c", "Bearer a.b", "Bearer a..c", "Bearer a.b.c d"]
        {
            assert!(parse(header).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_value_is_parsed_or_rejected_without_a_panic(header in "\\PC{0,80}") {
            let _ = parse(&header);
            let _ = parse(&format!("Bearer {header}"));
        }
    }
}
