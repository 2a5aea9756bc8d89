//! Large response bodies: sent in pieces, counted in the budget until they are sent, and aborted if the client is too slow.

use super::body_budget::Reservation;
use super::connection::ConnectionState;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The length of a piece: what the server copies into its write buffer at once.
pub(super) const CHUNK_SIZE: usize = 32 * 1024;

/// A large response body, a sequence of chunks. The memory of a chunk is released, and returned to the budget, when the
/// server has taken its last piece, which it does as the client takes what precedes it.
#[derive(Debug)]
pub(super) struct PacedBody {
    /// Each with the memory that it occupies.
    chunks: VecDeque<(Bytes, usize)>,
    /// The connection that it is sent on; none where the request did not come by one.
    connection: Option<Rc<ConnectionState>>,
    reservation: Reservation,
}

impl PacedBody {
    /// A body whose memory is reserved already.
    pub(super) fn new(
        chunks: impl IntoIterator<Item = Bytes>,
        reservation: Reservation,
        connection: Option<Rc<ConnectionState>>,
    ) -> Self {
        if let Some(connection) = &connection {
            connection.set_large_response(true);
        }
        let chunks = chunks.into_iter().filter(|chunk| !chunk.is_empty());
        let chunks = chunks.map(|chunk| (chunk.clone(), chunk.len())).collect();
        Self { chunks, connection, reservation }
    }

    /// Takes the next piece.
    fn take_piece(&mut self) -> Option<Bytes> {
        let (chunk, _) = self.chunks.front_mut()?;
        let piece = chunk.split_to(chunk.len().min(CHUNK_SIZE));
        if chunk.is_empty() {
            self.chunks.pop_front();
            let memory = self.chunks.iter().map(|(_, size)| size).sum();
            self.reservation.shrink_to(memory);
        }
        if self.chunks.is_empty() {
            self.report_end();
        }
        Some(piece)
    }
}

impl MessageBody for PacedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        let remaining: usize = self.chunks.iter().map(|(chunk, _)| chunk.len()).sum();
        BodySize::Sized(u64::try_from(remaining).unwrap_or(u64::MAX))
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(self.take_piece().map(Ok))
    }
}

impl PacedBody {
    /// Reports to the connection that the last piece was taken, or none will be.
    fn report_end(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.set_large_response(false);
        }
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        self.report_end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body_budget::BodyBudget;

    #[test]
    fn each_chunk_returns_its_memory_when_its_last_piece_is_taken() {
        let budget = BodyBudget::new(1 << 20);
        let chunks = [CHUNK_SIZE, 2 * CHUNK_SIZE + 1, 0, 7].map(|length| Bytes::from(vec![b'x'; length]));
        let total: usize = chunks.iter().map(Bytes::len).sum();
        let mut body = PacedBody::new(chunks, budget.reserve(total).unwrap(), None);
        assert_eq!(body.size(), BodySize::Sized(total as u64));
        let mut taken = Vec::new();
        while let Some(piece) = body.take_piece() {
            taken.push((piece.len(), budget.used()));
        }
        let second = 2 * CHUNK_SIZE + 8;
        assert_eq!(taken, [(CHUNK_SIZE, second), (CHUNK_SIZE, second), (CHUNK_SIZE, second), (1, 7), (7, 0)]);
        assert_eq!(body.size(), BodySize::Sized(0));
    }
}
