//! The quick start of the README, run exactly as written.

use crate::support::{PASSWORD, TestApp, project_file};
use std::process::Command;

/// The blocks of shell commands, in order.
fn blocks(readme: &str) -> Vec<String> {
    readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The lines of an nginx configuration without comments.
fn directives(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap().trim());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_nginx_snippet_of_the_readme_matches_the_example() {
    let read = |name: &str| std::fs::read_to_string(project_file(name)).unwrap();
    let (readme, example) = (read("README.md"), read("examples/nginx/nginx.conf"));
    let shown = readme.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
    let (shown, example) = (directives(shown), directives(&example));
    for line in &shown {
        assert!(example.contains(line), "the example lacks {line}");
    }
    // Headers that a client may spoof are overwritten.
    let replaced = |lines: &[&str]| {
        let of_user =
            lines.iter().filter(|line| line.starts_with("proxy_set_header X-") && line.contains('$'));
        of_user.filter(|line| ["$user", "$scope"].iter().any(|name| line.contains(name))).count()
    };
    assert_eq!((replaced(&shown), replaced(&example)), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_of_the_readme_works_as_documented() {
    let app = TestApp::start().await;
    let readme = std::fs::read_to_string(project_file("README.md")).unwrap();
    assert!(readme.contains(&format!("CEDARGATE_ADMIN_PASSWORD={PASSWORD} cargo run")));
    let blocks = blocks(&readme);
    assert_eq!(blocks.len(), 4);
    // Only the address differs. The marker lines separate the outputs of the blocks.
    let script = blocks.join("\necho; echo ----\n").replace("http://127.0.0.1:8080", &app.base);
    let output = Command::new("bash").args(["-euc", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = text.split("----\n").map(str::trim).collect();
    let [logged_in, conversation, refused, decision] = answers.as_slice() else { panic!("{text}") };
    assert_eq!(*logged_in, "");
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(conversation)["name"], "Opening hours");
    assert_eq!(json(refused)["status"], 403);
    assert_eq!(json(decision)["decision"], true, "{decision}");

    // The README shows the beginning of the responses; an ellipsis stands for what differs each time.
    for answer in [refused, decision] {
        let shown = readme.lines().filter_map(|line| line.strip_prefix("    {"));
        let fits = |shown: &str| {
            let parts: Vec<&str> = shown.split('…').collect();
            answer.strip_prefix('{').is_some_and(|rest| rest.starts_with(parts[0]))
        };
        assert!(shown.into_iter().any(fits), "the README does not show {answer}");
    }
}
