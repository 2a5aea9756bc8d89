//! The commands and the table of errors in `docs/clients.md`.

use crate::support::{PASSWORD, TestApp, project_file};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn page() -> String {
    std::fs::read_to_string(project_file("docs/clients.md")).unwrap()
}

/// The lines that the commands of the page print, as the comments after them say.
fn expected_output(script: &str) -> Vec<String> {
    let comments = script.lines().flat_map(|line| line.split("    # ").skip(1));
    comments.map(|comment| comment.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_about_clients_work_as_shown() {
    let app = TestApp::start().await;
    let page = page();
    assert!(page.contains(PASSWORD));
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 7);
    // Only the address differs.
    let script = blocks.concat().replace("http://127.0.0.1:8080", &app.base);
    let output = Command::new("bash").args(["-euc", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed, expected_output(&script));
    assert!(printed.len() >= 13, "{printed:?}");
}

/// The files below a directory.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(text.split("#[cfg(test)]").next().unwrap().to_owned());
        }
    }
}

fn is_code(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// The code that a call with these arguments gives a problem: its first text, after a status or a kind at most.
fn code_of(arguments: &str) -> Option<&str> {
    let (before, rest) = arguments.split_once('"')?;
    let is_status = before.is_empty()
        || before.trim_start().starts_with("StatusCode::")
        || before.trim_start().starts_with("ErrorKind::")
        || before.trim().is_empty()
        || before.trim() == "kind,"
        || before.trim() == "status,";
    let (code, _) = rest.split_once('"')?;
    (is_status && !before.contains(')') && is_code(code)).then_some(code)
}

#[test]
fn the_page_about_clients_explains_every_code_of_a_problem() {
    let mut files = Vec::new();
    for layer in ["src/http", "src/api", "src/application"] {
        sources(&project_file(layer), &mut files);
    }
    let mut codes = BTreeSet::new();
    for text in &files {
        for call in [
            "Problem::new(",
            "Error::new(",
            "Self::new(",
            "unavailable(",
            "too_many_requests(",
            "conflict_with_code(",
            "unauthenticated(",
            " forbidden(",
            "(forbidden(",
        ] {
            // Other types have the same names of functions: their first text follows no status.
            let with_status = call.ends_with("::new(");
            for rest in text.split(call).skip(1) {
                let takes_status = rest.trim_start().starts_with("StatusCode::")
                    || rest.trim_start().starts_with("ErrorKind::")
                    || rest.trim_start().starts_with("kind,");
                if with_status == takes_status {
                    codes.extend(code_of(rest));
                }
            }
        }
        for constant in ["INVALID_SCOPE", "INVALID_REFRESH_TOKEN", "UNSUPPORTED_GRANT_TYPE"] {
            let declared = text.split(&format!("const {constant}: &str = \"")).nth(1);
            codes.extend(declared.and_then(|rest| rest.split('"').next()));
        }
        // A closure of the reload of policies takes a code before the detail.
        let conflicts = text.split(" conflict(").skip(1).filter(|rest| {
            code_of(rest).is_some_and(|code| {
                rest.trim_start()
                    .strip_prefix(&format!("\"{code}\""))
                    .is_some_and(|rest| rest.starts_with(','))
            })
        });
        codes.extend(conflicts.filter_map(code_of));
    }
    assert!(codes.len() > 30, "{codes:?}");
    let page = page();
    let (_, section) = page.split_once("\n## Errors\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let explained: BTreeSet<&str> =
        section.split('`').skip(1).step_by(2).filter(|word| codes.contains(word)).collect();
    assert_eq!(codes, explained, "the codes in the sources, and those of the page");
    // Every code in the table exists.
    let rows = section.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5"));
    for row in rows {
        let cell = row.split('|').nth(2).unwrap();
        for code in cell.split('`').skip(1).step_by(2) {
            assert!(codes.contains(code), "no problem has the code {code}");
        }
    }
}

#[test]
fn the_page_about_clients_names_actions_and_headers_that_exist() {
    let page = page();
    let matrix = std::fs::read_to_string(project_file("policies/MATRIX.md")).unwrap();
    let (_, section) = page.split_once("\n## Which role\n").unwrap();
    let (table, _) = section.split_once("\nListing does not").unwrap();
    // Each row names its role, and actions that the role has.
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let role =
            ["guest", "agent", "bot", "admin"].into_iter().find(|role| cells[2].ends_with(role)).unwrap();
        for action in cells[4].split('`').skip(1).step_by(2) {
            let line = matrix.lines().find(|line| line.contains(&format!("| {action} |"))).unwrap();
            let own = line.split('|').nth(3).unwrap();
            assert!(own.split(',').any(|scope| scope.trim() == role), "{role} {action}: {own}");
        }
    }
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(project_file("openapi/openapi.json")).unwrap())
            .unwrap();
    for word in page.split('`').skip(1).step_by(2) {
        let Some((method, path)) = word.split_once(' ') else { continue };
        let path = path.split(['?', '=']).next().unwrap().replace("/users/me/", "/users/{id}/");
        if path.starts_with("/v2/") {
            let operation = &document["paths"][&path][method.to_lowercase()];
            assert!(operation.is_object(), "{word}");
        }
    }
}
