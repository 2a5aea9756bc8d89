//! `cedargate policy analyze`: policies without effect, unused ones, and narrower ones.

use crate::command_line::{output, program, run, text};
use crate::support::project_file;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Output;

/// The types of the service that the start requires, and a small external domain.
const SCHEMA: &str = r#"
namespace Shop {
  entity Group;
  entity Clerk in [Group] = { rank: Long, name?: String };
  entity Item = { price: Long, owner?: Clerk };
  action view, buy, sell appliesTo { principal: Clerk, resource: Item, context: { hour: Long } };
}
"#;

/// The group `staff` has a member, `nobody` has none, and `chefs` are staff.
const DATA: &str = r#"[
  { "uid": { "type": "Shop::Group", "id": "staff" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Shop::Group", "id": "nobody" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Shop::Clerk", "id": "ada" }, "attrs": { "rank": 1 }, "parents": [{ "type": "Shop::Group", "id": "staff" }] }
]"#;

/// The policies of a small domain, or policies of the service itself.
struct Domain(tempfile::TempDir);

impl Domain {
    /// A domain with these policies. Its schema and data are those of the service and of the shop.
    fn new(policies: &str) -> Self {
        let domain = Self(tempfile::tempdir().unwrap());
        for directory in ["schema", "policies"] {
            std::fs::create_dir(domain.path(directory)).unwrap();
        }
        std::fs::copy(project_file("schema/cedargate.cedarschema"), domain.path("schema/a.cedarschema"))
            .unwrap();
        std::fs::write(domain.path("schema/shop.cedarschema"), SCHEMA).unwrap();
        std::fs::copy(project_file("policies/scopes.json"), domain.path("policies/scopes.json")).unwrap();
        std::fs::write(domain.path("policies/shop.json"), DATA).unwrap();
        std::fs::write(domain.path("policies/all.cedar"), policies).unwrap();
        domain
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap();
        let settings =
            [("CEDARGATE_SCHEMA", "schema"), ("CEDARGATE_POLICIES", "policies"), ("PATH", path.as_str())];
        run(self.0.path(), &settings, &[&["policy", "analyze"], arguments].concat())
    }

    /// The report in JSON.
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--format", "json"], arguments].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
    }

    /// Writes a decision log with these lines, and returns its name.
    fn log(&self, lines: &[Value]) -> &'static str {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        std::fs::write(self.path("decisions.ndjson"), lines.join("\n") + "\n").unwrap();
        "decisions.ndjson"
    }
}

/// The findings of a report: rule, policy and line.
fn findings(report: &Value) -> Vec<(&str, &str, u64)> {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| {
            let field = |name: &str| finding[name].as_str().unwrap_or_default();
            (field("rule"), field("policy"), finding["region"]["startLine"].as_u64().unwrap_or_default())
        })
        .collect()
}

/// A policy of the shop.
fn policy(id: &str, effect: &str, action: &str, condition: &str) -> String {
    format!(
        "@id(\"{id}\")\n@doc(\"Text.\")\n{effect} (principal is Shop::Clerk, action == Shop::Action::\"{action}\", resource)\n{condition};\n"
    )
}

#[test]
fn each_kind_of_policy_without_effect_is_found() {
    let view = |id: &str, condition: &str| policy(id, "permit", "view", condition);
    let forbid = |id: &str, condition: &str| policy(id, "forbid", "view", condition);
    let in_group = |id: &str, group: &str| {
        format!(
            "@id(\"{id}\")\n@doc(\"Text.\")\npermit (principal in Shop::Group::\"{group}\", action == Shop::Action::\"view\", resource);\n"
        )
    };
    for (policies, expected) in [
        (vec![view("a", "when { principal.rank > 5 && principal.rank < 3 }")], vec![("vacuous", "a", 1)]),
        (vec![in_group("a", "nobody")], vec![("unusable", "a", 1)]),
        (vec![in_group("a", "staff")], vec![]),
        (
            vec![format!(
                "@id(\"a\")\n@doc(\"Text.\")\npermit (principal in Scope::\"bot\", action == Action::\"fetchForm\", resource)\nunless {{ principal in Scope::\"agent\" }};\n"
            )],
            vec![("unusable", "a", 1)],
        ),
        (
            vec![view("a", "when { principal.rank > 5 }"), forbid("b", "when { principal.rank > 3 }")],
            vec![("overridden", "a", 1), ("redundant", "b", 5)],
        ),
        (
            vec![
                view("a", "when { principal.rank > 5 }"),
                forbid("b", "when { principal.rank > 3 && context.hour < 12 }"),
                forbid("c", "when { principal.rank > 4 && context.hour >= 12 }"),
            ],
            vec![("overridden", "a", 1), ("redundant", "b", 5), ("redundant", "c", 9)],
        ),
        (
            vec![view("a", "when { principal.rank > 5 }"), view("b", "when { principal.rank > 3 }")],
            vec![("shadowed", "a", 1)],
        ),
        (
            vec![view("a", "when { principal.rank > 3 }"), view("b", "when { 3 < principal.rank }")],
            vec![("shadowed", "b", 5)],
        ),
        (
            vec![
                view("a", ""),
                forbid("b", "when { context.hour > 20 }"),
                forbid("c", "when { context.hour > 18 }"),
            ],
            vec![("shadowed", "b", 5)],
        ),
        (
            vec![
                view("a", "when { context.hour < 12 }"),
                view("b", "when { context.hour > 8 && context.hour < 14 }"),
                view("c", "when { context.hour > 10 }"),
            ],
            vec![("redundant", "b", 5)],
        ),
        (
            vec![view("a", "when { context.hour < 12 }"), forbid("b", "when { context.hour > 20 }")],
            vec![("redundant", "b", 5)],
        ),
        // The failure of a policy denies the request.
        (vec![view("a", ""), forbid("b", "when { principal.rank * 2 == 9223372036854775807 }")], vec![]),
        (
            vec![
                view("a", "when { context.hour < 12 }"),
                forbid("b", "when { context.hour > 20 && principal.rank * 2 > 5 }"),
                view("c", "when { context.hour < 10 || (context.hour < 12 && principal.rank + 1 > 5) }"),
            ],
            vec![],
        ),
        (
            vec![
                view("a", "when { resource has owner && resource.owner == principal }"),
                view("b", "when { principal.rank > 3 }"),
            ],
            vec![],
        ),
        (vec![view("a", "when { principal has name && principal.name like \"a*\" }")], vec![]),
    ] {
        let domain = Domain::new(&policies.concat());
        let report = domain.report(&[]);
        assert_eq!(findings(&report), expected, "{}: {report:#}", policies.concat());
        assert_eq!(report["undecided"], json!([]), "{report}");
    }
}

#[test]
fn a_scope_is_assumed_to_contain_the_scopes_below_it() {
    let permit = |id: &str, scope: &str| {
        format!(
            "@id(\"{id}\")\n@doc(\"Text.\")\npermit (principal in Scope::\"{scope}\", action == Action::\"fetchForm\", resource);\n"
        )
    };
    let domain = Domain::new(&[permit("a", "admin"), permit("b", "agent")].concat());
    let output = domain.run(&[]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{report}{}", text(&output.stderr));
    assert!(
        report.contains(
            "policies/all.cedar:1:1: warning: \"b\" matches every request that \"a\" matches [shadowed]"
        ),
        "{report}"
    );
    assert!(
        report.contains("1 | @id(\"a\")\n")
            && report.contains("assumption: Scope::\"admin\" is in Scope::\"agent\""),
        "{report}"
    );
    let sarif: Value = serde_json::from_slice(&domain.run(&["--format", "sarif"]).stdout).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "shadowed");
}

#[test]
fn the_shipped_and_example_policies_have_no_policy_without_effect() {
    let directory = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    let both = |name: &str| {
        let example = project_file("examples/documents").join(name);
        format!("{},{}", project_file(name).display(), example.display())
    };
    let (schema, policies) = (both("schema"), both("policies"));
    let settings = [
        ("CEDARGATE_SCHEMA", schema.as_str()),
        ("CEDARGATE_POLICIES", policies.as_str()),
        ("PATH", path.as_str()),
    ];
    let output = run(directory.path(), &settings, &["policy", "analyze"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn without_a_solver_nothing_is_decided() {
    let domain = Domain::new(&policy("a", "permit", "view", ""));
    let settings =
        [("CEDARGATE_SCHEMA", "schema"), ("CEDARGATE_POLICIES", "policies"), ("CVC5", "no-such-solver")];
    let output = output(
        program(domain.0.path(), &settings).args(["policy", "analyze"]).stdout(std::process::Stdio::piped()),
    );
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("cvc5 is needed"), "{}", text(&output.stderr));
}

/// A logged decision of a clerk.
fn shop_line(time: &str, action: &str, rank: i64, policies: &[&str]) -> Value {
    json!({
        "time": time, "purpose": "question",
        "caller": { "user": "u", "credential": "apiKey", "credentialId": format!("key-of-{action}") },
        "subject": { "type": "Shop::Clerk", "id": "ada", "scopes": [] },
        "action": format!("Shop::Action::\"{action}\""), "resource": { "type": "Shop::Item", "id": "i" },
        "decision": !policies.is_empty(), "policies": policies, "policyVersion": "v",
        "inputs": {
            "entities": [
                { "uid": { "type": "Shop::Clerk", "id": "ada" }, "attrs": { "rank": rank }, "parents": [] },
                { "uid": { "type": "Shop::Item", "id": "i" }, "attrs": { "price": 1 }, "parents": [] },
            ],
            "context": { "hour": 9 },
        },
    })
}

/// A logged decision of a user with this scope.
fn service_line(action: &str, scopes: &[&str], policies: &[&str]) -> Value {
    let organization = json!({ "__entity": { "type": "Organization", "id": "o" } });
    let scope_parents: Vec<Value> =
        scopes.iter().map(|scope| json!({ "type": "Scope", "id": scope })).collect();
    json!({
        "time": "2026-01-31T12:00:00.000Z", "purpose": "enforcement",
        "caller": { "user": "u", "credential": "session", "credentialId": "s" },
        "subject": { "type": "User", "id": "u", "scopes": scopes },
        "action": action, "resource": { "type": "Organization", "id": "o" },
        "decision": true, "policies": policies, "policyVersion": "v",
        "inputs": {
            "entities": [
                { "uid": { "type": "User", "id": "u" }, "attrs": { "organization": organization }, "parents": scope_parents },
                { "uid": { "type": "Organization", "id": "o" }, "attrs": { "organization": organization }, "parents": [] },
            ],
            "context": {},
        },
    })
}

const SHOP_POLICIES: &str = r#"@id("all")
@doc("Clerks do everything.")
permit (
  principal is Shop::Clerk,
  // The actions of the counter.
  action in
    [Shop::Action::"view",
     Shop::Action::"buy",
     Shop::Action::"sell"],
  resource
)
when { principal.rank > 0 };

@id("other")
@doc("Old clerks sell.")
permit (
  principal is Shop::Clerk,
  action == Shop::Action::"sell",
  resource
)
when { context.hour > 20 };
"#;

#[test]
fn the_log_shows_unused_policies_actions_and_keys() {
    let domain = Domain::new(SHOP_POLICIES);
    let log = domain.log(&[
        shop_line("2026-01-01T12:00:00.000Z", "sell", 1, &["all"]),
        shop_line("2026-06-30T12:00:00.000Z", "view", 1, &["all"]),
        shop_line("2026-07-01T12:00:00.000Z", "buy", 0, &[]),
    ]);
    let report = domain.report(&["--log", log, "--days", "30"]);
    let unused: Vec<_> =
        findings(&report).into_iter().filter(|(rule, ..)| rule.starts_with("unused")).collect();
    // The line of the first unused action.
    assert_eq!(
        unused,
        [("unused-action", "all", 8), ("unused-policy", "other", 14), ("unused-key", "", 0)],
        "{report:#}"
    );
    let messages = report["findings"].to_string();
    assert!(messages.contains("key-of-sell") && messages.contains("2026-01-01"), "{messages}");
    let all_time = domain.report(&["--log", log, "--days", "400"]);
    let unused: Vec<_> =
        findings(&all_time).into_iter().filter(|(rule, ..)| rule.starts_with("unused")).collect();
    assert_eq!(unused, [("unused-action", "all", 8), ("unused-policy", "other", 14)], "{all_time:#}");
    assert!(
        all_time["log"]["remarks"].to_string().contains("the log covers only 181 of 400 days"),
        "{all_time:#}"
    );
    let denials = domain.log(&[shop_line("2026-07-01T12:00:00.000Z", "buy", 0, &[])]);
    let report = domain.report(&["--log", denials]);
    assert!(report["log"]["remarks"].to_string().contains("contains no allow"), "{report:#}");
    assert!(findings(&report).iter().all(|(rule, ..)| !rule.starts_with("unused")), "{report:#}");
}

#[test]
fn a_narrower_policy_permits_only_what_was_used_and_keeps_every_allow() {
    let domain = Domain::new(SHOP_POLICIES);
    let log = domain.log(&[
        shop_line("2026-07-01T12:00:00.000Z", "view", 1, &["all"]),
        shop_line("2026-07-01T13:00:00.000Z", "buy", 2, &["all"]),
        shop_line("2026-07-01T14:00:00.000Z", "buy", 0, &[]),
    ]);
    let report = domain.report(&["--log", log, "--suggest"]);
    let suggested = &report["suggested"];
    assert_eq!(suggested["replayed"], 2, "{report:#}");
    let suggestion = &suggested["suggestions"][0];
    assert_eq!(
        (&suggestion["policy"], &suggestion["removedActions"]),
        (&json!("all"), &json!(["Shop::Action::\"sell\""]))
    );
    assert!(suggestion["environments"].as_u64().unwrap() > 0, "{report:#}");
    // The diff is printed, or written to a file, and the policy is not changed.
    let output = domain.run(&["--log", log, "--suggest", "-o", "narrower.patch"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(domain.path("policies/all.cedar")).unwrap(), SHOP_POLICIES);
    let diff = std::fs::read_to_string(domain.path("narrower.patch")).unwrap();
    assert_eq!(suggested["diff"], diff);
    let removed: Vec<&str> =
        diff.lines().filter(|line| line.starts_with("-  ") || line.starts_with("+  ")).collect();
    assert!(removed.iter().any(|line| line.starts_with('-') && line.contains("sell")), "{diff}");
    assert!(!removed.iter().any(|line| line.starts_with('+') && line.contains("sell")), "{diff}");
    for arguments in [&["init", "--quiet"][..], &["apply", "narrower.patch"]] {
        let git =
            std::process::Command::new("git").args(arguments).current_dir(domain.path("")).output().unwrap();
        assert!(git.status.success(), "{arguments:?}: {}", text(&git.stderr));
    }
    assert_ne!(std::fs::read_to_string(domain.path("policies/all.cedar")).unwrap(), SHOP_POLICIES);
}

#[test]
fn a_higher_scope_is_suggested_where_only_that_was_used() {
    let domain = Domain::new(
        "@id(\"lists\")\n@doc(\"Text.\")\npermit (\n  principal in Scope::\"guest\",\n  action == Action::\"listForms\",\n  resource\n);\n",
    );
    let scopes = ["guest", "agent", "bot"];
    let log = domain.log(&[service_line("listForms", &scopes, &["lists"])]);
    let report = domain.report(&["--log", log, "--suggest"]);
    assert_eq!(findings(&report), [("unused-scope", "lists", 4)], "{report:#}");
    assert_eq!(report["suggested"]["suggestions"][0]["scope"], "bot", "{report:#}");
    assert_eq!(report["suggested"]["replayed"], 1);
    let diff = report["suggested"]["diff"].as_str().unwrap();
    assert!(diff.contains("-  principal in Scope::\"guest\",\n+  principal in Scope::\"bot\","), "{diff}");
}

#[test]
fn a_policy_that_would_lose_a_logged_allow_is_not_narrowed() {
    let domain = Domain::new(
        "@id(\"lists\")\n@doc(\"Text.\")\npermit (\n  principal in Scope::\"guest\",\n  action == Action::\"listForms\",\n  resource\n);\n",
    );
    // The log names a scope that the entity of the principal does not have.
    let mut line = service_line("listForms", &["guest", "agent", "bot"], &["lists"]);
    line["inputs"]["entities"][0]["parents"] = json!([{ "type": "Scope", "id": "guest" }]);
    let log = domain.log(&[line]);
    let report = domain.report(&["--log", log, "--suggest"]);
    assert_eq!(report["suggested"]["suggestions"], json!([]), "{report:#}");
    assert!(
        report["suggested"]["rejected"][0].as_str().unwrap().contains("1 logged allows would be denied"),
        "{report:#}"
    );
}

#[test]
fn invalid_policies_are_findings_in_the_format_of_the_report() {
    let shop = Domain::new(&policy("a", "permit", "view", "when { principal.rnak > 5 }"));
    let json = shop.run(&["--format", "json"]);
    assert_eq!(json.status.code(), Some(3), "{}", text(&json.stderr));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(findings(&report), [("invalid-policy", "a", 4)], "{report:#}");
    let sarif = shop.run(&["--format", "sarif"]);
    assert_eq!(sarif.status.code(), Some(3), "{}", text(&sarif.stderr));
    let log: Value = serde_json::from_slice(&sarif.stdout).unwrap();
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "invalid-policy", "{log:#}");
    assert_eq!(log["runs"][0]["automationDetails"]["id"], "cedargate/analyze/");
    let readable = shop.run(&[]);
    assert_eq!((readable.status.code(), text(&readable.stdout)), (Some(3), String::new()));
}
