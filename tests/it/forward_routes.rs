//! What a routes file says of the paths of other services, with the real nginx in front of a small one.

use crate::forward::{forward, permitted, raw};
use crate::resources::NOBODY;
use crate::support::{Client, TestApp, project_file};
use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use cedargate::app::App;
use cedargate::authz::Scope;
use cedargate::values::Clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Routes of a document store.
pub(crate) const DOCUMENTS: &str = r#"
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
pub(crate) async fn with_routes(routes: &str) -> TestApp {
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
