//! What is left behind of a decision: a record of it in the decision log, with what is needed to decide it again.

use super::Answer;
use super::circumstances::Circumstances;
use super::facts::{Principal, Resourced};
use crate::decision_log::{DecisionLog, Gathered, Inputs, Record, Subject, Thing};
use crate::trace;
use crate::values::{Timestamp, raw};
use serde_json::value::RawValue;
use std::time::Duration;

/// On whose behalf decisions are made, and where they are recorded.
#[derive(Debug, Clone, Copy)]
pub struct Trail<'a> {
    /// The log.
    pub log: &'a DecisionLog,
    /// Where the records of this request gather, if it asks for many decisions.
    pub gathered: Option<&'a Gathered>,
    /// The id of the request, if there is one.
    pub request: Option<&'a str>,
    /// Who asks: a [`crate::decision_log::Caller`] in words.
    pub caller: &'a RawValue,
    /// When.
    pub time: Timestamp,
    /// Whether these decisions are steps on the way to another one, which are recorded only where they deny.
    pub is_step: bool,
    /// Whether they are made while the database is away, with what was read before.
    pub is_stale: bool,
}

/// A decision, and what it was made of.
pub(super) struct Decided<'a> {
    pub(super) subject: &'a Principal,
    pub(super) action: &'a RawValue,
    /// What the thing is called.
    pub(super) named: &'a RawValue,
    pub(super) thing: &'a Resourced,
    pub(super) circumstances: &'a Circumstances,
    pub(super) answer: &'a Answer,
    pub(super) version: &'a RawValue,
    pub(super) latency: Duration,
}

impl Trail<'_> {
    /// Whether this decision is to be recorded.
    pub(super) fn wants(&self, allowed: bool) -> bool {
        self.log.wants(allowed) && !(self.is_step && allowed)
    }

    fn hand_over(&self, record: &Record<'_>) {
        match self.gathered {
            Some(gathered) => gathered.record(record),
            None if self.log.record(record) => {}
            None => trace::mark_unrecorded(),
        }
    }

    /// Records a decision. Its circumstances have nothing that is said of a call and read by nobody: callers say what they
    /// have, and that may be a token.
    pub(super) fn record(&self, decided: &Decided<'_>) {
        let Decided { answer, latency, .. } = *decided;
        let subject = decided.subject.shown();
        let entities = [&*subject.entity, decided.thing.shown()];
        decided.circumstances.as_words(|context| {
            self.hand_over(&Record {
                time: self.time,
                request: self.request,
                caller: self.caller,
                subject: &subject.subject,
                action: decided.action,
                resource: decided.named,
                decision: answer.allowed,
                policies: answer.ids(),
                errors: &answer.errors,
                policy_version: decided.version,
                latency,
                is_stale: self.is_stale,
                inputs: Some(Inputs { entities, context }),
            });
        });
    }

    /// Records a no to a question that nobody could decide: who or what it names, each by type and id, is not there or
    /// cannot be understood. Why is a code: a message may cite what the caller said.
    pub fn record_undecided(
        &self,
        subject: (&str, &str),
        action: &str,
        resource: (&str, &str),
        code: &'static str,
        version: &RawValue,
    ) {
        if !self.wants(false) {
            return;
        }
        self.hand_over(&Record {
            time: self.time,
            request: self.request,
            caller: self.caller,
            subject: &raw(&Subject { kind: subject.0, id: subject.1, scopes: &[] }),
            action: &raw(&action),
            resource: &raw(&Thing { kind: resource.0, id: resource.1 }),
            decision: false,
            policies: &raw(&[(); 0]),
            errors: &[code.to_owned()],
            policy_version: version,
            latency: Duration::ZERO,
            is_stale: self.is_stale,
            inputs: None,
        });
    }
}
