//! The documentation of bulk operations.

use super::list_parameters::{dry_run_parameter, filter_parameters};
use super::resource_docs::patch_body;
use super::{OperationDoc, Ref};
use crate::http::bulk::BulkResult;
use crate::http::operation_doc::humanize_action;
use crate::http::query::ListSpec;
use crate::resource::Resource;
use crate::types::Id;
use serde_json::{Value, json};
use utoipa::PartialSchema;

/// Documents `PATCH /` of a resource.
pub(in crate::http) fn bulk_update<R: Resource>(spec: &ListSpec, operation: &str) -> OperationDoc {
    let doc = OperationDoc::new(humanize_action(operation)).describe(
        "Sets the fields in the body of all resources that match the filters, at most 1000, among those that the caller may list: \
         of all or of none. At least one filter is required. With `dryRun=true`, the response says which resources would be \
         changed, and nothing is changed.",
    );
    // The patch of a single resource may have further fields, such as the password of a user.
    let name = if R::UPDATABLE_EXTRAS.is_empty() { "Patch" } else { "BulkPatch" };
    let name = format!("{}{name}", R::TYPE);
    let doc = patch_body::<R>(R::Body::schema(), &name, doc);
    selection(doc.json_body(Ref::from_schema_name(name), Some(json!({ "meta": { "reviewed": true } }))), spec)
}

/// Documents `DELETE /` of a resource.
pub(in crate::http) fn bulk_delete(spec: &ListSpec, operation: &str) -> OperationDoc {
    let doc = OperationDoc::new(humanize_action(operation)).describe(
        "Deletes all resources that match the filters, at most 1000, among those that the caller may list: all or none. At least \
         one filter is required. With `dryRun=true`, the response says which resources would be deleted, and nothing is deleted.",
    );
    selection(doc, spec)
}

/// Documents what is selected, and the response.
fn selection(doc: OperationDoc, spec: &ListSpec) -> OperationDoc {
    filter_parameters(doc.parameter(dry_run_parameter()), spec)
        .parameter_example("dryRun", true)
        .parameter_example("createdAt", "<2020-09-14")
        .response::<BulkResult>(200, "Which resources were changed.", Some(result_example()))
        .problems(&[400, 404, 409])
}

fn result_example() -> Value {
    json!({ "count": 1, "ids": [Id::EXAMPLE.to_string()], "dryRun": true })
}
