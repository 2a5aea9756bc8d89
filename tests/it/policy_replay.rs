//! `cedargate policy replay`: lines of the decision log are decided again.

use crate::authorize::user;
use crate::authzen::{EVALUATION, EVALUATIONS, entity, evaluation_request};
use crate::command_line::{run, text};
use crate::support::{Client, TestApp, project_file};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicyId, PolicySet, Request, Schema,
};
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;

const GATE_SCHEMA: &str = r#"namespace Gate {
  entity Person { name?: String };
  entity Door { open: Bool };
  action enter appliesTo {
    principal: Person, resource: Door, context: { alarm: Bool, now?: datetime, guide?: Person },
  };
}"#;

const GATE_POLICIES: &str = r#"
@id("gate.enter") @doc("Doors are open until 2027, unless there is an alarm.")
permit (principal is Gate::Person, action == Gate::Action::"enter", resource is Gate::Door)
when { !context.alarm && context has now && context.now < datetime("2027-01-01") && resource.open };

@id("gate.guided") @doc("Nobody is their own guide.")
forbid (principal is Gate::Person, action == Gate::Action::"enter", resource is Gate::Door)
when { context has guide && context.guide == principal };
"#;

/// A copy of the shipped policies, the documents example and a domain whose policies read the context.
pub(crate) struct Policies(pub(crate) tempfile::TempDir);

impl Policies {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["schema", "policies", "examples/documents/schema", "examples/documents/policies"] {
            let copy = directory.path().join(name);
            std::fs::create_dir_all(&copy).unwrap();
            for entry in std::fs::read_dir(project_file(name)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        std::fs::write(directory.path().join("schema/gate.cedarschema"), GATE_SCHEMA).unwrap();
        std::fs::write(directory.path().join("policies/gate.cedar"), GATE_POLICIES).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn paths(&self, name: &str) -> Vec<PathBuf> {
        vec![self.path(name), self.path("examples/documents").join(name)]
    }

    pub(crate) fn replace(&self, name: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(old), "{name} does not contain {old}");
        std::fs::write(self.path(name), text.replace(old, new)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        // Relative, so that they are looked for below another directory, too.
        let list = |name: &str| format!("{name},examples/documents/{name}");
        let (schema, policies) = (list("schema"), list("policies"));
        let settings = [("CEDARGATE_SCHEMA", schema.as_str()), ("CEDARGATE_POLICIES", policies.as_str())];
        run(self.0.path(), &settings, arguments)
    }

    /// The JSON report, and the exit code.
    pub(crate) fn replay(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.command(&[&["policy", "replay", "--format", "json"], arguments].concat());
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)));
        (report, output.status.code().unwrap())
    }
}

/// A service with these policies that logs everything.
pub(crate) async fn serve(policies: &Policies, mask: &[&str]) -> TestApp {
    let log = policies.path("log").display().to_string();
    TestApp::start_with(|config| {
        (config.schema, config.policies) = (policies.paths("schema"), policies.paths("policies"));
        config.decision_log = DecisionLogFilter::Full;
        config.decision_log_path = log;
        config.decision_log_mask = mask.iter().map(|name| (*name).to_owned()).collect();
    })
    .await
}

/// The lines of the log, which is closed.
pub(crate) fn log_lines(app: &TestApp, policies: &Policies) -> Vec<Value> {
    app.state.decision_log.close();
    let text = std::fs::read_to_string(policies.path("log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes decisions of every kind: enforcement on own and other resources, questions about own types, the external domains, with
/// context, about missing and unknown entities, batches, forward authentication.
async fn make_decisions(app: &TestApp) {
    let admin = app.admin().await;
    let (organization, tenant) = app.tenant("acme").await;
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let mut users = vec![tenant.clone()];
    for scope in Scope::ALL {
        let client = app.user(scope).await;
        enforce(&client, &organization, &form).await;
        users.push(client);
    }
    let key = app.bearer(&users[1].key(&[Scope::Guest]).await);
    enforce(&key, &organization, &form).await;
    for person in &users {
        for (action, resource) in [
            ("fetchForm", json!({ "type": "Form", "id": form })),
            ("deleteForm", json!({ "type": "Form", "id": person.id })),
            ("createForm", json!({ "type": "Form", "id": form })),
            ("createForm", json!({ "type": "Organization", "id": organization })),
            ("fetchForm", json!({ "type": "Form", "id": "malformed" })),
            ("noSuchAction", json!({ "type": "Form", "id": form })),
            ("updateUser", json!({ "type": "User", "id": person.id })),
            ("fetchUser", json!({ "type": "User", "id": users[0].id })),
            ("listForms", json!({ "type": "Organization", "id": organization })),
        ] {
            let mut question = evaluation_request(user(&person.id), action, resource);
            for context in
                [json!({}), json!({ "changes": ["role"], "credential": "apiKey" }), json!({ "changes": 5 })]
            {
                question["context"] = context;
                admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
            }
        }
    }
    admin.post(EVALUATION, evaluation_request(user(&form), "fetchForm", user(&form))).await;
    let mut items = Vec::new();
    for person in ["ann", "ben", "cleo", "dan", "unknown \"é\""] {
        for (kind, id) in
            [("Docs::Document", "plan"), ("Docs::Folder", "handbook"), ("Docs::Document", "new")]
        {
            for action in ["read", "edit", "share", "delete"] {
                let mut item = evaluation_request(entity("Docs::Person", person), action, entity(kind, id));
                item["context"] = json!({ "outside": action == "share" });
                items.push(item);
            }
        }
        for context in [
            json!({ "alarm": false }),
            json!({ "alarm": true }),
            json!({}),
            json!({ "alarm": false, "guide": { "type": "Gate::Person", "id": "ann" } }),
            json!({ "alarm": "no" }),
        ] {
            let door = json!({ "type": "Gate::Door", "id": "front", "properties": { "open": true } });
            let mut item = evaluation_request(entity("Gate::Person", person), "enter", door);
            item["context"] = context;
            items.push(item.clone());
            item["resource"] = entity("Gate::Door", "side");
            items.push(item);
        }
    }
    admin.post(EVALUATIONS, json!({ "evaluations": items })).await.expect(StatusCode::OK);
}

/// Requests that the service itself allows or denies.
async fn enforce(client: &Client, organization: &str, form: &str) {
    for path in ["/v2/forms", "/v2/users/me", "/v2/organizations", "/v2/conversations"] {
        client.get(path).await;
    }
    for path in [format!("/v2/forms/{form}"), format!("/v2/forms/{organization}")] {
        client.get(&path).await;
        client.patch(&path, json!({ "name": "changed" })).await;
    }
    client.post("/v2/conversations", json!({})).await;
    client.post("/v2/forms", json!({ "name": "form" })).await;
    client.post("/v2/forms", json!({ "name": "form", "organization": organization })).await;
    client.patch("/v2/users/me", json!({ "givenName": "Ada" })).await;
    client.send(Method::GET, "/v2/authorize/forward/v2/users/me", &[], None).await;
}

/// Everything that the plain authorizer needs: the whole policy set, and all entities of the data.
struct PlainPolicies {
    schema: Schema,
    policies: PolicySet,
    entities: Entities,
}

impl PlainPolicies {
    fn read(files: &Policies) -> Self {
        let read = |name: &str, extension: &str| -> Vec<String> {
            let directories = files.paths(name).into_iter().flat_map(|path| std::fs::read_dir(path).unwrap());
            let paths = directories.map(|entry| entry.unwrap().path());
            paths
                .filter(|path| path.extension().is_some_and(|actual| actual == extension))
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect()
        };
        let (schema, _) = Schema::from_cedarschema_str(&read("schema", "cedarschema").join("\n")).unwrap();
        let parsed: PolicySet = read("policies", "cedar").join("\n").parse().unwrap();
        let policies =
            parsed.policies().map(|policy| policy.new_id(PolicyId::new(policy.annotation("id").unwrap())));
        let policies = PolicySet::from_policies(policies).unwrap();
        let data = read("policies", "json")
            .into_iter()
            .flat_map(|text| serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default());
        let entities = Entities::from_json_value(data.collect(), Some(&schema)).unwrap();
        Self { schema, policies, entities }
    }

    /// The decision on a line and the determining policies. An error of the request or of a policy denies.
    fn decide(&self, line: &Value) -> (bool, Vec<String>) {
        self.try_decide(line).unwrap_or_default()
    }

    fn try_decide(&self, line: &Value) -> Option<(bool, Vec<String>)> {
        let uid = |value: &Value| {
            EntityUid::from_json(json!({ "__entity": { "type": value["type"], "id": value["id"] } })).ok()
        };
        let action = line["action"].as_str()?;
        let action: EntityUid = match action.contains("::\"") {
            true => action.parse().ok()?,
            false => format!("Action::{action:?}").parse().ok()?,
        };
        let inputs = &line["inputs"];
        let resource =
            uid(if inputs["resource"].is_null() { &line["resource"] } else { &inputs["resource"] })?;
        let context =
            Context::from_json_value(inputs["context"].clone(), Some((&self.schema, &action))).ok()?;
        let request =
            Request::new(uid(&line["subject"])?, action, resource, context, Some(&self.schema)).ok()?;
        let own = inputs["entities"].as_array().unwrap().iter();
        let own = own.map(|entity| Entity::from_json_value(entity.clone(), None).unwrap());
        let entities = self.entities.clone().upsert_entities(own, None).unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        // A failing policy denies. Then the permits are not the reason.
        let is_allowed = response.decision() == Decision::Allow;
        if is_allowed && response.diagnostics().errors().next().is_some() {
            return None;
        }
        let mut policies: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        policies.sort();
        Some((is_allowed, policies))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_replays_as_it_says_and_as_the_plain_authorizer_decides() {
    let policies = Policies::new();
    let app = serve(&policies, &[]).await;
    make_decisions(&app).await;
    let lines = log_lines(&app, &policies);
    let (report, code) = policies.replay(&["log"]);
    assert_eq!(code, 0, "{report:#}");
    let evaluated: Vec<&Value> = lines.iter().filter(|line| !line["inputs"].is_null()).collect();
    assert_eq!(report["lines"], lines.len());
    assert_eq!(report["replayed"], evaluated.len());
    assert_eq!(report["notEvaluated"], lines.len() - evaluated.len());
    assert!(evaluated.len() > 400 && lines.len() > evaluated.len(), "{report:#}");
    for purpose in ["enforcement", "question", "prerequisite"] {
        for decision in [true, false] {
            let matches = |line: &&Value| line["purpose"] == purpose && line["decision"] == decision;
            assert!(lines.iter().any(|line| matches(&line)), "{purpose} {decision}");
        }
    }
    let plain = PlainPolicies::read(&policies);
    for line in evaluated {
        // A create action applies to a new resource only, and a missing resource is denied in any case.
        let creates = line["action"].as_str().unwrap().strip_prefix("create");
        let is_existing =
            creates.is_some_and(|kind| kind != "Organization" && line["resource"]["type"] == kind);
        if is_existing && line["inputs"]["new"].is_null() || line["missing"] == true {
            assert_eq!(line["decision"], false, "{line}");
            continue;
        }
        let logged: Vec<String> = serde_json::from_value(line["policies"].clone()).unwrap();
        assert_eq!((line["decision"] == true, logged), plain.decide(line), "{line}");
    }
}

/// Writes lines to a file of these policies' directory.
pub(crate) fn write_lines(policies: &Policies, name: &str, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(policies.path(name), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_line_is_found() {
    let policies = Policies::new();
    let app = serve(&policies, &[]).await;
    let guest = app.user(Scope::Guest).await;
    for _ in 0..3 {
        guest.get("/v2/forms").await;
        guest.get("/v2/users/me").await;
    }
    let mut lines = log_lines(&app, &policies);
    let denied = lines.iter().position(|line| line["action"] == "listForms").unwrap();
    let allowed = lines.iter().position(|line| line["action"] == "fetchUser").unwrap();
    write_lines(&policies, "same", &lines);
    assert_eq!(policies.replay(&["same"]).1, 0);
    // The decision, the policies, an attribute of an entity, and a removed input.
    lines[denied]["decision"] = json!(true);
    write_lines(&policies, "changed", &lines);
    let (report, code) = policies.replay(&["changed"]);
    assert_eq!((code, &report["differences"]["count"]), (3, &json!(1)), "{report:#}");
    let example = &report["differences"]["examples"][0];
    assert_eq!((&example["file"], &example["line"]), (&json!("changed"), &json!(denied + 1)));
    assert_eq!(example["evaluation_id"], Value::Null);
    assert_eq!(example["evaluationId"], lines[denied]["evaluation_id"]);
    lines[allowed]["policies"] = json!(["admin"]);
    write_lines(&policies, "changed", &lines);
    assert_eq!(policies.replay(&["changed"]).0["differences"]["count"], 2);
    let output = policies.command(&["policy", "replay", "changed"]);
    let shown = text(&output.stdout);
    assert!(
        shown.contains(&format!("changed:{}: User::", allowed + 1)) && shown.contains("decided allow by"),
        "{shown}"
    );
    lines[allowed]["inputs"] = Value::Null;
    write_lines(&policies, "changed", &lines);
    let (report, code) = policies.replay(&["changed"]);
    assert_eq!((code, &report["invalid"]["count"]), (3, &json!(1)), "{report:#}");
    assert_eq!(report["invalid"]["examples"][0]["line"], allowed + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_unknown_and_incomplete_lines_are_counted() {
    let policies = Policies::new();
    let app = serve(&policies, &["email", "vip"]).await;
    let guest = app.user(Scope::Guest).await;
    guest.get("/v2/users/me").await;
    guest.get("/v2/forms").await;
    let mut lines = log_lines(&app, &policies);
    let masked = lines.iter().filter(|line| line["masked"] == true).count();
    let (report, code) = policies.replay(&["log"]);
    assert_eq!((code, &report["masked"]), (0, &json!(masked)), "{report:#}");
    assert!(masked > 0, "the email of a user is masked");
    assert_eq!(report["replayed"], lines.len() - masked);

    lines.retain(|line| line["masked"].is_null());
    let Some(mut line) = lines.first().cloned() else { panic!("no line without masked values") };
    line["policyVersion"] = json!("0123456789abcdef");
    write_lines(&policies, "log.1", &[line.clone(), line.clone()]);
    std::fs::write(
        policies.path("log"),
        format!("{}\n{{\"dropped\":7,\"time\":\"now\"}}\n{{\"time\":\"20", lines[0]),
    )
    .unwrap();
    let (report, code) = policies.replay(&["log", "log.1"]);
    assert_eq!(code, 4, "{report:#}");
    assert_eq!(report["files"], json!(["log.1", "log"]));
    assert_eq!(report["unknownVersions"], json!({ "0123456789abcdef": 2 }));
    assert_eq!(
        (&report["incomplete"], &report["dropped"], &report["replayed"]),
        (&json!(1), &json!(7), &json!(1))
    );
    // The same text in the middle of a file is a changed log.
    std::fs::write(policies.path("log"), format!("{{\"time\":\"20\n{}\n", lines[0])).unwrap();
    let (report, code) = policies.replay(&["log"]);
    assert_eq!((code, &report["invalid"]["count"]), (3, &json!(1)), "{report:#}");
    let output = policies.command(&["policy", "replay", "missing"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_against_other_policies_reports_what_they_change() {
    let policies = Policies::new();
    let app = serve(&policies, &[]).await;
    make_decisions(&app).await;
    let lines = log_lines(&app, &policies);
    let other = Policies::new();
    let against = other.0.path().display().to_string();
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!((code, &report["flips"]["count"]), (0, &json!(0)), "{report:#}");

    other.replace("policies/gate.cedar", "!context.alarm && ", "");
    other.replace("policies/gate.cedar", "context.guide == principal", "true");
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!(code, 3, "{report:#}");
    let plain = PlainPolicies::read(&other);
    let gate = |line: &&Value| line["action"].as_str().unwrap().starts_with("Gate::");
    let expected = lines.iter().filter(gate).filter(|line| {
        !line["inputs"].is_null() && plain.decide(line).0 != line["decision"].as_bool().unwrap()
    });
    assert_eq!(report["flips"]["count"], expected.count());
    let groups = report["flips"]["groups"].as_array().unwrap();
    let summary: Vec<(bool, &Value)> =
        groups.iter().map(|group| (group["allowed"].as_bool().unwrap(), &group["policies"])).collect();
    assert!(summary.contains(&(true, &json!(["gate.enter"]))), "{report:#}");
    assert!(summary.contains(&(false, &json!(["gate.guided"]))), "{report:#}");
    let example = &groups[0]["examples"][0];
    let line = &lines[usize::try_from(example["line"].as_u64().unwrap()).unwrap() - 1];
    assert_eq!(example["evaluationId"], line["evaluation_id"]);
    let output = policies.command(&["policy", "replay", "log", "--against", &against]);
    let shown = text(&output.stdout);
    assert!(
        shown.contains("deny → allow by gate.enter") && shown.contains("allow → deny by gate.guided"),
        "{shown}"
    );
}

/// The scopes that a scope implies if agents are no longer guests.
fn implied_without_guest(scope: &str) -> &'static [&'static str] {
    match scope {
        "admin" => &["admin", "bot", "agent"],
        "bot" => &["bot", "agent"],
        "agent" => &["agent"],
        _ => &["guest"],
    }
}

/// The line with the scopes of a user as [`implied_without_guest`] says.
fn with_changed_cascade(line: &Value) -> Value {
    let mut changed = line.clone();
    let Some(claimed) = line["subject"]["claimed"].as_array() else { return changed };
    let subject = json!({ "type": line["subject"]["type"], "id": line["subject"]["id"] });
    let entities = changed["inputs"]["entities"].as_array_mut().into_iter().flatten();
    for user in entities.filter(|entity| entity["uid"] == subject) {
        let role = implied_without_guest(user["attrs"]["role"]["__entity"]["id"].as_str().unwrap());
        let parents = user["parents"].as_array_mut().unwrap();
        parents.retain(|parent| parent["type"] != "Scope");
        for claimed in claimed {
            let implied = implied_without_guest(claimed.as_str().unwrap());
            let effective = implied.iter().filter(|scope| role.contains(scope));
            parents.extend(effective.map(|scope| json!({ "type": "Scope", "id": scope })));
        }
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cascade_or_group_flips_decisions() {
    let policies = Policies::new();
    let app = serve(&policies, &[]).await;
    make_decisions(&app).await;
    // A key that claims more than the role of its user implies.
    let (admin, demoted) = (app.admin().await, app.user(Scope::Admin).await);
    let key = app.bearer(&demoted.key(&[Scope::Admin]).await);
    let path = format!("/v2/users/{}", demoted.id);
    admin.patch(&path, json!({ "role": "bot" })).await.expect(StatusCode::OK);
    key.get("/v2/conversations").await.expect(StatusCode::OK);
    let lines = log_lines(&app, &policies);
    let capped = lines.iter().find(|line| {
        line["subject"]["claimed"] == json!(["admin"])
            && line["subject"]["id"] == demoted.id.as_str()
            && line["action"] == "listConversations"
    });
    assert_eq!(capped.unwrap()["subject"]["scopes"], json!(["guest", "agent", "bot"]));

    let other = Policies::new();
    let agent = r#""id": "agent" }, "attrs": {}, "parents": ["#;
    let guest = r#"{ "type": "Scope", "id": "guest" }"#;
    other.replace("policies/scopes.json", &format!("{agent}{guest}]"), &format!("{agent}]"));
    let against = other.0.path().display().to_string();
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!(code, 3, "{report:#}");
    let plain = PlainPolicies::read(&other);
    let expected = lines.iter().filter(|line| {
        !line["inputs"].is_null() && line["decision"] == true && !plain.decide(&with_changed_cascade(line)).0
    });
    let expected = expected.count();
    assert!(expected > 5, "{expected}");
    assert_eq!(report["flips"]["count"], expected, "{report:#}");

    let other = Policies::new();
    other.replace(
        "examples/documents/policies/documents.json",
        r#""attrs": { "name": "Ben" }, "parents": [{ "type": "Docs::Group", "id": "engineers" }]"#,
        r#""attrs": { "name": "Ben" }, "parents": []"#,
    );
    let against = other.0.path().display().to_string();
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!(code, 3, "{report:#}");
    for group in report["flips"]["groups"].as_array().unwrap() {
        for example in group["examples"].as_array().unwrap() {
            assert_eq!(example["principal"], "Docs::Person::\"ben\"", "{report:#}");
        }
    }
}

#[test]
fn a_source_that_does_not_exist_is_named() {
    let policies = Policies::new();
    std::fs::write(policies.path("log"), "").unwrap();
    for (source, expected) in [("nowhere", "nowhere: expected a directory"), ("git:-x", "invalid revision")] {
        let output = policies.command(&["policy", "replay", "log", "--against", source]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(expected), "{source}: {}", text(&output.stderr));
    }
    assert!(Path::new(&policies.path("log")).exists());
}
