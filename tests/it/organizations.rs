//! Organizations: their tree, moves within it, and the conditions for deletion.

use crate::resources::{UNKNOWN_ID, create_resource, fields, resource_specs};
use crate::support::{Client, TestApp};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn create_child(client: &Client, parent: &str, name: &str) -> String {
    create_resource(client, "/v2/organizations", json!({ "name": name, "parent": parent })).await
}

async fn path_and_level(client: &Client, id: &str) -> (String, i64) {
    let found = client.get(&format!("/v2/organizations/{id}")).await.expect(StatusCode::OK);
    (found["path"].as_str().unwrap().to_owned(), found["level"].as_i64().unwrap())
}

async fn root_organization(client: &Client) -> String {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    own["organization"].as_str().unwrap().to_owned()
}

async fn move_organization(client: &Client, id: &str, parent: impl Into<Value>) -> crate::support::Reply {
    client.patch(&format!("/v2/organizations/{id}"), json!({ "parent": parent.into() })).await
}

#[tokio::test]
async fn an_organization_has_a_path_and_a_level() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    assert_eq!(path_and_level(&admin, &top).await, (top.clone(), 0));
    let a = create_child(&admin, &top, "a").await;
    let b = create_child(&admin, &a, "b").await;
    assert_eq!(path_and_level(&admin, &a).await, (format!("{top}#{a}"), 1));
    assert_eq!(path_and_level(&admin, &b).await, (format!("{top}#{a}#{b}"), 2));
}

#[tokio::test]
async fn descendants_move_with_their_organization() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    let a = create_child(&admin, &top, "a").await;
    let b = create_child(&admin, &a, "b").await;
    let c = create_child(&admin, &b, "c").await;
    let aside = create_child(&admin, &a, "aside").await;
    let target = create_child(&admin, &top, "target").await;
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "form", "organization": c })).await;

    let moved = move_organization(&admin, &b, target.as_str()).await.expect(StatusCode::OK);
    assert_eq!(
        (&moved["parent"], &moved["path"], &moved["level"]),
        (&json!(target), &json!(format!("{top}#{target}#{b}")), &json!(2))
    );
    assert_eq!(path_and_level(&admin, &b).await, (format!("{top}#{target}#{b}"), 2));
    assert_eq!(path_and_level(&admin, &c).await, (format!("{top}#{target}#{b}#{c}"), 3));
    assert_eq!(path_and_level(&admin, &aside).await, (format!("{top}#{a}#{aside}"), 2));

    move_organization(&admin, &b, top.as_str()).await.expect(StatusCode::OK);
    assert_eq!(path_and_level(&admin, &c).await, (format!("{top}#{b}#{c}"), 2));
    assert_eq!(admin.get(&format!("/v2/forms/{form}")).await.json["organization"], c.as_str());
}

#[tokio::test]
async fn moving_an_organization_changes_who_can_access_its_resources() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (from, left) = app.tenant("from").await;
    let (to, right) = app.tenant("to").await;
    let moving = create_child(&admin, &from, "moving").await;
    let deep = create_child(&admin, &moving, "deep").await;
    let form = format!(
        "/v2/forms/{}",
        create_resource(&left, "/v2/forms", json!({ "name": "f", "organization": deep })).await
    );
    right.get(&form).await.expect_problem(404, "not_found");
    move_organization(&admin, &moving, to.as_str()).await.expect(StatusCode::OK);
    left.get(&form).await.expect_problem(404, "not_found");
    right.get(&form).await.expect(StatusCode::OK);
    assert_eq!(left.get("/v2/forms").await.json, json!([]));
    assert_eq!(right.get("/v2/forms").await.header("x-total-count"), "1");
}

#[tokio::test]
async fn an_organization_cannot_be_moved_below_itself() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    let a = create_child(&admin, &top, "a").await;
    let b = create_child(&admin, &a, "b").await;
    let c = create_child(&admin, &b, "c").await;
    let before = [
        path_and_level(&admin, &a).await,
        path_and_level(&admin, &b).await,
        path_and_level(&admin, &c).await,
    ];
    for (what, parent) in [(&a, &a), (&a, &b), (&a, &c), (&b, &c), (&top, &top), (&top, &c)] {
        let refused = move_organization(&admin, what, parent.as_str()).await;
        assert_eq!(refused.expect_problem(400, "invalid_fields"), ["parent"], "{what} below {parent}");
    }
    assert_eq!(
        [
            path_and_level(&admin, &a).await,
            path_and_level(&admin, &b).await,
            path_and_level(&admin, &c).await
        ],
        before
    );
    assert_eq!(path_and_level(&admin, &top).await, (top, 0));
}

#[tokio::test]
async fn concurrent_moves_create_no_cycle() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    for round in 0..5 {
        let a = create_child(&admin, &top, &format!("a{round}")).await;
        let b = create_child(&admin, &top, &format!("b{round}")).await;
        let (one, two) = tokio::join!(
            move_organization(&admin, &a, b.as_str()),
            move_organization(&admin, &b, a.as_str())
        );
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "{} {}", one.text, two.text);
        let (inner, outer) = if one.status == StatusCode::OK { (&a, &b) } else { (&b, &a) };
        assert_eq!(path_and_level(&admin, outer).await, (format!("{top}#{outer}"), 1));
        assert_eq!(path_and_level(&admin, inner).await, (format!("{top}#{outer}#{inner}"), 2));
    }
}

#[tokio::test]
async fn only_the_root_organization_has_no_parent() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    let a = create_child(&admin, &top, "a").await;
    assert_eq!(
        move_organization(&admin, &a, Value::Null).await.expect_problem(400, "invalid_fields"),
        ["parent"]
    );
    assert_eq!(
        move_organization(&admin, &a, UNKNOWN_ID).await.expect_problem(400, "invalid_fields"),
        ["parent"]
    );
    assert_eq!(path_and_level(&admin, &a).await, (format!("{top}#{a}"), 1));
    // The root organization can be changed, but not moved.
    let renamed =
        admin.patch(&format!("/v2/organizations/{top}"), json!({ "name": "Top", "parent": null })).await;
    assert_eq!(renamed.expect(StatusCode::OK)["name"], "Top");
}

#[tokio::test]
async fn deleting_a_non_empty_organization_is_rejected_with_its_contents() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    let conversations = "/v2/conversations";
    for kind in resource_specs(&admin).await {
        let holder = create_child(&admin, &top, "holder").await;
        let organization = format!("/v2/organizations/{holder}");
        let mut body = kind.minimal.clone();
        let mut resource_paths = Vec::new();
        if kind.path == "/v2/messages" {
            let conversation =
                create_resource(&admin, conversations, json!({ "organization": holder })).await;
            resource_paths.push(format!("{conversations}/{conversation}"));
            body["conversation"] = json!(conversation);
        } else {
            let field = if kind.path == "/v2/organizations" { "parent" } else { "organization" };
            body[field] = json!(holder);
        }
        resource_paths.push(format!("{}/{}", kind.path, create_resource(&admin, kind.path, body).await));
        let refused = admin.delete(&organization).await;
        refused.expect_problem(409, "conflict");
        let noun = match kind.path {
            "/v2/organizations" => "Organization",
            "/v2/orggroups" => "OrganizationGroup",
            "/v2/users" => "User",
            "/v2/conversations" => "Conversation",
            "/v2/messages" => "Message",
            "/v2/contacts" => "Contact",
            "/v2/kbitems" => "KnowledgeItem",
            "/v2/forms" => "Form",
            _ => "Service",
        };
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains(noun), "{detail}");
        admin.get(&organization).await.expect(StatusCode::OK);
        for resource_path in resource_paths.iter().rev() {
            admin.get(resource_path).await.expect(StatusCode::OK);
            admin.delete(resource_path).await.expect(StatusCode::NO_CONTENT);
        }
        admin.delete(&organization).await.expect(StatusCode::NO_CONTENT);
        admin.get(&organization).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn deleting_own_organization_is_rejected() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    admin.delete(&format!("/v2/organizations/{home}")).await.expect_problem(409, "conflict");
    let top = app.admin().await;
    top.delete(&format!("/v2/organizations/{}", root_organization(&top).await))
        .await
        .expect_problem(409, "conflict");
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn moving_a_resource_keeps_its_fields_and_moves_its_messages() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let top = root_organization(&admin).await;
    let target = create_child(&admin, &top, "target").await;
    for kind in resource_specs(&admin).await {
        if ["/v2/organizations", "/v2/messages"].contains(&kind.path) {
            continue;
        }
        let resource_path = format!("{}/{}", kind.path, create_resource(&admin, kind.path, kind.full).await);
        let before = admin.get(&resource_path).await.expect(StatusCode::OK);
        let moved =
            admin.patch(&resource_path, json!({ "organization": target })).await.expect(StatusCode::OK);
        for (field, value) in fields(&before) {
            let expected = if field == "organization" { &json!(target) } else { value };
            assert_eq!(moved[field], *expected, "{} {field}", kind.path);
        }
    }
    // The organization of a message is that of its conversation.
    let first = json!({ "messages": [{ "text": "one" }, { "text": "two" }] });
    let conversation = create_resource(&admin, "/v2/conversations", first).await;
    let resource_path = format!("/v2/conversations/{conversation}");
    admin.patch(&resource_path, json!({ "organization": target })).await.expect(StatusCode::OK);
    let messages =
        admin.get(&format!("/v2/messages?conversation={conversation}")).await.expect(StatusCode::OK);
    let organizations: Vec<&Value> =
        messages.as_array().unwrap().iter().map(|message| &message["organization"]).collect();
    assert_eq!(organizations, [&json!(target), &json!(target)]);
}
