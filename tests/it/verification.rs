//! Continuous verification: the decisions of a running service are decided again by Cedar's own authorizer.

use crate::authzen::{EVALUATION, EVALUATIONS, entity, evaluation_request};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH, search};
use crate::reload::PolicyFiles;
use crate::support::{Client, PASSWORD, TestApp, project_file, wait_until};
use cedargate::authz::Scope;
use cedargate::config::{CacheName, Config};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A domain with groups of actions, tags, context fields of every origin, and entities in the context.
const SCHEMA: &str = r#"
namespace Vault {
  entity Staff;
  entity Clerk in [Staff] = { badge?: Long, deputy?: Clerk };
  entity Safe = { label?: String, owner?: Clerk } tags String;
  action handle;
  action look, open in [handle]
    appliesTo { principal: Clerk, resource: Safe, context: { alarm: Bool, now?: datetime, witness?: Clerk } };
}"#;

const POLICIES: &str = r#"
@id("vault.handle") @doc("Staff handles safes.")
permit (principal in Vault::Staff::"all", action in [Vault::Action::"handle"], resource) unless { context.alarm };
@id("vault.owner") @doc("Owners look.")
permit (principal, action == Vault::Action::"look", resource) when { resource has owner && resource.owner == principal };
@id("vault.sealed") @doc("Sealed safes stay closed, but for witnesses with a badge.")
forbid (principal, action == Vault::Action::"open", resource)
when { resource.hasTag("sealed") }
unless { context has witness && context.witness in Vault::Staff::"all" };
@id("vault.group") @doc("Nobody handles the black safe.")
forbid (principal, action in Vault::Action::"handle", resource) when { resource == Vault::Safe::"black" };"#;

const DATA: &str = r#"[
  { "uid": { "type": "Vault::Staff", "id": "all" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Vault::Clerk", "id": "ada" }, "attrs": {}, "parents": [{ "type": "Vault::Staff", "id": "all" }] },
  { "uid": { "type": "Vault::Clerk", "id": "eve" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Vault::Safe", "id": "cash" }, "attrs": { "owner": { "__entity": { "type": "Vault::Clerk", "id": "eve" } } }, "parents": [] },
  { "uid": { "type": "Vault::Safe", "id": "gold" }, "attrs": {}, "tags": { "sealed": "by the board" }, "parents": [] },
  { "uid": { "type": "Vault::Safe", "id": "black" }, "attrs": {}, "parents": [] }
]"#;

async fn start(change: impl FnOnce(&mut Config)) -> TestApp {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("vault.cedarschema", SCHEMA), ("vault.cedar", POLICIES), ("vault.json", DATA)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    TestApp::start_with(|config| {
        config.schema.extend([directory.path().to_owned(), project_file("examples/documents/schema")]);
        config.policies.extend([directory.path().to_owned(), project_file("examples/documents/policies")]);
        config.verify_every = 1;
        change(config);
    })
    .await
}

/// The value of a metric.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").await.text;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let values = samples.filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// Requests of users on the service's own types, allowed and denied, with existing, missing and inaccessible resources.
async fn ask_about_own_types(app: &TestApp) {
    let admin = app.admin().await;
    let (organization, tenant) = app.tenant("acme").await;
    let form = admin.post("/v2/forms", json!({ "name": "one" })).await.id();
    let below = json!({ "name": "two", "organization": organization });
    let form_below = tenant.post("/v2/forms", below).await.id();
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        let own = user.id.clone();
        for id in [&*form, &form_below, "599e1fce9da1c72645c9588f", "malformed"] {
            user.get(&format!("/v2/forms/{id}")).await;
            user.patch(&format!("/v2/forms/{id}"), json!({ "name": "three" })).await;
            user.get(&format!("/v2/users/{own}/permissions?type=Form&id={id}")).await;
        }
        user.get("/v2/forms").await;
        user.get(&format!("/v2/forms?organization={organization}")).await;
        user.patch("/v2/users/me", json!({ "password": "another t0pZ3kR3t", "currentPassword": PASSWORD }))
            .await;
        user.patch("/v2/users/me", json!({ "role": "admin" })).await;
        user.get("/v2/conversations").await;
        user.post("/v2/conversations", json!({ "messages": [{ "text": "hello" }] })).await;
        let key = json!({ "name": "key", "scopes": ["guest", "admin"] });
        user.post("/v2/users/me/keys", key).await;
        user.get("/v2/policies").await;
        user.get("/v2/audit").await;
    }
    tenant.get(&format!("/v2/forms/{form}")).await.expect_problem(404, "not_found");
}

/// Questions of a bot: single ones, batches and searches, about users, external domains, and with a context.
async fn ask_for_others(app: &TestApp) {
    let bot = app.user(Scope::Bot).await;
    let guest = app.user(Scope::Guest).await;
    let mut questions = Vec::new();
    let (clerks, safes) = (["ada", "eve", "nobody"], ["cash", "gold", "black", "missing"]);
    let contexts = [
        json!({ "alarm": false }),
        json!({ "alarm": true, "undeclared": { "deep": [1] } }),
        json!({ "alarm": false, "witness": { "type": "Vault::Clerk", "id": "ada" } }),
        json!({ "alarm": "no" }),
        json!({}),
    ];
    for clerk in clerks {
        for safe in safes {
            for action in ["look", "open", "handle", "unknown"] {
                for context in &contexts {
                    let subject =
                        json!({ "type": "Vault::Clerk", "id": clerk, "properties": { "badge": 7 } });
                    let mut question = evaluation_request(subject, action, entity("Vault::Safe", safe));
                    question["context"] = context.clone();
                    questions.push(question);
                }
            }
        }
    }
    for person in ["ann", "ben", "cleo"] {
        for action in ["read", "edit", "share"] {
            for document in ["plan", "diary", "new"] {
                let resource = json!({
                    "type": "Docs::Document", "id": document,
                    "properties": { "owner": { "type": "Docs::Person", "id": "ben" } }
                });
                questions.push(evaluation_request(entity("Docs::Person", person), action, resource));
            }
        }
    }
    for kind in ["User", "Form", "Conversation"] {
        for action in ["fetchForm", "createForm", "updateUser", "listForms"] {
            questions.push(evaluation_request(entity("User", &guest.id), action, entity(kind, &guest.id)));
        }
    }
    for question in &questions {
        bot.post(EVALUATION, question.clone()).await;
    }
    for batch in questions.chunks(50) {
        bot.post(EVALUATIONS, json!({ "evaluations": batch })).await.expect(StatusCode::OK);
    }
    for (path, question) in [
        (
            SUBJECT_SEARCH,
            json!({ "subject": { "type": "Vault::Clerk" }, "action": { "name": "look" }, "resource": entity("Vault::Safe", "cash"), "context": { "alarm": false } }),
        ),
        (
            RESOURCE_SEARCH,
            json!({ "subject": entity("Docs::Person", "ann"), "action": { "name": "read" }, "resource": { "type": "Docs::Document" } }),
        ),
        (
            ACTION_SEARCH,
            json!({ "subject": entity("User", &guest.id), "resource": entity("User", &guest.id) }),
        ),
    ] {
        bot.post(path, question).await.expect(StatusCode::OK);
    }
}

/// Waits until all decisions are verified, and returns the number of verified ones.
async fn wait_for_verification(client: &Client) -> u64 {
    let mut last = 0;
    wait_until(async || {
        let decisions = metric(client, "cedargate_decisions_total").await;
        let verified = metric(client, "cedargate_decision_verifications_total").await;
        let dropped = metric(client, "cedargate_decision_verifications_dropped_total").await;
        // A question about a missing resource consists of decisions, and is verified as a whole, too.
        let is_complete =
            verified + dropped >= decisions && verified == std::mem::replace(&mut last, verified);
        if is_complete { Ok(verified) } else { Err(format!("{verified} of {decisions}")) }
    })
    .await
}

#[tokio::test]
async fn every_kind_of_question_is_verified_and_none_differs() {
    for is_cached in [true, false] {
        let app = start(|config| {
            if !is_cached {
                config.caches_off = vec![CacheName::Decisions];
            }
        })
        .await;
        ask_about_own_types(&app).await;
        ask_for_others(&app).await;
        ask_for_others(&app).await;
        let client = app.anonymous();
        assert!(wait_for_verification(&client).await > 500);
        assert_eq!(metric(&client, "cedargate_decision_verification_differences_total").await, 0);
        let hits = metric(&client, "cedargate_decision_cache_hits_total").await;
        assert_eq!(hits > 0, is_cached, "{hits}");
        let differs = app.admin().await.get("/v2/audit?event=decision.differs").await.expect(StatusCode::OK);
        assert_eq!(differs, json!([] as [Value; 0]));
    }
}

/// Policies that take backchannel messages from everybody but admins: from lists, and as resources.
const BACKCHANNEL: &str = r#"
@id("backchannel") @doc("Only admins see backchannel messages.")
forbid (principal, action in [Action::"listMessages", Action::"fetchMessage"], resource is Message)
when { resource has isBackchannel && resource.isBackchannel }
unless { principal in Scope::"admin" };"#;

/// Starts the service with policies on the rows of lists, and creates two messages, of which one is a backchannel message.
async fn start_with_messages(verify_every: u64) -> (TestApp, [String; 2]) {
    let files = PolicyFiles::new();
    files.write("policies/backchannel.cedar", BACKCHANNEL);
    let app = files.serve_with(|config| config.verify_every = verify_every).await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut ids = Vec::new();
    for is_backchannel in [false, true] {
        let body = json!({ "conversation": conversation, "text": "hello", "isBackchannel": is_backchannel });
        ids.push(admin.post("/v2/messages", body).await.id());
    }
    (app, ids.try_into().unwrap())
}

/// Lists the messages as a bot, and searches those that it may fetch. Returns the ids of each.
async fn list_and_search_messages(bot: &Client) -> [BTreeSet<String>; 2] {
    let listed = bot.get("/v2/messages").await.expect(StatusCode::OK);
    let listed = listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
    let question = json!({
        "subject": entity("User", "me"), "action": { "name": "fetchMessage" }, "resource": { "type": "Message" }
    });
    [listed.collect(), search(bot, RESOURCE_SEARCH, question).await]
}

#[tokio::test]
async fn the_rows_of_filtered_lists_and_of_searches_are_verified_and_none_differs() {
    let (app, [open, _]) = start_with_messages(1).await;
    let bot = app.user(Scope::Bot).await;
    let found = list_and_search_messages(&bot).await;
    assert_eq!(found, [BTreeSet::from([open.clone()]), BTreeSet::from([open])]);
    let metrics = app.anonymous();
    wait_for_verification(&metrics).await;
    // Every decision, the row of the list, and for the result of the search, the decisions about fetching and referring to it.
    wait_until(async || {
        let decisions = metric(&metrics, "cedargate_decisions_total").await;
        let verified = metric(&metrics, "cedargate_decision_verifications_total").await;
        if verified == decisions + 3 { Ok(()) } else { Err(format!("{verified} of {decisions} + 3")) }
    })
    .await;
    assert_eq!(metric(&metrics, "cedargate_decision_verification_differences_total").await, 0);
}

#[tokio::test]
async fn a_row_that_a_query_selects_against_the_policies_is_reported() {
    let (app, [_, hidden]) = start_with_messages(1).await;
    if app.postgres().is_some() {
        // Its booleans have two values.
        return;
    }
    let bot = app.user(Scope::Bot).await;
    // A value that is true for the service, but not equal to true in SQL: both queries select the row.
    app.sql(&format!("UPDATE messages SET is_backchannel = 2 WHERE id = '{hidden}'")).await;
    let found = list_and_search_messages(&bot).await;
    assert!(found.iter().all(|ids| ids.contains(&hidden)), "{found:?}");
    let admin = app.admin().await;
    let expected = BTreeSet::from(["listMessages".to_owned(), "fetchMessage".to_owned()]);
    wait_until(async || {
        let events = admin.get("/v2/audit?event=decision.differs").await.expect(StatusCode::OK);
        let text = |event: &Value, name: &str| event["details"][name].as_str().unwrap().to_owned();
        let events = events.as_array().unwrap();
        for event in events {
            assert_eq!(text(event, "resource"), format!("Message {hidden}"));
            assert_eq!(text(event, "principal"), format!("User {}", bot.id));
            assert_eq!(text(event, "engine"), "allow (selected by a query)");
            assert_eq!(text(event, "cedar"), "deny (backchannel)");
        }
        let found: BTreeSet<String> = events.iter().map(|event| text(event, "action")).collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(metric(&admin, "cedargate_decision_verification_differences_total").await, 2);
}

#[tokio::test]
async fn no_decision_is_verified_where_verification_is_off() {
    let (app, _) = start_with_messages(0).await;
    let bot = app.user(Scope::Bot).await;
    list_and_search_messages(&bot).await;
    assert!(metric(&bot, "cedargate_decisions_total").await > 0);
    for name in ["verifications_total", "verification_differences_total", "verifications_dropped_total"] {
        assert_eq!(metric(&bot, &format!("cedargate_decision_{name}")).await, 0);
    }
}
