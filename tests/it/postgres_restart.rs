//! A PostgreSQL server that is restarted under load: during the outage requests are rejected with 503, no response is wrong, no
//! acknowledged write is lost, and the service recovers without a restart.

use crate::cluster::{Cluster, DATABASE_PASSWORD};
use crate::command_line::{RunningService, client, run, start, text};
use crate::multi_process::{cached_client, count, wait_until_ended};
use crate::postgres_load::{
    KINDS, Load, TIMEOUT, access_other_tenant, bearer, decide_repeatedly, log_in, log_in_repeatedly, log_out,
    present, refresh_repeatedly, use_ended_credentials, write_repeatedly,
};
use crate::refresh::{expect_refresh_rejected, refresh_token};
use crate::support::{ADMIN, Client, PASSWORD, decode_jwt};
use crate::token_families::access_token;
use futures_util::future::join;
use reqwest::StatusCode;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

/// How the server is stopped each time: immediately, as in a crash, or in order.
const STOPS: [&str; 5] = ["immediate", "fast", "immediate", "fast", "immediate"];

/// Waits until a session that was ended at another process is rejected. Fails if it stays accepted for too long.
async fn wait_until_refused(client: &Client) {
    let started = Instant::now();
    loop {
        let reply = client.get("/v2/users/me").await;
        match reply.status {
            StatusCode::UNAUTHORIZED => return,
            StatusCode::OK => {
                assert!(started.elapsed() < Duration::from_secs(20), "the session is still accepted");
            }
            _ => drop(reply.expect_problem(503, "database_unavailable")),
        }
    }
}

/// Both services and the data of the test.
struct Fixture {
    services: [RunningService; 2],
    admin: Client,
}

impl Fixture {
    fn base(&self, index: usize) -> String {
        self.services[index % 2].base.clone()
    }

    fn bases(&self) -> [String; 2] {
        [self.base(0), self.base(1)]
    }

    /// Creates a user. Returns its email and id.
    async fn user(&self, name: &str, role: &str, organization: Option<&str>) -> (String, String) {
        let email = format!("{name}@example.com");
        let mut body = json!({ "email": email, "password": PASSWORD, "role": role });
        if let Some(organization) = organization {
            body["organization"] = json!(organization);
        }
        (email, self.admin.post("/v2/users", body).await.id())
    }

    /// Creates an organization with an admin, who logs in at one of the two services, and a form.
    async fn tenant(&self, name: &str, index: usize) -> (Client, String) {
        let organization = self.admin.post("/v2/organizations", json!({ "name": name })).await.id();
        let (email, _) = self.user(name, "admin", Some(&organization)).await;
        let pair = log_in(&self.base(index), &email).await.expect(StatusCode::OK);
        let admin = bearer(&self.base(index), access_token(&pair));
        let form = admin.post("/v2/forms", json!({ "name": "0" })).await.id();
        (admin, form)
    }

    /// The readiness status of both services.
    async fn readiness(&self) -> [u16; 2] {
        let [one, two] = self.bases().map(|base| client(&base));
        let (one, two) = join(one.get("/health/ready"), two.get("/health/ready")).await;
        [one.status.as_u16(), two.status.as_u16()]
    }

    /// Waits for a condition while the load continues.
    async fn wait_until<T: 'static>(
        &self,
        work: &mut JoinSet<T>,
        what: &str,
        is_so: impl Fn([u16; 2]) -> bool,
    ) {
        let started = Instant::now();
        while !is_so(self.readiness().await) {
            assert!(started.elapsed() < TIMEOUT, "{what}");
            if let Some(ended) = work.try_join_next() {
                drop(ended.unwrap());
                panic!("a client has ended early");
            }
        }
    }
}

fn counts(of: &[AtomicU64; KINDS]) -> [u64; KINDS] {
    std::array::from_fn(|index| of[index].load(Ordering::SeqCst))
}

fn all_above(now: &[AtomicU64; KINDS], before: [u64; KINDS], by: u64) -> bool {
    counts(now).iter().zip(before).all(|(now, before)| *now >= before + by)
}

/// The result of a client of the load.
enum ClientResult {
    Tokens(Vec<String>),
    Family(String, Vec<String>),
    Forms(Client, Vec<(String, String)>),
    Nothing,
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_postgresql_under_load_causes_errors_but_no_wrong_answers() {
    if crate::without_database::postgres_server().is_none() {
        return; // SQLite is a file, and cannot be restarted.
    }
    let cluster = Cluster::new();
    let directory = TempDir::new().unwrap();
    let settings = [
        ("CEDARGATE_DATABASE_URL", cluster.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_WORKERS", "2"),
        // A client can retry after an outage of any length.
        ("CEDARGATE_REFRESH_REUSE_GRACE", "600"),
        // A fast machine logs in more often than one address may.
        ("CEDARGATE_RATE_LIMIT_ANONYMOUS", "0"),
        ("CEDARGATE_RATE_LIMIT_WRITES", "0"),
        ("CEDARGATE_LOG", "trace"),
        ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0"),
    ];
    let services = [0, 1].map(|_| block_in_place(|| start(directory.path(), &settings)));
    let pair = log_in(&services[0].base, ADMIN).await.expect(StatusCode::OK);
    let admin = bearer(&services[0].base, access_token(&pair));
    let fixture = Fixture { services, admin };

    let load = Arc::new(Load::default());
    let mut work = JoinSet::new();
    for index in 0..2 {
        let load = || Arc::clone(&load);
        let (email, _) = fixture.user(&format!("login{index}"), "guest", None).await;
        let logins = log_in_repeatedly(load(), fixture.base(index), email);
        work.spawn(async { ClientResult::Tokens(logins.await) });

        let (email, _) = fixture.user(&format!("refresh{index}"), "guest", None).await;
        let first = refresh_token(&log_in(&fixture.base(index), &email).await.expect(StatusCode::OK));
        let refreshes = refresh_repeatedly(load(), fixture.bases(), email.clone(), first);
        work.spawn(async { ClientResult::Family(email, refreshes.await) });

        let (ours, form) = fixture.tenant(&format!("ours{index}"), index).await;
        let writes = write_repeatedly(load(), ours.clone(), form.clone());
        work.spawn(async { ClientResult::Forms(ours, writes.await) });

        let (theirs, own) = fixture.tenant(&format!("theirs{index}"), index).await;
        let foreign = access_other_tenant(load(), theirs, own, form);
        work.spawn(async {
            foreign.await;
            ClientResult::Nothing
        });

        let (_, user) = fixture.user(&format!("decide{index}"), "guest", None).await;
        let asking = Client { base: fixture.base(index), ..fixture.admin.clone() };
        let conversation = asking.post("/v2/conversations", json!({})).await.id();
        let decisions = decide_repeatedly(load(), asking, user, conversation);
        work.spawn(async {
            decisions.await;
            ClientResult::Nothing
        });
    }
    // A session that was revoked by reuse, and a deleted API key.
    let (email, _) = fixture.user("ended", "guest", None).await;
    let first = log_in(&fixture.base(0), &email).await.expect(StatusCode::OK);
    let owner = bearer(&fixture.base(0), access_token(&log_in(&fixture.base(0), &email).await.json));
    let second = present(&fixture.base(0), &refresh_token(&first), &email).await.expect(StatusCode::OK);
    let third = present(&fixture.base(0), &refresh_token(&second), &email).await.expect(StatusCode::OK);
    expect_refresh_rejected(&present(&fixture.base(0), &refresh_token(&first), &email).await);
    let key = owner.post("/v2/users/me/keys", json!({ "name": "key", "scopes": ["guest"] })).await.json;
    owner.delete(&format!("/v2/users/me/keys/{}", key["id"].as_str().unwrap())).await;
    let bearers =
        [access_token(&first), access_token(&third), key["key"].as_str().unwrap()].map(str::to_owned);
    let tried = use_ended_credentials(
        Arc::clone(&load),
        fixture.bases(),
        bearers.into(),
        refresh_token(&third),
        email,
    );
    work.spawn(async {
        tried.await;
        ClientResult::Nothing
    });

    for how in STOPS {
        let answered = counts(&load.answered);
        fixture
            .wait_until(&mut work, "requests succeed before the outage", |_| {
                all_above(&load.answered, answered, 4)
            })
            .await;
        let pair = log_in(&fixture.base(0), ADMIN).await.expect(StatusCode::OK);
        let here = bearer(&fixture.base(0), access_token(&pair));
        let there = cached_client(&fixture.base(1), access_token(&pair)).await;
        let away = counts(&load.unavailable);
        cluster.stop(how);
        fixture
            .wait_until(&mut work, "both services report the outage", |ready| {
                ready == [503, 503] && all_above(&load.unavailable, away, 1)
            })
            .await;
        for base in fixture.bases() {
            let live = client(&base).get("/health/live").await;
            assert_eq!(live.status, StatusCode::NO_CONTENT, "the service itself must be alive");
        }
        cluster.start();
        // A logout at one process is effective at the other, although its notification connection is not yet restored.
        log_out(&here).await;
        wait_until_refused(&there).await;
        fixture.wait_until(&mut work, "both services are ready again", |ready| ready == [200, 200]).await;
    }
    let answered = counts(&load.answered);
    fixture
        .wait_until(&mut work, "requests succeed after the outage", |_| {
            all_above(&load.answered, answered, 4)
        })
        .await;
    load.is_over.store(true, Ordering::SeqCst);
    let kept = tokio::time::timeout(TIMEOUT, work.join_all()).await.expect("all clients end");
    println!("answered {:?}, away {:?}", counts(&load.answered), counts(&load.unavailable));

    // Exactly the expected sessions have ended.
    let ended = "SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL";
    assert_eq!(count(&cluster.url, ended).await, 1 + i64::try_from(STOPS.len()).unwrap());
    // Everything that was acknowledged is stored.
    let mut sessions = HashSet::new();
    for kept in kept {
        match kept {
            ClientResult::Tokens(tokens) => {
                for token in tokens {
                    let me = bearer(&fixture.base(1), &token).get("/v2/users/me").await;
                    me.expect(StatusCode::OK);
                    sessions.insert(decode_jwt(&token).1["sid"].as_str().unwrap().to_owned());
                }
            }
            ClientResult::Forms(admin, forms) => {
                for (id, name) in forms {
                    let form = admin.get(&format!("/v2/forms/{id}")).await.expect(StatusCode::OK);
                    assert_eq!(form["name"], name);
                }
            }
            ClientResult::Family(email, family) => {
                let (last, spent) = family.split_last().unwrap();
                present(&fixture.base(0), last, &email).await.expect(StatusCode::OK);
                expect_refresh_rejected(&present(&fixture.base(1), &spent[spent.len() / 2], &email).await);
            }
            ClientResult::Nothing => {}
        }
    }
    let twice =
        "SELECT COUNT(*) - COUNT(DISTINCT predecessor) FROM refresh_tokens WHERE predecessor IS NOT NULL";
    assert_eq!(count(&cluster.url, twice).await, 0);
    // The audit log is intact and contains all events.
    let verified = block_in_place(|| run(directory.path(), &settings[..1], &["audit", "verify"]));
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
    let mut offset = 0;
    loop {
        let path = format!("/v2/audit?event=login.succeeded&limit=1000&offset={offset}");
        let page = fixture.admin.get(&path).await.expect(StatusCode::OK);
        for entry in page.as_array().unwrap() {
            sessions.remove(entry["details"]["session"].as_str().unwrap());
        }
        offset += page.as_array().unwrap().len();
        if page.as_array().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(sessions, HashSet::new(), "logins without an audit entry");

    // Both processes receive notifications again.
    let listening = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' OR query = 'SELECT 1'";
    let started = Instant::now();
    while count(&cluster.url, listening).await != 2 {
        assert!(started.elapsed() < TIMEOUT, "a process does not receive notifications");
    }
    for index in 0..2 {
        let pair = log_in(&fixture.base(index), ADMIN).await.expect(StatusCode::OK);
        let there = cached_client(&fixture.base(index + 1), access_token(&pair)).await;
        let here = bearer(&fixture.base(index), access_token(&pair));
        here.post("/v2/auth/logout", json!({})).await.expect(StatusCode::NO_CONTENT);
        wait_until_ended(&there).await;
    }
    for service in fixture.services {
        let log = service.stop();
        assert!(log.contains("database unavailable"), "the outage must be logged");
        assert!(!log.contains(DATABASE_PASSWORD), "the password of the database is in the log");
        let is_other = |line: &&str| line.contains("ERROR") && !line.contains("the database is unavailable");
        let errors: Vec<_> = log.lines().filter(is_other).collect();
        assert_eq!(errors, [] as [&str; 0]);
    }
}
