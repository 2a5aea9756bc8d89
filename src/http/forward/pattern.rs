//! Patterns of paths, such as `/documents/{id}` and `/files/{path...}`.

use super::original::check;
use std::collections::HashMap;

/// The paths that a route is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) steps: Vec<Step>,
    /// The name of the rest of the path, at least one segment, where it may be anything.
    rest: Option<String>,
}

/// A segment of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Text(String),
    Hole(String),
}

pub(super) type Holes<'a> = HashMap<&'a str, String>;

impl Pattern {
    /// `{name}` stands for one segment, `{name...}` at the end for all that is left.
    pub(super) fn parse(path: &str) -> Result<Self, String> {
        let wrong = |message: &str| Err(format!("the path {path:?} {message}"));
        let Some(rest) = path.strip_prefix('/') else { return wrong("does not begin with `/`") };
        let mut steps = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        let mut tail = None;
        for segment in rest.split('/') {
            if tail.is_some() {
                return wrong("goes on after `{…...}`, which stands for all that is left");
            }
            let Some(hole) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
                steps.push(Step::Text(segment.to_owned()));
                continue;
            };
            let name = hole.strip_suffix("...").unwrap_or(hole);
            let is_name = |name: &str| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            if !is_name(name) {
                return wrong("has a placeholder that is neither `{name}` nor `{name...}`");
            }
            if names.contains(&name) {
                return wrong(&format!("has the placeholder {{{name}}} twice"));
            }
            names.push(name);
            if hole == name {
                steps.push(Step::Hole(name.to_owned()));
            } else {
                tail = Some(name.to_owned());
            }
        }
        let mut texts: Vec<String> = Vec::new();
        for step in &steps {
            texts.push(match step {
                Step::Text(text) if text.contains(['{', '}']) => {
                    return wrong("has a placeholder that is not a whole segment");
                }
                Step::Text(text) if text.contains('%') => {
                    return wrong("has a `%`; it is compared with paths that are decoded");
                }
                Step::Text(text) => text.clone(),
                Step::Hole(name) => name.clone(),
            });
        }
        texts.extend(tail.clone());
        if let Err(message) = check(&texts) {
            return wrong(&format!("fits nothing: {message}"));
        }
        Ok(Self { steps, rest: tail })
    }

    /// The names of its placeholders.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let holes = self.steps.iter().filter_map(|step| match step {
            Step::Hole(name) => Some(name.as_str()),
            Step::Text(_) => None,
        });
        holes.chain(self.rest.as_deref())
    }

    /// What stands in the placeholders, where these segments fit.
    pub(super) fn holes(&self, segments: &[String]) -> Option<Holes<'_>> {
        let (start, rest) = segments.split_at_checked(self.steps.len())?;
        let mut holes = Holes::new();
        match (&self.rest, rest) {
            (None, []) => {}
            (None, _) | (Some(_), []) => return None,
            (Some(name), rest) => {
                holes.insert(name.as_str(), rest.join("/"));
            }
        }
        for (step, segment) in self.steps.iter().zip(start) {
            match step {
                Step::Text(text) if text == segment => {}
                Step::Hole(name) if !segment.is_empty() => {
                    holes.insert(name.as_str(), segment.clone());
                }
                Step::Text(_) | Step::Hole(_) => return None,
            }
        }
        Some(holes)
    }
}
