//! `cedargate policy check`: what it reports, and with which exit code.

use crate::command_line::{run, text};
use crate::support::project_file;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A copy of the shipped schema and policies.
pub(crate) struct Copy(tempfile::TempDir);

impl Copy {
    pub(crate) fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for directory in ["schema", "policies", "policies/cases"] {
            std::fs::create_dir(copy.path(directory)).unwrap();
            for entry in std::fs::read_dir(project_file(directory)).unwrap() {
                let file = entry.unwrap().path();
                if file.is_file() {
                    std::fs::copy(&file, copy.path(directory).join(file.file_name().unwrap())).unwrap();
                }
            }
        }
        copy
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces `old` in a file, which contains it.
    pub(crate) fn replace(self, file: &str, old: &str, new: &str) -> Self {
        let content = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(content.contains(old), "{file} does not contain {old}");
        std::fs::write(self.path(file), content.replace(old, new)).unwrap();
        self
    }

    /// Adds a file.
    pub(crate) fn add(self, file: &str, content: &str) -> Self {
        std::fs::write(self.path(file), content).unwrap();
        self
    }

    /// The findings of a check in JSON: rule, level, file, line and message.
    pub(crate) fn findings(&self) -> Vec<(String, String, String, u64, String)> {
        let output = self.run(&["policy", "check", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(output.status.code(), Some(if findings.is_empty() { 0 } else { 3 }), "{report}");
        let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        findings
            .iter()
            .map(|finding| {
                let line = finding["region"]["startLine"].as_u64().unwrap_or_default();
                (
                    field(finding, "rule"),
                    field(finding, "level"),
                    field(finding, "file"),
                    line,
                    field(finding, "message"),
                )
            })
            .collect()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let settings = [("CEDARGATE_SCHEMA", "schema"), ("CEDARGATE_POLICIES", "policies")];
        run(self.0.path(), &settings, arguments)
    }
}

/// The fields in the bodies of all update requests.
fn updatable_fields() -> BTreeSet<String> {
    let document = std::fs::read_to_string(project_file("openapi/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let bodies = paths.filter_map(|path| path.pointer("/patch/requestBody/content")?.as_object()).flatten();
    let schemas =
        bodies.map(|(_, content)| content["schema"]["$ref"].as_str().unwrap().trim_start_matches('#'));
    let fields =
        schemas.flat_map(|pointer| document.pointer(pointer).unwrap()["properties"].as_object().unwrap());
    // The current password and the choice to end keys are part of the request, and no fields of the user.
    let parameters = ["currentPassword", "endKeys"];
    fields.map(|(name, _)| name.clone()).filter(|name| !parameters.contains(&name.as_str())).collect()
}

#[test]
fn the_enumerated_fields_are_those_of_the_update_routes() {
    let schema = std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap();
    let (_, declaration) = schema.split_once("entity Field enum [").unwrap();
    let declared = declaration.split(']').next().unwrap().split(',');
    let declared: BTreeSet<String> = declared.map(|name| name.trim().trim_matches('"').to_owned()).collect();
    assert_eq!(declared, updatable_fields());
}

#[test]
fn a_schema_that_declares_other_types_than_the_service_supplies_is_rejected() {
    for (old, new, expected) in [
        (
            "credential?: Credential",
            "credential?: String",
            "context.credential: the service supplies Credential, but the schema declares String",
        ),
        (
            "changes?: Set<Field>",
            "changes?: Set<String>",
            "context.changes: the service supplies Field, but the schema declares String",
        ),
        ("\"apiKey\", ", "", "context.credential: the enumerated type Credential lacks \"apiKey\""),
        (
            "\"password\",",
            "\"passwrod\",",
            "context.changes: the enumerated type Field lacks \"password\" and has \"passwrod\", which the service never supplies",
        ),
    ] {
        let output = Copy::new().replace("schema/cedargate.cedarschema", old, new).run(&["policy", "check"]);
        assert_eq!(output.status.code(), Some(3), "{new}");
        assert!(text(&output.stdout).contains(expected), "{new}: {}", text(&output.stdout));
    }
}

#[test]
fn the_shipped_and_example_policies_have_no_finding() {
    let output = Copy::new().run(&["policy", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let directory = tempfile::tempdir().unwrap();
    let both = |name: &str| {
        let example = project_file("examples/documents").join(name);
        format!("{},{}", project_file(name).display(), example.display())
    };
    let (schema, policies) = (both("schema"), both("policies"));
    let settings = [("CEDARGATE_SCHEMA", schema.as_str()), ("CEDARGATE_POLICIES", policies.as_str())];
    let output = run(directory.path(), &settings, &["policy", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

const PERMIT: &str = "permit (principal, action == Action::\"fetchForm\", resource)";

#[test]
fn every_rule_is_reported_with_its_place() {
    let policy = |text: &str| format!("@id(\"more\")\n@doc(\"Text.\")\n{text}");
    let when = |condition: &str| policy(&format!("{PERMIT}\nwhen {{ {condition} }};"));
    for (file, content, rule, line) in [
        ("more.cedar", policy("permit (principal,, resource);"), "syntax", 3),
        ("more.cedar", policy("permit (principal == ?principal, action, resource);"), "template", 1),
        ("more.cedar", format!("// A comment.\n\n{PERMIT};"), "missing-id", 3),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "admin"), "duplicate-id", 0),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "a\\u{1b}[2J"), "invalid-id", 1),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "a\\nDA:1,1"), "invalid-id", 1),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "a\\u{202e}b"), "invalid-id", 1),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "a\\u{2028}b"), "invalid-id", 1),
        ("more.cedar", policy(&format!("{PERMIT};")).replace("more", "a\\u{e0041}"), "invalid-id", 1),
        ("more.cedar", format!("@id(\"more\")\n{PERMIT};"), "missing-doc", 2),
        ("more.cedar", when("principal.organization.level == 0"), "invalid-policy", 4),
        ("more.cedar", when("context.credential == Credential::\"apikey\""), "invalid-policy", 4),
        ("more.cedar", when("1 == 2"), "impossible-policy", 1),
        ("more.cedar", when("principal in Scope::\"agnet\""), "undefined-entity", 4),
        ("more.cedar", when("context has now && context.now < datetime(\"2027-01-01\")"), "literal-date", 4),
        (
            "more.cedar",
            when("principal has email && principal.email == \"ada@example.com\""),
            "literal-email",
            4,
        ),
        (
            "more.cedar",
            when("principal has email && principal.email like \"ada@example.com\""),
            "literal-email",
            4,
        ),
        ("more.cedar", when("principal == User::\"599e1fcd9da1c72645c95886\""), "literal-user", 4),
        (
            "more.cedar",
            policy(
                "forbid (principal, action == Action::\"listForms\", resource)\n\
                 when { { of: resource.organization } == { of: principal.organization } };",
            ),
            "row-policy",
            1,
        ),
        (
            "more.cedar",
            policy("permit (principal, action == Action::\"listForms\", resource is Form);"),
            "row-permit",
            1,
        ),
        ("more.json", "[{\"uid\": 5}]".to_owned(), "invalid-data", 0),
        ("more.json", "[{\"uid\": {}, \"uid\": {}}]".to_owned(), "duplicate-key", 0),
        ("more.json", entity("Scope", "admin", "Scope", "guest"), "duplicate-entity", 0),
        ("more.json", entity("Scope", "guest2", "Scope", "gast"), "undefined-parent", 1),
        ("more.json", entity("Form", "f", "Organization", "o"), "stored-entity", 1),
        ("more.json", entity("Scope", "guest2", "Scope", "guest"), "scopes", 0),
        ("cases/more.json", "[]".to_owned(), "empty-tests", 1),
    ] {
        let findings = Copy::new().add(&format!("policies/{file}"), &content).findings();
        let of_rule: Vec<_> = findings.iter().filter(|(found, ..)| found == rule).collect();
        assert!(!of_rule.is_empty(), "{rule}: {findings:?}");
        assert!(
            line == 0 || of_rule.iter().any(|(.., found, _)| *found == line),
            "{rule} {line}: {findings:?}"
        );
        let warnings =
            ["missing-doc", "literal-date", "literal-email", "literal-user", "row-permit", "empty-tests"];
        let level = if warnings.contains(&rule) { "warning" } else { "error" };
        assert!(of_rule.iter().all(|(_, found, ..)| found == level), "{rule}: {findings:?}");
    }
}

/// Data with one entity.
fn entity(kind: &str, id: &str, parent_kind: &str, parent: &str) -> String {
    let organization = r#""organization": { "__entity": { "type": "Organization", "id": "o" } }"#;
    let attributes = if kind == "Form" { organization } else { "" };
    format!(
        r#"[{{ "uid": {{ "type": "{kind}", "id": "{id}" }}, "attrs": {{ {attributes} }}, "parents": [{{ "type": "{parent_kind}", "id": "{parent}" }}] }}]"#
    )
}

#[test]
fn a_claim_with_the_id_of_a_built_in_claim_is_rejected() {
    let claim = "@id(\"policies-never-fail\")\n@doc(\"Text.\")\nforbid (principal, action, resource);";
    let copy = Copy::new();
    std::fs::create_dir(copy.path("policies/claims")).unwrap();
    let findings = copy.add("policies/claims/own.cedar", claim).findings();
    let [(rule, level, file, line, _)] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(
        (rule.as_str(), level.as_str(), file.as_str()),
        ("reserved-id", "error", "policies/claims/own.cedar")
    );
    assert!(*line > 0, "{findings:?}");
}

#[test]
fn all_findings_are_reported_at_once_with_excerpts() {
    let output = Copy::new()
        .replace("schema/cedargate.cedarschema", "entity OrganizationGroup", "entity entity OrganizationGroup")
        .add("policies/one.cedar", "@id(\"one\")\npermit (principal,, resource);\n\n@id(\"two\")\nforbid (principal, action resource);")
        .add("policies/two.cedar", &format!("{PERMIT};\n@id(\"admin\")\n{PERMIT}\nwhen {{ principal in Scope::\"agnet\" }};"))
        .add("policies/cases/none.json", "[]")
        .run(&["policy", "check"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{report}");
    for expected in [
        "cedargate.cedarschema:",
        "[invalid-schema]",
        "policies/one.cedar:2:19: error:",
        "2 | permit (principal,, resource);\n  |                   ^\n",
        "policies/one.cedar:5:",
        "policies/two.cedar:1:1: error: the policy that begins with",
        "[missing-id]",
        "[duplicate-id]",
        "policies/cases/none.json:1:1: warning: the file contains no policy test [empty-tests]",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    assert!(!report.contains(", version "), "{report}");
}

#[test]
fn two_errors_in_one_policy_are_both_reported() {
    let text = format!(
        "@id(\"more\")\n@doc(\"Text.\")\n{PERMIT}\nwhen {{ principal.rank > 1 }}\nunless {{ principal.age > 2 }};"
    );
    let findings = Copy::new().add("policies/more.cedar", &text).findings();
    let invalid: Vec<u64> =
        findings.iter().filter(|(rule, ..)| rule == "invalid-policy").map(|(.., line, _)| *line).collect();
    assert_eq!(invalid, [4, 5], "{findings:?}");
}

#[test]
fn warnings_do_not_prevent_the_use_of_the_policies() {
    let copy = Copy::new().add("policies/more.cedar", &format!("@id(\"more\")\n{PERMIT};"));
    let check = copy.run(&["policy", "check"]);
    assert_eq!(check.status.code(), Some(3));
    let report = text(&check.stdout);
    assert!(report.contains("0 errors, 1 warning\n") && report.contains(" policies, version "), "{report}");
    let matrix = copy.run(&["policy", "matrix", "-o", "MATRIX.md"]);
    assert_eq!(matrix.status.code(), Some(0), "{}", text(&matrix.stderr));
}

#[test]
fn sarif_names_rules_and_regions() {
    let copy = Copy::new().add("policies/more.cedar", &format!("@id(\"more\")\n{PERMIT};"));
    let output = copy.run(&["policy", "check", "--format", "sarif"]);
    let log: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &log["runs"][0];
    let result = &run["results"][0];
    assert_eq!(result["ruleId"], "missing-doc");
    assert_eq!(result["level"], "warning");
    let rule =
        &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
    assert_eq!(rule["id"], "missing-doc");
    let location = &result["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "policies/more.cedar");
    assert_eq!(location["region"]["startLine"], 2);
}

#[test]
fn the_documentation_lists_every_rule() {
    let documentation = std::fs::read_to_string(project_file("docs/policies.md")).unwrap();
    for rule in cedargate::authz::Rule::ALL {
        let row = format!(
            "| `{}` | {} | {} |",
            rule.code(),
            if rule.is_warning() { "warning" } else { "error" },
            rule.meaning()
        );
        assert!(documentation.contains(&row), "docs/policies.md lacks {row}");
    }
}

#[test]
fn an_email_pattern_with_a_wildcard_is_no_single_user() {
    let condition = "principal has email && principal.email like \"*@example.com\"";
    let policy = format!("@id(\"more\")\n@doc(\"Text.\")\n{PERMIT}\nwhen {{ {condition} }};");
    assert_eq!(Copy::new().add("policies/more.cedar", &policy).findings(), []);
}

#[test]
fn policy_tests_that_prevent_a_start_are_findings() {
    let cases = std::fs::read_to_string(project_file("policies/cases/keys.json")).unwrap();
    let mut cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let decision = if cases[0]["decision"] == "allow" { "deny" } else { "allow" };
    (cases[0]["decision"], cases[0]["name"]) = (decision.into(), "one that fails".into());
    let failing = serde_json::to_string_pretty(&cases).unwrap();
    for (content, expected) in [
        (failing.as_str(), "error: policy test \"one that fails\" failed: expected"),
        ("[{\"name\":\"a\"}]", "error: not a list of policy tests: missing field"),
        ("{\"tests\":[]}", "error: not a list of policy tests: invalid type: map"),
    ] {
        let copy = Copy::new().add("policies/cases/more.json", content);
        let settings = |tests| {
            [
                ("CEDARGATE_SCHEMA", "schema"),
                ("CEDARGATE_POLICIES", "policies"),
                ("CEDARGATE_POLICY_TESTS", tests),
            ]
        };
        let output = run(copy.0.path(), &settings("enforce"), &["policy", "check"]);
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{report}");
        let place = report.lines().find(|line| line.contains(expected)).unwrap_or_else(|| panic!("{report}"));
        assert!(
            place.starts_with("policies/cases/more.json:") && place.ends_with("[failed-test]"),
            "{report}"
        );
        // Tests that the service does not run are not run.
        let output = run(copy.0.path(), &settings("off"), &["policy", "check"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    }
}

#[test]
fn a_policy_without_a_valid_id_is_validated_too() {
    let wrong = "permit (principal, action == Action::\"fetchFrom\", resource)\nwhen { principal in Scope::\"agnet\" && context.shared };";
    for (id, rule) in
        [("", "missing-id"), ("@id(\"admin\")\n", "duplicate-id"), ("@id(\"a\\tb\")\n", "invalid-id")]
    {
        let copy = Copy::new().add("policies/more.cedar", &format!("{id}@doc(\"Text.\")\n{wrong}"));
        let findings = copy.findings();
        let messages: Vec<&str> = findings.iter().map(|(.., message)| message.as_str()).collect();
        assert!(findings.iter().any(|(found, ..)| found == rule), "{rule}: {findings:?}");
        assert!(findings.iter().any(|(found, ..)| found == "undefined-entity"), "{rule}: {findings:?}");
        assert!(messages.iter().any(|message| message.contains("fetchFrom")), "{rule}: {findings:?}");
        let output = copy.run(&["policy", "matrix", "-o", "MATRIX.md"]);
        assert_eq!(output.status.code(), Some(3), "{rule}: {}", text(&output.stderr));
        assert!(!text(&copy.run(&["policy", "check"]).stdout).contains('\t'), "{rule}");
    }
}

#[test]
fn an_error_hides_no_other_error_of_its_file() {
    let policies = [
        "@id(\"a\")\npermit (principal, action resource);",
        "@id(\"b\") // permit;\nforbit (principal, action, resource);",
        "@id(\"c;\")\nforbid (principal, actoin, resource);",
        "@id(\"d\") @doc(\"Text.\")\nforbid (principal, action, resource);",
        "@id(\"e\")\nforbid (principal, action, resource)\nwhen { 1 + };",
    ];
    let copy = Copy::new().add("policies/more.cedar", &policies.join("\n\n")).add(
        "schema/more.cedarschema",
        "entity A;\n\naction a appliesTo { principal: [], resource: A };\n\naction b appliesTo { resource: A, resource: A };\n",
    );
    let places = |output: &Output| -> Vec<String> {
        let report = text(&output.stdout);
        let places = report.lines().filter_map(|line| line.split_once(": error:"));
        places.map(|(place, _)| place.to_owned()).collect()
    };
    let output = copy.run(&["policy", "check"]);
    let expected = [
        "policies/more.cedar:2:27",
        "policies/more.cedar:5:1",
        "policies/more.cedar:8:20",
        "policies/more.cedar:15:12",
    ];
    let found = places(&output);
    let (schema, policies): (Vec<_>, Vec<_>) = found.iter().partition(|place| place.starts_with("schema/"));
    assert_eq!(policies, expected.iter().collect::<Vec<_>>(), "{}", text(&output.stdout));
    assert_eq!(schema.len(), 2, "{}", text(&output.stdout));
}

#[test]
fn a_finding_about_no_single_file_has_no_file() {
    let copy = Copy::new();
    for name in ["scopes.json", "claims", "cases"] {
        let path = copy.path("policies").join(name);
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
    let report = |format| text(&copy.run(&["policy", "check", "--format", format]).stdout);
    let findings: Value = serde_json::from_str(&report("json")).unwrap();
    let of_scopes = |finding: &&Value| finding["rule"] == "scopes";
    let scopes: Vec<&Value> = findings["findings"].as_array().unwrap().iter().filter(of_scopes).collect();
    assert_eq!(scopes.len(), 4, "{findings:#}");
    assert!(scopes.iter().all(|finding| finding.get("file").is_none()), "{findings:#}");
    let log: Value = serde_json::from_str(&report("sarif")).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    let scopes: Vec<&Value> = results.iter().filter(|result| result["ruleId"] == "scopes").collect();
    assert!(scopes.iter().all(|result| result.get("locations").is_none()), "{log:#}");
    assert!(
        report("text").starts_with("error: the entity Scope::\"guest\" is missing"),
        "{}",
        report("text")
    );
    // If other scopes are defined, a missing one is reported in their file.
    let copy = Copy::new().add(
        "policies/scopes.json",
        r#"[{ "uid": { "type": "Scope", "id": "guest" }, "attrs": {}, "parents": [] }]"#,
    );
    let copy = copy.add("policies/more.json", "[]");
    let files: BTreeSet<String> = copy
        .findings()
        .into_iter()
        .filter(|(rule, ..)| rule == "scopes")
        .map(|(_, _, file, ..)| file)
        .collect();
    assert_eq!(files, BTreeSet::from(["policies/scopes.json".to_owned()]));
}

#[test]
fn the_excerpt_of_a_long_line_is_short() {
    let case =
        std::fs::read_to_string(project_file("examples/documents/policies/cases/documents.json")).unwrap();
    let line = case.lines().find(|line| line.contains("an owner reads its document")).unwrap();
    let line = line.trim_end_matches(',').replace("\"allow\"", "\"deny\"");
    assert!(line.len() > 500, "{line}");
    let copy = Copy::new().add("policies/cases/more.json", &format!("[\n{line}\n]\n"));
    let [schema, policies] = ["schema", "policies"]
        .map(|name| format!("{name},{}", project_file(&format!("examples/documents/{name}")).display()));
    let settings = [
        ("CEDARGATE_SCHEMA", schema.as_str()),
        ("CEDARGATE_POLICIES", policies.as_str()),
        ("CEDARGATE_POLICY_TESTS", "enforce"),
    ];
    let output = run(copy.0.path(), &settings, &["policy", "check"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{shown}");
    let excerpt: Vec<&str> = shown.lines().filter(|line| line.contains(" | ")).collect();
    assert_eq!(excerpt.len(), 2, "{shown}");
    assert!(excerpt[0].starts_with("2 | {\"name\"") && excerpt[0].ends_with('…'), "{shown}");
    for line in excerpt {
        assert!(line.chars().count() <= 130, "{line}");
    }
}
