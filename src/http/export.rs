//! Exports of lists as NDJSON: one JSON object a line, streamed in batches. The memory of an export does not depend on the length
//! of the list.
//!
//! Before each batch the caller is authenticated and authorized again. An export that fails ends without the last chunk of its
//! body, which clients report as an error.

use super::accept::NDJSON;
use super::authentication::authenticate_again;
use super::body_budget::Reservation;
use super::connection::ConnectionState;
use super::export_limiter::ExportSlot;
use super::paced_body::CHUNK_SIZE;
use super::page::PageWriter;
use super::query::list_request::ListScope;
use super::query::{ListRequest, ListSpec};
use super::request_info::RequestInfo;
use super::state::WorkerState;
use super::view::View;
use super::{FieldError, Problem, body};
use crate::application::Authorizer;
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::resource::{self, Resource};
use crate::store::Filter;
use crate::types::{FieldErrorCode, JsonSize};
use actix_web::body::BodyStream;
use actix_web::http::Method;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::stream;
use serde::Serialize;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

/// The size at which a batch is complete, in bytes.
const BATCH_BYTES: usize = 128 * 1024;
/// The maximum number of items in a batch.
const BATCH_ITEMS: u64 = 500;
/// The memory that an export reserves: a batch, its rows and the largest item.
const RESERVED_BYTES: usize = 1024 * 1024;

/// The items of an export.
pub trait ExportSource: 'static {
    /// Writes the next items to a batch. Returns whether others follow.
    ///
    /// # Errors
    /// The caller may no longer list them, or the database is unavailable.
    fn write_batch(&mut self, batch: &mut Batch) -> impl Future<Output = Result<bool, Problem>>;
}

/// The lines that are sent next.
#[derive(Debug, Default)]
pub struct Batch {
    lines: Vec<u8>,
}

impl Batch {
    /// Returns whether another item belongs in the next batch.
    pub fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_BYTES
    }

    /// Writes an item.
    ///
    /// # Errors
    /// 500 if it cannot be serialized.
    pub fn push(&mut self, item: &impl Serialize) -> Result<(), Problem> {
        serde_json::to_writer(&mut self.lines, item).map_err(Problem::internal)?;
        self.lines.push(b'\n');
        Ok(())
    }
}

/// How many items of an export are left, and how many a batch has at most.
#[derive(Debug, Clone, Copy)]
pub struct ItemLimit(Option<u64>);

impl ItemLimit {
    /// Returns the maximum number of items in the next batch.
    pub fn of_batch(self) -> u64 {
        self.0.map_or(BATCH_ITEMS, |left| left.min(BATCH_ITEMS))
    }

    /// Counts the items of a batch. Returns whether others may follow.
    pub fn count(&mut self, items: u64) -> bool {
        self.0 = self.0.map(|left| left.saturating_sub(items));
        self.0 != Some(0)
    }
}

/// Parses the query string of an export. `limit` is the number of its items; without it there is none.
///
/// # Errors
/// 400 with the invalid parameters.
pub fn parse_request(request: &HttpRequest, spec: &ListSpec) -> Result<(ListRequest, ItemLimit), Problem> {
    let mut list_request = ListRequest::parse_export(request, spec)?;
    if body::query_value(request, "total").is_some_and(|total| total == "true") {
        let error =
            FieldError::new("total", FieldErrorCode::NotAllowed, "the items of an export are not counted");
        return Err(Problem::invalid_fields(vec![error]));
    }
    list_request.query.skips_total = true;
    let limit = body::query_value(request, "limit").map(|_| list_request.query.limit);
    Ok((list_request, ItemLimit(limit)))
}

/// The stream of an export.
struct ExportStream<S> {
    source: S,
    /// The rest of the batch.
    bytes: Bytes,
    has_more: bool,
    slot: ExportSlot,
    _reservation: Reservation,
    connection: Option<Rc<ConnectionState>>,
    request_id: Arc<str>,
}

impl<S: ExportSource> ExportStream<S> {
    /// Returns the next piece of the body; none at its end.
    ///
    /// # Errors
    /// Those of the source.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Problem> {
        while self.bytes.is_empty() {
            if !self.has_more {
                self.slot.complete();
                return Ok(None);
            }
            let mut batch = Batch::default();
            let written = self.source.write_batch(&mut batch).await;
            self.has_more = written.inspect_err(|problem| {
                let request_id = &self.request_id;
                tracing::warn!(code = problem.code, %request_id, "an export ended early");
            })?;
            self.bytes = batch.lines.into();
        }
        if let Some(connection) = &self.connection {
            connection.begin_piece();
        }
        Ok(Some(self.bytes.split_to(self.bytes.len().min(CHUNK_SIZE))))
    }
}

impl<S> Drop for ExportStream<S> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.set_large_response(false);
        }
    }
}

/// Returns 200 with the items. The first batch is written before the response begins, so that its errors have their status.
///
/// # Errors
/// 503 if there are too many exports, or the memory for bodies is exhausted; those of the source.
pub async fn respond<S: ExportSource>(request: &HttpRequest, source: S) -> Result<HttpResponse, Problem> {
    let state = WorkerState::from_request(request)?;
    let mut stream = ExportStream {
        source,
        bytes: Bytes::new(),
        has_more: true,
        slot: state.http.exports.begin()?,
        _reservation: state.http.body_budget.reserve(RESERVED_BYTES)?,
        connection: None,
        request_id: request_id(request),
    };
    let first = stream.next_piece().await?;
    if request.method() == Method::HEAD {
        stream.slot.complete();
        return Ok(HttpResponse::Ok().content_type(NDJSON).finish());
    }
    if first.is_some()
        && let Some(connection) = ConnectionState::from_request(request)
    {
        connection.set_large_response(true);
        stream.connection = Some(Rc::clone(connection));
    }
    let pieces = stream::try_unfold((first, stream), |(first, mut stream)| async move {
        let piece = match first {
            Some(first) => Some(first),
            None => stream.next_piece().await?,
        };
        Ok::<_, Problem>(piece.map(|piece| (piece, (None, stream))))
    });
    Ok(HttpResponse::Ok().content_type(NDJSON).body(BodyStream::new(pieces)))
}

fn request_id(request: &HttpRequest) -> Arc<str> {
    request.extensions().get::<RequestInfo>().map_or_else(|| "".into(), |info| Arc::clone(info.id()))
}

/// Which resources a list has.
pub trait ListAccess: 'static {
    /// Authorizes the list, and returns the organizations in which it is permitted.
    ///
    /// # Errors
    /// 404 or 403 if it is permitted in none of them; 503 if the database is unavailable.
    fn authorize(
        &self,
        authorizer: &Authorizer,
    ) -> impl Future<Output = Result<Permitted<AuthorizedOrgs>, Problem>>;

    /// Returns the filters in addition to those of the query string.
    fn filters(&self) -> Vec<Filter> {
        Vec::new()
    }
}

impl ListAccess for ListScope {
    async fn authorize(&self, authorizer: &Authorizer) -> Result<Permitted<AuthorizedOrgs>, Problem> {
        Ok(Self::authorize(self, authorizer).await?)
    }
}

/// The export of a list of resources.
pub struct ResourceExport<R, A> {
    request: HttpRequest,
    access: A,
    action: &'static str,
    /// The authorization of the first batch.
    first: Option<(Authorizer, Permitted<AuthorizedOrgs>)>,
    list_request: ListRequest,
    limit: ItemLimit,
    resource: PhantomData<fn() -> R>,
}

impl<R: Resource, A: ListAccess> ResourceExport<R, A> {
    /// Creates the export of a list that was authorized.
    ///
    /// # Errors
    /// 400 with the invalid parameters.
    pub fn new(
        request: HttpRequest,
        spec: &ListSpec,
        access: A,
        (authorizer, within): (Authorizer, Permitted<AuthorizedOrgs>),
    ) -> Result<Self, Problem> {
        let (mut list_request, limit) = parse_request(&request, spec)?;
        list_request.query.filters.extend(access.filters());
        let action = authorizer.action();
        let first = Some((authorizer, within));
        Ok(Self { request, access, action, first, list_request, limit, resource: PhantomData })
    }
}

impl<R: Resource, A: ListAccess> ExportSource for ResourceExport<R, A> {
    async fn write_batch(&mut self, batch: &mut Batch) -> Result<bool, Problem> {
        let (authorizer, within) = match self.first.take() {
            Some(first) => first,
            None => {
                let authorizer = authenticate_again(&self.request, self.action).await?;
                let within = self.access.authorize(&authorizer).await?;
                (authorizer, within)
            }
        };
        self.list_request.query.limit = self.limit.of_batch();
        let shape = &self.list_request.shape;
        let (mut rows, mut last, mut failure) = (Vec::new(), None, None);
        let (mut bytes, is_plain) = (0_usize, shape.is_plain());
        let visit = |row: Permitted<R>| {
            if batch.is_full() || bytes >= BATCH_BYTES || failure.is_some() {
                return false;
            }
            last = Some(row.clone());
            if is_plain {
                failure = batch.push(&row).err();
            } else {
                bytes = bytes.saturating_add(JsonSize::of(&row).bytes);
                rows.push(row);
            }
            true
        };
        let listed = authorizer.reader().list::<R>(&within, &self.list_request.query, visit).await?;
        if let Some(problem) = failure {
            return Err(problem);
        }
        if !rows.is_empty() {
            // What they refer to is loaded for all of them together.
            let max_bytes = PageWriter::new(&self.request)?.max_bytes();
            let view = View::load(&authorizer, shape, &self.request, &rows, max_bytes).await?;
            for row in &rows {
                batch.push(&view.json(row)?)?;
            }
        }
        if let Some(last) = last {
            self.list_request.continue_after(&resource::to_json_object(&last)?)?;
        }
        Ok(self.limit.count(listed.item_count) && listed.has_more)
    }
}
