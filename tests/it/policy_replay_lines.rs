//! Lines of the decision log that `policy replay` cannot decide again: searches, filters, and lines that were changed.

use crate::authorize::user;
use crate::authzen::{EVALUATION, entity, evaluation_request};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH};
use crate::command_line::text;
use crate::policy_replay::{Policies, log_lines, serve, write_lines};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A log with searches of each kind, filters, denials and allows of a guest; masked if `mask` names attributes.
async fn log_of(policies: &Policies, mask: &[&str]) -> Vec<Value> {
    let app = serve(policies, mask).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    guest.get("/v2/forms").await;
    guest.get("/v2/users/me").await;
    let (ann, read) = (entity("Docs::Person", "ann"), json!({ "name": "read" }));
    let plan = entity("Docs::Document", "plan");
    for (path, question) in [
        (SUBJECT_SEARCH, json!({ "subject": { "type": "Docs::Person" }, "action": read, "resource": plan })),
        (
            RESOURCE_SEARCH,
            json!({ "subject": ann, "action": read, "resource": { "type": "Docs::Document" } }),
        ),
        (
            RESOURCE_SEARCH,
            json!({ "subject": user(&guest.id), "action": { "name": "fetchForm" }, "resource": { "type": "Form" } }),
        ),
        (ACTION_SEARCH, json!({ "subject": ann, "resource": plan })),
    ] {
        admin.post(path, question).await.expect(StatusCode::OK);
    }
    for person in ["ann", "nobody"] {
        let subject = entity("Docs::Person", person);
        let columns = json!({
            "resource": "id", "resource in Docs::Folder": "folder_id", "owner": "owner_id", "state": "state",
            "readers": "readers", "readerGroups": "reader_groups", "editors": "editors",
            "editorGroups": "editor_groups"
        });
        let question = json!({
            "subject": subject, "action": read, "resource": { "type": "Docs::Document" }, "columns": columns
        });
        let accept = "application/vnd.cedargate.ucast+json";
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let body = question.to_string().into_bytes();
        admin.send(Method::POST, "/access/v1/filter", &headers, Some(body)).await.expect(StatusCode::OK);
    }
    log_lines(&app, policies)
}

fn position(lines: &[Value], matches: impl Fn(&Value) -> bool) -> usize {
    lines.iter().position(matches).unwrap_or_else(|| panic!("no such line: {lines:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_and_filters_are_counted() {
    for mask in [&[][..], &["role", "email"]] {
        let policies = Policies::new();
        let lines = log_of(&policies, mask).await;
        let (report, code) = policies.replay(&["log"]);
        assert_eq!((code, &report["invalid"]["count"]), (0, &json!(0)), "{report:#}");
        let is_search = |line: &&Value| line["kind"] == "search" || line["purpose"] == "filter";
        assert_eq!(report["searches"], 6);
        assert_eq!(lines.iter().filter(is_search).count(), 6);
    }
}

const ALL_SCOPES: [&str; 4] = ["guest", "agent", "bot", "admin"];

/// Adds the scopes to the parents of the principal, as if it had them.
fn add_parents(line: &mut Value) {
    let parents = line["inputs"]["entities"][0]["parents"].as_array_mut().unwrap();
    parents.retain(|parent| parent["type"] != "Scope");
    parents.extend(ALL_SCOPES.iter().map(|scope| json!({ "type": "Scope", "id": scope })));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_line_is_found() {
    let policies = Policies::new();
    let lines = log_of(&policies, &[]).await;
    let denied = |line: &Value| line["action"] == "listForms";
    let search = |line: &Value| line["search"] == "resource";
    let filter = |line: &Value| line["purpose"] == "filter";
    type Selects<'a> = &'a dyn Fn(&Value) -> bool;
    type Change = fn(&mut Value);
    let changes: [(&str, Selects<'_>, Change); 9] = [
        ("more scopes", &denied, |line| line["subject"]["scopes"] = json!(ALL_SCOPES)),
        ("more scopes and parents", &denied, |line| {
            line["subject"]["scopes"] = json!(ALL_SCOPES);
            add_parents(line);
        }),
        ("an allow that is masked", &denied, |line| {
            (line["decision"], line["masked"]) = (json!(true), json!(true));
        }),
        ("an allow that is a search", &denied, |line| {
            (line["decision"], line["kind"]) = (json!(true), json!("search"));
        }),
        ("an allow that is a filter", &denied, |line| {
            (line["decision"], line["purpose"]) = (json!(true), json!("filter"));
        }),
        ("a search with a decision", &search, |line| line["decision"] = json!(true)),
        ("a search without results", &search, |line| line["results"] = Value::Null),
        ("a search for something else", &search, |line| line["search"] = json!("subject")),
        ("a filter of one resource", &filter, |line| line["resource"]["id"] = json!("plan")),
    ];
    for (name, matches, change) in changes {
        let mut changed = lines.clone();
        let index = position(&changed, matches);
        change(&mut changed[index]);
        write_lines(&policies, "changed", &changed);
        let (report, code) = policies.replay(&["changed"]);
        assert_eq!((code, &report["invalid"]["count"]), (3, &json!(1)), "{name}: {report:#}");
        assert_eq!(report["invalid"]["examples"][0]["line"], index + 1, "{name}");
    }
}

/// Turns a line into a denial that was not evaluated.
fn remove_evaluation(line: &mut Value, error: &str) {
    (line["decision"], line["policies"]) = (json!(false), json!([]));
    (line["errors"], line["inputs"]) = (json!([error]), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_time_caller_or_reason_is_found() {
    let policies = Policies::new();
    let app = serve(&policies, &[]).await;
    let (admin, guest) = (app.admin().await, app.user(Scope::Guest).await);
    guest.get("/v2/users/me").await.expect(StatusCode::OK);
    let form = admin.post("/v2/forms", json!({ "name": "form" })).await.id();
    let mut question = evaluation_request(user(&admin.id), "fetchForm", entity("Form", &form));
    admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
    question["subject"] = entity("Docs::Persn", "ann");
    admin.post(EVALUATION, question).await.expect(StatusCode::OK);
    let lines = log_lines(&app, &policies);
    assert_eq!(policies.replay(&["log"]).1, 0);

    let enforced = |line: &Value| line["action"] == "fetchUser" && line["purpose"] == "enforcement";
    let asked = |line: &Value| line["action"] == "fetchForm" && line["decision"] == true;
    let failed = |line: &Value| line["purpose"] == "question" && line["inputs"].is_null();
    type Selects<'a> = &'a dyn Fn(&Value) -> bool;
    type Change = fn(&mut Value);
    let changes: [(&str, Selects<'_>, Change); 12] = [
        ("another time", &enforced, |line| line["time"] = json!("2020-01-01T00:00:00.000Z")),
        ("another time of a question", &asked, |line| line["time"] = json!("2020-01-01T00:00:00.000Z")),
        ("no time", &asked, |line| line["time"] = Value::Null),
        ("another `now`", &enforced, |line| {
            line["inputs"]["context"]["now"]["__extn"]["arg"] = json!("2020-01-01T00:00:00.000Z");
        }),
        ("`now` of another type", &enforced, |line| line["inputs"]["context"]["now"] = json!(5)),
        ("another credential", &enforced, |line| line["caller"]["credential"] = json!("apiKey")),
        ("another credential in the context", &enforced, |line| {
            line["inputs"]["context"]["credential"]["__entity"]["id"] = json!("apiKey");
        }),
        ("another user", &enforced, |line| line["caller"]["user"] = json!("599e1fce9da1c72645c9588f")),
        ("no caller", &enforced, |line| line["caller"] = Value::Null),
        ("an allow as a denial without inputs", &enforced, |line| {
            remove_evaluation(line, "unknown_subject");
        }),
        ("an allowed question as a denial", &asked, |line| remove_evaluation(line, "unknown_subject")),
        ("a denial for any reason", &failed, |line| line["errors"] = json!(["any text"])),
    ];
    for (name, matches, change) in changes {
        let mut changed = lines.clone();
        let index = position(&changed, matches);
        change(&mut changed[index]);
        write_lines(&policies, "changed", &changed);
        let (report, code) = policies.replay(&["changed"]);
        assert_eq!((code, &report["invalid"]["count"]), (3, &json!(1)), "{name}: {report:#}");
        assert_eq!(report["invalid"]["examples"][0]["line"], index + 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_says_how_many_lines_were_decided() {
    let policies = Policies::new();
    let mut lines = log_of(&policies, &[]).await;
    lines.retain(|line| line["decision"].is_boolean() && line["inputs"].is_object());
    lines.truncate(2);
    let mut unknown = lines[0].clone();
    unknown["policyVersion"] = json!("0123456789abcdef");
    let broken = json!({ "no": "decision" });
    let version = &policies.path("").display().to_string();
    for (content, code, expected) in [
        (vec![], 0, "the log is empty: no line was decided again"),
        (vec![lines[0].clone()], 0, "1 decision decided again: each is as the log says"),
        (lines.clone(), 0, "2 decisions decided again: each is as the log says"),
        (vec![unknown], 4, "no line was decided again"),
        (vec![broken.clone()], 3, "no line was decided again"),
        (vec![lines[0].clone(), broken.clone()], 3, "1 are not lines of a decision log"),
    ] {
        write_lines(&policies, "few", &content);
        let output = policies.command(&["policy", "replay", "few"]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{expected}: {shown}");
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    // A comparison of policies does not hide what it could not read.
    write_lines(&policies, "few", &[lines[0].clone(), broken]);
    for (format, expected) in [
        ("text", "1 are not lines of a decision log"),
        ("markdown", "1 of 2 lines are not lines of a decision log, the first is few:2"),
    ] {
        let arguments = ["policy", "diff", ".", version, "--replay", "few", "--format", format];
        let output = policies.command(&arguments);
        let shown = text(&output.stdout).replace("&#58;", ":");
        assert_eq!(output.status.code(), Some(3), "{shown}{}", text(&output.stderr));
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

const ROOM_SCHEMA: &str = r#"namespace Rooms {
  entity Visitor in [Party];
  entity Party, Floor;
  entity Room in [Floor] { organization: Organization };
  action see appliesTo { principal: Visitor, resource: Room };
}"#;

const ROOM_POLICIES: &str = r#"
@id("room.see") @doc("The party may see the rooms of the ground floor.")
permit (principal is Rooms::Visitor in Rooms::Party::"party", action == Rooms::Action::"see", resource in Rooms::Floor::"ground");
"#;

/// Entities of the data: two rooms of one organization, and a visitor. The second room is on this floor.
fn room_data(floor: &str) -> String {
    let room = |id: &str, floor: &str| {
        json!({
            "uid": entity("Rooms::Room", id),
            "attrs": { "organization": { "__entity": entity("Organization", "65a000000000000000000001") } },
            "parents": [entity("Rooms::Floor", floor)],
        })
    };
    let visitor = json!({
        "uid": entity("Rooms::Visitor", "eve"), "attrs": {}, "parents": [entity("Rooms::Party", "party")]
    });
    let other = [("Rooms::Party", "party"), ("Rooms::Floor", "ground"), ("Rooms::Floor", "upper")]
        .map(|(kind, id)| json!({ "uid": entity(kind, id), "attrs": {}, "parents": [] }));
    let entities = [visitor, room("hall", "ground"), room("study", floor)].into_iter().chain(other);
    entities.collect::<Value>().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_of_the_data_has_the_ancestors_of_the_replayed_version() {
    let policies = Policies::new();
    std::fs::write(policies.path("schema/rooms.cedarschema"), ROOM_SCHEMA).unwrap();
    std::fs::write(policies.path("policies/rooms.cedar"), ROOM_POLICIES).unwrap();
    std::fs::write(policies.path("policies/rooms.json"), room_data("ground")).unwrap();
    let app = serve(&policies, &[]).await;
    let admin = app.admin().await;
    for room in ["hall", "study", "hall", "study"] {
        let question =
            evaluation_request(entity("Rooms::Visitor", "eve"), "see", entity("Rooms::Room", room));
        assert_eq!(admin.post(EVALUATION, question).await.expect(StatusCode::OK)["decision"], true);
    }
    log_lines(&app, &policies);
    let against = policies.0.path().display().to_string();
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!((code, &report["flips"]["count"]), (0, &json!(0)), "{report:#}");

    std::fs::write(policies.path("policies/rooms.json"), room_data("upper")).unwrap();
    let (report, code) = policies.replay(&["log", "--against", &against]);
    assert_eq!((code, &report["flips"]["count"]), (3, &json!(2)), "{report:#}");
    assert_eq!(report["flips"]["groups"][0]["examples"][0]["resource"], "Rooms::Room::\"study\"");
}

#[test]
fn invalid_policies_are_findings_in_the_format_of_the_report() {
    let [policies, other] = [Policies::new(), Policies::new()];
    std::fs::write(policies.path("log"), "").unwrap();
    let wrong = "@id(\"wrong\")\npermit (principal,, resource);";
    std::fs::write(other.path("policies/wrong.cedar"), wrong).unwrap();
    let source = other.path("").display().to_string();
    let against = ["policy", "replay", "log", "--format", "json", "--against", &source];
    let own = ["policy", "replay", "log", "--format", "json"];
    let finding = |policies: &Policies, arguments: &[&str], code| {
        let output = policies.command(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["findings"][0]["rule"], "syntax", "{report:#}");
        report["findings"][0].clone()
    };
    assert_eq!(finding(&policies, &against, 1)["source"], source);
    std::fs::write(other.path("log"), "").unwrap();
    assert_eq!(finding(&other, &own, 3)["file"], "policies/wrong.cedar");
}
