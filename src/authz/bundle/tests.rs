use super::*;
use crate::authz::entities::{EntityData, ResourceEntity};
use crate::types::{Id, OrgPath};
use std::path::{Path, PathBuf};

/// Reads a copy of the shipped schema and policies in which `change` was applied to the text of `file`.
fn changed(file: &str, change: impl Fn(&str) -> String) -> Result<Bundle, BundleError> {
    let copy = copy_of_policies();
    let path = copy.path().join(file);
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, change(&old)).unwrap();
    read_copy(&copy)
}

/// A copy of the shipped schema and policies.
fn copy_of_policies() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = tempfile::tempdir().unwrap();
    for name in ["schema", "policies"] {
        std::fs::create_dir(copy.path().join(name)).unwrap();
        for entry in std::fs::read_dir(root.join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, copy.path().join(name).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    copy
}

fn read_copy(copy: &tempfile::TempDir) -> Result<Bundle, BundleError> {
    let stored = vec![StoredType {
        name: "Organization",
        attributes: crate::authz::ORGANIZATION_ATTRIBUTES,
        fields: Vec::new(),
    }];
    let (schema, policies) = (copy.path().join("schema"), copy.path().join("policies"));
    Bundle::read(&Sources { schema: vec![schema], policies: vec![policies], stored })
}

fn first_diagnostic(file: &str, change: impl Fn(&str) -> String) -> String {
    let error = changed(file, change).unwrap_err();
    let all = error.to_string();
    // Without the temporary directory.
    let words = all.split_inclusive([' ', '\n']);
    words.map(|word| word.rsplit("policies/").next().unwrap()).collect()
}

#[test]
fn the_shipped_policies_load() {
    let bundle = changed("policies/scopes.cedar", str::to_owned).unwrap();
    let admin = bundle.policy("admin").unwrap();
    assert!(admin.permits && admin.file.ends_with("scopes.cedar") && admin.line > 1);
    assert!(bundle.context_types.values().all(|shape| shape.field_names().contains("credential")));
}

#[test]
fn claims_are_validated_again_if_they_or_the_schema_change() {
    let copy = copy_of_policies();
    let claims = copy.path().join("policies/claims");
    std::fs::create_dir(&claims).unwrap();
    let write_claim = |action: &str| {
        let text = format!(
            "@id(\"c\")\n@doc(\"Text.\")\nforbid (principal, action == Action::{action:?}, resource);"
        );
        std::fs::write(claims.join("c.cedar"), text).unwrap();
    };
    let read = || read_copy(&copy).map(|bundle| bundle.claims().len()).map_err(|error| error.locations());
    for (action, expected) in [("listForms", Ok(1)), ("lstForms", Err("c.cedar:3".to_owned()))] {
        write_claim(action);
        for _ in 0..2 {
            assert_eq!(read(), expected, "{action}");
        }
    }
    let schema = copy.path().join("schema/cedargate.cedarschema");
    let old = std::fs::read_to_string(&schema).unwrap();
    let more = "action \"extra\" appliesTo { principal: User, resource: Organization, context: Call };";
    write_claim("extra");
    for (text, expected) in [(format!("{old}\n{more}\n"), Ok(1)), (old, Err("c.cedar:3".to_owned()))] {
        std::fs::write(&schema, text).unwrap();
        assert_eq!(read(), expected);
    }
    // Files with comments only have no claims, and a version that loses claims loses a file.
    write_claim("listForms");
    let with_claims = read_copy(&copy).unwrap();
    std::fs::write(claims.join("c.cedar"), "// nothing").unwrap();
    let without = read_copy(&copy).unwrap();
    assert_eq!(with_claims.inventory().losses(without.inventory()).files, ["claims/c.cedar"]);
}

#[test]
fn any_change_to_a_file_changes_the_version() {
    let same = changed("policies/scopes.cedar", str::to_owned).unwrap();
    let again = changed("policies/scopes.cedar", str::to_owned).unwrap();
    assert_eq!(same.version(), again.version());
    for file in ["policies/scopes.cedar", "policies/scopes.json", "schema/cedargate.cedarschema"] {
        let other = changed(file, |text| format!("{text}\n")).unwrap();
        assert_ne!(same.version(), other.version(), "{file}");
    }
}

#[test]
fn a_misspelled_scope_is_reported_with_file_and_line() {
    let found =
        first_diagnostic("policies/self.cedar", |text| text.replace("Scope::\"admin\"", "Scope::\"admni\""));
    assert!(
        found.starts_with("self.cedar:") && found.contains("Scope::\"admni\" is not defined in the data"),
        "{found}"
    );
}

#[test]
fn duplicate_policy_ids_are_rejected() {
    let twice = "@id(\"admin\")\npermit (principal, action == Action::\"fetchForm\", resource);";
    let found = first_diagnostic("policies/more.cedar", |_| twice.to_owned());
    // Files are read in ascending order of their names, so the second definition is reported.
    assert!(found.starts_with("scopes.cedar:") && found.contains("already used in more.cedar:1"), "{found}");
}

#[test]
fn a_policy_without_an_id_is_rejected() {
    let found =
        first_diagnostic("policies/more.cedar", |_| "\n\npermit (principal, action, resource);".to_owned());
    assert!(found.starts_with("more.cedar:3: ") && found.contains("has no @id"), "{found}");
}

#[test]
fn parse_and_validation_errors_name_the_line() {
    let found =
        first_diagnostic("policies/more.cedar", |_| "@id(\"a\")\npermit (principal,, resource);".to_owned());
    assert!(found.starts_with("more.cedar:2: "), "{found}");
    let unknown = "@id(\"a\")\npermit (\n  principal,\n  action == Action::\"fetchFrom\",\n  resource\n);";
    let found = first_diagnostic("policies/more.cedar", |_| unknown.to_owned());
    assert!(
        found.contains("more.cedar:4: unrecognized action `Action::\"fetchFrom\"`")
            && !found.contains("impossible"),
        "{found}"
    );
    let never = "@id(\"a\")\npermit (principal, action == Action::\"fetchForm\", resource)\nwhen { 1 == 2 };";
    let found = first_diagnostic("policies/more.cedar", |_| never.to_owned());
    assert!(found.starts_with("more.cedar:"), "warnings are errors: {found}");
}

#[test]
fn a_policy_cannot_dereference_an_attribute_of_an_attribute() {
    let deep = "@id(\"a\")\npermit (principal, action == Action::\"fetchForm\", resource)\n\
                when { principal.organization.level == 0 };";
    let found = first_diagnostic("policies/more.cedar", |_| deep.to_owned());
    assert!(found.starts_with("more.cedar:"), "{found}");
}

#[test]
fn the_scope_cascade_is_complete() {
    let found = first_diagnostic("policies/scopes.json", |text| text.replace("\"guest\"", "\"gast\""));
    assert!(
        found.contains("Scope::\"guest\" is missing") && found.contains("Scope::\"gast\" is not a scope"),
        "{found}"
    );
}

#[test]
fn invalid_data_is_rejected() {
    let found = first_diagnostic("policies/scopes.json", |text| {
        text.replace("\"id\": \"agent\" }]", "\"id\": \"agnet\" }]")
    });
    assert!(found.contains("has the parent Scope::\"agnet\", which is not defined in the data"), "{found}");
    let organization = r#"[{
        "uid": { "type": "Organization", "id": "x" },
        "attrs": { "organization": { "type": "Organization", "id": "x" } },
        "parents": []
    }]"#;
    let found = first_diagnostic("policies/more.json", |_| organization.to_owned());
    assert!(
        found.starts_with("more.json:2: Organization::\"x\" must not be defined in policy data"),
        "{found}"
    );
}

#[test]
fn a_missing_directory_is_reported() {
    let nowhere = vec![PathBuf::from("no/such/directory")];
    let error =
        Bundle::read(&Sources { schema: nowhere.clone(), policies: nowhere, stored: vec![] }).unwrap_err();
    assert!(error.to_string().starts_with("no/such/directory: cannot be read"), "{error}");
}

#[test]
fn hypothetical_and_missing_resources_have_the_attributes_that_the_schema_requires() {
    let bundle = changed("policies/scopes.cedar", str::to_owned).unwrap();
    let path = OrgPath::root(Id::EXAMPLE);
    let resource_types = bundle.entity_types.iter().filter(|(kind, _)| *kind != SCOPE);
    for (kind, entity_type) in resource_types {
        for resource in [
            ResourceEntity::hypothetical(kind, Some(entity_type), &path),
            ResourceEntity::detached(kind, Some(entity_type), "id"),
        ] {
            let EntityData::Local(local) = resource.data() else { panic!("{kind} is not external") };
            let names = local.attributes.iter().map(|(name, _)| name.to_string());
            let fields = names.map(|name| (name, Value::Null)).collect();
            assert_eq!(entity_type.first_missing(&fields), None, "{kind}");
        }
    }
}
