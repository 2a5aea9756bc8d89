//! The format of policy files.

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};

/// The format of Cedar's own tools: lines of 80 characters, indented by two.
const CONFIG: Config = Config { line_width: 80, indent_width: 2 };

/// The maximum number of passes until the text no longer changes.
const MAX_PASSES: usize = 4;

/// Why a text was not formatted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The text is not a policy file, or Cedar's formatter rejects it.
    #[error("cannot be formatted: {0}")]
    Rejected(String),
    /// The result would lack a comment of the text.
    #[error("cannot be formatted without losing a comment; move the comment {0:?} to a line of its own")]
    LostComment(String),
    /// The result would change with each pass.
    #[error("cannot be formatted: the result is not stable")]
    Unstable,
}

/// Formats a policy file. Formatting the result again changes nothing, and no comment is lost.
///
/// # Errors
/// The text does not parse, or its format cannot be determined.
pub fn format_policies(text: &str) -> Result<String, FormatError> {
    let policies: PolicySet = text.parse().map_err(|error| {
        let error: cedar_policy::ParseErrors = error;
        let messages: Vec<String> = error.iter().map(ToString::to_string).collect();
        FormatError::Rejected(messages.join("; "))
    })?;
    if policies.is_empty() {
        return Ok(text.to_owned());
    }
    let mut current = text.to_owned();
    for _ in 0..MAX_PASSES {
        let formatted = policies_str_to_pretty(&current, &CONFIG)
            .map_err(|error| FormatError::Rejected(error.to_string()))?;
        if formatted == current {
            let kept = comments(&formatted);
            return match comments(text).into_iter().find(|comment| !kept.contains(comment)) {
                Some(lost) => Err(FormatError::LostComment(lost.to_owned())),
                None => Ok(formatted),
            };
        }
        current = formatted;
    }
    Err(FormatError::Unstable)
}

/// The comments of a policy file.
fn comments(text: &str) -> Vec<&str> {
    let comment = |line| {
        let mut is_literal = false;
        let mut is_escaped = false;
        let mut previous = ' ';
        for (position, character) in str::char_indices(line) {
            if character == '/' && previous == '/' && !is_literal {
                return line.get(position + 1..).map(str::trim);
            }
            if character == '"' && !is_escaped {
                is_literal = !is_literal;
            }
            is_escaped = is_literal && character == '\\' && !is_escaped;
            previous = character;
        }
        None
    };
    text.lines().filter_map(comment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_outside_of_literals() {
        let text = "// one\npermit (principal, action, resource) // two \"x\"\nwhen { \"a // no\" == \"b\\\" // no\" };";
        assert_eq!(comments(text), ["one", "two \"x\""]);
    }

    #[test]
    fn a_formatted_text_is_kept_and_so_are_comments() {
        let text = "// A file.\n@id(\"a\")\npermit(principal,action,// why\nresource)when{principal==resource// self\n};";
        let formatted = format_policies(text).unwrap();
        assert_eq!(format_policies(&formatted).unwrap(), formatted);
        assert_eq!(comments(&formatted), comments(text));
        assert!(matches!(format_policies("permit ("), Err(FormatError::Rejected(_))));
        assert_eq!(format_policies("// Nothing yet.\n").unwrap(), "// Nothing yet.\n");
    }
}
