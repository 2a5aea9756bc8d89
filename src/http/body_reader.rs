//! Reading request bodies: within their size, the deadline of their connection, and the budget for bodies.

use super::body_budget::{BUDGET_EXEMPT_BYTES, Reservation};
use super::connection::ConnectionState;
use super::{Problem, WorkerState};
use crate::types::JsonSize;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::BytesMut;
use actix_web::{HttpMessage, HttpRequest};
use futures_util::StreamExt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// Makes the connection enforce the deadline of a body until the guard is dropped.
struct BodyDeadlineGuard(Option<Rc<ConnectionState>>);

impl BodyDeadlineGuard {
    fn start(request: &HttpRequest) -> Self {
        let connection = ConnectionState::from_request(request).cloned();
        if let Some(connection) = &connection {
            connection.expect_body();
        }
        Self(connection)
    }

    fn is_expired(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| connection.is_body_late())
    }
}

impl Drop for BodyDeadlineGuard {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.end_body();
        }
    }
}

/// Reads the body of a request. Its part of the budget is released with the request.
///
/// # Errors
/// 413 above `max` bytes, 408 if it arrives too slowly, 503 if the budget is exhausted.
pub(super) async fn read_body(
    request: &HttpRequest,
    payload: &mut Payload,
    max: usize,
) -> Result<BytesMut, Problem> {
    let deadline_guard = BodyDeadlineGuard::start(request);
    let mut bytes = BytesMut::new();
    let mut reservation = None;
    loop {
        let chunk = poll_fn(|cx| match payload.poll_next_unpin(cx) {
            Poll::Pending if deadline_guard.is_expired() => Poll::Ready(Some(Err(body_timeout()))),
            polled => polled.map(|chunk| Some(chunk?.map_err(|_| body_incomplete()))),
        });
        let Some(chunk) = chunk.await else { break };
        let chunk = chunk?;
        if bytes.len() + chunk.len() > max {
            return Err(body_too_large(max));
        }
        bytes.extend_from_slice(&chunk);
        if bytes.len() > BUDGET_EXEMPT_BYTES {
            reserve(&mut reservation, request, bytes.capacity())?;
        }
    }
    drop(deadline_guard);
    if bytes.len() > BUDGET_EXEMPT_BYTES {
        reserve(&mut reservation, request, JsonSize::of_text(&bytes).memory_estimate())?;
    }
    if let Some(reservation) = reservation {
        request.extensions_mut().insert::<Reservation>(reservation);
    }
    Ok(bytes)
}

/// Extends a reservation, and creates it on first use.
fn reserve(
    reservation: &mut Option<Reservation>,
    request: &HttpRequest,
    bytes: usize,
) -> Result<(), Problem> {
    match reservation {
        Some(reservation) => reservation.grow_to(bytes),
        None => {
            *reservation = Some(WorkerState::from_request(request)?.http.body_budget.reserve(bytes)?);
            Ok(())
        }
    }
}

/// 413: the body is larger than a route accepts.
pub(super) fn body_too_large(max: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("The body is larger than {max} bytes, the most that is accepted here."),
    )
}

fn body_incomplete() -> Problem {
    Problem::bad_request("The body is incomplete: the connection was closed before its end.")
}

fn body_timeout() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_timeout",
        "The body did not arrive in time. Send it again, without pauses.",
    )
}
