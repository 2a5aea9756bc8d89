//! Policy tests as data, in the format of `cedar run-tests`: a list of requests, each with its entities and with the
//! decision that it should have.

use super::Bundle;
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, Request};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it is about.
    pub name: String,
    request: CaseRequest,
    entities: Value,
    decision: Expected,
    /// Policies that must be among those that decide.
    #[serde(default)]
    reason: Vec<String>,
    /// How many policies must err.
    #[serde(default)]
    num_errors: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRequest {
    principal: String,
    action: String,
    resource: String,
    context: Value,
}

#[derive(Debug, Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

/// The cases of a file.
pub fn read(path: &Path) -> Result<Vec<Case>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

impl Case {
    /// Asks the whole policy set, without any of the engine's shortcuts; says what is not as expected.
    pub fn run(&self, bundle: &Bundle) -> Result<(), String> {
        let uid = |text: &str| text.parse::<EntityUid>().map_err(|error| format!("{text}: {error}"));
        let action = uid(&self.request.action)?;
        let schema = &bundle.schema;
        let context = Context::from_json_value(self.request.context.clone(), Some((schema, &action)))
            .map_err(|error| format!("context: {error}"))?;
        let (principal, resource) = (uid(&self.request.principal)?, uid(&self.request.resource)?);
        let request = Request::new(principal, action, resource, context, Some(schema))
            .map_err(|error| format!("request: {error}"))?;
        let entities = Entities::from_json_value(self.entities.clone(), Some(schema))
            .map_err(|error| format!("entities: {error}"))?;
        let response = Authorizer::new().is_authorized(&request, &bundle.policies, &entities);
        let decision = if response.decision() == Decision::Allow { Expected::Allow } else { Expected::Deny };
        let reasons: Vec<&str> = response.diagnostics().reason().map(AsRef::as_ref).collect();
        let errors = response.diagnostics().errors().count();
        if decision != self.decision {
            return Err(format!("expected {:?}, got {decision:?} by {reasons:?}", self.decision));
        }
        if let Some(missing) = self.reason.iter().find(|id| !reasons.contains(&id.as_str())) {
            return Err(format!("expected {missing:?} to decide, but it was {reasons:?}"));
        }
        if errors != self.num_errors {
            return Err(format!("expected {} errors, got {errors}", self.num_errors));
        }
        Ok(())
    }
}
