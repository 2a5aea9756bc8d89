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
    Attribute, AuthzRequest, AuthzResource, Bundle, DecisionContext, Engine, Principal, Scope, ScopeSet,
    Sources, Unchecked, UserAttributes,
};
use cedargate::types::{Clock, Id, OrgPath};
use criterion::Criterion;
use std::hint::black_box;
use std::path::Path;

struct Conversation(Id);

impl AuthzResource for Conversation {
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
const EXTRA_POLICIES: usize = 10_000;

/// What the other domain's policies are for.
const NO_EXTRA_POLICIES: &str = "no further policies";
const OF_ACTIONS: &str = "10,000 further policies of their actions";
const OF_TYPES: &str = "10,000 further policies of their types";
const SETS: [&str; 3] = [NO_EXTRA_POLICIES, OF_ACTIONS, OF_TYPES];

/// What is asked.
const QUESTIONS: [&str; 3] = ["a new place each time", "a new thing each time", "the same again"];

fn benchmark_name(question: &str, set: &str) -> String {
    format!("{question}, {set}")
}

/// The service's own policies, and those of another domain: each for one of its actions, or for one of its types.
fn engine(set: &str) -> Engine {
    let further = if set == NO_EXTRA_POLICIES { 0 } else { EXTRA_POLICIES };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let mut schema = String::from("namespace Other {\n  entity Person;\n  entity Thing;\n");
    let mut policies = String::new();
    for index in 0..further.min(ACTIONS) {
        schema.push_str(&format!(
            "  action a{index} appliesTo {{ principal: Person, resource: Thing, context: {{}} }};\n"
        ));
    }
    for index in 0..further {
        let scope = match set {
            OF_TYPES => "principal is Other::Person, action, resource".to_owned(),
            _ => format!("principal, action == Other::Action::\"a{}\", resource", index % ACTIONS),
        };
        policies.push_str(&format!("@id(\"other{index}\")\npermit ({scope});\n"));
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
        let facts =
            UserAttributes { organization: home.org_id(), role: Scope::Agent, status: "active", email: None };
        let scopes = engine.effective_scopes(&ScopeSet::from(Scope::Agent), Scope::Agent);
        let principal = Principal::new(Id::new(&clock), &home, facts, scopes.as_ref());
        let circumstances = DecisionContext {
            credential: Some("password"),
            ip: Some([127, 0, 0, 1].into()),
            now: Some(clock.now()),
            ..DecisionContext::default()
        };
        let ask = AuthzRequest {
            principal: &principal,
            action: "fetchConversation",
            context: &circumstances,
            recorder: None,
        };
        let resource = || Unchecked::new(Conversation(Id::new(&clock)), home.clone()).resource_entity();
        criterion.bench_function(&benchmark_name("a new thing each time", set), |bencher| {
            bencher.iter_batched_ref(
                resource,
                |resource| black_box(engine.decide(&ask, resource)),
                criterion::BatchSize::SmallInput,
            );
        });
        // Where a thing stands is all that is read of it, so only a place that was not asked about before is.
        let resource_elsewhere = || {
            let place = home.child(Id::new(&clock));
            Unchecked::new(Conversation(Id::new(&clock)), place).resource_entity()
        };
        criterion.bench_function(&benchmark_name("a new place each time", set), |bencher| {
            bencher.iter_batched_ref(
                resource_elsewhere,
                |resource| black_box(engine.decide(&ask, resource)),
                criterion::BatchSize::SmallInput,
            );
        });
        let same = resource();
        criterion.bench_function(&benchmark_name("the same again", set), |bencher| {
            bencher.iter(|| black_box(engine.decide(&ask, &same)));
        });
    }
}

/// How long it took as the median, in microseconds, by what criterion keeps of its last run.
fn median_micros(directory: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(directory.join(name).join("new/estimates.json")).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(estimates["median"]["point_estimate"].as_f64()? / 1_000.0)
}

fn main() {
    let output = tempfile::tempdir().unwrap();
    let mut criterion = Criterion::default().output_directory(output.path()).configure_from_args();
    decisions(&mut criterion);
    criterion.final_summary();
    println!("{:24} {:>9}  with further policies, as a ratio", "a decision", "us");
    for question in QUESTIONS {
        let median_of = |set: &str| median_micros(output.path(), &benchmark_name(question, set));
        let Some(none) = median_of(NO_EXTRA_POLICIES) else { continue };
        let ratio = |set: &str| median_of(set).map_or(f64::NAN, |micros| micros / none);
        println!(
            "{question:24} {none:9.3}  of their actions {:.2}, of their types {:.2}",
            ratio(OF_ACTIONS),
            ratio(OF_TYPES)
        );
    }
}
