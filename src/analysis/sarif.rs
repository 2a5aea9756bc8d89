//! Findings as SARIF 2.1.0, the format in which code hosts show the results of checks beside the code.

use super::{Finding, Level};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A SARIF log with the findings of a command, whose name is in the id by which code hosts keep the logs of several commands
/// apart. `rules` describes the rules of the command, by code.
pub fn sarif(command: &str, rules: &[(&'static str, &'static str)], findings: &[Finding]) -> String {
    let positions: BTreeMap<&str, usize> =
        rules.iter().enumerate().map(|(position, (code, _))| (*code, position)).collect();
    let rules: Vec<Value> =
        rules.iter().map(|(code, text)| json!({"id": code, "shortDescription": {"text": text}})).collect();
    let results: Vec<Value> = findings.iter().map(|finding| result(finding, &positions)).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "cedargate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "automationDetails": {"id": format!("cedargate/{command}/")},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn result(finding: &Finding, positions: &BTreeMap<&str, usize>) -> Value {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let mut result = Map::from_iter([
        ("ruleId".to_owned(), json!(finding.rule)),
        ("level".to_owned(), json!(level)),
        ("message".to_owned(), json!({"text": finding.message})),
    ]);
    if let Some(position) = positions.get(finding.rule) {
        result.insert("ruleIndex".to_owned(), json!(position));
    }
    if let Some(file) = &finding.file {
        let mut location = Map::from_iter([("artifactLocation".to_owned(), json!({"uri": uri(file)}))]);
        if let Some(region) = finding.region {
            location.insert("region".to_owned(), json!(region));
        }
        result.insert("locations".to_owned(), json!([{"physicalLocation": location}]));
    }
    Value::Object(result)
}

/// A path as a relative URI reference, or as a `file:` URI if it is absolute.
fn uri(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let encode = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let encoded: String = path.bytes().map(encode).collect();
    if path.starts_with('/') { format!("file://{encoded}") } else { encoded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("policies/a b.cedar"), "policies/a%20b.cedar");
        assert_eq!(uri("/etc/ä.cedar"), "file:///etc/%C3%A4.cedar");
    }
}
