//! The reference of the settings is up to date, and documentation and examples name no other settings.

use crate::command_line::{run, text};
use crate::support::project_file;
use cedargate::config::{SETTINGS, markdown};
use std::path::{Path, PathBuf};

/// Returns the names of all environment variables that are settings, those of files with secrets included.
fn variables() -> Vec<String> {
    let names = SETTINGS.iter().map(|setting| setting.variable());
    let files = ["DATABASE_URL", "DATABASE_LISTEN_URL", "JWT_SECRET", "ADMIN_PASSWORD"];
    names.chain(files.map(|name| format!("CEDARGATE_{name}_FILE"))).collect()
}

#[test]
fn the_committed_configuration_page_is_up_to_date() {
    let committed = std::fs::read_to_string(project_file("docs/configuration.md")).unwrap();
    assert!(committed == markdown(), "docs/configuration.md is out of date; run `make generated`");
}

#[test]
fn help_and_configuration_page_describe_every_setting() {
    let directory = tempfile::tempdir().unwrap();
    let help = text(&run(directory.path(), &[], &["--help"]).stdout);
    let page = text(&run(directory.path(), &[], &["config"]).stdout);
    assert!(SETTINGS.len() > 60);
    for variable in variables() {
        let is_whole = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_uppercase() || next == '_');
        assert!(help.split(&variable).skip(1).any(is_whole), "--help does not describe {variable}");
        assert!(page.contains(&format!("`{variable}`")), "the page does not describe {variable}");
    }
    for setting in SETTINGS {
        assert!(setting.description.trim().ends_with('.'), "{}: {}", setting.name, setting.description);
    }
}

#[test]
fn an_outdated_configuration_page_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let page = |arguments: &[&str]| {
        let arguments = [&["config", "--output", "page.md"], arguments].concat();
        run(directory.path(), &[], &arguments).status.code()
    };
    assert_eq!(page(&[]), Some(0));
    assert_eq!(page(&["--check"]), Some(0));
    std::fs::write(directory.path().join("page.md"), "# Configuration\n").unwrap();
    assert_eq!(page(&["--check"]), Some(3));
}

/// Returns the text files of a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn documentation_and_examples_name_only_existing_settings() {
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "Dockerfile"]
            .map(project_file)
            .into();
    files.extend(files_below(&project_file("docs")));
    files.extend(files_below(&project_file("examples")));
    let variables = variables();
    let mut found = 0;
    for file in files {
        let content = std::fs::read_to_string(&file).unwrap();
        for rest in content.split("CEDARGATE_").skip(1) {
            let end =
                rest.find(|next: char| !next.is_ascii_uppercase() && !next.is_ascii_digit() && next != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            // `CEDARGATE_…` stands for all of them, and the command line reads CEDARGATE_CONFIG.
            if name.is_empty() || name == "CONFIG" {
                continue;
            }
            found += 1;
            assert!(variables.contains(&format!("CEDARGATE_{name}")), "{}: CEDARGATE_{name}", file.display());
        }
    }
    assert!(found > 100, "{found}");
}
