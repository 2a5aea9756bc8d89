//! Measures lists and searches that policies filter by rows: a list of 1,000,000 rows with such a policy relative to the same
//! list without, and the first page of a search for few of them.

use super::{Server, call, copy_shipped_policies, is_selected, log_in, median, service_command, start};
use cedargate::types::{Clock, Id};
use sea_orm::{ConnectionTrait, Database, DbBackend};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// How often each request is measured. The median counts.
const ROUNDS: usize = 15;

/// One row in this many has the value that the search looks for.
const RARE: usize = 10_000;

const POLICIES: &str = r#"
@id("drafts") @doc("Only admins list drafts.")
forbid (principal, action == Action::"listKnowledgeItems", resource is KnowledgeItem)
when { resource has status && resource.status == KnowledgeStatus::"draft" }
unless { principal in Scope::"admin" };

@id("rare") @doc("Only items of one knowledge base are deleted.")
forbid (principal, action == Action::"deleteKnowledgeItem", resource is KnowledgeItem)
unless { resource has kbase && resource.kbase == "rare" };
"#;

/// The lists: the first page with the total, without it, and in another order.
const LISTS: [&str; 4] = [
    "/v2/kbitems",
    "/v2/kbitems?total=false",
    "/v2/kbitems?sort=-updatedAt",
    "/v2/kbitems?status=published&sort=title&limit=20",
];

/// Runs the benchmark on SQLite and, with `TEST_POSTGRES_URL`, on PostgreSQL.
pub(super) async fn run_benchmark() {
    if !is_selected("rows") {
        return;
    }
    let rows: usize =
        std::env::var("BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite://{}", directory.path().join("cedargate.db").display());
    measure_database("SQLite", &sqlite, directory.path(), rows).await;
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        let admin = Database::connect(&server).await.unwrap();
        let name = format!("bench{}", Id::new(&Clock::system()));
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        measure_database("PostgreSQL", &url, directory.path(), rows).await;
        admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }
}

/// Starts the service on a database, with the policies about rows or without them.
fn start_on(url: &str, directory: &Path, has_row_policies: bool) -> Server {
    let shipped = directory.join("shipped");
    std::fs::create_dir_all(&shipped).unwrap();
    copy_shipped_policies(&shipped);
    let more = directory.join("rows");
    std::fs::create_dir_all(&more).unwrap();
    std::fs::write(more.join("rows.cedar"), POLICIES).unwrap();
    let mut command = service_command(directory, "all", &shipped);
    if has_row_policies {
        command.env("CEDARGATE_POLICIES", format!("{},{}", shipped.display(), more.display()));
    }
    command.env("CEDARGATE_DATABASE_URL", url).env("CEDARGATE_POLICY_RELOAD", "auto");
    start(command)
}

/// Inserts knowledge items directly into the database: a tenth of them are drafts.
async fn insert_items(url: &str, rows: usize) {
    let db = Database::connect(url).await.unwrap();
    let organization = "(SELECT id FROM organizations LIMIT 1)";
    let columns =
        "INSERT INTO kbitems (id, organization, meta, created_at, updated_at, kbase, title, content, status)";
    let values = format!(
        "{organization}, '{{}}', i, i, CASE WHEN i % {RARE} = 0 THEN 'rare' ELSE 'common' END, 'Question ' || i, \
         'An answer of some length to the question ' || i, CASE WHEN i % 10 = 0 THEN 'draft' ELSE 'published' END"
    );
    let (sql, analyze) = match db.get_database_backend() {
        DbBackend::Postgres => (
            format!(
                "{columns} SELECT 'cccc' || lpad(to_hex(i), 20, '0'), {values} FROM generate_series(1, {rows}) AS n(i)"
            ),
            "VACUUM ANALYZE",
        ),
        _ => (
            format!(
                "{columns} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 SELECT printf('cccc%020x', i), {values} FROM n"
            ),
            // The service does not analyze SQLite files.
            "SELECT 1",
        ),
    };
    db.execute_unprepared(&sql).await.unwrap();
    db.execute_unprepared(analyze).await.unwrap();
    db.close().await.unwrap();
}

/// The median time of a request in milliseconds.
async fn time(request: impl AsyncFn() -> Value) -> f64 {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        std::hint::black_box(request().await);
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    median(times)
}

async fn measure_database(name: &str, url: &str, directory: &Path, rows: usize) {
    let login = json!({ "email": "agent@example.com", "password": "t0pZ3kR3t" });
    let mut agent = login.clone();
    agent["role"] = json!("agent");
    let server = start_on(url, directory, false);
    call(&server.base, "/v2/users", Some(&log_in(&server.base).await), agent).await;
    drop(server);
    insert_items(url, rows).await;
    println!("{name}: lists of {rows} rows, a tenth of which a policy forbids, as an agent");
    println!("{:52} {:>10} {:>10} {:>7}", "", "with, ms", "without", "ratio");
    let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    // One process at a time serves a file.
    for (times, has_row_policies) in times.iter_mut().zip([true, false]) {
        let server = start_on(url, directory, has_row_policies);
        let token = call(&server.base, "/v2/auth/token", None, login.clone()).await["token"].clone();
        let client = reqwest::Client::new();
        for path in LISTS {
            let list = async || -> Value {
                let request =
                    client.get(format!("{}{path}", server.base)).bearer_auth(token.as_str().unwrap());
                request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
            };
            times.push(time(list).await);
        }
    }
    for ((path, with), without) in LISTS.iter().zip(&times[0]).zip(&times[1]) {
        println!("{path:52} {with:10.1} {without:10.1} {:7.2}", with / without);
    }
    let server = start_on(url, directory, true);
    let token = log_in(&server.base).await;
    let search = json!({
        "subject": { "type": "User", "id": "me" }, "action": { "name": "deleteKnowledgeItem" },
        "resource": { "type": "KnowledgeItem" }
    });
    let page = async || call(&server.base, "/access/v1/search/resource", Some(&token), search.clone()).await;
    let expected = (rows / RARE).min(100);
    assert_eq!(page().await["page"]["count"], expected);
    println!("first page of a search that one row in {RARE} matches: {:.1} ms", time(page).await);
}
