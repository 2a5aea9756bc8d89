//! A database that is unavailable and becomes available again.

use crate::audit::events;
use crate::multi_process::{TIMEOUT, cached_client, count, log_in, serve_with};
use crate::reload::PolicyFiles;
use crate::support::{ADMIN, Database, TestApp, run_sql};
use crate::token_families::access_token;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::block_in_place;

/// A database outage. PostgreSQL closes all connections and accepts no new ones. In SQLite, another connection holds the write
/// lock.
pub(crate) enum DatabaseOutage {
    Server(String, String),
    File(DatabaseConnection),
}

impl DatabaseOutage {
    pub(crate) async fn begin(url: &str, postgres: Option<(String, String)>) -> Self {
        let Some((server, name)) = postgres else {
            let holder = sea_orm::Database::connect(url).await.unwrap();
            holder.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
            return Self::File(holder);
        };
        // Two statements: in one transaction, clients could reconnect before the first one takes effect.
        run_sql(&server, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let of_it = format!("FROM pg_stat_activity WHERE datname = '{name}'");
        run_sql(&server, &format!("SELECT pg_terminate_backend(pid) {of_it}")).await;
        Self::Server(server, name)
    }

    pub(crate) async fn end_outage(self) {
        match self {
            Self::Server(server, name) => {
                run_sql(&server, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
            }
            Self::File(holder) => {
                holder.execute_unprepared("ROLLBACK").await.unwrap();
                holder.close().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn requests_get_503_during_a_database_outage_and_succeed_afterwards() {
    let app = crate::forward::with_own_routes().await;
    let admin = app.admin().await;
    let form = json!({ "name": "form" });
    let created = admin.post("/v2/forms", form.clone()).await;
    let path = format!("/v2/forms/{}", created.id());

    let outage = DatabaseOutage::begin(app.url(), app.postgres()).await;
    match &outage {
        DatabaseOutage::Server(..) => {
            let read = admin.get(&path).await;
            read.expect_problem(503, "database_unavailable");
            assert_eq!(read.header("retry-after"), "1");
            // A forward-auth request that cannot be evaluated is neither allowed nor denied.
            let asked = crate::forward::forward(&admin, "GET", &path).await;
            asked.expect_problem(503, "database_unavailable");
            let login = json!({ "email": "admin@example.com", "password": crate::support::PASSWORD });
            app.anonymous().post("/v2/auth/token", login).await.expect_problem(503, "database_unavailable");
        }
        DatabaseOutage::File(_) => {
            assert_eq!(admin.get(&path).await.status, StatusCode::OK, "reads must still succeed");
        }
    }
    admin.patch(&path, json!({ "name": "other" })).await.expect_problem(503, "database_unavailable");

    outage.end_outage().await;
    let started = Instant::now();
    while admin.get(&path).await.status != StatusCode::OK {
        assert!(started.elapsed() < TIMEOUT, "the database did not become available");
    }
    assert_eq!(
        admin.get(&path).await.expect(StatusCode::OK)["name"],
        "form",
        "the failed update must have no effect"
    );
    admin.patch(&path, json!({ "name": "other" })).await.expect(StatusCode::OK);
    assert_eq!(admin.get("/v2/forms").await.expect(StatusCode::OK)[0]["name"], "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_disconnected_is_visible_to_everyone() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let (path, bearer) = (format!("/v2/forms/{id}"), admin.bearer.as_deref().unwrap());
    let database = sea_orm::Database::connect(app.url()).await.unwrap();
    let stored = Statement::from_string(
        database.get_database_backend(),
        format!("SELECT name FROM forms WHERE id = '{id}'"),
    );
    let mut names = HashSet::new();
    for round in 0..200_u32 {
        // The row is cached now.
        admin.get(&path).await.expect(StatusCode::OK);
        let body = json!({ "name": format!("name{round}") }).to_string();
        let request = format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(app.base.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        // The outage begins after a different number of responses each time, so that it hits different points of the unit of work.
        for _ in 0..round % 25 {
            admin.get("/health/live").await.expect(StatusCode::NO_CONTENT);
        }
        stream.set_zero_linger().unwrap();
        drop(stream);
        let started = Instant::now();
        loop {
            let seen = admin.get(&path).await.expect(StatusCode::OK)["name"].as_str().unwrap().to_owned();
            let row = database.query_one_raw(stored.clone()).await.unwrap().unwrap();
            let stored: String = row.try_get_by_index(0).unwrap();
            if seen == stored {
                names.insert(stored);
                break;
            }
            assert!(started.elapsed() < TIMEOUT, "stored: {stored}, returned: {seen}");
        }
    }
    database.close().await.unwrap();
    assert!(names.len() >= 20, "{} of 200 were written", names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_reloads_during_a_database_outage_are_logged_afterwards() {
    let (database, files) = (Database::new().await, PolicyFiles::new());
    let [policies, schema] = ["policies", "schema"].map(|name| files.path(name).display().to_string());
    let settings = [("CEDARGATE_POLICIES", policies.as_str()), ("CEDARGATE_SCHEMA", &schema)];
    let running = block_in_place(|| serve_with(&database, &settings));
    let outage = DatabaseOutage::begin(&database.url, database.server.clone()).await;
    let policy = "@id(\"late\")\nforbid (principal, action == Action::\"listForms\", resource);";
    files.write("policies/late.cedar", policy);
    let started = Instant::now();
    while !running.log().contains("failed to write audit entry") {
        assert!(started.elapsed() < TIMEOUT, "{}", running.log());
        tokio::task::yield_now().await;
    }
    outage.end_outage().await;
    let started = Instant::now();
    let reloads = "SELECT COUNT(*) FROM audit WHERE event = 'policies.reloaded'";
    while count(&database.url, reloads).await == 0 {
        assert!(started.elapsed() < TIMEOUT, "{}", running.log());
    }
    let admin = cached_client(&running.base, access_token(&log_in(&running.base, ADMIN).await)).await;
    let version = admin.get("/v2/policies").await.expect(StatusCode::OK)["version"].clone();
    let found = events(&admin, "event=policies.reloaded").await;
    let found: Vec<&Value> = found.iter().map(|one| &one["details"]["version"]).collect();
    assert_eq!(found, [&version], "the active version, once");
}
