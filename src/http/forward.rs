//! Forward authentication: the action and the resource that the method and the path of a proxied request stand for.
//! They are defined by the routes file, and by the service's own routes where that file says so. Decides nothing.

mod original;
mod pattern;

pub use original::{HEADER_PAIRS, Original};

use super::Routes;
use crate::authz::Engine;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use pattern::{Holes, Pattern, Step};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// The path of forward authentication. Envoy appends the path of the proxied request.
pub const PATH: &str = "/v2/authorize/forward";

/// The caller's user id; empty where the caller is unknown.
pub const USER_ID: HeaderName = HeaderName::from_static("x-user-id");
/// The scopes of the caller's credential, ascending and space-delimited; empty where the caller is unknown.
pub const SCOPE: HeaderName = HeaderName::from_static("x-scope");
/// The version of the policies that decided; empty where no policy was evaluated.
pub const POLICY_VERSION: HeaderName = HeaderName::from_static("x-policy-version");

/// Returns whether a path, as the router reads it, is the one of forward authentication or below it.
pub fn is_forward_path(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds the identity headers that an answer lacks, with empty values. A proxy that copies headers from the answer would
/// otherwise pass on what the client sent under these names.
pub fn complete_identity_headers(headers: &mut HeaderMap) {
    for name in [USER_ID, SCOPE, POLICY_VERSION] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(""));
        }
    }
}

/// What a request has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Anybody may send it.
    Public,
    /// It does this to that.
    Asked {
        /// The action.
        action: String,
        /// What it is asked of.
        of: Of,
    },
}

/// What an action is asked of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// The caller's own user.
    Caller,
    /// The organization that the query string names, else the caller's.
    Organization,
    /// The root organization.
    Root,
    /// A thing.
    Thing(Named),
    /// The organization that holds a thing.
    Holder(Named),
}

/// A thing, by the type and the id that a path gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its Cedar entity type.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Whether `me` is the caller.
    pub knows_me: bool,
}

/// Which requests mean what.
#[derive(Debug, Default)]
pub struct Table(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    /// None for every method.
    method: Option<Method>,
    /// Whether a GET route applies to HEAD, too.
    has_head: bool,
    pattern: Pattern,
    meaning: Template,
}

/// What a request means, with the names of placeholders where it says something else each time.
#[derive(Debug)]
enum Template {
    Public,
    Asked { action: String, of: OfTemplate },
}

#[derive(Debug)]
enum OfTemplate {
    Caller,
    Organization,
    Root,
    Thing { kind: String, id: Vec<Part>, knows_me: bool },
    Holder { kind: String, id: Vec<Part> },
}

/// A part of an id.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Hole(String),
}

impl Table {
    /// Reads the routes file, if there is one. The service's own routes follow those of the file where it has
    /// `own = true`: otherwise `/metrics` or `/v2/auth/token` of the service behind the proxy would be public.
    ///
    /// # Errors
    /// The file, the line and what is wrong there.
    pub fn read(file: Option<&Path>, own: &[Routes], engine: &Engine) -> Result<Self, String> {
        let Some(file) = file else { return Ok(Self::default()) };
        let name = file.display();
        let text = crate::values::read_text(file).map_err(|error| format!("{name}: {error}"))?;
        let (mut entries, includes_own) = parse(&text, engine).map_err(|(at, message)| {
            format!("{name}:{}: {message}", at.map_or(1, |at| line(&text, at.start)))
        })?;
        if includes_own {
            entries.extend(own_entries(own, engine));
        }
        Ok(Self(entries))
    }

    /// What a request means; none where no route is for it. The first that fits says it.
    pub fn find(&self, request: &Original) -> Option<Meaning> {
        self.0.iter().find_map(|entry| {
            let holes = entry.pattern.holes(&request.segments)?;
            entry.fits(&request.method).then(|| entry.meaning.filled(&holes))
        })
    }
}

impl Entry {
    /// Whether it is for this method. A GET route is for HEAD, too (RFC 9110, 9.3.2).
    fn fits(&self, method: &Method) -> bool {
        let Some(own) = &self.method else { return true };
        own == method || (*own == Method::GET && *method == Method::HEAD && self.has_head)
    }
}

impl Template {
    fn filled(&self, holes: &Holes<'_>) -> Meaning {
        let named = |kind: &str, id: &[Part], knows_me| {
            let id = id.iter().map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Hole(name) => holes.get(name.as_str()).map_or("", String::as_str),
            });
            Named { kind: kind.to_owned(), id: id.collect(), knows_me }
        };
        let Self::Asked { action, of } = self else { return Meaning::Public };
        let of = match of {
            OfTemplate::Caller => Of::Caller,
            OfTemplate::Organization => Of::Organization,
            OfTemplate::Root => Of::Root,
            OfTemplate::Thing { kind, id, knows_me } => Of::Thing(named(kind, id, *knows_me)),
            OfTemplate::Holder { kind, id } => Of::Holder(named(kind, id, false)),
        };
        Meaning::Asked { action: action.clone(), of }
    }
}

/// What the service's own routes mean, aliases included. What has an id is asked of that thing, or where the action is
/// not for things of its type, of the organization that holds it; all else of an organization or of the caller, as the
/// schema says.
fn own_entries(own: &[Routes], engine: &Engine) -> Vec<Entry> {
    let kinds: HashMap<&str, &str> =
        own.iter().filter_map(|part| Some((part.base(), part.kind()?.name))).collect();
    let mut entries = Vec::new();
    for part in own {
        for (path, route) in part.paths() {
            let Ok(pattern) = Pattern::parse(&path.replace(":.*}", "...}")) else { continue };
            let has_id = pattern.steps.contains(&Step::Hole("id".into()));
            let meaning = match route.action {
                None => Template::Public,
                Some(action) => {
                    let takes = |kind: &str| engine.kinds(action).iter().any(|known| known == kind);
                    let id = || vec![Part::Hole("id".into())];
                    let of = match kinds.get(part.base()).filter(|_| has_id) {
                        _ if route.of_root => OfTemplate::Root,
                        Some(kind) if takes(kind) => {
                            OfTemplate::Thing { kind: (*kind).into(), id: id(), knows_me: true }
                        }
                        Some(kind) => OfTemplate::Holder { kind: (*kind).into(), id: id() },
                        // Of whatever it is, it is not to be taken for something else.
                        None if has_id => continue,
                        None if takes("Organization") => OfTemplate::Organization,
                        None => OfTemplate::Caller,
                    };
                    Template::Asked { action: action.to_owned(), of }
                }
            };
            let method = (!route.any_method).then(|| route.method.clone());
            entries.push(Entry { method, has_head: route.has_head, pattern, meaning });
        }
    }
    entries
}

/// The routes file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Whether the service's own routes are included.
    #[serde(default)]
    own: bool,
    #[serde(default)]
    route: Vec<toml::Spanned<FileRoute>>,
}

/// A route of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRoute {
    /// `*` for every method.
    method: String,
    path: String,
    action: Option<String>,
    resource: Option<FileResource>,
    #[serde(default)]
    public: bool,
}

/// A thing that a route of the file is asked of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileResource {
    r#type: String,
    id: String,
}

/// The place of an error in the text of a routes file, and what is wrong there.
type FileError = (Option<Range<usize>>, String);

/// Parses a routes file. Returns its routes, and whether the service's own ones are included.
fn parse(text: &str, engine: &Engine) -> Result<(Vec<Entry>, bool), FileError> {
    let file: File =
        toml::from_str(text).map_err(|error| (error.span(), error.message().trim().to_owned()))?;
    let mut entries = Vec::with_capacity(file.route.len());
    for route in file.route {
        let place = Some(route.span());
        let route = route.into_inner();
        let named = format!("the route {} {}", route.method, route.path);
        let entry = route.entry(engine).map_err(|message| (place, format!("{named}: {message}")))?;
        entries.push(entry);
    }
    Ok((entries, file.own))
}

/// The line on which a byte of a text stands, from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl FileRoute {
    fn entry(self, engine: &Engine) -> Result<Entry, String> {
        let method = match self.method.as_str() {
            "*" => None,
            name if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Some(Method::from_str(name).map_err(|error| format!("{name:?} is not a method: {error}"))?)
            }
            name => return Err(format!("{name:?} is not a method in capitals, such as GET, nor \"*\"")),
        };
        let pattern = Pattern::parse(&self.path)?;
        let meaning = match (self.public, self.action, self.resource) {
            (true, None, None) => Template::Public,
            (true, ..) => return Err("what is public has neither `action` nor `resource`".into()),
            (false, Some(action), Some(resource)) => asked(&pattern, &action, resource, engine)?,
            (false, ..) => return Err("it needs `action` and `resource`, or `public = true`".into()),
        };
        Ok(Entry { method, has_head: true, pattern, meaning })
    }
}

fn asked(
    pattern: &Pattern,
    action: &str,
    resource: FileResource,
    engine: &Engine,
) -> Result<Template, String> {
    let kind = resource.r#type;
    if !engine.domain().knows(&kind) {
        return Err(format!("there is no type {kind:?} in the schema"));
    }
    let known = engine.action_for(action, &kind);
    if engine.kinds(known).is_empty() {
        return Err(format!("there is no action {action:?} for the type {kind:?} in the schema"));
    }
    if !engine.actions_between("User", &kind).contains(&known) {
        return Err(format!("the action {action:?} is not one of users on things of the type {kind:?}"));
    }
    let id = parts(&resource.id)?;
    for part in &id {
        if let Part::Hole(name) = part
            && !pattern.names().any(|known| known == name)
        {
            return Err(format!("the id names {{{name}}}, which is not in the path"));
        }
    }
    let of = OfTemplate::Thing { kind, id, knows_me: false };
    Ok(Template::Asked { action: known.to_owned(), of })
}

/// The parts of an id: `{name}` and what stands around it.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) =
            after.split_once('}').ok_or_else(|| format!("the id {text:?} has a `{{` without its `}}`"))?;
        parts.push(Part::Text(before.to_owned()));
        parts.push(Part::Hole(name.to_owned()));
        rest = behind;
    }
    parts.push(Part::Text(rest.to_owned()));
    let is_empty = |part: &Part| *part == Part::Text(String::new());
    parts.retain(|part| !is_empty(part));
    if parts.is_empty() {
        return Err("the id is empty".into());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
