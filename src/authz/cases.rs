//! Policy tests in the format of `cedar run-tests`: requests with their entities and the expected decision.

use super::snapshot::{FileKind, Snapshot};
use super::{Bundle, BundleDiagnostic};
use crate::types::{read_text, strict_json};
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, Request, Schema};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::path::Path;

/// A policy test: a request and its expected decision.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTest {
    /// The name of the test.
    pub name: String,
    request: PolicyTestRequest,
    entities: Box<RawValue>,
    decision: ExpectedDecision,
    /// Ids that must be among the determining policies.
    #[serde(default)]
    reason: Vec<String>,
    /// The expected number of policies whose evaluation fails.
    #[serde(default)]
    num_errors: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTestRequest {
    principal: String,
    action: String,
    resource: String,
    context: Value,
}

#[derive(Debug, Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ExpectedDecision {
    Allow,
    Deny,
}

/// Reads the policy tests of a file.
///
/// # Errors
/// The file cannot be read or is not a JSON list of policy tests.
pub fn read(path: &Path) -> Result<Vec<PolicyTest>, String> {
    parse(&read_text(path).map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Result<Vec<PolicyTest>, String> {
    strict_json::check(text.as_bytes()).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The maximum number of failing tests that are reported by name.
const MAX_REPORTED_FAILURES: usize = 20;

/// Runs all policy tests of a snapshot against the bundle that was parsed from it.
///
/// Returns a diagnostic for each failing test, for at most [`MAX_REPORTED_FAILURES`] by name, and for each file that is not a
/// list of policy tests. Empty if all tests pass.
pub(super) fn run_all(bundle: &Bundle, snapshot: &Snapshot) -> Vec<BundleDiagnostic> {
    let mut diagnostics = Vec::new();
    let mut parsed = ParsedEntities::default();
    let mut unlisted = 0_usize;
    for file in snapshot.of_kind(FileKind::Cases) {
        let diagnostic = |message| BundleDiagnostic { file: file.path.clone(), line: None, message };
        let cases = match parse(&file.text) {
            Ok(cases) => cases,
            Err(error) => {
                diagnostics.push(diagnostic(format!("not a list of policy tests: {error}")));
                continue;
            }
        };
        for case in cases {
            let Err(message) = case.run_with(bundle, &mut parsed) else { continue };
            if diagnostics.len() < MAX_REPORTED_FAILURES {
                diagnostics.push(diagnostic(format!("policy test {:?} failed: {message}", case.name)));
            } else {
                unlisted += 1;
            }
        }
    }
    if unlisted > 0 {
        diagnostics.push(BundleDiagnostic {
            file: "cases".into(),
            line: None,
            message: format!("{unlisted} more policy tests failed"),
        });
    }
    diagnostics
}

/// Parsed entities by their JSON text, since most policy tests of a file share their entities.
#[derive(Debug, Default)]
pub struct ParsedEntities(HashMap<String, Entities>);

impl ParsedEntities {
    fn parse(&mut self, text: &str, schema: &Schema) -> Result<&Entities, String> {
        if !self.0.contains_key(text) {
            let entities =
                Entities::from_json_str(text, Some(schema)).map_err(|error| format!("entities: {error}"))?;
            self.0.insert(text.to_owned(), entities);
        }
        self.0.get(text).ok_or_else(|| "entities: missing".to_owned())
    }
}

impl PolicyTest {
    /// Evaluates the request with Cedar's own authorizer and the whole policy set, without the engine's optimizations.
    ///
    /// # Errors
    /// How the result differs from the expected one, or why the request cannot be evaluated.
    pub fn run(&self, bundle: &Bundle) -> Result<(), String> {
        self.run_with(bundle, &mut ParsedEntities::default())
    }

    /// As [`PolicyTest::run`], reusing the entities that earlier tests parsed.
    ///
    /// # Errors
    /// As [`PolicyTest::run`].
    pub fn run_with(&self, bundle: &Bundle, parsed: &mut ParsedEntities) -> Result<(), String> {
        let uid = |text: &str| text.parse::<EntityUid>().map_err(|error| format!("{text}: {error}"));
        let action = uid(&self.request.action)?;
        let schema = &bundle.schema;
        let context = Context::from_json_value(self.request.context.clone(), Some((schema, &action)))
            .map_err(|error| format!("context: {error}"))?;
        let (principal, resource) = (uid(&self.request.principal)?, uid(&self.request.resource)?);
        let request = Request::new(principal, action, resource, context, Some(schema))
            .map_err(|error| format!("request: {error}"))?;
        let entities = parsed.parse(self.entities.get(), schema)?;
        let response = Authorizer::new().is_authorized(&request, &bundle.policies, entities);
        let decision = if response.decision() == Decision::Allow {
            ExpectedDecision::Allow
        } else {
            ExpectedDecision::Deny
        };
        let reasons: Vec<&str> = response.diagnostics().reason().map(AsRef::as_ref).collect();
        let errors = response.diagnostics().errors().count();
        if decision != self.decision {
            return Err(format!("expected {:?}, got {decision:?}, determined by {reasons:?}", self.decision));
        }
        if let Some(missing) = self.reason.iter().find(|id| !reasons.contains(&id.as_str())) {
            return Err(format!("expected {missing:?} among the determining policies, got {reasons:?}"));
        }
        if errors != self.num_errors {
            return Err(format!("expected {} errors, got {errors}", self.num_errors));
        }
        Ok(())
    }
}
