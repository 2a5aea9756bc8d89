//! How many requests a second, as ratios to a bare actix handler that parses the same body and answers a constant. Both
//! servers run as processes of their own and take turns, because the machine may be busy with something else too.
//! `make bench` runs it; it needs `wrk` and the release build.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark ends where something is not as expected"
)]

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const ROUNDS: usize = 3;
const SECONDS: u32 = 4;

/// A process that ends with this value.
struct Server {
    child: Child,
    base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ceiling: parses any JSON body and answers a constant.
async fn echo() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    println!("echo listens on http://{}", listener.local_addr().unwrap());
    let answer =
        || async { HttpResponse::Ok().content_type("application/json").body(r#"{"decision":true}"#) };
    HttpServer::new(move || {
        App::new()
            .route("/", web::get().to(answer))
            .route("/", web::post().to(move |_: web::Json<Value>| answer()))
    })
    .listen(listener)
    .unwrap()
    .run()
    .await
    .unwrap();
}

fn start(mut command: Command) -> Server {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains(" listens on ")).expect("it does not start");
    let base = line.split(" listens on ").nth(1).unwrap().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    Server { child, base }
}

fn cedargate(directory: &Path) -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    command
        .current_dir(directory)
        .env("CEDARGATE_LISTEN", "127.0.0.1:0")
        .env("CEDARGATE_POLICIES", root.join("policies"))
        .env("CEDARGATE_SCHEMA", root.join("schema"))
        .env("CEDARGATE_ADMIN_PASSWORD", "t0pZ3kR3t")
        .env("CEDARGATE_LOG", "warn");
    start(command)
}

/// Something to be asked again and again.
struct Load {
    name: &'static str,
    method: &'static str,
    path: String,
    body: String,
}

/// Requests a second. `wrk` reads what to send from a script.
fn measure(base: &str, load: &Load, path: &str, bearer: Option<&str>, directory: &Path) -> f64 {
    let script = directory.join("load.lua");
    let mut text =
        format!("wrk.method = {:?}\nwrk.headers[\"Content-Type\"] = \"application/json\"\n", load.method);
    if let Some(bearer) = bearer {
        text.push_str(&format!("wrk.headers[\"Authorization\"] = \"Bearer {bearer}\"\n"));
    }
    if !load.body.is_empty() {
        text.push_str(&format!("wrk.body = [[{}]]\n", load.body));
    }
    std::fs::write(&script, text).unwrap();
    let output = Command::new("wrk")
        .args([
            "-t1",
            "-c16",
            &format!("-d{SECONDS}s"),
            "-s",
            script.to_str().unwrap(),
            &format!("{base}{path}"),
        ])
        .output()
        .expect("wrk is needed: apt-get install wrk");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("Non-2xx"), "{}: {text}", load.name);
    let line =
        text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).unwrap_or_else(|| panic!("{text}"));
    line.trim().parse().unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn call(base: &str, path: &str, bearer: Option<&str>, body: Value) -> Value {
    let mut request = reqwest::Client::new().post(format!("{base}{path}")).json(&body);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

async fn compare() {
    let directory = tempfile::tempdir().unwrap();
    let ours = cedargate(directory.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("echo");
    let bare = start(command);

    let login = json!({ "email": "admin@example.com", "password": "t0pZ3kR3t" });
    let tokens = call(&ours.base, "/v2/auth/token", None, login).await;
    let token = tokens["token"].as_str().unwrap();
    let conversation = call(&ours.base, "/v2/conversations", Some(token), json!({})).await;
    let question = json!({
        "action": { "name": "fetchConversation" },
        "resource": { "type": "Conversation", "id": conversation["id"] }
    });
    let loads = [
        Load { name: "GET /v2/users/me", method: "GET", path: "/v2/users/me".into(), body: String::new() },
        Load {
            name: "POST /v2/authorize",
            method: "POST",
            path: "/v2/authorize".into(),
            body: question.to_string(),
        },
    ];
    println!("{:28} {:>12} {:>12} {:>8}", "", "req/s", "bare actix", "ratio");
    for load in &loads {
        let (mut own, mut ceiling) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(measure(&ours.base, load, &load.path, Some(token), directory.path()));
            ceiling.push(measure(&bare.base, load, "/", Some(token), directory.path()));
        }
        let (own, ceiling) = (median(own), median(ceiling));
        println!("{:28} {own:12.0} {ceiling:12.0} {:8.2}", load.name, own / ceiling);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", ours.child.id())).unwrap_or_default();
    if let Some(memory) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) {
        println!("resident memory afterwards: {}", memory.trim());
    }
}

fn main() {
    let system = actix_web::rt::System::new();
    if std::env::args().any(|argument| argument == "echo") {
        system.block_on(echo());
    } else {
        system.block_on(compare());
    }
}
