//! The dependency rule: a module uses only modules of lower layers.

use crate::support::project_file;
use std::path::{Path, PathBuf};

/// The modules by layer, from the top. Each may use the modules of lower layers, and itself.
const LAYERS: [&[&str]; 11] = [
    &["main", "cli"],
    &["server"],
    &["api"],
    &["http"],
    &["authn", "store"],
    &["resource"],
    &["authz"],
    &["telemetry"],
    &["decision_log"],
    &["config"],
    &["types"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("{module} stands on no layer"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The modules that a source text uses: the names after `crate::`.
fn referenced_modules(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
        .collect()
}

/// The uses in a module that the rule forbids.
fn forbidden_references(module: &str, text: &str) -> Vec<String> {
    let below = |other: &str| other == module || layer(other) > layer(module);
    referenced_modules(text).into_iter().filter(|other| !below(other)).collect()
}

#[test]
fn modules_depend_on_lower_layers_only() {
    let root = project_file("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30);
    for file in files {
        let inner = file.strip_prefix(&root).unwrap();
        let module = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let wrong = forbidden_references(module, &std::fs::read_to_string(&file).unwrap());
        assert!(wrong.is_empty(), "{}: {module} must not name {}", inner.display(), wrong.join(", "));
    }
}

#[test]
fn forbidden_references_are_detected() {
    assert_eq!(
        forbidden_references("store", "use crate::authn::Bearer; use crate::authz::Scope;"),
        ["authn"]
    );
    assert_eq!(forbidden_references("authz", "crate::http::Problem"), ["http"]);
    assert_eq!(forbidden_references("api", "// crate::server\nuse crate::store::Work;"), [] as [&str; 0]);
}

#[test]
fn only_the_store_has_queries_and_only_authz_uses_cedar() {
    let root = project_file("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let inner = file.strip_prefix(&root).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        if !inner.starts_with("authz") {
            assert!(!text.contains("cedar_policy::"), "{}", inner.display());
        }
        if !inner.starts_with("store") {
            for word in ["ConnectionTrait", "DatabaseConnection", "sea_query::Query", "execute_unprepared"] {
                assert!(!text.contains(word), "{}: {word}", inner.display());
            }
        }
    }
}
