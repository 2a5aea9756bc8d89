//! What the decision log says about the use of policies, actions, scopes and API keys.

use super::edit::Head;
use super::log::{LogEntry, LoggedCaller};
use super::{in_file_order, policy_finding};
use crate::analysis::{Finding, Level, Region};
use crate::authz::{Bundle, CredentialKind, PolicyMetadata, Scope};
use crate::types::Timestamp;
use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint};
use std::collections::BTreeMap;

/// The milliseconds of a day.
const DAY: i64 = 86_400_000;

/// The last times at which a permit allowed a request.
#[derive(Debug, Default, Clone)]
pub(super) struct PermitUse {
    /// By the name of the action.
    pub(super) actions: BTreeMap<String, Timestamp>,
    /// By the highest scope of the principal; empty for a principal without scopes.
    pub(super) scopes: BTreeMap<String, Timestamp>,
}

/// The use of the policies in a log.
#[derive(Debug, Default, Clone)]
pub struct Usage {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// The number of decisions, and of those that are allow.
    decisions: u64,
    allows: u64,
    has_prerequisites: bool,
    pub(super) permits: BTreeMap<String, PermitUse>,
    /// The last use of each API key, and its user.
    keys: BTreeMap<String, (Timestamp, String)>,
    /// The last use of an action by the highest scope of the principal.
    scope_actions: BTreeMap<(String, String), Timestamp>,
}

/// The period of a log.
#[derive(Debug, Clone, Copy)]
pub struct UsageWindow {
    /// The number of days before the last decision of the log.
    pub days: u32,
}

impl Usage {
    /// Adds a line of the log. A search uses a key, but no policy by name.
    pub fn add(&mut self, entry: LogEntry<'_>) {
        let decision = match entry {
            LogEntry::Decision(decision) => decision,
            LogEntry::Search(search) => {
                if let (Some(time), Some(caller)) = (search.time(), &search.caller) {
                    self.add_key(caller, time);
                }
                return;
            }
        };
        let Some(time) = decision.time() else { return };
        let millis = time.millis();
        let earliest = self.first.map_or(millis, |first| first.millis().min(millis));
        let latest = self.last.map_or(millis, |last| last.millis().max(millis));
        (self.first, self.last) =
            (Some(Timestamp::from_millis(earliest)), Some(Timestamp::from_millis(latest)));
        self.decisions += 1;
        if let Some(caller) = &decision.caller {
            self.add_key(caller, time);
        }
        if !decision.decision {
            return;
        }
        self.allows += 1;
        self.has_prerequisites |= decision.purpose == "prerequisite";
        let scope = decision.subject.scopes.last().map(ToString::to_string).unwrap_or_default();
        note(&mut self.scope_actions, (scope.clone(), decision.action.to_string()), time);
        for policy in &decision.policies {
            let usage = self.permits.entry(policy.to_string()).or_default();
            note(&mut usage.actions, decision.action.to_string(), time);
            note(&mut usage.scopes, scope.clone(), time);
        }
    }

    /// Adds the use of an API key by the caller of a request.
    fn add_key(&mut self, caller: &LoggedCaller<'_>, time: Timestamp) {
        if caller.credential.as_deref() == Some(CredentialKind::ApiKey.as_str())
            && let Some(key) = &caller.credential_id
        {
            let user = caller.user.as_deref().unwrap_or_default().to_owned();
            let entry = self.keys.entry(key.to_string()).or_insert((time, user));
            entry.0 = later(entry.0, time);
        }
    }

    /// The number of decisions, and of those that are allow.
    pub fn counts(&self) -> (u64, u64) {
        (self.decisions, self.allows)
    }

    /// The times of the first and the last decision.
    pub fn period(&self) -> Option<(Timestamp, Timestamp)> {
        self.first.zip(self.last)
    }

    /// Remarks on what the log does not contain.
    pub fn remarks(&self, window: UsageWindow) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.allows == 0 {
            remarks.push("the log contains no allow: record them with CEDARGATE_DECISION_LOG=all".to_owned());
        } else if !self.has_prerequisites {
            remarks.push(
                "the log contains no prerequisites, so policies that only serve these appear unused: \
                 record them with CEDARGATE_DECISION_LOG=full"
                    .to_owned(),
            );
        }
        let covered = self.period().map_or(0, |(first, last)| (last.millis() - first.millis()) / DAY);
        if covered < i64::from(window.days) {
            remarks.push(format!("the log covers only {covered} of {} days", window.days));
        }
        remarks
    }

    /// The scopes that used an action in the period, by action.
    pub fn scopes_by_action(&self, window: UsageWindow) -> BTreeMap<&str, Vec<&str>> {
        let start = self.start(window);
        let mut by_action: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ((scope, action), _) in self.scope_actions.iter().filter(|(_, time)| time.millis() >= start) {
            by_action.entry(action).or_default().push(if scope.is_empty() { "none" } else { scope });
        }
        by_action
    }

    fn start(&self, window: UsageWindow) -> i64 {
        self.last.map_or(0, |last| last.millis() - i64::from(window.days) * DAY)
    }
}

fn later(one: Timestamp, other: Timestamp) -> Timestamp {
    if one.millis() < other.millis() { other } else { one }
}

fn note<K: Ord>(times: &mut BTreeMap<K, Timestamp>, key: K, time: Timestamp) {
    let entry = times.entry(key).or_insert(time);
    *entry = later(*entry, time);
}

/// The permits, actions, scopes and API keys that were not used in the period. Empty if the log contains no allow.
pub fn usage_findings(bundle: &Bundle, usage: &Usage, window: UsageWindow) -> Vec<Finding> {
    if usage.allows == 0 {
        return Vec::new();
    }
    let start = usage.start(window);
    let days = window.days;
    let permits = in_file_order(bundle).into_iter().filter(|(_, metadata)| metadata.permits);
    let mut findings = Vec::new();
    for (policy, metadata) in permits {
        let used = usage.permits.get(&metadata.id).map(|permit| permit.since(start)).unwrap_or_default();
        if used.actions.is_empty() {
            let message = format!("{:?} allowed no request in {days} days", metadata.id);
            findings.push(policy_finding("unused-policy", Level::Note, policy, metadata, message));
            continue;
        }
        findings.extend(unused_actions(policy, metadata, &used, days));
        if let Some((required, lowest)) = higher_scope(policy, &used) {
            let message = format!(
                "{:?} permits the scope {required}, and in {days} days allowed only principals with the scope {lowest} or a higher one",
                metadata.id
            );
            let place = Head::of(source(policy)).map(|head| head.principal);
            findings.push(finding_at("unused-scope", policy, metadata, place, message));
        }
    }
    let unused = usage.keys.iter().filter(|(_, (last, _))| last.millis() < start);
    findings.extend(unused.map(|(key, (last, user))| Finding {
        rule: "unused-key",
        level: Level::Note,
        file: None,
        region: None,
        policy: None,
        message: format!("the API key {key} of the user {user} was last used on {last}"),
    }));
    findings
}

fn unused_actions(
    policy: &Policy,
    metadata: &PolicyMetadata,
    used: &PermitUse,
    days: u32,
) -> Option<Finding> {
    let unused: Vec<(EntityUid, String)> =
        listed_actions(policy).into_iter().filter(|(_, name)| !used.actions.contains_key(name)).collect();
    let (first, _) = unused.first()?;
    let names: Vec<&str> = unused.iter().map(|(_, name)| name.as_str()).collect();
    let message = format!("{:?} allowed no request in {days} days with {}", metadata.id, names.join(", "));
    let head = Head::of(source(policy));
    let place = head.and_then(|head| {
        let literal = first.to_string();
        let offset = head.action.start;
        let start = offset + source(policy).get(head.action)?.find(&literal)?;
        Some(start..start + literal.len())
    });
    Some(finding_at("unused-action", policy, metadata, place, message))
}

/// A finding about these bytes of the text of a policy.
fn finding_at(
    rule: &'static str,
    policy: &Policy,
    metadata: &PolicyMetadata,
    place: Option<std::ops::Range<usize>>,
    message: String,
) -> Finding {
    let finding = policy_finding(rule, Level::Note, policy, metadata, message);
    let region = policy.as_ref().loc().zip(place).map(|(location, place)| {
        let text = location.src.get(location.start() + place.start..location.start() + place.end);
        let text = text.unwrap_or_default();
        let start = location.start() + place.start + (text.len() - text.trim_start().len());
        Region::of(&location.src, start, start + text.trim().len())
    });
    Finding { region: region.or(finding.region), ..finding }
}

/// The text of a policy in its file.
pub(super) fn source(policy: &Policy) -> &str {
    policy.as_ref().loc().and_then(|location| location.snippet()).unwrap_or_default()
}

/// The actions that the scope of a policy lists, with their names in the log.
pub(super) fn listed_actions(policy: &Policy) -> Vec<(EntityUid, String)> {
    let actions = match policy.action_constraint() {
        ActionConstraint::Any => Vec::new(),
        ActionConstraint::Eq(action) => vec![action],
        ActionConstraint::In(actions) => actions,
    };
    actions.into_iter().map(|action| (action.clone(), crate::authz::action_name(&action))).collect()
}

/// The scope that a permit requires, and the lowest one that used it, if that is higher.
pub(super) fn higher_scope(policy: &Policy, used: &PermitUse) -> Option<(Scope, Scope)> {
    let required = match policy.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid)
            if uid.type_name().to_string() == "Scope" =>
        {
            uid.id().unescaped().parse::<Scope>().ok()?
        }
        _ => return None,
    };
    // A principal without a known scope rules out a higher one.
    let scopes: Option<Vec<Scope>> = used.scopes.keys().map(|scope| scope.parse().ok()).collect();
    let lowest = scopes?.into_iter().min()?;
    (lowest > required).then_some((required, lowest))
}

impl PermitUse {
    /// The use from this time on, in milliseconds.
    fn since(&self, start: i64) -> Self {
        let recent = |times: &BTreeMap<String, Timestamp>| {
            let times = times.iter().filter(|(_, time)| time.millis() >= start);
            times.map(|(key, time)| (key.clone(), *time)).collect()
        };
        Self { actions: recent(&self.actions), scopes: recent(&self.scopes) }
    }
}
