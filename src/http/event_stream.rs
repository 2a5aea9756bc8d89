//! Server-sent events (HTML Standard, section 9.2): a response that is written while it is sent.

use super::Problem;
use super::connection::ConnectionState;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::HeaderName;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The content type.
pub const EVENT_STREAM: &str = "text/event-stream";

/// The request header with the id of the last event that the client has received.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The number of events that wait for the client. The writer waits when there are as many.
const WAITING_EVENTS: usize = 16;

/// After how many milliseconds a client reconnects.
const RETRY_MILLIS: u32 = 2_000;

/// Writes the events.
#[derive(Debug)]
pub struct EventWriter(mpsc::Sender<Bytes>);

/// The error that the client has closed the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnected;

impl EventWriter {
    async fn write(&self, text: String) -> Result<(), Disconnected> {
        self.0.send(text.into()).await.map_err(|_| Disconnected)
    }

    /// Begins the stream. The id is that with which a client reconnects before the first event.
    ///
    /// # Errors
    /// The client has disconnected.
    pub async fn begin(&self, id: &str) -> Result<(), Disconnected> {
        self.write(format!("retry: {RETRY_MILLIS}\nid: {id}\n\n")).await
    }

    /// Writes an event with JSON as its data, and with an id if it is one to continue from.
    ///
    /// # Errors
    /// The client has disconnected.
    pub async fn event(
        &self,
        name: &str,
        id: Option<&str>,
        data: &impl Serialize,
    ) -> Result<(), Disconnected> {
        // JSON has no line breaks.
        let data = serde_json::to_string(data).unwrap_or_default();
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.write(format!("event: {name}\n{id}data: {data}\n\n")).await
    }

    /// Writes a comment, which keeps the connection open, with the id to continue from.
    ///
    /// # Errors
    /// The client has disconnected.
    pub async fn heartbeat(&self, id: &str) -> Result<(), Disconnected> {
        self.write(format!(": \nid: {id}\n\n")).await
    }

    /// Waits until the client disconnects.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The body of the response.
#[derive(Debug)]
struct EventBody {
    events: mpsc::Receiver<Bytes>,
    connection: Option<Rc<ConnectionState>>,
}

impl MessageBody for EventBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.events.poll_recv(cx).map(|event| event.map(Ok))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.set_large_response(false);
        }
    }
}

/// Returns the response and the writer of its events. The stream ends when the writer is dropped.
pub fn event_stream(request: &HttpRequest) -> (EventWriter, HttpResponse) {
    let (sender, events) = mpsc::channel(WAITING_EVENTS);
    // A response that takes long is no pause between requests.
    let connection = ConnectionState::from_request(request).cloned();
    if let Some(connection) = &connection {
        connection.set_large_response(true);
    }
    let response = HttpResponse::Ok()
        .content_type(EVENT_STREAM)
        // nginx would collect events otherwise.
        .insert_header(("X-Accel-Buffering", "no"))
        .body(EventBody { events, connection });
    (EventWriter(sender), response)
}

/// Returns the value of `Last-Event-ID`; none if the client has received no event.
///
/// # Errors
/// 400 if it is not text.
pub fn last_event_id(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(LAST_EVENT_ID) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::bad_request("The header Last-Event-ID is not text."))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
