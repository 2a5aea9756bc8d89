//! Email addresses, which users log in with.

use super::{Invalid, quoted, string_schema, text_serde};
use std::fmt;
use std::str::FromStr;

/// An email address, in lower case, so that one address is one user. Checked for its form only: something before and
/// after one `@`, a dot-separated domain or a single host name, no blanks, at most 254 characters (RFC 5321, 4.5.3.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, sea_orm::DeriveValueType)]
#[sea_orm(value_type = "String", column_type = "Text")]
pub struct Email(String);

impl Email {
    /// The address itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let formed = text.len() <= 254
            && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
            && text.rsplit_once('@').is_some_and(|(local, domain)| {
                (1..=64).contains(&local.len())
                    && !local.contains('@')
                    && domain.split('.').all(|label| {
                        (1..=63).contains(&label.len())
                            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
                    })
            });
        if formed {
            Ok(Self(text.to_lowercase()))
        } else {
            Err(Invalid(format!("{} is not an email address such as somebody@example.com", quoted(text))))
        }
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(Email);

impl utoipa::PartialSchema for Email {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema("An email address. Upper and lower case are one.")
            .max_length(Some(254))
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::Email)))
            .examples(["somebody@example.com"])
            .into()
    }
}

impl utoipa::ToSchema for Email {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_in_lower_case() {
        assert_eq!("Ada@Example.COM".parse::<Email>().unwrap().as_str(), "ada@example.com");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_value() {
        for text in ["", "ada", "@example.com", "ada@", "a b@example.com", "ada@example..com", "a@b@c.de"] {
            let error = text.parse::<Email>().unwrap_err().to_string();
            assert!(error.contains("is not an email address"), "{error}");
        }
    }
}
