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

/// How many actions the other domain has. Cedar's validator looks at every policy once for each action.
const ACTIONS: usize = 100;

/// The service's own policies, and so many of another domain.
fn engine(further: usize) -> Engine {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let mut schema = String::from("namespace Other {\n  entity Person;\n  entity Thing;\n");
    let mut policies = String::new();
    for at in 0..further.min(ACTIONS) {
        schema.push_str(&format!(
            "  action a{at} appliesTo {{ principal: Person, resource: Thing, context: {{}} }};\n"
        ));
    }
    for at in 0..further {
        let action = at % ACTIONS;
        policies.push_str(&format!(
            "@id(\"other{at}\")\npermit (principal, action == Other::Action::\"a{action}\", resource);\n"
        ));
    }
    schema.push_str("}\n");
    std::fs::write(directory.path().join("other.cedarschema"), schema).unwrap();
    std::fs::write(directory.path().join("other.cedar"), policies).unwrap();
    let more = directory.path().to_path_buf();
    let sources = Sources {
        schema: vec![root.join("schema"), more.clone()],
        policies: vec![root.join("policies"), more],
        stored: vec!["User", "Conversation"],
    };
    Engine::new(Bundle::read(&sources).unwrap()).unwrap()
}

fn decisions(criterion: &mut Criterion) {
    for further in [0, 10_000] {
        let engine = engine(further);
        let clock = Clock::system();
        let home = OrgPath::root(Id::new(&clock)).child(Id::new(&clock));
        let facts = UserFacts { organization: home.own(), role: Scope::Agent, status: "active", email: None };
        let scopes = engine.effective(&ScopeSet::from(Scope::Agent), Scope::Agent);
        let principal = Principal::new(Id::new(&clock), &home, facts, scopes.as_ref());
        let circumstances = Circumstances {
            credential: Some("password"),
            ip: Some([127, 0, 0, 1].into()),
            now: Some(clock.now()),
            ..Circumstances::default()
        };
        let ask = Ask {
            principal: &principal,
            action: "fetchConversation",
            circumstances: &circumstances,
            trail: None,
        };
        let thing = || Undecided::new(Conversation(Id::new(&clock)), home.clone()).resourced();
        criterion.bench_function(
            &format!("decide, a new thing each time, {further} further policies"),
            |bencher| {
                bencher.iter_batched_ref(
                    thing,
                    |thing| black_box(engine.decide(&ask, thing)),
                    criterion::BatchSize::SmallInput,
                );
            },
        );
        // Where a thing stands is all that is read of it, so only a place that was not asked about before is.
        let elsewhere = || {
            let place = home.child(Id::new(&clock));
            Undecided::new(Conversation(Id::new(&clock)), place).resourced()
        };
        criterion.bench_function(
            &format!("decide, a new place each time, {further} further policies"),
            |bencher| {
                bencher.iter_batched_ref(
                    elsewhere,
                    |thing| black_box(engine.decide(&ask, thing)),
                    criterion::BatchSize::SmallInput,
                );
            },
        );
        let same = thing();
        criterion.bench_function(&format!("decide, the same again, {further} further policies"), |bencher| {
            bencher.iter(|| black_box(engine.decide(&ask, &same)));
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
