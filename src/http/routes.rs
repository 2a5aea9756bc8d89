//! One declaration -> actix route + OpenAPI operation + Cedar action. A route either names its action, and then its
//! handler gets a gate before anything else of the request is looked at, or it says that it is public. One that is for
//! every method goes through the gate itself.

use super::gate::Gate;
use super::openapi::{self, Doc};
use super::{Problem, crud, list};
use crate::resource::Resource;
use crate::store::Kind;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, guard, web};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A route.
#[derive(Clone)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with `{id}` and the like.
    pub path: String,
    /// Its operation id, which is also the Cedar action where it has one.
    pub operation: &'static str,
    /// The Cedar action that is asked about; none where the route is public.
    pub action: Option<&'static str>,
    /// The further actions that are asked about, depending on what the body says.
    pub also: &'static [&'static str],
    /// Whether the action is asked of the root organization, and not of the caller's.
    pub of_root: bool,
    /// Whether it is for every method; the document has only one.
    pub any_method: bool,
    /// What the OpenAPI document says of it.
    pub doc: Doc,
    mount: Arc<dyn Fn() -> actix_web::Route + Send + Sync>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.method, self.path, self.action.unwrap_or("public"))
    }
}

/// The routes of one part of the API.
#[derive(Debug)]
pub struct Routes {
    /// What the part is called in the document.
    pub tag: &'static str,
    base: &'static str,
    aliases: Vec<&'static str>,
    routes: Vec<Route>,
    kind: Option<Kind>,
}

impl Routes {
    /// No routes yet, for paths that begin with `base`.
    pub fn new(tag: &'static str, base: &'static str) -> Self {
        Self { tag, base, aliases: Vec::new(), routes: Vec::new(), kind: None }
    }

    /// The routes of a resource.
    pub fn of<R: Resource>(tag: &'static str, base: &'static str) -> Self {
        Self { kind: Some(Kind::of::<R>()), ..Self::new(tag, base) }
    }

    /// The same paths with another beginning. The document has the first one only.
    #[must_use]
    pub fn alias(mut self, base: &'static str) -> Self {
        self.aliases.push(base);
        self
    }

    /// `GET /`.
    #[must_use]
    pub fn list<R: Resource>(self, action: &'static str) -> Self {
        let fields = Arc::new(list::fields::<R>());
        let doc = openapi::list::<R>(&fields);
        self.get("", action, doc, move |gate, request| crud::list::<R>(gate, request, Arc::clone(&fields)))
    }

    /// `GET /{id}`.
    #[must_use]
    pub fn fetch<R: Resource>(self, action: &'static str) -> Self {
        self.get("/{id}", action, openapi::fetch::<R>(), crud::fetch::<R>)
    }

    /// `POST /`.
    #[must_use]
    pub fn create<R: Resource>(self, action: &'static str) -> Self {
        self.post("", action, openapi::create::<R, R::Body>(), crud::create::<R>).also(&["referTo"])
    }

    /// `PATCH /{id}`.
    #[must_use]
    pub fn update<R: Resource>(self, action: &'static str) -> Self {
        self.patch("/{id}", action, openapi::update::<R>(), crud::update::<R>).also(&["referTo"])
    }

    /// `DELETE /{id}`.
    #[must_use]
    pub fn delete<R: Resource>(self, action: &'static str) -> Self {
        self.remove("/{id}", action, openapi::delete::<R>(), crud::delete::<R>)
    }

    /// A `GET` that asks about `action`.
    #[must_use]
    pub fn get<A, F, Fut>(self, path: &str, action: &'static str, doc: Doc, handler: F) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::GET, path, action, doc, handler)
    }

    /// A `POST` that asks about `action`.
    #[must_use]
    pub fn post<A, F, Fut>(self, path: &str, action: &'static str, doc: Doc, handler: F) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::POST, path, action, doc, handler)
    }

    /// A `GET` that asks about an action which another route's operation is named after already.
    #[must_use]
    pub fn get_as<A, F, Fut>(
        self,
        path: &str,
        action: &'static str,
        operation: &'static str,
        doc: Doc,
        handler: F,
    ) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::GET, path, action, doc, handler).called(operation)
    }

    /// The route just declared has an operation of this name.
    fn called(mut self, operation: &'static str) -> Self {
        if let Some(route) = self.routes.last_mut() {
            route.operation = operation;
        }
        self
    }

    /// A `POST` that asks about an action which another route's operation is named after already.
    #[must_use]
    pub fn post_as<A, F, Fut>(
        self,
        path: &str,
        action: &'static str,
        operation: &'static str,
        doc: Doc,
        handler: F,
    ) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::POST, path, action, doc, handler).called(operation)
    }

    /// A `PATCH` that asks about `action`.
    #[must_use]
    pub fn patch<A, F, Fut>(self, path: &str, action: &'static str, doc: Doc, handler: F) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::PATCH, path, action, doc, handler)
    }

    /// A `DELETE` that asks about `action`.
    #[must_use]
    pub fn remove<A, F, Fut>(self, path: &str, action: &'static str, doc: Doc, handler: F) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        self.gated(Method::DELETE, path, action, doc, handler)
    }

    fn gated<A, F, Fut>(
        mut self,
        method: Method,
        path: &str,
        action: &'static str,
        doc: Doc,
        handler: F,
    ) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(Gate, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        let verb = method.clone();
        let mount = move || {
            let handler = handler.clone();
            on(&verb).to(move |request: HttpRequest, payload: web::Payload| {
                let handler = handler.clone();
                async move {
                    let gate = Gate::of_request(&request, action).await?;
                    let arguments =
                        A::from_request(&request, &mut payload.into_inner()).await.map_err(Into::into)?;
                    handler(gate, arguments).await.map_err(actix_web::Error::from)
                }
            })
        };
        self.routes.push(Route {
            method,
            path: format!("{}{path}", self.base),
            operation: action,
            action: Some(action),
            also: &[],
            of_root: false,
            any_method: false,
            doc: doc.gated(action),
            mount: Arc::new(mount),
        });
        self
    }

    /// A route for every method, documented as a `GET`, with an operation of its own name. Its handler goes through the
    /// gate of the action itself, and leaves the body unread.
    #[must_use]
    pub fn any_as<F, Fut>(
        mut self,
        path: &str,
        action: &'static str,
        operation: &'static str,
        doc: Doc,
        handler: F,
    ) -> Self
    where
        F: Fn(HttpRequest, &'static str) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        let mount = move || {
            let handler = handler.clone();
            web::route().to(move |request: HttpRequest| {
                let answer = handler(request, action);
                async move { answer.await.map_err(actix_web::Error::from) }
            })
        };
        self.routes.push(Route {
            method: Method::GET,
            path: format!("{}{path}", self.base),
            operation,
            action: Some(action),
            also: &[],
            of_root: false,
            any_method: true,
            doc: doc.gated(action),
            mount: Arc::new(mount),
        });
        self
    }

    /// A route that asks about nothing.
    #[must_use]
    pub fn public<A, F, Fut>(
        mut self,
        method: Method,
        path: &str,
        operation: &'static str,
        doc: Doc,
        handler: F,
    ) -> Self
    where
        A: FromRequest + 'static,
        F: Fn(HttpRequest, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
    {
        let verb = method.clone();
        let mount = move || {
            let handler = handler.clone();
            on(&verb).to(move |request: HttpRequest, arguments: A| {
                let answer = handler(request, arguments);
                async move { answer.await.map_err(actix_web::Error::from) }
            })
        };
        self.routes.push(Route {
            method,
            path: format!("{}{path}", self.base),
            operation,
            action: None,
            also: &[],
            of_root: false,
            any_method: false,
            doc,
            mount: Arc::new(mount),
        });
        self
    }

    /// The route just declared may ask about these actions too.
    #[must_use]
    pub fn also(mut self, actions: &'static [&'static str]) -> Self {
        if let Some(route) = self.routes.last_mut() {
            route.also = actions;
        }
        self
    }

    /// The route just declared asks about the root organization.
    #[must_use]
    pub fn of_root(mut self) -> Self {
        if let Some(route) = self.routes.last_mut() {
            route.of_root = true;
        }
        self
    }

    /// What the paths begin with.
    pub fn base(&self) -> &'static str {
        self.base
    }

    /// Its routes with every path that they have, aliases included.
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

    /// Its routes, as they are documented.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// The kind of thing that the routes are for, where they are for one.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }
}

/// Adds all routes to a server, aliases included. Paths without variables come first: to compare one is cheap, and what is
/// asked for most has none.
pub fn mount(all: &[Routes], server: &mut web::ServiceConfig) {
    let mut paths: BTreeMap<(bool, usize, String), Vec<&Route>> = BTreeMap::new();
    for (at, part) in all.iter().enumerate() {
        for (path, route) in part.paths() {
            paths.entry((path.contains('{'), at, path)).or_default().push(route);
        }
    }
    for ((.., path), routes) in paths {
        let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        let allow = methods.join(", ");
        let mut resource = web::resource(path);
        for route in &routes {
            resource = resource.route((route.mount)());
        }
        server.service(resource.default_service(web::to(move || {
            let allow = allow.clone();
            async move { Err::<HttpResponse, Problem>(method_not_allowed(allow)) }
        })));
    }
}

/// A route for this method. Whatever can be got can be asked for its head (RFC 9110, 9.3.2).
fn on(method: &Method) -> actix_web::Route {
    if method == Method::GET {
        web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
    } else {
        web::method(method.clone())
    }
}

fn method_not_allowed(allow: String) -> Problem {
    let detail = format!("This path does not have this method; it has {allow}.");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with(header::ALLOW, allow)
}

/// What is answered where no route fits.
pub async fn no_route() -> Result<HttpResponse, Problem> {
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_path",
        "There is nothing at this path. /docs shows what there is.",
    ))
}
