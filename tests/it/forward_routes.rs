//! The routes file of forward authentication, for paths of other services.

use crate::forward::{forward, is_allowed, with_own_routes};
use crate::resources::UNKNOWN_ID;
use crate::support::{TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::config::PolicyReload;
use cedargate::server::App;
use cedargate::types::Clock;
use reqwest::StatusCode;
use serde_json::json;
use std::path::Path;

/// Routes of a document store.
pub(crate) const DOCUMENTS: &str = r#"
own = true

[[route]]
method = "GET"
path = "/documents/{id}"
action = "read"
resource = { type = "Docs::Document", id = "{id}" }

[[route]]
method = "PUT"
path = "/documents/{id}"
action = 'Docs::Action::"write"'
resource = { type = "Docs::Document", id = "{id}" }

[[route]]
method = "GET"
path = "/tree/{folder}/{path...}"
action = "read"
resource = { type = "Docs::Document", id = "{folder}:{path}" }

[[route]]
method = "*"
path = "/files/{conversation}"
action = "fetchConversation"
resource = { type = "Conversation", id = "{conversation}" }

[[route]]
method = "DELETE"
path = "/public/{rest...}"
action = "read"
resource = { type = "Docs::Document", id = "secret" }

[[route]]
method = "*"
path = "/public/{rest...}"
public = true

[[route]]
method = "GET"
path = "/v2/forms"
public = true
"#;

/// Starts the service with the policies of a document store and these routes.
pub(crate) async fn with_routes(routes: &str) -> TestApp {
    let app = TestApp::start().await;
    let directory = app.directory().join("domain");
    write_document_store(&directory);
    std::fs::write(directory.join("routes.toml"), routes).unwrap();
    app.start_replica(|config| {
        config.schema.push(directory.clone());
        config.policies = vec![directory.clone()];
        config.forward_routes = Some(directory.join("routes.toml"));
        // The policies differ from those at the first start.
        config.policy_reload = PolicyReload::Auto;
    })
    .await
}

/// Writes the shipped policies, and those of a document store whose documents belong to no organization.
fn write_document_store(directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    for entry in std::fs::read_dir(project_file("policies")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let own = "unless { resource in principal.organization };";
            let both = "unless { resource in principal.organization || resource is Docs::Document };";
            let text = std::fs::read_to_string(&path).unwrap().replace(own, both);
            std::fs::write(directory.join(path.file_name().unwrap()), text).unwrap();
        }
    }
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write(
        "documents.cedarschema",
        "namespace Docs {
           entity Document = { shared?: Bool };
           action \"read\", \"write\" appliesTo { principal: User, resource: Document };
           entity Person;
           action \"sign\" appliesTo { principal: Person, resource: Document };
         }",
    );
    write(
        "documents.cedar",
        "@id(\"documents.read\")
         permit (principal in Scope::\"guest\", action == Docs::Action::\"read\", resource)
         when { resource has shared && resource.shared };
         @id(\"documents.write\")
         permit (principal in Scope::\"bot\", action == Docs::Action::\"write\", resource)
         when { resource has shared };",
    );
    let document = |id: &str, shared: bool| json!({ "uid": { "type": "Docs::Document", "id": id }, "attrs": { "shared": shared }, "parents": [] });
    let documents = json!([
        document("plan", true),
        document("a b", true),
        document("de:a/b", true),
        document("secret", false)
    ]);
    write("documents.json", &documents.to_string());
}

#[tokio::test]
async fn a_routes_file_maps_paths_of_other_services_to_actions() {
    let app = with_routes(DOCUMENTS).await;
    let admin = app.admin().await;
    let (_, tenant_admin) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let (guest, bot) = (app.user(Scope::Guest).await, app.user(Scope::Bot).await);
    for (client, method, path, expected) in [
        (&guest, "GET", "/documents/plan", true),
        (&guest, "HEAD", "/documents/plan", true),
        (&guest, "GET", "/documents/%70lan?version=2", true),
        (&guest, "GET", "/documents/a%20b", true),
        (&guest, "GET", "/documents/secret", false),
        (&guest, "GET", "/documents/nothing", false),
        (&guest, "PUT", "/documents/plan", false),
        (&bot, "PUT", "/documents/plan", true),
        (&bot, "PUT", "/documents/secret", true),
        (&bot, "PUT", "/documents/nothing", false),
        (&guest, "GET", "/tree/de/a/b", true),
        (&guest, "GET", "/tree/de/a", false),
        (&guest, "GET", "/tree/de/a/b/", false),
        (&guest, "POST", &format!("/files/{conversation}"), true),
        (&tenant_admin, "POST", &format!("/files/{conversation}"), false),
        (&guest, "POST", &format!("/files/{UNKNOWN_ID}"), false),
        // `me` is an alias in the service's own routes only.
        (&guest, "GET", "/files/me", false),
        (&guest, "DELETE", "/public/a", false),
        (&guest, "POST", "/public/a", true),
        // The first matching route decides, not the service's own route, which comes later.
        (&guest, "GET", "/v2/forms", true),
        (&guest, "POST", "/v2/forms", false),
    ] {
        let reply = forward(client, method, path).await;
        assert_eq!(is_allowed(&reply), expected, "{method} {path}: {}", reply.text);
    }
    // A missing and an inaccessible resource give the same response.
    let [missing, foreign] = [UNKNOWN_ID, &conversation].map(|id| format!("/files/{id}"));
    let [missing, foreign] =
        [forward(&tenant_admin, "GET", &missing).await, forward(&tenant_admin, "GET", &foreign).await];
    assert_eq!(missing.json["detail"], foreign.json["detail"]);
    for path in ["/documents", "/documents/", "/documents/a/b", "/tree/de", "/public"] {
        forward(&admin, "GET", path).await.expect_problem(403, "no_such_route");
    }
    forward(&admin, "POST", "/documents/plan").await.expect_problem(403, "no_such_route");
}

#[tokio::test]
async fn own_routes_are_included_only_if_configured() {
    let others = DOCUMENTS.replace("own = true", "");
    for app in [
        TestApp::start().await,
        with_routes(&others).await,
        with_routes(&format!("own = false\n{others}")).await,
    ] {
        let admin = app.admin().await;
        for (method, path) in [
            ("GET", "/metrics"),
            ("GET", "/health/ready"),
            ("POST", "/v2/auth/token"),
            ("GET", "/v2/auth/token?refreshToken=x"),
            ("GET", "/.well-known/jwks.json"),
            ("GET", "/v2/users/me"),
            ("GET", "/openapi.json"),
        ] {
            forward(&admin, method, path).await.expect_problem(403, "no_such_route");
            forward(&app.anonymous(), method, path).await.expect_problem(401, "missing_token");
        }
    }
    let app = with_own_routes().await;
    assert!(is_allowed(&forward(&app.anonymous(), "POST", "/v2/auth/token").await));
    assert!(is_allowed(&forward(&app.admin().await, "GET", "/v2/users/me").await));
}

#[tokio::test]
async fn an_invalid_routes_file_aborts_the_start_with_location() {
    let app = TestApp::start().await;
    let directory = app.directory().join("domain");
    write_document_store(&directory);
    let file = directory.join("routes.toml");
    let mut config = app.config.clone();
    config.schema.push(directory.clone());
    config.policies = vec![directory.clone()];
    config.policy_reload = PolicyReload::Auto;
    config.forward_routes = Some(file.clone());
    let route = |method: &str, path: &str, rest: &str| {
        format!("# A comment.\n[[route]]\nmethod = \"{method}\"\npath = \"{path}\"\n{rest}\n")
    };
    let read =
        |id: &str| format!("action = \"read\"\nresource = {{ type = \"Docs::Document\", id = \"{id}\" }}");
    for (text, expected) in [
        ("route = 1".to_owned(), "routes.toml:1: "),
        ("[[route]]\nmethod = \"GET".to_owned(), "routes.toml:2: "),
        ("[[routes]]\nmethod = \"GET\"".to_owned(), "routes.toml:1: unknown field `routes`"),
        ("\nown = 1".to_owned(), "routes.toml:2: "),
        (route("GET", "/a", "public = true\nactoin = \"read\""), "routes.toml:6: unknown field `actoin`"),
        (
            route("GET", "/a", "action = \"read\"\nresource = { type = \"Docs::Document\", name = \"x\" }"),
            "unknown field `name`",
        ),
        ("[[route]]\nmethod = \"GET\"\npublic = true".to_owned(), "missing field `path`"),
        (
            route("get", "/a", "public = true"),
            "routes.toml:2: the route get /a: expected a method in capitals",
        ),
        (route("GET", "a", "public = true"), "does not begin with `/`"),
        (route("GET", "/a/../b", "public = true"), "matches no request"),
        (route("GET", "/a", ""), "expected `action` and `resource`, or `public = true`"),
        (route("GET", "/a", "action = \"read\""), "expected `action` and `resource`"),
        (route("GET", "/a", "public = true\naction = \"read\""), "`public` cannot be combined"),
        (route("GET", "/a/{id}", &read("{name}")), "the placeholder {name}, which the path does not have"),
        (route("GET", "/a/{id}", &read("{id")), "has a `{` without a `}`"),
        (route("GET", "/a/{id}", &read("")), "the id is empty"),
        (route("GET", "/a/{id...}/b", &read("{id}")), "has segments after"),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "raed")),
            "the schema has no action \"raed\" for the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "sign")),
            "does not apply to users and resources of the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "fetchForm")),
            "does not apply to users and resources of the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("Docs::Document", "Docs::Doc")),
            "the schema has no type \"Docs::Doc\"",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = App::open(&config, Clock::system()).await.unwrap_err().to_string();
        for expected in ["CEDARGATE_FORWARD_ROUTES", "routes.toml:", expected] {
            assert!(error.contains(expected), "{text}\n{expected}: {error}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let error = App::open(&config, Clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("CEDARGATE_FORWARD_ROUTES") && error.contains("routes.toml: "), "{error}");
    std::fs::write(&file, "\u{feff}own = true\r\n").unwrap();
    App::open(&config, Clock::system()).await.unwrap();
}

#[tokio::test]
async fn changes_of_the_user_or_the_resource_affect_the_next_answer() {
    let app = with_own_routes().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let contact = admin.post("/v2/contacts", json!({})).await.id();
    let path = format!("/v2/contacts/{contact}");
    assert!(is_allowed(&forward(&bot, "GET", &path).await));
    admin.patch(&format!("/v2/users/{}", bot.id), json!({ "role": "guest" })).await.expect(StatusCode::OK);
    assert!(!is_allowed(&forward(&bot, "GET", &path).await));
    admin.patch(&format!("/v2/users/{}", bot.id), json!({ "role": "bot" })).await.expect(StatusCode::OK);
    assert!(is_allowed(&forward(&bot, "GET", &path).await));
    admin.delete(&path).await;
    assert!(!is_allowed(&forward(&bot, "GET", &path).await));
    admin
        .patch(&format!("/v2/users/{}", bot.id), json!({ "status": "blocked" }))
        .await
        .expect(StatusCode::OK);
    forward(&bot, "GET", "/v2/users/me").await.expect_problem(401, "invalid_token");
}
