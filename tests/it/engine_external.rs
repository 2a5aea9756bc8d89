//! As `engine`, for external entities: stored attributes, properties, groups, tags, entities in the context, and policies with
//! type constraints.

use crate::engine::{DecisionSummary, bundle, cedar_decision, engine_decision};
use crate::support::project_file;
use cedar_policy::{Context, Entities, EntityUid, PolicySet, Request, Schema};
use cedargate::authz::{
    AuthzRequest, DecisionContext, Engine, Principal, ResourceEntity, Scope, UserAttributes,
};
use cedargate::types::{Id, OrgPath, UserStatus};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

const SCHEMA: &str = r#"
namespace N {
  entity Group in [Group];
  entity Person in [Group] = { level?: Long, friend?: Person };
  entity Box in [Box] = { owner?: Person, label?: String } tags String;
  entity Crate = { owner?: Person };
  action wider;
  action group in [wider];
  action a, b in [group] appliesTo { principal: Person, resource: [Box, Crate], context: { flag?: Bool, who?: Person } };
  action c appliesTo { principal: [Person, Group], resource: Box };
}"#;

const DATA: &str = r#"[
  { "uid": { "type": "N::Group", "id": "all" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "N::Group", "id": "some" }, "attrs": {}, "parents": [{ "type": "N::Group", "id": "all" }] },
  { "uid": { "type": "N::Person", "id": "0" }, "attrs": { "level": 1 }, "parents": [{ "type": "N::Group", "id": "some" }] },
  { "uid": { "type": "N::Person", "id": "1" }, "attrs": { "friend": { "type": "N::Person", "id": "0" } }, "parents": [] },
  { "uid": { "type": "N::Box", "id": "0" }, "attrs": {}, "tags": { "sealed": "x" }, "parents": [] },
  { "uid": { "type": "N::Box", "id": "1" }, "attrs": { "owner": { "type": "N::Person", "id": "0" }, "label": "x" },
    "parents": [{ "type": "N::Box", "id": "0" }] },
  { "uid": { "type": "N::Crate", "id": "0" }, "attrs": { "owner": { "type": "N::Person", "id": "1" } }, "parents": [] }
]"#;

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is N::Person",
    "principal is N::Group",
    "principal is User",
    r#"principal in N::Group::"all""#,
    r#"principal is N::Person in N::Group::"some""#,
    r#"principal == N::Person::"1""#,
];
const ACTIONS: &[&str] = &[
    "action",
    r#"action == N::Action::"a""#,
    r#"action in [N::Action::"a", N::Action::"b"]"#,
    r#"action in [N::Action::"b", N::Action::"c"]"#,
    r#"action in N::Action::"wider""#,
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource is N::Box",
    "resource is N::Crate",
    "resource is Form",
    r#"resource in N::Box::"0""#,
    r#"resource == N::Crate::"0""#,
];
const CONDITIONS: &[&str] = &[
    "",
    "when { resource has owner && resource.owner == principal }",
    "when { principal has level && principal.level > 1 }",
    // Fails by overflow if the level is above one.
    "when { principal has level && principal.level + 9223372036854775806 > 5 }",
    "when { principal has friend && resource has owner && principal.friend == resource.owner }",
    r#"unless { resource has label && resource.label == "x" }"#,
    r#"when { resource.hasTag("sealed") && resource.getTag("sealed") == "x" }"#,
    "when { context has flag && context.flag }",
    "when { context has who && context.who == principal }",
    r#"when { context has who && context.who in N::Group::"some" }"#,
    r#"when { principal in N::Group::"some" }"#,
    r#"when { action in N::Action::"wider" }"#,
];

fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let parts = (effect, select(PRINCIPALS), select(ACTIONS), select(RESOURCES), select(CONDITIONS));
    parts.prop_map(|(effect, principal, action, resource, condition)| {
        format!("{effect} ({principal}, {action}, {resource}) {condition};")
    })
}

/// An external entity: type, id and properties.
type EntityWithProperties = (&'static str, &'static str, Value);

#[derive(Debug, Clone)]
struct Question {
    subject: EntityWithProperties,
    action: &'static str,
    resource: EntityWithProperties,
    context: Value,
}

fn question() -> impl Strategy<Value = Question> {
    let person = |id: &str| json!({ "type": "N::Person", "id": id });
    let of_person = vec![json!({}), json!({ "level": 3 }), json!({ "friend": person("0"), "colour": 5 })];
    let owned =
        vec![json!({}), json!({ "owner": person("0") }), json!({ "owner": person("1"), "height": 1 })];
    let of_box = [&owned[..], &[json!({ "label": "x" }), json!({ "label": "y" })]].concat();
    let ids = || select(&["0", "1", "2"][..]);
    let subject = prop_oneof![
        4 => (Just("N::Person"), ids(), select(of_person)),
        1 => (Just("N::Group"), Just("some"), Just(json!({}))),
    ];
    let resource =
        prop_oneof![(Just("N::Box"), ids(), select(of_box)), (Just("N::Crate"), ids(), select(owned))];
    let context = select(vec![
        json!({}),
        json!({ "flag": true }),
        json!({ "flag": false, "other": 1 }),
        json!({ "who": person("0") }),
        json!({ "who": person("1") }),
    ]);
    (subject, select(&["a", "b", "c"][..]), resource, context)
        .prop_map(|(subject, action, resource, context)| Question { subject, action, resource, context })
}

/// The fields of an object with these names.
fn select_fields(fields: &Value, names: &[&str]) -> Map<String, Value> {
    let fields = fields.as_object().unwrap().clone();
    fields.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect()
}

/// The decision of Cedar's authorizer with the whole policy set, and the number of errors.
fn decide_with_cedar(
    question: &Question,
    all: &PolicySet,
    schema: &Schema,
    scopes: &[Value],
) -> DecisionSummary {
    let mut entities: Vec<Value> = serde_json::from_str(DATA).unwrap();
    for (kind, id, properties) in [&question.subject, &question.resource] {
        let uid = json!({ "type": kind, "id": id });
        let properties = select_fields(properties, &["level", "friend", "owner", "label"]);
        match entities.iter_mut().find(|entity| entity["uid"] == uid) {
            // Stored attributes take precedence.
            Some(stored) => {
                let stored = stored["attrs"].as_object_mut().unwrap();
                for (name, value) in properties {
                    stored.entry(name).or_insert(value);
                }
            }
            None if properties.is_empty() => {}
            None => entities.push(json!({ "uid": uid, "attrs": properties, "parents": [] })),
        }
    }
    entities.extend(scopes.iter().cloned());
    let entities = Entities::from_json_value(Value::Array(entities), Some(schema)).unwrap();
    let uid =
        |(kind, id, _): &EntityWithProperties| format!("{kind}::\"{id}\"").parse::<EntityUid>().unwrap();
    let action: EntityUid = format!("N::Action::\"{}\"", question.action).parse().unwrap();
    let declared: &[&str] = if question.action == "c" { &[] } else { &["flag", "who"] };
    let context = Value::Object(select_fields(&question.context, declared));
    let request = Context::from_json_value(context, Some((schema, &action))).ok().and_then(|context| {
        Request::new(uid(&question.subject), action, uid(&question.resource), context, Some(schema)).ok()
    });
    // A request to which the action does not apply is an error.
    let Some(request) = request else { return (false, Vec::new(), 1) };
    cedar_decision(&request, all, &entities)
}

/// The decision of the engine.
fn decide_with_engine(question: &Question, engine: &Engine) -> DecisionSummary {
    let find = |(kind, id, properties): &EntityWithProperties| {
        engine.external_entities().resolve(kind, id, properties.as_object().unwrap()).unwrap()
    };
    let principal = Principal::external(find(&question.subject));
    let resource = ResourceEntity::external(find(&question.resource));
    let said = question.context.as_object().unwrap().clone();
    let circumstances = DecisionContext { client_context: said, ..DecisionContext::default() };
    let action = engine.resolve_action(question.action, question.resource.0);
    let ask = AuthzRequest { principal: &principal, action, context: &circumstances, recorder: None };
    engine_decision(engine, &ask, &resource)
}

#[test]
fn conditions_may_test_the_action_hierarchy() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("n.cedarschema"), SCHEMA).unwrap();
    std::fs::write(directory.path().join("n.json"), DATA).unwrap();
    let person = ("N::Person", "1", json!({}));
    let question_about = |action| {
        let resource = ("N::Box", "1", json!({}));
        Question { subject: person.clone(), action, resource, context: json!({}) }
    };
    for (condition, expected) in [
        (r#"action in N::Action::"wider""#, [true, true, false]),
        (r#"action in [N::Action::"group", N::Action::"c"]"#, [true, true, true]),
    ] {
        let text = format!("permit (principal, action, resource is N::Box) when {{ {condition} }};");
        let engine = Engine::new(bundle(directory.path(), &[text]).unwrap()).unwrap();
        let found = ["a", "b", "c"].map(|action| decide_with_engine(&question_about(action), &engine));
        let expected = expected.map(|allowed| (allowed, Vec::from_iter(allowed.then(|| "p0".to_owned())), 0));
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn conditions_may_test_the_hierarchy_of_an_action_in_the_context() {
    let directory = tempfile::tempdir().unwrap();
    let schema = SCHEMA.replace("flag?: Bool,", "flag?: Bool, of?: N::Action,");
    std::fs::write(directory.path().join("n.cedarschema"), schema).unwrap();
    std::fs::write(directory.path().join("n.json"), DATA).unwrap();
    let policies = [
        "permit (principal, action, resource is N::Box);",
        r#"forbid (principal, action == N::Action::"a", resource)
            when { context has of && context.of in N::Action::"wider" };"#,
    ];
    let engine = Engine::new(bundle(directory.path(), &policies.map(str::to_owned)).unwrap()).unwrap();
    for (named, expected) in [("b", false), ("group", false), ("wider", false), ("c", true)] {
        let context = json!({ "of": { "type": "N::Action", "id": named } });
        let (subject, resource) = (("N::Person", "1", json!({})), ("N::Box", "1", json!({})));
        let question = Question { subject, action: "a", resource, context };
        let decisive = if expected { "p0" } else { "p1" };
        assert_eq!(
            decide_with_engine(&question, &engine),
            (expected, vec![decisive.to_owned()], 0),
            "{named}"
        );
    }
}

#[test]
fn a_decision_on_a_resource_below_the_principal_is_not_reused_for_another_principal() {
    let directory = tempfile::tempdir().unwrap();
    let schema =
        "namespace N { entity Page in [User]; action view appliesTo { principal: User, resource: Page }; }";
    std::fs::write(directory.path().join("n.cedarschema"), schema).unwrap();
    let [author, reader]: [Id; 2] =
        ["599e1fcd9da1c72645c95886", "599e1fcd9da1c72645c95896"].map(|id| id.parse().unwrap());
    let page = json!([{ "uid": { "type": "N::Page", "id": "1" }, "attrs": {}, "parents": [{ "type": "User", "id": author }] }]);
    std::fs::write(directory.path().join("n.json"), page.to_string()).unwrap();
    let home = OrgPath::root("599e1fcd9da1c72645c95800".parse().unwrap());
    let policy = format!("permit (principal, action, resource in Organization::\"{}\");", home.org_id());
    let user = UserAttributes {
        organization: home.org_id(),
        role: Scope::Guest,
        status: UserStatus::Active,
        email: None,
    };
    for order in [[author, reader], [reader, author]] {
        let engine = Engine::new(bundle(directory.path(), std::slice::from_ref(&policy)).unwrap()).unwrap();
        let page = engine.external_entities().resolve("N::Page", "1", &Map::new()).unwrap();
        let page = ResourceEntity::external(page);
        for id in order {
            let principal = Principal::new(id, &home, user, None);
            let (action, context) = (engine.resolve_action("view", "N::Page"), &DecisionContext::default());
            let ask = AuthzRequest { principal: &principal, action, context, recorder: None };
            // The page is in the organization of its author, whose entity is part of the request.
            assert_eq!(engine_decision(&engine, &ask, &page).0, id == author, "{order:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn cached_engine_agrees_with_cedar_authorizer_on_an_external_domain(
        texts in proptest::collection::vec(policy(), 1..12),
        samples in proptest::collection::vec(question(), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("n.cedarschema"), SCHEMA).unwrap();
        std::fs::write(directory.path().join("n.json"), DATA).unwrap();
        // A policy that can never apply causes a warning, which is an error: such sets are left out.
        let usable: Vec<String> =
            texts.into_iter().filter(|text| bundle(directory.path(), std::slice::from_ref(text)).is_ok()).collect();
        prop_assume!(!usable.is_empty());
        let engine = Engine::new(bundle(directory.path(), &usable).unwrap()).unwrap();
        let own = std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap();
        let schema: Schema = format!("{own}\n{SCHEMA}").parse().unwrap();
        let scopes = std::fs::read_to_string(project_file("policies/scopes.json")).unwrap();
        let scopes: Vec<Value> = serde_json::from_str(&scopes).unwrap();
        let all: PolicySet = usable.join("\n").parse().unwrap();
        for question in &samples {
            let expected = decide_with_cedar(question, &all, &schema, &scopes);
            prop_assert_eq!(decide_with_engine(question, &engine), expected, "{:?} by {:#?}", question, usable);
        }
    }
}
