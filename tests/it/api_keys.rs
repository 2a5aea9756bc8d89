//! API keys: who creates them, what they grant, and when they end (see "API keys" in docs/decisions.md).

use crate::authzen::start_with_policies;
use crate::lists::fetch_all_pages;
use crate::support::{Client, Reply, TestApp};
use crate::tokens::update_user;
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The path of a user's keys.
fn keys_path(user: &str) -> String {
    format!("/v2/users/{user}/keys")
}

/// Creates a key for the client's own user.
async fn create_key(client: &Client, body: Value) -> Reply {
    client.post(&keys_path("me"), body).await
}

/// Creates a key with these scopes for the client's own user. Returns the created key.
async fn create_key_with_scopes(client: &Client, scopes: &[&str]) -> Value {
    create_key(client, json!({ "name": "test", "scopes": scopes })).await.expect(StatusCode::CREATED)
}

fn secret(created: &Value) -> &str {
    created["key"].as_str().unwrap()
}

async fn list_keys(client: &Client, user: &str) -> Vec<Value> {
    let reply = client.get(&keys_path(user)).await.expect(StatusCode::OK);
    reply.as_array().unwrap().clone()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[tokio::test]
async fn a_policy_may_restrict_the_scope_of_new_keys() {
    let policy = r#"@id("low") forbid (principal, action == Action::"createApiKey", resource)
        when { context has scope && context.scope in Scope::"bot" };"#;
    let app = start_with_policies(policy).await;
    let admin = app.admin().await;
    for (scope, expected) in [
        ("guest", StatusCode::CREATED),
        ("agent", StatusCode::CREATED),
        ("bot", StatusCode::FORBIDDEN),
        ("admin", StatusCode::FORBIDDEN),
    ] {
        let reply = create_key(&admin, json!({ "name": "test", "scopes": [scope] })).await;
        assert_eq!(reply.status, expected, "{scope}: {}", reply.text);
    }
}

#[tokio::test]
async fn the_secret_of_a_key_is_returned_once_and_not_listed() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let reply = create_key(&agent, json!({ "name": "nightly import", "scopes": ["agent"] })).await;
    assert_eq!(reply.header("cache-control"), "no-store");
    let created = reply.expect(StatusCode::CREATED);
    assert_eq!((&created["name"], &created["scopes"]), (&json!("nightly import"), &json!(["agent"])));
    assert_eq!(created["user"], agent.id.as_str());
    let key = secret(&created);

    let reply = agent.get(&keys_path("me")).await;
    assert!(!reply.text.contains(key), "{}", reply.text);
    assert!(
        !reply.text.contains(&key[key.len() - 32..]) && !reply.text.contains(&key[3..19]),
        "{}",
        reply.text
    );
    let listed = reply.expect(StatusCode::OK);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("key").unwrap();
    assert_eq!(listed[0], expected);
    assert!(!expected.as_object().unwrap().contains_key("hash"));
    // The hint is long enough to tell keys apart, and too short to guess one.
    let hint = expected["hint"].as_str().unwrap();
    assert!(key.starts_with(hint) && (4..=8).contains(&hint.len()), "{hint}");
}

#[tokio::test]
async fn keys_are_listed_in_order_of_creation() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    assert_eq!(list_keys(&user, "me").await, [] as [Value; 0]);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(create_key_with_scopes(&user, &["guest"]).await["id"].clone());
        app.clock.advance(1);
    }
    let seen: Vec<Value> = list_keys(&user, &user.id).await.iter().map(|key| key["id"].clone()).collect();
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn the_last_use_of_a_key_is_listed() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let used = create_key_with_scopes(&user, &["guest"]).await;
    app.clock.advance(1);
    let unused = create_key_with_scopes(&user, &["guest"]).await;
    let last_used = async || {
        let keys = list_keys(&user, "me").await;
        keys.iter().map(|key| key["lastUsedAt"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(last_used().await, [Value::Null, Value::Null]);
    let client = app.bearer(secret(&used));
    app.clock.advance(3_600_000);
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    let first = app.clock.now().to_string();
    assert_eq!(last_used().await, [json!(first), Value::Null]);
    app.clock.advance(3_600_000);
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    let second = app.clock.now().to_string();
    assert_eq!(last_used().await, [json!(second), Value::Null]);
    assert_ne!(used["id"], unused["id"]);
}

#[tokio::test]
async fn a_deleted_key_is_rejected_immediately() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let (ended, kept) =
        (create_key_with_scopes(&user, &["agent"]).await, create_key_with_scopes(&user, &["agent"]).await);
    let client = app.bearer(secret(&ended));
    client.get("/v2/conversations").await.expect(StatusCode::OK);
    let path = format!("{}/{}", keys_path("me"), ended["id"].as_str().unwrap());
    user.delete(&path).await.expect(StatusCode::NO_CONTENT);
    let reply = client.get("/v2/conversations").await;
    reply.expect_problem(401, "invalid_token");
    assert_eq!(reply.json["error"]["message"], "invalid token");
    app.bearer(secret(&kept)).get("/v2/conversations").await.expect(StatusCode::OK);
    assert_eq!(list_keys(&user, "me").await.len(), 1);
    user.delete(&path).await.expect_problem(404, "not_found");
    for nothing in ["599e1fcd9da1c72645c95886", "no-id", "me"] {
        let reply = user.delete(&format!("{}/{nothing}", keys_path("me"))).await;
        reply.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_key_expires_at_its_expiry_time() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let end = app.clock.now().plus_seconds(3_600);
    let body = json!({ "name": "an hour", "scopes": ["guest"], "expiresAt": end.to_string() });
    let created = create_key(&user, body).await.expect(StatusCode::CREATED);
    assert_eq!(created["expiresAt"], end.to_string());
    let client = app.bearer(secret(&created));
    app.clock.advance(3_600_000 - 1);
    client.get("/v2/users/me").await.expect(StatusCode::OK);
    app.clock.advance(1);
    let expired = client.get("/v2/users/me").await;
    expired.expect_problem(403, "token_expired");
    assert!(expired.header("www-authenticate").contains("error=\"invalid_token\""));
    assert_eq!(list_keys(&user, "me").await.len(), 1, "an expired key stays in the list");
}

#[tokio::test]
async fn a_key_may_expire_at_the_end_of_the_year_9999() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    for (end, stored) in [
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59+14:00", "9999-12-31T09:59:59.000Z"),
    ] {
        let body = json!({ "name": "for long", "scopes": ["guest"], "expiresAt": end });
        let created = create_key(&user, body).await.expect(StatusCode::CREATED);
        assert_eq!(created["expiresAt"], stored);
        app.bearer(secret(&created)).get("/v2/users/me").await.expect(StatusCode::OK);
    }
    for key in list_keys(&user, "me").await {
        assert!(key["expiresAt"].as_str().unwrap().starts_with("9999-12-31T"), "{key}");
    }
    let body = json!({ "name": "beyond", "scopes": ["guest"], "expiresAt": "9999-12-31T23:59:59-00:01" });
    assert_eq!(create_key(&user, body).await.expect_problem(400, "invalid_fields"), ["expiresAt"]);
}

#[tokio::test]
async fn a_key_without_an_expiry_does_not_expire() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let created = create_key_with_scopes(&user, &["guest"]).await;
    assert_eq!(created["expiresAt"], Value::Null);
    app.clock.advance(10 * 365 * 86_400_000);
    app.bearer(secret(&created)).get("/v2/users/me").await.expect(StatusCode::OK);
    user.get("/v2/users/me").await.expect_problem(403, "token_expired");
}

#[tokio::test]
async fn a_key_has_one_of_two_formats() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let mut seen = std::collections::HashSet::new();
    for (format, is_default) in [(json!("cg"), false), (json!("hex"), false), (Value::Null, true)] {
        let mut body = json!({ "name": "test", "scopes": ["guest"], "format": format });
        if is_default {
            body.as_object_mut().unwrap().remove("format");
        }
        let created = create_key(&user, body).await.expect(StatusCode::CREATED);
        let key = secret(&created);
        match key.strip_prefix("cg_") {
            Some(rest) => assert!(format != "hex" && rest.len() > 32 && is_hex(&rest[..32], 32), "{key}"),
            None => assert!(format == "hex" && is_hex(key, 32), "{key}"),
        }
        app.bearer(key).get("/v2/users/me").await.expect(StatusCode::OK);
        assert!(seen.insert(key.to_owned()));
        // Typing errors at several positions, and a key that is one character longer or shorter.
        for index in [0, 3, 10, key.len() - 1] {
            let other = if &key[index..=index] == "0" { "1" } else { "0" };
            let misspelled = format!("{}{other}{}", &key[..index], &key[index + 1..]);
            app.bearer(&misspelled).get("/v2/users/me").await.expect_problem(401, "invalid_token");
        }
        for wrong in [&key[1..], &key[..key.len() - 1], &format!("{key}0"), &key.to_uppercase()] {
            app.bearer(wrong).get("/v2/users/me").await.expect_problem(401, "invalid_token");
        }
    }
}

#[tokio::test]
async fn an_invalid_key_request_names_the_field() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let now = app.clock.now();
    for (change, field) in [
        (json!({ "scopes": [] }), "scopes"),
        (json!({ "scopes": null }), "scopes"),
        (json!({ "scopes": "admin" }), "scopes"),
        (json!({ "scopes": ["owner"] }), "scopes"),
        (json!({ "scopes": ["guest", "agnet"] }), "scopes"),
        (json!({ "scopes": [""] }), "scopes"),
        (json!({ "scopes": ["Admin"] }), "scopes"),
        (json!({ "scopes": [1] }), "scopes"),
        (json!({ "name": 5 }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "x".repeat(10_000) }), "name"),
        (json!({ "format": "base64" }), "format"),
        (json!({ "expiresAt": "tomorrow" }), "expiresAt"),
        (json!({ "expiresAt": 4_102_444_800_i64 }), "expiresAt"),
        (json!({ "expiresAt": "2020-01-01T00:00:00Z" }), "expiresAt"),
        (json!({ "expiresAt": now.to_string() }), "expiresAt"),
        (json!({ "key": "94c70d470e391bdc16a8d8363b5d4891" }), "key"),
        (json!({ "user": "599e1fcd9da1c72645c95886" }), "user"),
        (json!({ "lastUsedAt": null }), "lastUsedAt"),
    ] {
        let mut body = json!({ "name": "test", "scopes": ["guest"] });
        let changes = change.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(changes);
        let fields = create_key(&admin, body).await.expect_problem(400, "invalid_fields");
        let place = fields.first().unwrap();
        assert!(place == field || place.starts_with(&format!("{field}.")), "{change}: {fields:?}");
    }
    for (body, field) in [(json!({ "name": "test" }), "scopes"), (json!({ "scopes": ["guest"] }), "name")] {
        assert_eq!(create_key(&admin, body).await.expect_problem(400, "invalid_fields"), [field]);
    }
    let in_order = json!(["test", ["guest"], null, "cg"]);
    create_key(&admin, in_order).await.expect_problem(400, "bad_request");
    assert_eq!(list_keys(&admin, "me").await, [] as [Value; 0], "nothing was stored");
}

#[tokio::test]
async fn duplicate_scopes_are_merged() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let reply = create_key(&bot, json!({ "name": "test", "scopes": ["bot", "guest", "bot"] })).await;
    assert_eq!(reply.expect(StatusCode::CREATED)["scopes"], json!(["guest", "bot"]));
}

#[tokio::test]
async fn the_scopes_of_a_key_cannot_exceed_those_of_its_creator() {
    let app = TestApp::start().await;
    for (place, role) in Scope::ALL.into_iter().enumerate() {
        let user = app.user(role).await;
        for (above, scope) in Scope::ALL.into_iter().enumerate() {
            let reply = create_key(&user, json!({ "name": "test", "scopes": [scope] })).await;
            if above <= place {
                reply.expect(StatusCode::CREATED);
            } else {
                reply.expect_problem(403, "forbidden");
            }
            // One scope above the caller's own rejects the whole request.
            let reply = create_key(&user, json!({ "name": "test", "scopes": ["guest", scope] })).await;
            assert_eq!(reply.status == StatusCode::CREATED, above <= place, "{role} {scope}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_demoted_user_cannot_create_keys_above_its_role() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    update_user(&app, &user.id, json!({ "role": "agent" })).await;
    create_key(&user, json!({ "name": "test", "scopes": ["admin"] })).await.expect_problem(403, "forbidden");
    create_key(&user, json!({ "name": "test", "scopes": ["bot"] })).await.expect_problem(403, "forbidden");
    create_key(&user, json!({ "name": "test", "scopes": ["agent"] })).await.expect(StatusCode::CREATED);
    // A promoted user's key cannot exceed the scope of the token that it was promoted with.
    update_user(&app, &user.id, json!({ "role": "admin" })).await;
    let low = app.user(Scope::Guest).await;
    update_user(&app, &low.id, json!({ "role": "admin" })).await;
    create_key(&low, json!({ "name": "test", "scopes": ["agent"] })).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_key_cannot_create_keys() {
    let app = TestApp::start().await;
    let admin = app.user(Scope::Admin).await;
    let other = app.user(Scope::Guest).await;
    for scope in Scope::ALL {
        let key = app.bearer(&admin.key(&[scope]).await);
        for user in ["me", &admin.id, &other.id] {
            let reply = key.post(&keys_path(user), json!({ "name": "child", "scopes": ["guest"] })).await;
            assert!([403, 404].contains(&reply.status.as_u16()), "{scope}, {user}: {}", reply.text);
            if user == "me" {
                reply.expect_problem(403, "forbidden");
            }
        }
    }
    assert_eq!(list_keys(&admin, "me").await.len(), 4);
    assert_eq!(list_keys(&other, "me").await.len(), 0);
}

#[tokio::test]
async fn a_key_lists_the_keys_of_its_user_and_deletes_none() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let created = create_key_with_scopes(&user, &["agent"]).await;
    let client = app.bearer(secret(&created));
    assert_eq!(list_keys(&client, "me").await.len(), 1);
    let path = format!("{}/{}", keys_path("me"), created["id"].as_str().unwrap());
    client.delete(&path).await.expect_problem(403, "forbidden");
    client.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn only_admins_manage_the_keys_of_others() {
    let app = TestApp::start().await;
    let owner = app.user(Scope::Agent).await;
    let kept = create_key_with_scopes(&owner, &["agent"]).await;
    let path = format!("{}/{}", keys_path(&owner.id), kept["id"].as_str().unwrap());
    for role in [Scope::Guest, Scope::Agent, Scope::Bot] {
        let other = app.user(role).await;
        // Every user may list its own keys, so that another user's keys are 404, not 403.
        let missing = other.get(&keys_path("599e1fcd9da1c72645c95886")).await;
        for reply in [
            other.get(&keys_path(&owner.id)).await,
            other.delete(&path).await,
            other.post(&keys_path(&owner.id), json!({ "name": "theirs", "scopes": ["guest"] })).await,
        ] {
            assert_eq!(reply.status, missing.status, "{role}: {}", reply.text);
            assert!([403, 404].contains(&reply.status.as_u16()), "{role}: {}", reply.text);
        }
        // Another user's key is not found under the caller's own path.
        let reply = other.delete(&format!("{}/{}", keys_path("me"), kept["id"].as_str().unwrap())).await;
        reply.expect_problem(404, "not_found");
    }
    app.bearer(secret(&kept)).get("/v2/conversations").await.expect(StatusCode::OK);

    let admin = app.user(Scope::Admin).await;
    assert_eq!(list_keys(&admin, &owner.id).await.len(), 1);
    let body = json!({ "name": "from above", "scopes": ["agent"] });
    let given = admin.post(&keys_path(&owner.id), body).await.expect(StatusCode::CREATED);
    assert_eq!(given["user"], owner.id.as_str());
    let me = app.bearer(secret(&given)).get("/v2/users/me").await.expect(StatusCode::OK);
    assert_eq!(me["id"], owner.id.as_str());
    admin.delete(&path).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(list_keys(&owner, "me").await.len(), 1);
}

#[tokio::test]
async fn a_key_is_limited_by_the_role_of_its_user() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Admin).await;
    let key = app.bearer(secret(&create_key_with_scopes(&user, &["admin"]).await));
    key.get("/v2/services").await.expect(StatusCode::OK);
    update_user(&app, &user.id, json!({ "role": "agent" })).await;
    key.get("/v2/services").await.expect_problem(403, "forbidden");
    key.get("/v2/messages").await.expect_problem(403, "forbidden");
    key.get("/v2/conversations").await.expect(StatusCode::OK);
    update_user(&app, &user.id, json!({ "role": "guest" })).await;
    key.get("/v2/conversations").await.expect_problem(403, "forbidden");
    key.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn every_scope_of_a_key_includes_its_lower_scopes() {
    let app = TestApp::start().await;
    let admin = app.user(Scope::Admin).await;
    for (scopes, lists_conversations, lists_messages, lists_services) in [
        (vec!["guest"], false, false, false),
        (vec!["guest", "agent"], true, false, false),
        (vec!["bot"], true, true, false),
        (vec!["guest", "bot"], true, true, false),
        (vec!["admin", "guest"], true, true, true),
    ] {
        let key = app.bearer(secret(&create_key_with_scopes(&admin, &scopes).await));
        for (path, expected) in [
            ("/v2/conversations", lists_conversations),
            ("/v2/messages", lists_messages),
            ("/v2/services", lists_services),
        ] {
            let reply = key.get(path).await;
            assert_eq!(reply.status.as_u16(), if expected { 200 } else { 403 }, "{scopes:?}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn the_keys_of_another_tenant_are_not_found() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let key = create_key_with_scopes(&theirs, &["admin"]).await;
    let path = format!("{}/{}", keys_path(&theirs.id), key["id"].as_str().unwrap());
    let body = json!({ "name": "test", "scopes": ["guest"] });
    let nobody = ours.get(&keys_path("599e1fcd9da1c72645c95886")).await;
    let mut detail = nobody.json.clone();
    detail.as_object_mut().unwrap().remove("requestId");
    for reply in [
        ours.get(&keys_path(&theirs.id)).await,
        ours.delete(&path).await,
        ours.post(&keys_path(&theirs.id), body.clone()).await,
    ] {
        reply.expect_problem(404, "not_found");
        let mut body = reply.json.clone();
        body.as_object_mut().unwrap().remove("requestId");
        assert_eq!(body, detail);
    }
    // The admin of the root organization manages the keys of all users.
    let root = app.admin().await;
    assert_eq!(list_keys(&root, &theirs.id).await.len(), 1);
    root.post(&keys_path(&theirs.id), body).await.expect(StatusCode::CREATED);
    root.delete(&path).await.expect(StatusCode::NO_CONTENT);
    app.bearer(secret(&key)).get("/v2/users/me").await.expect_problem(401, "invalid_token");
}

#[tokio::test]
async fn deleting_a_user_deletes_its_keys() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    let key = app.bearer(secret(&create_key_with_scopes(&user, &["guest"]).await));
    key.get("/v2/users/me").await.expect(StatusCode::OK);
    app.admin().await.delete(&format!("/v2/users/{}", user.id)).await.expect(StatusCode::NO_CONTENT);
    key.get("/v2/users/me").await.expect_problem(401, "invalid_token");
}

#[tokio::test]
async fn the_secret_of_a_key_is_not_stored() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Guest).await;
    for format in ["cg", "hex"] {
        let body = json!({ "name": format!("a key in {format}"), "scopes": ["guest"], "format": format });
        let created = create_key(&user, body).await.expect(StatusCode::CREATED);
        app.bearer(secret(&created)).get("/v2/users/me").await.expect(StatusCode::OK);
        let stored = app.dump().await;
        assert!(stored.contains(&format!("a key in {format}")), "the search must find what is stored");
        let key = secret(&created);
        let digits = key.strip_prefix("cg_").unwrap_or(key);
        assert!(!stored.contains(key) && !stored.contains(&digits[..32]) && !stored.contains(&digits[8..32]));
    }
}

#[tokio::test]
async fn keys_are_listed_in_pages_like_other_lists() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for name in ["b", "a", "d", "c", "e"] {
        app.clock.advance(1_000);
        let expiry = (name < "c").then(|| app.clock.now().plus_seconds(3_600).to_string());
        create_key(&admin, json!({ "name": name, "scopes": ["guest"], "expiresAt": expiry })).await;
    }
    let names = async |query: &str| -> String {
        let pages = fetch_all_pages(&admin, &format!("{}?{query}", keys_path("me"))).await;
        let keys = pages.iter().flat_map(|page| page.as_array().unwrap());
        keys.map(|key| key["name"].as_str().unwrap()).collect()
    };
    for (query, expected) in [
        ("limit=2", "badce"),
        ("limit=2&offset=1", "adce"),
        ("limit=2&sort=name", "abcde"),
        ("limit=1&sort=-name&total=false", "edcba"),
        // Without a value last, in both directions.
        ("limit=1&sort=expiresAt", "badce"),
        ("limit=2&sort=-expiresAt", "abdce"),
        ("name=~A", "a"),
        ("expiresAt=null&limit=1", "dce"),
    ] {
        assert_eq!(names(query).await, expected, "{query}");
    }
    let page = admin.get(&format!("{}?limit=2", keys_path("me"))).await;
    assert_eq!(page.header("x-total-count"), "5");
    let refused = admin.get(&format!("{}?scope=guest", keys_path("me"))).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["scope"]);
}
