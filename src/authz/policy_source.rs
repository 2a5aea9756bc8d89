//! The source text of a policy: where in its file the elements of its scope are.

use cedar_policy::Policy;
use std::ops::Range;

/// Where the elements of a policy are in its file, in bytes. Cedar's syntax tree has no places for those of the scope.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PolicySource<'a> {
    /// The text of the whole file.
    pub text: &'a str,
    /// The start of `permit` or `forbid`.
    pub effect: usize,
    /// The end of the policy.
    pub end: usize,
    /// The first element of the scope.
    pub principal: Range<usize>,
    /// The actions in the second element of the scope: those in brackets, or the only one. Empty if it names none.
    pub actions: Vec<Range<usize>>,
    /// The third element of the scope.
    pub resource: Range<usize>,
}

impl<'a> PolicySource<'a> {
    /// The source of a policy; none if it was not parsed from text.
    pub(super) fn of(policy: &'a Policy) -> Option<Self> {
        let location = policy.as_ref().loc()?;
        Self::parse(&location.src, location.start(), location.end())
    }

    fn parse(text: &'a str, start: usize, end: usize) -> Option<Self> {
        let mut tokens = tokens(text, start, end);
        let mut token = tokens.next()?;
        // Annotations: `@`, a name, and a text in parentheses unless it is empty.
        while token.text == "@" {
            tokens.next()?;
            token = tokens.next()?;
            if token.text == "(" {
                token = tokens.nth(2)?;
            }
        }
        let effect = token.start;
        if tokens.next()?.text != "(" {
            return None;
        }
        let mut elements: Vec<Vec<Token<'_>>> = vec![Vec::new()];
        let mut depth = 0_usize;
        for token in tokens {
            match token.text {
                "(" | "[" => depth += 1,
                ")" if depth == 0 => break,
                ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if token.text == "," && depth == 0 {
                elements.push(Vec::new());
            } else {
                elements.last_mut()?.push(token);
            }
        }
        let [principal, action, resource] = elements.first_chunk()?;
        Some(Self {
            text,
            effect,
            end,
            principal: span(principal)?,
            actions: actions(action),
            resource: span(resource)?,
        })
    }
}

/// The spans of the actions that the second element of a scope names.
fn actions(element: &[Token<'_>]) -> Vec<Range<usize>> {
    // `action == Action::"a"`, `action in Action::"a"` or `action in [Action::"a", Action::"b"]`.
    let operator = if element.get(1).is_some_and(|token| token.text == "in") { 2 } else { 3 };
    let named = element.get(operator..).unwrap_or_default();
    let is_separator = |token: &Token<'_>| matches!(token.text, "[" | "]" | ",");
    named.split(is_separator).filter_map(span).collect()
}

fn span(tokens: &[Token<'_>]) -> Option<Range<usize>> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    Some(first.start..last.start + last.text.len())
}

/// A string, a word, or another single character.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    start: usize,
    text: &'a str,
}

/// The tokens of a valid Cedar text between two offsets, without white space and comments.
fn tokens(text: &str, start: usize, end: usize) -> impl Iterator<Item = Token<'_>> {
    let mut position = start;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(position..end)?;
            let first = rest.chars().next()?;
            let length = match first {
                '"' => string_length(rest),
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                _ if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            };
            let token = Token { start: position, text: rest.get(..length)? };
            position += length;
            if !first.is_whitespace() && !token.text.starts_with("//") {
                return Some(token);
            }
        }
    })
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The length of the string at the start of a text, with its quotation marks.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (position, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return position + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<&str>, Vec<&str>) {
        let policy = PolicySource::parse(text, 0, text.len()).unwrap();
        let source = |span: Range<usize>| text.get(span).unwrap();
        let effect = source(policy.effect..policy.effect + "permit".len());
        let actions = policy.actions.iter().cloned().map(source).collect();
        (vec![effect, source(policy.principal), source(policy.resource)], actions)
    }

    #[test]
    fn elements_of_the_scope_are_found_behind_annotations_and_comments() {
        let text = r#"@id("a \" (") @flag @doc("x, y") // permit (
            permit (principal is User in Group::"a,b)", // first
                action in [Action::"read", N::Action::"]"], resource == Doc::"é") when { x };"#;
        let (elements, actions) = parse(text);
        assert_eq!(elements, ["permit", r#"principal is User in Group::"a,b)""#, r#"resource == Doc::"é""#]);
        assert_eq!(actions, [r#"Action::"read""#, r#"N::Action::"]""#]);
    }

    #[test]
    fn an_action_without_brackets_and_a_missing_one_are_found() {
        assert_eq!(parse(r#"forbid(principal, action == Action::"a", resource);"#).1, [r#"Action::"a""#]);
        assert_eq!(parse(r#"forbid(principal, action in Action::"a", resource);"#).1, [r#"Action::"a""#]);
        assert!(parse("forbid(principal, action, resource);").1.is_empty());
    }
}
