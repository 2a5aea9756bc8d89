//! What is left behind of a decision: a record of it in the decision log, with what is needed to decide it again.

use super::bundle::About;
use super::facts::{Body, Resourced};
use super::{Answer, Ask};
use crate::decision_log::{Caller, DecisionLog, Grounds, Inputs, Record, Subject, Text, Thing};
use crate::values::Timestamp;
use cedar_policy_core::ast::Entity;
use serde_json::{Map, Value, json};
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

impl Grounds for Answer {
    fn policies(&self) -> Vec<&str> {
        self.policies.iter().map(|about: &Arc<About>| about.id.as_str()).collect()
    }

    fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl Trail {
    /// Whether this decision is to be recorded.
    pub(super) fn wants(&self, allowed: bool) -> bool {
        self.log.wants(allowed) && !(self.is_step && allowed)
    }

    /// Records a decision.
    pub(super) fn record(
        &self,
        ask: &Ask<'_>,
        resource: &Resourced,
        answer: &Arc<Answer>,
        version: &Arc<str>,
        latency: Duration,
    ) {
        let time = ask.circumstances.now.unwrap_or(Timestamp::from_millis(0));
        let named = |uid: Option<(String, String)>| uid.unwrap_or_default();
        let (subject_kind, subject_id) = named(
            ask.principal
                .uid
                .as_ref()
                .map(|uid| (uid.type_name().to_string(), uid.id().unescaped().to_owned())),
        );
        let (kind, id) = match &resource.body {
            Body::Own(own) => own.name(),
            Body::Foreign(foreign) => {
                (foreign.uid.type_name().to_string(), foreign.uid.id().unescaped().to_owned())
            }
        };
        let (principal, thing) = (ask.principal.entity.clone(), resource.clone());
        let circumstances = ask.circumstances.clone();
        self.log.record(Record {
            time,
            request: self.request.clone().map(Text::Shared),
            caller: self.caller,
            subject: Subject {
                kind: subject_kind.into(),
                id: subject_id.into(),
                scopes: ask.principal.scope_words(),
            },
            action: ask.action.to_owned().into(),
            resource: Thing { kind: kind.into(), id: id.into() },
            decision: answer.allowed,
            grounds: Arc::clone(answer) as Arc<dyn Grounds>,
            policy_version: Text::Shared(Arc::clone(version)),
            latency,
            inputs: Inputs::made(move || {
                let thing = match &thing.body {
                    Body::Own(own) => own.uid().and_then(|uid| own.entity(&uid, &Default::default())),
                    Body::Foreign(foreign) => foreign.entity.clone(),
                };
                let mut context: Map<String, Value> = circumstances.said.clone();
                let known = cedar_policy::Context::from_pairs(circumstances.known(|_| true)).ok();
                if let Some(Value::Object(known)) = known.and_then(|known| known.to_json_value().ok()) {
                    context.extend(known);
                }
                json!({ "entities": [form(principal), form(thing)], "context": context })
            }),
        });
    }
}

/// An entity as entity data has it.
fn form(entity: Option<Arc<Entity>>) -> Value {
    let entity = entity.map(|entity| cedar_policy::Entity::from(entity.as_ref().clone()));
    entity.and_then(|entity| entity.to_json_value().ok()).unwrap_or(Value::Null)
}
