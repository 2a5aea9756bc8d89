//! Checks the layers in the sources: a module uses only those below it, and third-party crates stay in their layers.

use crate::support::project_file;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules by layer, from the top. A module may use itself and those of lower layers.
const LAYERS: [&[&str]; 14] = [
    &["main"],
    &["cli"],
    &["server"],
    &["api"],
    &["http"],
    &["application"],
    &["authn", "store"],
    &["resource"],
    &["analysis"],
    &["authz"],
    &["telemetry"],
    &["decision_log"],
    &["config"],
    &["types"],
];

/// A third-party crate and the paths in `src` that may use it.
struct CrateRule {
    /// The beginning of the crate's name.
    name: &'static str,
    paths: &'static [&'static str],
}

const CRATE_RULES: [CrateRule; 4] = [
    CrateRule { name: "cedar_policy", paths: &["authz", "analysis"] },
    // The resources of `api` declare their rows.
    CrateRule { name: "sea_orm", paths: &["store", "resource", "api"] },
    CrateRule { name: "sqlx", paths: &["store"] },
    CrateRule { name: "actix_", paths: &["server.rs", "server", "api", "http", "cli/serve.rs"] },
];

/// Queries are built in the store only.
const QUERY_WORDS: [&str; 4] =
    ["ConnectionTrait", "DatabaseConnection", "sea_query::Query", "execute_unprepared"];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The source files, by their paths in `src`.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { collect(&path, found) } else { found.push(path) }
        }
    }
    let root = project_file("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 30);
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        (file.strip_prefix(&root).unwrap().to_owned(), code(&text))
    };
    files.into_iter().map(read).collect()
}

/// The lines of a text that are no comments.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    &text[..end]
}

/// The first names of a path or of a group of paths: of `{a::b, c}` they are `a` and `c`.
fn first_names(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else { return vec![identifier(text)] };
    let (mut names, mut depth, mut is_start) = (Vec::new(), 1, true);
    for (position, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => is_start = true,
            letter if letter.is_whitespace() => {}
            _ if is_start => {
                names.push(identifier(&group[position..]));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

/// The top-level modules that a file names: by `crate::`, or by as many `super::` as lead to the root of the crate.
fn referenced_modules<'a>(file: &Path, code: &'a str) -> Vec<&'a str> {
    let is_root = |stem: &str| ["lib", "main"].contains(&stem);
    let mut depth = file.iter().count();
    if file.file_stem().is_some_and(|stem| stem == "mod" || is_root(stem.to_str().unwrap())) {
        depth -= 1;
    }
    let mut names = Vec::new();
    for start in ["crate::", "cedargate::"] {
        names.extend(code.split(start).skip(1).flat_map(first_names));
    }
    let mut rest = code;
    while let Some(position) = rest.find("super::") {
        rest = &rest[position..];
        let mut steps = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, steps) = (next, steps + 1);
        }
        if steps >= depth {
            // In an inline module the same steps lead less far, to names that may be those of no module.
            names.extend(first_names(rest));
        }
    }
    names
}

/// The modules that a file must not use.
fn forbidden_references<'a>(file: &Path, code: &'a str) -> Vec<&'a str> {
    let module = file.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
    let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer"));
    let is_forbidden = |other: &&str| *other != module && layer(other).is_some_and(|other| other <= own);
    referenced_modules(file, code).into_iter().filter(is_forbidden).collect()
}

/// The third-party crates that a file must not use.
fn forbidden_crates(file: &Path, code: &str) -> Vec<&'static str> {
    let names = |rule: &CrateRule| {
        code.match_indices(rule.name).any(|(position, _)| {
            let before = code[..position].chars().next_back();
            !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
                && code[position..]
                    .trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_')
                    .starts_with("::")
        })
    };
    let is_forbidden =
        |rule: &&CrateRule| !rule.paths.iter().any(|path| file.starts_with(path)) && names(rule);
    CRATE_RULES.iter().filter(is_forbidden).map(|rule| rule.name).collect()
}

#[test]
fn modules_depend_on_lower_layers_only() {
    for (file, code) in sources() {
        if file == Path::new("lib.rs") {
            continue;
        }
        let wrong = forbidden_references(&file, &code);
        assert!(wrong.is_empty(), "{} must not use {}", file.display(), wrong.join(", "));
    }
}

#[test]
fn every_module_of_the_crate_has_a_layer() {
    let text = std::fs::read_to_string(project_file("src/lib.rs")).unwrap();
    let modules: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 10);
    for module in modules {
        assert!(layer(module).is_some(), "{module} has no layer");
    }
}

#[test]
fn third_party_crates_stay_in_their_layers() {
    for (file, code) in sources() {
        let wrong = forbidden_crates(&file, &code);
        assert!(wrong.is_empty(), "{} must not use {}", file.display(), wrong.join(", "));
        if !file.starts_with("store") {
            for word in QUERY_WORDS {
                assert!(!code.contains(word), "{} must not use {word}", file.display());
            }
        }
    }
}

#[test]
fn forbidden_references_are_detected() {
    let references = |file: &str, text: &str| {
        let code = code(text);
        forbidden_references(Path::new(file), &code).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(references("store/rows.rs", "use crate::authn::Bearer; use crate::authz::Scope;"), ["authn"]);
    assert_eq!(references("authz/mod.rs", "crate::http::Problem"), ["http"]);
    assert_eq!(
        references("api/forms.rs", "// crate::server\nuse crate::store::UnitOfWork;"),
        [] as [&str; 0]
    );
    assert_eq!(references("store/mod.rs", "use crate::{types::{Id, api}, http, authz::Scope};"), ["http"]);
    assert_eq!(references("store/mod.rs", "use super::{http::Problem, types};"), ["http"]);
    assert_eq!(references("store/rows.rs", "use super::super::api::forms; use super::http;"), ["api"]);
    assert_eq!(references("store/postgres/session.rs", "use super::super::http;"), [] as [&str; 0]);
    assert_eq!(references("http/mod.rs", "use crate::application::Error;"), [] as [&str; 0]);
    assert_eq!(references("application/error.rs", "use crate::http::Problem;"), ["http"]);
}

#[test]
fn forbidden_crates_are_detected() {
    let crates = |file: &str, code: &str| forbidden_crates(Path::new(file), code);
    assert_eq!(crates("http/crud.rs", "use cedar_policy::Entities;"), ["cedar_policy"]);
    assert_eq!(crates("application/error.rs", "use actix_web::http::StatusCode;"), ["actix_"]);
    assert_eq!(crates("http/crud.rs", "use sea_orm::EntityTrait;"), ["sea_orm"]);
    assert_eq!(crates("types/id.rs", "impl sea_orm::TryGetable for Id {}"), ["sea_orm"]);
    assert_eq!(crates("http/list.rs", "use sea_orm::sea_query::Order;"), ["sea_orm"]);
    assert_eq!(crates("cli/policy_watch.rs", "use actix_web::rt::time;"), ["actix_"]);
    assert_eq!(crates("resource/column.rs", "use sea_orm::TryGetable;"), [] as [&str; 0]);
    assert_eq!(crates("cli/serve.rs", "use actix_web::dev::ServerHandle;"), [] as [&str; 0]);
    assert_eq!(crates("types/id.rs", "let actix_web = 1;"), [] as [&str; 0]);
    assert_eq!(crates("authz/engine.rs", "use cedar_policy::Entities;"), [] as [&str; 0]);
}

/// The modules whose files import each other without circles. In the others, the files work on one object that a parent holds:
/// `store` on the store and its units of work, `application` on its state; and rows of `api` refer to each other.
const MODULES_WITHOUT_CIRCLES: [&str; 9] =
    ["analysis", "http", "resource", "authn", "authz", "telemetry", "config", "types", "server"];

/// A path of a module, from the root of the crate.
type ModulePath = Vec<String>;

/// The paths that a use tree imports, each with the name that it has afterwards.
fn imported_paths(tree: &str) -> Vec<(ModulePath, String)> {
    let tree = tree.trim();
    let Some((start, group)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let path: ModulePath = path.split("::").map(|name| name.trim().to_owned()).collect();
        let name = if alias.is_empty() { path.last().cloned().unwrap_or_default() } else { alias.into() };
        return vec![(path, name.trim().to_owned())];
    };
    let start: ModulePath =
        start.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let (mut depth, mut items) = (0, vec![String::new()]);
    for letter in group[..group.rfind('}').unwrap()].chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        match letter {
            ',' if depth == 0 => items.push(String::new()),
            _ => items.last_mut().unwrap().push(letter),
        }
    }
    let paths = items.iter().filter(|item| !item.trim().is_empty()).flat_map(|item| imported_paths(item));
    paths.map(|(path, name)| (start.iter().cloned().chain(path).collect(), name)).collect()
}

/// The path from the root of the crate; none for a path of another crate.
fn from_root(module: &[String], path: &[String]) -> Option<ModulePath> {
    let steps = path.iter().take_while(|name| *name == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "super" => {
            Some(module[..module.len().checked_sub(steps)?].iter().chain(&path[steps..]).cloned().collect())
        }
        _ => None,
    }
}

/// The files that each file of a module imports from, itself and its parents excepted. Names that a parent re-exports are those
/// of the file that declares them.
fn imports(files: &BTreeMap<ModulePath, String>) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let (mut exports, mut uses) = (BTreeMap::new(), Vec::new());
    for (module, code) in files {
        for statement in code.split(';') {
            let Some((before, tree)) = statement.rsplit_once("use ") else { continue };
            let visibility = before.rsplit('\n').next().unwrap_or_default().trim();
            let is_exported = visibility.starts_with("pub");
            if !is_exported && !visibility.is_empty() {
                continue;
            }
            for (path, name) in imported_paths(tree) {
                let inner = module.iter().cloned().chain(path.iter().cloned()).collect();
                match from_root(module, &path) {
                    Some(path) if is_exported => drop(exports.insert((module.clone(), name), path)),
                    Some(path) => uses.push((module, path)),
                    None if is_exported => drop(exports.insert((module.clone(), name), inner)),
                    None => {}
                }
            }
        }
    }
    let declaring_file = |path: &ModulePath| {
        let mut path = path.clone();
        // Longer chains of re-exports are circles of their own.
        for _ in 0..5 {
            let length = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
            let exported =
                path.get(length).and_then(|name| exports.get(&(path[..length].to_vec(), name.clone())));
            match exported {
                Some(target) => path = target.iter().chain(&path[length + 1..]).cloned().collect(),
                None => return Some(path[..length].to_vec()),
            }
        }
        None
    };
    let mut edges: BTreeMap<ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for (module, path) in uses {
        if let Some(target) = declaring_file(&path).filter(|target| !module.starts_with(target)) {
            edges.entry(module.clone()).or_default().insert(target);
        }
    }
    edges
}

/// The files that are left when files without imports from others are removed again and again: those of circles, and those that
/// import from circles.
fn files_of_circles(mut edges: BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Vec<String> {
    loop {
        let remaining: BTreeSet<ModulePath> = edges.keys().cloned().collect();
        edges.values_mut().for_each(|targets| targets.retain(|target| remaining.contains(target)));
        let before = edges.len();
        edges.retain(|_, targets| !targets.is_empty());
        if edges.len() == before {
            return edges.keys().map(|path| path.join("/")).collect();
        }
    }
}

fn circles_in(module: &str, sources: &[(PathBuf, String)]) -> Vec<String> {
    let path_of = |file: &Path| -> ModulePath {
        let names = file.with_extension("");
        let names = names.iter().map(|name| name.to_str().unwrap().to_owned());
        names.filter(|name| name != "mod").collect()
    };
    let files = sources.iter().map(|(file, code)| {
        // Tests at the end of a file may use anything.
        (path_of(file), code.split("#[cfg(test)]").next().unwrap().to_owned())
    });
    files_of_circles(imports(&files.filter(|(path, _)| path[0] == module).collect()))
}

#[test]
fn files_of_a_module_import_each_other_without_circles() {
    let sources = sources();
    for module in MODULES_WITHOUT_CIRCLES {
        assert_eq!(circles_in(module, &sources), [] as [String; 0], "{module}");
    }
}

#[test]
fn circles_of_imports_are_detected() {
    let file = |name: &str, text: &str| (PathBuf::from(name), code(text));
    let circle = [
        file("a/mod.rs", "mod one; mod two; pub use two::Two;"),
        file("a/one.rs", "use super::Two; use crate::types::Id;"),
        file("a/two.rs", "use crate::a::{one::{One, Other}, three};"),
        file("a/three.rs", "// use super::one::One;"),
    ];
    assert_eq!(circles_in("a", &circle), ["a/one", "a/two"]);
    let open = [file("a/one.rs", "use super::two::Two;"), file("a/two.rs", "use super::Parent;")];
    assert_eq!(circles_in("a", &open), [] as [String; 0]);
}
