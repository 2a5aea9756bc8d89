//! The bearer token of a request (RFC 6750, 2.1): an access token or an API key.

use super::ApiKey;
use crate::values::Invalid;
use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;

/// What stands after `Bearer` in an Authorization header.
#[derive(Debug, Clone)]
pub enum Bearer {
    /// An access token, not checked yet.
    Jwt(SecretString),
    /// An API key, not looked up yet.
    ApiKey(ApiKey),
}

impl Bearer {
    /// The token itself.
    pub fn expose(&self) -> &str {
        match self {
            Self::Jwt(token) => token.expose_secret(),
            Self::ApiKey(key) => key.expose(),
        }
    }

    /// What stands after `Bearer` in the value of an Authorization header, whatever it is.
    pub fn in_header(header: &str) -> Result<&str, Invalid> {
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_start()),
            _ => Err(Invalid::new("the header is not `Authorization: Bearer <token>`")),
        }
    }
}

impl FromStr for Bearer {
    type Err = Invalid;

    fn from_str(token: &str) -> Result<Self, Invalid> {
        let is_jwt_part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if token.split('.').count() == 3 && token.split('.').all(is_jwt_part) {
            return Ok(Self::Jwt(token.into()));
        }
        token
            .parse()
            .map(Self::ApiKey)
            .map_err(|_| Invalid::new("it is neither an access token nor an API key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(header: &str) -> Result<Bearer, Invalid> {
        Bearer::in_header(header)?.parse()
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert!(matches!(parse(header), Ok(Bearer::Jwt(_))), "{header}");
        }
        for header in
            ["", "Bearer", "Bearer ", "Basic a.b.c", "a.b.c", "Bearer a.b", "Bearer a..c", "Bearer a.b.c d"]
        {
            assert!(parse(header).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_the_header_it_is_read_or_refused(header in "\\PC{0,80}") {
            let _ = parse(&header);
            let _ = parse(&format!("Bearer {header}"));
        }
    }
}
