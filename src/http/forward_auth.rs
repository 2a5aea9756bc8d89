//! Forward authentication: maps the method and path of a proxied request to an action and a resource. The routes file defines
//! the mapping, and the service's own routes if that file includes them. Nothing is decided here.

mod original;
mod pattern;

pub use original::{HEADER_PAIRS, OriginalRequest};

use super::RouteGroup;
use crate::authz::Engine;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use pattern::{Pattern, PlaceholderValues, Segment};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// The path of forward authentication. Envoy appends the path of the proxied request.
pub const PATH: &str = "/v2/authorize/forward";

/// The caller's user id; empty if the caller is unknown.
pub const USER_ID: HeaderName = HeaderName::from_static("x-user-id");
/// The scopes of the caller's credential, ascending and space-delimited; empty if the caller is unknown.
pub const SCOPE: HeaderName = HeaderName::from_static("x-scope");
/// The version of the policies that decided; empty if no policy was evaluated.
pub const POLICY_VERSION: HeaderName = HeaderName::from_static("x-policy-version");
/// The id of the evaluation in the decision log; empty if no policy was evaluated.
pub const EVALUATION_ID: HeaderName = HeaderName::from_static("x-evaluation-id");

/// Returns whether a path, as the router reads it, is the one of forward authentication or below it.
pub fn is_forward_path(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds missing identity headers with empty values. A proxy that copies headers from the response would otherwise pass on what
/// the client sent under these names.
pub fn complete_identity_headers(headers: &mut HeaderMap) {
    for name in [USER_ID, SCOPE, POLICY_VERSION, EVALUATION_ID] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(""));
        }
    }
}

/// The meaning of a proxied request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteMatch {
    /// The request is public.
    Public,
    /// The request needs an authorization.
    Authorize {
        /// The action.
        action: String,
        /// The resource.
        resource: ResourceRef,
    },
}

/// The resource of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceRef {
    /// The caller's own user.
    Caller,
    /// The organization in the query string, else the caller's.
    Organization,
    /// The root organization.
    Root,
    /// A resource.
    Resource(NamedResource),
    /// The organization that owns a resource.
    OwnerOrganization(NamedResource),
}

/// A resource by the type and id from a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedResource {
    /// The Cedar entity type.
    pub kind: String,
    /// The id.
    pub id: String,
    /// Whether `me` stands for the caller.
    pub resolves_me: bool,
}

/// The table of routes, in the order of their precedence.
#[derive(Debug, Default)]
pub struct ForwardRoutes(Vec<ForwardRoute>);

#[derive(Debug)]
struct ForwardRoute {
    /// None for every method.
    method: Option<Method>,
    /// Whether a GET route applies to HEAD, too.
    answers_head: bool,
    pattern: Pattern,
    meaning: MatchTemplate,
}

/// The meaning of a route's requests, with placeholders.
#[derive(Debug)]
enum MatchTemplate {
    Public,
    Authorize { action: String, of: ResourceRefTemplate },
}

#[derive(Debug)]
enum ResourceRefTemplate {
    Caller,
    Organization,
    Root,
    Resource { kind: String, id: Vec<IdPart>, resolves_me: bool },
    OwnerOrganization { kind: String, id: Vec<IdPart> },
}

/// A part of an id.
#[derive(Debug, PartialEq, Eq)]
enum IdPart {
    Text(String),
    Placeholder(String),
}

impl ForwardRoutes {
    /// Reads the routes file, if there is one. The service's own routes follow if the file has `own = true`. They are not
    /// included by default, because `/metrics` or `/v2/auth/token` of the service behind the proxy would be public.
    ///
    /// # Errors
    /// A message with file, line and cause.
    pub fn read(file: Option<&Path>, own: &[RouteGroup], engine: &Engine) -> Result<Self, String> {
        let Some(file) = file else { return Ok(Self::default()) };
        let name = file.display();
        let text = crate::types::read_text(file).map_err(|error| format!("{name}: {error}"))?;
        let (mut entries, includes_own) = parse(&text, engine).map_err(|(at, message)| {
            format!("{name}:{}: {message}", at.map_or(1, |at| line_number(&text, at.start)))
        })?;
        if includes_own {
            entries.extend(own_routes(own, engine));
        }
        Ok(Self(entries))
    }

    /// Returns the meaning of a request by the first route that matches; none if no route does.
    pub fn find(&self, request: &OriginalRequest) -> Option<RouteMatch> {
        self.0.iter().find_map(|entry| {
            let holes = entry.pattern.match_segments(&request.segments)?;
            entry.matches_method(&request.method).then(|| entry.meaning.resolve(&holes))
        })
    }
}

impl ForwardRoute {
    /// Returns whether the route matches a method. A GET route matches HEAD, too (RFC 9110, section 9.3.2).
    fn matches_method(&self, method: &Method) -> bool {
        let Some(own) = &self.method else { return true };
        own == method || (*own == Method::GET && *method == Method::HEAD && self.answers_head)
    }
}

impl MatchTemplate {
    fn resolve(&self, values: &PlaceholderValues<'_>) -> RouteMatch {
        let named = |kind: &str, id: &[IdPart], resolves_me| {
            let id = id.iter().map(|part| match part {
                IdPart::Text(text) => text.as_str(),
                IdPart::Placeholder(name) => values.get(name.as_str()).map_or("", String::as_str),
            });
            NamedResource { kind: kind.to_owned(), id: id.collect(), resolves_me }
        };
        let Self::Authorize { action, of } = self else { return RouteMatch::Public };
        let of = match of {
            ResourceRefTemplate::Caller => ResourceRef::Caller,
            ResourceRefTemplate::Organization => ResourceRef::Organization,
            ResourceRefTemplate::Root => ResourceRef::Root,
            ResourceRefTemplate::Resource { kind, id, resolves_me } => {
                ResourceRef::Resource(named(kind, id, *resolves_me))
            }
            ResourceRefTemplate::OwnerOrganization { kind, id } => {
                ResourceRef::OwnerOrganization(named(kind, id, false))
            }
        };
        RouteMatch::Authorize { action: action.clone(), resource: of }
    }
}

/// Returns the service's own routes, aliases included. The resource of a path with an id is the resource with that id, or the
/// organization that owns it if the action does not apply to its type. For other paths it is an organization or the caller, as
/// the schema says.
fn own_routes(own: &[RouteGroup], engine: &Engine) -> Vec<ForwardRoute> {
    let kinds: HashMap<&str, &str> =
        own.iter().filter_map(|group| Some((group.base(), group.kind()?.name))).collect();
    let mut entries = Vec::new();
    for group in own {
        for (path, route) in group.paths() {
            let Ok(pattern) = Pattern::parse(&path.replace(":.*}", "...}")) else { continue };
            let has_id = pattern.segments.contains(&Segment::Placeholder("id".into()));
            // A decision on one resource says nothing about those that match a filter.
            if route.selects_by_filter {
                continue;
            }
            let meaning = match route.action {
                None => MatchTemplate::Public,
                Some(action) => {
                    let takes = |kind: &str| engine.resource_types(action).iter().any(|known| known == kind);
                    let id = || vec![IdPart::Placeholder("id".into())];
                    let of = match kinds.get(group.base()).filter(|_| has_id) {
                        _ if route.on_root_organization => ResourceRefTemplate::Root,
                        Some(kind) if takes(kind) => ResourceRefTemplate::Resource {
                            kind: (*kind).into(),
                            id: id(),
                            resolves_me: true,
                        },
                        Some(kind) => {
                            ResourceRefTemplate::OwnerOrganization { kind: (*kind).into(), id: id() }
                        }
                        // No meaning is better than a wrong one.
                        None if has_id => continue,
                        None if takes("Organization") => ResourceRefTemplate::Organization,
                        None => ResourceRefTemplate::Caller,
                    };
                    MatchTemplate::Authorize { action: action.to_owned(), of }
                }
            };
            let method = (!route.matches_any_method).then(|| route.method.clone());
            entries.push(ForwardRoute { method, answers_head: route.answers_head, pattern, meaning });
        }
    }
    entries
}

/// The routes file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesFile {
    /// Whether to include the service's own routes.
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

/// The resource of a route in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileResource {
    r#type: String,
    id: String,
}

/// The position of an error in a routes file, and its message.
type FileError = (Option<Range<usize>>, String);

/// Parses a routes file. Returns its routes, and whether the service's own ones are included.
fn parse(text: &str, engine: &Engine) -> Result<(Vec<ForwardRoute>, bool), FileError> {
    let file: RoutesFile =
        toml::from_str(text).map_err(|error| (error.span(), error.message().trim().to_owned()))?;
    let mut entries = Vec::with_capacity(file.route.len());
    for route in file.route {
        let place = Some(route.span());
        let route = route.into_inner();
        let named = format!("the route {} {}", route.method, route.path);
        let entry = route.into_route(engine).map_err(|message| (place, format!("{named}: {message}")))?;
        entries.push(entry);
    }
    Ok((entries, file.own))
}

/// Returns the line of a byte of a text, from 1.
fn line_number(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl FileRoute {
    fn into_route(self, engine: &Engine) -> Result<ForwardRoute, String> {
        let method = match self.method.as_str() {
            "*" => None,
            name if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Some(Method::from_str(name).map_err(|error| format!("{name:?} is not a method: {error}"))?)
            }
            name => {
                return Err(format!("expected a method in capitals, such as GET, or \"*\"; got {name:?}"));
            }
        };
        let pattern = Pattern::parse(&self.path)?;
        let meaning = match (self.public, self.action, self.resource) {
            (true, None, None) => MatchTemplate::Public,
            (true, ..) => return Err("`public` cannot be combined with `action` or `resource`".into()),
            (false, Some(action), Some(resource)) => authorize_template(&pattern, &action, resource, engine)?,
            (false, ..) => return Err("expected `action` and `resource`, or `public = true`".into()),
        };
        Ok(ForwardRoute { method, answers_head: true, pattern, meaning })
    }
}

fn authorize_template(
    pattern: &Pattern,
    action: &str,
    resource: FileResource,
    engine: &Engine,
) -> Result<MatchTemplate, String> {
    let kind = resource.r#type;
    if !engine.external_entities().has_type(&kind) {
        return Err(format!("the schema has no type {kind:?}"));
    }
    let known = engine.resolve_action(action, &kind);
    if engine.resource_types(known).is_empty() {
        return Err(format!("the schema has no action {action:?} for the type {kind:?}"));
    }
    if !engine.applicable_actions("User", &kind).contains(&known) {
        return Err(format!(
            "the action {action:?} does not apply to users and resources of the type {kind:?}"
        ));
    }
    let id = parse_id_template(&resource.id)?;
    for part in &id {
        if let IdPart::Placeholder(name) = part
            && !pattern.placeholder_names().any(|known| known == name)
        {
            return Err(format!("the id has the placeholder {{{name}}}, which the path does not have"));
        }
    }
    let of = ResourceRefTemplate::Resource { kind, id, resolves_me: false };
    Ok(MatchTemplate::Authorize { action: known.to_owned(), of })
}

/// Parses an id into its placeholders (`{name}`) and the text around them.
fn parse_id_template(text: &str) -> Result<Vec<IdPart>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after_brace) =
            after.split_once('}').ok_or_else(|| format!("the id {text:?} has a `{{` without a `}}`"))?;
        parts.push(IdPart::Text(before.to_owned()));
        parts.push(IdPart::Placeholder(name.to_owned()));
        rest = after_brace;
    }
    parts.push(IdPart::Text(rest.to_owned()));
    let is_empty = |part: &IdPart| *part == IdPart::Text(String::new());
    parts.retain(|part| !is_empty(part));
    if parts.is_empty() {
        return Err("the id is empty".into());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
