//! Policy tests in the format of `cedar run-tests`: requests with their entities and the expected decision.

use super::snapshot::Snapshot;
use super::snapshot_file::FileKind;
use super::{Bundle, BundleDiagnostic, Rule};
use crate::types::{read_text, strict_json};
use cedar_policy::{Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicySet, Request, Schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// A policy test: a request and its expected decision.
#[derive(Debug, Clone, Deserialize, Serialize)]
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

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PolicyTestRequest {
    principal: String,
    action: String,
    resource: String,
    context: Value,
}

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ExpectedDecision {
    Allow,
    Deny,
}

impl From<Decision> for ExpectedDecision {
    fn from(decision: Decision) -> Self {
        if decision == Decision::Allow { Self::Allow } else { Self::Deny }
    }
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

/// The tests as the text of a file that [`read`] reads: a JSON list with one test a line.
///
/// # Errors
/// A test cannot be serialized.
pub fn to_text(tests: &[PolicyTest]) -> Result<String, String> {
    let lines: Result<Vec<String>, serde_json::Error> = tests.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|error| error.to_string())?;
    Ok(if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) })
}

/// The maximum number of failing tests that are reported by name at a start.
const MAX_REPORTED_FAILURES: usize = 20;

/// Runs all policy tests of a snapshot against the bundle that was parsed from it.
///
/// Returns a diagnostic for each failing test, for at most [`MAX_REPORTED_FAILURES`] by name, and for each file that is not a
/// list of policy tests. Empty if all tests pass.
pub(super) fn run_all(bundle: &Bundle, snapshot: &Snapshot) -> Vec<BundleDiagnostic> {
    let mut diagnostics = check(Some(bundle), snapshot);
    let unlisted = diagnostics.len().saturating_sub(MAX_REPORTED_FAILURES);
    if unlisted > 0 {
        diagnostics.truncate(MAX_REPORTED_FAILURES);
        let message = format!("{unlisted} more policy tests failed");
        diagnostics.push(BundleDiagnostic::without_file(Rule::FailedTest, message));
    }
    diagnostics
}

/// Runs all policy tests of a snapshot. Returns a diagnostic for each failing test, and for each file that is not a list of
/// policy tests. Without a bundle, only the files are read.
pub fn check(bundle: Option<&Bundle>, snapshot: &Snapshot) -> Vec<BundleDiagnostic> {
    let mut diagnostics = Vec::new();
    let mut parsed = ParsedEntities::default();
    for file in snapshot.of_kind(FileKind::Cases) {
        let diagnostic = |message: String| BundleDiagnostic::new(Rule::FailedTest, &file.path, message);
        let cases = match parse(&file.text) {
            Ok(cases) => cases,
            Err(error) => {
                diagnostics.push(diagnostic(format!("not a list of policy tests: {error}")));
                continue;
            }
        };
        for case in &cases {
            let Some(bundle) = bundle else { break };
            let Err(message) = case.run_with(bundle, &mut parsed) else { continue };
            let message = format!("policy test {:?} failed: {message}", case.name);
            let line = line_of_name(&file.text, &case.name);
            diagnostics.push(BundleDiagnostic { line, ..diagnostic(message) });
        }
    }
    diagnostics
}

/// The line of the name of a test, if it is written without escapes that JSON does not require.
fn line_of_name(text: &str, name: &str) -> Option<usize> {
    let literal = Value::from(name).to_string();
    let position = text.find(&literal)?;
    Some(text.get(..position)?.matches('\n').count() + 1)
}

/// Parsed entities by their JSON text, since most policy tests of a file share their entities.
#[derive(Debug, Default)]
pub struct ParsedEntities(HashMap<String, Arc<Entities>>);

impl ParsedEntities {
    fn parse(&mut self, text: &str, schema: &Schema) -> Result<Arc<Entities>, String> {
        if let Some(entities) = self.0.get(text) {
            return Ok(entities.clone());
        }
        let entities =
            Entities::from_json_str(text, Some(schema)).map_err(|error| format!("entities: {error}"))?;
        let entities = Arc::new(entities);
        self.0.insert(text.to_owned(), entities.clone());
        Ok(entities)
    }
}

impl PolicyTest {
    /// A test that expects what these policies decide now: the decision, and all determining policies.
    ///
    /// The entities are written without the actions, which the schema defines, and with parents before their children.
    ///
    /// # Errors
    /// The request or an entity cannot be written as JSON.
    pub fn from_decision(
        name: &str,
        request: &Request,
        entities: &Entities,
        policies: &PolicySet,
    ) -> Result<Self, String> {
        let uid = |uid: Option<&EntityUid>| {
            uid.map(EntityUid::to_string).ok_or_else(|| "the request is not complete".to_owned())
        };
        let context = match request.context() {
            Some(context) => context.to_json_value().map_err(|error| format!("context: {error}"))?,
            None => Value::Object(serde_json::Map::new()),
        };
        let response = Authorizer::new().is_authorized(request, policies, entities);
        let mut reason: Vec<String> =
            response.diagnostics().reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
        reason.sort();
        Ok(Self {
            name: name.to_owned(),
            request: PolicyTestRequest {
                principal: uid(request.principal())?,
                action: uid(request.action())?,
                resource: uid(request.resource())?,
                context,
            },
            entities: entities_json(entities)?,
            decision: response.decision().into(),
            reason,
            num_errors: response.diagnostics().errors().count(),
        })
    }

    /// Parses the request and the entities.
    ///
    /// # Errors
    /// Why the request cannot be evaluated.
    pub fn prepare(&self, schema: &Schema, parsed: &mut ParsedEntities) -> Result<PreparedTest<'_>, String> {
        let uid = |text: &str| text.parse::<EntityUid>().map_err(|error| format!("{text}: {error}"));
        let action = uid(&self.request.action)?;
        let context = Context::from_json_value(self.request.context.clone(), Some((schema, &action)))
            .map_err(|error| format!("context: {error}"))?;
        let (principal, resource) = (uid(&self.request.principal)?, uid(&self.request.resource)?);
        let request = Request::new(principal, action, resource, context, Some(schema))
            .map_err(|error| format!("request: {error}"))?;
        let entities = parsed.parse(self.entities.get(), schema)?;
        Ok(PreparedTest { test: self, request, entities })
    }

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
        self.prepare(&bundle.schema, parsed)?.check(&bundle.policies)
    }
}

/// A policy test whose request and entities are parsed.
#[derive(Debug, Clone)]
pub struct PreparedTest<'a> {
    test: &'a PolicyTest,
    /// The request.
    pub request: Request,
    /// The entities, which other tests may share.
    pub entities: Arc<Entities>,
}

impl PreparedTest<'_> {
    /// The name of the test.
    pub fn name(&self) -> &str {
        &self.test.name
    }

    /// Evaluates the request with these policies.
    ///
    /// # Errors
    /// How the result differs from the expected one.
    pub fn check(&self, policies: &PolicySet) -> Result<(), String> {
        let response = Authorizer::new().is_authorized(&self.request, policies, &self.entities);
        let decision = ExpectedDecision::from(response.decision());
        let reasons: Vec<&str> = response.diagnostics().reason().map(AsRef::as_ref).collect();
        let errors = response.diagnostics().errors().count();
        if decision != self.test.decision {
            let expected = self.test.decision;
            return Err(format!("expected {expected:?}, got {decision:?}, determined by {reasons:?}"));
        }
        if let Some(missing) = self.test.reason.iter().find(|id| !reasons.contains(&id.as_str())) {
            return Err(format!("expected {missing:?} among the determining policies, got {reasons:?}"));
        }
        if errors != self.test.num_errors {
            return Err(format!("expected {} errors, got {errors}", self.test.num_errors));
        }
        Ok(())
    }
}

/// The entities as JSON, without actions, scopes first, and parents before their children.
fn entities_json(entities: &Entities) -> Result<Box<RawValue>, String> {
    let mut listed: Vec<_> =
        entities.iter().filter(|entity| entity.uid().type_name().basename() != "Action").collect();
    let depth = |uid: &EntityUid| entities.ancestors(uid).map_or(0, Iterator::count);
    listed.sort_by_cached_key(|entity| {
        let uid = entity.uid();
        (uid.type_name().basename() != "Scope", depth(&uid), uid.to_string())
    });
    let values: Result<Vec<Value>, String> =
        listed.iter().map(|entity| entity_json(entity, entities)).collect();
    serde_json::value::to_raw_value(&values?).map_err(|error| format!("entities: {error}"))
}

/// An entity as JSON, with those ancestors as parents that are not ancestors of another one.
fn entity_json(entity: &Entity, entities: &Entities) -> Result<Value, String> {
    let mut value = entity.to_json_value().map_err(|error| format!("entities: {error}"))?;
    let ancestors: Vec<&EntityUid> =
        entities.ancestors(&entity.uid()).map_or_else(Vec::new, Iterator::collect);
    // A missing entity is an ancestor of itself to Cedar.
    let is_between =
        |parent: &EntityUid, other: &EntityUid| parent != other && entities.is_ancestor_of(parent, other);
    let is_direct = |parent: &EntityUid| !ancestors.iter().any(|other| is_between(parent, other));
    let mut parents: Vec<&EntityUid> = ancestors.iter().copied().filter(|parent| is_direct(parent)).collect();
    parents.sort();
    let parents = parents
        .iter()
        .map(|uid| json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()}))
        .collect();
    if let Some(object) = value.as_object_mut() {
        object.insert("parents".to_owned(), Value::Array(parents));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_from_a_decision_is_written_like_the_shipped_ones_and_passes() {
        let (schema, _) = Schema::from_cedarschema_str(
            r#"entity Scope in [Scope]; entity User in [Scope, User] = {"home": Scope};
               action "read" appliesTo { principal: User, resource: User, context: {"n"?: Long} };"#,
        )
        .unwrap();
        let policies: PolicySet =
            r#"permit (principal in Scope::"guest", action, resource) when { context has n };"#.parse().unwrap();
        let entities = Entities::from_json_value(
            json!([
                {"uid": {"type": "User", "id": "u1"}, "attrs": {"home": {"__entity": {"type": "Scope", "id": "guest"}}},
                 "parents": [{"type": "Scope", "id": "agent"}, {"type": "User", "id": "elsewhere"}]},
                {"uid": {"type": "Scope", "id": "agent"}, "attrs": {}, "parents": [{"type": "Scope", "id": "guest"}]},
                {"uid": {"type": "Scope", "id": "guest"}, "attrs": {}, "parents": []},
            ]),
            Some(&schema),
        )
        .unwrap();
        let uid = |text: &str| text.parse::<EntityUid>().unwrap();
        let context = Context::from_json_value(json!({"n": 1}), None).unwrap();
        let request = Request::new(
            uid("User::\"u1\""),
            uid("Action::\"read\""),
            uid("User::\"u1\""),
            context,
            Some(&schema),
        );
        let test = PolicyTest::from_decision("a \"test\"", &request.unwrap(), &entities, &policies).unwrap();
        let text = to_text(std::slice::from_ref(&test)).unwrap();
        assert_eq!(
            text,
            concat!(
                "[\n",
                r#"{"name":"a \"test\"","request":{"principal":"User::\"u1\"","action":"Action::\"read\"","#,
                r#""resource":"User::\"u1\"","context":{"n":1}},"entities":["#,
                r#"{"uid":{"type":"Scope","id":"guest"},"attrs":{},"parents":[]},"#,
                r#"{"uid":{"type":"Scope","id":"agent"},"attrs":{},"parents":[{"type":"Scope","id":"guest"}]},"#,
                r#"{"uid":{"type":"User","id":"u1"},"attrs":{"home":{"__entity":{"type":"Scope","id":"guest"}}},"#,
                r#""parents":[{"type":"Scope","id":"agent"},{"type":"User","id":"elsewhere"}]}],"decision":"allow","reason":["policy0"],"num_errors":0}"#,
                "\n]\n"
            )
        );
        let written = parse(&text).unwrap();
        let prepared = written[0].prepare(&schema, &mut ParsedEntities::default()).unwrap();
        prepared.check(&policies).unwrap();
        let message = prepared.check(&PolicySet::new()).unwrap_err();
        assert!(message.starts_with("expected Allow, got Deny"), "{message}");
    }
}
