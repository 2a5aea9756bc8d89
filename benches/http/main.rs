//! Measures requests per second, as a ratio to a bare Actix handler that parses the same body and returns a constant.
//!
//! Both servers run as separate processes and are measured in turn, so that other load on the machine affects both. Run it
//! with `make bench`; it needs `wrk` and a release build.
//!
//! - Words after `--` select rows by name: `cargo bench --bench http -- login refresh`.
//! - `BENCH_ROWS` sets the number of users and conversations in the large database (row `large`), and of the rows of lists
//!   (row `rows`).
//! - The row `caches` measures the service without each of its caches (`CEDARGATE_CACHES_OFF`).
//! - The row `memory` measures peak resident memory while clients try to exhaust the process.
//! - With `TEST_POSTGRES_URL`, logins, refreshes, lists and searches are measured on PostgreSQL too.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark panics on unexpected results"
)]

mod caches;
mod logins;
mod memory;
mod rows;

use actix_web::{App, HttpResponse, HttpServer, web};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// How often each server is measured. The median counts.
const ROUNDS: usize = 3;
/// The duration of one measurement in seconds.
const SECONDS: u32 = 4;
/// The number of users, and of conversations, in distinct questions.
const DISTINCT: usize = 2000;

/// A server process that is killed when this value is dropped.
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

impl Server {
    /// The current resident memory, as Linux reports it.
    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?");
        line.trim().to_owned()
    }
}

/// Runs the bare server: it parses any JSON body and returns a constant.
async fn echo() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    println!("echo listens on http://{}", listener.local_addr().unwrap());
    let respond =
        || async { HttpResponse::Ok().content_type("application/json").body(r#"{"decision":true}"#) };
    HttpServer::new(move || {
        App::new()
            .app_data(web::JsonConfig::default().limit(4 * 1024 * 1024))
            .route("/", web::get().to(respond))
            .route("/", web::post().to(move |_: web::Json<Value>| respond()))
    })
    .listen(listener)
    .unwrap()
    .run()
    .await
    .unwrap();
}

/// Starts a server, and waits until it listens.
fn start(mut command: Command) -> Server {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains(" listens on ")).expect("the server did not start");
    let base = line.split(" listens on ").nth(1).unwrap().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    Server { child, base }
}

fn start_cedargate(directory: &Path, decision_log: &str) -> Server {
    start_service(directory, decision_log, &Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"))
}

fn start_service(directory: &Path, decision_log: &str, policies: &Path) -> Server {
    start(service_command(directory, decision_log, policies))
}

/// The command that starts the service with a SQLite database in this directory.
fn service_command(directory: &Path, decision_log: &str, policies: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    command
        .current_dir(directory)
        .env("CEDARGATE_LISTEN", "127.0.0.1:0")
        .env("CEDARGATE_POLICIES", policies)
        .env("CEDARGATE_SCHEMA", root.join("schema"))
        .env("CEDARGATE_ADMIN_PASSWORD", "t0pZ3kR3t")
        .env("CEDARGATE_DECISION_LOG", decision_log)
        // The load stands for that of many clients.
        .env("CEDARGATE_RATE_LIMIT_ANONYMOUS", "0")
        .env("CEDARGATE_RATE_LIMIT_WRITES", "0")
        .env("CEDARGATE_LOG", "warn");
    command
}

/// Whether a row is measured: every row, or those whose name contains one of the given words.
fn is_selected(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// A request pattern, as a script for `wrk`.
struct Load {
    name: String,
    path: &'static str,
    script: String,
    /// The number of decisions per request.
    decisions: f64,
}

fn wrk_headers(token: &str) -> String {
    format!(
        "wrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.headers[\"Authorization\"] = \"Bearer {token}\"\n"
    )
}

/// Measures requests per second.
fn measure(base: &str, path: &str, load: &Load, directory: &Path) -> f64 {
    let script = directory.join("load.lua");
    std::fs::write(&script, load.script.replace("@PATH@", path)).unwrap();
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

async fn log_in(base: &str) -> String {
    let login = json!({ "email": "admin@example.com", "password": "t0pZ3kR3t" });
    call(base, "/v2/auth/token", None, login).await["token"].as_str().unwrap().to_owned()
}

/// Inserts users and conversations directly into the database.
async fn insert_rows(directory: &Path, rows: usize) {
    let url = format!("sqlite://{}", directory.join("cedargate.db").display());
    let db = sea_orm::Database::connect(url).await.unwrap();
    let series = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    let organization = "(SELECT id FROM organizations LIMIT 1)";
    db.execute_unprepared(&format!(
        "INSERT INTO users (id, organization, meta, created_at, updated_at, email, name, role, status) {series} \
         SELECT printf('aaaa%020x', i), {organization}, '{{}}', 0, 0, 'u' || i || '@example.com', '', 'agent', 'active' FROM n"
    ))
    .await
    .unwrap();
    db.execute_unprepared(&format!(
        "INSERT INTO conversations (id, organization, meta, created_at, updated_at, type, participants) {series} \
         SELECT printf('bbbb%020x', i), {organization}, '{{}}', 0, 0, 'contact', '[]' FROM n"
    ))
    .await
    .unwrap();
    db.close().await.unwrap();
}

fn question(user: usize, conversation: usize) -> Value {
    json!({
        "subject": { "type": "User", "id": format!("aaaa{user:020x}") },
        "action": { "name": "fetchConversation" },
        "resource": { "type": "Conversation", "id": format!("bbbb{conversation:020x}") }
    })
}

fn loads(token: &str) -> Vec<Load> {
    let head = wrk_headers(token);
    let post = |body: &Value| format!("{head}wrk.method = \"POST\"\nwrk.body = [[{body}]]\n");
    let repeated = question(1, 1);
    // A new pair of user and conversation in every request, until all pairs of so many users and conversations were used.
    let different = |users: usize, conversations: usize| {
        format!(
            "{head}wrk.method = \"POST\"\nlocal n = 0\nrequest = function()\n  n = n + 1\n  local user = n % {users} + 1\n  \
             local conversation = (n + math.floor(n / {users})) % {conversations} + 1\n  \
             local body = string.format('{{\"subject\":{{\"type\":\"User\",\"id\":\"aaaa%020x\"}},\"action\":{{\"name\":\"fetchConversation\"}},\"resource\":{{\"type\":\"Conversation\",\"id\":\"bbbb%020x\"}}}}', user, conversation)\n  \
             return wrk.format(\"POST\", \"@PATH@\", nil, body)\nend\n"
        )
    };
    let mut batches = format!("{head}wrk.method = \"POST\"\nlocal n = 0\nlocal bodies = {{}}\n");
    for batch in 0..32 {
        let items: Vec<Value> = (0..1000)
            .map(|index| {
                question((batch * 61 + index) % DISTINCT + 1, (batch * 1000 + index * 7) % DISTINCT + 1)
            })
            .collect();
        let _ = writeln!(batches, "bodies[{}] = [[{}]]", batch + 1, json!({ "evaluations": items }));
    }
    batches.push_str("request = function()\n  n = n + 1\n  return wrk.format(\"POST\", \"@PATH@\", nil, bodies[n % 32 + 1])\nend\n");
    vec![
        Load { name: "GET /v2/users/me".into(), path: "/v2/users/me", script: head.clone(), decisions: 1.0 },
        Load {
            name: "fetch a conversation".into(),
            path: "/v2/conversations/bbbb00000000000000000007",
            script: head.clone(),
            decisions: 1.0,
        },
        Load {
            name: "POST /v2/authorize".into(),
            path: "/v2/authorize",
            script: post(&repeated),
            decisions: 1.0,
        },
        Load {
            name: "evaluation, repeated".into(),
            path: "/access/v1/evaluation",
            script: post(&repeated),
            decisions: 1.0,
        },
        Load {
            name: "evaluation, 1,000 questions".into(),
            path: "/access/v1/evaluation",
            script: different(50, 20),
            decisions: 1.0,
        },
        Load {
            name: "evaluation, distinct".into(),
            path: "/access/v1/evaluation",
            script: different(DISTINCT, DISTINCT),
            decisions: 1.0,
        },
        Load {
            name: "batch of 1,000, distinct".into(),
            path: "/access/v1/evaluations",
            script: batches,
            decisions: 1000.0,
        },
    ]
}

async fn compare_with_bare_actix() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("echo");
    let bare = start(command);
    let began = Instant::now();
    let first = start_cedargate(directory.path(), "off");
    println!(
        "start until ready, with creation and migration of the database: {} ms",
        began.elapsed().as_millis()
    );
    insert_rows(directory.path(), DISTINCT).await;
    drop(first);
    // With every decision logged, then without a decision log.
    for (decision_log, suffix) in [("all", ", logged"), ("off", "")] {
        let service = start_cedargate(directory.path(), decision_log);
        println!("resident memory{suffix}, idle: {}", service.memory());
        println!("{:32} {:>10} {:>12} {:>7} {:>13}", "", "req/s", "bare actix", "ratio", "decisions/s");
        let token = log_in(&service.base).await;
        for load in loads(&token) {
            let name = format!("{}{suffix}", load.name);
            if !is_selected(&name) {
                continue;
            }
            let (mut rates, mut bare_rates) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                rates.push(measure(&service.base, load.path, &load, directory.path()));
                bare_rates.push(measure(&bare.base, "/", &load, directory.path()));
            }
            let (rate, bare_rate) = (median(rates), median(bare_rates));
            let decisions = rate * load.decisions;
            println!("{name:32} {rate:10.0} {bare_rate:12.0} {:7.2} {decisions:13.0}", rate / bare_rate);
        }
        println!("resident memory{suffix}, under load: {}", service.memory());
    }
    if is_selected("caches") {
        caches::run_benchmark(DISTINCT).await;
    }
    if is_selected("reloads") {
        measure_reloads(directory.path()).await;
    }
    if is_selected("large") {
        measure_large_database(directory.path()).await;
    }
    rows::run_benchmark().await;
    logins::run_benchmark().await;
    if is_selected("memory") {
        memory::run_benchmark().await;
    }
}

/// Copies the shipped policies without their tests and claims, which added policies would make fail.
fn copy_shipped_policies(to: &Path) {
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Measures a repeated question while the policies are reloaded ten times per second.
async fn measure_reloads(directory: &Path) {
    let policies = tempfile::tempdir().unwrap();
    copy_shipped_policies(policies.path());
    // The copy has no policy tests, and the changing file loses a forbid policy: neither shall need a confirmation.
    let mut command = service_command(directory, "off", policies.path());
    command.env("CEDARGATE_POLICY_RELOAD", "auto");
    let server = start(command);
    let token = log_in(&server.base).await;
    let loads = loads(&token);
    let load = loads.iter().find(|load| load.name == "evaluation, repeated").unwrap();
    let changing_file = policies.path().join("changing.cedar");
    let text = "@id(\"changing\")\nforbid (principal, action == Action::\"listForms\", resource);\n";
    let (base, directory) = (server.base.clone(), directory.to_owned());
    let (path, script) = (load.path, load.script.clone());
    let load = Load { name: "reloads".into(), path, script, decisions: 1.0 };
    let measured = std::thread::spawn(move || measure(&base, path, &load, &directory));
    let (mut reloads, http) = (0, reqwest::Client::new());
    while !measured.is_finished() {
        if reloads % 2 == 0 {
            std::fs::write(&changing_file, text).unwrap();
        } else {
            std::fs::remove_file(&changing_file).unwrap();
        }
        let reload = http.post(format!("{}/v2/policies/reload", server.base)).bearer_auth(&token);
        reload.json(&json!({})).send().await.unwrap().error_for_status().unwrap();
        reloads += 1;
        actix_web::rt::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    println!("{reloads} reloads in {SECONDS} s: {:.0} req/s, no request failed", measured.join().unwrap());
}

/// Compares fetches of uncached conversations from a large database with those from a small one.
async fn measure_large_database(small: &Path) {
    let rows: usize =
        std::env::var("BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let directory = tempfile::tempdir().unwrap();
    drop(start_cedargate(directory.path(), "off"));
    insert_rows(directory.path(), rows).await;
    let (small, large) = (start_cedargate(small, "off"), start_cedargate(directory.path(), "off"));
    let mut times = Vec::new();
    for (server, rows) in [(&small, DISTINCT), (&large, rows)] {
        let token = log_in(&server.base).await;
        let client = reqwest::Client::new();
        let began = Instant::now();
        for index in 0..DISTINCT {
            let id = format!("bbbb{:020x}", (index * (rows / DISTINCT)) % rows + 1);
            let url = format!("{}/v2/conversations/{id}", server.base);
            client.get(url).bearer_auth(&token).send().await.unwrap().error_for_status().unwrap();
        }
        times.push(began.elapsed().as_secs_f64());
    }
    println!(
        "time of a fetch with {rows} users and conversations, relative to {DISTINCT}: {:.2}",
        times[1] / times[0]
    );
}

fn main() {
    let is_echo = std::env::args().nth(1).is_some_and(|argument| argument == "echo");
    let system = actix_web::rt::System::new();
    if is_echo {
        system.block_on(echo());
    } else {
        system.block_on(compare_with_bare_actix());
    }
}
