//! Texts with length limits. Each is a type, so that its limits are declared once, for validation and the OpenAPI document.

use super::schema::string_schema;
use super::unicode::is_invisible;
use super::{FieldErrorCode, InvalidValue, quoted};
use compact_str::CompactString;
use serde::de::{Error, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// The regular expression of a text without the character U+0000, which PostgreSQL cannot store.
pub(crate) const NO_NUL_PATTERN: &str = "^[^\\u0000]*$";

/// Checks that a text has `min` to `max` characters and no U+0000.
fn check_length(what: &str, text: &str, min: usize, max: usize) -> Result<(), InvalidValue> {
    // A character has 1 to 4 bytes, so that the length in bytes mostly decides without counting characters.
    let is_within = text.len() <= max && text.len() / 4 >= min;
    let length = if is_within { min } else { text.chars().count() };
    if length < min || length > max {
        let code = if length < min { FieldErrorCode::TooShort } else { FieldErrorCode::TooLong };
        let message = format!("{what} {} has {length} characters; expected {min} to {max}", quoted(text));
        return Err(InvalidValue::new(code, message));
    }
    if text.contains('\0') {
        let message =
            format!("{what} {} contains the character U+0000, which cannot be stored", quoted(text));
        return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
    }
    Ok(())
}

/// Implements serde through [`std::fmt::Display`] and [`std::str::FromStr`], for values that are JSON strings.
macro_rules! text_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::types::FromStrVisitor(std::marker::PhantomData))
            }
        }
    };
}
pub(crate) use text_serde;

/// Parses a value from a borrowed string, without copying it.
pub(crate) struct FromStrVisitor<T>(pub(crate) PhantomData<T>);

impl<T: FromStr<Err = InvalidValue>> Visitor<'_> for FromStrVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Declares an enum that is a string in JSON. The first variant is the default.
macro_rules! string_enum {
    ($(#[doc = $doc:literal])* $name:ident { $first:ident = $first_word:literal $(, $other:ident = $word:literal)* $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            #[doc = concat!("`", $first_word, "`")]
            #[default]
            #[serde(rename = $first_word)]
            $first,
            $(
                #[doc = concat!("`", $word, "`")]
                #[serde(rename = $word)]
                $other,
            )*
        }

        // Not derived: utoipa does not see the serde names through the macro and would list the variant names.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                $crate::types::string_schema(concat!($($doc),*).trim())
                    .enum_values(Some([$first_word $(, $word)*]))
                    .into()
            }
        }

        impl $name {
            /// All values, as text.
            pub const VALUES: &'static [&'static str] = &[$first_word $(, $word)*];

            /// The value as text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$other => $word,)*
                }
            }
        }

        impl utoipa::ToSchema for $name {}

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::types::InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $first_word => Ok(Self::$first),
                    $($word => Ok(Self::$other),)*
                    _ => Err($crate::types::InvalidValue::new(
                        $crate::types::FieldErrorCode::UnknownValue,
                        format!(
                            "{} is not one of {}",
                            $crate::types::quoted(text),
                            concat!($first_word $(, ", ", $word)*),
                        ),
                    )),
                }
            }
        }
    };
}
pub(crate) use string_enum;

/// Declares a text type with length limits, held in a `String` or, with `in`, in another string type.
macro_rules! string_newtype {
    ($(#[doc = $doc:literal])* $name:ident, $what:literal, $min:literal ..= $max:literal) => {
        string_newtype! {
            in String: $(#[doc = $doc])* $name, $what, $min ..= $max
        }
    };
    (
        in $inner:ident: $(#[doc = $doc:literal])* $name:ident, $what:literal, $min:literal ..= $max:literal
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($inner);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Wraps a constant text, which must be within the limits.
            pub fn from_static(text: &'static str) -> Self {
                Self(text.into())
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                check_length($what, text, $min, $max)?;
                Ok(Self(text.into()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_serde!($name);

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                string_schema(concat!($($doc),*).trim())
                    .min_length(Some($min))
                    .max_length(Some($max))
                    .pattern(Some(NO_NUL_PATTERN))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

string_newtype!(
    /// A non-empty name or title.
    Name, "the name", 1..=200
);
string_newtype!(
    /// A word from the caller's own vocabulary, such as a type, a category or a job title.
    Label, "the label", 1..=60
);
string_newtype!(
    /// A short text, possibly empty.
    ShortText, "the text", 0..=500
);
string_newtype!(
    /// A long text, possibly empty, such as a message, an article or a description.
    LongText, "the text", 0..=100_000
);
/// The regular expression of a text that is not blank. Characters above U+FFFF count as visible in it, since the regular
/// expressions of JSON Schema need not know them; [`MessageText`] knows which are not.
const NOT_BLANK_PATTERN: &str = concat!(
    "^[^\\u0000]*[^",
    "\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u034f\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890-\\u0891\\u08e2\\u115f-\\u1160",
    "\\u1680\\u17b4-\\u17b5\\u180b-\\u180f\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\u3164\\ufe00-\\ufe0f\\ufeff",
    "\\uffa0\\ufff0-\\ufffb",
    "][^\\u0000]*$"
);

/// The text of a new message: not only spaces, line breaks and invisible characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageText(LongText);

impl MessageText {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for MessageText {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.chars().all(|letter| letter.is_whitespace() || is_invisible(letter)) {
            let message = "the text is empty; expected at least one character other than spaces, line breaks and invisible \
                           characters";
            return Err(InvalidValue::new(FieldErrorCode::TooShort, message));
        }
        text.parse().map(Self)
    }
}

impl fmt::Display for MessageText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_serde!(MessageText);

impl utoipa::PartialSchema for MessageText {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema(
            "A text of 1 to 100,000 characters, not only spaces, line breaks and invisible characters.",
        )
        .min_length(Some(1))
        .max_length(Some(100_000))
        .pattern(Some(NOT_BLANK_PATTERN))
        .into()
    }
}

impl utoipa::ToSchema for MessageText {}

string_newtype!(
    // An evaluation request has five of these, and most are no longer than an id: `CompactString` stores them inline.
    in CompactString:
    /// A type, an id or a name in an evaluation request. A term that names nothing leads to a denial.
    Term, "the term", 0..=200
);
string_newtype!(
    /// A web address, stored as given.
    Url, "the address", 1..=2_000
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_of_message_texts_names_the_blank_characters_below_u_10000() {
        let class = NOT_BLANK_PATTERN.split("[^").nth(2).unwrap().trim_end_matches(']');
        let mut codes = class
            .split("\\u")
            .skip(1)
            .map(|part| (u32::from_str_radix(part.get(..4).unwrap(), 16).unwrap(), part.ends_with('-')));
        let mut named = std::collections::BTreeSet::new();
        while let Some((first, is_range)) = codes.next() {
            let last = if is_range { codes.next().unwrap().0 } else { first };
            named.extend(first..=last);
        }
        for letter in '\0'..='\u{ffff}' {
            let is_accepted = letter.to_string().parse::<MessageText>().is_ok();
            assert_eq!(is_accepted, !named.contains(&u32::from(letter)), "{letter:?}");
        }
    }

    #[test]
    fn length_limits_count_characters() {
        assert!("".parse::<Name>().is_err());
        assert!("ö".repeat(200).parse::<Name>().is_ok());
        let error = "ö".repeat(201).parse::<Name>().unwrap_err().to_string();
        assert!(error.contains("has 201 characters; expected 1 to 200"), "{error}");
        assert!("a\0b".parse::<LongText>().is_err());
    }
}
