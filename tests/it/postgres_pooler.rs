//! PostgreSQL behind PgBouncer in transaction mode.

use crate::cluster::is_root;
use crate::command_line::{RunningService, run, text};
use crate::multi_process::{TIMEOUT, cached_client, count, log_in, serve_with};
use crate::support::{ADMIN, Client, Database};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// A PgBouncer in transaction mode with fewer server connections than clients. It is stopped when this value is dropped.
struct Pooler {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pooler {
    fn start(server_port: u16, more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let file = |name: &str| directory.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(file("users.txt"), "\"cedargate\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 3\nmax_client_conn = 200\n{more}\n",
            file("users.txt").display()
        );
        std::fs::write(file("pgbouncer.ini"), settings).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("pgbouncer");
        command.env("PATH", path).arg("-q").arg(file("pgbouncer.ini")).stderr(Stdio::null());
        if is_root() {
            // PgBouncer does not run as root.
            let owner =
                Command::new("chown").args(["-R", "postgres"]).arg(directory.path()).status().unwrap();
            assert!(owner.success());
            command.args(["-u", "postgres"]);
        }
        let child = command.spawn().expect("pgbouncer is required: apt-get install pgbouncer");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < TIMEOUT, "PgBouncer did not start");
            std::thread::yield_now();
        }
        Self { child, port, _directory: directory }
    }
}

/// Writes and reads concurrently at both replicas, and verifies the audit log.
async fn exercise_both(services: [&RunningService; 2]) -> [Client; 2] {
    let tokens = log_in(&services[0].base, ADMIN).await;
    let token = tokens["token"].as_str().unwrap();
    let admins =
        [cached_client(&services[0].base, token).await, cached_client(&services[1].base, token).await];
    let work = async |index: usize| {
        let (here, there) = (&admins[index % 2], &admins[(index + 1) % 2]);
        let id = here.post("/v2/forms", json!({ "name": "form" })).await.id();
        let path = format!("/v2/forms/{id}");
        for name in ["one", "two"] {
            there.get(&path).await.expect(StatusCode::OK);
            here.patch(&path, json!({ "name": name })).await.expect(StatusCode::OK);
            here.get("/v2/forms").await.expect(StatusCode::OK);
        }
        let body = json!({ "email": format!("user{index}-{id}@example.com") });
        here.post("/v2/users", body).await.expect(StatusCode::CREATED);
        log_in(&there.base, ADMIN).await;
        path
    };
    for path in join_all((0..12).map(work)).await {
        for admin in &admins {
            let started = Instant::now();
            // With notifications, the other replica may see a change slightly later.
            while admin.get(&path).await.expect(StatusCode::OK)["name"] != "two" {
                assert!(started.elapsed() < TIMEOUT, "{path} is stale");
            }
        }
    }
    admins
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_start_and_work_behind_a_pooler_in_transaction_mode() {
    // With start-up parameters rejected (the default of PgBouncer), and ignored.
    for more in ["", "ignore_startup_parameters = options"] {
        let mut database = Database::new().await;
        let Some((_, name)) = database.server.clone() else { return };
        let port = reqwest::Url::parse(&database.url).unwrap().port().unwrap();
        let pooler = Pooler::start(port, more);
        let direct = database.url.clone();
        let pooled = format!("postgres://cedargate@127.0.0.1:{}/{name}", pooler.port);
        database.url = pooled.clone();
        let serve = |more: &[(&str, &str)]| block_in_place(|| serve_with(&database, more));

        // The first start migrates the database; both replicas start concurrently.
        let services = std::thread::scope(|scope| {
            [(), ()]
                .map(|()| scope.spawn(|| serve_with(&database, &[])))
                .map(|started| started.join().unwrap())
        });
        let [one, two] = &services;
        exercise_both([one, two]).await;
        let settings = [("CEDARGATE_DATABASE_URL", pooled.as_str())];
        let verified = block_in_place(|| run(database.directory.path(), &settings, &["audit", "verify"]));
        assert!(verified.status.success(), "{}", text(&verified.stderr));
        for service in services {
            let log = service.stop();
            assert!(log.contains("CEDARGATE_DATABASE_LISTEN_URL"), "{log}");
        }

        // With an address for notifications, the row cache is enabled.
        let listening = [("CEDARGATE_DATABASE_LISTEN_URL", direct.as_str())];
        let services = [serve(&listening), serve(&listening)];
        exercise_both([&services[0], &services[1]]).await;
        let listeners = format!(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'cedargate' \
             AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')"
        );
        assert!(count(&direct, &listeners).await >= 2);
        for service in services {
            let log = service.stop();
            // A busy machine may report that notifications were late.
            assert!(!log.contains("does not pass on notifications"), "{log}");
        }

        // The pooler itself cannot be used for notifications.
        let service = serve(&[("CEDARGATE_DATABASE_LISTEN_URL", pooled.as_str())]);
        let started = Instant::now();
        while !service.log().contains("CEDARGATE_DATABASE_LISTEN_URL is the address of a connection pooler") {
            assert!(started.elapsed() < TIMEOUT, "{}", service.log());
            tokio::task::yield_now().await;
        }
    }
}
