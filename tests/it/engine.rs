//! The engine's shortcuts change no decision: slices, policies that are asked one by one and not for their action, remembered
//! answers and entities made by hand against Cedar's own `is_authorized` over the whole policy set.

use crate::support::project_file;
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request};
use cedargate::authz::{
    Ask, Attribute, Bundle, Circumstances, Engine, Principal, Resourced, Scope, ScopeSet, Sources, Thing,
    Undecided, UserFacts,
};
use cedargate::values::{Id, OrgPath};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

const ACTIONS: [&str; 8] = [
    "fetchConversation",
    "updateConversation",
    "deleteConversation",
    "referTo",
    "fetchMessage",
    "updateMessage",
    "fetchUser",
    "updateUser",
];

/// A thing of one of three types.
#[derive(Debug, Clone)]
struct Sample<const KIND: usize> {
    id: Id,
    attributes: Vec<(&'static str, Attribute)>,
}

const KINDS: [&str; 3] = ["Conversation", "Message", "User"];

impl<const KIND: usize> Thing for Sample<KIND> {
    const TYPE: &'static str = KINDS[KIND];

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        self.attributes.clone()
    }
}

/// A question, in numbers that proptest can shrink.
#[derive(Debug, Clone)]
struct Question {
    who: usize,
    what: usize,
    scope: usize,
    role: usize,
    home: usize,
    place: usize,
    action: usize,
    is_own: bool,
    word: usize,
    flag: bool,
    changes: Option<Vec<usize>>,
    credential: Option<usize>,
}

const WORDS: [&str; 4] = ["chat", "support", "open", "x"];
const FIELDS: [&str; 4] = ["role", "meta", "email", "password"];
const CREDENTIALS: [&str; 2] = ["password", "apiKey"];

fn questions() -> impl Strategy<Value = Question> {
    (
        (0..2_usize, 0..2_usize),
        (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize, 0..ACTIONS.len()),
        (any::<bool>(), 0..4_usize, any::<bool>()),
        proptest::option::of(proptest::collection::vec(0..4_usize, 0..3)),
        proptest::option::of(0..2_usize),
    )
        .prop_map(
            |((who, what), (scope, role, home, place, action), (is_own, word, flag), changes, credential)| {
                Question {
                    who,
                    what,
                    scope,
                    role,
                    home,
                    place,
                    action,
                    is_own,
                    word,
                    flag,
                    changes,
                    credential,
                }
            },
        )
}

/// A policy, from parts that the schema allows together for every one of the actions.
fn policies() -> impl Strategy<Value = String> {
    let effect = prop_oneof![Just("permit"), Just("forbid")];
    let principal = prop_oneof![
        Just("principal".to_owned()),
        Just("principal is User".to_owned()),
        (0..4_usize).prop_map(|scope| format!("principal in Scope::\"{}\"", Scope::ALL[scope])),
    ];
    let action = prop_oneof![
        Just("action".to_owned()),
        (0..ACTIONS.len()).prop_map(|at| format!("action == Action::\"{}\"", ACTIONS[at])),
        proptest::collection::vec(0..ACTIONS.len(), 1..4).prop_map(|all| {
            let all: Vec<String> = all.iter().map(|at| format!("Action::\"{}\"", ACTIONS[*at])).collect();
            format!("action in [{}]", all.join(", "))
        }),
    ];
    let resource = prop_oneof![
        Just("resource".to_owned()),
        (0..4_usize).prop_map(|at| format!("resource in Organization::\"{}\"", organization(at))),
    ];
    let condition = prop_oneof![
        Just(String::new()),
        Just("when { principal == resource }".to_owned()),
        Just("unless { resource in principal.organization }".to_owned()),
        Just("when { context has credential && context.credential == \"apiKey\" }".to_owned()),
        Just("when { action == Action::\"updateUser\" && principal.role == Scope::\"admin\" }".to_owned()),
        // What the entities of actions and of the data say, and not those that are asked about.
        Just("unless { action in [Action::\"updateUser\", Action::\"fetchMessage\"] }".to_owned()),
        Just("when { Scope::\"admin\" in Scope::\"agent\" }".to_owned()),
        Just("when { principal has email && principal.email like \"a*\" }".to_owned()),
        Just("when { context has now && context.now > datetime(\"2020-01-01\") }".to_owned()),
        // What tells people and things apart that stand in the same place.
        (0..2_usize).prop_map(|who| format!("when {{ principal == {} }}", user(who))),
        (0..2_usize).prop_map(|who| format!("when {{ {{Var: principal}} == {{Var: {}}} }}", user(who))),
        (0..2_usize).prop_map(|who| format!("unless {{ [{}].contains(principal) }}", user(who))),
        (0..2_usize).prop_map(|who| format!("when {{ {}.status == \"active\" }}", user(who))),
        (0..2_usize).prop_map(|who| format!("unless {{ {} in principal.organization }}", user(who))),
        (0..2_usize).prop_map(|what| format!("when {{ resource == Conversation::\"{}\" }}", THINGS[what])),
        Just("unless { resource has type && resource.type == \"chat\" }".to_owned()),
        Just("when { resource in principal.organization && principal has email }".to_owned()),
        Just("when { resource.organization != principal.organization }".to_owned()),
        Just("unless { principal in resource.organization || principal has email }".to_owned()),
        (0..4_usize).prop_map(|at| format!(
            "when {{ resource.organization == Organization::\"{}\" }}",
            organization(at)
        )),
    ];
    (effect, principal, action, resource, condition).prop_map(
        |(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

fn organization(at: usize) -> Id {
    format!("599e1fcd9da1c72645c9580{at}").parse().unwrap()
}

/// Root, two below it, and one below the first of these.
fn path(at: usize) -> OrgPath {
    let root = OrgPath::root(organization(0));
    match at {
        0 => root,
        3 => root.child(organization(1)).child(organization(3)),
        other => root.child(organization(other)),
    }
}

const PEOPLE: [&str; 2] = ["599e1fcd9da1c72645c95886", "599e1fcd9da1c72645c95896"];
const THINGS: [&str; 2] = ["599e1fcd9da1c72645c95887", "599e1fcd9da1c72645c95897"];
const EMAILS: [&str; 2] = ["ada@example.com", "bob@example.com"];

fn person(question: &Question) -> Id {
    PEOPLE[question.who].parse().unwrap()
}

fn thing(question: &Question) -> Id {
    THINGS[question.what].parse().unwrap()
}

fn user(who: usize) -> String {
    format!("User::\"{}\"", PEOPLE[who])
}

/// What Cedar says, of everything, without a shortcut: the decision, and how many policies err.
fn plainly(question: &Question, engine: &Engine, all: &PolicySet, schema: &cedar_policy::Schema) -> Decided {
    let role = Scope::ALL[question.role];
    let scopes = engine.effective(&ScopeSet::from(Scope::ALL[question.scope]), role);
    let scopes = scopes.iter().flat_map(ScopeSet::iter);
    let mut entities: Vec<Value> = serde_json::from_str::<Vec<Value>>(
        &std::fs::read_to_string(project_file("policies/scopes.json")).unwrap(),
    )
    .unwrap();
    let reference = |kind: &str, id: String| json!({ "type": kind, "id": id });
    for at in 0..4 {
        let parent = path(at).parent().map(|parent| reference("Organization", parent.to_string()));
        entities.push(json!({
            "uid": reference("Organization", organization(at).to_string()),
            "attrs": { "organization": reference("Organization", organization(at).to_string()) },
            "parents": parent.into_iter().collect::<Vec<_>>()
        }));
    }
    let kind = kind(question);
    let is_self = kind == "User" && question.is_own;
    let user = |home: usize, role: Scope| {
        json!({
            "organization": { "__entity": reference("Organization", organization(home).to_string()) },
            "role": { "__entity": reference("Scope", role.to_string()) },
            "status": "active", "email": EMAILS[question.who]
        })
    };
    let mut parents: Vec<Value> = scopes.map(|scope| reference("Scope", scope.to_string())).collect();
    parents.push(reference("Organization", organization(question.home).to_string()));
    entities.push(json!({
        "uid": reference("User", person(question).to_string()), "attrs": user(question.home, role), "parents": parents
    }));
    let thing = if is_self { person(question) } else { thing(question) };
    if !is_self {
        let holder = reference("Organization", organization(question.place).to_string());
        let word = WORDS[question.word];
        let attributes = match kind {
            "Conversation" => json!({ "organization": holder, "type": word }),
            "Message" => json!({ "organization": holder, "type": word, "isBackchannel": question.flag }),
            _ => user(question.place, Scope::Guest),
        };
        entities.push(json!({
            "uid": reference(kind, thing.to_string()), "attrs": attributes,
            "parents": [reference("Organization", organization(question.place).to_string())]
        }));
    }
    let action = ACTIONS[question.action];
    let mut context = serde_json::Map::new();
    if let Some(at) = question.credential {
        context.insert("credential".into(), CREDENTIALS[at].into());
    }
    if let Some(changes) = question.changes.as_ref().filter(|_| action.starts_with("update")) {
        context.insert("changes".into(), changes.iter().map(|at| FIELDS[*at]).collect());
    }
    context
        .insert("now".into(), json!({ "__extn": { "fn": "datetime", "arg": "2026-01-31T12:00:00.000Z" } }));
    let uid = |kind: &str, id: &str| format!("{kind}::\"{id}\"").parse::<EntityUid>().unwrap();
    let request = Request::new(
        uid("User", &person(question).to_string()),
        uid("Action", action),
        uid(kind, &thing.to_string()),
        Context::from_json_value(Value::Object(context), None).unwrap(),
        Some(schema),
    )
    .unwrap();
    let entities = Entities::from_json_value(Value::Array(entities), Some(schema)).unwrap();
    plain_answer(&request, all, &entities)
}

/// What was decided, by which policies, and how many errors there are.
pub(crate) type Decided = (bool, Vec<String>, usize);

/// What Cedar says by all policies. One with no `@id` is called by its number, as in [`bundle`]. An error denies.
pub(crate) fn plain_answer(request: &Request, all: &PolicySet, entities: &Entities) -> Decided {
    let response = Authorizer::new().is_authorized(request, all, entities);
    let errors = response.diagnostics().errors().count();
    let is_allowed = response.decision() == Decision::Allow;
    let name = |id: &PolicyId| match all.annotation(id, "id") {
        Some(id) => id.to_owned(),
        None => AsRef::<str>::as_ref(id).replace("policy", "p"),
    };
    let mut deciding: Vec<String> = response.diagnostics().reason().map(name).collect();
    deciding.sort_unstable();
    if is_allowed && errors > 0 {
        deciding.clear();
    }
    (is_allowed && errors == 0, deciding, errors)
}

fn kind(question: &Question) -> &'static str {
    match ACTIONS[question.action] {
        "referTo" => KINDS[question.word % 3],
        action => KINDS.iter().find(|kind| action.ends_with(*kind)).unwrap(),
    }
}

/// What the engine says.
fn quickly(question: &Question, engine: &Engine) -> Decided {
    let home = path(question.home);
    let role = Scope::ALL[question.role];
    let email = EMAILS[question.who].parse().unwrap();
    let facts = UserFacts { organization: home.own(), role, status: "active", email: Some(&email) };
    let scopes = engine.effective(&ScopeSet::from(Scope::ALL[question.scope]), role);
    let principal = Principal::new(person(question), &home, facts, scopes.as_ref());
    let action = ACTIONS[question.action];
    let changes = question.changes.as_ref().filter(|_| action.starts_with("update"));
    let circumstances = Circumstances {
        credential: question.credential.map(|at| CREDENTIALS[at]),
        now: Some("2026-01-31T12:00:00Z".parse().unwrap()),
        changes: changes.map(|changes| changes.iter().map(|at| FIELDS[*at].to_owned()).collect()),
        ..Circumstances::default()
    };
    let other = thing(question);
    let word = ("type", cedargate::authz::text(WORDS[question.word]));
    let resource = match kind(question) {
        "Conversation" => {
            Undecided::new(Sample::<0> { id: other, attributes: vec![word] }, path(question.place))
                .resourced()
        }
        "Message" => {
            let flag = ("isBackchannel", cedargate::authz::boolean(question.flag));
            Undecided::new(Sample::<1> { id: other, attributes: vec![word, flag] }, path(question.place))
                .resourced()
        }
        _ if question.is_own => {
            Undecided::new(Sample::<2> { id: person(question), attributes: facts.attributes() }, home)
                .resourced()
        }
        _ => {
            let organization = organization(question.place);
            let facts = UserFacts { organization, role: Scope::Guest, ..facts };
            let thing = Sample::<2> { id: other, attributes: facts.attributes() };
            Undecided::new(thing, path(question.place)).resourced()
        }
    };
    let ask = Ask { principal: &principal, action, circumstances: &circumstances, trail: None };
    decided(engine, &ask, &resource)
}

/// What the engine says, the first time and when it remembers.
pub(crate) fn decided(engine: &Engine, ask: &Ask<'_>, resource: &Resourced) -> Decided {
    let answer = engine.decide(ask, resource);
    let again = engine.decide(ask, resource);
    assert_eq!((answer.allowed, &answer.policies), (again.allowed, &again.policies), "remembered otherwise");
    let deciding = answer.policies.iter().map(|about| about.id.clone()).collect();
    (answer.allowed, deciding, answer.errors.len())
}

/// The schema of the service and of this directory, with these policies beside the data there.
pub(crate) fn bundle(directory: &Path, policies: &[String]) -> Result<Bundle, cedargate::authz::BundleError> {
    let numbered: Vec<String> =
        policies.iter().enumerate().map(|(at, text)| format!("@id(\"p{at}\")\n{text}\n")).collect();
    std::fs::write(directory.join("generated.cedar"), numbered.join("\n")).unwrap();
    std::fs::copy(project_file("policies/scopes.json"), directory.join("scopes.json")).unwrap();
    Bundle::read(&Sources {
        schema: vec![project_file("schema"), directory.to_owned()],
        policies: vec![directory.to_owned()],
        stored: vec!["User", "Organization", "Conversation", "Message", "Form"],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_quick_way_decides_as_the_plain_way(
        texts in proptest::collection::vec(policies(), 1..12),
        asked in proptest::collection::vec(questions(), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        // What never applies is a warning, and a warning an error: such sets are not decided by.
        let usable: Vec<String> =
            texts.into_iter().filter(|text| bundle(directory.path(), std::slice::from_ref(text)).is_ok()).collect();
        prop_assume!(!usable.is_empty());
        let engine = Engine::new(bundle(directory.path(), &usable).unwrap()).unwrap();
        let schema: cedar_policy::Schema =
            std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap().parse().unwrap();
        let all: PolicySet = usable.join("\n").parse().unwrap();
        for question in &asked {
            prop_assert_eq!(quickly(question, &engine), plainly(question, &engine, &all, &schema), "{:?}", question);
        }
    }

    #[test]
    fn the_service_s_own_policies_decide_alike_both_ways(asked in proptest::collection::vec(questions(), 1..200)) {
        let sources = Sources {
            schema: vec![project_file("schema")],
            policies: vec![project_file("policies")],
            stored: vec!["User", "Organization"],
        };
        let engine = Engine::new(Bundle::read(&sources).unwrap()).unwrap();
        let schema: cedar_policy::Schema =
            std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap().parse().unwrap();
        let files = ["scopes", "self", "service", "tenancy"].map(|name| {
            std::fs::read_to_string(project_file(&format!("policies/{name}.cedar"))).unwrap()
        });
        let all: PolicySet = files.join("\n").parse().unwrap();
        for question in &asked {
            prop_assert_eq!(quickly(question, &engine), plainly(question, &engine, &all, &schema), "{:?}", question);
        }
    }
}
