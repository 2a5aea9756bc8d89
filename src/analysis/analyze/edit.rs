//! Edits of the scope of a policy in its source, which keep its annotations, conditions and comments.

use std::ops::Range;

/// The parts of the scope of a policy, as bytes of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) principal: Range<usize>,
    pub(super) action: Range<usize>,
    pub(super) resource: Range<usize>,
}

/// The characters of a text that are neither in a literal nor in a comment, with their offsets.
fn code_characters(text: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    let (mut is_literal, mut is_escaped, mut is_comment) = (false, false, false);
    text.char_indices().filter(move |(position, character)| {
        if is_comment {
            is_comment = *character != '\n';
            return false;
        }
        if is_literal {
            is_literal = is_escaped || *character != '"';
            is_escaped = *character == '\\' && !is_escaped;
            return false;
        }
        is_comment = text.get(*position..).is_some_and(|rest| rest.starts_with("//"));
        is_literal = *character == '"';
        !is_comment && !is_literal
    })
}

impl Head {
    /// Finds the scope in the text of a policy. None if the text is not a policy.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut depth = 0_usize;
        let mut word = String::new();
        let mut is_annotation = false;
        let mut bounds: Option<Vec<usize>> = None;
        for (position, character) in code_characters(text) {
            match character {
                '@' if depth == 0 => is_annotation = true,
                '(' | '[' | '{' => {
                    depth += 1;
                    if depth == 1
                        && bounds.is_none()
                        && !is_annotation
                        && ["permit", "forbid"].contains(&word.as_str())
                    {
                        bounds = Some(vec![position + 1]);
                    }
                }
                ')' | ']' | '}' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        is_annotation = false;
                        if let Some(mut bounds) = bounds.take() {
                            bounds.push(position);
                            return Self::from_bounds(text, &bounds);
                        }
                    }
                }
                ',' if depth == 1 => bounds.iter_mut().for_each(|bounds| bounds.push(position)),
                _ => {}
            }
            if character.is_alphanumeric() {
                word.push(character);
            } else if !character.is_whitespace() {
                word.clear();
            } else if is_annotation && depth == 0 && !word.is_empty() {
                // An annotation without a value.
                word.clear();
            }
        }
        None
    }

    fn from_bounds(text: &str, bounds: &[usize]) -> Option<Self> {
        let mut bounds = bounds.to_vec();
        // A trailing comma.
        if let [.., comma, end] = *bounds.as_slice()
            && bounds.len() > 4
            && text.get(comma + 1..end)?.trim().is_empty()
        {
            bounds.truncate(bounds.len() - 2);
            bounds.push(comma);
        }
        let [start, first, second, end] = *bounds.as_slice() else { return None };
        Some(Self { principal: start..first, action: first + 1..second, resource: second + 1..end })
    }
}

/// The text of a policy with other constraints of its action and principal. None keeps the constraint. None if the text is
/// not a policy.
pub fn narrow(text: &str, action: Option<&str>, principal: Option<&str>) -> Option<String> {
    let head = Head::of(text)?;
    let mut narrowed = text.to_owned();
    // From the end on, so that the offsets stay valid.
    let edits = [(head.action, action, " "), (head.principal, principal, "")];
    for (range, replacement, separator) in edits {
        if let Some(replacement) = replacement {
            narrowed.replace_range(range, &format!("{separator}{replacement}"));
        }
    }
    Some(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_found_behind_annotations_and_comments() {
        let text = "@id(\"permit (a, b, c)\")\n// forbid (x, y, z)\n@doc(\"Text\")\npermit (\n  principal in Scope::\"a\", // why, because\n  action in [Action::\"b\", Action::\"c\"],\n  resource,\n)\nwhen { f(1, 2) };";
        let head = Head::of(text).unwrap();
        assert_eq!(text.get(head.principal).unwrap().trim(), "principal in Scope::\"a\"");
        assert!(text.get(head.action).unwrap().trim().ends_with("action in [Action::\"b\", Action::\"c\"]"));
        assert_eq!(text.get(head.resource).unwrap().trim(), "resource");
        let narrowed =
            narrow(text, Some("action == Action::\"b\""), Some("principal in Scope::\"z\"")).unwrap();
        assert!(
            narrowed.contains("permit (principal in Scope::\"z\", action == Action::\"b\",\n  resource"),
            "{narrowed}"
        );
        assert_eq!(Head::of("permit"), None);
    }
}
