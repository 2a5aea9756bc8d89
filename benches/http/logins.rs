//! Measures logins and refreshes per second, what limits them, and whether the time of a failed login discloses that an account
//! exists.

use super::{Load, Server, call, is_selected, measure, median, service_command, start};
use cedargate::authn::{Lane, PasswordService};
use cedargate::config::Config;
use cedargate::types::{Clock, Id};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::json;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

const ROUNDS: usize = 3;
/// The number of users that log in. Attempts for one account are serialized.
const ACCOUNTS: usize = 400;
/// The number of sessions that are refreshed. `wrk` has 16 connections.
const SESSIONS: usize = 32;
/// The number of failed logins of each kind that are timed.
const ATTEMPTS: usize = 200;
const PASSWORD: &str = "t0pZ3kR3t";
const LOGIN: &str = "login";
const REFRESH: &str = "refresh";
const LOGIN_TIMES: &str = "known and unknown emails";

/// Runs the login benchmarks on SQLite and, with `TEST_POSTGRES_URL`, on PostgreSQL.
pub(super) async fn run_benchmark() {
    if ![LOGIN, REFRESH, LOGIN_TIMES].iter().any(|name| is_selected(name)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let config = Config::default();
    let hash = time_one_hash(&config).await;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!(
        "one password hash: {:.1} ms ({} KiB, {} iterations, {} lanes); upper bound with {workers} in parallel: {:.0} logins/s",
        hash * 1e3,
        config.argon2_memory_kib,
        config.argon2_iterations,
        config.argon2_parallelism,
        workers as f64 / hash,
    );
    println!("one 4 KiB write with fsync: {:.2} ms", time_one_sync(directory.path()) * 1e3);
    println!("{:28} {:>12} {:>22}", "", "req/s", "audited commits/s");
    let sqlite = format!("sqlite://{}", directory.path().join("cedargate.db").display());
    measure_database("SQLite", &sqlite, directory.path()).await;
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        let admin = Database::connect(&server).await.unwrap();
        let name = format!("bench{}", Id::new(&Clock::system()));
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        measure_database("PostgreSQL", &url, directory.path()).await;
        let row =
            admin.query_one_raw(sea_orm::Statement::from_string(admin.get_database_backend(), "SHOW fsync"));
        let fsync: String = row.await.unwrap().unwrap().try_get_by_index(0).unwrap();
        println!("(this PostgreSQL has fsync {fsync})");
        admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }
}

/// The time of one password hash in seconds, without other load.
async fn time_one_hash(config: &Config) -> f64 {
    let passwords = PasswordService::new(config).unwrap();
    let mut times = Vec::new();
    for _ in 0..21 {
        let permit = passwords.reserve_slot(Lane::Unknown).unwrap().acquire_permit().await.unwrap();
        let began = Instant::now();
        permit.verify(PASSWORD.to_owned().into(), None).await.unwrap();
        times.push(began.elapsed().as_secs_f64());
    }
    median(times)
}

/// The time in seconds to write and sync 4 KiB.
fn time_one_sync(directory: &Path) -> f64 {
    let mut file = std::fs::File::create(directory.join("sync")).unwrap();
    let times = (0..51).map(|_| {
        let began = Instant::now();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64()
    });
    median(times.collect())
}

/// Measures the rows for one database.
async fn measure_database(kind: &str, url: &str, directory: &Path) {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut command = service_command(directory, "off", &policies);
    // Every login has its own client address. Requests that `wrk` aborts count as failed attempts, and must not delay others.
    command.env("CEDARGATE_DATABASE_URL", url).env("CEDARGATE_TRUSTED_PROXIES", "127.0.0.1");
    let server = start(command);
    let db = Database::connect(url).await.unwrap();
    create_accounts(&db).await;
    if is_selected(LOGIN) {
        let script = format!(
            "wrk.headers[\"Content-Type\"] = \"application/json\"\nlocal n = 0\nrequest = function()\n  n = n + 1\n  \
             local body = string.format('{{\"email\":\"login%d@example.com\",\"password\":\"{PASSWORD}\"}}', n % {ACCOUNTS})\n  \
             wrk.headers[\"X-Forwarded-For\"] = string.format('12.%d.%d.1', math.floor(n / 256), n % 256)\n  \
             return wrk.format(\"POST\", \"@PATH@\", nil, body)\nend\n"
        );
        let load = Load { name: LOGIN.into(), path: "/v2/auth/token", script, decisions: 0.0 };
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(measure_with_audit_entries(&db, &server, &load, directory).await);
        }
        print_rates(&format!("{LOGIN}, {kind}"), rates);
    }
    if is_selected(REFRESH) {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let load = refresh_load(&server).await;
            rates.push(measure_with_audit_entries(&db, &server, &load, directory).await);
        }
        print_rates(&format!("{REFRESH}, {kind}"), rates);
    }
    if is_selected(LOGIN_TIMES) {
        compare_login_times(kind, &server).await;
    }
    db.close().await.unwrap();
}

/// Inserts users with passwords directly into the database.
async fn create_accounts(db: &DatabaseConnection) {
    let passwords = PasswordService::new(&Config::default()).unwrap();
    // All users share one hash, since computing one per user would take longer than the benchmark.
    let hash = passwords.hash(PASSWORD.to_owned().into(), Vec::new()).await.unwrap();
    let organization = "(SELECT id FROM organizations LIMIT 1)";
    for n in 0..ACCOUNTS {
        let id = format!("cccc{n:020x}");
        db.execute_unprepared(&format!(
            "INSERT INTO users (id, organization, meta, created_at, updated_at, email, name, role, status) VALUES \
             ('{id}', {organization}, '{{}}', 0, 0, 'login{n}@example.com', '', 'agent', 'active')"
        ))
        .await
        .unwrap();
        let password = format!("INSERT INTO passwords VALUES ('{id}', '{hash}', 0)");
        db.execute_unprepared(&password).await.unwrap();
    }
}

/// Every request uses a refresh token and receives the next one. The script keeps a queue of unused tokens.
async fn refresh_load(server: &Server) -> Load {
    let mut script =
        "wrk.headers[\"Content-Type\"] = \"application/json\"\nlocal tokens, first, last = {}, 1, 0\n"
            .to_owned();
    script.push_str("local function keep(token)\n  last = last + 1\n  tokens[last] = token\nend\n");
    let mut users = String::new();
    for n in 0..SESSIONS {
        let email = format!("login{n}@example.com");
        let body = json!({ "email": email, "password": PASSWORD });
        let pair = call(&server.base, "/v2/auth/token", None, body).await;
        let token = pair["refreshToken"].as_str().unwrap();
        let _ = writeln!(script, "keep(\"{token}\")");
        let _ = writeln!(users, "users[\"cccc{n:020x}\"] = \"{email}\"");
    }
    let _ = write!(
        script,
        "local users = {{}}\n{users}request = function()\n  local token = tokens[first]\n  tokens[first] = nil\n  first = first + 1\n  \
         local body = '{{\"refreshToken\":\"' .. token .. '\",\"clientId\":\"' .. users[token:sub(1, 24)] .. '\"}}'\n  \
         return wrk.format(\"POST\", \"@PATH@\", nil, body)\nend\n\
         response = function(status, headers, body)\n  keep(body:match('\"refreshToken\":\"([^\"]+)\"'))\nend\n"
    );
    Load { name: REFRESH.into(), path: "/v2/auth/token", script, decisions: 0.0 }
}

/// Measures requests per second and audit entries per second.
async fn measure_with_audit_entries(
    db: &DatabaseConnection,
    server: &Server,
    load: &Load,
    directory: &Path,
) -> (f64, f64) {
    let (before, began) = (count_audit_entries(db).await, Instant::now());
    let rate = measure(&server.base, load.path, load, directory);
    let seconds = began.elapsed().as_secs_f64();
    (rate, (count_audit_entries(db).await - before) as f64 / seconds)
}

async fn count_audit_entries(db: &DatabaseConnection) -> i64 {
    let count = sea_orm::Statement::from_string(db.get_database_backend(), "SELECT count(*) FROM audit");
    db.query_one_raw(count).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

fn print_rates(name: &str, rates: Vec<(f64, f64)>) {
    let (requests, commits) = rates.into_iter().unzip();
    println!("{name:28} {:12.0} {:22.0}", median(requests), median(commits));
}

/// Compares the times of failed logins with known and unknown emails, in turn. Each email and client address is used once.
async fn compare_login_times(kind: &str, server: &Server) {
    let client = reqwest::Client::new();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    // The first ten are for warming up.
    for n in 0..ATTEMPTS + 10 {
        for (who, times) in [("login", &mut known), ("nobody", &mut unknown)] {
            let body = json!({ "email": format!("{who}{n}@example.com"), "password": "not-the-one" });
            let address = format!("{}.{}.{}.1", if who == "login" { 10 } else { 11 }, n / 256, n % 256);
            let request = client.post(format!("{}/v2/auth/token", server.base)).json(&body);
            let began = Instant::now();
            let answer = request.header("X-Forwarded-For", address).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 401);
            answer.bytes().await.unwrap();
            if n >= 10 {
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let spread = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        (times[times.len() / 10], times[times.len() / 2], times[times.len() * 9 / 10])
    };
    let (known, unknown) = (spread(&known), spread(&unknown));
    println!("time of a failed login on {kind}, median of {ATTEMPTS}, in ms:");
    for (name, (tenth, median, ninetieth)) in [("known email", known), ("unknown email", unknown)] {
        println!("  {name:26} {median:8.2}   (80 % between {tenth:.2} and {ninetieth:.2})");
    }
    println!("  ratio of unknown to known: {:.3}", unknown.1 / known.1);
}
