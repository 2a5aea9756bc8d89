//! `cedargate policy diff`: what a change of the policies allows and denies.

use crate::command_line::text;
use crate::policy_replay::Policies;
use serde_json::{Value, json};
use std::process::Command;

/// The JSON report of the difference from `old` to `new`, and the exit code.
fn diff(old: &Policies, new: &Policies, options: &[&str]) -> (Value, i32) {
    let source = new.path("").display().to_string();
    report(old, &[&[".", &source], options].concat())
}

fn report(policies: &Policies, arguments: &[&str]) -> (Value, i32) {
    let output = policies.command(&[&["policy", "diff", "--format", "json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)));
    (report, output.status.code().unwrap())
}

/// Two copies of the same policies.
fn copies() -> [Policies; 2] {
    [Policies::new(), Policies::new()]
}

fn count(report: &Value, change: &str) -> u64 {
    report["summary"][change].as_u64().unwrap_or_default()
}

/// Asserts that every witness is decided as it says by the commands of the versions: its test passes with the new policies, and
/// fails with the old ones.
fn check_witnesses(report: &Value, old: &Policies, new: &Policies) {
    let environments = report["environments"].as_array().unwrap();
    let witnesses: Vec<&Value> =
        environments.iter().flat_map(|environment| environment["witnesses"].as_array().unwrap()).collect();
    assert!(!witnesses.is_empty(), "{report:#}");
    let tests: Vec<&Value> = witnesses.iter().map(|witness| &witness["test"]).collect();
    std::fs::write(new.path("witnesses.json"), json!(tests).to_string()).unwrap();
    let passed = new.command(&["policy", "test", "witnesses.json"]);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
    for witness in witnesses {
        assert_ne!(witness["old"]["allowed"], witness["new"]["allowed"], "{witness:#}");
        let file = old.path("witness.json");
        std::fs::write(&file, json!([witness["test"]]).to_string()).unwrap();
        let failed = old.command(&["policy", "test", "witness.json"]);
        assert_eq!(failed.status.code(), Some(3), "{witness:#}");
    }
}

#[test]
fn weakened_tenancy_is_wider_with_a_witness_that_flips() {
    let [old, new] = copies();
    new.replace(
        "policies/tenancy.cedar",
        "unless { resource in principal.organization };",
        "unless { resource in principal.organization || (action == Action::\"fetchForm\" && principal in Scope::\"admin\") };",
    );
    let (found, code) = diff(&old, &new, &[]);
    assert_eq!(code, 0, "{found:#}");
    assert_eq!((count(&found, "wider"), count(&found, "undecided")), (1, 0), "{}", found["summary"]);
    assert_eq!(found["environments"][0]["action"], "fetchForm");
    assert_eq!(count(&found, "narrower") + count(&found, "both"), 0);
    check_witnesses(&found, &old, &new);
    let changed = found["policies"].as_array().unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!((&changed[0]["id"], &changed[0]["change"]), (&json!("tenancy"), &json!("changed")));
    assert!(changed[0]["diff"].as_str().unwrap().contains("+"), "{found:#}");
    // The opposite direction is narrower, and not wider.
    let (found, code) = diff(&new, &old, &["--fail-on", "wider"]);
    assert_eq!((code, count(&found, "wider")), (0, 0));
    assert_eq!(count(&found, "narrower"), 1);
    assert_eq!(diff(&new, &old, &["--fail-on", "any"]).1, 3);
    assert_eq!(diff(&old, &new, &["--fail-on", "wider"]).1, 3);
}

#[test]
fn order_format_descriptions_and_ids_do_not_change_decisions() {
    let [old, new] = copies();
    let scopes = std::fs::read_to_string(new.path("policies/scopes.cedar")).unwrap();
    std::fs::write(new.path("policies/a.cedar"), format!("// moved\n\n{scopes}").replace('\n', "\n\n"))
        .unwrap();
    std::fs::remove_file(new.path("policies/scopes.cedar")).unwrap();
    new.replace("policies/gate.cedar", "gate.enter", "gate.open");
    new.replace("policies/gate.cedar", "Nobody is their own guide.", "No person is a guide of itself.");
    let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
    assert_eq!(code, 0, "{found:#}");
    assert_eq!(found["environments"], json!([]));
    assert!(count(&found, "unchanged") > 60);
    assert_eq!(found["matrix"], json!([]));
    let policies = found["policies"].as_array().unwrap();
    let change =
        |id: &str| policies.iter().find(|policy| policy["id"] == id).map(|policy| policy["change"].clone());
    assert_eq!(change("gate.open"), Some(json!({ "renamed": { "from": "gate.enter" } })));
    assert_eq!(change("gate.guided"), Some(json!("reworded")));
}

#[test]
fn a_rewritten_condition_is_proven_to_be_unchanged() {
    let [old, new] = copies();
    new.replace(
        "policies/gate.cedar",
        "when { !context.alarm && context has now && context.now < datetime(\"2027-01-01\") && resource.open };",
        "when { resource.open } unless { context.alarm } when { context has now && datetime(\"2027-01-01\") > context.now };",
    );
    let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
    assert_eq!((code, &found["environments"]), (0, &json!([])), "{found:#}");
    assert_eq!(found["policies"][0]["change"], "changed");
}

#[test]
fn a_scope_that_leaves_the_cascade_is_narrower() {
    let [old, new] = copies();
    let scopes = std::fs::read_to_string(new.path("policies/scopes.json")).unwrap();
    let mut scopes: Value = serde_json::from_str(&scopes).unwrap();
    for scope in scopes.as_array_mut().unwrap().iter_mut().filter(|scope| scope["uid"]["id"] == "agent") {
        scope["parents"] = json!([]);
    }
    std::fs::write(new.path("policies/scopes.json"), scopes.to_string()).unwrap();
    let (found, code) = diff(&old, &new, &["--fail-on", "wider"]);
    assert_eq!((code, count(&found, "wider"), count(&found, "both")), (4, 0, 0), "{}", found["summary"]);
    assert!(count(&found, "narrower") > 0, "{}", found["summary"]);
    // Only policies that compare two scopes of a request read more of the cascade than they name.
    for environment in found["environments"].as_array().unwrap() {
        let is_decided = environment["undecided"].is_null();
        let action = environment["action"].as_str().unwrap();
        assert_eq!(
            is_decided,
            !["createUser", "updateUser", "createApiKey"].contains(&action),
            "{environment:#}"
        );
    }
    let witness = &found["environments"][0]["witnesses"][0];
    std::fs::write(new.path("witness.json"), json!([witness["test"]]).to_string()).unwrap();
    let passed = new.command(&["policy", "test", "witness.json"]);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
    assert_eq!((&witness["old"]["allowed"], &witness["new"]["allowed"]), (&json!(true), &json!(false)));
    let lost = json!({
        "resource": "Conversation", "action": "fetchConversation", "location": "own", "scope": "agent",
        "old": "+", "new": "-"
    });
    assert!(found["matrix"].as_array().unwrap().contains(&lost), "{:#}", found["matrix"]);
    assert_eq!(
        (&found["files"][0]["kind"], &found["files"][0]["name"]),
        (&json!("data"), &json!("scopes.json"))
    );
}

#[test]
fn a_new_action_a_new_type_and_a_revision_of_git_are_compared() {
    let policies = Policies::new();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
        let mut command = Command::new("git");
        let output = command.args(identity).args(arguments).current_dir(policies.path("")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "first"]);
    assert_eq!(report(&policies, &["git:HEAD", ".", "--fail-on", "any"]).1, 0);
    policies.replace(
        "schema/gate.cedarschema",
        "entity Door",
        "entity Window { open: Bool };\n  entity Door",
    );
    policies.replace(
        "schema/gate.cedarschema",
        "action enter",
        "action close appliesTo { principal: Person, resource: Window, context: {} };\n  action enter",
    );
    let more = "@id(\"gate.close\")\npermit (principal, action == Gate::Action::\"close\", resource) when { resource.open };";
    std::fs::write(policies.path("policies/more.cedar"), more).unwrap();
    let (found, code) = report(&policies, &["git:main", ".", "--fail-on", "wider"]);
    assert_eq!((code, count(&found, "wider")), (3, 1), "{found:#}");
    assert_eq!(found["addedActions"], json!([r#"Gate::Action::"close""#]));
    assert_eq!(found["addedTypes"], json!(["Gate::Window"]));
    assert_eq!(found["environments"][0]["witnesses"][0]["new"]["reason"], json!(["gate.close"]));
    assert_eq!(found["files"][0]["kind"], "schema");
    let (found, code) = report(&policies, &[".", "git:main", "--fail-on", "any"]);
    assert_eq!((code, count(&found, "narrower")), (3, 1), "{found:#}");
    for (source, expected) in
        [("git:nowhere", "there is no commit"), ("git:main:policies", "there is no commit")]
    {
        let output = policies.command(&["policy", "diff", source, "."]);
        assert_eq!(output.status.code(), Some(1), "{source}");
        assert!(text(&output.stderr).contains(expected), "{source}: {}", text(&output.stderr));
    }
}

/// A policy about `fetchOrganization` for organizations with a level.
fn level_policy(id: &str, effect: &str, condition: &str) -> String {
    format!(
        "@id(\"{id}\")\n{effect} (principal, action == Action::\"fetchOrganization\", resource is Organization)\n\
         when {{ resource has level && {condition} }};\n"
    )
}

/// Fails for every level of 1 and above, and matches nothing.
const FAILING: &str = "resource.level * 2 + 9223372036854775807 == 4";

#[test]
fn a_policy_that_may_fail_changes_the_decisions_that_its_failure_denies() {
    let failing = |effect| level_policy("failing", effect, FAILING);
    let above = |condition| level_policy("above", "permit", condition);
    for (old_policy, new_policy, change) in [
        (String::new(), failing("forbid"), "narrower"),
        (String::new(), failing("permit"), "narrower"),
        (failing("forbid"), String::new(), "wider"),
        (failing("permit"), String::new(), "wider"),
        (failing("forbid"), failing("permit"), "unchanged"),
        (above("resource.level + 1 > 3"), above("resource.level > 2"), "wider"),
        (above("resource.level > 2"), above("resource.level + 1 > 3"), "narrower"),
        // An unchanged policy that fails denies in both versions whatever another policy changes.
        (
            failing("forbid"),
            failing("forbid") + &level_policy("one", "forbid", "resource.level > 0"),
            "unchanged",
        ),
        (
            failing("forbid"),
            failing("forbid") + &level_policy("one", "forbid", "resource.level < 1"),
            "narrower",
        ),
    ] {
        let [old, new] = copies();
        std::fs::write(old.path("policies/more.cedar"), &old_policy).unwrap();
        std::fs::write(new.path("policies/more.cedar"), &new_policy).unwrap();
        let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
        let case = format!("{old_policy} → {new_policy}: {} {found:#}", found["summary"]);
        let is_changed = change != "unchanged";
        assert_eq!((code, count(&found, "undecided")), (if is_changed { 3 } else { 0 }, 0), "{case}");
        assert_eq!(found["environments"].as_array().unwrap().len(), usize::from(is_changed), "{case}");
        if is_changed {
            assert_eq!(found["environments"][0]["change"], change, "{case}");
            assert_eq!(found["environments"][0]["action"], "fetchOrganization", "{case}");
            check_witnesses(&found, &old, &new);
        }
    }
}

#[test]
fn removed_and_changed_claims_are_in_the_summary() {
    let [old, new] = copies();
    std::fs::create_dir(old.path("policies/claims")).unwrap();
    std::fs::create_dir(new.path("policies/claims")).unwrap();
    let claim = |id: &str, action: &str| {
        format!(
            "@id(\"{id}\") @doc(\"Text.\") forbid (principal, action == Action::\"{action}\", resource);\n"
        )
    };
    let old_claims = claim("kept", "fetchForm") + &claim("gone", "fetchForm") + &claim("other", "fetchForm");
    std::fs::write(old.path("policies/claims/a.cedar"), old_claims).unwrap();
    let new_claims = claim("kept", "fetchForm") + &claim("other", "listForms");
    std::fs::write(new.path("policies/claims/a.cedar"), new_claims).unwrap();
    let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
    assert_eq!((code, &found["environments"]), (3, &json!([])), "{found:#}");
    assert_eq!(found["removedClaims"], json!(["gone"]));
    assert_eq!(found["changedClaims"], json!(["other"]));
    let source = new.path("").display().to_string();
    for format in ["text", "markdown"] {
        let output = old.command(&["policy", "diff", ".", &source, "--format", format]);
        let page = text(&output.stdout).replace("&#58;", ":");
        assert!(page.contains("; claims removed: gone; claims changed: other"), "{page}");
    }
}

#[test]
fn the_markdown_of_hostile_ids_has_no_markup_of_theirs() {
    let [old, new] = copies();
    let hostile = "<img src=x onerror=alert(1)> | **bold** [a](javascript:b) @everyone";
    let policy =
        format!("@id({hostile:?})\npermit (principal is Gate::Person, action, resource is Gate::Door);");
    std::fs::write(new.path("policies/more.cedar"), policy).unwrap();
    let source = new.path("").display().to_string();
    let output = old.command(&["policy", "diff", ".", &source, "--format", "markdown", "--fail-on", "any"]);
    let page = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{page}");
    assert!(page.contains("**Some requests are newly allowed.**"), "{page}");
    // The text of the policy is in a block of code.
    let outside: String = page.split("\n```").step_by(2).collect();
    for markup in ["<img", "**bold**", "[a](", "@everyone"] {
        assert!(!outside.contains(markup), "{markup}: {outside}");
    }
    assert!(page.find("## Policy changes").unwrap() < page.find("<details>").unwrap());
}

#[test]
fn a_removed_forbid_is_decided_among_hundreds_of_permits() {
    let [old, new] = copies();
    // More permits of one action than the solver compares at once, and a forbid that only the last one contradicts.
    let permits: String = (0..310)
        .map(|number| {
            let alarm = if number == 309 { "" } else { "!context.alarm && " };
            format!(
                "@id(\"guest.{number}\")\npermit (principal == Gate::Person::\"p{number}\", action == Gate::Action::\"enter\", resource == Gate::Door::\"d{number}\")\nwhen {{ {alarm}resource.open }};\n"
            )
        })
        .collect();
    let forbid = "@id(\"alarm\")\nforbid (principal, action == Gate::Action::\"enter\", resource)\nwhen { context.alarm };\n";
    std::fs::write(old.path("policies/more.cedar"), format!("{permits}{forbid}")).unwrap();
    std::fs::write(new.path("policies/more.cedar"), &permits).unwrap();
    let (found, code) = diff(&old, &new, &[]);
    assert_eq!((code, count(&found, "wider"), count(&found, "undecided")), (0, 1, 0), "{}", found["summary"]);
    let witness = &found["environments"][0]["witnesses"][0];
    assert_eq!(witness["new"]["reason"], json!(["guest.309"]), "{witness:#}");
    check_witnesses(&found, &old, &new);
    // Without that permit, the forbid decides nothing.
    for policies in [&old, &new] {
        policies.replace(
            "policies/more.cedar",
            "resource == Gate::Door::\"d309\")\nwhen { resource",
            "resource == Gate::Door::\"d309\")\nwhen { !context.alarm && resource",
        );
    }
    let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
    assert_eq!((code, &found["environments"]), (0, &json!([])), "{}", found["summary"]);
}

#[test]
fn without_the_solver_nothing_is_called_unchanged() {
    let [old, new] = copies();
    let source = new.path("").display().to_string();
    let run = |new_source: &str| {
        let mut command = crate::command_line::program(old.path("").as_path(), &[]);
        command
            .env("CVC5", "/nonexistent")
            .env("CEDARGATE_SCHEMA", "schema")
            .env("CEDARGATE_POLICIES", "policies");
        command.stdout(std::process::Stdio::piped());
        crate::command_line::output(command.args(["policy", "diff", ".", new_source, "--format", "json"]))
    };
    // Equal policies need no solver.
    assert_eq!(run(&source).status.code(), Some(0));
    new.replace("policies/gate.cedar", "!context.alarm && ", "");
    let output = run(&source);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("cvc5"), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((count(&report, "undecided"), report["policies"][0]["id"].as_str()), (1, Some("gate.enter")));
}

#[test]
fn changed_groups_of_the_data_are_found_and_never_called_proven() {
    let [old, new] = copies();
    let data = "examples/documents/policies/documents.json";
    let dan =
        |parents: &str| format!(r#""id": "dan" }}, "attrs": {{ "name": "Dan" }}, "parents": [{parents}]"#);
    new.replace(data, &dan(""), &dan(r#"{ "type": "Docs::Group", "id": "engineers" }"#));
    for (old, new, change, what, fails) in
        [(&old, &new, "wider", "newly allowed", "wider"), (&new, &old, "narrower", "newly denied", "any")]
    {
        let (found, code) = diff(old, new, &[]);
        assert_eq!(code, 0, "{found:#}");
        assert!(count(&found, change) > 0, "{}", found["summary"]);
        let environments = found["environments"].as_array().unwrap();
        let edit = environments.iter().find(|found| {
            found["resource"] == "Docs::Document" && found["action"] == "Docs::Action::\"edit\""
        });
        let edit = edit.unwrap_or_else(|| panic!("{found:#}"));
        assert!(edit["undecided"].as_str().unwrap().contains("Docs::Person::\"dan\""), "{edit:#}");
        let witness = &edit["witnesses"][0];
        assert_eq!(witness["test"]["request"]["principal"], "Docs::Person::\"dan\"");
        std::fs::write(new.path("witness.json"), json!([witness["test"]]).to_string()).unwrap();
        let passed = new.command(&["policy", "test", "witness.json"]);
        assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
        assert_eq!(diff(old, new, &["--fail-on", fails]).1, 3);
        if change == "narrower" {
            assert_eq!(diff(old, new, &["--fail-on", "wider"]).1, 4);
        }
        let source = new.path("").display().to_string();
        for format in ["text", "markdown"] {
            let shown = old.command(&["policy", "diff", ".", &source, "--format", format]);
            let shown = text(&shown.stdout);
            assert!(shown.contains(what) && !shown.contains("(proven)"), "{shown}");
        }
        std::fs::remove_file(new.path("witness.json")).unwrap();
    }
    // A name that no policy reads changes no decision.
    let [old, new] = copies();
    new.replace(data, r#""name": "Dan""#, r#""name": "Daniel""#);
    let (found, code) = diff(&old, &new, &["--fail-on", "any"]);
    assert_eq!((code, &found["environments"]), (0, &json!([])), "{found:#}");
}

#[test]
fn a_changed_schema_is_compared_where_one_schema_covers_both_versions() {
    // A field that the new policies read.
    let [old, new] = copies();
    new.replace("schema/gate.cedarschema", "open: Bool", "open: Bool, broken?: Bool");
    new.replace(
        "policies/gate.cedar",
        "&& resource.open",
        "&& resource.open && !(resource has broken && resource.broken)",
    );
    for (old, new, change) in [(&old, &new, "narrower"), (&new, &old, "wider")] {
        let (found, code) = diff(old, new, &[]);
        assert_eq!((code, count(&found, change), count(&found, "undecided")), (0, 1, 0), "{found:#}");
        assert_eq!(
            found["environments"][0]["witnesses"][0]["test"]["request"]["action"],
            "Gate::Action::\"enter\""
        );
    }
    // A field that the policies still test.
    let [old, new] = copies();
    for policies in [&old, &new] {
        let also = "&& (resource.open || (resource has broken && resource.broken))";
        policies.replace("policies/gate.cedar", "&& resource.open", also);
    }
    old.replace("schema/gate.cedarschema", "open: Bool", "open: Bool, broken?: Bool");
    expect_undecided([&old, &new], "`broken` of Gate::Door");
    // Fields that become required, and other parents.
    for (name, before, after, place) in [
        ("examples/documents/schema/documents.cedarschema", "outside?: Bool", "outside: Bool", "`outside`"),
        ("schema/gate.cedarschema", "name?: String", "name: String", "`name` of Gate::Person"),
        ("schema/gate.cedarschema", "entity Person {", "entity Person in [Door] {", "Gate::Person"),
    ] {
        let [old, new] = copies();
        new.replace(name, before, after);
        expect_undecided([&old, &new], place);
    }
}

/// Asserts that both directions are undecided, since the schemas differ in this place.
fn expect_undecided(versions: [&Policies; 2], place: &str) {
    let [one, other] = versions;
    for (old, new) in [(one, other), (other, one)] {
        let (found, code) = diff(old, new, &["--fail-on", "any"]);
        assert_eq!(code, 4, "{place}: {found:#}");
        let environments = found["environments"].as_array().unwrap();
        assert!(!environments.is_empty());
        for environment in environments {
            assert_eq!(environment["change"], "undecided", "{environment:#}");
            assert!(environment["undecided"].as_str().unwrap().contains(place), "{environment:#}");
        }
    }
}

#[test]
fn invalid_policies_of_either_version_are_findings_with_their_source() {
    let [old, new] = copies();
    let source = new.path("").display().to_string();
    let findings = |arguments: &[&str]| {
        let (report, code) = report(&old, arguments);
        assert_eq!(code, 1, "{report:#}");
        let findings = report["findings"].as_array().unwrap().iter();
        let found: Vec<(String, String)> = findings
            .map(|finding| {
                let field = |name: &str| finding[name].as_str().unwrap().to_owned();
                assert_eq!(finding["region"]["startLine"], 2, "{finding}");
                (field("rule"), field("source"))
            })
            .collect();
        found
    };
    let invalid = |source: &str| ("syntax".to_owned(), source.to_owned());
    std::fs::write(new.path("policies/wrong.cedar"), "@id(\"wrong\")\npermit (principal,, resource);")
        .unwrap();
    assert_eq!(findings(&[".", &source]), [invalid(&source)]);
    assert_eq!(findings(&[&source, "."]), [invalid(&source)]);
    std::fs::copy(new.path("policies/wrong.cedar"), old.path("policies/wrong.cedar")).unwrap();
    assert_eq!(findings(&[".", &source]), [invalid("."), invalid(&source)]);
    let readable = old.command(&["policy", "diff", ".", &source]);
    assert_eq!((readable.status.code(), text(&readable.stdout)), (Some(1), String::new()));
    let messages = text(&readable.stderr);
    assert_eq!(messages.matches("wrong.cedar:2: ").count(), 2, "{messages}");
}
