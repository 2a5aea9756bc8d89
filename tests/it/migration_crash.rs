//! A process that is killed while it creates its database leaves a database that the next start can use.

use crate::command_line::{program, start};
use crate::multi_process::count;
use crate::support::{Database, PASSWORD, wait_until};
use cedargate::config::Config;
use cedargate::store::Store;
use cedargate::types::Clock;
use std::fs::File;
use std::process::{Command, Stdio};
use tokio::task::block_in_place;

/// The number of kills on SQLite. `TEST_KILLS` overrides it.
const KILLS: u32 = 200;
/// Bytes of the write-ahead log, about as many as the migration writes.
const FIRST_WINDOW: u64 = 256 * 1024;
/// The write-ahead log of SQLite.
const WRITE_AHEAD_LOG: &str = "test.db-wal";
/// The file for the standard output of the service, which is not empty once it serves.
const GREETING: &str = "greeting.txt";

fn settings(database: &Database) -> [(&'static str, String); 3] {
    [
        ("CEDARGATE_DATABASE_URL", database.url.clone()),
        ("CEDARGATE_LISTEN", "127.0.0.1:0".to_owned()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD.to_owned()),
    ]
}

/// The command `cedargate serve` on a new database. Its standard output goes to [`GREETING`].
fn serve(database: &Database) -> Command {
    let settings = settings(database);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut command = program(database.directory.path(), &settings);
    let greeting = File::create(database.directory.path().join(GREETING)).unwrap();
    command.stdout(greeting).stderr(Stdio::null());
    command
}

/// The size of a file in the directory of a database; 0 if it does not exist.
fn size(database: &Database, name: &str) -> u64 {
    std::fs::metadata(database.directory.path().join(name)).map_or(0, |file| file.len())
}

/// Waits until the process has made this progress, or serves already: the write-ahead log of SQLite has more than `bytes`, or
/// PostgreSQL has recorded `steps`.
async fn wait_for_progress(database: &Database, bytes: u64, steps: i64) {
    wait_until(async || {
        let has_progressed = match &database.server {
            None => size(database, WRITE_AHEAD_LOG) > bytes,
            Some(_) => recorded_steps(database).await >= steps,
        };
        (has_progressed || size(database, GREETING) > 0)
            .then_some(())
            .ok_or("there is no progress".to_owned())
    })
    .await;
}

/// The number of steps that are recorded in a database.
async fn recorded_steps(database: &Database) -> i64 {
    let table = match database.server {
        None => "SELECT COUNT(*) FROM sqlite_master WHERE name = 'seaql_migrations'",
        Some(_) => "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'seaql_migrations'",
    };
    if count(&database.url, table).await == 0 {
        return 0;
    }
    count(&database.url, "SELECT COUNT(*) FROM seaql_migrations").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_during_the_migration_leaves_a_database_that_starts_again() {
    // A PostgreSQL database takes longer to create, and PostgreSQL itself rolls transactions back.
    let kills = std::env::var("TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let kills = if crate::without_database::postgres_server().is_some() { kills.div_ceil(10) } else { kills };
    let all = i64::try_from({
        use sea_orm_migration::MigratorTrait;
        migrations::Migrator::migrations().len()
    })
    .unwrap();
    // The maximum size of the log at the kill, adapted so that the last kills still hit the migration.
    let mut window = FIRST_WINDOW;
    let (mut incomplete, mut between) = (0, 0);
    for round in 0..kills {
        let database = Database::new().await;
        let mut child = serve(&database).spawn().unwrap();
        wait_for_progress(&database, window * u64::from(round * 37 % 100) / 100, i64::from(round) % all)
            .await;
        // Sends SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();

        let steps = recorded_steps(&database).await;
        incomplete += u32::from(steps < all);
        between += u32::from(0 < steps && steps < all);
        window = if steps < all { window * 11 / 10 } else { window * 9 / 10 };
        window = window.clamp(FIRST_WINDOW / 20, FIRST_WINDOW * 20);

        let config = Config { database_url: database.url.clone().into(), ..Config::default() };
        let store = Store::open(&config, &Clock::system()).await;
        let store = store.unwrap_or_else(|error| panic!("round {round}, after {steps} steps: {error}"));
        store.check().await.unwrap();
        assert_eq!(recorded_steps(&database).await, all, "round {round}");
        if database.server.is_none() {
            let integrity_errors =
                "SELECT COUNT(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
            assert_eq!(count(&database.url, integrity_errors).await, 0, "round {round}");
        }
        // The whole service starts on some of them only, since that takes longer.
        if round % 20 == 0 {
            let settings = settings(&database);
            let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            drop(block_in_place(|| start(database.directory.path(), &settings)));
        }
    }
    println!("{kills} kills, {incomplete} before the last step, {between} of them between two steps");
    assert!(incomplete >= kills / 4, "only {incomplete} of {kills} kills hit the migration");
}
