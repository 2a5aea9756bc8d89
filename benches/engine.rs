//! Measures the time of a decision in process, with the shipped policies only and with 10,000 policies of an external domain
//! in addition. Prints the ratios at the end.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark ends where something is not as expected"
)]

use cedargate::authz::{
    Attribute, AuthzRequest, AuthzResource, Bundle, CredentialKind, DecisionContext, Engine, Principal,
    Scope, ScopeSet, Sources, StoredType, Unchecked, UserAttributes,
};
use cedargate::types::{Clock, Id, OrgPath, UserStatus};
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

/// The number of actions of the external domain. Cedar's validator checks every policy once per action.
const ACTIONS: usize = 100;

/// The number of policies of the external domain.
const EXTRA_POLICIES: usize = 10_000;

/// The sets of additional policies: none, with an action constraint each, or with a type constraint only.
const NO_EXTRA_POLICIES: &str = "no external policies";
const OF_ACTIONS: &str = "10,000 external policies by action";
const OF_TYPES: &str = "10,000 external policies by type";
const SETS: [&str; 3] = [NO_EXTRA_POLICIES, OF_ACTIONS, OF_TYPES];

/// The questions: which part of the resource differs from the previous question.
const NEW_ORGANIZATION: &str = "new organization";
const NEW_RESOURCE: &str = "new resource";
const REPEATED: &str = "repeated question";
const QUESTIONS: [&str; 3] = [NEW_ORGANIZATION, NEW_RESOURCE, REPEATED];

fn benchmark_name(question: &str, set: &str) -> String {
    format!("{question}, {set}")
}

/// An engine with the shipped policies and a set of external ones.
fn engine(set: &str) -> Engine {
    let extra = if set == NO_EXTRA_POLICIES { 0 } else { EXTRA_POLICIES };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let mut schema = String::from("namespace Other {\n  entity Person;\n  entity Document;\n");
    let mut policies = String::new();
    for index in 0..extra.min(ACTIONS) {
        schema.push_str(&format!(
            "  action a{index} appliesTo {{ principal: Person, resource: Document, context: {{}} }};\n"
        ));
    }
    for index in 0..extra {
        let scope = match set {
            OF_TYPES => "principal is Other::Person, action, resource".to_owned(),
            _ => format!("principal, action == Other::Action::\"a{}\", resource", index % ACTIONS),
        };
        policies.push_str(&format!("@id(\"other{index}\")\npermit ({scope});\n"));
    }
    schema.push_str("}\n");
    std::fs::write(directory.path().join("other.cedarschema"), schema).unwrap();
    std::fs::write(directory.path().join("other.cedar"), policies).unwrap();
    let external = directory.path().to_path_buf();
    let sources = Sources {
        schema: vec![root.join("schema"), external.clone()],
        policies: vec![root.join("policies"), external],
        stored: cedargate::api::resource_types().iter().map(StoredType::from).collect(),
    };
    Engine::new(Bundle::read(&sources).unwrap()).unwrap()
}

fn decisions(criterion: &mut Criterion) {
    for set in SETS {
        let engine = engine(set);
        let clock = Clock::system();
        let home = OrgPath::root(Id::new(&clock)).child(Id::new(&clock));
        let user = UserAttributes {
            organization: home.org_id(),
            role: Scope::Agent,
            status: UserStatus::Active,
            email: None,
        };
        let scopes = engine.effective_scopes(&ScopeSet::from(Scope::Agent), Scope::Agent);
        let principal = Principal::new(Id::new(&clock), &home, user, scopes.as_ref());
        let context = DecisionContext {
            credential: Some(CredentialKind::Session),
            ip: Some([127, 0, 0, 1].into()),
            now: Some(clock.now()),
            ..DecisionContext::default()
        };
        let request = AuthzRequest {
            principal: &principal,
            action: "fetchConversation",
            context: &context,
            recorder: None,
        };
        let resource = || Unchecked::new(Conversation(Id::new(&clock)), home.clone()).resource_entity();
        criterion.bench_function(&benchmark_name(NEW_RESOURCE, set), |bencher| {
            bencher.iter_batched_ref(
                resource,
                |resource| black_box(engine.decide(&request, resource)),
                criterion::BatchSize::SmallInput,
            );
        });
        // The policies read only the organization of a conversation, so only a new organization misses the decision cache.
        let resource_elsewhere = || {
            let organization = home.child(Id::new(&clock));
            Unchecked::new(Conversation(Id::new(&clock)), organization).resource_entity()
        };
        criterion.bench_function(&benchmark_name(NEW_ORGANIZATION, set), |bencher| {
            bencher.iter_batched_ref(
                resource_elsewhere,
                |resource| black_box(engine.decide(&request, resource)),
                criterion::BatchSize::SmallInput,
            );
        });
        let repeated = resource();
        criterion.bench_function(&benchmark_name(REPEATED, set), |bencher| {
            bencher.iter(|| black_box(engine.decide(&request, &repeated)));
        });
    }
}

/// The median time of a benchmark in microseconds, from criterion's estimates of the last run.
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
    println!("{:24} {:>9}  ratio with external policies", "decision", "us");
    for question in QUESTIONS {
        let median_of = |set: &str| median_micros(output.path(), &benchmark_name(question, set));
        let Some(none) = median_of(NO_EXTRA_POLICIES) else { continue };
        let ratio = |set: &str| median_of(set).map_or(f64::NAN, |micros| micros / none);
        println!(
            "{question:24} {none:9.3}  by action {:.2}, by type {:.2}",
            ratio(OF_ACTIONS),
            ratio(OF_TYPES)
        );
    }
}
