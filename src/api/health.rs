//! Liveness, readiness and metrics. The responses contain no data of users or resources.

use super::metrics::{metrics, metrics_doc};
use super::policies::PendingView;
use crate::http::openapi::OperationDoc;
use crate::http::{Problem, RouteGroup, WorkerState};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// Returns the routes of health and metrics.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Health", "")
        .about("Probes and metrics, for operators.")
        .public(Method::GET, "/health/live", ("live", "a probe without a credential; says only that the process runs"), live_doc, live)
        .public(Method::GET, "/health/ready", ("ready", "a probe without a credential; says whether the service is ready, and names the policy version"), ready_doc, ready)
        .public(Method::GET, "/metrics", ("metrics", "metric collectors have no credential; counters without personal data, which a separate listener can serve"), metrics_doc, metrics)
}

/// Readiness of the service.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Health {
    /// Whether the service can handle requests.
    ready: bool,
    /// The active policy version.
    policy_version: String,
    /// Why the current policy files are not active; absent if they are. The previous version stays active.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    policy_fault: Option<String>,
    /// A policy version that becomes active only when it is confirmed; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    policy_pending: Option<PendingView>,
}

fn live_doc() -> OperationDoc {
    OperationDoc::new("Liveness probe")
        .describe("Whether the process runs. It does not depend on the database.")
        .empty_response(204, "Alive.")
}

fn ready_doc() -> OperationDoc {
    OperationDoc::new("Readiness probe")
        .describe("Whether the service can answer requests: the states of the database, the policies and the decision log.")
        .response::<Health>(
        200,
        "Ready: database reachable and schema up to date.",
        None,
    )
}

async fn live(_: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::NoContent().finish())
}

async fn ready(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let WorkerState { app: state, http } = WorkerState::from_request(&request)?;
    if http.is_shutting_down.load(Ordering::Acquire) {
        let detail = "The service is shutting down.";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", detail));
    }
    state.store.check().await?;
    Ok(HttpResponse::Ok().json(Health {
        ready: true,
        policy_version: state.policies.current().bundle().version().to_owned(),
        policy_fault: state.policies.failure().map(|failure| {
            // Public: the locations only. The full messages are in the log.
            format!("invalid policies: {}; the previous version stays active", failure.locations())
        }),
        policy_pending: PendingView::from_handle(&state.policies),
    }))
}
