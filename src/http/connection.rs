//! A client connection with deadlines: for the head of each request, for its body, and for the response.
//!
//! actix has a deadline for the head of the first request only. The deadlines are enforced where the bytes pass, since a
//! handler is not polled while its response waits for the client. A timer for a body or a response is set only when the
//! connection would wait for it, and the timer between requests is set once in a while: a request that arrives at once
//! sets none.

use super::connection_limiter::ConnectionSlot;
use actix_web::HttpRequest;
use actix_web::rt::time::{Instant, Sleep, sleep_until};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long a connection may wait for its client.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the head of a request, from its first byte or from the response before it.
    pub head: Duration,
    /// For the body of a request, extended by [`Deadlines::min_rate`].
    pub body: Duration,
    /// For the client to take the response, extended by [`Deadlines::min_rate`].
    pub write: Duration,
    /// The bytes for which a deadline is extended by a second.
    pub min_rate: u64,
}

impl Deadlines {
    /// The deadline `base` for a transfer of which so many bytes have passed.
    fn extended(&self, base: Duration, bytes: u64) -> Duration {
        base + Duration::from_millis(bytes.saturating_mul(1000) / self.min_rate.max(1))
    }
}

/// So much earlier the deadline of actix for the first head ends, which answers 408.
const FIRST_HEAD_MARGIN: Duration = Duration::from_millis(500);

/// What a connection expects of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing: a response is on its way, or the connection is idle. Bytes that arrive begin the next head.
    Idle,
    /// The rest of a head.
    Head,
    /// Nothing: a handler is at work.
    Handler,
    /// The rest of a body.
    Body,
}

/// The part of a connection that requests share with it.
#[derive(Debug)]
pub struct ConnectionState {
    /// Whether the connection has TLS.
    is_secure: bool,
    phase: Cell<Phase>,
    /// Counts the changes of the phase, to tell for which of them a timer was set.
    phase_number: Cell<u64>,
    /// The bytes received in this phase.
    received: Cell<u64>,
    /// Whether the deadline of the body has passed.
    is_body_late: Cell<bool>,
    /// Whether a response of several pieces is being sent.
    has_large_response: Cell<bool>,
    /// The number of the piece of a streamed response that the client takes. Each has a deadline of its own.
    piece: Cell<u64>,
}

impl ConnectionState {
    fn new(is_secure: bool) -> Rc<Self> {
        Rc::new(Self {
            is_secure,
            phase: Cell::new(Phase::Idle),
            phase_number: Cell::new(0),
            received: Cell::new(0),
            is_body_late: Cell::new(false),
            has_large_response: Cell::new(false),
            piece: Cell::new(0),
        })
    }

    /// The state of the connection of a request; none where it did not come by one.
    pub fn from_request(request: &HttpRequest) -> Option<&Rc<Self>> {
        request.conn_data::<Rc<Self>>()
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_number.set(self.phase_number.get().wrapping_add(1));
        self.received.set(0);
    }

    /// Notes that the head of a request has arrived.
    pub fn begin_request(&self) {
        self.is_body_late.set(false);
        self.enter(Phase::Handler);
    }

    /// Notes that a handler waits for the body.
    pub fn expect_body(&self) {
        self.enter(Phase::Body);
    }

    /// Notes that the body has arrived, or is not read further.
    pub fn end_body(&self) {
        self.enter(Phase::Handler);
    }

    /// Notes that the response is ready to be sent.
    pub fn end_request(&self) {
        self.enter(Phase::Idle);
    }

    /// Whether the connection has TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Whether the deadline of the body that is expected has passed.
    pub fn is_body_late(&self) -> bool {
        self.is_body_late.get()
    }

    /// Notes whether a response of several pieces is being sent.
    pub(super) fn set_large_response(&self, is_sent: bool) {
        self.has_large_response.set(is_sent);
    }

    /// Notes that the next piece of a streamed response is sent. The time in which it was produced is none of the client's.
    pub(super) fn begin_piece(&self) {
        self.piece.set(self.piece.get().wrapping_add(1));
    }
}

/// A byte stream, with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a timer was set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimerTarget {
    /// The client takes this piece of a streamed response, or the whole of another one.
    Write(u64),
    /// The client sends what is expected since this change of the phase.
    Read(u64),
}

/// A timer for a deadline that moves with the bytes that pass.
#[derive(Debug)]
struct DeadlineTimer {
    target: TimerTarget,
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// The timer between requests. It outlives many requests, and when it fires it is set to what is left.
#[derive(Debug)]
struct HeadTimer {
    /// The change of the phase with which the wait began.
    phase_number: u64,
    since: Instant,
    /// When the timer fires; none before it was set first.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// A client connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    state: Rc<ConnectionState>,
    deadlines: Deadlines,
    deadline_timer: Option<DeadlineTimer>,
    head_timer: HeadTimer,
    /// The bytes that the client took since the timer for the response was set.
    written: u64,
    _slot: ConnectionSlot,
}

impl Connection {
    /// A connection that was admitted.
    pub fn new(stream: Stream, deadlines: Deadlines, slot: ConnectionSlot) -> Self {
        let head_timer = HeadTimer { phase_number: 0, since: Instant::now(), timer: None };
        let state = ConnectionState::new(matches!(stream, Stream::Tls(_)));
        Self { stream, state, deadlines, deadline_timer: None, head_timer, written: 0, _slot: slot }
    }

    /// The part that its requests share.
    pub fn state(&self) -> Rc<ConnectionState> {
        Rc::clone(&self.state)
    }

    /// Waits for the deadline that `deadline` computes. Ready when it has passed.
    fn poll_deadline_timer(
        &mut self,
        cx: &mut Context<'_>,
        target: TimerTarget,
        deadline: impl Fn(&Self) -> Duration,
    ) -> Poll<()> {
        let mut deadline_timer = match self.deadline_timer.take() {
            Some(deadline_timer) if deadline_timer.target == target => deadline_timer,
            _ => {
                let since = Instant::now();
                self.written = 0;
                DeadlineTimer { target, since, sleep: Box::pin(sleep_until(since + deadline(self))) }
            }
        };
        while deadline_timer.sleep.as_mut().poll(cx).is_ready() {
            let until = deadline_timer.since + deadline(self);
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            deadline_timer.sleep.as_mut().reset(until);
        }
        self.deadline_timer = Some(deadline_timer);
        Poll::Pending
    }

    /// Watches a client that does not take the response.
    fn poll_write_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let target = TimerTarget::Write(self.state.piece.get());
        let late = self.poll_deadline_timer(cx, target, |connection| {
            connection.deadlines.extended(connection.deadlines.write, connection.written)
        });
        late.map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take the response")))
    }

    /// Waits for the head of the next request. Ready when its deadline has passed.
    fn poll_head_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (now, phase_number) = (Instant::now(), self.state.phase_number.get());
        // A response that is still being sent is no pause between requests.
        if self.head_timer.phase_number != phase_number || self.state.has_large_response.get() {
            (self.head_timer.phase_number, self.head_timer.since) = (phase_number, now);
        }
        if self.head_timer.timer.as_ref().is_some_and(|(until, _)| now < *until) {
            return Poll::Pending;
        }
        let until = self.head_timer.since + self.deadlines.head + FIRST_HEAD_MARGIN;
        if until <= now {
            return Poll::Ready(());
        }
        let mut sleep = match self.head_timer.timer.take() {
            Some((_, mut sleep)) => {
                sleep.as_mut().reset(until);
                sleep
            }
            None => Box::pin(sleep_until(until)),
        };
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.head_timer.timer = Some((until, sleep));
        Poll::Pending
    }

    /// Watches a client from which the rest of a head or a body is expected.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = Rc::clone(&self.state);
        let target = TimerTarget::Read(state.phase_number.get());
        if state.phase.get() != Phase::Body && !state.has_large_response.get() {
            self.deadline_timer = None;
        }
        match state.phase.get() {
            Phase::Handler => {}
            Phase::Idle | Phase::Head => {
                if self.poll_head_deadline(cx).is_ready() {
                    let late = "the client does not send the rest of a request";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)));
                }
            }
            Phase::Body => {
                let deadline = |connection: &Self| {
                    let received = connection.state.received.get();
                    connection.deadlines.extended(connection.deadlines.body, received)
                };
                if self.poll_deadline_timer(cx, target, deadline).is_ready() {
                    // The handler answers 408 when it is polled again.
                    state.is_body_late.set(true);
                    state.end_body();
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let count = buffer.filled().len().saturating_sub(before);
        if count > 0 {
            let state = &self.state;
            if state.phase.get() == Phase::Idle {
                state.enter(Phase::Head);
            }
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            state.received.set(state.received.get().saturating_add(count));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        match written {
            Poll::Ready(Ok(count)) => {
                self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                // A response, also one that no handler has seen, begins the wait for the next request.
                if matches!(self.state.phase.get(), Phase::Idle | Phase::Head) {
                    self.state.enter(Phase::Idle);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_write_deadline(cx),
        }
    }

    /// The server flushes whenever it has nothing more to do for the connection.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        match flushed {
            Poll::Ready(Ok(())) => self.poll_read_deadline(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_write_deadline(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        match closed {
            Poll::Pending => self.poll_write_deadline(cx),
            closed => closed,
        }
    }
}
