//! How the service is: for whoever keeps it running, and for Prometheus.

use super::policy_reload::PendingView;
use crate::authz::{Decisions, LATENCIES, Live};
use crate::http::openapi::Doc;
use crate::http::{Parts, Problem, Routes};
use crate::trace;
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;
use utoipa::ToSchema;

/// The routes. They tell nothing of what the service keeps.
pub fn routes() -> Routes {
    Routes::new("Health", "")
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

fn live_doc() -> Doc {
    Doc::new("Whether the process is there").empty(204, "It is.")
}

fn ready_doc() -> Doc {
    Doc::new("Whether the service can answer requests").answer::<Health>(
        200,
        "It can: the database answers and has the form that this program gave it.",
        None,
    )
}

fn metrics_doc() -> Doc {
    Doc::new("Figures for Prometheus").text(200, "The figures, in Prometheus' text format.")
}

async fn live(_: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::NoContent().finish())
}

async fn ready(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let parts = Parts::of(&request)?;
    if parts.is_ending.load(Ordering::Acquire) {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "The service is about to end."));
    }
    parts.store.check().await?;
    Ok(HttpResponse::Ok().json(Health {
        ready: true,
        policy_version: parts.policies.current().bundle().version().to_owned(),
        policy_fault: parts.policies.failure().map(|failure| {
            // What it is stays between the service and its log.
            format!("the policies cannot be used: {}; the old ones stay in force", failure.places())
        }),
        policy_pending: PendingView::of(&parts.policies),
    }))
}

async fn metrics(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let parts = Parts::of(&request)?;
    let engine = parts.policies.current();
    let counts = parts.policies.counts();
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP cedargate_{name} {help}\n# TYPE cedargate_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "cedargate_{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let of = |label: &str, value: u64| (format!("{{{label}}}"), value);
    let version = format!("version=\"{}\"", engine.bundle().version());
    add("policy_info", "gauge", "The version of the policies in force.", &[of(&version, 1)]);
    let reloads = [of("outcome=\"ok\"", counts.reloads), of("outcome=\"failed\"", counts.failures)];
    add("policy_reloads_total", "counter", "How often the policies were read again.", &reloads);
    let fault = u64::from(parts.policies.failure().is_some());
    add("policy_fault", "gauge", "1 where the files as they are now are not in force.", &plain(fault));
    let pending = pending_samples(&parts.policies);
    add(
        "policy_pending",
        "gauge",
        "1 while a policy version waits for a confirmation.",
        &plain(u64::from(!pending.is_empty())),
    );
    let help = "1 for each forbid policy and each file that the pending policy version would lose.";
    add("policy_pending_losses", "gauge", help, &pending);
    let requests = parts.metrics.sum();
    let requests: Vec<_> = requests
        .into_iter()
        .map(|(action, outcome, count)| of(&format!("action=\"{action}\",outcome=\"{outcome}\""), count))
        .collect();
    add("requests_total", "counter", "Requests by the action that they ask about, and status.", &requests);
    let decisions = engine.counts();
    add(
        "decisions_total",
        "counter",
        "Decisions by the version in force.",
        &[
            of("outcome=\"allowed\"", decisions.allowed),
            of("outcome=\"denied\"", decisions.denied),
            of("outcome=\"undecidable\"", decisions.undecidable),
        ],
    );
    add(
        "decisions_remembered_total",
        "counter",
        "Decisions that had been made before.",
        &plain(decisions.remembered),
    );
    let stale = parts.metrics.stale_decisions.load(Ordering::Relaxed);
    let help = "Answers with decisions that were made while the database was away.";
    add("stale_decisions_total", "counter", help, &plain(stale));
    let log = &parts.decision_log;
    add("decision_log_lines_total", "counter", "Lines of the decision log.", &plain(log.written()));
    add("decision_log_dropped_total", "counter", "Decisions that the log has lost.", &plain(log.dropped()));
    let dropped = trace::dropped_log_lines();
    add("log_dropped_total", "counter", "Lines that the application log has lost.", &plain(dropped));
    let pending = u64::try_from(parts.refusals.pending_entries()).unwrap_or(u64::MAX);
    add(
        "audit_refusals_pending",
        "gauge",
        "Entries of refusals that wait for the end of their minute.",
        &plain(pending),
    );
    let (connections, idle) = parts.store.connections();
    let connections = [
        of("state=\"used\"", (connections - idle.min(connections)).into()),
        of("state=\"idle\"", idle.into()),
    ];
    add("database_connections", "gauge", "Connections to the database.", &connections);
    exchange(&parts, &mut add);
    let unstored = u64::try_from(parts.store.unstored_revocations()).unwrap_or(u64::MAX);
    add("unstored_revocations", "gauge", "Revocations in effect that are not stored.", &plain(unstored));
    let waiting = u64::try_from(parts.passwords.waiting()).unwrap_or(u64::MAX);
    add("passwords_waiting", "gauge", "Passwords that are being hashed, or wait for it.", &plain(waiting));
    latencies(&mut text, &decisions);
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

/// The figures of connections and bodies.
fn exchange(parts: &Parts, add: &mut impl FnMut(&str, &str, &str, &[(String, u64)])) {
    let plain = |value: u64| vec![(String::new(), value)];
    let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    add("connections", "gauge", "Open client connections.", &plain(size(parts.connections.open())));
    let (total, address) = parts.connections.refused();
    let refused = [("{limit=\"total\"}".to_owned(), total), ("{limit=\"address\"}".to_owned(), address)];
    add("connections_refused_total", "counter", "Client connections refused because of a limit.", &refused);
    add("body_bytes", "gauge", "Memory reserved for large bodies.", &plain(size(parts.budget.used())));
    add(
        "bodies_refused_total",
        "counter",
        "Bodies refused because the budget was used up.",
        &plain(parts.budget.refused()),
    );
}

/// How many lost policies and files the metrics list.
const MAX_LOSSES: usize = 100;

/// A sample for each policy and file that the pending version would lose; one without a name if it loses nothing.
fn pending_samples(policies: &Live) -> Vec<(String, u64)> {
    let Some(pending) = policies.pending() else { return Vec::new() };
    let losses = &pending.losses;
    let named = [("policy", &losses.policies), ("policy", &losses.changed), ("file", &losses.files)];
    let labels =
        named.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name.as_str())));
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
fn latencies(text: &mut String, decisions: &Decisions) {
    let name = "cedargate_decision_seconds";
    let _ = writeln!(
        text,
        "# HELP {name} How long decisions take, steps on the way to them left out.\n# TYPE {name} histogram"
    );
    let mut up_to = 0;
    for (most, count) in LATENCIES.iter().zip(&decisions.latencies) {
        up_to += count;
        let _ =
            writeln!(text, "{name}_bucket{{le=\"{}\"}} {up_to}", Duration::from_nanos(*most).as_secs_f64());
    }
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", decisions.timed);
    let sum = Duration::from_nanos(decisions.nanos).as_secs_f64();
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {}", decisions.timed);
}
