//! The table of the shipped policies, compared with the engine.

use super::*;
use crate::authz::{Sources, matrix_rows};
use std::path::Path;

fn engine(schema: &[&str], policies: &[&str]) -> Engine {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = |names: &[&str]| names.iter().map(|name| root.join(name)).collect();
    let sources = Sources { schema: directories(schema), policies: directories(policies), stored: vec![] };
    Engine::new(Bundle::read(&sources).unwrap()).unwrap()
}

fn shipped() -> Engine {
    engine(&["schema"], &["policies"])
}

/// The results of a row with this credential, in the order of scopes and locations: `+`, `-`, or `?` if it depends.
fn signs(
    rows: &[AccessRow],
    action: &str,
    resource: &str,
    target: Target,
    credential: CredentialType,
) -> String {
    let row = rows.iter().find(|row| {
        row.action == action && row.target == target && row.resources.iter().any(|name| name == resource)
    });
    let row = row.unwrap_or_else(|| panic!("no row for {action} on {resource}"));
    let cells = row.cells.iter().filter(|cell| cell.credential == credential);
    cells
        .map(|cell| match row.outcomes[cell.outcome].verdict {
            Verdict::Allowed => '+',
            Verdict::Depends => '?',
            Verdict::Denied => '-',
        })
        .collect()
}

#[test]
fn cells_agree_with_the_matrix_of_the_engine() {
    let engine = shipped();
    let rows = access_rows(&engine).unwrap();
    let mut compared = 0;
    for matrix_row in matrix_rows(&engine) {
        for (scope_index, scope) in Scope::ALL.into_iter().enumerate() {
            for (location_index, location) in Location::ALL.into_iter().enumerate() {
                let matrix_cell = matrix_row.cells[location_index][scope_index];
                let row = rows.iter().find(|row| {
                    row.action == matrix_row.action
                        && row.target == Target::Existing
                        && (matrix_row.kind == "*" || row.resources.contains(&matrix_row.kind))
                });
                let (_, outcome) = row.unwrap().outcome(CredentialType::Session, scope, location).unwrap();
                let is_consistent = match matrix_cell {
                    "+" => outcome.verdict != Verdict::Denied,
                    _ => outcome.verdict != Verdict::Allowed,
                };
                assert!(
                    is_consistent,
                    "{} {scope} {location:?}: {matrix_cell} {outcome:?}",
                    matrix_row.action
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 600, "{compared}");
}

#[test]
fn keys_are_distinguished_from_sessions() {
    let rows = access_rows(&shipped()).unwrap();
    let of = |action, target, credential| signs(&rows, action, "User", target, credential);
    assert_eq!(of("deleteUser", Target::Existing, CredentialType::Session), "---------++-");
    assert_eq!(of("deleteUser", Target::Existing, CredentialType::ApiKey), "------------");
    assert_eq!(of("deleteUser", Target::Existing, CredentialType::ProvisioningKey), "---------++-");
    assert_eq!(of("createApiKey", Target::OwnRecord, CredentialType::Session), "????");
    assert_eq!(of("createApiKey", Target::OwnRecord, CredentialType::ProvisioningKey), "----");
    // Which fields change is not known.
    assert_eq!(of("updateUser", Target::OwnRecord, CredentialType::ApiKey), "????");
    assert_eq!(of("updateUser", Target::Existing, CredentialType::ApiKey), "---------??-");
}

#[test]
fn a_cell_names_its_policies_and_what_they_depend_on() {
    let rows = access_rows(&shipped()).unwrap();
    let row = rows.iter().find(|row| row.action == "updateUser" && row.target == Target::OwnRecord).unwrap();
    let (_, outcome) = row.outcome(CredentialType::Session, Scope::Guest, Location::Own).unwrap();
    assert_eq!(outcome.permits, ["self"]);
    let forbids: Vec<&str> = outcome.conditional_forbids.iter().map(|part| part.policy.as_str()).collect();
    assert_eq!(forbids, ["self.place", "user.ceiling"]);
    let condition = &outcome.conditional_forbids[1].expression;
    assert!(condition.contains("context.role"), "{condition}");
    for part in &outcome.conditional_forbids {
        println!("{}", part.expression);
    }
}

#[test]
fn external_domains_are_decided_for_all_requests_and_for_their_data() {
    let engine =
        engine(&["schema", "examples/documents/schema"], &["policies", "examples/documents/policies"]);
    let domains = domain_access(engine.bundle()).unwrap();
    let [documents] = domains.as_slice() else { panic!("{domains:?}") };
    assert_eq!(documents.namespace, "Docs");
    assert_eq!(documents.rows.len(), 8);
    let row = documents.rows.iter().find(|row| row.action.contains("share")).unwrap();
    assert_eq!(row.outcome.verdict, Verdict::Depends);
    let data = documents.data.as_ref().unwrap();
    let decide = |resource: &str, action: &str, principal: &str| {
        let column = data.principals.iter().position(|name| name.contains(principal)).unwrap();
        let is_wanted = |row: &&DataRow| row.resource.contains(resource) && row.action.contains(action);
        let row = data.rows.iter().find(is_wanted).unwrap();
        row.outcomes[column].as_ref().unwrap().verdict
    };
    assert_eq!(decide("welcome", "read", "ann"), Verdict::Allowed);
    assert_eq!(decide("welcome", "read", "dan"), Verdict::Denied);
    assert_eq!(decide("welcome", "read", "eve"), Verdict::Denied);
    assert_eq!(decide("report", "edit", "cleo"), Verdict::Denied);
    assert_eq!(decide("vpn", "share", "ben"), Verdict::Depends);
}
