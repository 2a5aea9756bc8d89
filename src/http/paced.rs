//! Large response bodies: sent in pieces, counted in the budget, and ended where the client takes them too slowly.

use super::budget::Reservation;
use super::connection::ConnectionState;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The length of a piece: what the server copies into its write buffer at once.
const PIECE: usize = 32 * 1024;

/// A large response body. Its memory counts in the budget until the last piece was taken.
#[derive(Debug)]
pub(super) struct PacedBody {
    rest: Bytes,
    /// The connection that it is sent on; none where the request did not come by one.
    connection: Option<Rc<ConnectionState>>,
    _reservation: Reservation,
}

impl PacedBody {
    /// A body whose memory is reserved already.
    pub(super) fn new(
        bytes: Bytes,
        reservation: Reservation,
        connection: Option<Rc<ConnectionState>>,
    ) -> Self {
        if let Some(connection) = &connection {
            connection.set_large_response(true);
        }
        Self { rest: bytes, connection, _reservation: reservation }
    }
}

impl MessageBody for PacedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        if self.rest.is_empty() {
            self.end();
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

impl PacedBody {
    /// Reports to the connection that the last piece was taken, or none will be.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.set_large_response(false);
        }
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        self.end();
    }
}
