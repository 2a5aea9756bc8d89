//! What a question to the decision endpoint may hold, what its answer names, and how the answer follows what is stored.

use crate::authorize::{NOBODY, about, answer, ask, decision, home, obstacle, policy_ids, question, user};
use crate::support::{Client, TestApp, project_file};
use crate::tokens::change;
use cedargate::authz::Scope;
use cedargate::config::PolicyReload;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A question with a context.
fn within(context: Value, mut question: Value) -> Value {
    question["context"] = context;
    question
}

fn updating(id: &str) -> Value {
    question("updateUser", "User", id)
}

#[tokio::test]
async fn nobody_below_admin_changes_its_own_place() {
    let app = TestApp::start().await;
    for role in Scope::ALL {
        let client = app.user(role).await;
        for (changes, is_place) in [
            (json!(["role"]), true),
            (json!(["organization"]), true),
            (json!(["givenName", "status"]), true),
            (json!(["givenName"]), false),
            (json!([]), false),
        ] {
            let asked = within(json!({ "changes": changes }), updating(&client.id));
            let answer = answer(&client, asked).await;
            assert_eq!(answer["context"].get("error"), None);
            assert_eq!(answer["decision"], role == Scope::Admin || !is_place, "{role} {changes}");
            if answer["decision"] == false {
                let source = std::fs::read_to_string(project_file("policies/self.cedar")).unwrap();
                let policies = answer["context"]["policies"].as_array().unwrap();
                assert_eq!(policies.len(), 1, "{answer}");
                assert_eq!(policies[0]["id"], "self.place");
                let doc = policies[0]["doc"].as_str().unwrap();
                assert!(!doc.is_empty() && source.contains(&format!("@doc(\"{doc}\")")), "{doc}");
            }
        }
        // And the route does the same.
        let reply = client.patch("/v2/users/me", json!({ "role": "guest" })).await;
        let changed = role == Scope::Admin || role == Scope::Guest;
        assert_eq!(reply.status == StatusCode::OK, changed, "{role}: {}", reply.text);
    }
}

#[tokio::test]
async fn the_policies_that_decided_are_named() {
    let app = TestApp::start().await;
    let (_, tenant) = app.tenant("tenant").await;
    let guest = app.user(Scope::Guest).await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let fetching = || question("fetchConversation", "Conversation", &conversation);
    for (client, asked, permitted, policies) in [
        (&guest, fetching(), true, vec!["guest"]),
        (&admin, fetching(), true, vec!["guest"]),
        (&guest, question("fetchUser", "User", &guest.id), true, vec!["self"]),
        (&admin, question("fetchUser", "User", &guest.id), true, vec!["bot"]),
        (&admin, question("fetchUser", "User", &admin.id), true, vec!["bot", "self"]),
        (&guest, question("fetchUser", "User", &admin.id), false, vec![]),
        (&tenant, fetching(), false, vec!["tenancy"]),
    ] {
        let answer = answer(client, asked.clone()).await;
        let mut named = policy_ids(&answer);
        named.sort_unstable();
        assert_eq!((&answer["decision"], named), (&json!(permitted), policies), "{asked}");
    }
}

#[tokio::test]
async fn the_version_is_that_of_the_policies() {
    let app = TestApp::start().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let version = async |client: &Client| {
        let answer = answer(client, question("fetchUser", "User", &client.id)).await;
        answer["context"]["version"].as_str().unwrap().to_owned()
    };
    let first = version(&admin).await;
    assert_eq!(version(&guest).await, first);
    change(&app, &guest.id, json!({ "role": "agent" })).await;
    assert_eq!(version(&guest).await, first, "it is not that of the data");
    let same = app.again(|_| ()).await;
    assert_eq!(version(&same.admin().await).await, first);

    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(project_file("policies")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.replace("     Action::\"listForms\",\n", "");
            std::fs::write(copy.path().join(path.file_name().unwrap()), text).unwrap();
        }
    }
    let other = app
        .again(|config| {
            config.policies = vec![copy.path().to_owned()];
            // The copy is without the policy tests.
            config.policy_reload = PolicyReload::Auto;
        })
        .await;
    let admin = other.admin().await;
    assert_ne!(version(&admin).await, first);
    let listing = question("listForms", "Organization", &home(&admin).await);
    assert!(!decision(&admin, listing).await, "it is the changed policies that decide");
}

#[tokio::test]
async fn what_the_schema_does_not_declare_is_passed_over() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let strange = json!({ "colour": "red", "deep": { "er": [1, null, 2.5] }, "scope": 5 });
    assert!(decision(&agent, within(strange, updating(&agent.id))).await);
    // Fields that are declared for another action are not for this one.
    let place = json!({ "changes": ["role"], "colour": 1.5 });
    assert!(!decision(&agent, within(place.clone(), updating(&agent.id))).await);
    assert!(decision(&agent, within(place, question("fetchUser", "User", &agent.id))).await);
    // What is known of things comes from the store, whatever a question says of them.
    let mut asked = question("updateUser", "User", &agent.id);
    asked["resource"]["properties"] = json!({ "role": "admin" });
    assert!(decision(&agent, asked.clone()).await);
    // What is said of the action stands in the context.
    asked["action"]["properties"] = json!({ "colour": 1.5 });
    assert!(decision(&agent, asked.clone()).await);
    asked["action"]["properties"] = json!({ "changes": ["role"] });
    assert!(!decision(&agent, asked).await);
}

#[tokio::test]
async fn what_the_schema_does_not_declare_makes_no_question_another_one() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let remembered = async || {
        let text = app.anonymous().get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("cedargate_decisions_remembered_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let asked = |number: i32| within(json!({ "trace": number }), question("fetchUser", "User", &agent.id));
    assert!(decision(&agent, asked(0)).await);
    let before = remembered().await;
    for number in 1..=5 {
        assert!(decision(&agent, asked(number)).await);
    }
    // Each of them, whether it may be asked, and whether the thing may be named.
    assert_eq!(remembered().await - before, 5 * 3);
}

#[tokio::test]
async fn a_declared_field_of_the_wrong_type_is_a_denial_that_says_so() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for changes in
        [json!("role"), json!(5), json!([1]), json!(["role", 1]), json!({ "role": true }), json!(null)]
    {
        let code = obstacle(&admin, within(json!({ "changes": changes }), updating(&admin.id))).await;
        assert!(!code.is_empty());
    }
    let scope = json!({ "scope": "guest" });
    obstacle(&admin, within(scope, question("createApiKey", "User", &admin.id))).await;
    let scope = json!({ "scope": { "__entity": { "type": "Scope", "id": "guest" } } });
    assert!(decision(&admin, within(scope, question("createApiKey", "User", &admin.id))).await);
}

#[tokio::test]
async fn whether_one_may_make_a_key_depends_on_the_scope_of_the_key() {
    let app = TestApp::start().await;
    for (place, role) in Scope::ALL.into_iter().enumerate() {
        let client = app.user(role).await;
        for (above, scope) in Scope::ALL.into_iter().enumerate() {
            let context = json!({ "scope": { "__entity": { "type": "Scope", "id": scope } } });
            let asked = within(context, question("createApiKey", "User", &client.id));
            let answer = answer(&client, asked).await;
            assert_eq!(answer["decision"], above <= place, "{role} {scope}: {answer}");
            let named = policy_ids(&answer);
            assert!(above <= place || named == ["key.ceiling"], "{role} {scope}: {answer}");
            let made = client.post("/v2/users/me/keys", json!({ "name": "test", "scopes": [scope] })).await;
            assert_eq!(made.status == StatusCode::CREATED, above <= place, "{role} {scope}: {}", made.text);
        }
    }
}

#[tokio::test]
async fn nobody_talks_itself_into_another_credential() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = app.bearer(&admin.key(&[Scope::Admin]).await);
    for context in [json!({}), json!({ "credential": "password" }), json!({ "credential": "terminal" })] {
        let asked = within(context, question("createApiKey", "User", &admin.id));
        let answer = answer(&key, asked.clone()).await;
        assert_eq!((&answer["decision"], policy_ids(&answer)), (&json!(false), vec!["key.creation"]));
        let by_token = about(json!({ "token": key.bearer }), asked);
        assert!(!decision(&admin, by_token).await);
    }
}

#[tokio::test]
async fn a_question_that_is_none_is_refused_and_the_field_named() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let good = || question("fetchUser", "User", &bot.id);
    assert!(decision(&bot, good()).await);
    let set = |at: &str, value: Value| {
        let mut asked = about(user(&bot.id), good());
        let (object, name) = at.rsplit_once('/').unwrap();
        asked.pointer_mut(object).unwrap()[name] = value;
        asked
    };
    let without = |at: &str| {
        let mut asked = about(user(&bot.id), good());
        let (object, name) = at.rsplit_once('/').unwrap();
        asked.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        asked
    };
    for (asked, field) in [
        (set("/subjekt", json!({})), "subjekt"),
        (set("/action/nam", json!("x")), "action.nam"),
        (set("/resource/kind", json!("x")), "resource.kind"),
        (set("/subject/role", json!("admin")), "subject.role"),
        (without("/action"), "action"),
        (without("/resource"), "resource"),
        (without("/action/name"), "action.name"),
        (without("/resource/type"), "resource.type"),
        (without("/resource/id"), "resource.id"),
        (set("/action/name", json!(5)), "action.name"),
        (set("/resource/id", json!(5)), "resource.id"),
        (set("/resource/id", json!(null)), "resource.id"),
        (set("/context", json!([])), "context"),
        (set("/context", json!("changes")), "context"),
        (set("/subject", json!({})), "subject"),
        (set("/subject", json!("me")), "subject"),
        (without("/subject/type"), "subject"),
        (without("/subject/id"), "subject"),
        (set("/subject/token", json!("x")), "subject"),
        (set("/subject/type", json!("Conversation")), "subject.type"),
        (set("/subject", json!({ "token": 5 })), "subject.token"),
        (set("/subject", json!({ "token": null })), "subject.token"),
    ] {
        let fields = ask(&bot, asked.clone()).await.expect_problem(400, "invalid_fields");
        assert_eq!(fields, [field], "{asked}");
    }
    let send = async |content_type: &str, body: Vec<u8>| {
        bot.send(Method::POST, "/v2/authorize", &[("content-type", content_type)], Some(body)).await
    };
    for body in ["", "{", "null", "5", "\"text\"", "[]", "{\"action\":{\"name\":\"x\"}"] {
        let reply = send("application/json", body.into()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {}", reply.text);
    }
    send("text/plain", good().to_string().into()).await.expect_problem(415, "unsupported_media_type");
    send("application/json", vec![b' '; 1024 * 1024 + 1]).await.expect_problem(413, "too_large");
    let deep = format!("{{\"context\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(send("application/json", deep.into()).await.status, StatusCode::BAD_REQUEST);
    bot.get("/v2/authorize").await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn the_answer_follows_a_change_of_role() {
    let app = TestApp::start().await;
    let (bot, person) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let home = home(&bot).await;
    let subjects = [user(&person.id), json!({ "token": person.bearer })];
    for (role, by_role, by_token) in
        [("admin", true, true), ("bot", false, false), ("guest", false, false), ("admin", true, true)]
    {
        change(&app, &person.id, json!({ "role": role })).await;
        for (subject, expected) in subjects.iter().zip([by_role, by_token]) {
            let asked = about(subject.clone(), question("listServices", "Organization", &home));
            assert_eq!(decision(&bot, asked).await, expected, "{role} {subject}");
        }
        assert_eq!(person.get("/v2/services").await.status == StatusCode::OK, by_token, "{role}");
    }
    // A promotion counts for the user, and not for the token that is out.
    let low = app.user(Scope::Guest).await;
    change(&app, &low.id, json!({ "role": "admin" })).await;
    let asked = || question("listServices", "Organization", &home);
    assert!(decision(&bot, about(user(&low.id), asked())).await);
    assert!(!decision(&bot, about(json!({ "token": low.bearer }), asked())).await);
}

#[tokio::test]
async fn the_answer_follows_a_thing_that_moves() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (first_home, first) = app.tenant("first").await;
    let (second_home, second) = app.tenant("second").await;
    for path in ["/v2/forms", "/v2/services", "/v2/orggroups"] {
        let made = first.post(path, json!({ "name": "wanders" })).await;
        let id = made.id();
        let kind = match path {
            "/v2/forms" => "Form",
            "/v2/services" => "Service",
            _ => "OrganizationGroup",
        };
        let thing = format!("{path}/{id}");
        for (holder, sees_first) in [(&first_home, true), (&second_home, false), (&first_home, true)] {
            root.patch(&thing, json!({ "organization": holder })).await.expect(StatusCode::OK);
            for (client, sees) in [(&first, sees_first), (&second, !sees_first), (&root, true)] {
                let asked = question(&format!("fetch{kind}"), kind, &id);
                assert_eq!(decision(client, asked.clone()).await, sees, "{kind}");
                let status = if sees { 200 } else { 404 };
                assert_eq!(client.get(&thing).await.status.as_u16(), status, "{kind}");
                if client.id != root.id {
                    assert_eq!(decision(&root, about(user(&client.id), asked)).await, sees, "{kind}");
                }
            }
        }
        root.delete(&thing).await.expect(StatusCode::NO_CONTENT);
        let asked = question(&format!("fetch{kind}"), kind, &id);
        assert!(!decision(&first, asked).await, "it is gone");
    }
}

#[tokio::test]
async fn the_answer_follows_a_user_and_an_organization_that_move() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (first_home, first) = app.tenant("first").await;
    let (second_home, second) = app.tenant("second").await;
    let form = first.post("/v2/forms", json!({ "name": "form" })).await.id();
    let asked = || question("fetchForm", "Form", &form);
    assert!(decision(&first, asked()).await && !decision(&second, asked()).await);
    // The first tenant moves below the second, and back.
    let path = format!("/v2/organizations/{first_home}");
    root.patch(&path, json!({ "parent": second_home })).await.expect(StatusCode::OK);
    assert!(decision(&first, asked()).await && decision(&second, asked()).await);
    second.get(&format!("/v2/forms/{form}")).await.expect(StatusCode::OK);
    root.patch(&path, json!({ "parent": home(&root).await })).await.expect(StatusCode::OK);
    assert!(decision(&first, asked()).await && !decision(&second, asked()).await);
    // Its admin goes over to the second.
    change(&app, &first.id, json!({ "organization": second_home })).await;
    assert!(!decision(&first, asked()).await);
    assert!(!decision(&root, about(user(&first.id), asked())).await);
    let theirs = second.post("/v2/forms", json!({ "name": "theirs" })).await.id();
    assert!(decision(&first, question("fetchForm", "Form", &theirs)).await);
    assert!(!decision(&first, question("fetchForm", "Form", NOBODY)).await);
}
