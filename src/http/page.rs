//! A page of a list: a JSON array, written row by row up to a limit in bytes, and sent chunk by chunk.
//!
//! The whole page is serialized before its first byte is sent, because `Link` depends on the number of rows that fit. Its
//! memory is released while the client receives it.

use super::Problem;
use super::body_budget::{BUDGET_EXEMPT_BYTES, Reservation};
use super::connection::ConnectionState;
use super::paced_body::{CHUNK_SIZE, PacedBody};
use super::state::WorkerState;
use actix_web::http::header::ContentType;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;

/// Writes the rows of a page.
#[derive(Debug)]
pub struct PageWriter {
    /// The complete chunks.
    chunks: Vec<Bytes>,
    /// Their size in bytes.
    complete: usize,
    /// The current chunk.
    chunk: Vec<u8>,
    max: usize,
    reservation: Reservation,
    /// The first error, which `finish` returns.
    failure: Option<Problem>,
}

impl PageWriter {
    /// Creates an empty page for the response to a request.
    ///
    /// # Errors
    /// 500 if the server has no state.
    pub fn new(request: &HttpRequest) -> Result<Self, Problem> {
        let state = &WorkerState::from_request(request)?.http;
        Ok(Self {
            chunks: Vec::new(),
            complete: 0,
            chunk: Vec::new(),
            max: state.config.list_max_bytes,
            reservation: state.body_budget.empty_reservation(),
            failure: None,
        })
    }

    /// Creates an empty page without a maximum size.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn unlimited(request: &HttpRequest) -> Result<Self, Problem> {
        Ok(Self { max: usize::MAX, ..Self::new(request)? })
    }

    /// Checks that everything was written.
    ///
    /// # Errors
    /// 503 if the budget for bodies is exhausted.
    pub fn check(&mut self) -> Result<(), Problem> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Returns the maximum size of the page in bytes.
    pub fn max_bytes(&self) -> usize {
        self.max
    }

    /// Returns the size in bytes.
    fn len(&self) -> usize {
        self.complete + self.chunk.len()
    }

    /// Writes a row. Returns false if it does not fit; the first row always fits.
    pub fn push(&mut self, row: &impl Serialize) -> bool {
        let (is_first, end) = (self.len() == 0, self.chunk.len());
        self.chunk.push(if is_first { b'[' } else { b',' });
        if let Err(error) = serde_json::to_writer(&mut self.chunk, row) {
            self.failure = Some(Problem::internal(error));
            return false;
        }
        // One more byte closes the array.
        if !is_first && self.len() >= self.max {
            self.chunk.truncate(end);
            return false;
        }
        if self.len() > BUDGET_EXEMPT_BYTES
            && let Err(problem) = self.reservation.grow_to(self.complete + self.chunk.capacity())
        {
            self.failure = Some(problem);
            return false;
        }
        if self.chunk.len() >= CHUNK_SIZE {
            self.complete_chunk();
        }
        true
    }

    fn complete_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.shrink_to_fit();
        self.complete += chunk.len();
        self.chunks.push(chunk.into());
    }

    /// Returns the response with the page.
    ///
    /// # Errors
    /// 503 if the budget for bodies is exhausted.
    pub fn finish(
        mut self,
        request: &HttpRequest,
        mut response: HttpResponseBuilder,
    ) -> Result<HttpResponse, Problem> {
        self.check()?;
        if self.len() == 0 {
            self.chunk.push(b'[');
        }
        self.chunk.push(b']');
        response.content_type(ContentType::json());
        if self.chunks.is_empty() {
            // If it is not exempt from the budget, the middleware counts it.
            return Ok(response.body(self.chunk));
        }
        self.complete_chunk();
        self.reservation.shrink_to(self.complete);
        let connection = ConnectionState::from_request(request).cloned();
        Ok(response.body(PacedBody::new(self.chunks, self.reservation, connection)))
    }
}
