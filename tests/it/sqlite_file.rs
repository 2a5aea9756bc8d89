//! The SQLite file: exclusive use, a moved file, a full disk, and restoring as root.

use crate::command_line::{client, run, start, text};
use crate::multi_process::{TIMEOUT, count, log_in};
use crate::support::{ADMIN, Client, PASSWORD, project_file};
use crate::token_families::access_token;
use reqwest::StatusCode;
use sea_orm::{ConnectOptions, ConnectionTrait, DbBackend, Statement};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;
use tempfile::TempDir;
use tokio::task::block_in_place;

const SETTINGS: [(&str, &str); 3] = [
    ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
    ("CEDARGATE_ARGON2_MEMORY_KIB", "7168"),
    ("CEDARGATE_ARGON2_ITERATIONS", "1"),
];

fn bearer(base: &str, token: &str) -> Client {
    Client { bearer: Some(token.to_owned()), ..client(base) }
}

async fn log_in_admin(base: &str) -> Client {
    bearer(base, access_token(&log_in(base, ADMIN).await))
}

/// The last line of a `serve` that fails to start.
fn serve_error(directory: &Path, settings: &[(&str, &str)]) -> String {
    let output = run(directory, settings, &["serve"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_a_file_while_commands_can_access_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cedargate.db");
    let running = start(directory.path(), &SETTINGS);
    let process = running.id().to_string();

    symlink("cedargate.db", directory.path().join("other.db")).unwrap();
    let absolute = format!("sqlite://{}", file.display());
    for url in ["sqlite://cedargate.db", "sqlite://other.db", absolute.as_str()] {
        let settings = [("CEDARGATE_LISTEN", "127.0.0.1:0"), ("CEDARGATE_DATABASE_URL", url)];
        let message = block_in_place(|| serve_error(directory.path(), &settings));
        let canonical = file.canonicalize().unwrap().display().to_string();
        for part in [canonical.as_str(), process.as_str(), "stop that process first"] {
            assert!(message.contains(part), "{url}: {part} is missing in {message}");
        }
    }
    for arguments in [
        &["user", "add", "--email", "ada@example.com"] as &[&str],
        &["user", "list"],
        &["janitor"],
        &["audit", "verify"],
        &["backup", "copy.db"],
    ] {
        let output = block_in_place(|| run(directory.path(), &[], arguments));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
    log_in_admin(&running.base).await;

    // The kernel releases the lock of a killed process.
    drop(running);
    let running = block_in_place(|| start(directory.path(), &SETTINGS));
    log_in_admin(&running.base).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_or_replaced_database_file_makes_the_service_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let running = start(directory.path(), &SETTINGS);
    let admin = log_in_admin(&running.base).await;
    admin.get("/health/ready").await.expect(StatusCode::OK);
    let form = json!({ "name": "form" });

    fs::rename(path("cedargate.db"), path("away.db")).unwrap();
    admin.get("/health/ready").await.expect_problem(503, "database_not_writable");
    admin.post("/v2/forms", form.clone()).await.expect_problem(503, "database_not_writable");
    assert!(running.log().contains("cedargate.db was moved away or deleted"), "{}", running.log());
    fs::rename(path("away.db"), path("cedargate.db")).unwrap();
    admin.get("/health/ready").await.expect(StatusCode::OK);
    admin.post("/v2/forms", form.clone()).await.expect(StatusCode::CREATED);

    let copied = block_in_place(|| run(directory.path(), &SETTINGS, &["backup", "copy.db"]));
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    fs::rename(path("copy.db"), path("cedargate.db")).unwrap();
    admin.get("/health/ready").await.expect_problem(503, "database_not_writable");
    admin.post("/v2/forms", form).await.expect_problem(503, "database_not_writable");
    assert!(running.log().contains("cedargate.db was replaced by another file"), "{}", running.log());
}

/// A file system that a test can fill. It is unmounted when this value is dropped.
struct Disk(TempDir);

impl Disk {
    /// Mounts a file system; none if the test is not permitted to.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"])
            .arg(directory.path())
            .output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        println!("SKIPPED: a full disk is tested as root only, who may mount a tmpfs: {mounted:?}");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A user with one session and one API key.
struct User {
    id: String,
    session: Client,
    key: Client,
    key_id: String,
}

impl User {
    async fn new(admin: &Client, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let body = json!({ "email": email, "password": PASSWORD, "role": "agent" });
        let id = admin.post("/v2/users", body).await.id();
        let session = bearer(&admin.base, access_token(&log_in(&admin.base, &email).await));
        let key = json!({ "name": "key", "scopes": ["agent"] });
        let key = session.post("/v2/users/me/keys", key).await.expect(StatusCode::CREATED);
        let user = Self {
            id,
            session,
            key: bearer(&admin.base, key["key"].as_str().unwrap()),
            key_id: key["id"].as_str().unwrap().to_owned(),
        };
        user.expect(StatusCode::OK, StatusCode::OK).await;
        user
    }

    #[track_caller]
    fn expect(&self, session: StatusCode, key: StatusCode) -> impl Future<Output = ()> {
        let (first, second) = (self.session.clone(), self.key.clone());
        let id = self.id.clone();
        async move {
            let statuses = [first.get("/v2/users/me").await.status, second.get("/v2/users/me").await.status];
            assert_eq!(statuses, [session, key], "session and key of {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_service_is_not_ready_and_revocations_take_effect_in_memory() {
    let Some(disk) = Disk::mount() else { return };
    let (ok, unauthorized) = (StatusCode::OK, StatusCode::UNAUTHORIZED);
    let running = start(disk.0.path(), &SETTINGS);
    let admin = log_in_admin(&running.base).await;
    let mut users = Vec::new();
    for name in ["logout", "sessions", "token", "key", "blocked", "deleted", "unblocked", "untouched"] {
        users.push(User::new(&admin, name).await);
    }
    let [logout, sessions, token, key, blocked, deleted, unblocked, untouched] =
        <[User; 8]>::try_from(users).ok().unwrap();

    let url = format!("sqlite://{}", disk.0.path().join("cedargate.db").display());
    disk.fill();
    // While it reads, SQLite appends to its log and does not reuse space in it.
    let mut options = ConnectOptions::new(&url);
    options.max_connections(1);
    let reader = sea_orm::Database::connect(options).await.unwrap();
    for statement in ["BEGIN", "SELECT COUNT(*) FROM users"] {
        reader.execute_unprepared(statement).await.unwrap();
    }
    admin.get("/health/ready").await.expect_problem(503, "database_not_writable");
    admin.post("/v2/forms", json!({ "name": "form" })).await.expect_problem(503, "database_not_writable");
    let login = json!({ "email": ADMIN, "password": PASSWORD });
    admin.post("/v2/auth/token", login).await.expect_problem(503, "database_not_writable");

    let path = |user: &User, rest: &str| format!("/v2/users/{}{rest}", user.id);
    let secret = token.key.bearer.clone().unwrap();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let revoke = format!("token={secret}").into_bytes();
    let block = json!({ "status": "blocked" });
    for reply in [
        logout.session.post("/v2/auth/logout", json!({})).await,
        admin.delete(&path(&sessions, "/sessions")).await,
        client(&running.base).send(reqwest::Method::POST, "/v2/auth/revoke", &form, Some(revoke)).await,
        admin.delete(&path(&key, &format!("/keys/{}", key.key_id))).await,
        admin.patch(&path(&blocked, ""), block.clone()).await,
        admin.delete(&path(&deleted, "")).await,
        admin.patch(&path(&unblocked, ""), block).await,
    ] {
        reply.expect_problem(503, "revocation_not_stored");
        assert!(!reply.header("retry-after").is_empty());
    }
    // Everything that was revoked is rejected, and nothing else is.
    let refused = async || {
        logout.expect(unauthorized, ok).await;
        sessions.expect(unauthorized, ok).await;
        token.expect(ok, unauthorized).await;
        key.expect(ok, unauthorized).await;
        blocked.expect(unauthorized, unauthorized).await;
        deleted.expect(unauthorized, unauthorized).await;
        untouched.expect(ok, ok).await;
    };
    refused().await;
    unblocked.expect(unauthorized, unauthorized).await;
    let ended = "SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL";
    assert_eq!(count(&url, ended).await, 0, "no revocation may be stored yet");

    // Revocations of sessions and keys are stored once there is space; a block is stored when it is repeated.
    reader.execute_unprepared("ROLLBACK").await.unwrap();
    reader.close().await.unwrap();
    disk.free();
    let started = Instant::now();
    while count(&url, ended).await < 4 || count(&url, "SELECT COUNT(*) FROM api_keys").await > 4 {
        assert!(started.elapsed() < TIMEOUT, "the revocations are not stored: {}", running.log());
    }
    admin.get("/health/ready").await.expect(ok);
    refused().await;
    admin.patch(&path(&unblocked, ""), json!({ "status": "active" })).await.expect(ok);
    admin.patch(&path(&blocked, ""), json!({ "status": "blocked" })).await.expect(ok);
    assert_eq!(admin.delete(&path(&deleted, "")).await.status, StatusCode::NO_CONTENT);
    let metrics = client(&running.base).get("/metrics").await.text;
    assert!(metrics.contains("cedargate_unstored_revocations 0"), "{metrics}");
    log_in(&running.base, "unblocked@example.com").await;

    // Another process reads all of them.
    let base = running.base.clone();
    drop(running);
    let address = base.trim_start_matches("http://");
    let settings = [&SETTINGS[..], &[("CEDARGATE_LISTEN", address)]].concat();
    let _running = block_in_place(|| start(disk.0.path(), &settings));
    refused().await;
}

/// The id of an unprivileged user.
const SERVICE_USER: u32 = 12_345;

/// A directory of that user with copies of the program and its policies. None if the test does not run as root.
fn service_directory() -> Option<TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    if fs::metadata(path).unwrap().uid() != 0 {
        println!("SKIPPED: a restore by root is tested as root only");
        return None;
    }
    fs::copy(env!("CARGO_BIN_EXE_cedargate"), path.join("cedargate")).unwrap();
    for name in ["policies", "schema"] {
        let copied = Command::new("cp").arg("-r").arg(project_file(name)).arg(path).status().unwrap();
        assert!(copied.success());
    }
    chown(path, Some(SERVICE_USER), Some(SERVICE_USER)).unwrap();
    Some(directory)
}

/// The program, run as that user.
fn run_as_service_user(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(directory.join("cedargate"));
    command.args(arguments).current_dir(directory).env_clear().envs(SETTINGS);
    command.env("CEDARGATE_LISTEN", "127.0.0.1:0").uid(SERVICE_USER).gid(SERVICE_USER);
    command
}

fn expect_success(output: Output) -> Output {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    output
}

#[test]
fn a_backup_restored_by_root_can_be_opened_by_the_service() {
    let Some(directory) = service_directory() else { return };
    let path = directory.path();
    let file = path.join("cedargate.db");
    expect_success(
        run_as_service_user(path, &["user", "add", "--email", "ada@example.com"]).output().unwrap(),
    );
    expect_success(run_as_service_user(path, &["backup", "copy.db"]).output().unwrap());

    // The restore procedure of the documentation, as root.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(path.join(format!("cedargate.db{suffix}")));
    }
    fs::copy(path.join("copy.db"), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();

    // Without the last step, the service does not start, and names the problem.
    let refused = run_as_service_user(path, &["serve"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    let message = text(&refused.stderr);
    for part in ["permission denied", "cedargate.db", "owner 0", "chown 12345"] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }

    expect_success(run(path, &SETTINGS, &["revoke-all"]));
    for suffix in ["", "-wal", "-shm"] {
        let Ok(found) = fs::metadata(path.join(format!("cedargate.db{suffix}"))) else { continue };
        assert_eq!((found.uid(), found.mode() & 0o777), (SERVICE_USER, 0o600), "{suffix}");
    }
    let listed = expect_success(run_as_service_user(path, &["user", "list"]).output().unwrap());
    assert!(text(&listed.stdout).contains("ada@example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_the_messages_of_a_conversation_does_not_read_those_of_other_conversations() {
    let directory = tempfile::tempdir().unwrap();
    drop(start(directory.path(), &SETTINGS));
    let file = directory.path().join("cedargate.db");
    let insert = "PRAGMA foreign_keys = OFF; INSERT INTO messages (id, organization, meta, created_at, updated_at, \
                  conversation, text, type, user, is_backchannel, actions) \
                  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
                  SELECT printf('%024x', i), (SELECT id FROM organizations), '{}', i, i, printf('%024x', i % 100), 'text', \
                  'text', printf('%024x', i % 10), 0, '[]' FROM n";
    let open = async || {
        let mut options = ConnectOptions::new(format!("sqlite://{}", file.display()));
        options.max_connections(1);
        sea_orm::Database::connect(options).await.unwrap()
    };
    open().await.execute_unprepared(insert).await.unwrap();
    let janitor = block_in_place(|| run(directory.path(), &[], &["janitor"]));
    assert_eq!(janitor.status.code(), Some(0), "{}", text(&janitor.stderr));
    let plan = "EXPLAIN QUERY PLAN SELECT id FROM messages WHERE organization = 'o' AND conversation = 'c' \
                ORDER BY created_at, id";
    let steps = open().await.query_all_raw(Statement::from_string(DbBackend::Sqlite, plan)).await.unwrap();
    let steps: Vec<String> = steps.iter().map(|step| step.try_get("", "detail").unwrap()).collect();
    assert_eq!(
        steps,
        ["SEARCH messages USING INDEX messages_conversation_created_at_id_idx (conversation=?)"]
    );
}
