//! Patterns of paths, such as `/documents/{id}` and `/files/{path...}`.

use super::original::check_segments;
use std::collections::HashMap;

/// The pattern of a route's paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) segments: Vec<Segment>,
    /// The name of the placeholder for the rest of the path, at least one segment.
    rest_name: Option<String>,
}

/// A segment of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Text(String),
    Placeholder(String),
}

pub(super) type PlaceholderValues<'a> = HashMap<&'a str, String>;

impl Pattern {
    /// Parses a pattern. `{name}` matches one segment, and `{name...}` at the end all remaining ones.
    ///
    /// # Errors
    /// A message about the invalid part of the pattern.
    pub(super) fn parse(path: &str) -> Result<Self, String> {
        let error = |message: &str| Err(format!("the path {path:?} {message}"));
        let Some(rest) = path.strip_prefix('/') else { return error("does not begin with `/`") };
        let mut steps = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        let mut tail = None;
        for segment in rest.split('/') {
            if tail.is_some() {
                return error("has segments after `{name...}`, which matches the rest of the path");
            }
            let Some(placeholder) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
                steps.push(Segment::Text(segment.to_owned()));
                continue;
            };
            let name = placeholder.strip_suffix("...").unwrap_or(placeholder);
            let is_name = |name: &str| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            if !is_name(name) {
                return error("has an invalid placeholder; expected `{name}` or `{name...}`");
            }
            if names.contains(&name) {
                return error(&format!("has the placeholder {{{name}}} twice"));
            }
            names.push(name);
            if placeholder == name {
                steps.push(Segment::Placeholder(name.to_owned()));
            } else {
                tail = Some(name.to_owned());
            }
        }
        let mut texts: Vec<String> = Vec::new();
        for step in &steps {
            texts.push(match step {
                Segment::Text(text) if text.contains(['{', '}']) => {
                    return error("has a placeholder that is only a part of a segment");
                }
                Segment::Text(text) if text.contains('%') => {
                    return error(
                        "has a `%`; write it decoded, as paths are decoded before they are compared",
                    );
                }
                Segment::Text(text) => text.clone(),
                Segment::Placeholder(name) => name.clone(),
            });
        }
        texts.extend(tail.clone());
        if let Err(message) = check_segments(&texts) {
            return error(&format!("matches no request: {message}"));
        }
        Ok(Self { segments: steps, rest_name: tail })
    }

    /// Returns the names of the placeholders.
    pub(super) fn placeholder_names(&self) -> impl Iterator<Item = &str> {
        let placeholders = self.segments.iter().filter_map(|step| match step {
            Segment::Placeholder(name) => Some(name.as_str()),
            Segment::Text(_) => None,
        });
        placeholders.chain(self.rest_name.as_deref())
    }

    /// Returns the values of the placeholders if the segments match.
    pub(super) fn match_segments(&self, segments: &[String]) -> Option<PlaceholderValues<'_>> {
        let (start, rest) = segments.split_at_checked(self.segments.len())?;
        let mut values = PlaceholderValues::new();
        match (&self.rest_name, rest) {
            (None, []) => {}
            (None, _) | (Some(_), []) => return None,
            (Some(name), rest) => {
                values.insert(name.as_str(), rest.join("/"));
            }
        }
        for (step, segment) in self.segments.iter().zip(start) {
            match step {
                Segment::Text(text) if text == segment => {}
                Segment::Placeholder(name) if !segment.is_empty() => {
                    values.insert(name.as_str(), segment.clone());
                }
                Segment::Text(_) | Segment::Placeholder(_) => return None,
            }
        }
        Some(values)
    }
}
