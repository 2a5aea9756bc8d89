//! Questions of late, understood. Whoever asks the same in the same words means the same by them, and may ask it still, as
//! long as the caller, the policies and what it asks about are as they were. Such a question is neither read nor looked up
//! again. It is decided each time, by the engine, and recorded like any other.

use super::question::{self, Named, Verdict};
use crate::authz::{Ask, Circumstances, Principal, Resourced};
use crate::http::Gate;
use crate::store::Stamp;
use crate::values::{Fingerprint, Id, Near};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::sync::Arc;

/// How many questions a thread has near.
const MOST: usize = 1_024;

/// How many bytes a question has at most that is kept.
const LONGEST: usize = 2_048;

/// The decisions on the way to one of these questions: whether the caller may ask about somebody, and name a thing.
const STEPS: [&str; 3] = ["evaluateAccess", "evaluateForeignAccess", "referTo"];

thread_local! {
    static NEAR: RefCell<Near<Understood>> = const { RefCell::new(Near::EMPTY) };
}

/// What the caller, the policies and the words of a question are together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words(Fingerprint);

impl Words {
    /// Those of this body; none of a long one, which would take too much room.
    pub(super) fn of(gate: &Gate, body: &[u8]) -> Option<Self> {
        let caller = gate.caller().principal.fingerprint();
        (body.len() <= LONGEST).then(|| Self(Fingerprint::of(&(gate.engine().number(), caller, body))))
    }
}

/// A question that its caller may ask, about a thing that it may name.
#[derive(Debug)]
pub(super) struct Understood {
    pub(super) principal: Arc<Principal>,
    /// Whether it is the caller itself, with the credential in hand.
    pub(super) is_own: bool,
    pub(super) action: String,
    pub(super) thing: Arc<Resourced>,
    /// What is said of the call.
    pub(super) said: Map<String, Value>,
    /// What of the store it was understood from, as that was before.
    pub(super) read: [Before; 2],
}

/// A thing of the store, and when it was looked at; none of what is not in the store.
pub(super) type Before = Option<(Id, Stamp)>;

/// Whom or what a question names, before it is looked at.
pub(super) fn before(gate: &Gate, named: Named<'_>) -> Before {
    let id = gate.id(named.id).filter(|_| gate.parts().kinds.has(named.kind))?;
    Some((id, gate.parts().store.stamp(id)))
}

/// The verdict on a question that is understood already; none where it is not.
pub(super) fn decide(gate: &Gate, words: Words) -> Option<Verdict> {
    NEAR.with_borrow(|near| {
        let known = near.get(words.0)?;
        let store = &gate.parts().store;
        if !known.read.iter().flatten().all(|(id, stamp)| store.is_good(*stamp, *id)) {
            return None;
        }
        let call = if known.is_own { gate.circumstances() } else { gate.moment() };
        let circumstances = Circumstances { said: known.said.clone(), ..call };
        let ask = Ask {
            principal: &known.principal,
            action: &known.action,
            circumstances: &circumstances,
            trail: Some(gate.trail()),
        };
        Some(question::decide_there(gate.engine(), &ask, &known.thing, false))
    })
}

/// Keeps a question. Where the way to it depends on more than is looked at when it is asked again, such as the time or the
/// caller's address, it is not kept.
pub(super) fn keep(gate: &Gate, words: Words, question: Understood) {
    if STEPS.iter().any(|action| gate.engine().reads_context(action)) {
        return;
    }
    NEAR.with_borrow_mut(|near| near.keep(MOST, words.0, question));
}
