//! What a request means that a proxy asks about: which action on which thing its method and path stand for. The service's
//! own routes tell it, and a file for those of other services. Decides nothing.

use super::Routes;
use crate::authz::Engine;
use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// The pairs of headers by which proxies name a request: nginx's, and those of Traefik and Caddy.
pub const PAIRS: [(&str, &str); 2] =
    [("X-Original-Method", "X-Original-URI"), ("X-Forwarded-Method", "X-Forwarded-Uri")];

/// The longest address that is looked at.
const MAX_ADDRESS: usize = 8192;

/// The request that a proxy asks about.
#[derive(Debug)]
pub struct Original {
    method: Method,
    /// The segments of its path, decoded.
    segments: Vec<String>,
    query: String,
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

impl Original {
    /// The request that this one is about: what the headers say, and what follows `prefix` in its own path. Where it is
    /// named more than once, all have to say the same: a proxy sets one of them, and passes on what a client sends as
    /// the others. Says what is missing or wrong.
    pub fn of(request: &HttpRequest, prefix: &str) -> Result<Self, String> {
        let mut found: Option<(String, String)> = None;
        let mut note = |method: String, address: String| match &found {
            Some(first) if *first != (method.clone(), address.clone()) => {
                Err("the original request is named twice, and not the same".to_owned())
            }
            _ => {
                found = Some((method, address));
                Ok(())
            }
        };
        for (method_name, address_name) in PAIRS {
            let headers = request.headers();
            match (header(headers, method_name)?, header(headers, address_name)?) {
                (Some(method), Some(address)) => note(method, address)?,
                (None, None) => {}
                (Some(_), None) => return Err(format!("the header {address_name} is missing")),
                (None, Some(_)) => return Err(format!("the header {method_name} is missing")),
            }
        }
        let own = request.uri().path_and_query().map_or("", |own| own.as_str());
        let rest = own.strip_prefix(prefix).ok_or("the path is not written plainly")?;
        if rest.starts_with('/') {
            note(request.method().to_string(), rest.to_owned())?;
        }
        let (method, address) = found.ok_or_else(|| {
            let [(method, address), (other, another)] = PAIRS;
            format!("the headers {method} and {address} are missing, and so are {other} and {another}")
        })?;
        Self::new(&method, &address)
    }

    /// A request with this method and this address: a path, and what may follow it.
    fn new(method: &str, address: &str) -> Result<Self, String> {
        let method = Method::from_str(method).map_err(|_| "the original method is none".to_owned())?;
        if address.len() > MAX_ADDRESS {
            return Err(format!("the original path is longer than {MAX_ADDRESS} bytes"));
        }
        if address.contains([' ', '\t', '#']) {
            return Err("the original path has a space or a `#` that is not encoded".into());
        }
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let rest = path.strip_prefix('/').ok_or("the original path does not begin with `/`")?;
        let segments: Vec<String> = rest.split('/').map(decoded).collect::<Result<_, _>>()?;
        check(&segments)?;
        Ok(Self { method, segments, query: query.to_owned() })
    }

    /// The values of a parameter of its query string.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// The value of a header that stands once.
fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| format!("the header {name} is not plain ASCII"))?;
            Ok(Some(text.to_owned()))
        }
        (Some(_), Some(_)) => Err(format!("the header {name} stands twice")),
    }
}

/// A segment of a path without its percent-encoding (RFC 3986, 2.1).
fn decoded(segment: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(value.ok_or("the original path has a `%` that encodes nothing")?);
    }
    String::from_utf8(bytes).map_err(|_| "the original path is not UTF-8".to_owned())
}

/// Refuses what another server might read as another path.
fn check(segments: &[String]) -> Result<(), String> {
    for (at, segment) in segments.iter().enumerate() {
        // `;` begins parameters that some servers cut off: `..;x` is `..` to them.
        let bare = segment.split(';').next().unwrap_or_default().trim();
        let is_last = at + 1 == segments.len();
        let wrong = if segment.chars().any(char::is_control) {
            "a control character"
        } else if segment.contains(['/', '\\']) {
            "an encoded slash or a backslash"
        } else if segment.contains(['#', '?']) {
            "an encoded `#` or `?`"
        } else if is_encoded(segment) {
            "something that is encoded twice"
        } else if matches!(bare, "." | "..") {
            "a segment `.` or `..`"
        } else if bare.is_empty() && !(is_last && segment.is_empty()) {
            "an empty segment"
        } else {
            continue;
        };
        return Err(format!("the original path has {wrong}"));
    }
    Ok(())
}

/// Whether it would be something else if it were decoded.
fn is_encoded(text: &str) -> bool {
    text.split('%').skip(1).any(|rest| {
        let mut letters = rest.chars();
        let mut is_digit = || letters.next().is_some_and(|letter| letter.is_ascii_hexdigit());
        is_digit() && is_digit()
    })
}

/// Which requests mean what.
#[derive(Debug, Default)]
pub struct Table(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    /// None for every method.
    method: Option<Method>,
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

/// The paths that a route is for.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    steps: Vec<Step>,
    /// The name of the rest of the path, at least one segment, where it may be anything.
    rest: Option<String>,
}

/// A segment of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Text(String),
    Hole(String),
}

type Holes<'a> = HashMap<&'a str, String>;

impl Table {
    /// The routes of a file, if there is one, and after them those of the service itself. Says what is wrong with the
    /// file, and where.
    pub fn read(file: Option<&Path>, own: &[Routes], engine: &Engine) -> Result<Self, String> {
        let mut entries = Vec::new();
        if let Some(file) = file {
            let name = file.display();
            let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
            let read = parse(&text, engine);
            entries = read.map_err(|(at, message)| {
                format!("{name}:{}: {message}", at.map_or(1, |at| line(&text, at.start)))
            })?;
        }
        entries.extend(own_entries(own, engine));
        Ok(Self(entries))
    }

    /// What a request means; none where no route is for it. The first that fits says it.
    pub fn find(&self, request: &Original) -> Option<Meaning> {
        // Whatever can be got can be asked for its head (RFC 9110, 9.3.2).
        let fits = |method: &Method| {
            *method == request.method || (*method == Method::GET && request.method == Method::HEAD)
        };
        self.0.iter().find_map(|entry| {
            let holes = entry.pattern.holes(&request.segments)?;
            entry.method.as_ref().is_none_or(fits).then(|| entry.meaning.filled(&holes))
        })
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
            entries.push(Entry { method, pattern, meaning });
        }
    }
    entries
}

/// The file: `[[route]]`, as often as there are routes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
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

fn parse(text: &str, engine: &Engine) -> Result<Vec<Entry>, (Option<Range<usize>>, String)> {
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
    Ok(entries)
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
        Ok(Entry { method, pattern, meaning })
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

impl Pattern {
    /// `{name}` stands for one segment, `{name...}` at the end for all that is left.
    fn parse(path: &str) -> Result<Self, String> {
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
    fn names(&self) -> impl Iterator<Item = &str> {
        let holes = self.steps.iter().filter_map(|step| match step {
            Step::Hole(name) => Some(name.as_str()),
            Step::Text(_) => None,
        });
        holes.chain(self.rest.as_deref())
    }

    /// What stands in the placeholders, where these segments fit.
    fn holes(&self, segments: &[String]) -> Option<Holes<'_>> {
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

#[cfg(test)]
mod tests;
