//! How the service is: for whoever keeps it running, and for Prometheus.

use super::policy_reload::PendingView;
use crate::authz::{DecisionCounts, LATENCY_BUCKETS_NANOS, PolicyHandle};
use crate::http::openapi::OperationDoc;
use crate::http::state::HttpState;
use crate::http::{Problem, RouteGroup, WorkerState};
use crate::telemetry;
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;
use utoipa::ToSchema;

/// The routes. They tell nothing of what the service keeps.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Health", "")
        .public(Method::GET, "/health/live", "live", live_doc, live)
        .public(Method::GET, "/health/ready", "ready", ready_doc, ready)
        .public(Method::GET, "/metrics", "metrics", metrics_doc, metrics)
}

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Health {
    /// That it can answer requests.
    ready: bool,
    /// The version of the policies in force.
    policy_version: String,
    /// Why the files of the policies as they are now are not in force; nothing where they are. The old ones decide on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    policy_fault: Option<String>,
    /// A policy version that becomes active only when it is confirmed; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    policy_pending: Option<PendingView>,
}

fn live_doc() -> OperationDoc {
    OperationDoc::new("Whether the process is there").empty_response(204, "It is.")
}

fn ready_doc() -> OperationDoc {
    OperationDoc::new("Whether the service can answer requests").response::<Health>(
        200,
        "It can: the database answers and has the form that this program gave it.",
        None,
    )
}

fn metrics_doc() -> OperationDoc {
    OperationDoc::new("Figures for Prometheus").text_response(200, "The figures, in Prometheus' text format.")
}

async fn live(_: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::NoContent().finish())
}

async fn ready(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let WorkerState { app: state, http } = WorkerState::from_request(&request)?;
    if http.is_shutting_down.load(Ordering::Acquire) {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "The service is shutting down.",
        ));
    }
    state.store.check().await?;
    Ok(HttpResponse::Ok().json(Health {
        ready: true,
        policy_version: state.policies.current().bundle().version().to_owned(),
        policy_fault: state.policies.failure().map(|failure| {
            // What it is stays between the service and its log.
            format!("the policies cannot be used: {}; the old ones stay in force", failure.locations())
        }),
        policy_pending: PendingView::from_handle(&state.policies),
    }))
}

async fn metrics(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let WorkerState { app: state, http } = WorkerState::from_request(&request)?;
    let engine = state.policies.current();
    let counts = state.policies.counts();
    let mut text = String::new();
    let mut write_metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP cedargate_{name} {help}\n# TYPE cedargate_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "cedargate_{name}{labels} {value}");
        }
    };
    let unlabeled = |value: u64| vec![(String::new(), value)];
    let of = |label: &str, value: u64| (format!("{{{label}}}"), value);
    let version = format!("version=\"{}\"", engine.bundle().version());
    write_metric("policy_info", "gauge", "The version of the policies in force.", &[of(&version, 1)]);
    let reloads = [of("outcome=\"ok\"", counts.reloads), of("outcome=\"failed\"", counts.failures)];
    write_metric("policy_reloads_total", "counter", "How often the policies were read again.", &reloads);
    let reload_failed = u64::from(state.policies.failure().is_some());
    write_metric(
        "policy_fault",
        "gauge",
        "1 where the files as they are now are not in force.",
        &unlabeled(reload_failed),
    );
    let pending = pending_samples(&state.policies);
    write_metric(
        "policy_pending",
        "gauge",
        "1 while a policy version waits for a confirmation.",
        &unlabeled(u64::from(!pending.is_empty())),
    );
    let help = "1 for each forbid policy and each file that the pending policy version would lose.";
    write_metric("policy_pending_losses", "gauge", help, &pending);
    let requests = http.metrics.totals();
    let requests: Vec<_> = requests
        .into_iter()
        .map(|(action, outcome, count)| of(&format!("action=\"{action}\",outcome=\"{outcome}\""), count))
        .collect();
    write_metric(
        "requests_total",
        "counter",
        "Requests by the action that they ask about, and status.",
        &requests,
    );
    let decisions = engine.decision_counts();
    write_metric(
        "decisions_total",
        "counter",
        "Decisions by the version in force.",
        &[
            of("outcome=\"allowed\"", decisions.allowed),
            of("outcome=\"denied\"", decisions.denied),
            of("outcome=\"undecidable\"", decisions.errors),
        ],
    );
    write_metric(
        "decisions_remembered_total",
        "counter",
        "Decisions that had been made before.",
        &unlabeled(decisions.cache_hits),
    );
    let stale = http.metrics.stale_decisions.load(Ordering::Relaxed);
    let help = "Answers with decisions that were made while the database was away.";
    write_metric("stale_decisions_total", "counter", help, &unlabeled(stale));
    let log = &state.decision_log;
    write_metric(
        "decision_log_lines_total",
        "counter",
        "Lines of the decision log.",
        &unlabeled(log.written()),
    );
    write_metric(
        "decision_log_dropped_total",
        "counter",
        "Decisions that the log has lost.",
        &unlabeled(log.dropped()),
    );
    let dropped = telemetry::dropped_log_lines();
    write_metric(
        "log_dropped_total",
        "counter",
        "Lines that the application log has lost.",
        &unlabeled(dropped),
    );
    let pending = u64::try_from(state.refusals.pending_entries()).unwrap_or(u64::MAX);
    write_metric(
        "audit_refusals_pending",
        "gauge",
        "Entries of refusals that wait for the end of their minute.",
        &unlabeled(pending),
    );
    let (connections, idle) = state.store.connections();
    let connections = [
        of("state=\"used\"", (connections - idle.min(connections)).into()),
        of("state=\"idle\"", idle.into()),
    ];
    write_metric("database_connections", "gauge", "Connections to the database.", &connections);
    write_connection_metrics(http, &mut write_metric);
    let unstored = u64::try_from(state.store.unstored_revocations()).unwrap_or(u64::MAX);
    write_metric(
        "unstored_revocations",
        "gauge",
        "Revocations in effect that are not stored.",
        &unlabeled(unstored),
    );
    let waiting = u64::try_from(state.passwords.queue_depth()).unwrap_or(u64::MAX);
    write_metric(
        "passwords_waiting",
        "gauge",
        "Passwords that are being hashed, or wait for it.",
        &unlabeled(waiting),
    );
    write_latency_histogram(&mut text, &decisions);
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

/// The figures of connections and bodies.
fn write_connection_metrics(
    state: &HttpState,
    write_metric: &mut impl FnMut(&str, &str, &str, &[(String, u64)]),
) {
    let unlabeled = |value: u64| vec![(String::new(), value)];
    let to_u64 = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    write_metric(
        "connections",
        "gauge",
        "Open client connections.",
        &unlabeled(to_u64(state.connection_limiter.open())),
    );
    let (total, address) = state.connection_limiter.refused();
    let refused = [("{limit=\"total\"}".to_owned(), total), ("{limit=\"address\"}".to_owned(), address)];
    write_metric(
        "connections_refused_total",
        "counter",
        "Client connections refused because of a limit.",
        &refused,
    );
    write_metric(
        "body_bytes",
        "gauge",
        "Memory reserved for large bodies.",
        &unlabeled(to_u64(state.body_budget.used())),
    );
    write_metric(
        "bodies_refused_total",
        "counter",
        "Bodies refused because the budget was used up.",
        &unlabeled(state.body_budget.refused()),
    );
}

/// How many lost policies and files the metrics list.
const MAX_LOSSES: usize = 100;

/// A sample for each policy and file that the pending version would lose; one without a name if it loses nothing.
fn pending_samples(policies: &PolicyHandle) -> Vec<(String, u64)> {
    let Some(pending) = policies.pending() else { return Vec::new() };
    let losses = &pending.losses;
    let groups = [("policy", &losses.policies), ("policy", &losses.changed), ("file", &losses.files)];
    let labels =
        groups.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name.as_str())));
    let mut samples: Vec<_> = labels
        .take(MAX_LOSSES)
        // Debug text escapes quotes, backslashes and line ends as the text format of Prometheus does.
        .map(|(kind, name)| (format!("{{version={:?},{kind}={name:?}}}", pending.version), 1))
        .collect();
    if samples.is_empty() {
        samples.push((format!("{{version={:?}}}", pending.version), 1));
    }
    samples
}

/// How long decisions took, as a histogram in seconds.
fn write_latency_histogram(text: &mut String, decisions: &DecisionCounts) {
    let name = "cedargate_decision_seconds";
    let _ = writeln!(
        text,
        "# HELP {name} How long decisions take, steps on the way to them left out.\n# TYPE {name} histogram"
    );
    let mut cumulative = 0;
    for (upper_bound, count) in LATENCY_BUCKETS_NANOS.iter().zip(&decisions.latencies) {
        cumulative += count;
        let _ = writeln!(
            text,
            "{name}_bucket{{le=\"{}\"}} {cumulative}",
            Duration::from_nanos(*upper_bound).as_secs_f64()
        );
    }
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", decisions.latency_count);
    let sum = Duration::from_nanos(decisions.latency_sum_nanos).as_secs_f64();
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {}", decisions.latency_count);
}
