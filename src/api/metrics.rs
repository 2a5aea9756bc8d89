//! `GET /metrics`: Prometheus metrics.
//!
//! The counters are kept where they are counted, sharded by thread, and are read when the metrics are scraped: requests update
//! no registry.

use crate::application::AppState;
use crate::authz::{DecisionCounts, LATENCY_BUCKETS_NANOS, PolicyHandle};
use crate::http::openapi::OperationDoc;
use crate::http::state::HttpState;
use crate::http::{Problem, WorkerState};
use crate::telemetry;
use actix_web::{HttpRequest, HttpResponse};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn metrics_doc() -> OperationDoc {
    OperationDoc::new("Prometheus metrics")
        .describe("Counters and histograms of this process.")
        .text_response(200, "Metrics in the Prometheus text format.")
}

/// `GET /metrics`.
///
/// # Errors
/// An internal error if the metrics cannot be formatted.
pub(super) async fn metrics(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let WorkerState { app, http } = WorkerState::from_request(&request)?;
    let mut registry = Registry::with_prefix("cedargate");
    registry.register_collector(Box::new(StateCollector { app: Arc::clone(&**app), http: Arc::clone(http) }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(prometheus_text::CONTENT_TYPE).body(text))
}

/// Encodes the counters of the service.
#[derive(Debug)]
struct StateCollector {
    app: Arc<AppState>,
    http: Arc<HttpState>,
}

impl Collector for StateCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = MetricWriter(encoder);
        policy_metrics(&self.app, &mut writer)?;
        request_metrics(&self.http, &mut writer)?;
        decision_metrics(&self.app, &self.http, &mut writer)?;
        log_metrics(&self.app, &mut writer)?;
        database_metrics(&self.app, &mut writer)?;
        connection_metrics(&self.app, &self.http, &mut writer)
    }
}

/// Encodes metrics with their HELP text.
struct MetricWriter<'a>(DescriptorEncoder<'a>);

impl MetricWriter<'_> {
    /// Encodes a counter; the encoder appends `_total` to its name.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Encodes a counter with labels; the encoder appends `_total` to its name.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

fn policy_metrics(state: &AppState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let policies = &state.policies;
    let engine = policies.current();
    let version = [("version", engine.bundle().version())];
    writer.gauges("policy_info", "Active policy version.", [(version, 1)])?;
    let counts = policies.counts();
    let reloads = [([("outcome", "ok")], counts.reloads), ([("outcome", "failed")], counts.failures)];
    writer.counters("policy_reloads", "Policy reloads by outcome.", reloads)?;
    let has_failed = policies.failure().is_some();
    let help = "1 if the last reload failed and the policy files are not active.";
    writer.gauge("policy_last_reload_failed", help, has_failed.into())?;
    write_pending(policies, writer)
}

/// The maximum number of lost policies and files that the metrics list.
const MAX_LOSSES: usize = 100;

/// Encodes whether a policy version is pending, and a sample for each policy and file that it would lose.
fn write_pending(policies: &PolicyHandle, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let pending = policies.pending();
    let help = "1 while a policy version waits for a confirmation.";
    writer.gauge("policy_pending", help, pending.is_some().into())?;
    let samples = pending.iter().flat_map(|pending| {
        let losses = &pending.losses;
        let groups = [("policy", &losses.policies), ("policy", &losses.changed), ("file", &losses.files)];
        let names =
            groups.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name.as_str())));
        let version = ("version", pending.version.as_str());
        let mut samples: Vec<_> = names.take(MAX_LOSSES).map(|loss| (vec![version, loss], 1)).collect();
        if samples.is_empty() {
            samples.push((vec![version], 1));
        }
        samples
    });
    let help = "1 for each forbid policy and each file that the pending policy version would lose.";
    writer.gauges("policy_pending_losses", help, samples)
}

fn request_metrics(http: &HttpState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let totals = http.metrics.totals().into_iter();
    let samples = totals.map(|(action, outcome, count)| ([("action", action), ("outcome", outcome)], count));
    writer.counters("requests", "Requests by action and class of status.", samples)?;
    let repeated = http.metrics.idempotent_repetitions.load(Ordering::Relaxed);
    let help = "Answers that were repeated for an Idempotency-Key instead of executing the request again.";
    writer.counter("idempotent_repetitions", help, repeated)
}

fn decision_metrics(state: &AppState, http: &HttpState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let counts = state.policies.current().decision_counts();
    let outcomes = [
        ([("outcome", "allowed")], counts.allowed),
        ([("outcome", "denied")], counts.denied),
        ([("outcome", "error")], counts.errors),
    ];
    writer.counters("decisions", "Decisions of the active policy version by outcome.", outcomes)?;
    writer.counter("decision_cache_hits", "Decisions answered from cache.", counts.cache_hits)?;
    write_latencies(&counts, writer)?;
    write_verifications(&state.policies, writer)?;
    let stale = http.metrics.stale_decisions.load(Ordering::Relaxed);
    writer.counter(
        "stale_decisions",
        "Responses with decisions made while the database was unavailable.",
        stale,
    )
}

/// Encodes the verification of decisions by Cedar's own authorizer.
fn write_verifications(policies: &PolicyHandle, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let counts = policies.verifier().map(|verifier| verifier.counts()).unwrap_or_default();
    let help = "Decisions that were decided again by Cedar's own authorizer.";
    writer.counter("decision_verifications", help, counts.verified)?;
    let help = "Verified decisions on which the engine and Cedar's own authorizer differ.";
    writer.counter("decision_verification_differences", help, counts.differences)?;
    let help = "Decisions of the sample that were not verified, because the queue was full.";
    writer.counter("decision_verifications_dropped", help, counts.dropped)
}

/// Encodes the decision latency, as a histogram in seconds.
fn write_latencies(counts: &DecisionCounts, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
    let slower = counts.latency_count.saturating_sub(counts.latencies.iter().sum());
    let bounds = LATENCY_BUCKETS_NANOS.map(seconds).into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(counts.latencies.into_iter().chain([slower])).collect();
    let help = "Decision latency; checks that precede a decision are not included.";
    let mut metric =
        writer.0.encode_descriptor("decision_duration_seconds", help, None, MetricType::Histogram)?;
    let sum = seconds(counts.latency_sum_nanos);
    metric.encode_histogram::<NoLabelSet>(sum, counts.latency_count, &buckets, None)
}

fn log_metrics(state: &AppState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let log = &state.decision_log;
    writer.counter("decision_log_lines", "Lines of the decision log.", log.written())?;
    writer.counter("decision_log_dropped", "Decisions that the decision log lost.", log.dropped())?;
    let dropped = telemetry::dropped_log_lines();
    writer.counter("log_dropped", "Lines that the application log lost.", dropped)?;
    let pending = to_u64(state.refusals.pending_entries());
    writer.gauge(
        "audit_refusals_pending",
        "Refusals that are counted, but not yet in the audit log.",
        pending,
    )
}

fn database_metrics(state: &AppState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let (connections, idle) = state.store.connections();
    let in_use = connections.saturating_sub(idle);
    let states = [([("state", "in_use")], in_use.into()), ([("state", "idle")], idle.into())];
    writer.gauges("database_connections", "Database connections by state.", states)?;
    let unstored = to_u64(state.store.unstored_revocations());
    writer.gauge("unstored_revocations", "Revocations that are in effect, but not stored.", unstored)?;
    let waiting = to_u64(state.passwords.queue_depth());
    let help = "Passwords that are being hashed, or wait for it.";
    writer.gauge("password_hash_queue_depth", help, waiting)
}

fn connection_metrics(app: &AppState, http: &HttpState, writer: &mut MetricWriter<'_>) -> fmt::Result {
    let open = to_u64(http.connection_limiter.open());
    writer.gauge("connections", "Open client connections.", open)?;
    let waiting = to_u64(app.change_feed.waiting());
    writer.gauge("changes_waiting", "Requests that wait for changes, event streams included.", waiting)?;
    let (total, address) = http.connection_limiter.refused();
    let refused = [([("limit", "total")], total), ([("limit", "address")], address)];
    writer.counters("connections_refused", "Client connections refused because of a limit.", refused)?;
    let used = to_u64(http.body_budget.used());
    writer.gauge("body_bytes", "Memory reserved for large bodies, in bytes.", used)?;
    writer.gauge("exports", "Exports of lists that are being sent.", to_u64(http.exports.running()))?;
    let help = "Exports of lists refused because of the limit.";
    writer.counter("exports_refused", help, http.exports.refused())?;
    let help = "Exports of lists that ended early, by an error or because the client disconnected.";
    writer.counter("exports_aborted", help, http.exports.aborted())?;
    let refused = http.body_budget.refused();
    writer.counter("bodies_refused", "Bodies refused because the memory for bodies was exhausted.", refused)
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
