//! Claims: their validation, the claims that are generated from the permission matrix, and the recorded proof.

use crate::command_line::{run, text};
use crate::support::{TestApp, project_file};
use cedargate::analysis::{BUILT_IN_CLAIMS, ProofRecord};
use cedargate::authz::{Bundle, Engine, Scope, Sources, matrix_claims};
use reqwest::StatusCode;
use std::path::PathBuf;

fn sources(policies: PathBuf) -> Sources {
    Sources { schema: vec![project_file("schema")], policies: vec![policies], stored: vec![] }
}

fn bundle() -> Bundle {
    Bundle::read(&sources(project_file("policies"))).unwrap()
}

#[test]
fn the_generated_claims_are_up_to_date() {
    let committed = std::fs::read_to_string(project_file("policies/claims/matrix.cedar")).unwrap();
    let generated = matrix_claims(&Engine::new(bundle()).unwrap());
    assert!(committed == generated, "policies/claims/matrix.cedar is out of date; run `make generated`");
}

/// A row of the permission table of the specification.
struct Row {
    action: String,
    is_self: bool,
    /// The lowest scope with a `+`.
    lowest: Scope,
}

fn specified_rows() -> Vec<Row> {
    let table = std::fs::read_to_string(project_file("tests/fixtures/matrix.csv")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, action, is_self, scopes @ ..] = cells.as_slice() else { panic!("{line}") };
        let first = scopes.iter().position(|cell| *cell == "+").unwrap();
        assert!(scopes[first..].iter().all(|cell| *cell == "+"), "{line}");
        Row { action: (*action).to_owned(), is_self: *is_self == "yes", lowest: Scope::ALL[first] }
    };
    table.lines().skip(1).map(row).collect()
}

#[test]
fn the_generated_claims_say_what_the_specification_says() {
    let committed = std::fs::read_to_string(project_file("policies/claims/matrix.cedar")).unwrap();
    let rows = specified_rows();
    assert!(rows.len() > 40);
    for Row { action, is_self, lowest } in rows {
        let prefix = if is_self { format!("{action}.self") } else { action.clone() };
        let claim = |name: &str| {
            let id = format!("@id(\"{prefix}.{name}\")");
            let start = committed.find(&id).unwrap_or_else(|| panic!("there is no claim {prefix}.{name}"));
            committed[start..].split_inclusive(";\n").next().unwrap()
        };
        let (always, never) = (claim("always"), claim("never"));
        // The claim names every scope that may, so that it does not follow from the cascade of the data.
        let scopes = Scope::ALL.into_iter().filter(|scope| *scope >= lowest);
        let scopes: Vec<String> = scopes.map(|scope| format!("Scope::\"{scope}\"")).collect();
        let is_named = |scope: &String| always.split("when { principal in ").any(|part| part.contains(scope));
        assert!(always.contains("principal is User,") && scopes.iter().all(is_named), "{always}");
        assert!(never.contains(&format!("unless {{ principal in Scope::\"{lowest}\" }};")), "{never}");
        for claim in [always, never] {
            assert!(claim.contains(&format!("action == Action::\"{action}\",")), "{claim}");
            assert_eq!(claim.contains("when { principal == resource }"), is_self, "{claim}");
        }
        // Whoever may do something never needs more than a session, their own reach, and nothing above their own scope.
        let conditions: Vec<&str> =
            always.lines().skip_while(|line| !line.starts_with(')')).skip(1).collect();
        let is_expected = |line: &&str| {
            line.contains("principal in ")
                || line.trim().starts_with("Scope::")
                || line.starts_with("when { principal == resource }")
                || line.contains("resource in principal.organization")
                || line.contains("resource.organization == principal.organization")
                || line.contains(
                    "unless { context has credential && context.credential == Credential::\"apiKey\" }",
                )
                || line.contains("unless { context has role && !(principal in context.role) }")
                || ["when", "unless", "{", "}", "};"].contains(&line.trim())
                || line.contains("principal in Scope::\"bot\"")
                || (action == "updateUser" && is_self)
        };
        assert!(conditions.iter().all(is_expected), "{always}");
    }
}

#[test]
fn the_texts_of_generated_claims_name_their_exemptions() {
    let committed = std::fs::read_to_string(project_file("policies/claims/matrix.cedar")).unwrap();
    let mut exempt = 0;
    for claim in committed.split("\n@id(").skip(1).filter(|claim| claim.contains("\npermit (")) {
        let doc = claim.split("@doc(").nth(1).unwrap().lines().next().unwrap();
        let has = |condition: &str| claim.contains(condition);
        for (is_exempt, words) in [
            (has("Credential::\"apiKey\""), "with an API key"),
            (has("context.changes.containsAny"), "to change the field "),
            (has("principal in context.role"), "to give a role above"),
            (has("principal in context.scope"), "to give a key a scope above"),
            (!has("principal == resource") && !has("resource.organization"), "in those below it"),
        ] {
            assert!(!is_exempt || doc.contains(words), "{words}: {claim}");
            exempt += usize::from(is_exempt && words != "in those below it");
        }
        assert_eq!(doc.contains(", except "), claim.contains("unless"), "{claim}");
    }
    assert!(exempt > 10, "{exempt}");
    for field in ["organization", "role", "status"] {
        let own = committed.split("@id(\"updateUser.self.always\")").nth(1).unwrap();
        assert!(own.lines().nth(1).unwrap().contains(field), "{field}");
    }
}

#[test]
fn claims_are_validated_with_the_policies() {
    for (claims, message) in [
        ("@id(\"a\")\nforbid (principal, action, resource);", "the claim \"a\" has no @doc"),
        ("@doc(\"a\")\nforbid (principal, action, resource);", "has no @id"),
        (
            "@id(\"a\") @doc(\"a\") forbid (principal, action, resource);\n@id(\"a\") @doc(\"a\") forbid (principal, action, resource);",
            "duplicate policy id \"a\"",
        ),
        (
            "@id(\"a\") @doc(\"a\")\nforbid (principal in Scope::\"agnet\", action, resource);",
            "Scope::\"agnet\" is not defined",
        ),
        (
            "@id(\"a\") @doc(\"a\")\nforbid (principal, action, resource) when { principal.nonesuch };",
            "nonesuch",
        ),
        ("@id(\"a\") @doc(\"a\") forbid (", "unexpected end of input"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let policies = directory.path().join("policies");
        std::fs::create_dir_all(policies.join("claims")).unwrap();
        for name in ["scopes.cedar", "scopes.json"] {
            std::fs::copy(project_file("policies").join(name), policies.join(name)).unwrap();
        }
        std::fs::write(policies.join("claims/a.cedar"), claims).unwrap();
        let error = Bundle::read(&sources(policies.clone())).unwrap_err().to_string();
        assert!(error.contains(message), "{claims}: {error}");
        assert!(error.contains("claims/a.cedar:"), "{error}");
        let settings = [("CEDARGATE_POLICIES", policies.to_str().unwrap())];
        let checked = run(directory.path(), &settings, &["policy", "check"]);
        assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    }
}

#[test]
fn claims_are_no_part_of_the_policies() {
    let bundle = bundle();
    let ids: Vec<&str> = bundle.claims().iter().map(|claim| claim.metadata().id.as_str()).collect();
    assert!(ids.contains(&"fetchForm.always"));
    assert!(bundle.policies().all(|policy| !ids.contains(&policy.id.as_str())));
}

#[test]
fn outdated_claims_can_be_generated_anew() {
    let directory = tempfile::tempdir().unwrap();
    let policies = directory.path().join("policies");
    std::fs::create_dir_all(policies.join("claims")).unwrap();
    for entry in std::fs::read_dir(project_file("policies")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            std::fs::copy(&file, policies.join(file.file_name().unwrap())).unwrap();
        }
    }
    let file = policies.join("claims/matrix.cedar");
    std::fs::write(&file, "@id(\"gone\") forbid (principal, action == Action::\"gone\", resource);").unwrap();
    let settings = [("CEDARGATE_POLICIES", policies.to_str().unwrap())];
    let arguments = ["policy", "matrix", "--claims", "-o", file.to_str().unwrap()];
    let checked = run(directory.path(), &settings, &[&arguments[..], &["--check"]].concat());
    assert_eq!(checked.status.code(), Some(3), "{}", text(&checked.stderr));
    assert_eq!(run(directory.path(), &settings, &arguments).status.code(), Some(0));
    assert_eq!(
        std::fs::read(&file).unwrap(),
        std::fs::read(project_file("policies/claims/matrix.cedar")).unwrap()
    );
}

#[test]
fn the_committed_proof_is_that_of_the_committed_policies() {
    let bundle = bundle();
    let proof = ProofRecord::find(&[project_file("policies")], bundle.version()).unwrap();
    let proof = proof.expect("policies/PROOF.json is out of date; run `make generated`");
    assert!(proof.is_complete(&bundle));
    let mut recorded = proof.claims.iter().map(|claim| claim.id.as_str()).collect::<Vec<_>>();
    let mut expected: Vec<&str> = BUILT_IN_CLAIMS.map(|(id, _)| id).to_vec();
    expected.extend(bundle.claims().iter().map(|claim| claim.metadata().id.as_str()));
    recorded.sort_unstable();
    expected.sort_unstable();
    assert_eq!(recorded, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_shows_what_is_proven_about_the_active_version() {
    let directory = tempfile::tempdir().unwrap();
    let policies = directory.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    for name in ["scopes.cedar", "self.cedar", "service.cedar", "tenancy.cedar", "scopes.json"] {
        std::fs::copy(project_file("policies").join(name), policies.join(name)).unwrap();
    }
    let file = ProofRecord::path(&policies);
    // A damaged record does not prevent the start.
    std::fs::write(&file, "{").unwrap();
    let app = TestApp::start_with(|config| config.policies = vec![policies.clone()]).await;
    let admin = app.admin().await;
    let active = async || admin.get("/v2/policies").await.expect(StatusCode::OK);
    let unreadable = active().await;
    assert_eq!(unreadable["proof"]["state"], "unreadable");
    assert_eq!(unreadable["proof"]["proven"], false);
    assert!(unreadable["files"].as_array().unwrap().iter().all(|file| !file.to_string().contains("PROOF")));

    let committed = std::fs::read_to_string(ProofRecord::path(&project_file("policies"))).unwrap();
    std::fs::write(&file, &committed).unwrap();
    let other = active().await;
    assert_eq!(other["proof"]["state"], "missing", "the record is about another version");
    assert!(other["proof"].get("record").is_none());

    let mut record: serde_json::Value = serde_json::from_str(&committed).unwrap();
    record["version"] = other["version"].clone();
    std::fs::write(&file, record.to_string()).unwrap();
    let proven = active().await;
    assert_eq!((&proven["proof"]["state"], &proven["proof"]["proven"]), (&"proven".into(), &true.into()));
    assert_eq!(proven["proof"]["record"]["claims"], record["claims"]);
    assert_eq!(proven["version"], other["version"], "the record has no part in the version");

    let claims = record["claims"].as_array().unwrap().clone();
    let mut unknown = claims.clone();
    unknown[0]["result"] = "unknown".into();
    for claims in [unknown, Vec::new(), claims[1..].to_vec()] {
        record["claims"] = claims.into();
        std::fs::write(&file, record.to_string()).unwrap();
        let incomplete = active().await;
        assert_eq!(incomplete["proof"]["state"], "incomplete");
        assert_eq!(incomplete["proof"]["proven"], false);
    }
}
