//! Refresh tokens: `<userId>.<80 hex digits>` (see "Refresh-token format" in docs/decisions.md).
//!
//! Each token after the first is derived from its predecessor and a salt (see "Refresh-token rotation"). So a repeated
//! refresh returns the same successor, although only hashes and salts are stored.

use super::secret::{self, SecretError, random_hex};
use crate::types::{FieldErrorCode, Id, InvalidValue};
use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;

/// A refresh token in plain text. The hash of the whole token is stored, so that a part of it matches nothing.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    user: Id,
    text: SecretString,
}

impl RefreshToken {
    /// Generates the first token of a family.
    ///
    /// # Errors
    ///
    /// If the system provides no random bytes.
    pub fn new(user: Id) -> Result<Self, SecretError> {
        Ok(Self { user, text: format!("{user}.{}", random_hex::<40>()?).into() })
    }

    /// Generates a salt for [`Self::successor`]: 256 random bits in hex.
    ///
    /// # Errors
    ///
    /// If the system provides no random bytes.
    pub fn new_salt() -> Result<String, SecretError> {
        random_hex::<32>()
    }

    /// Derives the next token: the first 320 bits of the HMAC-SHA-512 of this whole token, keyed with the salt. Without both
    /// of them it cannot be predicted.
    pub fn successor(&self, salt: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA512, salt.as_bytes());
        let tag = hmac::sign(&key, self.text.expose_secret().as_bytes());
        let digits: String = hex::encode(tag).chars().take(80).collect();
        Self { user: self.user, text: format!("{}.{digits}", self.user).into() }
    }

    /// The user that the token names; not verified.
    pub fn user(&self) -> Id {
        self.user
    }

    /// The SHA-256 of the token, under which it is stored.
    pub fn hash(&self) -> String {
        secret::sha256_hex(self.text.expose_secret())
    }

    /// The token in plain text, for the response that issues it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl FromStr for RefreshToken {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // The message does not repeat the input, which may be most of a valid token.
        let malformed = || {
            let message = "expected a refresh token: a user id, a dot and 80 hex digits";
            InvalidValue::new(FieldErrorCode::InvalidFormat, message)
        };
        let (user, rest) = text.split_once('.').ok_or_else(malformed)?;
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        if rest.len() != 80 || !text.bytes().all(|byte| byte == b'.' || is_hex(byte)) {
            return Err(malformed());
        }
        Ok(Self { user: user.parse().map_err(|_| malformed())?, text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_parses_from_its_own_text_and_never_from_a_prefix() {
        let token = RefreshToken::new(Id::EXAMPLE).unwrap();
        let text = token.expose();
        assert_eq!(text.len(), 24 + 1 + 80);
        let read: RefreshToken = text.parse().unwrap();
        assert_eq!((read.user(), read.hash()), (Id::EXAMPLE, token.hash()));
        for length in 0..text.len() {
            assert!(text.chars().take(length).collect::<String>().parse::<RefreshToken>().is_err());
        }
        // The samples in the specification: one complete, two truncated.
        let sample = "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac";
        assert!(sample.parse::<RefreshToken>().is_ok());
        assert!("599e1fcd9da1c72645c95886.28167e54e423275c0d948".parse::<RefreshToken>().is_err());
    }

    #[test]
    fn a_successor_depends_on_both_token_and_salt() {
        let (token, other) =
            (RefreshToken::new(Id::EXAMPLE).unwrap(), RefreshToken::new(Id::EXAMPLE).unwrap());
        let (salt, pepper) = (RefreshToken::new_salt().unwrap(), RefreshToken::new_salt().unwrap());
        let next = token.successor(&salt);
        assert_eq!(next.expose(), token.successor(&salt).expose());
        assert_eq!(next.expose().parse::<RefreshToken>().unwrap().hash(), next.hash());
        assert_eq!(next.user(), Id::EXAMPLE);
        for another in [token.successor(&pepper), other.successor(&salt), next.successor(&salt), token] {
            assert_ne!(next.expose(), another.expose());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected_without_a_panic(text in "\\PC{0,120}", digits in "[0-9a-f]{24}\\.[0-9a-f]{78,82}") {
            prop_assert!(text.parse::<RefreshToken>().is_err());
            prop_assert_eq!(digits.parse::<RefreshToken>().is_ok(), digits.len() == 105);
        }
    }
}
