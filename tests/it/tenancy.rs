//! Tenancy: resources outside the subtree of the caller's organization cannot be seen, referred to or changed, and their
//! existence is not disclosed.

use crate::resources::{
    ResourceSpec, UNKNOWN_ID, comparable_response, create_resource, resource_specs, unique_email,
};
use crate::support::{Client, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The lowest scope for each operation, as in the permission table of the specification.
struct MinimumScopes {
    list: Scope,
    fetch: Scope,
    create: Scope,
    update: Scope,
    delete: Scope,
}

fn minimum_scopes(path: &str) -> MinimumScopes {
    use Scope::{Admin, Agent, Bot, Guest};
    let [list, fetch, create, update, delete] = match path {
        "/v2/organizations" | "/v2/orggroups" | "/v2/users" => [Bot, Bot, Admin, Admin, Admin],
        "/v2/conversations" => [Agent, Guest, Agent, Admin, Admin],
        "/v2/messages" => [Bot, Bot, Guest, Bot, Admin],
        "/v2/contacts" => [Agent, Bot, Bot, Bot, Admin],
        "/v2/kbitems" => [Agent, Agent, Agent, Agent, Bot],
        "/v2/forms" => [Bot, Admin, Bot, Bot, Admin],
        _ => [Admin, Admin, Admin, Admin, Admin],
    };
    MinimumScopes { list, fetch, create, update, delete }
}

/// Creates a user of each scope in an organization.
async fn create_users_of_each_scope(app: &TestApp, admin: &Client) -> Vec<(Scope, Client)> {
    let mut staff = Vec::new();
    for scope in Scope::ALL {
        let email = unique_email();
        let body = json!({ "email": email, "password": crate::support::PASSWORD, "role": scope });
        create_resource(admin, "/v2/users", body).await;
        staff.push((scope, app.client(&email).await));
    }
    staff
}

/// Creates a resource of every type. Returns `(type, path of the resource, id)`.
async fn create_resources(admin: &Client) -> Vec<(ResourceSpec, String, String)> {
    let mut resources = Vec::new();
    for kind in resource_specs(admin).await {
        let id = create_resource(admin, kind.path, kind.full.clone()).await;
        resources.push((kind, String::new(), id));
    }
    for (kind, path, id) in &mut resources {
        *path = format!("{}/{id}", kind.path);
    }
    resources
}

#[tokio::test]
async fn a_list_shows_nothing_of_another_tenant() {
    let app = TestApp::start().await;
    let (_, admin) = app.tenant("acme").await;
    let (_, stranger) = app.tenant("other").await;
    let own = resource_specs(&stranger).await;
    let mut before = Vec::new();
    for kind in &own {
        before.push(stranger.get(kind.path).await.expect(StatusCode::OK));
    }
    for (kind, _, id) in create_resources(&admin).await {
        let list = admin.get(&format!("{}?id={id}", kind.path)).await;
        assert_eq!(list.expect(StatusCode::OK).as_array().unwrap().len(), 1, "{}", kind.path);
        let list = stranger.get(&format!("{}?id={id}", kind.path)).await;
        assert_eq!((list.header("x-total-count"), &list.json), ("0", &json!([])), "{}", kind.path);
    }
    for (kind, before) in own.iter().zip(before) {
        let list = stranger.get(kind.path).await;
        assert_eq!(list.header("x-total-count"), before.as_array().unwrap().len().to_string());
        assert_eq!(list.expect(StatusCode::OK), before, "{}", kind.path);
    }
}

/// Sends a request with this method for a resource.
async fn send_request(client: &Client, method: &Method, path: &str, patch: &Value) -> Reply {
    let body = (*method == Method::PATCH).then(|| patch.clone());
    client.call(method.clone(), path, body).await
}

#[tokio::test]
async fn missing_malformed_and_inaccessible_ids_yield_the_same_response() {
    let app = TestApp::start().await;
    let (_, admin) = app.tenant("acme").await;
    let (_, stranger) = app.tenant("other").await;
    let staff = create_users_of_each_scope(&app, &admin).await;
    for (kind, resource_path, id) in create_resources(&stranger).await {
        let before = stranger.get(&resource_path).await.expect(StatusCode::OK);
        for (scope, client) in &staff {
            let MinimumScopes { fetch, update, delete, .. } = minimum_scopes(kind.path);
            for (method, minimum) in [(Method::GET, fetch), (Method::PATCH, update), (Method::DELETE, delete)]
            {
                let (status, code) = if *scope >= minimum { (404, "not_found") } else { (403, "forbidden") };
                let patch = json!({ "meta": { "touched": true } });
                let inaccessible = send_request(client, &method, &resource_path, &patch).await;
                let inaccessible_answer = comparable_response(&inaccessible, &id);
                for other in
                    [UNKNOWN_ID, "none", "599e1fcd9da1c72645c9588", "%20", "%00", "0x599e1fcd9da1c72645c958"]
                {
                    let missing =
                        send_request(client, &method, &format!("{}/{other}", kind.path), &patch).await;
                    assert_eq!(
                        comparable_response(&missing, other),
                        inaccessible_answer,
                        "{scope} {method} {resource_path} {other}"
                    );
                }
                inaccessible.expect_problem(status, code);
            }
        }
        assert_eq!(stranger.get(&resource_path).await.expect(StatusCode::OK), before, "{resource_path}");
    }
}

#[tokio::test]
async fn callers_without_permission_cannot_tell_which_users_exist() {
    let app = TestApp::start().await;
    let (_, admin) = app.tenant("acme").await;
    let (_, stranger) = app.tenant("other").await;
    let staff = create_users_of_each_scope(&app, &admin).await;
    // Also within an organization: a caller who may not perform an action on another user gets the response for a missing user.
    for (scope, client) in &staff {
        let meta = json!({ "meta": {} });
        for (method, minimum) in
            [(Method::GET, Scope::Bot), (Method::PATCH, Scope::Admin), (Method::DELETE, Scope::Admin)]
        {
            if *scope >= minimum {
                continue;
            }
            let answers = [admin.id.as_str(), stranger.id.as_str(), UNKNOWN_ID].map(|id| {
                let (client, method, meta, id) =
                    (client.clone(), method.clone(), meta.clone(), id.to_owned());
                async move {
                    comparable_response(
                        &send_request(&client, &method, &format!("/v2/users/{id}"), &meta).await,
                        &id,
                    )
                }
            });
            let [home, inaccessible, missing] = answers;
            let (home, inaccessible, missing) = (home.await, inaccessible.await, missing.await);
            assert_eq!(home, missing, "{scope} {method}");
            assert_eq!(inaccessible, missing, "{scope} {method}");
        }
    }
}

#[tokio::test]
async fn creating_in_an_inaccessible_organization_is_rejected() {
    let app = TestApp::start().await;
    let (_, admin) = app.tenant("acme").await;
    let (other_organization, stranger) = app.tenant("other").await;
    let staff = create_users_of_each_scope(&app, &admin).await;
    let theirs = create_resource(&stranger, "/v2/conversations", json!({})).await;
    for kind in resource_specs(&admin).await {
        let (field, there) = match kind.path {
            "/v2/organizations" => ("parent", &other_organization),
            "/v2/messages" => ("conversation", &theirs),
            _ => ("organization", &other_organization),
        };
        let count = stranger.get(kind.path).await.header("x-total-count").to_owned();
        for (scope, client) in &staff {
            let minimum = minimum_scopes(kind.path).create;
            let mut answers = Vec::new();
            for id in [there.as_str(), UNKNOWN_ID] {
                let mut body = kind.minimal.clone();
                body[field] = json!(id);
                let refused = client.post(kind.path, body).await;
                if *scope >= minimum {
                    assert_eq!(
                        refused.expect_problem(400, "invalid_fields"),
                        [field],
                        "{scope} {}",
                        kind.path
                    );
                } else {
                    refused.expect_problem(403, "forbidden");
                }
                answers.push(comparable_response(&refused, id));
            }
            assert_eq!(answers[0], answers[1], "{scope} {}", kind.path);
        }
        assert_eq!(stranger.get(kind.path).await.header("x-total-count"), count, "{}", kind.path);
    }
    for (_, client) in &staff {
        let answers = [theirs.as_str(), UNKNOWN_ID, "none"].map(|id| {
            let path = format!("/v2/conversations/{id}/messages");
            let (client, id) = (client.clone(), id.to_owned());
            async move {
                let refused = client.post(&path, json!({ "text": "Hello" })).await;
                refused.expect_problem(404, "not_found");
                comparable_response(&refused, &id)
            }
        });
        let [theirs, missing, malformed] = answers;
        let (theirs, missing, malformed) = (theirs.await, missing.await, malformed.await);
        assert_eq!(theirs, missing);
        assert_eq!(malformed, missing);
    }
    assert_eq!(stranger.get("/v2/messages").await.header("x-total-count"), "0");
}

#[tokio::test]
async fn moving_a_resource_to_an_inaccessible_organization_is_rejected() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    let (other_organization, stranger) = app.tenant("other").await;
    let root = app.admin().await.get("/v2/users/me").await.json["organization"].clone();
    let root = root.as_str().unwrap();
    for (kind, resource_path, id) in create_resources(&admin).await {
        let field = match kind.path {
            "/v2/organizations" => "parent",
            "/v2/messages" => continue,
            _ => "organization",
        };
        let before = admin.get(&resource_path).await.expect(StatusCode::OK);
        let mut answers = Vec::new();
        for there in [other_organization.as_str(), root, UNKNOWN_ID] {
            let refused = admin.patch(&resource_path, json!({ field: there })).await;
            assert_eq!(refused.expect_problem(400, "invalid_fields"), [field], "{resource_path}");
            answers.push(comparable_response(&refused, there));
        }
        assert_eq!(answers[0], answers[2], "{resource_path}");
        assert_eq!(answers[1], answers[2], "{resource_path}");
        assert_eq!(admin.get(&resource_path).await.expect(StatusCode::OK), before);
        let list = stranger.get(&format!("{}?id={id}", kind.path)).await;
        assert_eq!(list.expect(StatusCode::OK), json!([]));
    }
    // Nor can its own organization be changed in that way.
    let refused =
        admin.patch(&format!("/v2/organizations/{home}"), json!({ "parent": other_organization })).await;
    assert_eq!(refused.expect_problem(400, "invalid_fields"), ["parent"]);
}

#[tokio::test]
async fn ancestor_organizations_are_not_accessible() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (home, admin) = app.tenant("acme").await;
    let top = root.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    let form = create_resource(&root, "/v2/forms", json!({ "name": "of the root" })).await;
    admin.get(&format!("/v2/organizations/{top}")).await.expect_problem(404, "not_found");
    admin.get(&format!("/v2/users/{}", root.id)).await.expect_problem(404, "not_found");
    admin.get(&format!("/v2/forms/{form}")).await.expect_problem(404, "not_found");
    admin.get(&format!("/v2/forms?organization={top}")).await.expect_problem(404, "not_found");
    // Resources of organizations below are part of the subtree.
    let own = create_resource(&admin, "/v2/forms", json!({ "name": "of the tenant" })).await;
    let seen = root.get(&format!("/v2/forms/{own}")).await.expect(StatusCode::OK);
    assert_eq!(seen["organization"], home);
    root.patch(&format!("/v2/forms/{own}"), json!({ "name": "seen" })).await.expect(StatusCode::OK);
    root.delete(&format!("/v2/forms/{own}")).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn callers_that_may_not_list_their_own_organization_may_list_no_other() {
    let app = TestApp::start().await;
    let (home, admin) = app.tenant("acme").await;
    let (other_organization, _) = app.tenant("other").await;
    let staff = create_users_of_each_scope(&app, &admin).await;
    for kind in resource_specs(&admin).await {
        if kind.path == "/v2/organizations" {
            continue;
        }
        for (scope, client) in &staff {
            let minimum = minimum_scopes(kind.path).list;
            let answer = |organization: &str| {
                let (client, path) = (client.clone(), format!("{}?organization={organization}", kind.path));
                let organization = organization.to_owned();
                async move { (client.get(&path).await, organization) }
            };
            let mut refused = Vec::new();
            for organization in [&other_organization, UNKNOWN_ID] {
                let (reply, organization) = answer(organization).await;
                let (status, code) = if *scope >= minimum { (404, "not_found") } else { (403, "forbidden") };
                reply.expect_problem(status, code);
                refused.push(comparable_response(&reply, &organization));
            }
            assert_eq!(refused[0], refused[1], "{scope} {}", kind.path);
            // What is no id is reported to callers who may list.
            let (malformed, _) = answer("none").await;
            if *scope >= minimum {
                malformed.expect_problem(400, "invalid_fields");
                assert_eq!(
                    malformed.field_errors(),
                    [("organization".to_owned(), "invalid_format".to_owned())]
                );
            } else {
                malformed.expect_problem(403, "forbidden");
            }
            let (own, _) = answer(&home).await;
            let status = if *scope >= minimum { StatusCode::OK } else { StatusCode::FORBIDDEN };
            own.expect(status);
        }
    }
}

#[tokio::test]
async fn authentication_precedes_all_other_checks() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let json_type = ("content-type", "application/json");
    for (kind, resource_path, _) in create_resources(&admin).await {
        let malformed = format!("{}/none", kind.path);
        for (who, client) in
            [("missing_token", app.anonymous()), ("invalid_token", app.bearer("599e1fcd9da1c72645c95886"))]
        {
            for (method, path, headers, body) in [
                (Method::GET, kind.path, vec![], None),
                (Method::GET, &format!("{}?colour=red&limit=0", kind.path), vec![], None),
                (Method::GET, &resource_path, vec![], None),
                (Method::GET, &malformed, vec![], None),
                (Method::POST, kind.path, vec![json_type], Some(b"{".to_vec())),
                (Method::POST, kind.path, vec![json_type], Some(b"{\"colour\":1}".to_vec())),
                (Method::POST, kind.path, vec![("content-type", "text/plain")], Some(b"{}".to_vec())),
                (Method::POST, kind.path, vec![], None),
                (Method::PATCH, &resource_path, vec![json_type], Some(b"[".to_vec())),
                (Method::PATCH, &malformed, vec![json_type], Some(b"{}".to_vec())),
                (Method::DELETE, &resource_path, vec![], None),
                (Method::DELETE, &malformed, vec![], None),
            ] {
                let refused = client.send(method, path, &headers, body).await;
                refused.expect_problem(401, who);
                assert!(refused.header("www-authenticate").starts_with("Bearer"), "{path}");
            }
        }
        admin.get(&resource_path).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn guests_and_agents_are_limited_to_their_own_organization() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let (_, tenant) = app.tenant("acme").await;
    let theirs =
        create_resource(&tenant, "/v2/conversations", json!({ "messages": [{ "text": "Hello" }] })).await;
    let own = create_resource(&root, "/v2/conversations", json!({})).await;
    for scope in Scope::ALL {
        let client = app.user(scope).await;
        let reaches_below = scope >= Scope::Bot;
        client.get(&format!("/v2/conversations/{own}")).await.expect(StatusCode::OK);
        let write = |id: &str| {
            let (client, path) = (client.clone(), format!("/v2/conversations/{id}/messages"));
            async move { client.post(&path, json!({ "text": "Hello" })).await }
        };
        write(&own).await.expect(StatusCode::CREATED);
        let below = client.get(&format!("/v2/conversations/{theirs}")).await;
        if reaches_below {
            below.expect(StatusCode::OK);
            write(&theirs).await.expect(StatusCode::CREATED);
        } else {
            below.expect_problem(404, "not_found");
            write(&theirs).await.expect_problem(404, "not_found");
        }
        if scope >= Scope::Agent {
            let list = client.get("/v2/conversations").await.expect(StatusCode::OK);
            let ids: Vec<&str> =
                list.as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap()).collect();
            assert!(ids.contains(&own.as_str()), "{scope}");
            assert_eq!(ids.contains(&theirs.as_str()), reaches_below, "{scope}");
        }
        // Nor with a credential of a lower scope.
        let key = app.bearer(&client.key(&[Scope::Guest]).await);
        key.get(&format!("/v2/conversations/{own}")).await.expect(StatusCode::OK);
        key.get(&format!("/v2/conversations/{theirs}")).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn creating_a_user_returns_its_organization() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let top = root.get("/v2/users/me").await.json["organization"].clone();
    let (home, tenant) = app.tenant("acme").await;
    for (client, organization, expected) in
        [(&root, None, &top), (&root, Some(&home), &json!(home)), (&tenant, None, &json!(home))]
    {
        let mut body = json!({ "email": unique_email() });
        if let Some(organization) = organization {
            body["organization"] = json!(organization);
        }
        let created = client.post("/v2/users", body).await.expect(StatusCode::CREATED);
        assert_eq!(&created["organization"], expected);
    }
}
