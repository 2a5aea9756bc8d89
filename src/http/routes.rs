//! Declarations of routes. Each yields an actix route, an OpenAPI operation and the Cedar action.
//!
//! A route either names its action or is public. The caller of an action is authenticated before anything else of the request
//! is examined, and the handler receives the [`Authorizer`]. A handler for every method authenticates by itself.

use super::authentication::{authenticate, authenticate_client, authenticate_session};
use super::idempotency;
use super::openapi;
use super::operation_doc::OperationDocFn;
use super::problem::OAuthErrorCode;
use super::query::ListSpec;
use super::query_check::QueryCheck;
use super::route_group::{KeyUse, Route, RouteChecks, RouteGroup};
use super::{Problem, body, bulk, crud};
use crate::application::Authorizer;
use crate::application::creation::PlainBody;
use crate::application::writes::WritableResource;
use crate::resource::Resource;
use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, guard, web};
use std::sync::Arc;

/// A handler. `Head` is the authorizer or the request, and `A` is extracted from the request.
pub trait Handler<Head, A>: Clone + Send + Sync + 'static {
    /// Handles a request.
    fn call(
        &self,
        head: Head,
        arguments: A,
    ) -> impl Future<Output = Result<HttpResponse, Problem>> + use<Self, Head, A> + 'static;
}

impl<Head, A, F, Fut> Handler<Head, A> for F
where
    F: Fn(Head, A) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<HttpResponse, Problem>> + 'static,
{
    fn call(
        &self,
        head: Head,
        arguments: A,
    ) -> impl Future<Output = Result<HttpResponse, Problem>> + use<Head, A, F, Fut> + 'static {
        self(head, arguments)
    }
}

impl RouteGroup {
    /// Adds `GET /`.
    #[must_use]
    pub fn list<R: Resource>(self, action: &'static str) -> Self {
        let spec = Arc::new(ListSpec::for_resource::<R>());
        let documented = Arc::clone(&spec);
        let doc = move || openapi::list::<R>(&documented);
        self.get("", action, doc, move |authorizer, request| {
            crud::list::<R>(authorizer, request, Arc::clone(&spec))
        })
        .parses_query()
    }

    /// Adds `GET /{id}`.
    #[must_use]
    pub fn fetch<R: Resource>(self) -> Self {
        let spec = Arc::new(ListSpec::for_resource::<R>());
        self.get("/{id}", R::FETCH_ACTION, openapi::fetch::<R>, move |authorizer, arguments| {
            crud::fetch::<R>(authorizer, arguments, Arc::clone(&spec))
        })
        .parses_query()
    }

    /// Adds `POST /`.
    #[must_use]
    pub fn create<R: Resource>(self, action: &'static str) -> Self {
        self.post("", action, openapi::create::<R, R::Body>, crud::create::<PlainBody<R>>)
            .additional_actions(&["referTo"])
            .idempotent()
    }

    /// Adds `PATCH /{id}`.
    #[must_use]
    pub fn update<R: WritableResource>(self, action: &'static str) -> Self {
        self.patch("/{id}", action, openapi::update::<R>, crud::update::<R>)
            .additional_actions(&["referTo"])
            .idempotent()
    }

    /// Adds `PUT /{id}`.
    #[must_use]
    pub fn replace<R: WritableResource>(self, action: &'static str) -> Self {
        self.put("/{id}", action, openapi::replace::<R>, crud::replace::<R>).additional_actions(&["referTo"])
    }

    /// Adds `DELETE /{id}`.
    #[must_use]
    pub fn delete<R: WritableResource>(self, action: &'static str) -> Self {
        self.remove("/{id}", action, openapi::delete::<R>, crud::delete::<R>)
    }

    /// Adds `PATCH /` and `DELETE /`, which change all resources that match a filter, among those that `list_action` permits to
    /// list. The actions have their operation ids with them.
    #[must_use]
    pub fn bulk<R: WritableResource>(
        self,
        list_action: &'static str,
        (update_action, update_id): (&'static str, &'static str),
        (delete_action, delete_id): (&'static str, &'static str),
    ) -> Self {
        let spec = Arc::new(ListSpec::for_resource::<R>());
        let [for_update, for_delete] = [(); 2].map(|()| (Arc::clone(&spec), list_action));
        let [update_spec, delete_spec] = [(); 2].map(|()| Arc::clone(&spec));
        self.patch(
            "",
            update_action,
            move || openapi::bulk_update::<R>(&update_spec, update_id),
            move |authorizer, arguments| bulk::update::<R>(authorizer, arguments, for_update.clone()),
        )
        .selects_by_filter(update_id)
        .idempotent()
        .remove(
            "",
            delete_action,
            move || openapi::bulk_delete(&delete_spec, delete_id),
            move |authorizer, request| bulk::delete::<R>(authorizer, request, for_delete.clone()),
        )
        .selects_by_filter(delete_id)
    }

    fn selects_by_filter(self, operation: &'static str) -> Self {
        self.with_operation_id(operation)
            .additional_actions(&["referTo"])
            .parses_query()
            .update_last(|route| route.selects_by_filter = true)
    }

    /// Adds a `GET` with this action.
    #[must_use]
    pub fn get<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        self.with_authorization(Method::GET, path, action, doc, handler)
    }

    /// Adds a `POST` with this action.
    #[must_use]
    pub fn post<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        self.with_authorization(Method::POST, path, action, doc, handler)
    }

    /// Adds a `PATCH` with this action.
    #[must_use]
    pub fn patch<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        self.with_authorization(Method::PATCH, path, action, doc, handler)
    }

    /// Adds a `PUT` with this action.
    #[must_use]
    pub fn put<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        self.with_authorization(Method::PUT, path, action, doc, handler)
    }

    /// Adds a `DELETE` with this action.
    #[must_use]
    pub fn remove<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        self.with_authorization(Method::DELETE, path, action, doc, handler)
    }

    /// Adds a `POST` with this action for clients of OAuth, which may send an API key as a client secret.
    #[must_use]
    pub fn post_for_clients<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        let mount = move |checks: RouteChecks| {
            let handler = handler.clone();
            method_route(&Method::POST).to(move |request: HttpRequest, payload: web::Payload| {
                let (handler, checks) = (handler.clone(), checks.clone());
                async move {
                    let authorizer = authenticate_client(&request, action).await?;
                    check_query(&checks.query, &request)?;
                    call(handler, authorizer, (&request, payload), checks.key_use).await
                }
            })
        };
        let doc = move || doc().with_authorization(action).accepts_basic();
        self.add(Method::POST, path, action, Some(action), doc, mount)
    }

    /// Adds a `POST` with this action for the bearer of an access token that may have expired. The handler gets no authorizer if
    /// the session of the token has ended.
    #[must_use]
    pub fn post_for_session<A: FromRequest>(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Option<Authorizer>, A>,
    ) -> Self {
        let mount = move |checks: RouteChecks| {
            let handler = handler.clone();
            method_route(&Method::POST).to(move |request: HttpRequest, payload: web::Payload| {
                let (handler, checks) = (handler.clone(), checks.clone());
                async move {
                    let authorizer = authenticate_session(&request, action).await?;
                    check_query(&checks.query, &request)?;
                    extract_and_call(handler, authorizer, &request, payload.into_inner()).await
                }
            })
        };
        self.add(Method::POST, path, action, Some(action), move || doc().with_authorization(action), mount)
    }

    fn with_authorization<A: FromRequest>(
        self,
        method: Method,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<Authorizer, A>,
    ) -> Self {
        let verb = method.clone();
        let mount = move |checks: RouteChecks| {
            let handler = handler.clone();
            method_route(&verb).to(move |request: HttpRequest, payload: web::Payload| {
                let (handler, checks) = (handler.clone(), checks.clone());
                async move {
                    let authorizer = authenticate(&request, action).await?;
                    check_query(&checks.query, &request)?;
                    call(handler, authorizer, (&request, payload), checks.key_use).await
                }
            })
        };
        self.add(method, path, action, Some(action), move || doc().with_authorization(action), mount)
    }

    /// Adds a route for every method, documented as a `GET`. Its handler authenticates by itself and does not read the body. Its
    /// query string is not checked: it may be that of the request that is asked about.
    #[must_use]
    pub fn all_methods(
        self,
        path: &str,
        action: &'static str,
        doc: impl OperationDocFn,
        handler: impl Handler<HttpRequest, &'static str>,
    ) -> Self {
        let mount = move |_: RouteChecks| {
            let handler = handler.clone();
            web::route().to(move |request: HttpRequest| {
                let answer = handler.call(request, action);
                async move { answer.await.map_err(actix_web::Error::from) }
            })
        };
        let doc = move || doc().with_authorization(action);
        let routes = self.add(Method::GET, path, action, Some(action), doc, mount);
        routes.update_last(|route| {
            route.matches_any_method = true;
            route.query = QueryCheck::Unchecked;
        })
    }

    /// Adds a public route. `reason` says why it needs no authorization by a policy; reports show it.
    #[must_use]
    pub fn public<A: FromRequest + 'static>(
        self,
        method: Method,
        path: &str,
        (operation, reason): (&'static str, &'static str),
        doc: impl OperationDocFn,
        handler: impl Handler<HttpRequest, A>,
    ) -> Self {
        let verb = method.clone();
        let mount = move |checks: RouteChecks| {
            let handler = handler.clone();
            method_route(&verb).to(move |request: HttpRequest, payload: web::Payload| {
                let (handler, checks) = (handler.clone(), checks.clone());
                async move {
                    check_query(&checks.query, &request)?;
                    extract_and_call(handler, request.clone(), &request, payload.into_inner()).await
                }
            })
        };
        let routes = self.add(method, path, operation, None, doc, mount);
        routes.update_last(|route| route.public_reason = Some(reason))
    }

    fn add(
        mut self,
        method: Method,
        path: &str,
        operation: &'static str,
        action: Option<&'static str>,
        doc: impl OperationDocFn,
        mount: impl Fn(RouteChecks) -> actix_web::Route + Send + Sync + 'static,
    ) -> Self {
        let doc: Arc<dyn OperationDocFn> = Arc::new(doc);
        self.routes.push(Route {
            method,
            path: format!("{}{path}", self.base),
            operation_id: operation,
            action,
            public_reason: None,
            additional_actions: &[],
            on_root_organization: false,
            matches_any_method: false,
            answers_head: true,
            selects_by_filter: false,
            key_use: KeyUse::Ignored,
            query: QueryCheck::declared(Arc::clone(&doc)),
            doc,
            mount: Arc::new(mount),
        });
        self
    }

    /// Changes the last route.
    fn update_last(mut self, change: impl FnOnce(&mut Route)) -> Self {
        self.routes.last_mut().map(change);
        self
    }

    /// Sets the operation id of the last route, for an action that several routes have.
    #[must_use]
    pub fn with_operation_id(self, operation: &'static str) -> Self {
        self.update_last(|route| route.operation_id = operation)
    }

    /// Sets the further actions of the last route.
    #[must_use]
    pub fn additional_actions(self, actions: &'static [&'static str]) -> Self {
        self.update_last(|route| route.additional_actions = actions)
    }

    /// Declares that the last route executes a request with an `Idempotency-Key` once.
    #[must_use]
    pub fn idempotent(self) -> Self {
        self.idempotent_without(&[])
    }

    /// As [`RouteGroup::idempotent`], for requests without these fields, which are secrets.
    #[must_use]
    pub fn idempotent_without(self, secrets: &'static [&'static str]) -> Self {
        self.update_last(|route| route.key_use = KeyUse::Stored { secrets })
    }

    /// Declares that the last route rejects an `Idempotency-Key`, because its answer contains a secret.
    #[must_use]
    pub fn refuses_idempotency_key(self) -> Self {
        self.update_last(|route| route.key_use = KeyUse::Refused)
    }

    /// Declares that the last route is authorized on the root organization.
    #[must_use]
    pub fn on_root_organization(self) -> Self {
        self.update_last(|route| route.on_root_organization = true)
    }

    /// Declares that the handler of the last route reads the query string, and rejects unknown parameters.
    #[must_use]
    pub fn parses_query(self) -> Self {
        self.update_last(|route| route.query = QueryCheck::ByHandler)
    }

    /// Declares that the last route rejects HEAD: its GET has a side effect, and HEAD must be safe (RFC 9110, section 9.2.1).
    #[must_use]
    pub fn without_head(self) -> Self {
        self.update_last(|route| route.answers_head = false)
    }
}

/// Checks the query string of a request.
///
/// # Errors
/// 400 with the invalid parameters; in the form of an OAuth error for clients that send a form.
fn check_query(query: &QueryCheck, request: &HttpRequest) -> Result<(), Problem> {
    let QueryCheck::Declared(parameters) = query else { return Ok(()) };
    if request.query_string().is_empty() {
        return Ok(());
    }
    let names = parameters.names();
    let result = body::query_pairs(request).and_then(|pairs| names.check(&pairs));
    result.map_err(|problem| match names.has_oauth_errors && body::has_form(request) {
        true => problem.as_oauth_error(OAuthErrorCode::InvalidRequest),
        false => problem,
    })
}

/// Calls a handler; for a request with an idempotency key, at most once.
async fn call<A: FromRequest, H: Handler<Authorizer, A>>(
    handler: H,
    authorizer: Authorizer,
    (request, payload): (&HttpRequest, web::Payload),
    key_use: KeyUse,
) -> Result<HttpResponse, actix_web::Error> {
    let payload = payload.into_inner();
    match (idempotency::key_of(request, key_use)?, key_use) {
        (Some(key), KeyUse::Stored { secrets }) => {
            let execute = |authorizer, payload| extract_and_call(handler, authorizer, request, payload);
            // Boxed because it is rare and large: every request would otherwise reserve the memory for it.
            Box::pin(idempotency::execute((request, payload), authorizer, (key, secrets), execute)).await
        }
        _ => extract_and_call(handler, authorizer, request, payload).await,
    }
}

/// Extracts the arguments of a handler and calls it.
async fn extract_and_call<Head, A: FromRequest, H: Handler<Head, A>>(
    handler: H,
    head: Head,
    request: &HttpRequest,
    mut payload: Payload,
) -> Result<HttpResponse, actix_web::Error> {
    let arguments = A::from_request(request, &mut payload).await.map_err(Into::into)?;
    // Boxed because actix moves the future several times.
    Box::pin(handler.call(head, arguments)).await.map_err(actix_web::Error::from)
}

/// Returns an actix route for a method; GET includes HEAD (RFC 9110, section 9.3.2).
pub(super) fn method_route(method: &Method) -> actix_web::Route {
    if method == Method::GET {
        web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
    } else {
        web::method(method.clone())
    }
}

pub(super) fn method_not_allowed(allow: String) -> Problem {
    let detail = format!("Method not allowed. Allowed: {allow}.");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .with_header(header::ALLOW, allow)
}

/// 404: no route has this path.
pub fn path_not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "route_not_found", "Not found. See /docs.")
}

/// Handles requests that no route matches.
///
/// # Errors
/// Always: 404 `route_not_found`.
pub async fn handle_unmatched() -> Result<HttpResponse, Problem> {
    Err(path_not_found())
}
