//! Lines of the decision log, parsed without copying.

use super::consistency::{LoggedCaller, RequestOrigin};
use crate::authz::{LoggedRequest, LoggedUid, Scope, ScopeSet};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The purpose of the line of a filter.
const FILTER: &str = "filter";

/// The text of a masked value, as JSON.
const MASKED_VALUE: &str = "\"***\"";

/// A line of the decision log: a decision, or a marker of dropped ones.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogLine<'a> {
    /// The number of dropped decisions; only in a marker.
    #[serde(default)]
    dropped: Option<u64>,
    #[serde(borrow, default, rename = "evaluation_id")]
    pub(super) evaluation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    purpose: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    caller: Option<LoggedCaller<'a>>,
    #[serde(borrow, default)]
    subject: Option<LoggedSubject<'a>>,
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource: Option<LoggedResource<'a>>,
    /// `search` for a search, which has no decision.
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    /// What is searched for; only in a search.
    #[serde(borrow, default)]
    search: Option<Cow<'a, str>>,
    /// The number of results; only in a search.
    #[serde(default)]
    results: Option<u64>,
    #[serde(default)]
    decision: Option<bool>,
    #[serde(borrow, default)]
    policies: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    errors: Option<&'a RawValue>,
    #[serde(borrow, default)]
    policy_version: Option<Cow<'a, str>>,
    #[serde(default)]
    missing: bool,
    #[serde(default)]
    masked: bool,
    #[serde(borrow, default)]
    inputs: Option<LoggedInputs<'a>>,
}

#[derive(Debug, Deserialize)]
struct LoggedSubject<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    /// None if subjects are searched for.
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    /// The effective scopes.
    #[serde(borrow, default)]
    scopes: Vec<Cow<'a, str>>,
    /// The scopes of the credential.
    #[serde(borrow, default)]
    claimed: Vec<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct LoggedResource<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    /// None if resources are searched for.
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct LoggedInputs<'a> {
    #[serde(borrow)]
    entities: Vec<&'a RawValue>,
    #[serde(borrow)]
    context: &'a RawValue,
    #[serde(borrow, default)]
    resource: Option<LoggedUid<'a>>,
    #[serde(default)]
    new: bool,
}

/// What a line is about.
pub(super) enum LineKind<'a> {
    /// A marker: so many decisions were dropped.
    Dropped(u64),
    /// A search, of which the log has the number of results and not the decisions, or a filter, which has no decisions.
    Search,
    /// A decision whose inputs are masked.
    Masked,
    /// A denial of a question that could not be evaluated, which has no inputs.
    NotEvaluated,
    /// A decision that can be made again.
    Decision(Box<LoggedDecision<'a>>),
}

/// A decision that can be made again.
pub(super) struct LoggedDecision<'a> {
    pub(super) request: LoggedRequest<'a>,
    /// The resource that the request names.
    pub(super) resource: LoggedUid<'a>,
    pub(super) version: Cow<'a, str>,
    /// The effective scopes of the principal.
    pub(super) scopes: Vec<Cow<'a, str>>,
    pub(super) allowed: bool,
    /// The determining policies, in ascending order.
    pub(super) policies: Vec<Cow<'a, str>>,
    /// Whether the evaluation failed.
    pub(super) is_failed: bool,
    pub(super) evaluation_id: Option<Cow<'a, str>>,
    pub(super) time: Option<Cow<'a, str>>,
}

/// Parses a line. The error says why it is not a line that the service writes.
///
/// # Errors
/// The line is no line of a decision log, or it was changed.
pub(super) fn parse(line: &[u8]) -> Result<LineKind<'_>, String> {
    let line: LogLine<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if let Some(dropped) = line.dropped {
        return Ok(LineKind::Dropped(dropped));
    }
    if line.masked && !line.inputs.as_ref().is_some_and(has_masked_value) {
        return Err("`masked` is true, but no value of the inputs is masked".to_owned());
    }
    if line.kind.is_some() {
        return search(&line).map(|()| LineKind::Search);
    }
    let missing = |name: &str| format!("`{name}` is missing");
    let allowed = line.decision.ok_or_else(|| missing("decision"))?;
    let is_failed = has_errors(line.errors);
    if line.purpose.as_deref() == Some(FILTER) {
        return filter(&line).map(|()| LineKind::Search);
    }
    let action = line.action.ok_or_else(|| missing("action"))?;
    let LoggedSubject { kind, id, scopes, claimed } = line.subject.ok_or_else(|| missing("subject"))?;
    let principal = LoggedUid { kind, id: id.ok_or_else(|| missing("subject.id"))? };
    let LoggedResource { kind, id } = line.resource.ok_or_else(|| missing("resource"))?;
    let resource = LoggedUid { kind, id: id.ok_or_else(|| missing("resource.id"))? };
    let version = line.policy_version.ok_or_else(|| missing("policyVersion"))?;
    if line.masked {
        return Ok(LineKind::Masked);
    }
    let origin = RequestOrigin {
        time: line.time.as_deref(),
        purpose: line.purpose.as_deref(),
        caller: line.caller.as_ref(),
    };
    origin.check_principal(&principal)?;
    let Some(LoggedInputs { entities, context, resource: evaluated, new }) = line.inputs else {
        let has_results =
            !scopes.is_empty() || !claimed.is_empty() || !line.policies.is_empty() || line.missing;
        if allowed || !is_failed || has_results {
            return Err("`inputs` are missing, although the request was evaluated".to_owned());
        }
        return origin.check_unevaluated(line.errors).map(|()| LineKind::NotEvaluated);
    };
    origin.check_context(context)?;
    let request = LoggedRequest {
        principal,
        claimed_scopes: scope_set(&claimed)?,
        action,
        resource: evaluated.unwrap_or_else(|| resource.clone()),
        entities,
        context,
        is_new: new,
        is_missing: line.missing,
    };
    Ok(LineKind::Decision(Box::new(LoggedDecision {
        request,
        resource,
        version,
        scopes,
        allowed,
        policies: line.policies,
        is_failed,
        evaluation_id: line.evaluation_id,
        time: line.time,
    })))
}

fn has_errors(errors: Option<&RawValue>) -> bool {
    errors.is_some_and(|errors| errors.get() != "[]")
}

fn has_masked_value(inputs: &LoggedInputs<'_>) -> bool {
    let mut values = inputs.entities.iter().copied().chain([inputs.context]);
    values.any(|value| value.get().contains(MASKED_VALUE))
}

fn scope_set(names: &[Cow<'_, str>]) -> Result<Option<ScopeSet>, String> {
    let scopes: Result<Vec<Scope>, _> = names.iter().map(|name| name.parse::<Scope>()).collect();
    scopes.map(ScopeSet::new).map_err(|error| error.to_string())
}

/// Checks that a line with a `kind` is the line of a search: a result instead of a decision, no id of what is searched for, and
/// a context without entities.
///
/// # Errors
/// What no search has.
fn search(line: &LogLine<'_>) -> Result<(), String> {
    let not_a_search = |reason: &str| Err(format!("not the line of a search: {reason}"));
    let (Some(subject), Some(resource), Some(inputs)) = (&line.subject, &line.resource, &line.inputs) else {
        return not_a_search("`subject`, `resource` or `inputs` is missing");
    };
    if line.kind.as_deref() != Some("search") {
        return not_a_search("`kind` is not \"search\"");
    }
    if line.decision.is_some() || !line.policies.is_empty() || line.errors.is_some() {
        return not_a_search("it has a decision");
    }
    if line.results.is_none() || line.policy_version.is_none() {
        return not_a_search("`results` or `policyVersion` is missing");
    }
    if !inputs.entities.is_empty() || !subject.scopes.is_empty() {
        return not_a_search("it has entities or scopes");
    }
    let given = [subject.id.is_some(), line.action.is_some(), resource.id.is_some()];
    let expected = match line.search.as_deref() {
        Some("subject") => [false, true, true],
        Some("action") => [true, false, true],
        Some("resource") => [true, true, false],
        _ => return not_a_search("`search` is not \"subject\", \"action\" or \"resource\""),
    };
    if given == expected {
        Ok(())
    } else {
        not_a_search("what is searched for is given, or something else is not")
    }
}

/// Checks that a line is the line of a filter, which has no inputs and no policies.
///
/// # Errors
/// What no filter has.
fn filter(line: &LogLine<'_>) -> Result<(), String> {
    let has_scopes = line.subject.as_ref().is_none_or(|subject| !subject.scopes.is_empty());
    let is_about_one = line.resource.as_ref().is_none_or(|resource| resource.id.as_deref() != Some(""));
    if line.inputs.is_some()
        || !line.policies.is_empty()
        || has_errors(line.errors)
        || has_scopes
        || is_about_one
        || line.action.is_none()
    {
        return Err("not the line of a filter: it has inputs, policies, errors, scopes or a resource id, or no subject or action".to_owned());
    }
    Ok(())
}
