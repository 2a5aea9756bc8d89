//! The schema, and the types that it declares.

use super::diagnostics::{BundleDiagnostic, Diagnostics, SourceFile};
use super::rules::Rule;
use crate::authz::schema_type::SchemaType;
use cedar_policy::{EntityUid, Schema, SchemaFragment};
use serde_json::Value;
use std::collections::BTreeMap;

/// The declared types of the context of each action, and of the attributes of each entity type.
pub(super) type SchemaTypes = (BTreeMap<EntityUid, SchemaType>, BTreeMap<String, SchemaType>);

/// Parses the files of the schema. None if they are invalid.
pub(super) fn parse_schema(
    files: &[SourceFile],
    diagnostics: &mut Diagnostics,
) -> Option<(Schema, SchemaTypes)> {
    let mut fragments = Vec::new();
    let mut is_invalid = false;
    for file in files {
        let rule = Rule::InvalidSchema;
        match SchemaFragment::from_cedarschema_str(&file.text) {
            Ok((fragment, warnings)) => {
                diagnostics.0.extend(warnings.map(|warning| file.to_bundle_diagnostic(rule, &warning)));
                fragments.push(fragment);
            }
            Err(error) => {
                is_invalid = true;
                diagnostics.0.extend(file.to_bundle_diagnostics(rule, &error));
            }
        }
    }
    if is_invalid {
        return None;
    }
    if files.is_empty() {
        let message = "no *.cedarschema file found in the schema directories";
        diagnostics.0.push(BundleDiagnostic::without_file(Rule::InvalidSchema, message));
        return None;
    }
    let schema = Schema::from_schema_fragments(fragments);
    let schema = schema.map_err(|error| {
        // The error does not say which file its place is in.
        match files {
            [file] => file.to_bundle_diagnostic(Rule::InvalidSchema, &error),
            _ => BundleDiagnostic::without_file(Rule::InvalidSchema, error.to_string()),
        }
    });
    let schema = diagnostics.ok_or_record(schema)?;
    let all: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
    let types = cedar_policy::schema_str_to_json_with_resolved_types(&all.join("\n"))
        .map_err(|error| error.to_string())
        .and_then(|(json, _)| schema_types(&json, &schema));
    let types = types.map_err(|message| BundleDiagnostic::in_files(Rule::InvalidSchema, files, message));
    Some((schema, diagnostics.ok_or_record(types)?))
}

fn schema_types(json: &Value, schema: &Schema) -> Result<SchemaTypes, String> {
    let mut context_types = BTreeMap::new();
    for action in schema.actions() {
        let namespace = action.type_name().namespace();
        let declared =
            json.get(&namespace).and_then(|space| space.get("actions")?.get(action.id().unescaped()));
        let context = declared.and_then(|declared| declared.get("appliesTo")?.get("context"));
        let context_type = match context {
            Some(definition) => SchemaType::parse(json, &namespace, definition),
            None => Some(SchemaType::default()),
        };
        let invalid = || format!("the context of {action} is not a record with named fields");
        context_types.insert(action.clone(), context_type.ok_or_else(invalid)?);
    }
    let mut entity_types = BTreeMap::new();
    for kind in schema.entity_types() {
        let namespace = kind.namespace();
        let declared = json.get(&namespace).and_then(|space| space.get("entityTypes")?.get(kind.basename()));
        let entity_type = match declared.and_then(|declared| declared.get("shape")) {
            Some(definition) => SchemaType::parse(json, &namespace, definition),
            None => Some(SchemaType::Record(BTreeMap::new())),
        };
        let invalid = || format!("the attributes of {kind} are not a record with named fields");
        entity_types.insert(kind.to_string(), entity_type.ok_or_else(invalid)?);
    }
    Ok((context_types, entity_types))
}
