//! Policies that change while the service runs.

use crate::support::{TestApp, project_file};
use cedargate::authz::Scope;
use cedargate::config::{Config, PolicyReload};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::path::Path;

/// A copy of the shipped policies and schema that a test can change.
pub(crate) struct PolicyFiles(tempfile::TempDir);

impl PolicyFiles {
    pub(crate) fn new() -> Self {
        let copy = tempfile::tempdir().unwrap();
        for name in ["policies", "schema"] {
            std::fs::create_dir(copy.path().join(name)).unwrap();
            for entry in std::fs::read_dir(project_file(name)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, copy.path().join(name).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        Self(copy)
    }

    /// Writes a policy file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub(crate) async fn serve(&self) -> TestApp {
        self.serve_with(|_| ()).await
    }

    /// Starts the service with these policies and changed settings.
    pub(crate) async fn serve_with(&self, change: impl FnOnce(&mut Config)) -> TestApp {
        let (policies, schema) = (self.path("policies"), self.path("schema"));
        TestApp::start_with(|config| {
            config.policies = vec![policies];
            config.schema = vec![schema];
            // Most tests add and remove policies.
            config.policy_reload = PolicyReload::Auto;
            change(config);
        })
        .await
    }
}

const LATE: &str = "@id(\"late\")\nforbid (principal, action == Action::\"listForms\", resource);";

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn reloaded_policies_take_effect_immediately() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let admin = app.admin().await;
    let before = admin.get("/v2/policies").await.expect(StatusCode::OK);
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    write(&files.path("policies/late.cedar"), LATE);
    let reloaded = admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    assert_eq!(reloaded["changed"], true);
    assert_ne!(reloaded["version"], before["version"]);
    admin.get("/v2/forms").await.expect_problem(403, "forbidden");
    let after = admin.get("/v2/policies").await.expect(StatusCode::OK);
    assert_eq!(after["version"], reloaded["version"]);
    let late = after["policies"].as_array().unwrap().iter().find(|policy| policy["id"] == "late").unwrap();
    assert_eq!((late["effect"].as_str(), late["file"].as_str()), (Some("forbid"), Some("late.cedar")));
    // Deleted files and changes of the schema also change the version.
    std::fs::remove_file(files.path("policies/late.cedar")).unwrap();
    let back = admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    assert_eq!(back["version"], before["version"]);
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    assert_eq!(admin.post("/v2/policies/reload", json!({})).await.json["changed"], false);
    let schema = files.path("schema/cedargate.cedarschema");
    let text = std::fs::read_to_string(&schema).unwrap();
    write(&schema, &format!("{text}\n// another form of the same"));
    assert_eq!(admin.post("/v2/policies/reload", json!({})).await.json["changed"], true);
}

#[tokio::test]
async fn a_changed_scope_hierarchy_takes_effect_on_the_next_question() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let path = format!("/v2/conversations/{conversation}");
    let question = json!({
        "subject": { "type": "User", "id": agent.id },
        "action": { "name": "fetchConversation" },
        "resource": { "type": "Conversation", "id": conversation }
    });
    let whole = std::fs::read_to_string(files.path("policies/scopes.json")).unwrap();
    let mut modified: Value = serde_json::from_str(&whole).unwrap();
    let scopes = modified.as_array_mut().unwrap();
    let mut below = |scope: &str, all: &[&str]| {
        let found = scopes.iter_mut().find(|other| other["uid"]["id"] == scope).unwrap();
        found["parents"] = all.iter().map(|id| json!({ "type": "Scope", "id": id })).collect();
    };
    // Agents no longer inherit from guests; bots, which ask about them, still do.
    below("agent", &[]);
    below("bot", &["agent", "guest"]);
    for (cascade, status) in [(&whole, 200), (&modified.to_string(), 403), (&whole, 200)] {
        files.write("policies/scopes.json", cascade);
        admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
        // The second time, the decision may be cached.
        for _ in 0..2 {
            let one = admin.post("/access/v1/evaluation", question.clone()).await.expect(StatusCode::OK);
            let batch = json!({ "evaluations": [question, question] });
            let both = admin.post("/access/v1/evaluations", batch).await.expect(StatusCode::OK);
            let decisions = [&one, &both["evaluations"][0], &both["evaluations"][1]];
            assert!(decisions.iter().all(|answer| answer["decision"] == (status == 200)), "{decisions:?}");
            assert_eq!(agent.get(&path).await.status.as_u16(), status);
        }
    }
}

#[tokio::test]
async fn invalid_policies_are_rejected_with_file_and_line() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let admin = app.admin().await;
    let before = admin.get("/v2/policies").await.expect(StatusCode::OK);
    write(&files.path("policies/late.cedar"), "@id(\"late\")\nforbid (principal,, resource);");
    let refused = admin.post("/v2/policies/reload", json!({})).await;
    refused.expect_problem(409, "invalid_policies");
    assert!(refused.text.contains("late.cedar:2: "), "{}", refused.text);
    admin.get("/v2/forms").await.expect(StatusCode::OK);
    let after = admin.get("/v2/policies").await.expect(StatusCode::OK);
    assert_eq!(after["version"], before["version"]);
    assert!(after["fault"].as_str().unwrap().contains("late.cedar:2: "));
    // Monitoring shows that the reload failed, and where the error is.
    let ready = app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
    assert_eq!((ready["ready"].as_bool(), &ready["policyVersion"]), (Some(true), &before["version"]));
    let fault = ready["policyFault"].as_str().unwrap();
    assert!(fault.contains(" late.cedar:2;") && !fault.contains('/'), "{fault}");
    let metrics = app.anonymous().get("/metrics").await.text;
    for line in
        ["cedargate_policy_last_reload_failed 1", "cedargate_policy_reloads_total{outcome=\"failed\"} 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    std::fs::remove_file(files.path("policies/late.cedar")).unwrap();
    admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
    let ready = app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
    assert!(ready["policyFault"].is_null());
    assert_eq!(app.anonymous().get("/health/live").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn only_admins_of_the_root_may_reload_policies() {
    let app = TestApp::start().await;
    let (_, tenant) = app.tenant("acme").await;
    tenant.get("/v2/policies").await.expect(StatusCode::OK);
    tenant.post("/v2/policies/reload", json!({})).await.expect_problem(403, "forbidden");
    for scope in [Scope::Guest, Scope::Agent, Scope::Bot] {
        let user = app.user(scope).await;
        user.get("/v2/policies").await.expect_problem(403, "forbidden");
        user.post("/v2/policies/reload", json!({})).await.expect_problem(403, "forbidden");
    }
}

/// The number of requests, and their rate per second, independently of earlier responses. A slow machine gets all of them as
/// fast as it can respond.
const REQUESTS: u32 = 6_000;
const RATE: u32 = 2_000;
const CLIENTS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_under_load_is_from_one_policy_version() {
    let files = PolicyFiles::new();
    let app = files.serve().await;
    let admin = app.admin().await;
    let organization = admin.get("/v2/users/me").await.json["organization"].clone();
    let first = admin.get("/v2/policies").await.json["version"].as_str().unwrap().to_owned();
    let question = json!({
        "action": { "name": "listForms" }, "resource": { "type": "Organization", "id": organization }
    });
    let mut tasks = tokio::task::JoinSet::new();
    let start = tokio::time::Instant::now();
    for client in 0..CLIENTS {
        let (admin, question, first) = (admin.clone(), question.clone(), first.clone());
        tasks.spawn(async move {
            let mut permitted = 0;
            let second = std::time::Duration::from_secs(1);
            let mut pace = tokio::time::interval_at(start + second * client / RATE, second * CLIENTS / RATE);
            for _ in 0..REQUESTS / CLIENTS {
                pace.tick().await;
                let reply = admin.post("/v2/authorize", question.clone()).await;
                let version = reply.header("x-policy-version").to_owned();
                let answer: Value = reply.expect(StatusCode::OK);
                // The first version permits and the other one forbids. No response may mix them.
                assert_eq!(answer["decision"], version == first, "{version}: {answer}");
                assert_eq!(answer["context"]["version"], version.as_str());
                permitted += u32::from(version == first);
            }
            permitted
        });
    }
    let mut reloads = 0;
    let mut permitted = 0;
    while !tasks.is_empty() || reloads < 10 {
        if reloads % 2 == 0 {
            write(&files.path("policies/late.cedar"), LATE);
        } else {
            std::fs::remove_file(files.path("policies/late.cedar")).unwrap();
        }
        let reloaded = admin.post("/v2/policies/reload", json!({})).await.expect(StatusCode::OK);
        assert_eq!(reloaded["version"] == first.as_str(), reloads % 2 == 1);
        // Effective with the next question.
        let answer = admin.post("/v2/authorize", question.clone()).await.json;
        assert_eq!(answer["decision"], reloads % 2 == 1);
        reloads += 1;
        while let Some(done) = tasks.try_join_next() {
            permitted += done.unwrap();
        }
    }
    assert!((1..REQUESTS).contains(&permitted), "both versions must have decided: {permitted} of {REQUESTS}");
}

#[tokio::test]
async fn changed_files_and_sighup_trigger_a_reload() {
    let files = PolicyFiles::new();
    let directory = tempfile::tempdir().unwrap();
    let (policies, schema) = (files.path("policies"), files.path("schema"));
    // The same with a symbolic link whose target is replaced.
    let linked = directory.path().join("late");
    std::os::unix::fs::symlink(&linked, files.path("policies/late.cedar")).unwrap();
    for (poll, sends_sighup) in [("1", false), ("0", true)] {
        write(&linked, "// Nothing yet.");
        let settings = [
            ("CEDARGATE_POLICIES", policies.to_str().unwrap()),
            ("CEDARGATE_SCHEMA", schema.to_str().unwrap()),
            ("CEDARGATE_POLICY_POLL_SECONDS", poll),
            ("CEDARGATE_POLICY_RELOAD", "auto"),
            ("CEDARGATE_ADMIN_PASSWORD", crate::support::PASSWORD),
        ];
        let running = crate::command_line::start(directory.path(), &settings);
        let client = crate::command_line::client(&running.base);
        let login = json!({ "email": "admin@example.com", "password": crate::support::PASSWORD });
        let token = client.post("/v2/auth/token", login).await.json["token"].as_str().unwrap().to_owned();
        let admin = crate::support::Client { bearer: Some(token), ..client };
        let version = async || admin.get("/v2/policies").await.expect(StatusCode::OK)["version"].clone();
        let before = version().await;
        write(&linked, LATE);
        if sends_sighup {
            let hangup =
                std::process::Command::new("kill").args(["-HUP", &running.id().to_string()]).status();
            assert!(hangup.unwrap().success());
        }
        while version().await == before {
            tokio::task::yield_now().await;
        }
        admin.get("/v2/forms").await.expect_problem(403, "forbidden");
    }
}

#[tokio::test]
async fn the_permitted_actions_of_a_user_are_listed() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let admin = app.admin().await;
    let item = admin.post("/v2/kbitems", json!({ "title": "Opening hours" })).await.id();
    let path = format!("/v2/users/me/permissions?type=KnowledgeItem&id={item}");
    let allowed = agent.get(&path).await.expect(StatusCode::OK)["actions"].clone();
    assert_eq!(allowed, json!(["fetchKnowledgeItem", "referTo", "updateKnowledgeItem"]));
    let own = agent.get("/v2/users/me/permissions").await.expect(StatusCode::OK);
    assert_eq!(own["type"], "Organization");
    assert!(own["actions"].as_array().unwrap().contains(&json!("createConversation")));
    assert!(!own["actions"].as_array().unwrap().contains(&json!("createForm")));
    let of_admin = format!("/v2/users/{}/permissions?type=KnowledgeItem&id={item}", admin.id);
    agent.get(&of_admin).await.expect_problem(403, "forbidden");
    let bot = app.user(Scope::Bot).await;
    let allowed = bot.get(&of_admin).await.expect(StatusCode::OK)["actions"].clone();
    assert_eq!(allowed.as_array().unwrap().len(), 4);
    let missing = "/v2/users/me/permissions?type=KnowledgeItem&id=599e1fcd9da1c72645c95886";
    assert_eq!(agent.get(missing).await.expect(StatusCode::OK)["actions"], json!([]));
}
