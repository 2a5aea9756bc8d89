//! Lines of the decision log, parsed without copying.

use crate::authz::{LoggedRequest, LoggedUid, ScopeSet};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The purpose of the line of a filter.
const FILTER: &str = "filter";

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
    subject: Option<LoggedSubject<'a>>,
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource: Option<LoggedUid<'a>>,
    /// `search` for a search, which has no decision.
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
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
    #[serde(borrow)]
    id: Cow<'a, str>,
    /// The scopes of the credential.
    #[serde(default)]
    claimed: Option<ScopeSet>,
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
    /// A search, of which the log has the number of results and not the decisions.
    Search,
    /// A decision whose inputs are masked.
    Masked,
    /// A denial of a question that could not be evaluated, or a filter, which have no inputs.
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
    pub(super) allowed: bool,
    /// The determining policies, in ascending order.
    pub(super) policies: Vec<Cow<'a, str>>,
    /// Whether the evaluation failed.
    pub(super) is_failed: bool,
    pub(super) evaluation_id: Option<Cow<'a, str>>,
    pub(super) time: Option<Cow<'a, str>>,
}

/// Parses a line. The error says why it is not a line of a decision log.
///
/// # Errors
/// The line is no line of a decision log.
pub(super) fn parse(line: &[u8]) -> Result<LineKind<'_>, String> {
    let line: LogLine<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if let Some(dropped) = line.dropped {
        return Ok(LineKind::Dropped(dropped));
    }
    if line.kind.as_deref() == Some("search") {
        return Ok(LineKind::Search);
    }
    let missing = |name: &str| format!("`{name}` is missing");
    let allowed = line.decision.ok_or_else(|| missing("decision"))?;
    let action = line.action.ok_or_else(|| missing("action"))?;
    let LoggedSubject { kind, id, claimed } = line.subject.ok_or_else(|| missing("subject"))?;
    let principal = LoggedUid { kind, id };
    let resource = line.resource.ok_or_else(|| missing("resource"))?;
    let version = line.policy_version.ok_or_else(|| missing("policyVersion"))?;
    let is_failed = line.errors.is_some_and(|errors| errors.get() != "[]");
    if line.masked {
        return Ok(LineKind::Masked);
    }
    if line.purpose.as_deref() == Some(FILTER) {
        return Ok(LineKind::NotEvaluated);
    }
    let Some(LoggedInputs { entities, context, resource: evaluated, new }) = line.inputs else {
        return match allowed || !is_failed {
            true => Err("`inputs` are missing, although the request was evaluated".to_owned()),
            false => Ok(LineKind::NotEvaluated),
        };
    };
    Ok(LineKind::Decision(Box::new(LoggedDecision {
        request: LoggedRequest {
            principal,
            claimed_scopes: claimed,
            action,
            resource: evaluated.unwrap_or_else(|| resource.clone()),
            entities,
            context,
            is_new: new,
            is_missing: line.missing,
        },
        resource,
        version,
        allowed,
        policies: line.policies,
        is_failed,
        evaluation_id: line.evaluation_id,
        time: line.time,
    })))
}
