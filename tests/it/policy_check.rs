//! `cedargate policy check`: what it reports, and with which exit code.

use crate::command_line::{run, text};
use crate::support::project_file;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A copy of the shipped schema and policies.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
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

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces `old` in a file, which contains it.
    fn replace(self, file: &str, old: &str, new: &str) -> Self {
        let content = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(content.contains(old), "{file} does not contain {old}");
        std::fs::write(self.path(file), content.replace(old, new)).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
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
        assert!(text(&output.stderr).contains(expected), "{new}: {}", text(&output.stderr));
    }
}
