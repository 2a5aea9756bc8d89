//! What is left behind of a decision: a record of it in the decision log, with what is needed to decide it again.

use super::facts::{Body, Circumstances, Resourced};
use super::{Answer, Ask};
use crate::decision_log::{Caller, DecisionLog, Record, Subject, Thing};
use crate::values::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;

/// On whose behalf decisions are made, and where they are recorded.
#[derive(Debug, Clone)]
pub struct Trail {
    /// The log.
    pub log: DecisionLog,
    /// The id of the request, if there is one.
    pub request: Option<Arc<str>>,
    /// Who asks.
    pub caller: Caller,
    /// Whether these decisions are steps on the way to another one, which are recorded only where they deny.
    pub is_step: bool,
}

/// What was read besides what a record names.
#[derive(Serialize)]
struct Inputs<'a> {
    entities: (&'a RawValue, &'a Body),
    context: &'a Circumstances,
}

impl Trail {
    /// Whether this decision is to be recorded.
    pub(super) fn wants(&self, allowed: bool) -> bool {
        self.log.wants(allowed) && !(self.is_step && allowed)
    }

    /// Records a decision that read these circumstances. What is said of a call and read by nobody is not recorded:
    /// callers say what they have, and that may be a token.
    pub(super) fn record(
        &self,
        ask: &Ask<'_>,
        circumstances: &Circumstances,
        resource: &Resourced,
        answer: &Answer,
        version: &str,
        latency: Duration,
    ) {
        let subject = ask.principal.shown();
        let (kind, id) = resource.body.name();
        self.log.record(&Record {
            time: circumstances.now.unwrap_or(Timestamp::from_millis(0)),
            request: self.request.as_deref(),
            caller: self.caller,
            subject: Subject { kind: &subject.kind, id: &subject.id, scopes: &subject.scopes },
            action: ask.action,
            resource: Thing { kind, id },
            decision: answer.allowed,
            policies: answer.policies.iter().map(|about| about.id.as_str()).collect(),
            errors: &answer.errors,
            policy_version: version,
            latency,
            inputs: Inputs { entities: (&subject.entity, &resource.body), context: circumstances },
        });
    }
}
