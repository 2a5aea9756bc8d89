//! `policy test --coverage`: which parts of the policies the tests decide; and the formats of `policy test`.

use crate::command_line::{run, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

const SCHEMA: &str = r#"
entity Scope in [Scope];
entity Person in [Scope] = { blocked: Bool, age?: Long };
entity Doc = { owner: Person, public: Bool };
action read, write, print appliesTo { principal: Person, resource: Doc };
"#;

const SCOPES: &str = r#"[
  {"uid": {"type": "Scope", "id": "admin"}, "attrs": {}, "parents": [{"type": "Scope", "id": "bot"}]},
  {"uid": {"type": "Scope", "id": "bot"}, "attrs": {}, "parents": [{"type": "Scope", "id": "agent"}]},
  {"uid": {"type": "Scope", "id": "agent"}, "attrs": {}, "parents": [{"type": "Scope", "id": "guest"}]},
  {"uid": {"type": "Scope", "id": "guest"}, "attrs": {}, "parents": []}
]"#;

const POLICIES: &str = r#"// Line 1.
@id("readers")
permit (
  principal in Scope::"guest",
  action in [Action::"read", Action::"print"],
  resource
)
when
{
  resource.public || // a comment
  resource.owner == principal
};

@id("blocked")
@doc("permit (")
forbid (principal, action, resource)
when { principal.blocked }
unless { if principal has age then principal.age >= 99 else false };
"#;

/// A directory with the schema, these policies, and these files in `cases`.
pub fn policy_directory(policies: &str, cases: &[(&str, Value)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("test.cedarschema", SCHEMA);
    write("scopes.json", SCOPES);
    write("test.cedar", policies);
    std::fs::create_dir(directory.path().join("cases")).unwrap();
    for (name, cases) in cases {
        write(&format!("cases/{name}"), &cases.to_string());
    }
    directory
}

/// A case in which a user with this scope, who owns the document or not, is allowed or denied.
pub fn case(name: &str, scope: &str, action: &str, attributes: [bool; 3], decision: &str) -> Value {
    let [is_blocked, is_owner, is_public] = attributes;
    let owner = if is_owner { "u1" } else { "u2" };
    let mut entities: Value = serde_json::from_str(SCOPES).unwrap();
    entities.as_array_mut().unwrap().extend([
        json!({"uid": {"type": "Person", "id": "u1"}, "attrs": {"blocked": is_blocked},
               "parents": [{"type": "Scope", "id": scope}]}),
        json!({"uid": {"type": "Doc", "id": "d"}, "parents": [],
               "attrs": {"owner": {"__entity": {"type": "Person", "id": owner}}, "public": is_public}}),
    ]);
    json!({
        "name": name,
        "request": {
            "principal": "Person::\"u1\"", "action": format!("Action::{action:?}"), "resource": "Doc::\"d\"", "context": {},
        },
        "entities": entities, "decision": decision, "reason": [], "num_errors": 0,
    })
}

/// Runs `policy test` in a directory of [`policy_directory`].
pub fn policy_test(directory: &Path, arguments: &[&str]) -> Output {
    let path = directory.to_str().unwrap();
    let search_path = std::env::var("PATH").unwrap();
    let settings = [("CEDARGATE_POLICIES", path), ("CEDARGATE_SCHEMA", path), ("PATH", &search_path)];
    run(directory, &settings, &[&["policy", "test"], arguments].concat())
}

fn read_cases() -> Value {
    json!([
        case("public", "guest", "read", [false, false, true], "allow"),
        case("other's", "guest", "read", [false, false, false], "deny"),
        case("blocked", "admin", "read", [true, false, true], "deny"),
    ])
}

#[test]
fn an_undecided_disjunct_is_named_with_its_line() {
    let directory = policy_directory(POLICIES, &[("a.json", read_cases())]);
    let output = policy_test(directory.path(), &["--coverage"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(report.starts_with("3 passed, 0 failed\n"), "{report}");
    let expected = concat!(
        "test.cedar:3: readers: applies to 2 tests, 1 of 5 parts covered\n",
        "    3   permit (\n",
        "    4 T   principal in Scope::\"guest\",\n",
        "          ^ never false: principal in Scope::\"guest\"\n",
    );
    assert!(report.contains(expected), "{report}");
    let expected = concat!(
        "   10 +   resource.public || // a comment\n",
        "   11 F   resource.owner == principal\n",
        "          ^ never true: resource.owner == principal\n",
        "   12   };\n",
    );
    assert!(report.contains(expected), "{report}");
    let expected = concat!(
        "   16   forbid (principal, action, resource)\n",
        "   17 + when { principal.blocked }\n",
        "   18 ! unless { if principal has age then principal.age >= 99 else false };\n",
    );
    assert!(report.contains(expected), "{report}");
    assert!(report.contains("^ never reached: principal.age >= 99\n"), "{report}");
}

#[test]
fn json_counts_the_values_of_every_part() {
    let mut cases = read_cases();
    cases.as_array_mut().unwrap().push(case("own", "guest", "read", [false, true, false], "allow"));
    let directory = policy_directory(POLICIES, &[("a.json", cases)]);
    let output = policy_test(directory.path(), &["--coverage", "--format", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tests"], json!({"passed": 4, "failed": 0, "failures": []}));
    let readers = report["coverage"]["policies"].as_array().unwrap();
    let readers = readers.iter().find(|policy| policy["policy"] == "readers").unwrap();
    let counts: Vec<Value> = readers["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            json!([part["kind"], part["text"], part["timesTrue"], part["timesFalse"], part["coverage"]])
        })
        .collect();
    let expected = [
        json!(["action", "Action::\"read\"", 4, 0, "neverFalse"]),
        json!(["action", "Action::\"print\"", 0, 4, "neverTrue"]),
        json!(["principal", "principal in Scope::\"guest\"", 4, 0, "neverFalse"]),
        json!(["condition", "resource.public", 2, 2, "covered"]),
        json!(["condition", "resource.owner == principal", 1, 1, "covered"]),
    ];
    assert_eq!(counts, expected);
    assert_eq!(readers["timesApplied"], 3);
    let region = json!({"startLine": 11, "startColumn": 3, "endLine": 11, "endColumn": 30});
    assert_eq!(readers["parts"][4]["region"], region);
}

#[test]
fn lcov_has_consistent_sums_and_two_branches_a_part() {
    let directory = policy_directory(POLICIES, &[("a.json", read_cases())]);
    let output = policy_test(directory.path(), &["--lcov", "coverage.info"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "3 passed, 0 failed\n");
    let trace = std::fs::read_to_string(directory.path().join("coverage.info")).unwrap();
    let records: Vec<(&str, Vec<&str>)> = trace
        .lines()
        .map(|line| line.split_once(':').unwrap_or((line, "")))
        .map(|(name, fields)| (name, fields.split(',').collect()))
        .collect();
    let of = |name: &str| -> Vec<&Vec<&str>> {
        records.iter().filter(|(other, _)| *other == name).map(|(_, fields)| fields).collect()
    };
    let sum =
        |name: &str| -> usize { of(name).iter().map(|fields| fields[0].parse::<usize>().unwrap()).sum() };
    let hits = |name: &str, field: usize| {
        of(name).iter().filter(|fields| !["0", "-"].contains(&fields[field])).count()
    };
    assert!(of("SF")[0][0].ends_with("test.cedar"), "{trace}");
    assert!(trace.ends_with("end_of_record\n"), "{trace}");
    assert_eq!((sum("FNF"), sum("FNH")), (of("FN").len(), hits("FNDA", 0)));
    assert_eq!((sum("BRF"), sum("BRH")), (of("BRDA").len(), hits("BRDA", 3)));
    assert_eq!((sum("LF"), sum("LH")), (of("DA").len(), hits("DA", 1)));
    // `resource.owner == principal` in line 11: never true, once false.
    let owner: Vec<&str> =
        of("BRDA").into_iter().filter(|fields| fields[0] == "11").map(|fields| fields[3]).collect();
    assert_eq!(owner, ["0", "1"]);
    // `principal.age >= 99` in line 18 is never reached.
    assert!(of("BRDA").iter().any(|fields| fields[0] == "18" && fields[3] == "-"), "{trace}");
    assert!(of("DA").contains(&&vec!["10", "3"]), "{trace}");
}

#[test]
fn too_little_coverage_fails_if_a_minimum_is_given() {
    let directory = policy_directory(POLICIES, &[("a.json", read_cases())]);
    let output = policy_test(directory.path(), &["--fail-under", "90"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let message = text(&output.stderr);
    assert!(message.ends_with(" % of the parts are covered, less than 90 %\n"), "{message}");
    assert_eq!(policy_test(directory.path(), &["--fail-under", "10"]).status.code(), Some(0));
}

#[test]
fn junit_lists_a_suite_a_file_and_the_failing_test() {
    let wrong = json!([case("a <wrong> case", "guest", "write", [false, true, true], "allow")]);
    let directory = policy_directory(POLICIES, &[("a.json", read_cases()), ("b.json", wrong)]);
    let output = policy_test(directory.path(), &["--format", "junit"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = text(&output.stdout);
    let mut reader = quick_xml::Reader::from_str(&report);
    reader.config_mut().check_end_names = true;
    let (mut suites, mut failures, mut test) = (Vec::new(), Vec::new(), String::new());
    loop {
        use quick_xml::events::Event;
        match reader.read_event().unwrap() {
            Event::Eof => break,
            Event::Start(start) | Event::Empty(start) => {
                let attribute = |name: &str| {
                    let value = start.try_get_attribute(name).unwrap().unwrap();
                    let text = std::str::from_utf8(&value.value).unwrap();
                    quick_xml::escape::unescape(text).unwrap().into_owned()
                };
                match start.name().as_ref() {
                    b"testsuite" => suites.push((attribute("tests"), attribute("failures"))),
                    b"testcase" => test = attribute("name"),
                    b"failure" => failures.push((test.clone(), attribute("message"))),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(suites, [pair("3", "0"), pair("1", "1")]);
    assert_eq!(failures, [pair("a <wrong> case", "expected Allow, got Deny, determined by []")]);
}

#[test]
fn junit_has_no_coverage() {
    let directory = policy_directory(POLICIES, &[("a.json", read_cases())]);
    let output = policy_test(directory.path(), &["--coverage", "--format", "junit"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
