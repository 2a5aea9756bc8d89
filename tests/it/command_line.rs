//! The command line and the start of the service: output, errors and exit codes.

use crate::support::{Client, Database, PASSWORD, TestApp, project_file};
use reqwest::StatusCode;
use sea_orm::ConnectionTrait;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// The program in `directory`, with only these settings.
pub fn program(directory: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    command.current_dir(directory).env_clear().envs(settings.iter().copied());
    command
        .env("CEDARGATE_POLICIES", project_file("policies"))
        .env("CEDARGATE_SCHEMA", project_file("schema"))
        // The tests of the policies run the policy tests.
        .env("CEDARGATE_POLICY_TESTS", "off");
    command.envs(settings.iter().copied());
    command
}

/// Runs a command that exits by itself, such as a start that is refused.
pub fn run(directory: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    output(program(directory, settings).args(arguments).stdout(Stdio::piped()))
}

/// The output of a command that exits by itself; its standard output goes where the command says.
pub fn output(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (id, (exited, is_exited)) = (child.id(), mpsc::channel::<()>());
    let watchdog = std::thread::spawn(move || {
        let is_late = is_exited.recv_timeout(LONGEST_COMMAND) == Err(mpsc::RecvTimeoutError::Timeout);
        if is_late {
            crate::lifecycle::send_signal("-KILL", id);
        }
        is_late
    });
    let output = child.wait_with_output().unwrap();
    drop(exited);
    assert!(!watchdog.join().unwrap(), "{command:?} does not exit: {output:?}");
    output
}

/// How long a command may take on a busy machine.
const LONGEST_COMMAND: Duration = Duration::from_secs(300);

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running service, which is killed when this value is dropped.
pub struct RunningService {
    child: Child,
    pub base: String,
    pub banner: String,
    log: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl RunningService {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has exited by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Stops the service as a service manager does (SIGTERM), and returns its log.
    pub fn stop(self) -> String {
        self.stop_with_output().0
    }

    /// As [`RunningService::stop`]. Returns the log and standard output.
    pub fn stop_with_output(mut self) -> (String, String) {
        crate::lifecycle::send_signal("-TERM", self.id());
        assert!(self.wait().success(), "the service must exit with success");
        (self.log(), self.output.lock().unwrap().clone())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("log of the service at {}:\n{}", self.base, self.log());
        }
    }
}

/// Starts the service and waits until it listens.
pub fn start(directory: &Path, settings: &[(&str, &str)]) -> RunningService {
    let mut command = program(directory, &[("CEDARGATE_LISTEN", "127.0.0.1:0")]);
    command.envs(settings.iter().copied());
    start_command(command)
}

/// Starts this command and waits until it listens.
pub fn start_command(mut command: Command) -> RunningService {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let stderr = BufReader::new(child.stderr.take().unwrap());
    // Both streams are read to their ends, since a full pipe would block the service.
    let (log, output) = (Arc::default(), Arc::default());
    let errors = collect_lines(stderr.lines().map_while(Result::ok), &log);
    let mut lines = stdout.lines().map_while(Result::ok);
    let banner: Vec<String> = lines.by_ref().take_while(|line| line != "Press Ctrl-C to stop.").collect();
    let rest = collect_lines(lines, &output);
    let base = banner.iter().find_map(|line| line.split(" listens on ").nth(1)).map(str::to_owned);
    let banner = banner.join("\n");
    let Some(base) = base else {
        let _ = child.kill();
        errors.join().unwrap();
        panic!("the service did not start: {banner}\n{}", log.lock().unwrap());
    };
    RunningService { child, base, banner, log, output, readers: vec![errors, rest] }
}

/// Collects lines as they arrive.
fn collect_lines(
    lines: impl Iterator<Item = String> + Send + 'static,
    buffer: &Arc<Mutex<String>>,
) -> JoinHandle<()> {
    let buffer = Arc::clone(buffer);
    std::thread::spawn(move || lines.for_each(|line| *buffer.lock().unwrap() += &format!("{line}\n")))
}

/// A client of a service process, with one connection per request: a test that waits for another process meanwhile would not
/// notice that the service closes an idle connection.
pub fn client(base: &str) -> Client {
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    Client { http, base: base.to_owned(), bearer: None, id: String::new() }
}

#[tokio::test]
async fn without_configuration_the_service_creates_an_admin_and_prints_a_banner() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path(), &[]);
    assert!(directory.path().join("cedargate.db").exists());
    assert!(running.banner.contains("/docs"), "{}", running.banner);
    let password = running.banner.lines().find_map(|line| line.trim().strip_prefix("password ")).unwrap();
    let password = password.trim().split(' ').next().unwrap();
    let body = json!({ "email": "admin@example.com", "password": password });
    let tokens = client(&running.base).post("/v2/auth/token", body.clone()).await.expect(StatusCode::OK);
    assert_eq!(tokens["scope"], "admin");
    drop(running);

    let again = start(directory.path(), &[]);
    assert!(!again.banner.contains("password"), "{}", again.banner);
    assert_eq!(client(&again.base).post("/v2/auth/token", body).await.status, StatusCode::OK);
    // The signing key is stored, so that tokens from before the restart stay valid.
    let old = Client { bearer: Some(tokens["token"].as_str().unwrap().into()), ..client(&again.base) };
    assert_eq!(old.get("/v2/users/me").await.status, StatusCode::OK);
}

#[test]
fn an_invalid_setting_aborts_the_start_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, value, expected) in [
        ("CEDARGATE_ACCESS_TTL", "soon", "CEDARGATE_ACCESS_TTL"),
        ("CEDARGATE_ACESS_TTL", "60", "CEDARGATE_ACESS_TTL"),
        ("CEDARGATE_JWT_SECRET", "weak", "CEDARGATE_JWT_SECRET"),
        ("CEDARGATE_LISTEN", address.as_str(), "CEDARGATE_LISTEN"),
        ("CEDARGATE_LISTEN", "nowhere", "CEDARGATE_LISTEN"),
        ("CEDARGATE_ADMIN_EMAIL", "nobody", "CEDARGATE_ADMIN_EMAIL"),
        ("CEDARGATE_ADMIN_PASSWORD", "short", "CEDARGATE_ADMIN_PASSWORD"),
        ("CEDARGATE_POLICIES", "no/such/directory", "no/such/directory"),
        ("CEDARGATE_LOG", "cedargate=loud", "CEDARGATE_LOG"),
        ("CEDARGATE_OTLP_ENDPOINT", "localhost:4318", "CEDARGATE_OTLP_ENDPOINT"),
        ("CEDARGATE_OTLP_ENDPOINT", "https://collector.example.com", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ("CEDARGATE_CONFIG", "no/such/file.toml", "no/such/file.toml"),
    ] {
        let settings = [("CEDARGATE_LISTEN", "127.0.0.1:0"), (name, value)];
        let output = run(directory.path(), &settings, &[]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}={value}: {error}");
        assert!(error.contains(expected), "{name}={value}: {error}");
    }
}

#[test]
fn invalid_policies_abort_the_start_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let more = directory.path().join("more");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(
        more.join("more.cedar"),
        "@id(\"x\")\npermit (principal in Scope::\"agnet\", action, resource);",
    )
    .unwrap();
    let policies = format!("{},{}", project_file("policies").display(), more.display());
    for arguments in [&[] as &[&str], &["policy", "check"]] {
        let settings = [("CEDARGATE_POLICIES", policies.as_str()), ("CEDARGATE_LISTEN", "127.0.0.1:0")];
        let output = run(directory.path(), &settings, arguments);
        let (report, line) =
            if arguments.is_empty() { (&output.stderr, "1: ") } else { (&output.stdout, "2:22: error: ") };
        let error = text(report);
        assert_eq!(output.status.code(), Some(if arguments.is_empty() { 1 } else { 3 }), "{error}");
        let expected = format!("more.cedar:{line}Scope::\"agnet\" is not defined in the data");
        assert!(error.contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_or_another_program_is_rejected() {
    let app = TestApp::start().await;
    app.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)").await;
    let url = app.url().to_owned();
    let output =
        run(app.directory(), &[("CEDARGATE_DATABASE_URL", &url), ("CEDARGATE_LISTEN", "127.0.0.1:0")], &[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("m9999_later") && error.contains("newer version"), "{error}");

    let database = Database::new().await;
    database.sql("CREATE TABLE users (id INTEGER)").await;
    let settings = [("CEDARGATE_DATABASE_URL", database.url.as_str()), ("CEDARGATE_LISTEN", "127.0.0.1:0")];
    let output = run(database.directory.path(), &settings, &[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("was not created by this program"), "{error}");
}

#[tokio::test]
async fn a_locked_database_is_reported() {
    let database = Database::new().await;
    if database.url.starts_with("postgres") {
        return; // Nobody locks the whole of a PostgreSQL.
    }
    let holder = sea_orm::Database::connect(format!("{}?mode=rwc", database.url)).await.unwrap();
    holder.execute_unprepared("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").await.unwrap();
    let output =
        run(database.directory.path(), &[("CEDARGATE_DATABASE_URL", &database.url)], &["user", "list"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("test.db") && error.contains("locked the file"), "{error}");
    holder.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_reported_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("directory.db")).unwrap();
    for (path, cause) in
        [("missing/test.db", "no such directory: missing"), ("directory.db", "Is a directory")]
    {
        let url = format!("sqlite://{path}");
        let arguments = ["user", "add", "--email", "ada@example.com"];
        let output = run(directory.path(), &[("CEDARGATE_DATABASE_URL", &url)], &arguments);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(path) && error.contains(cause), "{error}");
        assert!(!error.contains("another program"), "{error}");
    }
}

#[tokio::test]
async fn the_cli_creates_users_and_keys() {
    let app = TestApp::start().await;
    let url = app.url().to_owned();
    let settings = [("CEDARGATE_DATABASE_URL", url.as_str())];
    let directory = app.directory();

    let output = run(directory, &settings, &["user", "add", "--email", "Ada@example.com", "--role", "agent"]);
    let stdout = text(&output.stdout);
    let (id, password) = stdout.trim_end().split_once('\n').unwrap();
    let body = json!({ "email": "ada@example.com", "password": password });
    let tokens = app.anonymous().post("/v2/auth/token", body).await.expect(StatusCode::OK);
    assert_eq!((tokens["user"].as_str(), tokens["scope"].as_str()), (Some(id), Some("agent")));

    let notice = text(&output.stderr);
    let root = app.admin().await.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    assert!(
        notice.contains(&root)
            && notice.contains("root organization")
            && notice.contains("in this organization only"),
        "{notice}"
    );

    let again = run(directory, &settings, &["user", "add", "--email", "ada@example.com"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("email"), "{}", text(&again.stderr));

    let list = text(&run(directory, &settings, &["user", "list"]).stdout);
    assert!(
        list.lines().any(|line| line.starts_with(id) && line.contains("agent") && line.contains("active")),
        "{list}"
    );

    let mut child = program(directory, &settings)
        .args(["user", "set-password", "--email", "ada@example.com"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(child.wait().unwrap().success());
    let ada = app.client("ada@example.com").await;
    assert_eq!(ada.id, id);

    let arguments = [
        "key",
        "add",
        "--user",
        "ada@example.com",
        "--name",
        "import",
        "--scope",
        "guest",
        "--scope",
        "agent",
    ];
    let key = text(&run(directory, &settings, &arguments).stdout);
    let with_key = app.bearer(key.trim());
    assert_eq!(with_key.get("/v2/users/me").await.expect(StatusCode::OK)["id"], id);
    let keys = ada.get("/v2/users/me/keys").await.expect(StatusCode::OK);
    assert_eq!(keys[0]["scopes"], json!(["guest", "agent"]));
}

#[tokio::test]
async fn the_janitor_command_deletes_expired_sessions_and_keys() {
    let app = TestApp::start().await;
    let user = app.user(cedargate::authz::Scope::Guest).await;
    user.key(&[cedargate::authz::Scope::Guest]).await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let janitor = || text(&run(app.directory(), &settings, &["janitor"]).stdout);
    // The clock of the test may differ from the system time that the command uses, so the expiry is far in the future.
    app.sql("UPDATE sessions SET last_token_expiry = 9000000000000000").await;
    app.sql("UPDATE refresh_tokens SET expires_at = 9000000000000000").await;
    assert_eq!(janitor(), "deleted 0 sessions, 0 API keys, 0 answers, 0 changes\n");
    app.sql("UPDATE sessions SET last_token_expiry = 1").await;
    app.sql("UPDATE api_keys SET expires_at = 1").await;
    assert_eq!(janitor(), "deleted 2 sessions, 1 API keys, 0 answers, 0 changes\n");
    assert_eq!(
        app.count("SELECT COUNT(*) FROM refresh_tokens").await,
        0,
        "refresh tokens are deleted with their sessions"
    );
}

#[test]
fn policy_commands_need_no_database() {
    let directory = tempfile::tempdir().unwrap();
    let check = run(directory.path(), &[], &["policy", "check"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    let test = run(directory.path(), &[], &["policy", "test"]);
    assert_eq!(test.status.code(), Some(0), "{}", text(&test.stderr));
    assert!(text(&test.stdout).ends_with(" passed, 0 failed\n"));

    let matrix = directory.path().join("MATRIX.md");
    let file = matrix.to_str().unwrap();
    assert_eq!(run(directory.path(), &[], &["policy", "matrix", "-o", file]).status.code(), Some(0));
    assert_eq!(std::fs::read(&matrix).unwrap(), std::fs::read(project_file("policies/MATRIX.md")).unwrap());
    assert_eq!(
        run(directory.path(), &[], &["policy", "matrix", "--check", "-o", file]).status.code(),
        Some(0)
    );
    std::fs::write(&matrix, "# Permission matrix\n\nAnybody, anything.\n").unwrap();
    let stale = run(directory.path(), &[], &["policy", "matrix", "--check", "-o", file]);
    assert_eq!(stale.status.code(), Some(3));
    assert!(text(&stale.stderr).contains("MATRIX.md:3: out of date"), "{}", text(&stale.stderr));
    assert!(!directory.path().join("cedargate.db").exists());
}

#[tokio::test]
async fn policy_explain_explains_a_decision() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let form = app.admin().await.post("/v2/forms", json!({ "name": "form" })).await.id();
    let bot = app.user(cedargate::authz::Scope::Bot).await;
    let email = bot.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let resource = format!("Form:{form}");
    let explain = |action: &str| {
        let arguments = ["policy", "explain", "--user", &email, "--action", action, "--resource", &resource];
        let output = run(app.directory(), &settings, &arguments);
        (output.status.code(), text(&output.stdout))
    };
    let (code, no) = explain("fetchForm");
    assert!(no.starts_with("deny: ") && no.contains("requires the scope admin"), "{no}");
    assert_eq!(code, Some(3), "a deny has an exit code of its own");
    let (code, allowed) = explain("updateForm");
    assert_eq!(code, Some(0));
    assert!(
        allowed.starts_with("allow: ")
            && allowed.contains("permitted by")
            && allowed.contains("scopes.cedar:"),
        "{allowed}"
    );
}

#[tokio::test]
async fn policy_explain_explains_a_decision_about_an_external_domain() {
    let app = TestApp::start().await;
    let [policies, schema] = ["policies", "schema"].map(|name| {
        let more = project_file(&format!("examples/documents/{name}"));
        format!("{},{}", project_file(name).display(), more.display())
    });
    let settings = [
        ("CEDARGATE_DATABASE_URL", app.url()),
        ("CEDARGATE_POLICIES", policies.as_str()),
        ("CEDARGATE_SCHEMA", schema.as_str()),
    ];
    let explain = |more: &[&str]| {
        let about = ["policy", "explain", "--subject", "Docs::Person:dan", "--action", "read"];
        let output = run(app.directory(), &settings, &[&about[..], more].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let allowed = explain(&["--resource", "Docs::Document:plan"]);
    assert!(
        allowed.0 == Some(0) && allowed.1.starts_with("allow: Docs::Person:dan read Docs::Document:plan"),
        "{allowed:?}"
    );
    let no = explain(&["--resource", "Docs::Document:a:b"]);
    assert!(no.1.starts_with("deny: Docs::Person:dan read Docs::Document:a:b"), "{no:?}");
    assert!(no.1.contains("policies that match except for") && no.1.contains("docs.reader"), "{no:?}");
    let owner = r#"{"owner": {"type": "Docs::Person", "id": "dan"}}"#;
    let as_owner = explain(&["--resource", "Docs::Document:a:b", "--resource-properties", owner]);
    assert!(as_owner.1.starts_with("allow: ") && as_owner.1.contains("docs.owner"), "{as_owner:?}");
    for wrong in ["Docs::Document", "Docs::Document::a", ":x", "Docs::Document:"] {
        let refused = explain(&["--resource", wrong]);
        assert!(refused.0 == Some(1) && refused.2.contains("TYPE:ID"), "{wrong}: {refused:?}");
    }
    let refused = explain(&["--resource", "Docs::Document:plan", "--context", "[1]"]);
    assert!(refused.0 == Some(1) && refused.2.contains("expected a JSON object"), "{refused:?}");
}

#[test]
fn a_failing_policy_test_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let cases = std::fs::read_to_string(project_file("policies/cases/service.json")).unwrap();
    let mut cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    cases.retain(|case| case["decision"] == "deny");
    cases.truncate(1);
    cases[0]["decision"] = json!("allow");
    let file = directory.path().join("wrong.json");
    std::fs::write(&file, serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = run(directory.path(), &[], &["policy", "test", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(
        error.contains(cases[0]["name"].as_str().unwrap()) && error.contains("expected Allow"),
        "{error}"
    );
}

#[test]
fn the_help_names_every_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let help = text(&run(directory.path(), &[], &["--help"]).stdout);
    assert!(help.contains("Only `serve` and `user add` create a database"), "{help}");
    for code in ["  0  ", "  1  ", "  3  ", "  4  "] {
        assert!(help.contains(code), "{help}");
    }
    assert_eq!(run(directory.path(), &[], &["no-such-command"]).status.code(), Some(1));
}
