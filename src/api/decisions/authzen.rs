//! The OpenID AuthZEN Authorization API 1.0: the routes and the metadata.

use super::authzen_batch::{evaluations, evaluations_doc};
use super::authzen_evaluation::{evaluation, evaluation_doc};
use super::authzen_resource_search::search_resources;
use super::authzen_search::{ActionSearch, ResourceSearch, SubjectSearch};
use super::authzen_search::{example, search_actions, search_doc, search_subjects};
use super::filter::{filter, filter_doc};
use super::filter_format::Format;
use crate::http::base_url::base_url;
use crate::http::openapi::OperationDoc;
use crate::http::{Problem, RouteGroup, WorkerState};
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("AuthZEN", "/access/v1")
        .about("Decisions and searches by the AuthZEN Authorization API 1.0.")
        .post("/evaluation", "evaluateAccess", evaluation_doc, evaluation)
        .with_operation_id("evaluation")
        .additional_actions(PREREQUISITES)
        .post("/evaluations", "evaluateAccess", evaluations_doc, evaluations)
        .with_operation_id("evaluations")
        .additional_actions(PREREQUISITES)
        .post(
            "/search/subject",
            "evaluateAccess",
            || search_doc::<SubjectSearch>("subjects", example("subject")),
            search_subjects,
        )
        .with_operation_id("searchSubjects")
        .additional_actions(PREREQUISITES)
        .post(
            "/search/resource",
            "evaluateAccess",
            || search_doc::<ResourceSearch>("resources", example("resource")),
            search_resources,
        )
        .with_operation_id("searchResources")
        .additional_actions(PREREQUISITES)
        .post(
            "/search/action",
            "evaluateAccess",
            || search_doc::<ActionSearch>("actions", example("action")),
            search_actions,
        )
        .with_operation_id("searchActions")
        .additional_actions(PREREQUISITES)
        .post("/filter", "evaluateAccess", filter_doc, filter)
        .with_operation_id("filterResources")
        .additional_actions(PREREQUISITES)
}

const PREREQUISITES: &[&str] = &["evaluateExternalAccess", "referTo"];

/// The route of the metadata.
pub fn metadata_routes() -> RouteGroup {
    RouteGroup::new("AuthZEN", "/.well-known").public(
        Method::GET,
        "/authzen-configuration",
        (
            "authzenConfiguration",
            "metadata of the decision point, which clients read before they have a token (AuthZEN)",
        ),
        || {
            let doc = OperationDoc::new("AuthZEN metadata")
                .describe("The endpoints that the service has (AuthZEN Authorization API 1.0, section 9).");
            doc.response::<Metadata>(200, "The metadata.", None)
        },
        metadata,
    )
}

/// AuthZEN metadata.
#[derive(Debug, Serialize, ToSchema)]
struct Metadata {
    /// The base URL of the service.
    policy_decision_point: String,
    /// The endpoint for single evaluations.
    access_evaluation_endpoint: String,
    /// The endpoint for batches.
    access_evaluations_endpoint: String,
    /// The subject search.
    search_subject_endpoint: String,
    /// The resource search.
    search_resource_endpoint: String,
    /// The action search.
    search_action_endpoint: String,
    /// The endpoint for filters, an extension: the resources of a type as a condition for the client's own database.
    filter_endpoint: String,
    /// The media types of filters, which `Accept` selects.
    filter_media_types: [&'static str; 4],
    /// The maximum number of items of a batch.
    access_evaluations_limit: usize,
    /// Stored data take precedence over `properties`, which only supply attributes that are not stored.
    stored_attributes_take_precedence: bool,
}

/// `GET /.well-known/authzen-configuration`.
async fn metadata(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let base = base_url(&request);
    let url = |path: &str| format!("{base}/access/v1/{path}");
    Ok(HttpResponse::Ok().json(Metadata {
        access_evaluation_endpoint: url("evaluation"),
        access_evaluations_endpoint: url("evaluations"),
        search_subject_endpoint: url("search/subject"),
        search_resource_endpoint: url("search/resource"),
        search_action_endpoint: url("search/action"),
        filter_endpoint: url("filter"),
        filter_media_types: Format::ALL.map(Format::media_type),
        access_evaluations_limit: state.request_config.access_batch_limit,
        stored_attributes_take_precedence: true,
        policy_decision_point: base,
    }))
}
