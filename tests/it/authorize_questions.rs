//! Questions to the decision endpoint: their fields, the explanations in the response, and decisions after changes of the data.

use crate::authorize::{
    UNKNOWN_ID, answer, authorize, decision, error_code, home_organization, policy_ids, question, user,
    with_subject,
};
use crate::support::{Client, TestApp, project_file};
use crate::tokens::update_user;
use cedargate::authz::Scope;
use cedargate::config::PolicyReload;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The question with a context.
fn with_context(context: Value, mut question: Value) -> Value {
    question["context"] = context;
    question
}

fn update_user_question(id: &str) -> Value {
    question("updateUser", "User", id)
}

#[tokio::test]
async fn only_admins_change_their_own_role_organization_or_status() {
    let app = TestApp::start().await;
    for role in Scope::ALL {
        let client = app.user(role).await;
        for (changes, is_protected) in [
            (json!(["role"]), true),
            (json!(["organization"]), true),
            (json!(["givenName", "status"]), true),
            (json!(["givenName"]), false),
            (json!([]), false),
            (json!([{ "type": "Field", "id": "role" }]), true),
            (json!([{ "__entity": { "type": "Field", "id": "givenName" } }]), false),
        ] {
            let request = with_context(json!({ "changes": changes }), update_user_question(&client.id));
            let answer = answer(&client, request).await;
            assert_eq!(answer["context"].get("error"), None);
            assert_eq!(answer["decision"], role == Scope::Admin || !is_protected, "{role} {changes}");
            if answer["decision"] == false {
                let source = std::fs::read_to_string(project_file("policies/self.cedar")).unwrap();
                let policies = answer["context"]["policies"].as_array().unwrap();
                assert_eq!(policies.len(), 1, "{answer}");
                assert_eq!(policies[0]["id"], "self.place");
                let doc = policies[0]["doc"].as_str().unwrap();
                assert!(!doc.is_empty() && source.contains(&format!("@doc(\"{doc}\")")), "{doc}");
            }
        }
        // The endpoint of the resource makes the same decision.
        let reply = client.patch("/v2/users/me", json!({ "role": "guest" })).await;
        let changed = role == Scope::Admin || role == Scope::Guest;
        assert_eq!(reply.status == StatusCode::OK, changed, "{role}: {}", reply.text);
    }
}

#[tokio::test]
async fn the_determining_policies_are_named() {
    let app = TestApp::start().await;
    let (_, tenant) = app.tenant("tenant").await;
    let guest = app.user(Scope::Guest).await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let fetching = || question("fetchConversation", "Conversation", &conversation);
    for (client, request, permitted, policies) in [
        (&guest, fetching(), true, vec!["guest"]),
        (&admin, fetching(), true, vec!["guest"]),
        (&guest, question("fetchUser", "User", &guest.id), true, vec!["self"]),
        (&admin, question("fetchUser", "User", &guest.id), true, vec!["bot"]),
        (&admin, question("fetchUser", "User", &admin.id), true, vec!["bot", "self"]),
        (&guest, question("fetchUser", "User", &admin.id), false, vec![]),
        (&tenant, fetching(), false, vec!["tenancy"]),
    ] {
        let answer = answer(client, request.clone()).await;
        let mut named = policy_ids(&answer);
        named.sort_unstable();
        assert_eq!((&answer["decision"], named), (&json!(permitted), policies), "{request}");
    }
}

#[tokio::test]
async fn the_version_depends_on_the_policies_only() {
    let app = TestApp::start().await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let version = async |client: &Client| {
        let answer = answer(client, question("fetchUser", "User", &client.id)).await;
        answer["context"]["version"].as_str().unwrap().to_owned()
    };
    let first = version(&admin).await;
    assert_eq!(version(&guest).await, first);
    update_user(&app, &guest.id, json!({ "role": "agent" })).await;
    assert_eq!(version(&guest).await, first, "the version does not depend on stored data");
    let same = app.start_replica(|_| ()).await;
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
        .start_replica(|config| {
            config.policies = vec![copy.path().to_owned()];
            // The copy has no policy tests.
            config.policy_reload = PolicyReload::Auto;
        })
        .await;
    let admin = other.admin().await;
    assert_ne!(version(&admin).await, first);
    let listing = question("listForms", "Organization", &home_organization(&admin).await);
    assert!(!decision(&admin, listing).await, "the changed policies must apply");
}

#[tokio::test]
async fn undeclared_attributes_are_ignored() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let strange = json!({ "colour": "red", "deep": { "er": [1, null, 2.5] }, "scope": 5 });
    assert!(decision(&agent, with_context(strange, update_user_question(&agent.id))).await);
    // Fields that are declared only for other actions are ignored.
    let place = json!({ "changes": ["role"], "colour": 1.5 });
    assert!(!decision(&agent, with_context(place.clone(), update_user_question(&agent.id))).await);
    assert!(decision(&agent, with_context(place, question("fetchUser", "User", &agent.id))).await);
    // Stored data take precedence over the properties in a question.
    let mut request = question("updateUser", "User", &agent.id);
    request["resource"]["properties"] = json!({ "role": "admin" });
    assert!(decision(&agent, request.clone()).await);
    // Properties of the action are merged into the context.
    request["action"]["properties"] = json!({ "colour": 1.5 });
    assert!(decision(&agent, request.clone()).await);
    request["action"]["properties"] = json!({ "changes": ["role"] });
    assert!(!decision(&agent, request).await);
}

#[tokio::test]
async fn undeclared_attributes_do_not_defeat_the_decision_cache() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let cache_hits = async || {
        let text = app.anonymous().get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("cedargate_decision_cache_hits_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let request =
        |number: i32| with_context(json!({ "trace": number }), question("fetchUser", "User", &agent.id));
    assert!(decision(&agent, request(0)).await);
    let before = cache_hits().await;
    for number in 1..=5 {
        assert!(decision(&agent, request(number)).await);
    }
    // Each question, whether the caller may ask it, and whether the caller may refer to the resource.
    assert_eq!(cache_hits().await - before, 5 * 3);
}

#[tokio::test]
async fn a_declared_attribute_of_the_wrong_type_is_denied_with_an_error_code() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for changes in
        [json!("role"), json!(5), json!([1]), json!(["role", 1]), json!({ "role": true }), json!(null)]
    {
        let code =
            error_code(&admin, with_context(json!({ "changes": changes }), update_user_question(&admin.id)))
                .await;
        assert!(!code.is_empty());
    }
    for changes in [json!(["passwrod"]), json!([{ "type": "Field", "id": "passwrod" }])] {
        let request = with_context(json!({ "changes": changes }), update_user_question(&admin.id));
        let error = answer(&admin, request).await["context"]["error"].clone();
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("context.changes.0: expected one of \"actions\", \"avatar\""), "{error}");
    }
    let scope = json!({ "scope": "guest" });
    error_code(&admin, with_context(scope, question("createApiKey", "User", &admin.id))).await;
    let scope = json!({ "scope": { "__entity": { "type": "Scope", "id": "guest" } } });
    assert!(decision(&admin, with_context(scope, question("createApiKey", "User", &admin.id))).await);
}

#[tokio::test]
async fn creating_a_key_is_authorized_by_the_scope_of_the_key() {
    let app = TestApp::start().await;
    for (place, role) in Scope::ALL.into_iter().enumerate() {
        let client = app.user(role).await;
        for (above, scope) in Scope::ALL.into_iter().enumerate() {
            let context = json!({ "scope": { "__entity": { "type": "Scope", "id": scope } } });
            let request = with_context(context, question("createApiKey", "User", &client.id));
            let answer = answer(&client, request).await;
            assert_eq!(answer["decision"], above <= place, "{role} {scope}: {answer}");
            let named = policy_ids(&answer);
            assert!(above <= place || named == ["key.ceiling"], "{role} {scope}: {answer}");
            let created =
                client.post("/v2/users/me/keys", json!({ "name": "test", "scopes": [scope] })).await;
            assert_eq!(
                created.status == StatusCode::CREATED,
                above <= place,
                "{role} {scope}: {}",
                created.text
            );
        }
    }
}

#[tokio::test]
async fn the_credential_cannot_be_overridden_by_the_context() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = app.bearer(&admin.key(&[Scope::Admin]).await);
    for context in [json!({}), json!({ "credential": "session" }), json!({ "credential": "terminal" })] {
        let request = with_context(context, question("createApiKey", "User", &admin.id));
        let answer = answer(&key, request.clone()).await;
        assert_eq!((&answer["decision"], policy_ids(&answer)), (&json!(false), vec!["key.creation"]));
        let by_token = with_subject(json!({ "token": key.bearer }), request);
        assert!(!decision(&admin, by_token).await);
    }
}

#[tokio::test]
async fn an_invalid_question_names_the_field() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let good = || question("fetchUser", "User", &bot.id);
    assert!(decision(&bot, good()).await);
    let set = |index: &str, value: Value| {
        let mut request = with_subject(user(&bot.id), good());
        let (object, name) = index.rsplit_once('/').unwrap();
        request.pointer_mut(object).unwrap()[name] = value;
        request
    };
    let without = |index: &str| {
        let mut request = with_subject(user(&bot.id), good());
        let (object, name) = index.rsplit_once('/').unwrap();
        request.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        request
    };
    for (request, field) in [
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
        (set("/subject", json!({ "token": 5 })), "subject.token"),
        (set("/subject", json!({ "token": null })), "subject.token"),
    ] {
        let fields = authorize(&bot, request.clone()).await.expect_problem(400, "invalid_fields");
        assert_eq!(fields, [field], "{request}");
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
async fn the_answer_reflects_a_role_change() {
    let app = TestApp::start().await;
    let (bot, person) = (app.user(Scope::Bot).await, app.user(Scope::Admin).await);
    let home_organization = home_organization(&bot).await;
    let subjects = [user(&person.id), json!({ "token": person.bearer })];
    for (role, by_role, by_token) in
        [("admin", true, true), ("bot", false, false), ("guest", false, false), ("admin", true, true)]
    {
        update_user(&app, &person.id, json!({ "role": role })).await;
        for (subject, expected) in subjects.iter().zip([by_role, by_token]) {
            let request =
                with_subject(subject.clone(), question("listServices", "Organization", &home_organization));
            assert_eq!(decision(&bot, request).await, expected, "{role} {subject}");
        }
        assert_eq!(person.get("/v2/services").await.status == StatusCode::OK, by_token, "{role}");
    }
    // A promotion changes the user's scopes, but not those of an issued token.
    let low = app.user(Scope::Guest).await;
    update_user(&app, &low.id, json!({ "role": "admin" })).await;
    let request = || question("listServices", "Organization", &home_organization);
    assert!(decision(&bot, with_subject(user(&low.id), request())).await);
    assert!(!decision(&bot, with_subject(json!({ "token": low.bearer }), request())).await);
}

#[tokio::test]
async fn the_answer_reflects_a_moved_resource() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (first_home, first) = app.tenant("first").await;
    let (second_home, second) = app.tenant("second").await;
    for path in ["/v2/forms", "/v2/services", "/v2/orggroups"] {
        let created = first.post(path, json!({ "name": "wanders" })).await;
        let id = created.id();
        let kind = match path {
            "/v2/forms" => "Form",
            "/v2/services" => "Service",
            _ => "OrganizationGroup",
        };
        let resource_path = format!("{path}/{id}");
        for (holder, sees_first) in [(&first_home, true), (&second_home, false), (&first_home, true)] {
            root.patch(&resource_path, json!({ "organization": holder })).await.expect(StatusCode::OK);
            for (client, sees) in [(&first, sees_first), (&second, !sees_first), (&root, true)] {
                let request = question(&format!("fetch{kind}"), kind, &id);
                assert_eq!(decision(client, request.clone()).await, sees, "{kind}");
                let status = if sees { 200 } else { 404 };
                assert_eq!(client.get(&resource_path).await.status.as_u16(), status, "{kind}");
                if client.id != root.id {
                    assert_eq!(
                        decision(&root, with_subject(user(&client.id), request)).await,
                        sees,
                        "{kind}"
                    );
                }
            }
        }
        root.delete(&resource_path).await.expect(StatusCode::NO_CONTENT);
        let request = question(&format!("fetch{kind}"), kind, &id);
        assert!(!decision(&first, request).await, "the resource is deleted");
    }
}

#[tokio::test]
async fn the_answer_reflects_a_moved_user_or_organization() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (first_home, first) = app.tenant("first").await;
    let (second_home, second) = app.tenant("second").await;
    let form = first.post("/v2/forms", json!({ "name": "form" })).await.id();
    let request = || question("fetchForm", "Form", &form);
    assert!(decision(&first, request()).await && !decision(&second, request()).await);
    // The first tenant moves below the second, and back.
    let path = format!("/v2/organizations/{first_home}");
    root.patch(&path, json!({ "parent": second_home })).await.expect(StatusCode::OK);
    assert!(decision(&first, request()).await && decision(&second, request()).await);
    second.get(&format!("/v2/forms/{form}")).await.expect(StatusCode::OK);
    root.patch(&path, json!({ "parent": home_organization(&root).await })).await.expect(StatusCode::OK);
    assert!(decision(&first, request()).await && !decision(&second, request()).await);
    // Its admin moves to the second tenant.
    update_user(&app, &first.id, json!({ "organization": second_home })).await;
    assert!(!decision(&first, request()).await);
    assert!(!decision(&root, with_subject(user(&first.id), request())).await);
    let theirs = second.post("/v2/forms", json!({ "name": "theirs" })).await.id();
    assert!(decision(&first, question("fetchForm", "Form", &theirs)).await);
    assert!(!decision(&first, question("fetchForm", "Form", UNKNOWN_ID)).await);
}
