//! Application log and traces.
//!
//! A task-local value identifies the request that is being handled, for log lines and spans. If traces are enabled, a request
//! has one OpenTelemetry span, and each operation within it that takes time has a child span, which is recorded when the
//! operation is complete. If they are disabled, no span is created.

mod export;
mod log;

use crate::types::EvaluationId;
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

/// Creates the spans; unset if traces are disabled.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

tokio::task_local! {
    static REQUEST: RequestTrace;
}

/// The maximum number of child spans of a request, so that a batch of thousands of decisions does not fill the export queue.
const MAX_SPANS: u32 = 128;

/// A request that is being handled.
#[derive(Debug)]
pub struct RequestTrace {
    id: Arc<str>,
    span: Option<RequestSpan>,
    /// Whether a decision of this request could not be recorded in the decision log, although it must be.
    is_unrecorded: Cell<bool>,
    /// The evaluation that denied the request.
    denied_evaluation: Cell<Option<EvaluationId>>,
}

/// The span of a request.
#[derive(Debug)]
struct RequestSpan {
    context: Context,
    /// The number of child spans, including those that were omitted.
    span_count: Cell<u32>,
}

impl RequestTrace {
    /// Starts a request with this id. If traces are enabled, starts its span, which continues the trace in the headers (W3C
    /// Trace Context).
    pub fn begin<'a>(id: Arc<str>, header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let span = TRACER.get().map(|tracer| {
            let headers = Headers([PARENT, STATE].map(|name| (name, header(name))));
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
            let builder = tracer.span_builder("HTTP").with_kind(SpanKind::Server);
            let span = tracer.build_with_context(builder, &parent);
            RequestSpan { context: parent.with_span(span), span_count: Cell::default() }
        });
        Self { id, span, is_unrecorded: Cell::default(), denied_evaluation: Cell::default() }
    }

    /// Runs the future as a part of this request: its log lines and spans belong to the request. Those of threads and tasks that
    /// it spawns do not.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        REQUEST.scope(self, work)
    }
}

/// The headers that identify the trace of a request (W3C Trace Context, section 3).
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

/// Calls `use_ids` with the id of the current request and of its trace, if it has one. Returns none outside of requests.
pub fn with_request_ids<T>(use_ids: impl FnOnce(&str, Option<TraceId>) -> T) -> Option<T> {
    let ids = |request: &RequestTrace| {
        let trace = request.span.as_ref().map(|span| span.context.span().span_context().trace_id());
        use_ids(&request.id, trace)
    };
    REQUEST.try_with(ids).ok()
}

/// Marks the current request: one of its decisions could not be recorded in the decision log.
pub fn mark_unrecorded() {
    let _ = REQUEST.try_with(|request| request.is_unrecorded.set(true));
}

/// Returns whether the current request is marked by [`mark_unrecorded`].
pub fn is_unrecorded() -> bool {
    REQUEST.try_with(|request| request.is_unrecorded.get()).unwrap_or_default()
}

/// Sets the evaluation that denied the current request, or a part of it.
pub fn set_denied_evaluation(id: EvaluationId) {
    let _ = REQUEST.try_with(|request| request.denied_evaluation.set(Some(id)));
}

/// Returns the last evaluation that was set by [`set_denied_evaluation`].
pub fn denied_evaluation() -> Option<EvaluationId> {
    REQUEST.try_with(|request| request.denied_evaluation.get()).ok().flatten()
}

/// Ends the span of the current request, with the data of its response.
pub fn finish_request_span(describe: impl FnOnce() -> SpanData) {
    with_recording_request(|_, request| {
        let span_data = describe();
        let span = request.context.span();
        span.update_name(span_data.name);
        span.set_attributes(span_data.attributes);
        if let Some(omitted) = request.span_count.get().checked_sub(MAX_SPANS).filter(|omitted| *omitted > 0)
        {
            span.set_attribute(KeyValue::new("cedargate.spans_omitted", i64::from(omitted)));
        }
        span.set_status(status(span_data.is_failure));
        span.end();
    });
}

/// The data of a span that has ended.
#[derive(Debug)]
pub struct SpanData {
    /// The name, of low cardinality.
    pub name: Cow<'static, str>,
    /// Whether the operation was internal, or a request to or from another process.
    pub kind: SpanKind,
    /// Whether the operation failed.
    pub is_failure: bool,
    /// Attributes, which must not contain secrets.
    pub attributes: Vec<KeyValue>,
}

impl SpanData {
    /// Returns the data of an internal operation that succeeded.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), kind: SpanKind::Internal, is_failure: false, attributes: Vec::new() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(name, value));
        self
    }
}

/// The start of an operation that becomes a span; empty if traces are disabled.
#[derive(Debug)]
#[must_use = "record() creates the span"]
pub struct SpanTimer(Option<Instant>);

/// Starts timing an operation. Costs a flag check if traces are disabled.
pub fn start_timer() -> SpanTimer {
    SpanTimer(is_enabled().then(Instant::now))
}

impl SpanTimer {
    /// Records the span of the operation, which has ended.
    pub fn record(self, describe: impl FnOnce() -> SpanData) {
        if let Some(start) = self.0 {
            record_span(start.elapsed(), describe);
        }
    }
}

/// Awaits `work` within a span of this name.
pub async fn traced<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let timer = start_timer();
    let output = work.await;
    timer.record(|| SpanData::new(name));
    output
}

/// Returns whether traces are enabled.
pub fn is_enabled() -> bool {
    TRACER.get().is_some()
}

/// Records a child span of the current request, for an operation that has just ended.
pub fn record_span(duration: Duration, describe: impl FnOnce() -> SpanData) {
    with_recording_request(|tracer, request| {
        let index = request.span_count.get();
        request.span_count.set(index.saturating_add(1));
        if index >= MAX_SPANS {
            return;
        }
        let span_data = describe();
        // System time instead of the clock of the service, because spans are compared with those of other services.
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

/// Returns the status of a span; it stays unset on success (OpenTelemetry semantic conventions, Recording errors).
fn status(is_failure: bool) -> Status {
    if is_failure { Status::error("") } else { Status::Unset }
}

/// Calls `use_span` with the span of the current request, if it is sampled.
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
