//! `cedargate policy format`.

use crate::command_line::{run, text};
use crate::support::project_file;
use std::path::Path;
use std::process::Output;

const UNFORMATTED: &str =
    "// A file.\n@id(\"a\") permit(principal,action,// any\nresource)when{principal==resource};\n";

fn format(directory: &Path, arguments: &[&str]) -> Output {
    let settings = [("CEDARGATE_POLICIES", "policies")];
    run(directory, &settings, &[&["policy", "format"], arguments].concat())
}

/// A directory with policies and claims that are not formatted.
fn unformatted() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("policies/claims")).unwrap();
    for name in ["policies/a.cedar", "policies/claims/b.cedar", "policies/.hidden.cedar"] {
        std::fs::write(directory.path().join(name), UNFORMATTED).unwrap();
    }
    directory
}

#[test]
fn the_shipped_and_example_policies_are_formatted() {
    let directory = tempfile::tempdir().unwrap();
    let policies = format!(
        "{},{}",
        project_file("policies").display(),
        project_file("examples/documents/policies").display()
    );
    let settings = [("CEDARGATE_POLICIES", policies.as_str())];
    let output = run(directory.path(), &settings, &["policy", "format", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn a_check_names_the_files_and_shows_the_difference() {
    let directory = unformatted();
    let output = format(directory.path(), &["--check"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("policies/a.cedar, policies/claims/b.cedar"),
        "{}",
        text(&output.stderr)
    );
    let diff = text(&output.stdout);
    assert!(
        diff.contains("-@id(\"a\") permit(principal,action,// any\n") && diff.contains("+@id(\"a\")\n"),
        "{diff}"
    );
    assert_eq!(std::fs::read_to_string(directory.path().join("policies/a.cedar")).unwrap(), UNFORMATTED);
}

#[test]
fn formatting_keeps_comments_and_is_stable() {
    let directory = unformatted();
    assert_eq!(format(directory.path(), &[]).status.code(), Some(0));
    let formatted = std::fs::read_to_string(directory.path().join("policies/a.cedar")).unwrap();
    assert!(formatted.contains("// A file.\n") && formatted.contains("// any\n"), "{formatted}");
    assert!(formatted.contains("when { principal == resource };"), "{formatted}");
    let again = format(directory.path(), &["--check"]);
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(0), String::new()));
    let hidden = std::fs::read_to_string(directory.path().join("policies/.hidden.cedar")).unwrap();
    assert_eq!(hidden, UNFORMATTED);
    let files = std::fs::read_dir(directory.path().join("policies")).unwrap().count();
    assert_eq!(files, 3, "no temporary file is left");
}

#[test]
fn only_the_named_files_are_formatted_and_invalid_ones_are_named() {
    let directory = unformatted();
    assert_eq!(format(directory.path(), &["policies/claims/b.cedar"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(directory.path().join("policies/a.cedar")).unwrap(), UNFORMATTED);
    std::fs::write(directory.path().join("policies/c.cedar"), "permit (").unwrap();
    let output = format(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).starts_with("policies/c.cedar: cannot be formatted: "),
        "{}",
        text(&output.stderr)
    );
    let missing = format(directory.path(), &["no-such.cedar"]);
    assert_eq!(missing.status.code(), Some(1));
}
