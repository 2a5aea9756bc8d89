//! Refresh tokens: `<userId>.<80 hex digits>` (decision 7), of which each one after the first follows from the one before
//! and a salt (decision 8), so that whoever asks twice gets the same, and nothing but hashes and salts is kept.

use super::secret::{self, SecretError, random_hex};
use crate::types::{Id, InvalidValue};
use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;

/// A refresh token, as a client holds it. It is kept as a hash of the whole of it, so a part of it matches nothing.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    user: Id,
    text: SecretString,
}

impl RefreshToken {
    /// A new one for this user.
    pub fn new(user: Id) -> Result<Self, SecretError> {
        Ok(Self { user, text: format!("{user}.{}", random_hex::<40>()?).into() })
    }

    /// A salt for [`Self::successor`]: 256 random bits, in hex.
    pub fn new_salt() -> Result<String, SecretError> {
        random_hex::<32>()
    }

    /// The token that follows this one with this salt: the first 320 bits of HMAC-SHA-512 of the whole token, keyed with
    /// the salt. Whoever lacks either can tell nothing of it.
    pub fn successor(&self, salt: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA512, salt.as_bytes());
        let tag = hmac::sign(&key, self.text.expose_secret().as_bytes());
        let digits: String = secret::encode_hex(tag.as_ref()).chars().take(80).collect();
        Self { user: self.user, text: format!("{}.{digits}", self.user).into() }
    }

    /// Whose it says it is.
    pub fn user(&self) -> Id {
        self.user
    }

    /// The hash under which it is kept.
    pub fn hash(&self) -> String {
        secret::sha256_hex(self.text.expose_secret())
    }

    /// The token itself, for whom it is issued to.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl FromStr for RefreshToken {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // The message does not repeat what was sent: it may be most of a good token.
        let malformed = || InvalidValue::new("a refresh token is a user id, a dot and 80 hex digits");
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
        // The seed's samples: one whole, two cut short.
        let seed = "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac";
        assert!(seed.parse::<RefreshToken>().is_ok());
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
