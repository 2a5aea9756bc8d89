//! The shipped policy tests (`policies/cases/*.json`): they pass, and they fail if a shipped forbid is removed.

use crate::support::project_file;
use cedar_policy::PolicySet;
use cedargate::authz::cases::{self, PolicyTest};
use cedargate::authz::{Bundle, BundleError, Sources};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The files in a directory of the project, sorted by name.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(project_file(directory)).unwrap();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn read_bundle(policies: &Path) -> Result<Bundle, BundleError> {
    let sources =
        Sources { schema: vec![project_file("schema")], policies: vec![policies.to_owned()], stored: vec![] };
    Bundle::read(&sources)
}

fn bundle(policies: &Path) -> Bundle {
    read_bundle(policies).unwrap()
}

fn shipped_cases() -> Vec<PolicyTest> {
    files("policies/cases").iter().flat_map(|file| cases::read(file).unwrap()).collect()
}

#[test]
fn the_shipped_policy_tests_have_different_names() {
    let mut names = HashSet::new();
    let repeated: Vec<String> = shipped_cases()
        .into_iter()
        .map(|case| case.name)
        .filter(|name| !names.insert(name.clone()))
        .collect();
    assert_eq!(repeated, [] as [&str; 0]);
}

#[test]
fn the_shipped_policy_tests_pass() {
    let bundle = bundle(&project_file("policies"));
    let failures: Vec<String> = shipped_cases()
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.run(&bundle).err()?)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A copy of the shipped policies in which `edit` has changed the text of each `.cedar` file.
fn edited_policies(edit: impl Fn(&str) -> String) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for path in files("policies") {
        let mut text = std::fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            text = edit(&text);
        }
        std::fs::write(copy.path().join(path.file_name().unwrap()), text).unwrap();
    }
    copy
}

/// A copy of the shipped policies without the policy with this id.
fn policies_without(id: &str) -> tempfile::TempDir {
    edited_policies(|text| {
        let policies: PolicySet = text.parse().unwrap();
        let kept = policies.policies().filter(|policy| policy.annotation("id") != Some(id));
        kept.map(|policy| format!("{policy}\n")).collect()
    })
}

#[test]
fn the_shipped_policy_tests_detect_the_loss_of_every_forbid() {
    let shipped = bundle(&project_file("policies"));
    let forbids: Vec<&str> =
        shipped.policies().filter(|policy| !policy.permits).map(|policy| policy.id.as_str()).collect();
    assert!(forbids.contains(&"tenancy") && forbids.contains(&"key.identities"), "{forbids:?}");
    let cases = shipped_cases();
    let mut unnoticed = Vec::new();
    for forbid in forbids {
        let copy = policies_without(forbid);
        let reduced = bundle(copy.path());
        assert_eq!(reduced.policies().count() + 1, shipped.policies().count(), "{forbid}");
        if cases.iter().all(|case| case.run(&reduced).is_ok()) {
            unnoticed.push(forbid);
        }
    }
    assert!(unnoticed.is_empty(), "no case fails without {}", unnoticed.join(", "));
}

/// Whether the shipped policy tests fail if the `index`-th comparison of the credential reads `replacement`.
fn is_detected(index: usize, comparison: &str, replacement: &str) -> bool {
    let copy = edited_policies(|text| match text.match_indices(comparison).nth(index) {
        Some((at, _)) => {
            let mut edited = text.to_owned();
            edited.replace_range(at..at + comparison.len(), replacement);
            edited
        }
        None => text.to_owned(),
    });
    let bundle = bundle(copy.path());
    shipped_cases().iter().any(|case| case.run(&bundle).is_err())
}

#[test]
fn the_shipped_policy_tests_detect_a_policy_for_another_credential() {
    let comparison = r#"context.credential == Credential::"apiKey""#;
    let text = std::fs::read_to_string(project_file("policies/service.cedar")).unwrap();
    let forbids = text.matches(comparison).count();
    assert_eq!(forbids, 2, "key.identities and key.creation");
    for index in 0..forbids {
        assert!(
            !is_detected(index, comparison, r#"context.credential != Credential::"session""#),
            "the same meaning"
        );
        for other in [
            r#"context.credential != Credential::"terminal""#,
            r#"context.credential == Credential::"terminal""#,
        ] {
            assert!(is_detected(index, comparison, other), "no case fails with {other} in forbid {index}");
        }
    }
}

#[test]
fn misspelled_credentials_and_fields_do_not_validate() {
    for (name, misspelled, word) in [
        (r#"Credential::"apiKey""#, r#"Credential::"apikey""#, "apikey"),
        (r#"Field::"password""#, r#"Field::"passwrod""#, "passwrod"),
        (r#"== Credential::"apiKey""#, r#"== "apiKey""#, "String"),
    ] {
        let copy = edited_policies(|text| text.replacen(name, misspelled, 1));
        let error = read_bundle(copy.path()).unwrap_err().to_string();
        assert!(error.contains("service.cedar:") && error.contains(word), "{misspelled}: {error}");
    }
}
