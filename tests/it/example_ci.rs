//! `examples/ci`: the checks of a repository with policies, the comment on a pull request, and the hooks of pre-commit.

use crate::packages::{npm_packages, python_packages};
use crate::support::project_file;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

/// A git repository with a copy of the shipped policies, committed.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        for directory in ["schema", "policies"] {
            copy(&project_file(directory), &repository.path().join(directory));
        }
        repository.git(&["init", "--quiet"]);
        repository.commit();
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
        let output =
            Command::new("git").args(identity).args(arguments).current_dir(self.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn commit(&self) {
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "--message", "Change the policies"]);
    }

    fn edit(&self, file: &str, old: &str, new: &str) {
        let file = self.path().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{}", file.display());
        std::fs::write(&file, text.replace(old, new)).unwrap();
    }

    /// Runs `check-policies` against the last commit.
    fn check(&self, fail_on: &str) -> Output {
        Command::new(project_file("examples/ci/check-policies"))
            .args(["HEAD", "report"])
            .current_dir(self.path())
            .env("CEDARGATE", env!("CARGO_BIN_EXE_cedargate"))
            .env("FAIL_ON", fail_on)
            .output()
            .unwrap()
    }

    fn report(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join("report").join(file)).unwrap()
    }
}

/// Copies a directory with all files in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Validates a SARIF file with the reference validator, which reports violations of the published schema as errors.
fn assert_valid_sarif(file: &Path) {
    let validator = npm_packages("npm").join("node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool");
    let output = file.with_extension("validation");
    let run = Command::new(validator)
        .arg("validate")
        .arg(file)
        .arg("--output")
        .arg(&output)
        .args(["--log", "ForceOverwrite"])
        // The validator needs no locales.
        .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success() && !text.contains(": error "), "{text}");
    let log: Value = serde_json::from_str(&std::fs::read_to_string(&output).unwrap()).unwrap();
    assert_eq!(log["runs"][0]["invocations"][0]["executionSuccessful"], true, "{log:#}");
}

#[test]
fn unchanged_policies_pass_all_checks() {
    let repository = Repository::new();
    let output = repository.check("any");
    let report = repository.report("report.md");
    assert!(output.status.success(), "{output:?}\n{report}");
    assert_eq!(report.matches("| passed |").count(), 4, "{report}");
    for file in ["check.sarif", "prove.sarif"] {
        assert_valid_sarif(&repository.path().join("report").join(file));
    }
    for (file, suite) in [("test.xml", "policies/cases/"), ("prove.xml", "policies/claims/")] {
        let junit = repository.report(file);
        assert!(junit.contains(&format!("<testsuite name=\"{suite}")), "{file}: {junit}");
        assert!(!junit.contains("<failure"), "{file}: {junit}");
    }
}

#[test]
fn a_weaker_policy_is_reported_with_the_requests_that_it_grants() {
    let repository = Repository::new();
    let tenancy = "unless { resource in principal.organization };";
    let weaker = r#"unless { resource in principal.organization || principal in Scope::"bot" };"#;
    repository.edit("policies/tenancy.cedar", tenancy, weaker);
    let output = repository.check("wider");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = repository.report("report.md");
    for failed in ["validation", "policy tests", "claims", "comparison"] {
        let line = report.lines().find(|line| line.starts_with(&format!("| {failed}"))).unwrap();
        assert!(line.contains("**failed**"), "{line}");
    }
    assert!(report.contains("wider") && report.contains("fetchConversation"), "{report}");
    assert!(repository.report("test.xml").contains("<failure"));
    assert!(repository.report("prove.sarif").contains("never-outside-the-organization"));
    assert_valid_sarif(&repository.path().join("report/prove.sarif"));
}

#[test]
fn invalid_policies_are_reported_with_their_places() {
    let repository = Repository::new();
    repository.edit("policies/self.cedar", "principal == resource", "principal == resuorce");
    let output = repository.check("none");
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let log: Value = serde_json::from_str(&repository.report("check.sarif")).unwrap();
    let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "policies/self.cedar", "{log:#}");
    assert!(place["region"]["startLine"].as_u64().unwrap() > 1, "{log:#}");
    for (file, id) in [("check.sarif", "cedargate/check/"), ("prove.sarif", "cedargate/prove/")] {
        let log: Value = serde_json::from_str(&repository.report(file)).unwrap();
        assert_eq!(log["runs"][0]["automationDetails"]["id"], id);
        assert_eq!(log["runs"][0]["results"][0]["ruleId"], "syntax", "{log:#}");
        assert_valid_sarif(&repository.path().join("report").join(file));
    }
    for file in ["test.xml", "prove.xml"] {
        let junit = repository.report(file);
        assert!(junit.contains("errors=\"1\"") && junit.contains("policies/self.cedar:"), "{file}: {junit}");
    }
}

/// Answers requests as GitHub does, until the connection that it is given ends. Returns the requests.
fn serve_comments(listener: &TcpListener, comments: &Value, requests: usize) -> Vec<(String, Value)> {
    (0..requests).map(|_| answer(listener.accept().unwrap().0, comments)).collect()
}

fn answer(connection: TcpStream, comments: &Value) -> (String, Value) {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    reader.read_line(&mut head).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        assert!(!line.starts_with("authorization:") || line == "authorization: bearer secret", "{line}");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let response = if head.starts_with("GET") { comments.clone() } else { json!({}) }.to_string();
    let length = response.len();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{response}"
    );
    reader.get_mut().write_all(response.as_bytes()).unwrap();
    let request = head.trim().rsplit_once(' ').unwrap().0.to_owned();
    (request, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn a_report_is_one_comment_that_later_runs_replace() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.md");
    let marker = "<!-- cedargate policies -->";
    let comments = "/repos/acme/policies/issues/7/comments?per_page=100&page=1";
    let other = json!({ "id": 1, "body": "Looks good" });
    let ours = json!({ "id": 2, "body": format!("{marker}\nold") });
    for (existing, request, text) in [
        (json!([other]), "POST /repos/acme/policies/issues/7/comments", "new".to_owned()),
        (json!([other, ours]), "PATCH /repos/acme/policies/issues/comments/2", "x".repeat(70_000)),
    ] {
        std::fs::write(&report, &text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || serve_comments(&listener, &existing, 2));
        let output = Command::new("python3")
            .arg(project_file("examples/ci/comment.py"))
            .arg(&report)
            .env("GITHUB_TOKEN", "secret")
            .env("GITHUB_API_URL", api)
            .env("GITHUB_REPOSITORY", "acme/policies")
            .env("PULL_REQUEST", "7")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let requests = server.join().unwrap();
        assert_eq!(requests[0].0, format!("GET {comments}"));
        assert_eq!(requests[1].0, request);
        let body = requests[1].1["body"].as_str().unwrap();
        assert!(body.starts_with(marker) && body.len() < 65_536, "{}", body.len());
        assert!(body.contains(&text[..3]));
        assert_eq!(body.contains("The report was cut here"), text.len() > 65_000);
    }
}

#[test]
fn a_comment_that_is_cut_closes_the_code_and_the_details_that_are_open() {
    let block = |fence: &str, text: &str, times| {
        format!(
            "<details><summary>s</summary>\n\n{fence}diff\n{}{fence}\n\n</details>\n\n",
            text.repeat(times)
        )
    };
    let body = |report: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("report.md");
        std::fs::write(&file, report).unwrap();
        let script =
            "import sys, comment; sys.stdout.write(comment.cut(open(sys.argv[1], encoding='utf-8').read()))";
        let output = Command::new("python3")
            .args(["-c", script])
            .arg(&file)
            .env("PYTHONPATH", project_file("examples/ci"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("GITHUB_API_URL", "x")
            .env("GITHUB_REPOSITORY", "x")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let short = block("```", "a\n", 3);
    assert_eq!(body(&short), short);
    let note = "\n**The report was cut here**";
    for (report, end) in [
        // In the code of the second block, whose text has a shorter fence.
        (format!("{short}{}", block("````", "+ ```\n```\n</details>\n", 10_000)), "\n````\n\n</details>\n"),
        (block("```", "a\n", 1).repeat(2_000), "</details>\n"),
        ("| a |\n".repeat(20_000), "| a |\n"),
    ] {
        let body = body(&report);
        let (kept, rest) = body.split_once(note).unwrap();
        assert!(
            kept.trim_end().ends_with(end.trim_end()) && rest.lines().count() == 1,
            "{:?}",
            &kept[kept.len() - 80..]
        );
        assert!(body.len() <= 65_000 && body.len() > 60_000, "{}", body.len());
        // Every line is one of the report, or an end.
        let (mut fence, mut details) = (None, 0);
        for line in kept.lines() {
            assert!(report.contains(&format!("{line}\n")), "{line}");
            match fence {
                Some(open) if line == open => fence = None,
                Some(_) => {}
                None if line.starts_with("```") => fence = Some(line.trim_end_matches("diff")),
                None => {
                    details += line.matches("<details>").count();
                    details -= line.matches("</details>").count();
                }
            }
        }
        assert_eq!((fence, details), (None, 0));
    }
}

#[test]
fn the_action_and_the_workflow_have_the_form_that_github_documents() {
    let validator = python_packages("ci").join("bin/check-jsonschema");
    for (schema, file) in
        [("vendor.github-actions", "action.yml"), ("vendor.github-workflows", "workflow.yml")]
    {
        let file = project_file("examples/ci").join(file);
        let output = Command::new(&validator).args(["--builtin-schema", schema]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_hooks_reject_a_commit_of_invalid_policies() {
    let repository = Repository::new();
    let configuration = repository.path().join(".pre-commit-config.yaml");
    std::fs::copy(project_file("examples/ci/pre-commit-config.yaml"), configuration).unwrap();
    repository.commit();
    let run_hooks = || {
        let programs = Path::new(env!("CARGO_BIN_EXE_cedargate")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let cache = repository.path().join(".git/pre-commit-cache");
        let output = Command::new(python_packages("ci").join("bin/pre-commit"))
            .args(["run", "--all-files"])
            .current_dir(repository.path())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("PRE_COMMIT_HOME", cache)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_accepted, text) = run_hooks();
    assert!(is_accepted, "{text}");
    assert_eq!(text.matches("Passed").count(), 5, "{text}");
    repository.edit("policies/self.cedar", "principal == resource", "principal == resuorce");
    let (is_accepted, text) = run_hooks();
    assert!(!is_accepted && text.contains("self.cedar"), "{text}");
}
