//! The query string of a request that changes or deletes all resources that match: filters, and `dryRun`.

use super::field::ListSpec;
use super::list_request::{ListRequest, MAX_LIMIT, parse_boolean};
use crate::http::{FieldError, Problem, body};
use crate::store::Filter;
use crate::types::{FieldErrorCode, InvalidValue};
use actix_web::HttpRequest;

/// The parameter of a dry run.
pub const DRY_RUN: &str = "dryRun";

/// What a request selects.
#[derive(Debug)]
pub struct SelectionRequest {
    /// The filters, besides the organizations.
    pub filters: Vec<Filter>,
    /// Whether nothing is changed.
    pub is_dry_run: bool,
}

impl SelectionRequest {
    /// Parses the query string.
    ///
    /// # Errors
    /// 400 with the invalid parameters, or if there is no filter: a forgotten one would select everything.
    pub fn parse(request: &HttpRequest, spec: &ListSpec) -> Result<Self, Problem> {
        let mut list_request = ListRequest::new(MAX_LIMIT);
        let (mut errors, mut seen, mut is_dry_run) = (Vec::new(), Vec::new(), false);
        for (name, text) in body::query_pairs(request)? {
            let is_repeatable = spec.field(&name).is_some() && name != "organization";
            if seen.contains(&name) && !is_repeatable {
                errors.push(FieldError::new(name, FieldErrorCode::Duplicate, "duplicate parameter"));
                continue;
            }
            seen.push(name.clone());
            let set = if name == DRY_RUN {
                parse_boolean(&text).map(|value| is_dry_run = value)
            } else if is_filter(spec, &name) {
                list_request.set(spec, &name, &text)
            } else {
                Err(unknown_parameter(spec))
            };
            if let Err(error) = set {
                errors.push(FieldError::new(name, error.code, error));
            }
        }
        if errors.is_empty() && !seen.iter().any(|name| is_filter(spec, name)) {
            let message = "expected at least one filter, such as createdAt=<2020-09-14";
            errors.push(FieldError::new("", FieldErrorCode::Required, message));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid_fields(errors));
        }
        Ok(Self { filters: list_request.query.filters, is_dry_run })
    }
}

fn is_filter(spec: &ListSpec, name: &str) -> bool {
    name == "orgPath" || spec.field(name).is_some()
}

fn unknown_parameter(spec: &ListSpec) -> InvalidValue {
    let names = spec.filter_names().join(", ");
    InvalidValue::new(
        FieldErrorCode::UnknownField,
        format!("unknown parameter; expected {DRY_RUN} or one of the filters {names}"),
    )
}
