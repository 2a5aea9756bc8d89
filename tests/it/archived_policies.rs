//! Commands that read versions of the archive: `policy diff` and `policy replay` of `version:` sources, a replay of lines of
//! several versions, and a report on an exported version.

use crate::command_line::{run, text};
use crate::policy_reload::version;
use crate::reload::PolicyFiles;
use crate::support::TestApp;
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::block_in_place;

/// A forbid that changes decisions of the shipped policies.
const FORBID: &str = "@id(\"extra\")\n@doc(\"Bots do not list forms.\")\nforbid (principal in Scope::\"bot\", action == Action::\"listForms\", resource)\nunless { principal in Scope::\"admin\" };";

/// A service that was active with two versions of its policies, and logged decisions of both.
struct TwoVersions {
    files: PolicyFiles,
    app: TestApp,
    /// The version without the forbid, and the one with it.
    versions: [String; 2],
}

impl TwoVersions {
    async fn new() -> Self {
        let files = PolicyFiles::new();
        let log = files.path("log").display().to_string();
        let app = files
            .serve_with(|config| {
                config.decision_log = DecisionLogFilter::All;
                config.decision_log_path = log;
            })
            .await;
        let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
        let first = version(&admin).await;
        bot.get("/v2/forms").await.expect(StatusCode::OK);
        files.write("policies/extra.cedar", FORBID);
        admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
        let second = version(&admin).await;
        bot.get("/v2/forms").await.expect_problem(403, "forbidden");
        app.state.decision_log.close();
        Self { files, app, versions: [first, second] }
    }

    /// The JSON output of a command, and its exit code.
    fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let (code, output) = self.command(&[arguments, &["--format", "json"]].concat());
        // Without the messages after it.
        let mut values = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
        let report = values.next().unwrap_or_else(|| panic!("{arguments:?} has no output"));
        (report.unwrap_or_else(|_| panic!("{arguments:?}: {output}")), code)
    }

    fn command(&self, arguments: &[&str]) -> (i32, String) {
        self.command_with(["schema", "policies"], arguments)
    }

    /// Runs a command with these directories as the configured policies.
    fn command_with(&self, [schema, policies]: [&str; 2], arguments: &[&str]) -> (i32, String) {
        let settings = [
            ("CEDARGATE_DATABASE_URL", self.app.url()),
            ("CEDARGATE_SCHEMA", schema),
            ("CEDARGATE_POLICIES", policies),
        ];
        let output = block_in_place(|| run(&self.files.path(""), &settings, arguments));
        (output.status.code().unwrap(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

fn lists_forms(line: &Value) -> bool {
    line["action"] == "listForms"
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_archived_versions_replay_by_their_own_version() {
    let service = TwoVersions::new().await;
    let (report, code) = service.json(&["policy", "replay", "log"]);
    assert_eq!((code, &report["unknownVersions"]), (0, &json!({})), "{report:#}");
    assert_eq!(report["differences"]["count"], 0);

    // A changed line of the archived version is found.
    let log = std::fs::read_to_string(service.files.path("log")).unwrap();
    let mut lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_first = |line: &&mut Value| line["policyVersion"] == service.versions[0].as_str();
    let line = lines.iter_mut().filter(is_first).find(|line| lists_forms(line)).unwrap();
    assert_eq!(line["decision"], true);
    line["decision"] = json!(false);
    let changed: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(service.files.path("changed"), changed).unwrap();
    let (report, code) = service.json(&["policy", "replay", "changed"]);
    assert_eq!((code, &report["differences"]["count"]), (3, &json!(1)), "{report:#}");
    assert_eq!(report["differences"]["examples"][0]["action"], "listForms");

    // A version that is not in the archive is not decided.
    let changed = log.replace(&service.versions[0], &"0".repeat(64));
    std::fs::write(service.files.path("changed"), changed).unwrap();
    let (report, code) = service.json(&["policy", "replay", "changed"]);
    assert_eq!(code, 4, "{report:#}");
    assert!(report["unknownVersions"]["0".repeat(64)].as_u64().unwrap() > 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_the_archive_are_compared_and_replayed_against() {
    let service = TwoVersions::new().await;
    let [first, second] = service.versions.each_ref().map(|version| format!("version:{}", &version[..12]));
    // Also against the files, which are the second version.
    for new in [second.as_str(), "."] {
        let (report, code) = service.json(&["policy", "diff", &first, new, "--fail-on", "any"]);
        assert_eq!(code, 3, "{report:#}");
        assert!(report["summary"]["narrower"].as_u64() > Some(0), "{report:#}");
        assert_eq!(report["summary"]["wider"], Value::Null, "{report:#}");
        assert_eq!(report["environments"][0]["action"], "listForms");
    }
    let (report, code) = service.json(&["policy", "diff", &second, ".", "--fail-on", "any"]);
    assert_eq!((code, &report["environments"]), (0, &json!([])), "{report:#}");

    // The decision of the second version is allowed by the first one, and the other way round.
    for (source, allowed) in [(&first, true), (&second, false)] {
        let (report, code) = service.json(&["policy", "replay", "log", "--against", source]);
        assert_eq!((code, &report["flips"]["count"]), (3, &json!(1)), "{report:#}");
        let group = &report["flips"]["groups"][0];
        assert_eq!((&group["action"], &group["allowed"]), (&json!("listForms"), &json!(allowed)));
    }
    let (code, output) = service.command(&["policy", "diff", "version:00000000", "."]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("version:00000000"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_with_a_replay_reports_the_logged_decisions_that_change() {
    let service = TwoVersions::new().await;
    let first = format!("version:{}", service.versions[0]);
    let (report, code) = service.json(&["policy", "diff", &first, ".", "--replay", "log"]);
    assert_eq!(code, 0, "{report:#}");
    assert!(report["summary"]["narrower"].as_u64() > Some(0), "{report:#}");
    let flips = &report["replay"]["flips"];
    assert_eq!((&flips["count"], &flips["groups"][0]["policies"]), (&json!(1), &json!(["extra"])));
    for format in ["text", "markdown"] {
        let arguments = ["policy", "diff", &first, ".", "--replay", "log", "--format", format];
        let (code, output) = service.command(&arguments);
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("allow → deny"), "{format}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_on_an_exported_version_says_that_it_is_not_active() {
    let service = TwoVersions::new().await;
    let [first, second] = &service.versions;
    let (code, output) = service.command(&["policy", "export", &first[..12], "restored"]);
    assert_eq!(code, 0, "{output}");
    let base = format!("version:{second}");
    let arguments = [
        &["policy", "report", "--html", "report.html", "--base", &base],
        &["--without", "mutants", "--without", "proof"][..],
    ];
    let (code, output) = service.command_with(["restored/schema", "restored/policies"], &arguments.concat());
    assert_eq!(code, 0, "{output}");
    let page = std::fs::read_to_string(service.files.path("report.html")).unwrap();
    assert!(page.contains(first.as_str()), "the page names its version");
    let changes = page.split_once("id=\"changes\"").unwrap().1.split_once("</section>").unwrap().0;
    assert!(changes.contains("extra") && changes.contains("listForms"), "{changes}");
    let warnings = page.split_once("id=\"warnings\"").unwrap().1.split_once("</section>").unwrap().0;
    assert!(warnings.contains("There are no policy tests"), "{warnings}");
    assert!(page.contains("Another version is active: "), "the page says which version is active");
}
