//! A page of a list: a JSON array, written row by row up to a limit in bytes.

use super::budget::{FREE, Reservation};
use super::connection::ConnectionState;
use super::edge::LARGE;
use super::paced::PacedBody;
use super::{Parts, Problem};
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;

/// Writes the rows of a page.
#[derive(Debug)]
pub struct PageWriter {
    json: Vec<u8>,
    max: usize,
    reservation: Reservation,
    /// Why the page cannot be sent.
    failure: Option<Problem>,
}

impl PageWriter {
    /// An empty page.
    pub fn new(parts: &Parts) -> Self {
        let max = parts.rules.list_max_bytes;
        Self { json: Vec::new(), max, reservation: parts.budget.open(), failure: None }
    }

    /// Writes a row. False where it has no place on this page any more; the first row always has.
    pub fn push(&mut self, row: &impl Serialize) -> bool {
        let end = self.json.len();
        self.json.push(if end == 0 { b'[' } else { b',' });
        if let Err(error) = serde_json::to_writer(&mut self.json, row) {
            self.failure = Some(Problem::internal(error));
            return false;
        }
        // One byte more closes the array.
        if end > 0 && self.json.len() >= self.max {
            self.json.truncate(end);
            return false;
        }
        if self.json.len() > FREE
            && let Err(problem) = self.reservation.grow_to(self.json.capacity())
        {
            self.failure = Some(problem);
            return false;
        }
        true
    }

    /// The response with the page.
    ///
    /// # Errors
    /// 503 where the budget for bodies did not last.
    pub fn finish(
        mut self,
        request: &HttpRequest,
        mut response: HttpResponseBuilder,
    ) -> Result<HttpResponse, Problem> {
        if let Some(problem) = self.failure {
            return Err(problem);
        }
        if self.json.is_empty() {
            self.json.push(b'[');
        }
        self.json.push(b']');
        response.content_type(ContentType::json());
        if self.json.len() <= LARGE {
            return Ok(response.body(self.json));
        }
        let connection = ConnectionState::of(request).cloned();
        Ok(response.body(PacedBody::new(self.json.into(), self.reservation, connection)))
    }
}
