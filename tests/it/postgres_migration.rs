//! Migrations of a PostgreSQL database: what a start waits for, and for how long.

use crate::command_line::program;
use crate::postgres_outage::LockHolder;
use crate::relay::Relay;
use crate::support::{Database, PASSWORD, wait_until};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

/// A service that starts. It is killed when this value is dropped.
struct StartingService {
    child: Child,
    log: PathBuf,
}

impl Drop for StartingService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl StartingService {
    fn start(database: &Database, url: &str) -> Self {
        let directory = database.directory.path();
        let log = directory.join("log");
        let settings = [
            ("CEDARGATE_DATABASE_URL", url),
            ("CEDARGATE_LISTEN", "127.0.0.1:0"),
            ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ];
        let child = program(directory, &settings)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn wait_for_log(&self, expected: &str) {
        wait_until(async || match self.log() {
            log if log.contains(expected) => Ok(()),
            log => Err(format!("expected {expected:?} in {log}")),
        })
        .await;
    }

    async fn exit_status(&mut self) -> ExitStatus {
        wait_until(async || {
            self.child.try_wait().unwrap().ok_or_else(|| "the service does not exit".to_owned())
        })
        .await
    }
}

/// Holds the lock of migrations, as a process that migrates.
const MIGRATE: &str = "SELECT pg_advisory_xact_lock(4839271)";

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_another_process_that_migrates_and_logs_it() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let held = LockHolder::lock(&database.url, MIGRATE).await;
    let starting = StartingService::start(&database, &database.url);
    starting.wait_for_log("waiting for another process that is migrating the database").await;
    held.unlock().await;
    starting.wait_for_log("starting service").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_if_the_server_falls_silent_while_it_waits() {
    let database = Database::new().await;
    if database.server.is_none() {
        return;
    }
    let relay = Relay::start_to(&database.url).await;
    let _held = LockHolder::lock(&database.url, MIGRATE).await;
    let mut starting = StartingService::start(&database, &relay.url_of(&database.url));
    starting.wait_for_log("waiting for another process that is migrating the database").await;
    relay.fall_silent();
    let status = starting.exit_status().await;
    let log = starting.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("no answer within 10s about its migrations"), "{log}");
}
