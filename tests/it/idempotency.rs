//! The header `Idempotency-Key`: a repeated request is executed once.

use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use cedargate::http::route_group::KeyUse;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Sends a JSON body with a key.
async fn send(client: &Client, method: Method, path: &str, key: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    client.send(method, path, &headers, Some(serde_json::to_vec(body).unwrap())).await
}

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Reply {
    send(client, Method::POST, path, key, body).await
}

fn is_repetition(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == "true"
}

#[track_caller]
fn expect_same_answer(first: &Reply, second: &Reply) {
    assert!(!is_repetition(first) && is_repetition(second), "{first:?} {second:?}");
    assert_eq!((first.status, &first.text), (second.status, &second.text));
    for name in ["location", "etag", "content-type"] {
        assert_eq!(first.header(name), second.header(name), "{name}");
    }
}

#[actix_web::test]
async fn a_repeated_request_is_executed_once_and_answered_alike() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = json!({"name": "Feedback"});
    let first = post(&admin, "/v2/forms", "create-1", &form).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(!first.header("location").is_empty() && !first.header("etag").is_empty());
    expect_same_answer(&first, &post(&admin, "/v2/forms", "create-1", &form).await);
    expect_same_answer(&first, &post(&admin, "/v2/forms", "\"create-1\"", &form).await);
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 1);

    // The answer is that of the first request, whatever happened to the resource since.
    let path = format!("/v2/forms/{}", first.id());
    let patch = json!({"name": "Order"});
    let changed = send(&admin, Method::PATCH, &path, "patch-1", &patch).await;
    assert_eq!((changed.status, &changed.json["name"]), (StatusCode::OK, &json!("Order")));
    admin.patch(&path, json!({"name": "Return"})).await.expect(StatusCode::OK);
    expect_same_answer(&changed, &send(&admin, Method::PATCH, &path, "patch-1", &patch).await);
    assert_eq!(admin.get(&path).await.json["name"], "Return");
    let metrics = app.anonymous().get("/metrics").await.text;
    assert!(metrics.contains("cedargate_idempotent_repetitions_total 3\n"), "{metrics}");
}

#[actix_web::test]
async fn every_resource_and_messages_of_a_conversation_are_created_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = post(&admin, "/v2/conversations", "c", &json!({"messages": [{"text": "Hi"}]})).await;
    expect_same_answer(
        &conversation,
        &post(&admin, "/v2/conversations", "c", &json!({"messages": [{"text": "Hi"}]})).await,
    );
    let id = conversation.id();
    let messages = format!("/v2/conversations/{id}/messages");
    for (index, (path, body)) in [
        ("/v2/organizations", json!({"name": "Acme"})),
        ("/v2/orggroups", json!({"name": "Group"})),
        ("/v2/users", json!({"email": "a@example.com", "role": "agent"})),
        ("/v2/messages", json!({"conversation": id, "text": "One"})),
        (messages.as_str(), json!([{"text": "Two"}, {"text": "Three"}])),
        ("/v2/contacts", json!({"profile": {"name": "Ada"}})),
        ("/v2/kbitems", json!({"title": "Hours"})),
        ("/v2/forms", json!({"name": "Feedback"})),
        ("/v2/services", json!({"name": "Search"})),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("key-{index}");
        let first = post(&admin, path, &key, &body).await;
        assert_eq!(first.status, StatusCode::CREATED, "{path}: {}", first.text);
        expect_same_answer(&first, &post(&admin, path, &key, &body).await);
    }
    assert_eq!(app.count("SELECT COUNT(*) FROM messages").await, 4);
}

#[actix_web::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = json!({"name": "Feedback"});
    let first = post(&admin, "/v2/forms", "k", &form).await;
    let path = format!("/v2/forms/{}", first.id());
    for (method, path, body) in [
        (Method::POST, "/v2/forms", json!({"name": "Order"})),
        (Method::POST, "/v2/kbitems", json!({"title": "Feedback"})),
        (Method::PATCH, path.as_str(), form.clone()),
    ] {
        send(&admin, method, path, "k", &body).await.expect_problem(409, "idempotency_key_reused");
    }
    // The same change of other resources.
    let patch = json!({ "meta": {} });
    let changed = send(&admin, Method::PATCH, "/v2/forms?name=Feedback", "q", &patch).await;
    assert_eq!(changed.expect(StatusCode::OK)["count"], 1);
    let other = send(&admin, Method::PATCH, "/v2/forms?name=Order", "q", &patch).await;
    other.expect_problem(409, "idempotency_key_reused");
    for if_match in ["\"x\"", "*", ""] {
        let headers =
            [("content-type", "application/json"), ("idempotency-key", "k"), ("if-match", if_match)];
        let body = Some(serde_json::to_vec(&form).unwrap());
        let other = admin.send(Method::POST, "/v2/forms", &headers, body).await;
        other.expect_problem(409, "idempotency_key_reused");
    }

    let bot = app.user(Scope::Admin).await;
    let second = post(&bot, "/v2/forms", "k", &form).await;
    assert_eq!(second.status, StatusCode::CREATED);
    assert_ne!(first.id(), second.id());
    // A form, and nothing else.
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 2);
    assert_eq!(app.count("SELECT COUNT(*) FROM kbitems").await, 0);
}

#[actix_web::test]
async fn a_malformed_key_is_rejected_and_the_header_named() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = json!({"name": "Feedback"});
    for (key, code) in [
        ("", "too_short"),
        ("a b", "invalid_format"),
        ("a\"", "invalid_format"),
        (&"x".repeat(256), "too_long"),
    ] {
        let reply = post(&admin, "/v2/forms", key, &form).await;
        reply.expect_problem(400, "invalid_fields");
        assert_eq!(reply.field_errors(), [("Idempotency-Key".to_owned(), code.to_owned())], "{key}");
    }
    let headers = [("content-type", "application/json"), ("idempotency-key", "a"), ("idempotency-key", "b")];
    let reply = admin.send(Method::POST, "/v2/forms", &headers, Some(b"{}".to_vec())).await;
    assert_eq!(reply.field_errors(), [("Idempotency-Key".to_owned(), "duplicate".to_owned())]);
    // Authentication comes first.
    post(&app.anonymous(), "/v2/forms", "", &form).await.expect_problem(401, "missing_token");
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 0);
}

#[actix_web::test]
async fn a_failed_request_may_be_repeated_with_its_key() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    post(&admin, "/v2/forms", "k", &json!({"nmae": "Feedback"})).await.expect_problem(400, "invalid_fields");
    let form = json!({"name": "Feedback"});
    let first = post(&admin, "/v2/forms", "k", &form).await;
    assert_eq!(first.status, StatusCode::CREATED);
    // A failed precondition changes nothing, either.
    let path = format!("/v2/forms/{}", first.id());
    let patch = serde_json::to_vec(&json!({"name": "Order"})).unwrap();
    for (tag, status) in [("\"0\"", 412), (first.header("etag"), 200)] {
        let headers = [("content-type", "application/json"), ("idempotency-key", "p"), ("if-match", tag)];
        let reply = admin.send(Method::PATCH, &path, &headers, Some(patch.clone())).await;
        assert_eq!(reply.status, status, "{}", reply.text);
    }
}

#[actix_web::test]
async fn an_answer_is_kept_for_24_hours() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = admin.key(&[Scope::Admin]).await;
    let admin = app.bearer(&key);
    let form = json!({"name": "Feedback"});
    let first = post(&admin, "/v2/forms", "k", &form).await;
    app.clock.advance(24 * 3_600_000 - 1);
    expect_same_answer(&first, &post(&admin, "/v2/forms", "k", &form).await);
    assert_eq!(app.state.clean_up().await.unwrap().answers, 0);
    app.clock.advance(1);
    let second = post(&admin, "/v2/forms", "k", &form).await;
    assert_eq!((second.status, is_repetition(&second)), (StatusCode::CREATED, false));
    assert_ne!(first.id(), second.id());
    assert_eq!(app.count("SELECT COUNT(*) FROM idempotent_answers").await, 1);
    app.clock.advance(24 * 3_600_000);
    assert_eq!(app.state.clean_up().await.unwrap().answers, 1);
    assert_eq!(app.count("SELECT COUNT(*) FROM idempotent_answers").await, 0);
}

#[actix_web::test]
async fn requests_with_secrets_reject_the_header_and_nothing_of_them_is_stored() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let me = format!("/v2/users/{}", admin.id);
    for (method, path, body) in [
        (Method::POST, "/v2/users/me/keys", json!({"name": "k", "scopes": ["agent"]})),
        (Method::POST, "/v2/users", json!({"email": "a@example.com", "password": "Xq7-violet-anchor"})),
        (Method::POST, "/v2/users", json!({"email": "a@example.com", "password": 7})),
        (Method::PATCH, me.as_str(), json!({"password": "Xq7-violet-anchor"})),
        (Method::PATCH, me.as_str(), json!({"currentPassword": "Xq7-violet-anchor"})),
    ] {
        let reply = send(&admin, method, path, "k", &body).await;
        reply.expect_problem(400, "invalid_fields");
        assert_eq!(
            reply.field_errors(),
            [("Idempotency-Key".to_owned(), "not_allowed".to_owned())],
            "{path}"
        );
    }
    assert_eq!(app.count("SELECT COUNT(*) FROM idempotent_answers").await, 0);
    // Without a password, the header is accepted, and the key itself is not stored.
    let user = json!({"email": "a@example.com"});
    let key = "9d6f0c1e-5a2b-4f5e-8f3e-2b1c7a9d0e4f";
    let first = post(&admin, "/v2/users", key, &user).await;
    assert_eq!(first.status, StatusCode::CREATED);
    expect_same_answer(&first, &post(&admin, "/v2/users", key, &user).await);
    assert!(!app.dump().await.contains(key));
}

#[actix_web::test]
async fn an_answer_is_not_repeated_to_a_caller_who_lost_the_permission() {
    let app = TestApp::start().await;
    let (organization, tenant) = app.tenant("acme").await;
    let admin = app.admin().await;
    let form = json!({"name": "Feedback"});
    let first = post(&tenant, "/v2/forms", "create", &form).await;
    let path = format!("/v2/forms/{}", first.id());
    let patch = json!({"name": "Order"});
    let changed = send(&tenant, Method::PATCH, &path, "patch", &patch).await;
    assert_eq!(changed.status, StatusCode::OK);

    // The resource is in another organization now.
    let root = admin.get("/v2/users/me").await.json["organization"].clone();
    admin.patch(&path, json!({"organization": root})).await.expect(StatusCode::OK);
    send(&tenant, Method::PATCH, &path, "patch", &patch).await.expect_problem(404, "not_found");
    admin.patch(&path, json!({"organization": organization})).await.expect(StatusCode::OK);
    expect_same_answer(&changed, &send(&tenant, Method::PATCH, &path, "patch", &patch).await);

    // The caller has another role now.
    let user = format!("/v2/users/{}", tenant.id);
    admin.patch(&user, json!({"role": "guest"})).await.expect(StatusCode::OK);
    post(&tenant, "/v2/forms", "create", &form).await.expect_problem(403, "forbidden");
    send(&tenant, Method::PATCH, &path, "patch", &patch).await.expect_problem(403, "forbidden");
    admin.patch(&user, json!({"role": "admin"})).await.expect(StatusCode::OK);
    expect_same_answer(&first, &post(&tenant, "/v2/forms", "create", &form).await);

    // A blocked caller does not authenticate.
    admin.patch(&user, json!({"status": "blocked"})).await.expect(StatusCode::OK);
    post(&tenant, "/v2/forms", "create", &form).await.expect_problem(401, "invalid_token");
    // With the user, its answers are deleted.
    admin.delete(&user).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(app.count("SELECT COUNT(*) FROM idempotent_answers").await, 0);
}

#[actix_web::test]
async fn a_change_whose_answer_cannot_be_stored_does_not_happen() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = json!({"name": "Feedback"});
    // The answer cannot be inserted, and can still be looked up.
    let fail = match app.postgres() {
        Some(_) => {
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x'; END $$; \
             CREATE TRIGGER fail BEFORE INSERT ON idempotent_answers FOR EACH ROW EXECUTE FUNCTION fail()"
        }
        None => "CREATE TRIGGER fail BEFORE INSERT ON idempotent_answers BEGIN SELECT RAISE(ABORT, 'x'); END",
    };
    app.sql(fail).await;
    post(&admin, "/v2/forms", "k", &form).await.expect_problem(500, "internal");
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 0);
    let drop = match app.postgres() {
        Some(_) => "DROP TRIGGER fail ON idempotent_answers",
        None => "DROP TRIGGER fail",
    };
    app.sql(drop).await;
    let first = post(&admin, "/v2/forms", "k", &form).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    expect_same_answer(&first, &post(&admin, "/v2/forms", "k", &form).await);
}

#[actix_web::test]
async fn concurrent_requests_with_a_key_are_executed_once_by_two_processes() {
    let app = TestApp::start().await;
    let replica = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    let clients = [admin.clone(), Client { base: replica.base.clone(), ..admin.clone() }];
    let form = json!({"name": "Feedback"});
    let mut refused = 0;
    for round in 0..30 {
        let key = format!("round-{round}");
        let requests = (0..6).map(|index| post(&clients[index % 2], "/v2/forms", &key, &form));
        let replies = join_all(requests).await;
        let (answered, conflicts): (Vec<&Reply>, Vec<&Reply>) =
            replies.iter().partition(|reply| reply.status == StatusCode::CREATED);
        for conflict in &conflicts {
            conflict.expect_problem(409, "idempotency_in_progress");
            assert_eq!(conflict.header("retry-after"), "1");
        }
        refused += conflicts.len();
        assert_eq!(answered.iter().filter(|reply| !is_repetition(reply)).count(), 1, "{answered:?}");
        for reply in &answered {
            assert_eq!(reply.text, answered[0].text);
        }
        for client in &clients {
            assert!(is_repetition(&post(client, "/v2/forms", &key, &form).await));
        }
    }
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 30);
    assert!(refused > 0, "no two requests were concurrent");
}

#[actix_web::test]
async fn concurrent_requests_with_a_key_and_other_bodies_store_one_of_them() {
    let app = TestApp::start().await;
    let replica = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    let clients = [admin.clone(), Client { base: replica.base.clone(), ..admin.clone() }];
    for round in 0..20 {
        let key = format!("round-{round}");
        let bodies = [json!({"name": format!("A{round}")}), json!({"name": format!("B{round}")})];
        let replies =
            join_all([0, 1].map(|index| post(&clients[index], "/v2/forms", &key, &bodies[index]))).await;
        let created = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
        assert_eq!(created, 1, "{replies:?}");
        let other = replies.iter().find(|reply| reply.status != StatusCode::CREATED).unwrap();
        let code = other.json["code"].as_str().unwrap();
        assert!(["idempotency_in_progress", "idempotency_key_reused"].contains(&code), "{code}");
    }
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 20);
}

#[test]
fn every_route_that_stores_resources_accepts_the_header() {
    // Their answers are decisions, or repeating them has no further effect.
    let ignoring = ["evaluateAccess", "introspectToken", "deleteSession", "reloadPolicies"];
    for group in cedargate::api::all_routes() {
        for route in group
            .routes()
            .filter(|route| [Method::POST, Method::PATCH].iter().any(|m| m.as_str() == route.method.as_str()))
        {
            let action = route.action.unwrap_or("public");
            let is_ignored = action == "public" || ignoring.contains(&action);
            assert_eq!(route.key_use == KeyUse::Ignored, is_ignored, "{} {}", route.method, route.path);
            assert_eq!(route.key_use == KeyUse::Refused, action == "createApiKey", "{}", route.path);
        }
    }
}

#[actix_web::test]
async fn bulk_requests_are_executed_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let forms: Vec<Value> =
        (0..200).map(|index| json!({"name": format!("Form {index}"), "meta": {"a": "b"}})).collect();
    let first = post(&admin, "/v2/forms", "create", &json!(forms)).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    expect_same_answer(&first, &post(&admin, "/v2/forms", "create", &json!(forms)).await);
    assert_eq!(app.count("SELECT COUNT(*) FROM forms").await, 200);
    // A bot may change forms and not fetch them.
    let bot = app.user(Scope::Bot).await;
    let patch = json!({"name": "Changed"});
    let path = "/v2/forms?name=Form+7";
    let changed = send(&bot, Method::PATCH, path, "patch", &patch).await;
    assert_eq!((changed.status, &changed.json["count"]), (StatusCode::OK, &json!(1)), "{}", changed.text);
    // Without the key, no form would match any more.
    expect_same_answer(&changed, &send(&bot, Method::PATCH, path, "patch", &patch).await);
    // A dry run changes nothing, and is not kept.
    let path = "/v2/forms?name=Form+8&dryRun=true";
    for _ in 0..2 {
        let reply = send(&bot, Method::PATCH, path, "dry", &patch).await;
        assert_eq!((reply.status, is_repetition(&reply)), (StatusCode::OK, false), "{}", reply.text);
    }
    let users =
        json!([{"email": "a@example.com"}, {"email": "b@example.com", "password": "Xq7-violet-anchor"}]);
    post(&admin, "/v2/users", "users", &users).await.expect_problem(400, "invalid_fields");
}
