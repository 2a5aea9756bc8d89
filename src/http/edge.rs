//! What every request passes on its way in and out: it gets an id, and its problems become answers with that id, and entries
//! of the audit trail where they are to be told there.

use super::{Problem, audit};
use crate::store::Origin;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest};
use std::net::IpAddr;
use tracing::Instrument;

/// The header that carries the id of a request, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the one that it came with if it is a short printable word, else a new one.
#[derive(Debug, Clone)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    fn of(request: &ServiceRequest) -> Self {
        let sent = request.headers().get(REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        Self(sent.cloned().unwrap_or_else(|| {
            let mut random = [0; 16];
            let _ = aws_lc_rs::rand::fill(&mut random);
            HeaderValue::from_str(&format!("{:032x}", u128::from_be_bytes(random)))
                .unwrap_or(HeaderValue::from_static("none"))
        }))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The address that a request comes from. An IPv4 client at an IPv6 socket is an IPv4 client: Cedar knows no other form.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    request.peer_addr().map(|address| address.ip().to_canonical())
}

/// From where a request comes, as it is kept of a login: the address, and at most 256 characters of the `User-Agent`.
pub fn origin(request: &HttpRequest) -> Origin {
    let agent = request.headers().get(header::USER_AGENT).map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.chars().filter(|letter| !letter.is_control()).take(256).collect()
    });
    let address = client_address(request).map(|address| address.to_string());
    let id = request.extensions().get::<RequestId>().map(|id| id.as_str().to_owned());
    Origin { address, agent, request: id }
}

/// The middleware.
pub async fn edge<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    // Whatever is logged on the way says of which request.
    let span = tracing::error_span!("request", id = id.as_str());
    let response = next.call(request).instrument(span).await?;
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    let untold = problem.and_then(|problem| problem.untold.clone());
    let answer = problem.map(|problem| problem.answer(id.as_str()));
    if let Some(untold) = untold {
        audit::tell(response.request(), *untold).await;
    }
    let mut response = match answer {
        Some(answer) => response.into_response(answer).map_into_right_body(),
        None => response.map_into_left_body(),
    };
    // The path only: a query string may hold a refresh token.
    tracing::debug!(
        id = id.as_str(),
        method = %response.request().method(),
        path = response.request().path(),
        status = response.status().as_u16(),
        "answered"
    );
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    Ok(response)
}
