//! CORS (Fetch Standard, section 3.3): which origins may call the service from a browser.
//!
//! The outermost middleware, so that errors of the others have the headers, too. It excludes forward authentication: its
//! requests come from proxies, and a proxied preflight is authorized like any other request.

use super::forward_auth::is_forward_path;
use actix_cors::{Cors, CorsMiddleware};
use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use futures_util::future::{Either, LocalBoxFuture, MapOk, TryFutureExt};
use std::rc::Rc;

/// The response headers that pages may read, beside those that the Fetch Standard always exposes.
const EXPOSED: [&str; 14] = [
    "allow",
    "etag",
    "idempotency-replayed",
    "link",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-policy-version",
    "x-decision-stale",
    "x-evaluation-id",
    "x-request-id",
    "x-total-count",
];

/// The middleware.
#[derive(Debug)]
pub struct CorsLayer(Option<Cors>);

impl CorsLayer {
    /// Permits all requests from these origins; the service uses no cookies. Without origins, the middleware does nothing.
    pub fn new(origins: &[String]) -> Self {
        if origins.is_empty() {
            return Self(None);
        }
        let cors =
            Cors::default().allow_any_method().allow_any_header().expose_headers(EXPOSED).max_age(3600);
        Self(Some(origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))))
    }
}

impl<S, B> Transform<S, ServiceRequest> for CorsLayer
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type InitError = ();
    type Transform = CorsService<S>;
    type Future = LocalBoxFuture<'static, Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let inner = Rc::new(service);
        let cors = self.0.as_ref().map(|cors| cors.new_transform(Rc::clone(&inner)));
        Box::pin(async move {
            let cors = match cors {
                Some(cors) => Some(cors.await?),
                None => None,
            };
            Ok(CorsService { inner, cors })
        })
    }
}

/// The middleware of a worker.
#[derive(Debug)]
pub struct CorsService<S> {
    inner: Rc<S>,
    cors: Option<CorsMiddleware<Rc<S>>>,
}

type WithoutCors<F, B> = MapOk<F, fn(ServiceResponse<B>) -> ServiceResponse<EitherBody<B>>>;

impl<S, B> Service<ServiceRequest> for CorsService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Either<LocalBoxFuture<'static, Result<Self::Response, Error>>, WithoutCors<S::Future, B>>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        match &self.cors {
            Some(cors) if !is_forward_path(request.match_info().as_str()) => Either::Left(cors.call(request)),
            _ => Either::Right(self.inner.call(request).map_ok(ServiceResponse::map_into_left_body)),
        }
    }
}
