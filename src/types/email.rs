//! Email addresses, with which users log in.

use super::unicode::{is_invisible, nfc};
use super::{FieldErrorCode, InvalidValue, quoted, string_schema, text_serde};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::fmt;
use std::str::FromStr;

/// An email address in its normal form, in which addresses are compared: NFC, lower case, the domain in ASCII.
///
/// The local part has at most 64 bytes and no white space, control or format characters. The domain is a host name
/// according to UTS #46. The address has at most 254 bytes (RFC 5321, section 4.5.3.1). See "Normalization" in
/// docs/decisions.md.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// The normalized address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || {
            let message = format!("{} is not an email address such as ada@example.com", quoted(text));
            InvalidValue::new(FieldErrorCode::InvalidFormat, message)
        };
        normalize(text).map(Self).ok_or_else(invalid)
    }
}

/// The maximum length of an address, in bytes.
const MAX: usize = 254;

/// Returns the normal form of an address, or none if the text is not an address.
fn normalize(text: &str) -> Option<String> {
    if text.chars().count() > MAX {
        return None;
    }
    let text = nfc(text);
    if text.chars().any(|character| character.is_whitespace() || is_invisible(character)) {
        return None;
    }
    let (local, domain) = text.rsplit_once('@')?;
    if local.is_empty() || local.contains('@') {
        return None;
    }
    // Lower-casing a letter can produce several characters, which may need composition.
    let local = local.to_lowercase();
    let local = nfc(&local);
    let domain = Uts46::new().to_ascii(
        domain.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::CheckFirstLast,
        DnsLength::Verify,
    );
    let address = format!("{local}@{}", domain.ok()?);
    (local.len() <= 64 && address.len() <= MAX).then_some(address)
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(Email);

impl utoipa::PartialSchema for Email {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema(
            "An email address. It is stored, compared and returned in lower case and NFC, with the domain in ASCII form.",
        )
            .max_length(Some(254))
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::Email)))
            .examples(["ada@example.com"])
            .into()
    }
}

impl utoipa::ToSchema for Email {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equivalent_addresses_normalize_to_the_same_form() {
        for (text, form) in [
            ("Ada@Example.COM", "ada@example.com"),
            ("e\u{301}va@example.com", "\u{e9}va@example.com"),
            ("E\u{301}VA@example.com", "\u{e9}va@example.com"),
            ("\u{212b}sa@example.com", "\u{e5}sa@example.com"),
            ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@bu\u{308}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@B\u{dc}CHER.example", "ada@xn--bcher-kva.example"),
            ("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example"),
            ("ada@example\u{3002}com", "ada@example.com"),
            ("ada@\u{ff45}xample.com", "ada@example.com"),
            ("\u{130}@example.com", "i\u{307}@example.com"),
            ("ada@localhost", "ada@localhost"),
        ] {
            assert_eq!(text.parse::<Email>().unwrap().as_str(), form, "{text:?}");
        }
    }

    #[test]
    fn an_invalid_address_is_rejected_and_named_in_the_error() {
        let long = format!("{}@example.com", "a".repeat(65));
        let longer = format!("a@{}com", "example.".repeat(32));
        for text in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "a b@example.com",
            "ada@example..com",
            "ada@example.com.",
            "ada@-example.com",
            "ada@exam_ple.com",
            "ada@xn--a.example",
            "a@b@c.de",
            "ad\u{200b}a@example.com",
            "ada\u{200d}@example.com",
            "\u{202e}ada@example.com",
            "\u{feff}ada@example.com",
            "a\u{ad}da@example.com",
            "ada\u{3164}@example.com",
            "ada\u{fe0f}@example.com",
            "ada\u{e0041}@example.com",
            "ada\u{7f}@example.com",
            "ada\u{2028}@example.com",
            "ada@exam\u{ad}ple.com",
            "ada@exam\u{200b}ple.com",
            &long,
            &longer,
        ] {
            let error = text.parse::<Email>().unwrap_err().to_string();
            assert!(error.contains("is not an email address"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn normalization_is_idempotent(local in "\\PC{1,12}", domain in "\\PC{1,12}") {
            if let Ok(email) = format!("{local}@{domain}.example").parse::<Email>() {
                prop_assert_eq!(email.as_str().parse::<Email>().unwrap(), email);
            }
        }
    }
}
