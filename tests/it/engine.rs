//! The engine's optimizations change no decision: random questions are decided as by Cedar's `is_authorized` with the whole
//! policy set. The optimizations are the index by action, cached decisions, and stores with only the entities that can be read.

use crate::support::project_file;
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request};
use cedargate::authz::{
    Attribute, AuthzRequest, AuthzResource, Bundle, CredentialKind, DecisionContext, Engine, Principal,
    ResourceEntity, Scope, ScopeSet, Sources, StoredType, Unchecked, UserAttributes,
};
use cedargate::types::{Id, OrgPath, UserStatus};
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

/// A resource of one of three types.
#[derive(Debug, Clone)]
struct SampleResource<const KIND: usize> {
    id: Id,
    attributes: Vec<(&'static str, Attribute)>,
}

const KINDS: [&str; 3] = ["Conversation", "Message", "User"];

impl<const KIND: usize> AuthzResource for SampleResource<KIND> {
    const TYPE: &'static str = KINDS[KIND];

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        self.attributes.clone()
    }
}

/// A question, as numbers that proptest can shrink.
#[derive(Debug, Clone)]
struct Question {
    principal_index: usize,
    resource_index: usize,
    scope: usize,
    role: usize,
    home: usize,
    resource_home: usize,
    action: usize,
    is_own: bool,
    word: usize,
    flag: bool,
    changes: Option<Vec<usize>>,
    credential: Option<usize>,
}

const CONVERSATION_TYPES: [&str; 4] = ["contact", "agent", "bot", "system"];
const WORDS: [&str; 4] = ["chat", "support", "open", "x"];
const FIELDS: [&str; 4] = ["role", "meta", "email", "password"];
const CREDENTIALS: [CredentialKind; 2] = [CredentialKind::Session, CredentialKind::ApiKey];

fn questions() -> impl Strategy<Value = Question> {
    (
        (0..2_usize, 0..2_usize),
        (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize, 0..ACTIONS.len()),
        (any::<bool>(), 0..4_usize, any::<bool>()),
        proptest::option::of(proptest::collection::vec(0..4_usize, 0..3)),
        proptest::option::of(0..2_usize),
    )
        .prop_map(
            |(
                (principal_index, resource_index),
                (scope, role, home, resource_home, action),
                (is_own, word, flag),
                changes,
                credential,
            )| {
                Question {
                    principal_index,
                    resource_index,
                    scope,
                    role,
                    home,
                    resource_home,
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

/// A policy, from parts that the schema permits for every one of the actions.
fn policies() -> impl Strategy<Value = String> {
    let effect = prop_oneof![Just("permit"), Just("forbid")];
    let principal = prop_oneof![
        Just("principal".to_owned()),
        Just("principal is User".to_owned()),
        (0..4_usize).prop_map(|scope| format!("principal in Scope::\"{}\"", Scope::ALL[scope])),
    ];
    let action = prop_oneof![
        Just("action".to_owned()),
        (0..ACTIONS.len()).prop_map(|index| format!("action == Action::\"{}\"", ACTIONS[index])),
        proptest::collection::vec(0..ACTIONS.len(), 1..4).prop_map(|all| {
            let all: Vec<String> =
                all.iter().map(|index| format!("Action::\"{}\"", ACTIONS[*index])).collect();
            format!("action in [{}]", all.join(", "))
        }),
    ];
    let resource = prop_oneof![
        Just("resource".to_owned()),
        (0..4_usize).prop_map(|index| format!("resource in Organization::\"{}\"", organization(index))),
    ];
    let condition = prop_oneof![
        Just(String::new()),
        Just("when { principal == resource }".to_owned()),
        Just("unless { resource in principal.organization }".to_owned()),
        Just("when { context has credential && context.credential == Credential::\"apiKey\" }".to_owned()),
        Just("when { action == Action::\"updateUser\" && principal.role == Scope::\"admin\" }".to_owned()),
        // Reads entities of actions and data, rather than the principal or the resource.
        Just("unless { action in [Action::\"updateUser\", Action::\"fetchMessage\"] }".to_owned()),
        Just("when { Scope::\"admin\" in Scope::\"agent\" }".to_owned()),
        Just("when { principal has email && principal.email like \"a*\" }".to_owned()),
        Just("when { context has now && context.now > datetime(\"2020-01-01\") }".to_owned()),
        // Distinguishes principals and resources within one organization.
        (0..2_usize)
            .prop_map(|principal_index| format!("when {{ principal == {} }}", user_uid(principal_index))),
        (0..2_usize).prop_map(|principal_index| format!(
            "when {{ {{Var: principal}} == {{Var: {}}} }}",
            user_uid(principal_index)
        )),
        (0..2_usize).prop_map(|principal_index| format!(
            "unless {{ [{}].contains(principal) }}",
            user_uid(principal_index)
        )),
        (0..2_usize).prop_map(|principal_index| format!(
            "when {{ {}.status == UserStatus::\"active\" }}",
            user_uid(principal_index)
        )),
        (0..2_usize).prop_map(|principal_index| format!(
            "unless {{ {} in principal.organization }}",
            user_uid(principal_index)
        )),
        (0..2_usize).prop_map(|resource_index| format!(
            "when {{ resource == Conversation::\"{}\" }}",
            RESOURCE_IDS[resource_index]
        )),
        Just("unless { resource is Message && resource has type && resource.type == \"chat\" }".to_owned()),
        Just(
            "unless { resource is Conversation && resource has type && resource.type == ConversationType::\"agent\" }"
                .to_owned(),
        ),
        Just("when { resource in principal.organization && principal has email }".to_owned()),
        Just("when { resource.organization != principal.organization }".to_owned()),
        Just("unless { principal in resource.organization || principal has email }".to_owned()),
        (0..4_usize).prop_map(|index| format!(
            "when {{ resource.organization == Organization::\"{}\" }}",
            organization(index)
        )),
    ];
    (effect, principal, action, resource, condition).prop_map(
        |(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

fn organization(index: usize) -> Id {
    format!("599e1fcd9da1c72645c9580{index}").parse().unwrap()
}

/// The root, two organizations below it, and one below the first of these.
fn path(index: usize) -> OrgPath {
    let root = OrgPath::root(organization(0));
    match index {
        0 => root,
        3 => root.child(organization(1)).child(organization(3)),
        other => root.child(organization(other)),
    }
}

const PEOPLE: [&str; 2] = ["599e1fcd9da1c72645c95886", "599e1fcd9da1c72645c95896"];
const RESOURCE_IDS: [&str; 2] = ["599e1fcd9da1c72645c95887", "599e1fcd9da1c72645c95897"];
const EMAILS: [&str; 2] = ["ada@example.com", "bob@example.com"];

fn principal_id(question: &Question) -> Id {
    PEOPLE[question.principal_index].parse().unwrap()
}

fn resource_id(question: &Question) -> Id {
    RESOURCE_IDS[question.resource_index].parse().unwrap()
}

fn user_uid(principal_index: usize) -> String {
    format!("User::\"{}\"", PEOPLE[principal_index])
}

/// The decision of Cedar's authorizer with the whole policy set, and the number of failing policies.
fn decide_with_cedar(
    question: &Question,
    engine: &Engine,
    all: &PolicySet,
    schema: &cedar_policy::Schema,
) -> DecisionSummary {
    let role = Scope::ALL[question.role];
    let scopes = engine.effective_scopes(&ScopeSet::from(Scope::ALL[question.scope]), role);
    let scopes = scopes.iter().flat_map(ScopeSet::iter);
    let mut entities: Vec<Value> = serde_json::from_str::<Vec<Value>>(
        &std::fs::read_to_string(project_file("policies/scopes.json")).unwrap(),
    )
    .unwrap();
    let reference = |kind: &str, id: String| json!({ "type": kind, "id": id });
    for index in 0..4 {
        let parent = path(index).parent().map(|parent| reference("Organization", parent.to_string()));
        entities.push(json!({
            "uid": reference("Organization", organization(index).to_string()),
            "attrs": { "organization": reference("Organization", organization(index).to_string()) },
            "parents": parent.into_iter().collect::<Vec<_>>()
        }));
    }
    let kind = kind(question);
    let is_self = kind == "User" && question.is_own;
    let user = |home: usize, role: Scope| {
        json!({
            "organization": { "__entity": reference("Organization", organization(home).to_string()) },
            "role": { "__entity": reference("Scope", role.to_string()) },
            "status": { "__entity": reference("UserStatus", "active".to_owned()) }, "email": EMAILS[question.principal_index]
        })
    };
    let mut parents: Vec<Value> = scopes.map(|scope| reference("Scope", scope.to_string())).collect();
    parents.push(reference("Organization", organization(question.home).to_string()));
    entities.push(json!({
        "uid": reference("User", principal_id(question).to_string()), "attrs": user(question.home, role), "parents": parents
    }));
    let resource = if is_self { principal_id(question) } else { resource_id(question) };
    if !is_self {
        let holder = reference("Organization", organization(question.resource_home).to_string());
        let word = WORDS[question.word];
        let attributes = match kind {
            "Conversation" => {
                let kind = reference("ConversationType", CONVERSATION_TYPES[question.word].to_owned());
                json!({ "organization": holder, "type": kind })
            }
            "Message" => json!({ "organization": holder, "type": word, "isBackchannel": question.flag }),
            _ => user(question.resource_home, Scope::Guest),
        };
        entities.push(json!({
            "uid": reference(kind, resource.to_string()), "attrs": attributes,
            "parents": [reference("Organization", organization(question.resource_home).to_string())]
        }));
    }
    let action = ACTIONS[question.action];
    let mut context = serde_json::Map::new();
    if let Some(index) = question.credential {
        let credential = reference("Credential", CREDENTIALS[index].to_string());
        context.insert("credential".into(), json!({ "__entity": credential }));
    }
    if let Some(changes) = question.changes.as_ref().filter(|_| action.starts_with("update")) {
        let field = |index: &usize| json!({ "__entity": reference("Field", FIELDS[*index].to_owned()) });
        context.insert("changes".into(), changes.iter().map(field).collect());
    }
    context
        .insert("now".into(), json!({ "__extn": { "fn": "datetime", "arg": "2026-01-31T12:00:00.000Z" } }));
    let uid = |kind: &str, id: &str| format!("{kind}::\"{id}\"").parse::<EntityUid>().unwrap();
    let request = Request::new(
        uid("User", &principal_id(question).to_string()),
        uid("Action", action),
        uid(kind, &resource.to_string()),
        Context::from_json_value(Value::Object(context), None).unwrap(),
        Some(schema),
    )
    .unwrap();
    let entities = Entities::from_json_value(Value::Array(entities), Some(schema)).unwrap();
    cedar_decision(&request, all, &entities)
}

/// The decision, the determining policies, and the number of errors.
pub(crate) type DecisionSummary = (bool, Vec<String>, usize);

/// The decision of Cedar's authorizer. A policy without `@id` is named by its number, as in [`bundle`]. An error denies.
pub(crate) fn cedar_decision(request: &Request, all: &PolicySet, entities: &Entities) -> DecisionSummary {
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

/// The decision of the engine.
fn decide_with_engine(question: &Question, engine: &Engine) -> DecisionSummary {
    let home = path(question.home);
    let role = Scope::ALL[question.role];
    let email = EMAILS[question.principal_index].parse().unwrap();
    let facts =
        UserAttributes { organization: home.org_id(), role, status: UserStatus::Active, email: Some(&email) };
    let scopes = engine.effective_scopes(&ScopeSet::from(Scope::ALL[question.scope]), role);
    let principal = Principal::new(principal_id(question), &home, facts, scopes.as_ref());
    let action = ACTIONS[question.action];
    let changes = question.changes.as_ref().filter(|_| action.starts_with("update"));
    let circumstances = DecisionContext {
        credential: question.credential.map(|index| CREDENTIALS[index]),
        now: Some("2026-01-31T12:00:00Z".parse().unwrap()),
        changes: changes.map(|changes| changes.iter().map(|index| FIELDS[*index].to_owned()).collect()),
        ..DecisionContext::default()
    };
    let other = resource_id(question);
    let word = ("type", cedargate::authz::text(WORDS[question.word]));
    let conversation_type = ("type", Attribute::Enum("ConversationType", CONVERSATION_TYPES[question.word]));
    let resource = match kind(question) {
        "Conversation" => Unchecked::new(
            SampleResource::<0> { id: other, attributes: vec![conversation_type] },
            path(question.resource_home),
        )
        .resource_entity(),
        "Message" => {
            let flag = ("isBackchannel", cedargate::authz::boolean(question.flag));
            Unchecked::new(
                SampleResource::<1> { id: other, attributes: vec![word, flag] },
                path(question.resource_home),
            )
            .resource_entity()
        }
        _ if question.is_own => Unchecked::new(
            SampleResource::<2> { id: principal_id(question), attributes: facts.attributes() },
            home,
        )
        .resource_entity(),
        _ => {
            let organization = organization(question.resource_home);
            let facts = UserAttributes { organization, role: Scope::Guest, ..facts };
            let user = SampleResource::<2> { id: other, attributes: facts.attributes() };
            Unchecked::new(user, path(question.resource_home)).resource_entity()
        }
    };
    let ask = AuthzRequest { principal: &principal, action, context: &circumstances, recorder: None };
    engine_decision(engine, &ask, &resource)
}

/// The decision of the engine, without and with a cached one, which must be equal.
pub(crate) fn engine_decision(
    engine: &Engine,
    ask: &AuthzRequest<'_>,
    resource: &ResourceEntity,
) -> DecisionSummary {
    let answer = engine.decide(ask, resource);
    let again = engine.decide(ask, resource);
    assert_eq!(
        (answer.allowed, &answer.policies),
        (again.allowed, &again.policies),
        "the cached decision differs"
    );
    let deciding = answer.policies.iter().map(|about| about.id.clone()).collect();
    (answer.allowed, deciding, answer.errors.len())
}

/// The entity types that are stored in the database.
fn stored_types() -> Vec<StoredType> {
    cedargate::api::resource_types().iter().map(StoredType::from).collect()
}

/// A bundle of the shipped schema, the schema and data of this directory, and these policies.
pub(crate) fn bundle(directory: &Path, policies: &[String]) -> Result<Bundle, cedargate::authz::BundleError> {
    let numbered: Vec<String> =
        policies.iter().enumerate().map(|(index, text)| format!("@id(\"p{index}\")\n{text}\n")).collect();
    std::fs::write(directory.join("generated.cedar"), numbered.join("\n")).unwrap();
    std::fs::copy(project_file("policies/scopes.json"), directory.join("scopes.json")).unwrap();
    Bundle::read(&Sources {
        schema: vec![project_file("schema"), directory.to_owned()],
        policies: vec![directory.to_owned()],
        stored: stored_types(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn cached_engine_agrees_with_cedar_authorizer(
        texts in proptest::collection::vec(policies(), 1..12),
        samples in proptest::collection::vec(questions(), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        // A policy that can never apply causes a warning, which is an error: such sets are left out.
        let usable: Vec<String> =
            texts.into_iter().filter(|text| bundle(directory.path(), std::slice::from_ref(text)).is_ok()).collect();
        prop_assume!(!usable.is_empty());
        let engine = Engine::new(bundle(directory.path(), &usable).unwrap()).unwrap();
        let schema: cedar_policy::Schema =
            std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap().parse().unwrap();
        let all: PolicySet = usable.join("\n").parse().unwrap();
        for question in &samples {
            prop_assert_eq!(decide_with_engine(question, &engine), decide_with_cedar(question, &engine, &all, &schema), "{:?}", question);
        }
    }

    #[test]
    fn engine_agrees_with_cedar_authorizer_on_the_shipped_policies(samples in proptest::collection::vec(questions(), 1..200)) {
        let sources = Sources {
            schema: vec![project_file("schema")],
            policies: vec![project_file("policies")],
            stored: stored_types(),
        };
        let engine = Engine::new(Bundle::read(&sources).unwrap()).unwrap();
        let schema: cedar_policy::Schema =
            std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap().parse().unwrap();
        let files = ["scopes", "self", "service", "tenancy"].map(|name| {
            std::fs::read_to_string(project_file(&format!("policies/{name}.cedar"))).unwrap()
        });
        let all: PolicySet = files.join("\n").parse().unwrap();
        for question in &samples {
            prop_assert_eq!(decide_with_engine(question, &engine), decide_with_cedar(question, &engine, &all, &schema), "{:?}", question);
        }
    }
}
