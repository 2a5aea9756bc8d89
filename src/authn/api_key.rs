//! API keys: `cg_<32 hex digits><checksum>`, which secret scanners recognize, or the plain 32 hex digits of the first
//! example in the specification (see "API keys" in docs/decisions.md).

use super::secret::{self, SecretError, random_hex};
use crate::types::{FieldErrorCode, InvalidValue, string_enum};
use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;

string_enum!(
    /// The format of an API key: `cg_` with a checksum, or plain hex digits.
    KeyFormat { Prefixed = "cg", Hex = "hex" }
);

const PREFIX: &str = "cg_";

/// An API key in plain text: 128 random bits.
#[derive(Debug, Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// Generates a key.
    ///
    /// # Errors
    ///
    /// If the system provides no random bytes.
    pub fn new(format: KeyFormat) -> Result<Self, SecretError> {
        let digits = random_hex::<16>()?;
        Ok(Self(match format {
            KeyFormat::Prefixed => format!("{PREFIX}{digits}{}", checksum(&digits)).into(),
            KeyFormat::Hex => digits.into(),
        }))
    }

    /// The SHA-256 of the key, under which it is stored.
    pub fn hash(&self) -> String {
        secret::sha256_hex(self.0.expose_secret())
    }

    /// The key in plain text, for the response that creates it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The first 7 characters, by which its owner recognizes it.
    pub fn hint(&self) -> String {
        self.expose().chars().take(7).collect()
    }
}

/// Returns the CRC-32 of the digits as 8 hex digits. It detects typing errors without a database query.
fn checksum(digits: &str) -> String {
    format!("{:08x}", crc32fast::hash(digits.as_bytes()))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
}

impl FromStr for ApiKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_well_formed = match text.strip_prefix(PREFIX) {
            Some(rest) => {
                is_hex(rest)
                    && rest.len() == 40
                    && rest.split_at_checked(32).is_some_and(|(digits, check)| checksum(digits) == check)
            }
            None => text.len() == 32 && is_hex(text),
        };
        if is_well_formed {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::new(FieldErrorCode::InvalidFormat, "not an API key"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_formats_parse_from_their_own_text() {
        for (format, length) in [(KeyFormat::Prefixed, 43), (KeyFormat::Hex, 32)] {
            let key = ApiKey::new(format).unwrap();
            assert_eq!(key.expose().len(), length);
            assert_eq!(key.expose().parse::<ApiKey>().unwrap().hash(), key.hash());
        }
        assert!("94c70d470e391bdc16a8d8363b5d4891".parse::<ApiKey>().is_ok(), "the specification's example");
    }

    proptest! {
        #[test]
        fn only_the_two_formats_parse_as_an_api_key(
            text in "(cg_)?[0-9a-f]{30,34}([0-9a-f]{8})?|cg_[0-9a-fA-F]{40}|\\PC{0,50}",
            digits in "[0-9a-f]{32}",
        ) {
            let is_key = |text: &str| match text.strip_prefix(PREFIX) {
                Some(rest) if rest.len() == 40 && is_hex(rest) => {
                    let (digits, check) = rest.split_at(32);
                    checksum(digits) == check
                }
                Some(_) => false,
                None => text.len() == 32 && is_hex(text),
            };
            let prefixed = format!("{PREFIX}{digits}{}", checksum(&digits));
            for text in [&text, &digits, &prefixed] {
                let parsed = text.parse::<ApiKey>();
                prop_assert_eq!(parsed.is_ok(), is_key(text), "{}", text);
                if let Ok(key) = parsed {
                    prop_assert_eq!(key.expose(), text);
                }
            }
            prop_assert!(digits.parse::<ApiKey>().is_ok() && prefixed.parse::<ApiKey>().is_ok());
        }

        #[test]
        fn a_single_typo_never_yields_another_valid_key(digits in "[0-9a-f]{32}", index in 0..43_usize, typo in "\\PC") {
            let key = format!("{PREFIX}{digits}{}", checksum(&digits));
            let (before, after) = key.split_at(index);
            let rest = after.split_at(1).1;
            let wrong = format!("{before}{typo}{rest}");
            prop_assert_eq!(wrong.parse::<ApiKey>().is_ok(), wrong == key, "{}", wrong);
            for wrong in [format!("{before}{typo}{after}"), format!("{before}{rest}")] {
                prop_assert!(wrong.parse::<ApiKey>().is_err(), "{}", wrong);
            }
        }
    }

    #[test]
    fn a_key_with_a_wrong_digit_is_rejected() {
        let key = ApiKey::new(KeyFormat::Prefixed).unwrap();
        let digit = if key.expose().as_bytes()[10] == b'0' { "1" } else { "0" };
        let mut wrong = key.expose().to_owned();
        wrong.replace_range(10..11, digit);
        assert!(wrong.parse::<ApiKey>().is_err());
        assert!("cg_".parse::<ApiKey>().is_err());
    }
}
