//! `cedargate policy check`: schemas that differ from what the service supplies, and data without the cascade of scopes.

use crate::command_line::text;
use crate::policy_check::Copy;
use crate::support::project_file;
use serde_json::Value;

#[test]
fn attributes_and_context_fields_that_are_never_supplied_are_reported_in_the_schema() {
    let schema = "schema/cedargate.cedarschema";
    let copy = Copy::new()
        .replace(schema, "  kbase?: String,", "  kbase?: String,\n  createdAt?: datetime,")
        .replace(schema, "type Call = {", "type Call = {\n  device?: String,");
    let findings = copy.findings();
    let content = std::fs::read_to_string(copy.path(schema)).unwrap();
    let line_of = |text: &str| content.lines().position(|line| line.contains(text)).unwrap() as u64 + 1;
    let found: Vec<(&str, &str, u64)> =
        findings.iter().map(|(rule, level, _, line, _)| (rule.as_str(), level.as_str(), *line)).collect();
    let expected = [
        ("unsupplied-attribute", "error", line_of("createdAt?")),
        ("unsupplied-context", "warning", line_of("device?")),
    ];
    assert_eq!(found, expected, "{findings:?}");
    assert!(findings[0].4.starts_with("KnowledgeItem.createdAt:"), "{findings:?}");
}

#[test]
fn what_the_service_supplies_and_the_schema_omits_is_reported_in_the_schema() {
    let schema = "schema/cedargate.cedarschema";
    let copy = Copy::new()
        .replace(schema, "  status?: KnowledgeStatus,\n", "")
        .replace(schema, "  level?: Long,\n", "")
        .replace(schema, "entity Service in [Organization]", "entity Service")
        .replace(schema, "type Call = {\n  credential?: Credential,", "type Call = {")
        .replace(schema, "type KeyRequest = {\n  scope?: Scope,", "type KeyRequest = {")
        .replace(schema, "type UserChange = {\n  role?: Scope,", "type UserChange = {")
        .replace(schema, "type Change = {\n  changes?: Set<Field>,", "type Change = {");
    let findings = copy.findings();
    let content = std::fs::read_to_string(copy.path(schema)).unwrap();
    let line_of = |text: &str| content.lines().position(|line| line.starts_with(text)).unwrap() as u64 + 1;
    for (rule, line, message) in [
        ("undeclared-attribute", line_of("entity KnowledgeItem"), "KnowledgeItem.status: "),
        ("undeclared-attribute", line_of("entity Organization in"), "Organization.level: "),
        ("undeclared-parent", line_of("entity Service"), "Service: "),
        ("undeclared-context", line_of("action createContact "), "context.credential: "),
        ("undeclared-context", line_of("action createApiKey "), "context.scope: "),
        ("undeclared-context", line_of("action updateUser "), "context.role: "),
        ("undeclared-context", line_of("action setConversationMeta"), "context.changes: "),
    ] {
        let is_expected = |(found, level, _, found_line, text): &(String, String, String, u64, String)| {
            (found.as_str(), level.as_str(), *found_line) == (rule, "error", line)
                && text.starts_with(message)
        };
        assert!(findings.iter().any(is_expected), "{rule} {line} {message}: {findings:#?}");
    }
    let undeclared = findings.iter().filter(|(rule, ..)| rule.starts_with("undeclared-"));
    assert_eq!(undeclared.count(), 7, "{findings:#?}");
    let changes = findings.iter().find(|(.., message)| message.starts_with("context.changes")).unwrap();
    for action in ["leaveConversation", "updateContact", "updateForm"] {
        assert!(changes.4.contains(action), "{changes:?}");
    }
    // Nothing is proven with a schema that omits what the service supplies.
    let proof = Copy::new().replace(schema, "  status?: KnowledgeStatus,\n", "").run(&["policy", "prove"]);
    assert!(text(&proof.stderr).contains("KnowledgeItem.status: the service supplies"), "{proof:?}");
    assert!(!proof.status.success() && !text(&proof.stdout).contains("proven"), "{proof:?}");
}

#[test]
fn an_attribute_that_is_not_always_supplied_must_be_optional() {
    let schema = "schema/cedargate.cedarschema";
    let copy = Copy::new()
        .replace(schema, "  status?: KnowledgeStatus,", "  status: KnowledgeStatus,")
        .replace(schema, "  level?: Long,", "  level: Long,");
    let findings = copy.findings();
    let found: Vec<&str> = findings
        .iter()
        .filter(|(rule, level, ..)| rule == "supplied-type" && level == "error")
        .map(|(.., message)| message.split(':').next().unwrap())
        .collect();
    assert_eq!(found, ["Organization.level", "KnowledgeItem.status"], "{findings:#?}");
}

#[test]
fn a_cascade_that_lacks_or_inverts_a_step_is_a_warning_in_the_data() {
    let file = "policies/scopes.json";
    let parents = |scope: &str, parents: &str| {
        let content = std::fs::read_to_string(project_file(file)).unwrap();
        let mut scopes: Vec<Value> = serde_json::from_str(&content).unwrap();
        for entity in scopes.iter_mut().filter(|entity| entity["uid"]["id"] == scope) {
            entity["parents"] = serde_json::from_str(parents).unwrap();
        }
        let lines: Vec<String> = scopes.iter().map(Value::to_string).collect();
        Copy::new().add(file, &format!("[\n{}\n]", lines.join(",\n")))
    };
    let guest = r#"[{ "type": "Scope", "id": "guest" }]"#;
    let findings = parents("bot", guest).findings();
    let [(rule, level, found, line, message)] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((rule.as_str(), level.as_str(), found.as_str(), *line), ("scope-cascade", "warning", file, 3));
    assert!(message.starts_with("Scope::\"bot\" is not in Scope::\"agent\""), "{message}");
    // Agents lose what guests may do, and guests get what agents may do.
    let inverted = parents("agent", "[]");
    let content = std::fs::read_to_string(inverted.path(file)).unwrap();
    let mut lines: Vec<String> = content.lines().map(str::to_owned).collect();
    assert!(lines[4].contains("\"guest\""), "{content}");
    lines[4] = lines[4].replace("[]", "[{\"type\":\"Scope\",\"id\":\"agent\"}]");
    let content = lines.join("\n");
    let found: Vec<(u64, String)> =
        inverted.add(file, &content).findings().into_iter().map(|(.., line, text)| (line, text)).collect();
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 5], "{found:?}");
    assert!(found[1].1.starts_with("Scope::\"guest\" is in Scope::\"agent\""), "{found:?}");
}
