//! Filters of policies select exactly the rows on which a decision is an allow: generated policies, rows and requests.

use crate::support::{TestApp, project_file};
use cedargate::api::conversations::Conversation;
use cedargate::api::knowledge_items::KnowledgeItem;
use cedargate::api::messages::Message;
use cedargate::api::services::Service;
use cedargate::authz::filter::Filter;
use cedargate::authz::{
    AuthzRequest, Bundle, CredentialKind, DecisionContext, Engine, Principal, Scope, ScopeSet, Sources,
    StoredType, UserAttributes,
};
use cedargate::resource::Resource;
use cedargate::resource::user::User;
use cedargate::store::ListQuery;
use cedargate::types::{Id, OrgPath, UserStatus};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// The number of sets of policies, each of three generated ones.
const POLICY_SETS: usize = 40;
/// The number of requests by which each set is tested.
const REQUESTS: usize = 12;

/// Values of text attributes: letters that mean something in patterns, case, and letters outside of ASCII.
const TEXTS: [&str; 10] = ["open", "OPEN", "o*en", "o?en", "[open]", "a%b", "a_b", "a\\b", "äöü", "opened"];
const USERS: usize = 6;

fn organization(index: usize) -> Id {
    format!("599e1fcd9da1c72645c9580{index}").parse().unwrap()
}

fn user(index: usize) -> Id {
    format!("599e1fcd9da1c72645c9590{index}").parse().unwrap()
}

/// The organizations below the root of the service: two, and one below the first of these.
fn path(root: &OrgPath, index: usize) -> OrgPath {
    match index {
        0 => root.clone(),
        3 => root.child(organization(1)).child(organization(3)),
        other => root.child(organization(other)),
    }
}

fn email(index: usize) -> String {
    // One of them is also the status of a conversation.
    if index == 0 { "open@example.com".to_owned() } else { format!("u{index}@example.com") }
}

fn role(index: usize) -> Scope {
    Scope::ALL[index % 4]
}

/// Inserts rows of every type with attributes, with every combination of values that is stored differently.
async fn insert_rows(app: &TestApp, root: &OrgPath) {
    let mut sql = String::new();
    for index in 1..4 {
        let path = path(root, index);
        let parent = path.parent().unwrap();
        writeln!(
            sql,
            "INSERT INTO organizations (id, parent, path, level, name, status, tags, meta, created_at, updated_at) \
             VALUES ('{}', '{parent}', '{path}', {}, 'o', 'active', '[]', '{{}}', 0, 0);",
            path.org_id(),
            path.level()
        )
        .unwrap();
    }
    for index in 0..USERS {
        let owner = path(root, index % 4).org_id();
        let status = if index % 3 == 2 { "blocked" } else { "active" };
        writeln!(
            sql,
            "INSERT INTO users (id, organization, meta, created_at, updated_at, email, name, role, status) \
             VALUES ('{}', '{owner}', '{{}}', 0, 0, '{}', '', '{}', '{status}');",
            user(index),
            email(index),
            role(index)
        )
        .unwrap();
    }
    for index in 0..33_usize {
        let owner = path(root, index % 4).org_id();
        // None for every eleventh row.
        let text = |step: usize| match TEXTS.get((index * step) % 11) {
            Some(text) => format!("'{text}'"),
            None => "NULL".to_owned(),
        };
        let id = |prefix: &str| format!("{prefix}{index:020x}");
        let common = format!("'{owner}', '{{}}', {index}, {index}");
        let kind = ["contact", "agent", "bot", "system"][index % 4];
        let status = ["draft", "published", "archived"][index % 3];
        let message_type = TEXTS[index % TEXTS.len()];
        let (author, is_backchannel) = (user(index % USERS), index % 2 == 0);
        writeln!(
            sql,
            "INSERT INTO conversations (id, organization, meta, created_at, updated_at, type, status, category, participants) \
             VALUES ('{}', {common}, '{kind}', {}, {}, '[]');\n\
             INSERT INTO messages (id, organization, meta, created_at, updated_at, conversation, text, type, \"user\", is_backchannel, actions) \
             VALUES ('{}', {common}, '{}', 'x', '{message_type}', '{author}', {is_backchannel}, '[]');\n\
             INSERT INTO kbitems (id, organization, meta, created_at, updated_at, kbase, title, status) \
             VALUES ('{}', {common}, {}, 'x', '{status}');\n\
             INSERT INTO services (id, organization, meta, created_at, updated_at, name, type, params) \
             VALUES ('{}', {common}, 'x', {}, '{{}}');",
            id("aaaa"), text(1), text(3), id("bbbb"), id("aaaa"), id("cccc"), text(1), id("dddd"), text(2),
        )
        .unwrap();
    }
    app.sql(&sql).await;
}

/// A resource type and conditions on its attributes that the schema permits.
fn atoms(kind: &str) -> Vec<String> {
    let mut atoms: Vec<String> = [
        "true",
        "resource in principal.organization",
        "resource.organization == principal.organization",
        "principal in resource.organization",
        "principal == resource",
        r#"principal in Scope::"agent""#,
        r#"principal in Scope::"bot" && principal.role == Scope::"admin""#,
        r#"context has credential && context.credential == Credential::"apiKey""#,
        r#"resource in Scope::"guest""#,
    ]
    .map(str::to_owned)
    .into();
    for index in [1, 3] {
        atoms.push(format!("resource in Organization::\"{}\"", organization(index)));
        atoms.push(format!(
            "[Organization::\"{}\", principal.organization].contains(resource.organization)",
            organization(index)
        ));
    }
    atoms.push(format!("resource in [Organization::\"{}\", Organization::\"X\"]", organization(2)));
    let texts: &[&str] = match kind {
        "Conversation" => &["status", "category"],
        "Message" | "Service" => &["type"],
        "KnowledgeItem" => &["kbase"],
        "User" => &["email"],
        _ => &[],
    };
    for name in texts {
        let has = format!("resource has {name}");
        atoms.push(has.clone());
        for test in [
            r#"== "open""#,
            r#"!= "OPEN""#,
            r#"like "o*""#,
            r#"like "*EN""#,
            r#"like "o\*en""#,
            r#"like "*[*""#,
            r#"like "a%*""#,
            r#"like "a_b""#,
            r#"like "*\\*""#,
            r#"like "*ö*""#,
            r#"like "o?en""#,
            r#"like "*""#,
            r#"like """#,
            "== principal.email",
            r#"like "o*n*d""#,
        ] {
            atoms.push(format!("{has} && resource.{name} {test}"));
        }
        atoms.push(format!(r#"{has} && ["open", "äöü", principal.email].contains(resource.{name})"#));
    }
    let others: &[&str] = match kind {
        "Conversation" => &[
            r#"resource has type && resource.type == ConversationType::"bot""#,
            r#"resource has type && [ConversationType::"agent", ConversationType::"bot"].contains(resource.type)"#,
            "resource has status && resource has category && resource.status == resource.category",
            r#"(if resource has status then resource.status else "none") == "open""#,
        ],
        "Message" => &[
            "resource has isBackchannel && resource.isBackchannel",
            "resource has isBackchannel && resource.isBackchannel == false",
            "resource has user && resource.user == principal",
            r#"resource has user && resource has type && (resource.user == principal) == (resource.type == "open")"#,
        ],
        "KnowledgeItem" => &[
            r#"resource has status && resource.status == KnowledgeStatus::"draft""#,
            r#"resource has status && resource.status != KnowledgeStatus::"published""#,
        ],
        "User" => &[
            r#"resource.role == Scope::"bot""#,
            "resource.role == principal.role",
            r#"resource has status && resource.status == UserStatus::"blocked""#,
            "resource has email && principal has email && resource.email == principal.email",
        ],
        "Organization" => &[
            "resource has level && resource.level > 0",
            "resource has level && resource.level + 1 <= 2",
            "resource has level && 9223372036854775807 - 1 < resource.level + 9223372036854775806",
            "resource has parent && resource.parent == principal.organization",
            "resource has parent && resource.parent != resource.organization",
        ],
        _ => &[],
    };
    atoms.extend(others.iter().map(|&other| other.to_owned()));
    atoms
}

fn conditions(kind: &'static str) -> impl Strategy<Value = String> {
    let atom = proptest::sample::select(atoms(kind)).prop_map(|atom| format!("({atom})"));
    atom.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} && {right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} || {right})")),
            inner.clone().prop_map(|inner| format!("!{inner}")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(cond, yes, no)| format!("(if {cond} then {yes} else {no})")),
        ]
    })
}

/// A policy about fetching and listing resources of a type.
fn policies(kind: &'static str) -> impl Strategy<Value = String> {
    let effect = proptest::sample::select(vec!["permit", "forbid", "forbid"]);
    let principal = proptest::sample::select(vec![
        "principal",
        "principal is User",
        r#"principal in Scope::"agent""#,
        r#"principal in Scope::"admin""#,
    ]);
    let clause = (proptest::sample::select(vec!["when", "unless"]), conditions(kind));
    (effect, principal, proptest::collection::vec(clause, 1..3)).prop_map(move |(effect, principal, clauses)| {
        let clauses: Vec<String> =
            clauses.iter().map(|(word, condition)| format!("{word} {{ {condition} }}")).collect();
        format!(
            "{effect} ({principal}, action in [Action::\"fetch{kind}\", Action::\"list{kind}s\"], resource is {kind}) {};",
            clauses.join(" ")
        )
    })
}

/// The engine for these policies; none if they are not valid, as a condition that is never true is not.
fn engine(directory: &Path, policies: &[String], is_permitted: bool) -> Option<Engine> {
    let mut text = String::new();
    if is_permitted {
        text += "@id(\"all\")\npermit (principal, action, resource);\n";
    }
    for (index, policy) in policies.iter().enumerate() {
        writeln!(text, "@id(\"p{index}\")\n{policy}").unwrap();
    }
    std::fs::write(directory.join("generated.cedar"), text).unwrap();
    std::fs::copy(project_file("policies/scopes.json"), directory.join("scopes.json")).unwrap();
    let sources = Sources {
        schema: vec![project_file("schema")],
        policies: vec![directory.to_owned()],
        stored: cedargate::api::resource_types().iter().map(StoredType::from).collect(),
    };
    Some(Engine::new(Bundle::read(&sources).ok()?).unwrap())
}

/// What was tested, and how often both results occurred.
#[derive(Debug, Default)]
struct Counts {
    policies: usize,
    requests: usize,
    decisions: usize,
    allowed: usize,
    conditions: usize,
    listed: usize,
}

/// A user with a credential.
fn principal(engine: &Engine, root: &OrgPath, index: usize, claimed: Scope) -> Principal {
    let home = path(root, index % 4);
    let email = email(index).parse().unwrap();
    let status = if index % 3 == 2 { UserStatus::Blocked } else { UserStatus::Active };
    let facts =
        UserAttributes { organization: home.org_id(), role: role(index), status, email: Some(&email) };
    let scopes = engine.effective_scopes(&ScopeSet::from(claimed), role(index));
    Principal::new(user(index), &home, facts, scopes.as_ref())
}

/// Compares the rows that filters select with the decision on each row.
async fn check<R: Resource>(
    app: &TestApp,
    root: &OrgPath,
    engine: &Engine,
    request: &AuthzRequest<'_>,
    (list_action, is_permitted): (&str, bool),
    counts: &mut Counts,
) {
    let (types, reader) = (&app.state.resource_types, app.state.store.reader());
    let rows = types.page(&reader, R::TYPE, root, None, 1000).await.unwrap();
    let allowed: BTreeSet<Id> =
        rows.iter().filter(|(_, row)| engine.allows(request, row)).map(|(id, _)| *id).collect();
    counts.decisions += rows.len();
    counts.allowed += allowed.len();
    let filter = engine.filter(request, R::TYPE).unwrap();
    counts.conditions += usize::from(matches!(filter, Filter::When(_)));
    let filters = [filter];
    let selected = types.search(&reader, R::TYPE, root, &filters, (None, 1000)).await.unwrap();
    let selected: BTreeSet<Id> = selected.expect("the database has no such condition").into_iter().collect();
    assert_eq!(selected, allowed, "{}: {filters:?}", R::TYPE);
    // A list needs no permit on rows: with one on everything, it contains what a fetch is allowed on.
    let subtree = app.state.store.subtree(root).await.unwrap();
    let list = AuthzRequest { action: list_action, ..*request };
    let Some(organizations) = engine.permit_organizations(&list, subtree).ok().filter(|_| is_permitted)
    else {
        return;
    };
    let mut listed = BTreeSet::new();
    let query = ListQuery { limit: 1000, ..ListQuery::default() };
    let visit = |row: cedargate::authz::Permitted<R>| listed.insert(row.id());
    let result = app.state.store.list::<R>(&organizations, &query, visit).await.unwrap();
    let owners = organizations.organizations();
    let is_owned = |row: &&(Id, std::sync::Arc<cedargate::authz::ResourceEntity>)| {
        row.1.organization_path().is_some_and(|path| owners.contains(&path.org_id()))
    };
    let expected: BTreeSet<Id> =
        rows.iter().filter(is_owned).map(|(id, _)| *id).filter(|id| allowed.contains(id)).collect();
    assert_eq!(listed, expected, "{list_action}: {:?}", organizations.row_filter(R::TYPE));
    assert_eq!(result.total, u64::try_from(expected.len()).ok(), "{list_action}");
    counts.listed += listed.len();
}

async fn check_kind(
    app: &TestApp,
    root: &OrgPath,
    engine: &Engine,
    kind: &str,
    (principal, context, is_permitted): (&Principal, &DecisionContext, bool),
    counts: &mut Counts,
) {
    let (fetch, list) = (format!("fetch{kind}"), format!("list{kind}s"));
    let request = AuthzRequest { principal, action: &fetch, context, recorder: None };
    let list = (list.as_str(), is_permitted);
    match kind {
        "Conversation" => check::<Conversation>(app, root, engine, &request, list, counts).await,
        "Message" => check::<Message>(app, root, engine, &request, list, counts).await,
        "KnowledgeItem" => check::<KnowledgeItem>(app, root, engine, &request, list, counts).await,
        "Service" => check::<Service>(app, root, engine, &request, list, counts).await,
        "User" => check::<User>(app, root, engine, &request, list, counts).await,
        _ => {
            check::<cedargate::resource::organization::Organization>(
                app, root, engine, &request, list, counts,
            )
            .await;
        }
    }
}

const KINDS: [&str; 6] = ["Conversation", "Message", "KnowledgeItem", "Service", "User", "Organization"];

#[tokio::test]
async fn a_filter_selects_the_rows_on_which_the_decision_is_an_allow() {
    let app = TestApp::start().await;
    let root = app.state.store.root().await.unwrap().unwrap();
    insert_rows(&app, &root).await;
    let directory = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let mut generate = |strategy: &BoxedStrategy<String>| strategy.new_tree(&mut runner).unwrap().current();
    let mut counts = Counts::default();
    for set in 0..POLICY_SETS {
        let kind = KINDS[set % KINDS.len()];
        let strategy = policies(kind).boxed();
        let is_permitted = set % 2 == 0;
        let mut texts: Vec<String> = Vec::new();
        for _ in 0..30 {
            let text = generate(&strategy);
            if engine(directory.path(), std::slice::from_ref(&text), false).is_some() {
                texts.push(text);
            }
            if texts.len() == 3 {
                break;
            }
        }
        let Some(engine) = engine(directory.path(), &texts, is_permitted) else { continue };
        counts.policies += texts.len();
        for request in 0..REQUESTS {
            counts.requests += 1;
            let principal = principal(&engine, &root, request % USERS, Scope::ALL[(request / 3) % 4]);
            let credential = [None, Some(CredentialKind::Session), Some(CredentialKind::ApiKey)][request % 3];
            let now = Some("2026-01-31T12:00:00Z".parse().unwrap());
            let context = DecisionContext { credential, now, ..DecisionContext::default() };
            let question = (&principal, &context, is_permitted);
            check_kind(&app, &root, &engine, kind, question, &mut counts).await;
        }
    }
    eprintln!("{counts:?}");
    assert!(counts.policies >= POLICY_SETS * 2, "{counts:?}");
    let denied = counts.decisions - counts.allowed;
    let least = counts.decisions / 10;
    assert!(counts.allowed > least && denied > least && counts.listed > 0, "{counts:?}");
    assert!(counts.conditions > counts.requests / 4, "{counts:?}");
}
