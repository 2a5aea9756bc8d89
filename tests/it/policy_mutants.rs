//! `policy test --mutants`: changes of the policies that no test notices.

use crate::command_line::{run, text};
use crate::policy_coverage::{case, policy_directory, policy_test};
use crate::support::project_file;
use serde_json::{Value, json};

const POLICIES: &str = r#"@id("readers")
permit (principal in Scope::"guest", action == Action::"read", resource)
when { resource.public || resource.owner == principal };
"#;

/// Cases for [`POLICIES`] that notice every change except those of `resource.owner == principal`.
fn cases() -> Value {
    json!([
        case("public", "guest", "read", [false, false, true], "allow"),
        case("other's", "guest", "read", [false, false, false], "deny"),
    ])
}

fn json_report(directory: &std::path::Path) -> Value {
    let output = policy_test(directory, &["--mutants", "--format", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The descriptions of the mutants with this status.
fn with_status<'a>(report: &'a Value, status: &str) -> Vec<&'a str> {
    let mutants = report["mutants"]["mutants"].as_array().unwrap();
    let mutants = mutants.iter().filter(|mutant| mutant["status"] == status);
    mutants.map(|mutant| mutant["description"].as_str().unwrap()).collect()
}

/// A directory with [`POLICIES`], [`cases`], and an empty directory `new`.
fn directory() -> tempfile::TempDir {
    let directory = policy_directory(POLICIES, &[("a.json", cases())]);
    std::fs::create_dir(directory.path().join("new")).unwrap();
    directory
}

#[test]
fn a_surviving_mutant_is_shown_as_a_diff_and_its_missing_test_notices_it() {
    let directory = directory();
    let output = policy_test(directory.path(), &["--mutants", "--write-cases", "new/missing.json"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let title = "readers without resource.owner == principal";
    assert!(report.contains(&format!("test.cedar:1: {title}: survives\n")), "{report}");
    let diff = concat!(
        "-when { resource.public || resource.owner == principal };\n",
        "+when { resource.public };\n",
    );
    assert!(report.contains(diff), "{report}");
    assert!(report.contains(&format!("--- readers\n+++ {title}\n")), "{report}");

    // The written tests pass with the policies as they are, and fail with the change.
    let missing = directory.path().join("new/missing.json");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&missing).unwrap()).unwrap();
    let names: Vec<&str> =
        written.as_array().unwrap().iter().map(|test| test["name"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("confirm: ")), "{names:?}");
    let output = policy_test(directory.path(), &["new/missing.json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let changed = POLICIES.replace("resource.public || resource.owner == principal", "resource.public");
    std::fs::write(directory.path().join("test.cedar"), changed).unwrap();
    let output = policy_test(directory.path(), &["new/missing.json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");

    // With them, no mutant survives.
    std::fs::write(directory.path().join("test.cedar"), POLICIES).unwrap();
    std::fs::rename(&missing, directory.path().join("cases/b.json")).unwrap();
    let output = policy_test(directory.path(), &["--mutants", "--write-cases", "new/missing.json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("no test is missing"), "{output:?}");
    assert!(!missing.exists());
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let directory = directory();
    let file = directory.path().join("new/missing.json");
    std::fs::write(&file, "kept").unwrap();
    let output = policy_test(directory.path(), &["--mutants", "--write-cases", "new/missing.json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn missing_tests_are_not_written_where_they_would_be_read_as_entity_data() {
    let directory = directory();
    let output = policy_test(directory.path(), &["--mutants", "--write-cases", "missing.json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("would be read as entity data"), "{output:?}");
}

#[test]
fn equivalent_mutants_are_proven_and_invalid_ones_are_not_counted() {
    // Only because of the data is every admin a guest.
    let policies = r#"@id("guest") permit (principal in Scope::"guest", action == Action::"read", resource);
        @id("admin") permit (principal in Scope::"admin", action == Action::"read", resource)
        when { principal has age && principal.age > 1 };"#;
    let cases = json!([
        case("guest", "guest", "read", [false, false, true], "allow"),
        case("admin", "admin", "read", [false, false, true], "allow"),
    ]);
    let directory = policy_directory(policies, &[("a.json", cases)]);
    let report = json_report(directory.path());
    let equivalent = with_status(&report, "equivalent");
    assert!(equivalent.contains(&"deleted"), "{report:#}");
    assert!(equivalent.contains(&r#"with Scope::"bot" instead of Scope::"admin""#), "{report:#}");
    let assumptions = report["mutants"]["assumptions"].to_string();
    assert!(assumptions.contains(r#"Scope::\"admin\" is in Scope::\"guest\""#), "{assumptions}");
    // Without `principal has age`, and with `||`, the policy does not validate.
    assert_eq!(report["mutants"]["invalid"], 2, "{report:#}");
}

#[test]
fn a_mutant_that_changes_where_a_policy_fails_is_not_equivalent() {
    // The forbid matches nothing, and fails for a high age: the failure denies.
    let policies = r#"@id("guest") permit (principal in Scope::"guest", action == Action::"read", resource);
        @id("age") forbid (principal, action == Action::"read", resource)
        when { principal has age && principal.age * 2 == 9223372036854775807 };"#;
    let cases = json!([case("guest", "guest", "read", [false, false, true], "allow")]);
    let directory = policy_directory(policies, &[("a.json", cases)]);
    let output = policy_test(directory.path(), &["--mutants", "--write-cases", "cases/new.json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = text(&output.stdout);
    assert!(report.contains("age deleted: survives\n"), "{report}");
    let missing = std::fs::read_to_string(directory.path().join("cases/new.json")).unwrap();
    let missing: Value = serde_json::from_str(&missing).unwrap();
    assert!(missing.as_array().unwrap().iter().any(|test| test["num_errors"] == 1), "{missing:#}");
    // The missing tests notice it.
    let report = json_report(directory.path());
    assert!(with_status(&report, "noticed").contains(&"deleted"), "{report:#}");
    assert_eq!(with_status(&report, "survived"), Vec::<&str>::new(), "{report:#}");
}

#[test]
fn without_a_solver_unnoticed_mutants_are_undecided_and_coverage_works() {
    let directory = policy_directory(POLICIES, &[("a.json", cases())]);
    let path = directory.path().to_str().unwrap();
    let settings = [("CEDARGATE_POLICIES", path), ("CEDARGATE_SCHEMA", path), ("CVC5", "/does/not/exist")];
    let arguments = ["policy", "test", "--coverage", "--mutants"];
    let output = run(directory.path(), &settings, &arguments);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stderr).contains("the solver cvc5 is needed"), "{output:?}");
    let report = text(&output.stdout);
    assert!(report.contains("readers without resource.owner == principal: undecided"), "{report}");
    assert!(report.contains("coverage: "), "{report}");
    let output = run(directory.path(), &settings, &["policy", "test", "--coverage"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn mutants_are_not_tried_while_a_test_fails() {
    let wrong = json!([case("wrong", "guest", "read", [false, false, true], "deny")]);
    let directory = policy_directory(POLICIES, &[("a.json", wrong)]);
    let output = policy_test(directory.path(), &["--mutants"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).ends_with("mutants were not tried, because tests fail\n"), "{output:?}");
}

#[test]
fn junit_lists_surviving_mutants_as_failures() {
    let directory = policy_directory(POLICIES, &[("a.json", cases())]);
    let output = policy_test(directory.path(), &["--mutants", "--format", "junit"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = text(&output.stdout);
    assert!(report.contains(r#"<testsuite name="mutants""#), "{report}");
    assert!(report.contains(r#"<failure message="no test notices the change"#), "{report}");
}

/// The report for the policies in a directory of the project.
fn shipped_report(schema: &[&str], policies: &[&str]) -> Value {
    let join = |directories: &[&str]| {
        let paths: Vec<String> =
            directories.iter().map(|path| project_file(path).to_str().unwrap().to_owned()).collect();
        paths.join(",")
    };
    let (schema, policies) = (join(schema), join(policies));
    let search_path = std::env::var("PATH").unwrap();
    let settings = [
        ("CEDARGATE_SCHEMA", schema.as_str()),
        ("CEDARGATE_POLICIES", policies.as_str()),
        ("PATH", search_path.as_str()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &settings, &["policy", "test", "--mutants", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn no_mutant_of_the_shipped_policies_survives() {
    let report = shipped_report(&["schema"], &["policies"]);
    assert!(report["mutants"]["noticed"].as_u64().unwrap() > 100, "{report:#}");
}

#[test]
fn no_mutant_of_the_documents_example_survives() {
    let schema = ["schema", "examples/documents/schema"];
    let report = shipped_report(&schema, &["policies", "examples/documents/policies"]);
    let mutants = report["mutants"]["mutants"].as_array().unwrap();
    assert!(mutants.iter().any(|mutant| mutant["policy"] == "docs.final"), "{report:#}");
}
