//! How long a decision takes, in process.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark ends where something is not as expected")]

use cedargate::authz::{
    Ask, Attribute, Bundle, Circumstances, Engine, Principal, Scope, ScopeSet, Sources, Thing, Undecided,
    UserFacts,
};
use cedargate::values::{Clock, Id, OrgPath};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

struct Conversation(Id);

impl Thing for Conversation {
    const TYPE: &'static str = "Conversation";

    fn id(&self) -> Id {
        self.0
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("type", cedargate::authz::text("contact"))]
    }
}

fn engine() -> Engine {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources =
        Sources { schema: vec![root.join("schema")], policies: vec![root.join("policies")], stored: vec![] };
    Engine::new(Bundle::read(&sources).unwrap()).unwrap()
}

fn decisions(criterion: &mut Criterion) {
    let engine = engine();
    let clock = Clock::system();
    let home = OrgPath::root(Id::new(&clock)).child(Id::new(&clock));
    let facts = UserFacts { organization: home.own(), role: Scope::Agent, status: "active", email: None };
    let scopes = engine.effective(&ScopeSet::from(Scope::Agent), Scope::Agent);
    let principal = Principal::new(Id::new(&clock), &home, facts, scopes.as_ref());
    let circumstances = Circumstances {
        credential: Some("password".into()),
        ip: Some([127, 0, 0, 1].into()),
        now: Some(clock.now()),
        ..Circumstances::default()
    };
    for action in ["fetchConversation", "deleteConversation"] {
        let ask = Ask { principal: &principal, action, circumstances: &circumstances, trail: None };
        criterion.bench_function(&format!("decide {action}, a new thing each time"), |bencher| {
            bencher.iter(|| {
                let thing = Undecided::new(Conversation(Id::new(&clock)), home.clone());
                black_box(engine.decide(&ask, &thing.resourced()))
            });
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
