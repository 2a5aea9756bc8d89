//! `cedargate policy prove`: what is proven, what breaks a claim, and what the result looks like. Needs the solver cvc5.

use crate::command_line::{output, program, text};
use crate::lifecycle::send_signal;
use crate::support::{project_file, wait_until};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A copy of the shipped schema and policies, and of the documents example.
struct Copy(tempfile::TempDir);

/// The directories of a copy, and where they come from.
const DIRECTORIES: [(&str, &str); 6] = [
    ("schema", "schema"),
    ("policies", "policies"),
    ("policies/claims", "policies/claims"),
    ("docs-schema", "examples/documents/schema"),
    ("docs", "examples/documents/policies"),
    ("docs/claims", "examples/documents/policies/claims"),
];

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for (directory, source) in DIRECTORIES {
            std::fs::create_dir(copy.path(directory)).unwrap();
            for entry in std::fs::read_dir(project_file(source)).unwrap() {
                let file = entry.unwrap().path();
                if file.is_file() && file.file_name().unwrap() != "PROOF.json" {
                    std::fs::copy(&file, copy.path(directory).join(file.file_name().unwrap())).unwrap();
                }
            }
        }
        copy
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Adds a policy to the shipped ones.
    fn with_policy(self, policy: &str) -> Self {
        std::fs::write(self.path("policies/added.cedar"), policy).unwrap();
        self
    }

    /// Replaces `old` in a file, which contains it once.
    fn replace(self, file: &str, old: &str, new: &str) -> Self {
        let content = std::fs::read_to_string(self.path(file)).unwrap();
        assert_eq!(content.matches(old).count(), 1, "{file}: {old}");
        std::fs::write(self.path(file), content.replace(old, new)).unwrap();
        self
    }

    fn command(&self, settings: &[(&str, &str)], arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut all = vec![("PATH", path.as_str())];
        if let Some(solver) = SOLVER.as_deref() {
            all.push(("CVC5", solver));
        }
        all.extend([("CEDARGATE_SCHEMA", "schema,docs-schema"), ("CEDARGATE_POLICIES", "policies,docs")]);
        all.extend(settings.iter().copied());
        let mut command = program(self.0.path(), &all);
        command.args(arguments).stdout(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(&[], arguments))
    }

    /// Proves these claims, or all if there are none. Returns the exit code and the result as JSON.
    fn prove(&self, claims: &[&str]) -> (i32, Value) {
        let mut arguments = vec!["policy", "prove", "--format", "json"];
        arguments.extend(claims.iter().flat_map(|claim| ["--claim", claim]));
        let output = self.command(&[], &arguments).output().unwrap();
        let result = serde_json::from_slice(&output.stdout);
        (output.status.code().unwrap(), result.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }
}

/// The solver that the tests were told to use.
static SOLVER: std::sync::LazyLock<Option<String>> = std::sync::LazyLock::new(|| std::env::var("CVC5").ok());

/// A program that runs the solver in another way.
fn solver_script(directory: &Path, text: &str) -> String {
    let script = directory.join("solver");
    let solver = SOLVER.as_deref().unwrap_or("cvc5");
    std::fs::write(&script, format!("#!/bin/sh\n{}\n", text.replace("SOLVER", solver))).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script.to_str().unwrap().to_owned()
}

/// The claim with this id in a result.
fn claim<'a>(result: &'a Value, id: &str) -> &'a Value {
    let claims = result["claims"].as_array().unwrap();
    claims.iter().find(|claim| claim["id"] == id).unwrap_or_else(|| panic!("no claim {id}"))
}

#[test]
fn all_claims_of_the_shipped_policies_and_of_the_example_are_proven() {
    let (code, result) = Copy::new().prove(&[]);
    let claims = result["claims"].as_array().unwrap();
    let other: Vec<&Value> = claims.iter().filter(|claim| claim["result"] != "proven").collect();
    assert!(other.is_empty(), "{other:#?}");
    assert_eq!(code, 0);
    for id in [
        "policies-never-fail",
        "policies-can-match",
        "cascade-is-monotone",
        "never-outside-the-organization",
        "fetchForm.always",
        "fetchForm.never",
        "docs.never-final",
    ] {
        assert!(claim(&result, id)["environments"].as_u64().unwrap() > 0, "{id}");
    }
    assert!(claims.iter().all(|claim| claim["environments"].as_u64().unwrap() > 0));
    let assumptions = result["assumptions"].to_string();
    assert!(
        assumptions.contains(r#"Scope::\"admin\" is in Scope::\"agent\", Scope::\"bot\""#),
        "{assumptions}"
    );
    assert!(
        assumptions.contains(r#"Docs::Group::\"publishers\" is in Docs::Group::\"staff\""#),
        "{assumptions}"
    );
}

/// Each forbid policy and the claim that is broken without it.
const FORBIDS: [(&str, &str, &str); 10] = [
    ("policies/self.cedar", "self.place", "never-role-organization-status-below-admin"),
    ("policies/self.cedar", "user.ceiling", "never-a-role-above-the-credential"),
    ("policies/service.cedar", "key.identities", "never-identities-by-key"),
    ("policies/service.cedar", "key.creation", "never-keys-by-key"),
    ("policies/service.cedar", "key.ceiling", "never-keys-above-the-credential"),
    ("policies/tenancy.cedar", "tenancy", "never-outside-the-organization"),
    ("policies/tenancy.cedar", "reach", "never-below-the-organization-as-guest-or-agent"),
    ("docs/documents.cedar", "docs.final", "docs.never-final"),
    ("docs/documents.cedar", "docs.outside", "docs.never-outside-below-publisher"),
    ("docs/documents.cedar", "docs.suspended", "docs.never-suspended"),
];

#[test]
fn every_removed_forbid_is_found_by_a_claim() {
    let texts: String = ["self", "service", "tenancy", "scopes"]
        .iter()
        .map(|name| std::fs::read_to_string(project_file(&format!("policies/{name}.cedar"))).unwrap())
        .chain(
            [std::fs::read_to_string(project_file("examples/documents/policies/documents.cedar")).unwrap()],
        )
        .collect();
    assert_eq!(texts.matches("\nforbid (").count(), FORBIDS.len(), "FORBIDS has to list every forbid policy");
    for (file, id, broken) in FORBIDS {
        let copy = Copy::new();
        let content = std::fs::read_to_string(copy.path(file)).unwrap();
        let start = content.find(&format!("@id(\"{id}\")")).unwrap();
        let end = start + content[start..].find(";\n").unwrap() + 2;
        std::fs::write(copy.path(file), format!("{}{}", &content[..start], &content[end..])).unwrap();
        let (code, result) = copy.prove(&[broken]);
        assert_eq!(code, 3, "{id} can be removed: {result:#}");
        assert_eq!(claim(&result, broken)["result"], "broken");
    }
}

#[test]
fn a_counterexample_is_a_policy_test_that_shows_what_is_wrong() {
    let weak = Copy::new().replace(
        "policies/tenancy.cedar",
        "unless { resource in principal.organization };",
        "unless { resource in principal.organization || (context has credential && \
         context.credential == Credential::\"apiKey\" && principal in Scope::\"bot\") };",
    );
    let (code, result) = weak.prove(&["never-outside-the-organization"]);
    assert_eq!(code, 3);
    let violation = &claim(&result, "never-outside-the-organization")["violations"][0];
    let test = &violation["tests"][0];
    assert_eq!(test["decision"], "allow");
    assert_eq!(test["request"]["principal"], r#"User::"user1""#);
    assert_eq!(test["request"]["context"]["credential"]["__entity"]["id"], "apiKey");
    assert_eq!(test["reason"], violation["policies"]);
    assert!(violation["environments"].as_array().unwrap().len() > 50, "{violation:#}");
    let file = weak.path("found.json");
    std::fs::write(&file, json!([test]).to_string()).unwrap();
    let arguments = ["policy", "test", file.to_str().unwrap()];
    let passed = weak.run(&arguments);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
    let failed = Copy::new().run(&arguments);
    assert_eq!(failed.status.code(), Some(3));
    assert!(text(&failed.stderr).contains("expected Allow, got Deny"), "{}", text(&failed.stderr));
}

#[test]
fn a_policy_that_can_fail_is_found_with_the_values_that_make_it_fail() {
    for (scope, condition) in [
        ("principal in Scope::\"admin\"", "resource.level + 1 > 3"),
        ("principal in Scope::\"guest\"", "resource.level + 1 > 3"),
        ("principal", "resource.level * 2 > 100"),
    ] {
        let copy = Copy::new().with_policy(&format!(
            "@id(\"overflow\") @doc(\"d\") forbid ({scope}, action == Action::\"fetchOrganization\", resource is Organization)\n\
             when {{ resource has level && {condition} }};"
        ));
        let (code, result) = copy.prove(&["policies-never-fail"]);
        assert_eq!(code, 3, "{scope}: {result:#}");
        let violation = &claim(&result, "policies-never-fail")["violations"][0];
        assert_eq!(violation["policies"], json!(["overflow"]));
        let test = &violation["tests"][0];
        assert_eq!(test["num_errors"], 1);
        assert_eq!(test["request"]["resource"], r#"Organization::"organization1""#, "{test:#}");
        assert!(level_of(test, "organization1").unsigned_abs() > 1 << 60, "{test:#}");
    }
}

/// The level of an organization in a policy test.
fn level_of(test: &Value, id: &str) -> i64 {
    let entities = test["entities"].as_array().unwrap();
    let is_it = |entity: &&Value| entity["uid"]["type"] == "Organization" && entity["uid"]["id"] == id;
    entities.iter().find(is_it).unwrap()["attrs"]["level"].as_i64().unwrap()
}

#[test]
fn a_counterexample_has_only_what_it_needs_under_readable_ids() {
    let copy = Copy::new().with_policy(
        "@id(\"open\") @doc(\"d\") permit (principal, action == Action::\"fetchConversation\", resource is Conversation);",
    );
    let (code, result) = copy.prove(&["fetchConversation.never"]);
    assert_eq!(code, 3);
    let test = &claim(&result, "fetchConversation.never")["violations"][0]["tests"][0];
    assert_eq!(test["request"]["principal"], r#"User::"user1""#, "{test:#}");
    assert_eq!(test["request"]["resource"], r#"Conversation::"conversation1""#, "{test:#}");
    let entities = test["entities"].as_array().unwrap();
    assert!(entities.len() <= 8, "{test:#}");
    assert!(entities.iter().all(|entity| entity["uid"]["id"] != ""), "{test:#}");
}

#[test]
fn a_policy_that_matches_nothing_is_found() {
    let copy = Copy::new().with_policy(
        "@id(\"dead\") @doc(\"d\") permit (principal in Scope::\"admin\", action == Action::\"fetchOrganization\", resource)\n\
         unless { principal in Scope::\"guest\" };",
    );
    let (code, result) = copy.prove(&["policies-can-match"]);
    assert_eq!(code, 3);
    let violations = claim(&result, "policies-can-match")["violations"].as_array().unwrap();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0]["policies"], json!(["dead"]));
}

#[test]
fn a_scope_that_may_not_do_what_a_lower_one_may_is_found() {
    let copy = Copy::new().with_policy(
        "@id(\"only.guest\") @doc(\"d\") permit (principal in Scope::\"guest\", action == Action::\"listServices\", resource)\n\
         unless { principal in Scope::\"agent\" };",
    );
    let (code, result) = copy.prove(&["cascade-is-monotone"]);
    assert_eq!(code, 3);
    let violation = &claim(&result, "cascade-is-monotone")["violations"][0];
    let tests = violation["tests"].as_array().unwrap();
    let decisions: Vec<&Value> = tests.iter().map(|test| &test["decision"]).collect();
    assert_eq!(decisions, ["allow", "deny"], "{violation:#}");
    assert!(violation["message"].as_str().unwrap().contains("for the scope guest, but not for agent"));
    let file = copy.path("found.json");
    std::fs::write(&file, violation["tests"].to_string()).unwrap();
    assert_eq!(copy.run(&["policy", "test", file.to_str().unwrap()]).status.code(), Some(0));
}

#[test]
fn a_cascade_that_lacks_a_step_is_broken_in_the_order_of_the_specification() {
    let bot = r#""id": "bot" },   "attrs": {}, "parents": [{ "type": "Scope", "id": "#;
    let copy =
        Copy::new().replace("policies/scopes.json", &format!("{bot}\"agent\""), &format!("{bot}\"guest\""));
    let (code, result) =
        copy.prove(&["cascade-is-monotone", "createConversation.always", "joinConversation.always"]);
    assert_eq!(code, 3);
    let violation = &claim(&result, "cascade-is-monotone")["violations"][0];
    let message = violation["message"].as_str().unwrap();
    assert!(message.contains("is allowed for the scope agent, but not for bot"), "{violation:#}");
    for id in ["createConversation.always", "joinConversation.always"] {
        assert_eq!(claim(&result, id)["result"], "broken", "every higher scope may: {result:#}");
    }
}

#[test]
fn environments_in_which_a_claim_cannot_apply_are_listed() {
    let copy = Copy::new();
    let partial = "@id(\"drafts\") @doc(\"d\")\n\
                   forbid (principal in Scope::\"guest\", action in [Action::\"fetchForm\", Action::\"fetchKnowledgeItem\"], resource)\n\
                   when { resource has status } unless { principal in Scope::\"agent\" };";
    std::fs::write(copy.path("policies/claims/drafts.cedar"), partial).unwrap();
    let (code, result) = copy.prove(&["drafts", "never-keys-by-key"]);
    assert_eq!(code, 0, "{result:#}");
    let drafts = claim(&result, "drafts");
    assert_eq!(
        (&drafts["environments"], &drafts["inapplicable"]),
        (&json!(1), &json!(["fetchForm User Form"]))
    );
    assert_eq!(claim(&result, "never-keys-by-key")["inapplicable"], json!([]));
    let readable = text(&copy.run(&["policy", "prove", "--claim", "drafts"]).stdout);
    let expected = "\n  in 1 more environment the claim cannot apply: its conditions are false by the schema: fetchForm User Form\n";
    assert!(readable.contains(expected), "{readable}");
}

#[test]
fn a_cascade_that_cannot_be_specialized_is_not_proven() {
    let copy = Copy::new().with_policy(
        "@id(\"inexact\") @doc(\"d\") forbid (principal, action == Action::\"deleteUser\", resource)\n\
         when { resource in Scope::\"bot\" };",
    );
    let (code, result) = copy.prove(&["cascade-is-monotone"]);
    let claim = claim(&result, "cascade-is-monotone");
    assert_eq!(claim["result"], "unknown", "{claim:#}");
    assert!(claim["reason"].as_str().unwrap().contains("policy inexact"), "{claim:#}");
    assert_eq!(code, 4);
}

#[test]
fn a_claim_that_matches_nothing_is_broken() {
    let copy = Copy::new();
    let vacuous = "@id(\"vacuous\") @doc(\"d\") permit (principal in Scope::\"bot\", action == Action::\"listForms\", resource)\n\
                   unless { principal in Scope::\"agent\" };";
    std::fs::write(copy.path("policies/claims/vacuous.cedar"), vacuous).unwrap();
    let (code, result) = copy.prove(&["vacuous"]);
    assert_eq!(code, 3);
    let message = claim(&result, "vacuous")["violations"][0]["message"].as_str().unwrap();
    assert!(message.contains("matches no request"), "{message}");
}

#[test]
fn a_missing_solver_is_reported_with_its_own_exit_code() {
    let copy = Copy::new();
    let missing = output(&mut copy.command(&[("CVC5", "/nonexistent/cvc5")], &["policy", "prove"]));
    assert_eq!(missing.status.code(), Some(4));
    assert!(text(&missing.stderr).contains("the solver cvc5 is needed"), "{}", text(&missing.stderr));
    assert!(missing.stdout.is_empty());
}

#[test]
fn what_the_solver_cannot_decide_is_unknown() {
    let copy = Copy::new();
    // The real solver, without the resources to decide anything.
    let solver = solver_script(copy.0.path(), "exec SOLVER --rlimit=1 \"$@\"");
    let arguments = ["policy", "prove", "--format", "json", "--claim", "never-keys-above-the-credential"];
    let output = output(&mut copy.command(&[("CVC5", &solver)], &arguments));
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let claim = claim(&result, "never-keys-above-the-credential");
    assert_eq!(claim["result"], "unknown");
    assert!(!claim["reason"].as_str().unwrap().is_empty());
}

#[test]
fn an_unknown_claim_is_an_error() {
    let output = Copy::new().run(&["policy", "prove", "--claim", "nonesuch"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no claim \"nonesuch\""), "{}", text(&output.stderr));
}

#[test]
fn the_queries_are_scripts_that_the_solver_reads_on_its_own() {
    let copy = Copy::new();
    let arguments = ["policy", "prove", "--smtlib", "evidence", "--claim", "never-keys-by-key"];
    let proven = copy.run(&arguments);
    assert_eq!(proven.status.code(), Some(0), "{}", text(&proven.stderr));
    let mut answers: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(copy.path("evidence")).unwrap() {
        let file = entry.unwrap().path();
        let script = std::fs::read_to_string(&file).unwrap();
        assert!(script.starts_with("; claim: never-keys-by-key\n"), "{script}");
        let answer = Command::new(SOLVER.as_deref().unwrap_or("cvc5")).arg(&file).output().unwrap();
        let expected =
            script.lines().find_map(|line| line.strip_prefix("; the claim holds here if the answer is "));
        let expected = expected.unwrap().split(',').next().unwrap().to_owned();
        answers.push((text(&answer.stdout).trim().to_owned(), expected));
    }
    assert!(answers.len() >= 2, "{answers:?}");
    assert!(answers.iter().all(|(answer, expected)| answer == expected), "{answers:?}");
    let again = copy.run(&arguments);
    assert_eq!(again.status.code(), Some(1), "the directory must not contain other files");
}

#[test]
fn reports_for_other_programs_name_the_broken_claim_and_its_line() {
    let condition = "principal has suspended && principal.suspended";
    let weak = format!("{condition} && resource in Docs::Folder::\"handbook\"");
    let copy = Copy::new().replace("docs/documents.cedar", condition, &weak);
    let arguments = |format| ["policy", "prove", "--claim", "docs.never-suspended", "--format", format];
    let junit = copy.run(&arguments("junit"));
    assert_eq!(junit.status.code(), Some(3), "{}", text(&junit.stderr));
    let junit = text(&junit.stdout);
    assert!(
        junit.contains(r#"<testsuite name="docs/claims/documents.cedar" tests="1" failures="1""#),
        "{junit}"
    );
    let sarif: Value = serde_json::from_slice(&copy.run(&arguments("sarif")).stdout).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "claim-broken");
    let location = &result["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "docs/claims/documents.cedar");
    let lines = std::fs::read_to_string(copy.path("docs/claims/documents.cedar")).unwrap();
    let line = lines.lines().position(|line| line.contains("docs.never-suspended")).unwrap() + 1;
    assert_eq!(location["region"]["startLine"], line);
    let readable = text(&copy.run(&arguments("text")).stdout);
    assert!(readable.contains("broken   docs.never-suspended"), "{readable}");
    assert!(readable.contains("1 claims: 0 proven, 1 broken, 0 unknown"), "{readable}");
}

#[test]
fn a_violation_of_a_built_in_claim_has_the_place_of_its_policy_or_of_the_scopes() {
    let copy = Copy::new().with_policy(
        "@id(\"dead\") @doc(\"d\") permit (principal in Scope::\"admin\", action == Action::\"fetchOrganization\", resource)\n\
         unless { principal in Scope::\"guest\" };\n\
         @id(\"only.guest\") @doc(\"d\") permit (principal in Scope::\"guest\", action == Action::\"listServices\", resource)\n\
         unless { principal in Scope::\"agent\" };",
    );
    let places = |settings: &[(&str, &str)], claim: &str| -> Vec<(String, String, u64)> {
        let arguments = ["policy", "prove", "--format", "sarif", "--claim", claim];
        let output = output(&mut copy.command(settings, &arguments));
        let log: Value = serde_json::from_slice(&output.stdout).unwrap();
        let results = log["runs"][0]["results"].as_array().unwrap().iter();
        let place = |result: &Value| {
            let location = &result["locations"][0]["physicalLocation"];
            let uri = location["artifactLocation"]["uri"].as_str().unwrap_or_default().to_owned();
            let line = location["region"]["startLine"].as_u64().unwrap_or_default();
            (result["ruleId"].as_str().unwrap().to_owned(), uri, line)
        };
        results.map(place).collect()
    };
    let broken = |file: &str, line| ("claim-broken".to_owned(), file.to_owned(), line);
    assert_eq!(places(&[], "policies-can-match"), [broken("policies/added.cedar", 1)]);
    // No policy decides: the request is denied for the higher scope, since no policy permits it.
    let scopes = std::fs::read_to_string(copy.path("policies/scopes.json")).unwrap();
    let line = scopes.lines().position(|line| line.contains("\"Scope\"")).unwrap() as u64 + 1;
    assert_eq!(places(&[], "cascade-is-monotone"), [broken("policies/scopes.json", line)]);
    let solver = solver_script(copy.0.path(), "exec SOLVER --rlimit=1 \"$@\"");
    let unknown = places(&[("CVC5", &solver)], "policies-can-match");
    assert_eq!(unknown.len(), 1);
    assert!(unknown[0].0 == "claim-unknown" && unknown[0].1.ends_with(".cedar"), "{unknown:?}");
}

#[tokio::test]
async fn a_signal_leaves_no_solver_process() {
    let copy = Copy::new();
    let pids = copy.path("pids");
    std::fs::create_dir(&pids).unwrap();
    // The process id of the script remains that of the solver.
    let solver = solver_script(copy.0.path(), &format!("touch {}/$$\nexec SOLVER \"$@\"", pids.display()));
    for signal in ["-INT", "-TERM"] {
        let mut child = copy.command(&[("CVC5", &solver)], &["policy", "prove"]).spawn().unwrap();
        let started = wait_until(async || {
            let started: Vec<PathBuf> =
                std::fs::read_dir(&pids).unwrap().map(|entry| entry.unwrap().path()).collect();
            // The first one was asked for its version.
            if started.len() > 1 { Ok(started) } else { Err("the solver does not start".to_owned()) }
        })
        .await;
        send_signal(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(1), "{signal}");
        for pid in started {
            let pid = pid.file_name().unwrap().to_str().unwrap().to_owned();
            wait_until(async || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let is_running = !status.is_empty() && !status.contains("State:\tZ");
                if is_running { Err(format!("the solver {pid} is still running")) } else { Ok(()) }
            })
            .await;
        }
        for entry in std::fs::read_dir(&pids).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}
