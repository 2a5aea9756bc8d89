//! Machine-readable codes of field errors.

use super::string_schema;

/// Declares the codes, with their strings and their documentation.
macro_rules! field_error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)*) => {
        /// What is wrong with a field. Clients may rely on the strings: they are part of the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FieldErrorCode {
            $($(#[doc = $doc])+ $name,)*
        }

        impl FieldErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The string in JSON, in snake case.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }

        impl utoipa::PartialSchema for FieldErrorCode {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let description = concat!(
                    "What is wrong with a field.\n",
                    $("\n- `", $code, "`:", $($doc,)+)*
                );
                string_schema(description).enum_values(Some([$($code),*])).into()
            }
        }
    };
}

field_error_codes! {
    /// The field is required.
    Required = "required",
    /// Another field of the request requires this one, or this one requires another.
    DependentRequired = "dependent_required",
    /// The request has no such field or parameter.
    UnknownField = "unknown_field",
    /// The field, parameter or item is given more than once.
    Duplicate = "duplicate",
    /// The value has another JSON type than the field.
    InvalidType = "invalid_type",
    /// The value is malformed: not an id, an email address, a timestamp and so on.
    InvalidFormat = "invalid_format",
    /// Another program might interpret the value differently.
    Ambiguous = "ambiguous",
    /// The value is none of the accepted ones.
    UnknownValue = "unknown_value",
    /// The field does not support the operator.
    UnknownOperator = "unknown_operator",
    /// The value is not a known entity type.
    UnknownType = "unknown_type",
    /// The value is not a known action.
    UnknownAction = "unknown_action",
    /// The action requires this field of the request context.
    MissingContext = "missing_context",
    /// The value does not conform to the declaration of this field of the request context.
    InvalidContext = "invalid_context",
    /// The policy has an expression that a filter cannot state.
    Untranslatable = "untranslatable",
    /// The string has too few characters.
    TooShort = "too_short",
    /// The string has too many characters.
    TooLong = "too_long",
    /// The array has too few items.
    TooFewItems = "too_few_items",
    /// The array has too many items.
    TooManyItems = "too_many_items",
    /// The value has too many bytes as JSON.
    TooLarge = "too_large",
    /// The value, or the tree of organizations with it, has too many levels.
    TooDeep = "too_deep",
    /// The number is outside the accepted range.
    OutOfRange = "out_of_range",
    /// The time has to be in the future.
    InThePast = "in_the_past",
    /// The referenced resource does not exist or is not accessible.
    NotFound = "not_found",
    /// The value is not allowed for this caller or resource.
    NotAllowed = "not_allowed",
    /// The field cannot be combined with another field of the request, or the element conflicts with stored resources.
    Conflict = "conflict",
    /// Another resource already has this value.
    AlreadyInUse = "already_in_use",
    /// An organization would be its own ancestor.
    Cycle = "cycle",
    /// The value belongs to another request, or differs from that in the path.
    Mismatch = "mismatch",
    /// The password is too guessable.
    TooWeak = "too_weak",
    /// The current password is incorrect.
    Incorrect = "incorrect",
}

impl serde::Serialize for FieldErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl utoipa::ToSchema for FieldErrorCode {}

/// Separates the code from the message in the alternate form of [`InvalidValue`](super::InvalidValue).
const SEPARATOR: char = '\u{1f}';

/// Writes a code before a message, so that [`split_code`] can read it.
pub(super) fn write_with_code(
    f: &mut std::fmt::Formatter<'_>,
    code: FieldErrorCode,
    message: &str,
) -> std::fmt::Result {
    write!(f, "{}{SEPARATOR}{message}", code.as_str())
}

/// The code and the message of an error that serde passed on as `error`; no code if it was no `InvalidValue`.
///
/// `serde::de::Error::custom` takes any `Display`, so the alternate form of `InvalidValue` carries its code.
pub(crate) fn split_code(error: impl std::fmt::Display) -> (Option<FieldErrorCode>, String) {
    let text = format!("{error:#}");
    let known = text.split_once(SEPARATOR).and_then(|(word, message)| {
        let code = FieldErrorCode::ALL.iter().find(|code| code.as_str() == word)?;
        Some((*code, message.to_owned()))
    });
    match known {
        Some((code, message)) => (Some(code), message),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::InvalidValue;
    use super::*;

    #[test]
    fn the_code_of_an_invalid_value_survives_formatting() {
        for code in FieldErrorCode::ALL {
            let error = InvalidValue::new(*code, "the message");
            assert_eq!(error.to_string(), "the message");
            assert_eq!(split_code(&error), (Some(*code), "the message".to_owned()));
        }
        assert_eq!(split_code("plain"), (None, "plain".to_owned()));
    }
}
