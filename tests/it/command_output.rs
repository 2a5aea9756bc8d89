//! Commands without a database, and commands whose output cannot be written.

use crate::command_line::{output, program, run, start, text};
use crate::support::{PASSWORD, TestApp, project_file};
use reqwest::StatusCode;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

/// The commands that require a database. VERSION stands for the version of the policy files.
const DATABASE_COMMANDS: [&[&str]; 16] = [
    &["user", "list"],
    &["user", "unlock", "ada@example.com"],
    &["user", "set-password", "--email", "ada@example.com"],
    &["key", "add", "--user", "ada@example.com", "--name", "n", "--scope", "bot"],
    &["signing-key", "list"],
    &["signing-key", "rotate"],
    &["policy", "explain", "--user", "ada@example.com", "--action", "fetchForm", "--resource", "Form:1"],
    &["policy", "reload", "--confirm", "VERSION"],
    &["policy", "versions"],
    &["policy", "show", "VERSION"],
    &["policy", "export", "VERSION", "exported"],
    &["audit", "verify"],
    &["audit", "archive", "--before", "2026-01-01T00:00:00Z", "--to", "."],
    &["janitor"],
    &["backup", "copy.db"],
    &["revoke-all"],
];

/// The commands that create a database or need none.
const OTHER_COMMANDS: [&[&str]; 13] = [
    &["serve"],
    &["user", "add"],
    &["policy", "analyze"],
    &["policy", "check"],
    &["policy", "format"],
    &["policy", "matrix"],
    &["policy", "prove"],
    &["policy", "test"],
    &["policy", "replay", "no-log"],
    &["policy", "diff", ".", "."],
    &["policy", "report"],
    &["openapi"],
    &["config"],
];

/// A file that accepts no bytes.
fn full_device() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// The subcommands that a help text lists.
fn subcommands(directory: &Path, arguments: &[&str]) -> Vec<String> {
    let help = text(&run(directory, &[], &[arguments, &["--help"]].concat()).stdout);
    let Some((_, rest)) = help.split_once("Commands:\n") else { return Vec::new() };
    let lines = rest.split("\n\n").next().unwrap().lines();
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
    names.filter(|name| !name.is_empty() && name != "help").collect()
}

fn version(directory: &Path) -> String {
    let stdout = text(&run(directory, &[], &["policy", "check"]).stdout);
    stdout.trim().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_command_tables_of_these_tests_are_complete() {
    let directory = tempfile::tempdir().unwrap();
    let tables = DATABASE_COMMANDS.iter().chain(&OTHER_COMMANDS);
    let known: Vec<String> =
        tables.map(|words| words.iter().take(2).copied().collect::<Vec<_>>().join(" ")).collect();
    for command in subcommands(directory.path(), &[]) {
        let below = subcommands(directory.path(), &[&command]);
        let names = below.iter().map(|name| format!("{command} {name}"));
        let names: Vec<String> = if below.is_empty() { vec![command] } else { names.collect() };
        for name in names.into_iter().filter(|name| name != "health") {
            let is_known = known.iter().any(|known| *known == name || known.split(' ').next() == Some(&name));
            assert!(is_known, "command {name} is not tested");
        }
    }
}

#[test]
fn a_command_creates_no_database() {
    let directory = tempfile::tempdir().unwrap();
    let version = version(directory.path());
    let empty = directory.path().join("empty.db");
    File::create(&empty).unwrap();
    for arguments in DATABASE_COMMANDS {
        let arguments = arguments.iter().map(|word| if *word == "VERSION" { &version } else { *word });
        let arguments: Vec<&str> = arguments.collect();
        let work = tempfile::tempdir().unwrap();
        let settings = [("CEDARGATE_DECISION_LOG", "all")];
        let output = run(work.path(), &settings, &arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("cedargate.db does not exist"), "{arguments:?}: {error}");
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0, "{arguments:?}");

        // A database without tables is not migrated.
        let url = format!("sqlite://{}", empty.display());
        let output = run(work.path(), &[("CEDARGATE_DATABASE_URL", &url)], &arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("no tables of this program"), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn a_command_on_postgres_creates_no_tables() {
    let database = crate::support::Database::new().await;
    if !database.url.starts_with("postgres") {
        return; // The same for SQLite is above.
    }
    let settings = [("CEDARGATE_DATABASE_URL", database.url.as_str())];
    let output = run(database.directory.path(), &settings, &["user", "list"]);
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("no tables of this program"), "{error}");
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(crate::multi_process::count(&database.url, tables).await, 0);
}

#[tokio::test]
async fn commands_do_not_write_the_decision_log() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url()), ("CEDARGATE_DECISION_LOG", "all")];
    let work = tempfile::tempdir().unwrap();
    for arguments in [&["user", "list"] as &[&str], &["user", "add", "--email", "ada@example.com"]] {
        let output = run(work.path(), &settings, arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_secret_that_cannot_be_printed_is_not_created() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let key = ["key", "add", "--user", "bob@example.com", "--name", "n", "--scope", "guest"];
    let user = ["user", "add", "--email", "ada@example.com"];
    assert!(run(app.directory(), &settings, &["user", "add", "--email", "bob@example.com"]).status.success());
    let counted = async || {
        let keys = app.count("SELECT COUNT(*) FROM api_keys").await;
        (app.count("SELECT COUNT(*) FROM users").await, keys)
    };
    let before = counted().await;
    for arguments in [&key as &[&str], &user] {
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        for stdout in [Stdio::from(full_device()), closed()] {
            let output = output(program(app.directory(), &settings).args(arguments).stdout(stdout));
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            let expected = "nothing was created: cannot write to standard output";
            assert!(error.contains(expected) && error.lines().count() == 1, "{arguments:?}: {error}");
        }
        assert_eq!(counted().await, before, "{arguments:?}");
    }
    // The email is still available.
    assert!(run(app.directory(), &settings, &user).status.success());
}

#[tokio::test]
async fn a_command_whose_output_cannot_be_written_fails() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let version = version(app.directory());
    for arguments in [
        &["user", "list"] as &[&str],
        &["signing-key", "list"],
        &["audit", "verify"],
        &["audit", "archive", "--before", "2020-01-01T00:00:00Z", "--to", "."],
        &["janitor"],
        &["policy", "check"],
        &["policy", "reload", "--confirm", &version],
        &["openapi"],
        &["config"],
        &["revoke-all"],
        &["--help"],
        &["--version"],
    ] {
        let output = output(program(app.directory(), &settings).args(arguments).stdout(full_device()));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("cannot write to standard output"), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn a_first_admin_whose_password_cannot_be_printed_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("CEDARGATE_LISTEN", "127.0.0.1:0")];
    let with_full_stdout = output(program(directory.path(), &settings).stdout(full_device()));
    let error = text(&with_full_stdout.stderr);
    assert_eq!(with_full_stdout.status.code(), Some(1), "{error}");
    assert!(error.contains("the first admin was not created"), "{error}");
    let mut add = program(directory.path(), &[]);
    let add = add.args(["user", "add", "--email", "ada@example.com"]).stderr(full_device()).output().unwrap();
    assert_eq!((add.status.code(), text(&add.stdout).as_str()), (Some(1), ""));

    // The next start prints a new password.
    let running = start(directory.path(), &[]);
    let password = running.banner.lines().find_map(|line| line.trim().strip_prefix("password ")).unwrap();
    let password = password.trim().split(' ').next().unwrap();
    let body = json!({ "email": "admin@example.com", "password": password });
    let client = crate::command_line::client(&running.base);
    assert_eq!(client.post("/v2/auth/token", body).await.status, StatusCode::OK);
}

#[test]
fn all_settings_are_checked_before_anything_is_opened() {
    for (name, value, expected) in [
        ("CEDARGATE_ADMIN_EMAIL", "nobody", "CEDARGATE_ADMIN_EMAIL"),
        ("CEDARGATE_ADMIN_PASSWORD", "short", "CEDARGATE_ADMIN_PASSWORD"),
        ("CEDARGATE_TLS_CERT", "no/such.pem", "no/such.pem"),
        ("CEDARGATE_JWT_SECRET_FILE", "/proc/version", "CEDARGATE_JWT_SECRET_FILE are mutually exclusive"),
        ("CEDARGATE_POLICIES", "no/such/policies", "no/such/policies"),
        ("CEDARGATE_SCHEMA", "no/such/schema", "no/such/schema"),
        ("CEDARGATE_FORWARD_ROUTES", "no/such/routes.toml", "CEDARGATE_FORWARD_ROUTES"),
    ] {
        for arguments in [&["serve"] as &[&str], &["user", "add", "--email", "ada@example.com"]] {
            let directory = tempfile::tempdir().unwrap();
            let mut settings = vec![("CEDARGATE_LISTEN", "127.0.0.1:0"), (name, value)];
            match name {
                "CEDARGATE_TLS_CERT" => settings.push(("CEDARGATE_TLS_KEY", "no/such.key")),
                "CEDARGATE_JWT_SECRET_FILE" => {
                    settings.push(("CEDARGATE_JWT_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz"));
                }
                _ => {}
            }
            let output = run(directory.path(), &settings, arguments);
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(1) && error.contains(expected), "{name}: {error}");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{name} {arguments:?}");
        }
    }
}

#[test]
fn a_decision_log_that_cannot_be_opened_aborts_the_start_without_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [
        ("CEDARGATE_LISTEN", "127.0.0.1:0"),
        ("CEDARGATE_DECISION_LOG", "all"),
        ("CEDARGATE_DECISION_LOG_PATH", "no/such/directory/log"),
    ];
    let output = run(directory.path(), &settings, &["serve"]);
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("CEDARGATE_DECISION_LOG_PATH"), "{error}");
    assert!(!directory.path().join("cedargate.db").exists());
}

#[test]
fn settings_files_may_begin_with_a_byte_order_mark() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), format!("\u{feff}{text}")).unwrap();
    };
    write("cedargate.toml", "listen = \"127.0.0.1:0\"\n");
    write("password", &format!("{PASSWORD}\n"));
    crate::lifecycle::create_certificate(directory.path(), "tls");
    for name in ["tls.pem", "tls.key"] {
        let pem = std::fs::read_to_string(directory.path().join(name)).unwrap();
        write(name, &pem);
    }
    let files = [
        ("CEDARGATE_ADMIN_PASSWORD_FILE", "password"),
        ("CEDARGATE_TLS_CERT", "tls.pem"),
        ("CEDARGATE_TLS_KEY", "tls.key"),
    ];
    // A byte-order mark must not become part of the password.
    let running = crate::command_line::start_command(program(directory.path(), &files));
    assert!(running.base.starts_with("https://"), "{}", running.banner);
    drop(running);
    let running = start(directory.path(), &[]);
    let body = json!({ "email": "admin@example.com", "password": PASSWORD });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = crate::command_line::client(&running.base);
    assert_eq!(runtime.block_on(client.post("/v2/auth/token", body)).status, StatusCode::OK);
}

#[test]
fn the_program_starts_with_the_shipped_policies_and_its_default_settings() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["policies", "schema"] {
        std::os::unix::fs::symlink(project_file(name), directory.path().join(name)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    // Only the port differs, so that tests can run in parallel.
    command.current_dir(directory.path()).env_clear().env("CEDARGATE_LISTEN", "127.0.0.1:0");
    let running = crate::command_line::start_command(command);
    assert!(running.banner.contains("policies        version "), "{}", running.banner);
}
