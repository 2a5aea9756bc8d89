//! What proxies are told: the same that the routes themselves do, of other services what their routes file says, and
//! nothing of requests that could be read in two ways. With the real nginx in front of a small service.

use crate::resources::NOBODY;
use crate::support::{Client, Reply, TestApp, project_file};
use crate::table::{World, cells};
use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use cedargate::app::App;
use cedargate::authz::Scope;
use cedargate::values::Clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FORWARD: &str = "/v2/authorize/forward";

/// Asks as nginx does whether `client` may send this.
pub(crate) async fn forward(client: &Client, method: &str, uri: &str) -> Reply {
    let headers = [("X-Original-Method", method), ("X-Original-URI", uri)];
    client.send(Method::GET, FORWARD, &headers, None).await
}

/// Whether it may; of a no, that it is a 403.
#[track_caller]
fn permitted(reply: &Reply) -> bool {
    match reply.status.as_u16() {
        204 => true,
        403 => {
            reply.expect_problem(403, "forbidden");
            false
        }
        status => panic!("{status} {}", reply.text),
    }
}

/// One logged in client for each scope.
async fn clients(app: &TestApp) -> BTreeMap<&'static str, Client> {
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    clients
}

#[tokio::test]
async fn of_every_cell_it_says_what_the_route_does() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let clients = clients(&app).await;
    for cell in cells() {
        let client = &clients[cell.scope.as_str()];
        let target = world.target(client, &cell).await;
        let (method, path) = world.request(&target);
        let reply = forward(client, method.as_str(), &path).await;
        let said = permitted(&reply);
        let (done, how) = world.act(client, &cell, &target).await;
        assert_eq!((said, said), (cell.expected, done), "{cell:?} {method} {path}: {how}");
        if said {
            assert_eq!(reply.header("x-user-id"), client.id);
        } else {
            let told = reply.json["detail"].as_str().unwrap();
            assert!(told.contains(&cell.action), "{cell:?}: {told}");
        }
    }
}

#[tokio::test]
async fn of_the_other_routes_of_the_service_it_says_what_they_do_too() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (tenant, stranger) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let below = stranger.post("/v2/conversations", json!({})).await.id();
    let other = app.user(Scope::Guest).await.id;
    let clients = clients(&app).await;
    let (all, bots, admins, none) =
        ([true; 4], [false, false, true, true], [false, false, false, true], [false; 4]);
    let agents = [false, true, true, true];
    for (method, path, expected) in [
        ("GET", "/v2/users/me", all),
        ("HEAD", "/v2/users/me", all),
        ("GET", "/v2/users/%6de?x=/../y", all),
        ("PATCH", "/v2/users/me", all),
        ("DELETE", "/v2/users/me", admins),
        ("GET", "/v2/users/me/keys", all),
        ("POST", "/v2/users/me/keys", all),
        ("DELETE", &format!("/v2/users/me/keys/{NOBODY}"), all),
        ("GET", &format!("/v2/users/{other}/keys"), admins),
        ("GET", "/v2/users/me/permissions", all),
        ("GET", &format!("/v2/users/{other}/permissions"), bots),
        ("POST", &format!("/v2/conversations/{conversation}/messages"), all),
        ("POST", &format!("/v2/conversations/{below}/messages"), all),
        ("POST", &format!("/v2/conversations/{NOBODY}/messages"), none),
        ("GET", &format!("/v2/conversations/{below}"), all),
        ("GET", &format!("/v2/conversations/{NOBODY}"), none),
        ("GET", "/v2/conversations/me", none),
        ("GET", "/v2/conversations/nonsense", none),
        ("POST", "/v2/authorize", all),
        ("POST", "/access/v1/evaluation", all),
        ("POST", "/access/v1/search/action", all),
        ("GET", FORWARD, all),
        ("PUT", "/v2/authorize/forward/v2/users", all),
        ("GET", "/v2/policies", admins),
        ("POST", "/v2/policies/reload", admins),
        ("GET", "/v2/organizationGroups", bots),
        ("GET", "/v2/knowledge-items", agents),
        ("GET", &format!("/v2/users?limit=5&organization={NOBODY}"), none),
        ("GET", "/v2/conversations?organization=nonsense", none),
    ] {
        for (scope, expected) in Scope::ALL.into_iter().zip(expected) {
            let reply = forward(&clients[scope.as_str()], method, path).await;
            assert_eq!(permitted(&reply), expected, "{scope} {method} {path}: {}", reply.text);
        }
    }
    // From a tenant, nothing above it is within reach; that is a 404 of the routes, which proxies do not know.
    for (method, path) in [
        (Method::GET, format!("/v2/conversations/{conversation}")),
        (Method::GET, format!("/v2/users/{other}")),
        (Method::POST, format!("/v2/conversations/{conversation}/messages")),
    ] {
        assert!(!permitted(&forward(&stranger, method.as_str(), &path).await), "{method} {path}");
        let body = (method == Method::POST).then(|| json!({ "messages": [{ "text": "hello" }] }));
        let done = stranger.call(method.clone(), &path, body).await;
        assert_eq!(done.status, StatusCode::NOT_FOUND, "{method} {path}: {}", done.text);
    }
    // The policies are everybody's: the admins of a tenant read them, and have them read again no more than the route does.
    assert!(permitted(&forward(&stranger, "GET", "/v2/policies").await));
    assert!(!permitted(&forward(&stranger, "POST", "/v2/policies/reload").await));
    assert_eq!(stranger.post("/v2/policies/reload", json!({})).await.status, StatusCode::FORBIDDEN);
    // Lists are asked of the organization that the query string names.
    let home = admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    assert!(permitted(&forward(&admin, "GET", &format!("/v2/users?organization={tenant}")).await));
    assert!(permitted(&forward(&stranger, "GET", &format!("/v2/users?organization={tenant}")).await));
    assert!(!permitted(&forward(&stranger, "GET", &format!("/v2/users?organization={home}")).await));
    let twice = format!("/v2/users?organization={tenant}&organization={home}");
    forward(&admin, "GET", &twice).await.expect_problem(403, "bad_original");
}

#[tokio::test]
async fn every_route_of_the_service_is_known_and_nothing_else() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let all = cedargate::api::all();
    for (path, route) in all.iter().flat_map(|part| part.paths()) {
        let path = path.replace("{id}", NOBODY).replace("{keyId}", NOBODY).replace("{sessionId}", NOBODY);
        let path = path.replace("{rest:.*}", "a/b");
        let reply = forward(&admin, route.method.as_str(), &path).await;
        assert_ne!(reply.json["code"], "no_such_route", "{} {path}", route.method);
        assert_ne!(reply.json["code"], "bad_original", "{} {path}", route.method);
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v2"),
        ("GET", "/v2/nothing"),
        ("GET", "/v2/users/"),
        ("GET", "/V2/users"),
        ("GET", "/v2/users/me/keys/"),
        ("PUT", "/v2/users/me"),
        ("get", "/v2/users/me"),
        ("OPTIONS", "/v2/users"),
        ("GET", "/documents/plan"),
    ] {
        forward(&admin, method, path).await.expect_problem(403, "no_such_route");
    }
}

#[tokio::test]
async fn public_routes_need_no_bearer_and_name_nobody() {
    let app = TestApp::start().await;
    let guest = app.user(Scope::Guest).await;
    for (method, path) in [
        ("POST", "/v2/auth/token"),
        ("GET", "/v2/auth/token?refreshToken=x"),
        ("POST", "/v2/auth/revoke"),
        ("GET", "/.well-known/authzen-configuration"),
        ("GET", "/.well-known/jwks.json"),
    ] {
        for client in [&app.anonymous(), &guest, &app.bearer("no.good.token")] {
            let reply = forward(client, method, path).await;
            assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
            // They are there, so that a proxy puts them in the place of what a client says.
            for name in ["x-user-id", "x-scope"] {
                assert_eq!(reply.headers.get(name).map(|value| value.as_bytes()), Some(&b""[..]), "{name}");
            }
        }
    }
    forward(&app.anonymous(), "GET", "/v2/users/me").await.expect_problem(401, "missing_token");
    forward(&app.anonymous(), "GET", "/v2/nothing").await.expect_problem(401, "missing_token");
    let bad = forward(&app.bearer("no.good.token"), "GET", "/v2/users/me").await;
    bad.expect_problem(401, "invalid_token");
    assert!(bad.header("www-authenticate").starts_with("Bearer error=\"invalid_token\""));
}

#[tokio::test]
async fn a_yes_names_the_user_its_scopes_and_the_policies() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let key = admin.key(&[Scope::Agent]).await;
    for (bearer, scopes) in [(admin.bearer.clone().unwrap(), "guest agent bot admin"), (key, "guest agent")] {
        let reply = forward(&app.bearer(&bearer), "GET", "/v2/conversations").await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NO_CONTENT, ""));
        assert_eq!(reply.header("x-user-id"), admin.id);
        assert_eq!(reply.header("x-scope"), scopes);
        let version = admin.get("/v2/policies").await.json["version"].clone();
        assert_eq!(reply.header("x-policy-version"), version.as_str().unwrap());
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    // What the credential can do counts, and not who holds it.
    let key = app.bearer(&admin.key(&[Scope::Guest]).await);
    let denied = forward(&key, "GET", "/v2/conversations").await;
    assert!(!permitted(&denied));
    let version = admin.get("/v2/policies").await.json["version"].clone();
    assert_eq!(denied.header("x-policy-version"), version.as_str().unwrap());
    // A key that leaked makes no further keys: policies see by which credential it is asked.
    assert!(!permitted(&forward(&key, "POST", "/v2/users/me/keys").await));
    assert!(permitted(&forward(&admin, "POST", "/v2/users/me/keys").await));
}

#[tokio::test]
async fn what_the_headers_leave_open_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (original, forwarded) =
        (["X-Original-Method", "X-Original-URI"], ["X-Forwarded-Method", "X-Forwarded-Uri"]);
    let pair = |names: [&'static str; 2], path: &'static str| [(names[0], "GET"), (names[1], path)];
    let ask = async |headers: &[(&str, &str)]| admin.send(Method::GET, FORWARD, headers, None).await;
    for (headers, told) in [
        (vec![], "the headers X-Original-Method and X-Original-URI are missing"),
        (vec![(original[0], "GET")], "X-Original-URI is missing"),
        (vec![(original[1], "/v2/users")], "X-Original-Method is missing"),
        (vec![(forwarded[0], "GET")], "X-Forwarded-Uri is missing"),
        (vec![(forwarded[1], "/v2/users")], "X-Forwarded-Method is missing"),
        (vec![(original[0], "GET"), (forwarded[1], "/v2/users")], "X-Original-URI is missing"),
        (vec![(original[0], "GET"), (original[1], "/a"), (original[1], "/a")], "stands twice"),
        (vec![(original[0], "G T"), (original[1], "/a")], "the original method is none"),
        (vec![(original[0], ""), (original[1], "/a")], "the original method is none"),
        (vec![(original[0], "GET"), (original[1], "/ä")], "is not plain ASCII"),
        // A proxy sets one pair and passes on what a client sends as the other.
        ([pair(original, "/v2/auth/token"), pair(forwarded, "/v2/users")].concat(), "named twice"),
    ] {
        let reply = ask(&headers).await;
        reply.expect_problem(403, "bad_original");
        assert!(reply.json["detail"].as_str().unwrap().contains(told), "{headers:?}: {}", reply.text);
    }
    for headers in [
        pair(original, "/v2/users?a=b").to_vec(),
        pair(forwarded, "/v2/users?a=b").to_vec(),
        [pair(original, "/v2/users"), pair(forwarded, "/v2/users")].concat(),
    ] {
        assert!(permitted(&ask(&headers).await), "{headers:?}");
    }
}

#[tokio::test]
async fn paths_that_can_be_read_in_two_ways_are_refused() {
    let app = with_routes(DOCUMENTS).await;
    let admin = app.admin().await;
    for (path, told) in [
        ("", "does not begin"),
        ("v2/users", "does not begin"),
        ("http://host/v2/users", "does not begin"),
        ("*", "does not begin"),
        ("//v2/users", "an empty segment"),
        ("/v2//users", "an empty segment"),
        ("/v2/users//", "an empty segment"),
        ("/v2/;x/users", "an empty segment"),
        ("/public/../v2/users", "`.` or `..`"),
        ("/public/%2e%2e/v2/users", "`.` or `..`"),
        ("/public/.%2E/v2/users", "`.` or `..`"),
        ("/public/..", "`.` or `..`"),
        ("/public/..;x=y/v2/users", "`.` or `..`"),
        ("/public/..%3Bx/v2/users", "`.` or `..`"),
        ("/public/..%20/v2/users", "`.` or `..`"),
        ("/public/./v2/users", "`.` or `..`"),
        ("/public/%2e", "`.` or `..`"),
        ("/public/..%2fv2", "an encoded slash"),
        ("/public%2F..%2Fv2", "an encoded slash"),
        ("/public/a%5Cb", "a backslash"),
        ("/public\\..\\v2", "a backslash"),
        ("/public/%00", "a control character"),
        ("/public/a%0d%0aX-User-Id:%20x", "a control character"),
        ("/public/a%7f", "a control character"),
        ("/public/%C2%85", "a control character"),
        ("/public/a b", "not encoded"),
        ("/public/a#b", "not encoded"),
        ("/public/a%23b", "`#` or `?`"),
        ("/public/a%3fb", "`#` or `?`"),
        ("/public/%252e%252e/v2", "encoded twice"),
        ("/public/a%252fb", "encoded twice"),
        ("/public/a%", "encodes nothing"),
        ("/public/a%2", "encodes nothing"),
        ("/public/a%zz", "encodes nothing"),
        ("/public/%+f", "encodes nothing"),
        ("/public/%ff", "not UTF-8"),
        ("/public/%c0%ae%c0%ae/v2", "not UTF-8"),
        (&format!("/public/{}", "a".repeat(8192)), "longer than 8192"),
    ] {
        let reply = forward(&admin, "GET", path).await;
        reply.expect_problem(403, "bad_original");
        assert!(reply.json["detail"].as_str().unwrap().contains(told), "{path}: {}", reply.text);
        // Nobody is let through who is not known, either.
        forward(&app.anonymous(), "GET", path).await.expect_problem(401, "missing_token");
    }
    for path in [
        "/public/",
        "/public/a",
        "/public/a/b/",
        "/public/a%20b",
        "/public/a?x=/../%00//",
        "/public/.a/..b/c..",
        "/public/100%25",
    ] {
        assert_eq!(forward(&app.anonymous(), "GET", path).await.status, StatusCode::NO_CONTENT, "{path}");
    }
}

/// Sends this on a connection of its own, as it stands; gives the status and the rest of the answer.
fn raw(base: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

// The service goes on while a thread waits for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_header_names_the_request_its_own_method_and_the_rest_of_its_path_do() {
    let app = with_routes(DOCUMENTS).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    let ask = |client: &Client, method: &str, rest: &str, more: &str| {
        let bearer = client.bearer.clone().unwrap_or_default();
        let head = format!("{method} {FORWARD}{rest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        raw(&client.base, &format!("{head}Authorization: Bearer {bearer}\r\n{more}\r\n")).0
    };
    for (method, rest, admins, guests) in [
        ("GET", "/v2/users/me", 204, 204),
        ("HEAD", "/v2/users/me", 204, 204),
        ("GET", "/v2/users?limit=1", 204, 403),
        ("POST", "/v2/users", 204, 403),
        ("PATCH", "/v2/users/me", 204, 204),
        ("DELETE", "/v2/users/me", 204, 403),
        ("PUT", "/v2/users/me", 403, 403),
        ("OPTIONS", "/public/a", 204, 204),
        ("BREW", "/public/a", 204, 204),
        ("GET", "/", 403, 403),
        ("GET", "", 403, 403),
        ("GET", "/public/../v2/users/me", 403, 403),
        ("GET", "//v2/users/me", 403, 403),
        ("GET", "/v2%2Fusers/me", 403, 403),
    ] {
        assert_eq!(ask(&admin, method, rest, ""), admins, "{method} {rest}");
        assert_eq!(ask(&guest, method, rest, ""), guests, "{method} {rest}");
    }
    // A client cannot name another request than the one that the proxy asks about.
    let other = "X-Original-Method: GET\r\nX-Original-URI: /v2/users/me\r\n";
    assert_eq!(ask(&guest, "GET", "/v2/users", other), 403);
    assert_eq!(ask(&guest, "GET", "/v2/users/me", other), 204);
    // The body is not waited for, whatever its length is said to be.
    assert_eq!(ask(&guest, "POST", "/v2/conversations/x/messages", "Content-Length: 5000000\r\n"), 403);
    // Nor is the path taken for another one because it is written in another way.
    let bearer = admin.bearer.unwrap();
    let head = "GET /v2/authorize/%66orward/public/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let (status, answer) = raw(&app.base, &format!("{head}Authorization: Bearer {bearer}\r\n\r\n"));
    assert!(status == 403 || status == 404, "{answer}");
}

/// Routes of a document store.
const DOCUMENTS: &str = r#"
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

/// The service with a document store beside it, and these routes.
async fn with_routes(routes: &str) -> TestApp {
    let app = TestApp::start().await;
    let directory = app.directory().join("domain");
    document_store(&directory);
    std::fs::write(directory.join("routes.toml"), routes).unwrap();
    app.again(|config| {
        config.schema.push(directory.clone());
        config.policies = vec![directory.clone()];
        config.forward_routes = Some(directory.join("routes.toml"));
    })
    .await
}

/// The policies of the service and of a document store of which nothing stands in an organization.
fn document_store(directory: &Path) {
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
async fn a_file_says_what_the_paths_of_other_services_mean() {
    let app = with_routes(DOCUMENTS).await;
    let admin = app.admin().await;
    let (_, stranger) = app.tenant("tenant").await;
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
        (&stranger, "POST", &format!("/files/{conversation}"), false),
        (&guest, "POST", &format!("/files/{NOBODY}"), false),
        // `me` is a name of the service's own routes only.
        (&guest, "GET", "/files/me", false),
        (&guest, "DELETE", "/public/a", false),
        (&guest, "POST", "/public/a", true),
        // Not the service's own route, which comes after.
        (&guest, "GET", "/v2/forms", true),
        (&guest, "POST", "/v2/forms", false),
    ] {
        let reply = forward(client, method, path).await;
        assert_eq!(permitted(&reply), expected, "{method} {path}: {}", reply.text);
    }
    // A thing that is missing and one out of reach do not answer differently.
    let [missing, foreign] = [NOBODY, &conversation].map(|id| format!("/files/{id}"));
    let [missing, foreign] =
        [forward(&stranger, "GET", &missing).await, forward(&stranger, "GET", &foreign).await];
    assert_eq!(missing.json["detail"], foreign.json["detail"]);
    for path in ["/documents", "/documents/", "/documents/a/b", "/tree/de", "/public"] {
        forward(&admin, "GET", path).await.expect_problem(403, "no_such_route");
    }
    forward(&admin, "POST", "/documents/plan").await.expect_problem(403, "no_such_route");
}

#[tokio::test]
async fn a_wrong_file_stops_the_start_and_says_what_is_wrong_and_where() {
    let app = TestApp::start().await;
    let directory = app.directory().join("domain");
    document_store(&directory);
    let file = directory.join("routes.toml");
    let mut config = app.config.clone();
    config.schema.push(directory.clone());
    config.policies = vec![directory.clone()];
    config.forward_routes = Some(file.clone());
    let route = |method: &str, path: &str, rest: &str| {
        format!("# A comment.\n[[route]]\nmethod = \"{method}\"\npath = \"{path}\"\n{rest}\n")
    };
    let read =
        |id: &str| format!("action = \"read\"\nresource = {{ type = \"Docs::Document\", id = \"{id}\" }}");
    for (text, told) in [
        ("route = 1".to_owned(), "routes.toml:1: "),
        ("[[route]]\nmethod = \"GET".to_owned(), "routes.toml:2: "),
        ("[[routes]]\nmethod = \"GET\"".to_owned(), "routes.toml:1: unknown field `routes`"),
        (route("GET", "/a", "public = true\nactoin = \"read\""), "routes.toml:6: unknown field `actoin`"),
        (
            route("GET", "/a", "action = \"read\"\nresource = { type = \"Docs::Document\", name = \"x\" }"),
            "unknown field `name`",
        ),
        ("[[route]]\nmethod = \"GET\"\npublic = true".to_owned(), "missing field `path`"),
        (
            route("get", "/a", "public = true"),
            "routes.toml:2: the route get /a: \"get\" is not a method in capitals",
        ),
        (route("GET", "a", "public = true"), "does not begin with `/`"),
        (route("GET", "/a/../b", "public = true"), "fits nothing"),
        (route("GET", "/a", ""), "it needs `action` and `resource`, or `public = true`"),
        (route("GET", "/a", "action = \"read\""), "it needs `action` and `resource`"),
        (route("GET", "/a", "public = true\naction = \"read\""), "has neither `action` nor `resource`"),
        (route("GET", "/a/{id}", &read("{name}")), "the id names {name}, which is not in the path"),
        (route("GET", "/a/{id}", &read("{id")), "has a `{` without its `}`"),
        (route("GET", "/a/{id}", &read("")), "the id is empty"),
        (route("GET", "/a/{id...}/b", &read("{id}")), "goes on after"),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "raed")),
            "there is no action \"raed\" for the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "sign")),
            "is not one of users on things of the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("read", "fetchForm")),
            "is not one of users on things of the type \"Docs::Document\"",
        ),
        (
            route("GET", "/a/{id}", &read("{id}").replace("Docs::Document", "Docs::Doc")),
            "there is no type \"Docs::Doc\" in the schema",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = App::open(&config, Clock::system()).await.unwrap_err().to_string();
        for told in ["CEDARGATE_FORWARD_ROUTES", "routes.toml:", told] {
            assert!(error.contains(told), "{text}\n{told}: {error}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let error = App::open(&config, Clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("CEDARGATE_FORWARD_ROUTES") && error.contains("routes.toml: "), "{error}");
    std::fs::write(&file, "").unwrap();
    App::open(&config, Clock::system()).await.unwrap();
}

#[tokio::test]
async fn a_change_of_the_user_or_of_the_thing_is_seen_by_the_next_answer() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let bot = app.user(Scope::Bot).await;
    let contact = admin.post("/v2/contacts", json!({})).await.id();
    let path = format!("/v2/contacts/{contact}");
    assert!(permitted(&forward(&bot, "GET", &path).await));
    admin.patch(&format!("/v2/users/{}", bot.id), json!({ "role": "guest" })).await.expect(StatusCode::OK);
    assert!(!permitted(&forward(&bot, "GET", &path).await));
    admin.patch(&format!("/v2/users/{}", bot.id), json!({ "role": "bot" })).await.expect(StatusCode::OK);
    assert!(permitted(&forward(&bot, "GET", &path).await));
    admin.delete(&path).await;
    assert!(!permitted(&forward(&bot, "GET", &path).await));
    admin
        .patch(&format!("/v2/users/{}", bot.id), json!({ "status": "blocked" }))
        .await
        .expect(StatusCode::OK);
    forward(&bot, "GET", "/v2/users/me").await.expect_problem(401, "invalid_token");
}

/// nginx, ended when it goes out of scope.
struct Nginx {
    child: Child,
    base: String,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx_binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = directories.map(|directory| directory.join("nginx")).find(|file| file.is_file());
    found.expect("nginx is needed: apt-get install nginx")
}

impl Nginx {
    /// nginx with the configuration of the example, between these two.
    fn start(directory: &Path, cedargate: &str, service: &str) -> Self {
        let example = std::fs::read_to_string(project_file("examples/nginx/nginx.conf")).unwrap();
        let address = |base: &str| base.trim_start_matches("http://").to_owned();
        // Somebody else may take the port between here and there: then it is another one.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let mut text = example.clone();
            for (port, address) in [
                ("server 127.0.0.1:8080;", format!("server {};", address(cedargate))),
                ("server 127.0.0.1:9000;", format!("server {};", address(service))),
                ("listen 127.0.0.1:8000;", format!("listen {free};")),
            ] {
                assert_eq!(text.matches(port).count(), 1, "{port}");
                text = text.replace(port, &address);
            }
            std::fs::write(directory.join("nginx.conf"), text).unwrap();
            let child = Command::new(nginx_binary())
                .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
                .arg(directory)
                .args(["-g", "daemon off; master_process off; pid nginx.pid;"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut nginx = Self { child, base: format!("http://{free}") };
            let end = Instant::now() + Duration::from_secs(20);
            while nginx.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&free).is_ok() {
                    return nginx;
                }
                assert!(Instant::now() < end, "nginx does not answer");
                std::thread::yield_now();
            }
        }
        let log = std::fs::read_to_string(directory.join("error.log")).unwrap_or_default();
        panic!("nginx did not start: {log}");
    }
}

/// A small service that answers with what it was sent.
fn echo() -> (String, actix_web::dev::ServerHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answer = async |request: HttpRequest, body: String| {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            headers.entry(name.to_string()).or_default().push(value.to_str().unwrap().to_owned());
        }
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        HttpResponse::Ok().json(json!({ "method": method, "uri": uri, "headers": headers, "body": body }))
    };
    let server = HttpServer::new(move || actix_web::App::new().default_service(web::to(answer)));
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    tokio::spawn(server);
    (base, handle)
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_sends_on_what_is_permitted_and_says_who_sent_it() {
    let app =
        TestApp::with(|config| config.forward_routes = Some(project_file("examples/nginx/routes.toml")))
            .await;
    let (service, handle) = echo();
    let nginx = Nginx::start(app.directory(), &app.base, &service);
    let through = |client: &Client| Client { base: nginx.base.clone(), ..client.clone() };
    let (anonymous, admin) = (through(&app.anonymous()), app.admin().await);
    let guest = app.user(Scope::Guest).await;
    let (_, stranger) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let (admin, guest, stranger) = (through(&admin), through(&guest), through(&stranger));
    let file = format!("/files/{conversation}/a%20b.txt?version=2");
    let header = |seen: &Value, name: &str| seen["headers"][name].clone();

    // What a client says of itself under these names is not passed on.
    let lies = [
        ("X-User-Id", "somebody"),
        ("X-Scope", "admin"),
        ("X-Policy-Version", "mine"),
        ("X_User_Id", "somebody"),
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/public/x"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/public/x"),
    ];
    for lies in [&[] as &[_], &lies] {
        let seen = guest.send(Method::GET, &file, lies, None).await.expect(StatusCode::OK);
        assert_eq!((&seen["method"], &seen["uri"]), (&json!("GET"), &json!(file)));
        assert_eq!(header(&seen, "x-user-id"), json!([guest.id]));
        assert_eq!(header(&seen, "x-scope"), json!(["guest"]));
        assert_eq!(header(&seen, "x-policy-version").as_array().unwrap().len(), 1);
        assert_eq!((header(&seen, "authorization"), header(&seen, "x_user_id")), (Value::Null, Value::Null));

        let refused = anonymous.send(Method::GET, &file, lies, None).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        for (client, method) in [(&stranger, Method::GET), (&guest, Method::PUT), (&admin, Method::DELETE)] {
            let refused = client.send(method.clone(), &file, lies, None).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method}");
        }

        let seen = anonymous.send(Method::GET, "/public/logo.svg", lies, None).await.expect(StatusCode::OK);
        for name in ["x-user-id", "x-scope", "x-policy-version"] {
            assert_eq!(header(&seen, name), Value::Null, "{name}");
        }
    }
    let seen = admin.send(Method::PUT, &file, &[], Some(b"text".to_vec())).await.expect(StatusCode::OK);
    assert_eq!((&seen["method"], &seen["body"]), (&json!("PUT"), &json!("text")));
    assert_eq!(header(&seen, "x-scope"), json!(["guest agent bot admin"]));
    let spoiled = Client { bearer: Some("no.good.token".into()), ..guest.clone() };
    let refused = spoiled.get(&file).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.header("www-authenticate").contains("invalid_token"));
    assert_eq!(admin.get("/elsewhere").await.status, StatusCode::FORBIDDEN);

    // nginx finds its own way through such paths; the service does not get to see them.
    for path in [
        format!("/public/../files/{conversation}/a"),
        format!("/public/..%2ffiles/{conversation}/a"),
        format!("/public/%2e%2e/files/{conversation}/a"),
        format!("//files/{conversation}/a"),
        format!("/public/%252e%252e/files/{conversation}/a"),
        "/public/..;/a".to_owned(),
        "/_cedargate".to_owned(),
    ] {
        let bearer = admin.bearer.clone().unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let (status, answer) = raw(&nginx.base, &format!("{head}Authorization: Bearer {bearer}\r\n\r\n"));
        let expected = if path == "/_cedargate" { 404 } else { 403 };
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(!answer.contains("\"headers\""), "{path}: {answer}");
    }
    handle.stop(false).await;
}
