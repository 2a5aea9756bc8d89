//! How long a decision takes, in process, and how much longer with ten thousand further policies of another domain: as
//! a ratio, at the end.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark ends where something is not as expected"
)]

use cedargate::authz::{
    Ask, Attribute, Bundle, Circumstances, Engine, Principal, Scope, ScopeSet, Sources, Thing, Undecided,
    UserFacts,
};
use cedargate::values::{Clock, Id, OrgPath};
use criterion::Criterion;
use std::hint::black_box;
use std::path::Path;

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

/// How many policies another domain has.
const FURTHER: usize = 10_000;

/// What the other domain's policies are for.
const NONE: &str = "no further policies";
const OF_ACTIONS: &str = "10,000 further policies of their actions";
const OF_TYPES: &str = "10,000 further policies of their types";
const SETS: [&str; 3] = [NONE, OF_ACTIONS, OF_TYPES];

/// What is asked.
const QUESTIONS: [&str; 3] = ["a new place each time", "a new thing each time", "the same again"];

fn name(question: &str, set: &str) -> String {
    format!("{question}, {set}")
}

/// The service's own policies, and those of another domain: each for one of its actions, or for one of its types.
fn engine(set: &str) -> Engine {
    let further = if set == NONE { 0 } else { FURTHER };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let mut schema = String::from("namespace Other {\n  entity Person;\n  entity Thing;\n");
    let mut policies = String::new();
    for at in 0..further.min(ACTIONS) {
        schema.push_str(&format!(
            "  action a{at} appliesTo {{ principal: Person, resource: Thing, context: {{}} }};\n"
        ));
    }
    for at in 0..further {
        let scope = match set {
            OF_TYPES => "principal is Other::Person, action, resource".to_owned(),
            _ => format!("principal, action == Other::Action::\"a{}\", resource", at % ACTIONS),
        };
        policies.push_str(&format!("@id(\"other{at}\")\npermit ({scope});\n"));
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
    for set in SETS {
        let engine = engine(set);
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
        criterion.bench_function(&name("a new thing each time", set), |bencher| {
            bencher.iter_batched_ref(
                thing,
                |thing| black_box(engine.decide(&ask, thing)),
                criterion::BatchSize::SmallInput,
            );
        });
        // Where a thing stands is all that is read of it, so only a place that was not asked about before is.
        let elsewhere = || {
            let place = home.child(Id::new(&clock));
            Undecided::new(Conversation(Id::new(&clock)), place).resourced()
        };
        criterion.bench_function(&name("a new place each time", set), |bencher| {
            bencher.iter_batched_ref(
                elsewhere,
                |thing| black_box(engine.decide(&ask, thing)),
                criterion::BatchSize::SmallInput,
            );
        });
        let same = thing();
        criterion.bench_function(&name("the same again", set), |bencher| {
            bencher.iter(|| black_box(engine.decide(&ask, &same)));
        });
    }
}

/// How long it took as the median, in microseconds, by what criterion keeps of its last run.
fn micros(directory: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(directory.join(name).join("new/estimates.json")).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(estimates["median"]["point_estimate"].as_f64()? / 1_000.0)
}

fn main() {
    let kept = tempfile::tempdir().unwrap();
    let mut criterion = Criterion::default().output_directory(kept.path()).configure_from_args();
    decisions(&mut criterion);
    criterion.final_summary();
    println!("{:24} {:>9}  with further policies, as a ratio", "a decision", "us");
    for question in QUESTIONS {
        let of = |set: &str| micros(kept.path(), &name(question, set));
        let Some(none) = of(NONE) else { continue };
        let ratio = |set: &str| of(set).map_or(f64::NAN, |micros| micros / none);
        println!(
            "{question:24} {none:9.3}  of their actions {:.2}, of their types {:.2}",
            ratio(OF_ACTIONS),
            ratio(OF_TYPES)
        );
    }
}
