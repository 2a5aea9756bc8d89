//! Groups of routes: what is declared of each route, for the server, the OpenAPI document, metrics and forward authentication.

use super::operation_doc::{OperationDoc, OperationDocFn};
use super::query_check::QueryCheck;
use crate::resource::Resource;
use crate::store::ResourceType;
use actix_web::http::Method;
use std::sync::Arc;

/// What a route does with the header `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// It ignores it: repeating the request has no further effect.
    Ignored,
    /// It executes a request with a key once. A body must not have these fields, which are secrets: a digest of the request is
    /// stored.
    Stored {
        /// The names of the fields.
        secrets: &'static [&'static str],
    },
    /// It rejects requests that have it: the answer contains a secret, which must not be stored.
    Refused,
}

/// What a mounted route checks of a request before its handler does.
#[derive(Debug, Clone)]
pub(super) struct RouteChecks {
    /// What it does with the header `Idempotency-Key`.
    pub(super) key_use: KeyUse,
    /// Which query parameters it accepts.
    pub(super) query: QueryCheck,
}

/// A route.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with placeholders such as `{id}`.
    pub path: String,
    /// The operation id, by default the Cedar action.
    pub operation_id: &'static str,
    /// The Cedar action; none if the route is public.
    pub action: Option<&'static str>,
    /// Why the route is public; none if it has an action.
    pub public_reason: Option<&'static str>,
    /// Further actions that may be authorized, depending on the body.
    pub additional_actions: &'static [&'static str],
    /// Whether the action is authorized on the root organization instead of the caller's.
    pub on_root_organization: bool,
    /// Whether it accepts every method. The OpenAPI document has one of them.
    pub matches_any_method: bool,
    /// Whether a GET route accepts HEAD, too (RFC 9110, section 9.3.2).
    pub answers_head: bool,
    /// Whether its resources are those that match the query string.
    pub selects_by_filter: bool,
    /// What it does with the header `Idempotency-Key`.
    pub key_use: KeyUse,
    /// Which query parameters it accepts.
    pub(super) query: QueryCheck,
    pub(super) doc: Arc<dyn OperationDocFn>,
    pub(super) mount: Arc<dyn Fn(RouteChecks) -> actix_web::Route + Send + Sync>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.method, self.path, self.action.unwrap_or("public"))
    }
}

impl Route {
    /// Returns the OpenAPI operation.
    pub fn doc(&self) -> OperationDoc {
        let doc = (self.doc)();
        let doc = if matches!(self.query, QueryCheck::Unchecked) { doc } else { doc.problems(&[400]) };
        if matches!(self.key_use, KeyUse::Stored { .. }) { doc.accepts_idempotency_key() } else { doc }
    }
}

/// The routes of one resource or endpoint group.
#[derive(Debug)]
pub struct RouteGroup {
    /// The tag in the OpenAPI document.
    pub tag: &'static str,
    /// The description of the tag; one of the groups of a tag has it.
    pub tag_description: Option<&'static str>,
    pub(super) base: &'static str,
    aliases: Vec<&'static str>,
    pub(super) routes: Vec<Route>,
    kind: Option<ResourceType>,
}

impl RouteGroup {
    /// Creates a group without routes for paths that begin with `base`.
    pub fn new(tag: &'static str, base: &'static str) -> Self {
        Self { tag, tag_description: None, base, aliases: Vec::new(), routes: Vec::new(), kind: None }
    }

    /// Creates a group for a resource.
    pub fn for_resource<R: Resource>(tag: &'static str, base: &'static str) -> Self {
        Self { kind: Some(ResourceType::new::<R>()), ..Self::new(tag, base) }
    }

    /// Sets the description of the tag.
    #[must_use]
    pub fn about(self, description: &'static str) -> Self {
        Self { tag_description: Some(description), ..self }
    }

    /// Serves the routes under another base path, too. The OpenAPI document has the first one only.
    #[must_use]
    pub fn alias(mut self, base: &'static str) -> Self {
        self.aliases.push(base);
        self
    }

    /// Removes the routes of a path.
    #[must_use]
    pub fn without_path(mut self, path: &str) -> Self {
        self.routes.retain(|route| route.path != path);
        self
    }

    /// Returns the base path.
    pub fn base(&self) -> &'static str {
        self.base
    }

    /// Returns the routes with all their paths, aliases included.
    pub fn paths(&self) -> Vec<(String, &Route)> {
        let mut paths = Vec::new();
        for route in &self.routes {
            paths.push((route.path.clone(), route));
            for alias in &self.aliases {
                let rest = route.path.strip_prefix(self.base).unwrap_or_default();
                paths.push((format!("{alias}{rest}"), route));
            }
        }
        paths
    }

    /// Returns the routes without aliases.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Returns the resource type of the routes; none if they are not for a resource.
    pub fn kind(&self) -> Option<ResourceType> {
        self.kind
    }
}
