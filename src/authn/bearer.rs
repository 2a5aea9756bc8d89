//! The bearer token of a request (RFC 6750, 2.1): an access token or an API key.

use super::ApiKey;
use crate::values::{Fingerprint, Invalid};
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
    /// What stands for it in a cache.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Jwt(token) => Fingerprint::of(&token.expose_secret()),
            Self::ApiKey(key) => Fingerprint::of(&key.expose()),
        }
    }

    /// From the value of an Authorization header.
    pub fn parse(header: &str) -> Result<Self, Invalid> {
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start().parse(),
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

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert!(matches!(Bearer::parse(header), Ok(Bearer::Jwt(_))), "{header}");
        }
        for header in
            ["", "Bearer", "Bearer ", "Basic a.b.c", "a.b.c", "Bearer a.b", "Bearer a..c", "Bearer a.b.c d"]
        {
            assert!(Bearer::parse(header).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_the_header_it_is_read_or_refused(header in "\\PC{0,80}") {
            let _ = Bearer::parse(&header);
            let _ = Bearer::parse(&format!("Bearer {header}"));
        }
    }
}
