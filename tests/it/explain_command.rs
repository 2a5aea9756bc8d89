//! `cedargate policy explain`: what it prints, and its exit codes.

use crate::command_line::run;
use crate::support::{TestApp, project_file};
use cedargate::authz::Scope;
use serde_json::{Value, json};

/// What a run of the command returned.
struct Explained {
    code: Option<i32>,
    text: String,
    errors: String,
}

fn explain(app: &TestApp, arguments: &[&str]) -> Explained {
    let [policies, schema] = ["policies", "schema"].map(|name| {
        let more = project_file(&format!("examples/documents/{name}"));
        format!("{},{}", project_file(name).display(), more.display())
    });
    explain_with(app, &policies, &schema, arguments)
}

/// Explains with these policies and schemas.
fn explain_with(app: &TestApp, policies: &str, schema: &str, arguments: &[&str]) -> Explained {
    let settings = [
        ("CEDARGATE_DATABASE_URL", app.url()),
        ("CEDARGATE_POLICIES", policies),
        ("CEDARGATE_SCHEMA", schema),
    ];
    let output = run(app.directory(), &settings, &[&["policy", "explain"], arguments].concat());
    Explained {
        code: output.status.code(),
        text: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

const BEN_SHARES: [&str; 6] =
    ["--subject", "Docs::Person:ben", "--action", "share", "--resource", "Docs::Document:plan"];

#[tokio::test]
async fn a_deny_names_the_part_that_decided_and_the_least_change() {
    let app = TestApp::start().await;
    let no = explain(&app, &[&BEN_SHARES[..], &["--context", r#"{"outside": true}"#]].concat());
    assert_eq!(no.code, Some(3), "{}", no.errors);
    let expected = "\
deny: Docs::Person:ben share Docs::Document:plan
  forbidden by
    docs.outside  documents.cedar:71  Only publishers share with people outside the company.
      when: context.outside holds  documents.cedar:78:31
        context.outside = true
      unless: principal in Docs::Group::\"publishers\" does not hold  documents.cedar:79:10
        ancestors of principal = [\"Docs::Group::\\\"engineers\\\"\",\"Docs::Group::\\\"staff\\\"\"]
  allowed without context.outside (checked)
  allowed with context.outside = false (checked)
  policy version ";
    assert!(no.text.starts_with(expected), "{}", no.text);

    let yes = explain(&app, &BEN_SHARES);
    assert_eq!(yes.code, Some(0), "{}", yes.errors);
    assert!(yes.text.contains("  permitted by\n    docs.owner"), "{}", yes.text);
    let passed = "  forbid policies that match except for their conditions:\n    docs.outside";
    assert!(yes.text.contains(passed), "{}", yes.text);
    assert!(yes.text.contains("when: context has outside does not hold"), "{}", yes.text);
}

#[tokio::test]
async fn a_question_that_cannot_be_evaluated_is_a_wrong_use_of_the_command() {
    let app = TestApp::start().await;
    let misspelt =
        ["--subject", "Docs::Person:ben", "--action", "shaer", "--resource", "Docs::Document:plan"];
    for (arguments, expected) in [
        ([&BEN_SHARES[..], &["--scope", "guest"]].concat(), "cannot be used with"),
        (misspelt.to_vec(), "did you mean \"share\"?"),
        ([&BEN_SHARES[..], &["--context", r#"{"outside": "yes"}"#]].concat(), "outside"),
    ] {
        let explained = explain(&app, &arguments);
        assert_eq!(explained.code, Some(1), "{arguments:?}: {}", explained.text);
        assert!(explained.errors.contains(expected), "{arguments:?}: {}", explained.errors);
    }
}

#[tokio::test]
async fn the_scope_is_part_of_the_answer() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let email = admin.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let form = format!("Form:{}", admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    let question = ["--user", &email, "--action", "fetchForm", "--resource", &form];
    let whole = explain(&app, &question);
    assert_eq!(whole.code, Some(0));
    assert!(whole.text.contains("evaluated for the whole role admin"), "{}", whole.text);
    let bot = explain(&app, &[&question[..], &["--scope", "bot"]].concat());
    assert_eq!(bot.code, Some(3));
    let scope =
        "evaluated for a credential with the scope bot of a user with the role admin; effective scopes: ";
    assert!(bot.text.contains(scope), "{}", bot.text);
    assert!(bot.text.contains("requires the scope admin (checked"), "{}", bot.text);
}

#[tokio::test]
async fn a_scope_that_the_role_does_not_have_is_named() {
    let app = TestApp::start().await;
    let agent = app.user(Scope::Agent).await;
    let email = agent.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    let form = format!("Form:{}", app.admin().await.post("/v2/forms", json!({ "name": "form" })).await.id());
    let question = ["--user", &email, "--action", "fetchForm", "--resource", &form, "--scope", "admin"];
    let explained = explain(&app, &question);
    assert_eq!(explained.code, Some(3));
    for expected in [
        "asked for a credential with the scope admin, but the role agent of the user does not have admin; evaluated for the \
         effective scopes: guest agent\n",
        "requires the scope admin, which the role agent does not have (checked",
    ] {
        assert!(explained.text.contains(expected), "{expected}: {}", explained.text);
    }
    assert!(
        !explained.text.contains("evaluated for a credential with the scope admin"),
        "{}",
        explained.text
    );
    let answer = explain(&app, &[&question[..], &["--format", "json"]].concat());
    let answer: Value = serde_json::from_str(&answer.text).unwrap();
    let scopes = json!({
        "requested": ["admin"], "effective": ["guest", "agent"], "role": "agent", "not_in_role": ["admin"],
    });
    assert_eq!(answer["scopes"], scopes);
}

#[tokio::test]
async fn a_missing_resource_and_misspelt_names_are_named() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    let email = bot.get("/v2/users/me").await.json["email"].as_str().unwrap().to_owned();
    for id in ["599e1fce9da1c72645c9588f", "no-id"] {
        let resource = format!("Form:{id}");
        let missing = explain(&app, &["--user", &email, "--action", "updateForm", "--resource", &resource]);
        assert_eq!(missing.code, Some(3));
        assert!(
            missing.text.contains(&format!("the resource {resource} does not exist")),
            "{}",
            missing.text
        );
    }
    for (arguments, warning) in [
        (
            vec!["--subject", "Docs::Person:dna"],
            r#"subject.id: Docs::Person::"dna" is in no data; did you mean "dan"?"#,
        ),
        (
            vec!["--subject", "Docs::Person:dan", "--context", r#"{"out_side": true}"#],
            r#"did you mean "outside"?"#,
        ),
    ] {
        let rest = ["--action", "share", "--resource", "Docs::Document:plan"];
        let explained = explain(&app, &[&arguments[..], &rest].concat());
        assert_eq!(explained.code, Some(3), "{}", explained.errors);
        assert!(
            explained.text.contains("  warning: ") && explained.text.contains(warning),
            "{}",
            explained.text
        );
    }
    let misspelt = ["--subject", "Docs::Person:dan", "--action", "raed", "--resource", "Docs::Document:plan"];
    let misspelt = explain(&app, &misspelt);
    assert_eq!(misspelt.code, Some(1));
    assert!(misspelt.errors.contains(r#"did you mean "read"?"#), "{}", misspelt.errors);
    let wrong_type =
        ["--subject", "Docs::Persn:dan", "--action", "read", "--resource", "Docs::Document:plan"];
    let wrong_type = explain(&app, &wrong_type);
    assert_eq!(wrong_type.code, Some(1));
    assert!(wrong_type.errors.contains(r#"did you mean "Docs::Person"?"#), "{}", wrong_type.errors);
}

#[tokio::test]
async fn json_has_the_same_content() {
    let app = TestApp::start().await;
    let context = ["--context", r#"{"outside": true}"#, "--format", "json"];
    let explained = explain(&app, &[&BEN_SHARES[..], &context].concat());
    assert_eq!(explained.code, Some(3), "{}", explained.errors);
    let answer: Value = serde_json::from_str(&explained.text).unwrap();
    assert_eq!(answer["decision"], false);
    assert_eq!(answer["subject"], "Docs::Person:ben");
    let reasons = &answer["context"]["reasons"];
    assert_eq!(reasons["outcome"], "forbidden");
    assert_eq!(reasons["policies"][0]["parts"][0]["expression"], "context.outside");
    assert_eq!(
        reasons["changes"][0],
        json!({ "kind": "context", "field": "context.outside", "text": "without context.outside" })
    );
}

#[tokio::test]
async fn the_command_needs_no_permission_of_the_policies() {
    let app = TestApp::start().await;
    let bot = app.user(Scope::Bot).await;
    // Only the documents example, with the scopes, without which the service does not start.
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(project_file("policies/scopes.json"), directory.path().join("scopes.json")).unwrap();
    let [documents, schema] = ["policies", "schema"]
        .map(|name| project_file(&format!("examples/documents/{name}")).display().to_string());
    let documents = format!("{},{documents}", directory.path().display());
    let schema = format!("{},{schema}", project_file("schema").display());
    let share = explain_with(&app, &documents, &schema, &BEN_SHARES);
    assert_eq!(share.code, Some(0), "{}", share.errors);
    let misspelt = [&["--subject", "Docs::Person:dna"], &BEN_SHARES[2..]].concat();
    let misspelt = explain_with(&app, &documents, &schema, &misspelt);
    assert!(misspelt.text.contains("did you mean \"dan\"?"), "{}{}", misspelt.text, misspelt.errors);

    // Nothing permits the evaluation of users.
    for name in ["scopes.cedar", "tenancy.cedar"] {
        std::fs::copy(project_file("policies").join(name), directory.path().join(name)).unwrap();
    }
    let (policies, schema) =
        (directory.path().display().to_string(), project_file("schema").display().to_string());
    let user = format!("User:{}", bot.id);
    let fetch = ["--subject", &user, "--action", "fetchUser", "--resource", &user];
    let fetched = explain_with(&app, &policies, &schema, &fetch);
    assert_eq!(fetched.code, Some(0), "{}{}", fetched.text, fetched.errors);
    assert_eq!(explain(&app, &fetch).code, Some(0));
    for (subject, expected) in [
        ("User:599e1fce9da1c72645c9588f", "User does not exist"),
        ("User:me", "User does not exist"),
        ("Form:599e1fce9da1c72645c9588f", "not a valid subject type"),
    ] {
        let arguments = [&["--subject", subject], &fetch[2..]].concat();
        let refused = explain(&app, &arguments);
        assert_eq!(refused.code, Some(1), "{subject}: {}", refused.text);
        assert!(refused.errors.contains(expected), "{subject}: {}", refused.errors);
    }
}

#[tokio::test]
async fn a_policy_that_fails_only_in_its_scope_is_among_the_nearest() {
    let app = TestApp::start().await;
    let question = ["--subject", "Docs::Person:dan", "--action", "read", "--resource"];
    let json = ["--format", "json"];
    let nearest = |resource: &str, member: &str| {
        let explained = explain(&app, &[&question[..], &[resource], &json].concat());
        let answer: Value = serde_json::from_str(&explained.text).unwrap();
        let policies = answer["context"][member]["policies"].as_array().unwrap();
        policies.iter().map(|policy| policy["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["docs.editor", "docs.handbook", "docs.home", "docs.owner", "docs.reader"];
    assert_eq!(nearest("Docs::Document:welcome", "reasons"), all);
    assert_eq!(nearest("Docs::Document:welcome", "missing"), all);
    // Not in the handbook either: two constraints fail, and the policy is farther than the others.
    let others = ["docs.editor", "docs.home", "docs.owner", "docs.reader"];
    assert_eq!(nearest("Docs::Document:report", "reasons"), others);
    assert_eq!(nearest("Docs::Document:report", "missing"), others);

    let welcome = explain(&app, &[&question[..], &["Docs::Document:welcome"]].concat());
    let part = "      principal: principal in Docs::Group::\"staff\" does not hold";
    assert!(welcome.text.contains(part), "{}", welcome.text);
}
