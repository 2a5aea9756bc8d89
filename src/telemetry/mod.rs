//! Which request is being handled, for log lines and spans: a task carries it along wherever it waits. And the spans of
//! OpenTelemetry, where traces are on; where they are off, nothing is made. Knows nothing of what is traced.
//!
//! A request has one span, and what takes time in it is one below that, told when it has ended.

mod export;
mod log;

pub use export::{TracingGuard, start};
pub use log::{LogGuard, dropped_log_lines, start_log};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
pub use opentelemetry::trace::SpanKind;
use opentelemetry::trace::{Span, SpanBuilder, Status, TraceContextExt, TraceId, Tracer};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Makes the spans, where traces are on.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

tokio::task_local! {
    static REQUEST: RequestTrace;
}

/// How many spans a request may have below its own: one that asks for thousands of decisions leaves room for others.
const MAX_SPANS: u32 = 128;

/// A request that is being handled.
#[derive(Debug)]
pub struct RequestTrace {
    id: Arc<str>,
    span: Option<RequestSpan>,
    /// Whether a decision of this request is missing in the decision log, which has to have it.
    is_unrecorded: Cell<bool>,
}

/// The span of a request.
#[derive(Debug)]
struct RequestSpan {
    context: Context,
    /// How many spans there are below it, with those that were left out.
    span_count: Cell<u32>,
}

impl RequestTrace {
    /// A request with this id. Where traces are on, its span begins, as a part of the trace that the headers name (W3C
    /// Trace Context).
    pub fn begin<'a>(id: Arc<str>, header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let span = TRACER.get().map(|tracer| {
            let headers = Headers([PARENT, STATE].map(|name| (name, header(name))));
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
            let builder = tracer.span_builder("HTTP").with_kind(SpanKind::Server);
            let span = tracer.build_with_context(builder, &parent);
            RequestSpan { context: parent.with_span(span), span_count: Cell::default() }
        });
        Self { id, span, is_unrecorded: Cell::default() }
    }

    /// Does the work of this request: all that is logged and told in it is of this request. What the work hands to
    /// other threads and tasks is not.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        REQUEST.scope(self, work)
    }
}

/// The headers that name the trace which a request is a part of (W3C Trace Context, 3).
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

struct Headers<'a>([(&'static str, Option<&'a str>); 2]);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key)?.1
    }

    fn keys(&self) -> Vec<&str> {
        self.0.map(|(name, _)| name).to_vec()
    }
}

/// Gives the ids of the request that is being handled and of its trace, if it has one; none where no request is.
pub fn with_request_ids<T>(use_ids: impl FnOnce(&str, Option<TraceId>) -> T) -> Option<T> {
    let ids = |request: &RequestTrace| {
        let trace = request.span.as_ref().map(|span| span.context.span().span_context().trace_id());
        use_ids(&request.id, trace)
    };
    REQUEST.try_with(ids).ok()
}

/// Notes that a decision of the request that is being handled could not be recorded, though it has to be.
pub fn mark_unrecorded() {
    let _ = REQUEST.try_with(|request| request.is_unrecorded.set(true));
}

/// Whether that was noted.
pub fn is_unrecorded() -> bool {
    REQUEST.try_with(|request| request.is_unrecorded.get()).unwrap_or_default()
}

/// Ends the span of the request that is being handled, with what its answer says of it.
pub fn finish_request_span(describe: impl FnOnce() -> SpanData) {
    with_recording_request(|_, request| {
        let span_data = describe();
        let span = request.context.span();
        span.update_name(span_data.name);
        span.set_attributes(span_data.attributes);
        if let Some(omitted) = request.span_count.get().checked_sub(MAX_SPANS).filter(|omitted| *omitted > 0)
        {
            span.set_attribute(KeyValue::new("cedargate.spans_left_out", i64::from(omitted)));
        }
        span.set_status(status(span_data.is_failure));
        span.end();
    });
}

/// What a span says of something that has ended.
#[derive(Debug)]
pub struct SpanData {
    /// What it is called: one of few names.
    pub name: Cow<'static, str>,
    /// Whether it was done by this process or by another one.
    pub kind: SpanKind,
    /// Whether it failed.
    pub is_failure: bool,
    /// What else is told of it: nothing that is secret.
    pub attributes: Vec<KeyValue>,
}

impl SpanData {
    /// Something that this process has done, and that did not fail.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), kind: SpanKind::Internal, is_failure: false, attributes: Vec::new() }
    }

    /// The same with one attribute more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(name, value));
        self
    }
}

/// When something began that is to have a span, where traces are on.
#[derive(Debug)]
#[must_use = "what begins has to end"]
pub struct SpanTimer(Option<Instant>);

/// Something begins. Where traces are off, that is a look at a flag.
pub fn start_timer() -> SpanTimer {
    SpanTimer(is_enabled().then(Instant::now))
}

impl SpanTimer {
    /// It has ended.
    pub fn record(self, describe: impl FnOnce() -> SpanData) {
        if let Some(start) = self.0 {
            record_span(start.elapsed(), describe);
        }
    }
}

/// Waits for something that has a span of this name.
pub async fn traced<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let timer = start_timer();
    let output = work.await;
    timer.record(|| SpanData::new(name));
    output
}

/// Whether traces are on.
pub fn is_enabled() -> bool {
    TRACER.get().is_some()
}

/// Something has ended just now that took so long.
pub fn record_span(duration: Duration, describe: impl FnOnce() -> SpanData) {
    with_recording_request(|tracer, request| {
        let index = request.span_count.get();
        request.span_count.set(index.saturating_add(1));
        if index >= MAX_SPANS {
            return;
        }
        let span_data = describe();
        // The time of the world, and not the service's: it is compared with that of other services.
        let end = SystemTime::now();
        let builder = SpanBuilder::from_name(span_data.name)
            .with_kind(span_data.kind)
            .with_start_time(end.checked_sub(duration).unwrap_or(end))
            .with_attributes(span_data.attributes);
        let mut span = tracer.build_with_context(builder, &request.context);
        span.set_status(status(span_data.is_failure));
        span.end_with_timestamp(end);
    });
}

/// What did not fail has no status (semantic conventions, Recording errors).
fn status(is_failure: bool) -> Status {
    if is_failure { Status::error("") } else { Status::Unset }
}

/// Does something with the span of the request that is being handled, if there is one that somebody will see.
fn with_recording_request(use_span: impl FnOnce(&SdkTracer, &RequestSpan)) {
    let Some(tracer) = TRACER.get() else { return };
    let _ = REQUEST.try_with(|request| {
        if let Some(span) = request.span.as_ref().filter(|span| span.context.span().is_recording()) {
            use_span(tracer, span);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &'static str) -> RequestTrace {
        RequestTrace::begin(id.into(), |_| None)
    }

    fn id() -> Option<String> {
        with_request_ids(|id, _| id.to_owned())
    }

    #[tokio::test]
    async fn request_ids_follow_the_task_and_do_not_leak() {
        let waiting = async |name: &'static str| {
            for _ in 0..10 {
                assert_eq!(id().as_deref(), Some(name));
                tokio::task::yield_now().await;
            }
            assert_eq!(tokio::spawn(async { id() }).await.unwrap(), None);
        };
        let outside = async {
            for _ in 0..10 {
                assert_eq!(id(), None);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(request("one").scope(waiting("one")), request("two").scope(waiting("two")), outside);
        assert_eq!(id(), None);
    }
}
