//! The commands that `docs/policies.md` shows, executed as written.

use crate::command_line::{client, program, start};
use crate::example_ci::copy;
use crate::support::{ADMIN, Client, PASSWORD, project_file};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// A command that the page shows.
struct Example {
    /// What follows `cedargate policy`.
    line: String,
    /// Whether the page shows its output, too, which may be that of a check that fails.
    is_transcript: bool,
}

/// The commands in the code blocks of the page.
fn examples(page: &str) -> Vec<Example> {
    let example = |line: &str| {
        let (is_transcript, line) = match line.strip_prefix("$ ") {
            Some(line) => (true, line),
            None => (false, line.strip_prefix("    ")?.trim_start()),
        };
        let line = line
            .strip_prefix("cargo run -- policy ")
            .map_or_else(|| line.to_owned(), |rest| format!("cedargate policy {rest}"));
        let (command, _) = line.split_once(" #").unwrap_or((&line, ""));
        let line = command.strip_prefix("cedargate policy ")?.trim().to_owned();
        Some(Example { line, is_transcript })
    };
    page.lines().filter_map(example).collect()
}

/// The subcommands of `policy`.
fn subcommands(directory: &Path) -> BTreeSet<String> {
    let output = program(directory, &[]).args(["policy", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The settings of the commands: all others have their defaults, as for a reader of the page.
const SETTINGS: [(&str, &str); 6] = [
    ("CEDARGATE_SCHEMA", "schema,examples/documents/schema"),
    ("CEDARGATE_POLICIES", "policies,examples/documents/policies"),
    ("CEDARGATE_DECISION_LOG", "all"),
    ("CEDARGATE_DECISION_LOG_PATH", "decisions.ndjson"),
    ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
    ("CEDARGATE_ARGON2_MEMORY_KIB", "7168"),
];

/// Runs a line of shell in the directory. Returns its exit code and output.
fn shell(directory: &Path, line: &str) -> (i32, String) {
    let output = Command::new("bash")
        .args(["-c", line])
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", directory)
        .envs(SETTINGS)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code().unwrap(), text)
}

/// A copy of the policies in a git repository, with a database and a decision log that a service has written.
async fn prepare() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["schema", "policies", "examples"] {
        copy(&project_file(name), &root.join(name));
    }
    let identity = "git config user.name Ada; git config user.email ada@example.com";
    let (code, text) = shell(
        root,
        &format!(
            "git init --quiet --initial-branch main && {identity}; git add . && git commit --quiet -m Policies && git commit --quiet --allow-empty -m Again"
        ),
    );
    assert_eq!(code, 0, "{text}");
    let service = start(root, &SETTINGS);
    let anonymous = client(&service.base);
    let login = json!({ "email": ADMIN, "password": PASSWORD });
    let tokens = anonymous.post("/v2/auth/token", login).await.expect(StatusCode::OK);
    let admin = Client { bearer: Some(tokens["token"].as_str().unwrap().to_owned()), ..anonymous };
    let user = json!({ "email": "ada@example.com", "role": "agent" });
    admin.post("/v2/users", user).await.expect(StatusCode::CREATED);
    let form = json!({ "name": "Feedback" });
    admin.post("/v2/forms", form).await.expect(StatusCode::CREATED);
    service.stop();
    // As if the log had been rotated.
    std::fs::copy(root.join("decisions.ndjson"), root.join("decisions.ndjson.1")).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_about_policies_work_as_shown() {
    let page = std::fs::read_to_string(project_file("docs/policies.md")).unwrap();
    let examples = examples(&page);
    let directory = prepare().await;
    let root = directory.path();
    let binary = env!("CARGO_BIN_EXE_cedargate");
    let shown: BTreeSet<String> =
        examples.iter().map(|example| example.line.split_whitespace().next().unwrap().to_owned()).collect();
    assert_eq!(subcommands(root), shown, "every subcommand has an example, and every example a subcommand");
    let (_, versions) = shell(root, &format!("{binary} policy versions --format json"));
    let versions: Value = serde_json::from_str(&versions).unwrap();
    let version = &versions[0]["version"].as_str().unwrap()[..12];
    let is_version = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    for Example { line, is_transcript } in examples {
        let words = line.split(' ').map(|word| if is_version(word) { version } else { word });
        let line = words.collect::<Vec<_>>().join(" ");
        let (code, text) = shell(root, &format!("{binary} policy {line}"));
        // A denial is exit code 3, too.
        let may_find = is_transcript || line.starts_with("explain");
        assert!(code == 0 || (may_find && code == 3), "policy {line}: exit code {code}\n{text}");
    }
}
