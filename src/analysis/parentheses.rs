//! Removes parentheses that Cedar's printer adds and that its parser does not need.

use cedar_policy::Policy;

/// An expression without needless parentheses.
pub(super) fn readable_expression(text: &str) -> String {
    let policy = |text: &str| format!("permit (principal, action, resource) when {{ {text} }};").parse().ok();
    without_parentheses(text, policy)
}

/// A policy without needless parentheses.
pub(super) fn readable_policy(text: &str) -> String {
    without_parentheses(text, |text: &str| text.parse().ok())
}

/// Removes each pair of parentheses without which the text is parsed as the same policy.
fn without_parentheses(text: &str, parse: impl Fn(&str) -> Option<Policy>) -> String {
    let mut text = text.to_owned();
    let Some(original) = parse(&text) else { return text };
    let mut position = 0;
    while let Some((open, close)) = next_pair(&text, position) {
        position = open + 1;
        let parts = (text.get(..open), text.get(open + 1..close), text.get(close + 1..));
        let (Some(before), Some(within), Some(after)) = parts else { continue };
        let shorter = format!("{before}{within}{after}");
        if parse(&shorter).is_some_and(|policy| policy == original) {
            text = shorter;
            position = open;
        }
    }
    text
}

/// The first pair of parentheses from this position on that is not in a string.
fn next_pair(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut open = None;
    let mut depth = 0_usize;
    let (mut is_string, mut is_escaped) = (false, false);
    for (position, letter) in text.char_indices() {
        if is_string {
            is_string = is_escaped || letter != '"';
            is_escaped = !is_escaped && letter == '\\';
            continue;
        }
        match (letter, open) {
            ('"', _) => is_string = true,
            ('(', None) if position >= from => open = Some(position),
            ('(', Some(_)) => depth += 1,
            (')', Some(open)) if depth == 0 => return Some((open, position)),
            (')', Some(_)) => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_needless_parentheses_are_removed() {
        let text = r#"((principal has a) && (resource.b == ")(")) && ((context.c) || (!(context.d)))"#;
        let expected = r#"principal has a && resource.b == ")(" && (context.c || !context.d)"#;
        assert_eq!(readable_expression(text), expected);
        let calls = r#"[(context.a)].containsAny(["x"]) && !(principal in resource)"#;
        assert_eq!(
            readable_expression(calls),
            r#"[context.a].containsAny(["x"]) && !(principal in resource)"#
        );
    }
}
