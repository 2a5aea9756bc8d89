//! Conditions of UCAST by their interpreter for JavaScript, as the example of the document store uses it.

use crate::filter_properties::Row;
use crate::packages::npm_packages;
use crate::support::project_file;
use serde_json::{Map, Value, json};
use std::process::Command;

/// The object of a row as another service has it: entities are their ids, and in every other row, absent fields are null.
pub(crate) fn object(row: &Row) -> Value {
    fn plain(value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(plain).collect(),
            Value::Object(members) => match (members.get("id"), members.get("arg")) {
                (Some(id), _) => id.clone(),
                // The form that conditions have.
                (_, Some(time)) if members["fn"] == "datetime" => {
                    json!(time.as_str().unwrap().parse::<cedargate::types::Timestamp>().unwrap().to_string())
                }
                (_, Some(text)) => text.clone(),
                _ => members.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
            },
            other => other.clone(),
        }
    }
    let mut object: Map<String, Value> =
        row.attributes.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    object.insert("id".to_owned(), json!(row.id));
    let has_nulls = row.id.ends_with(['1', '3', '5', '7', '9']);
    match row.folder {
        Some(folder) => drop(object.insert("folder".to_owned(), json!(folder))),
        None if has_nulls => drop(object.insert("folder".to_owned(), Value::Null)),
        None => {}
    }
    if has_nulls {
        for name in ["owner", "editors", "tags", "words", "title", "size", "isPublic", "created", "place"] {
            object.entry(name).or_insert(Value::Null);
        }
    }
    Value::Object(object)
}

/// The interpreter of UCAST for JavaScript agrees with the authorizer.
pub(crate) fn interpret(conditions: &[Value]) {
    assert!(conditions.len() > 30, "too few conditions of UCAST: {}", conditions.len());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::os::unix::fs::symlink(npm_packages("npm").join("node_modules"), path("node_modules")).unwrap();
    for (name, from) in
        [("ucast.mjs", "examples/documents/ucast.mjs"), ("check.mjs", "tests/npm/check_ucast.mjs")]
    {
        std::fs::copy(project_file(from), path(name)).unwrap();
    }
    std::fs::write(path("conditions.json"), json!(conditions).to_string()).unwrap();
    let output = Command::new("node").arg("check.mjs").current_dir(directory.path()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    println!("{}", text(&output.stdout).trim_end());
}
