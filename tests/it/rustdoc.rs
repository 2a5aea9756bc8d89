//! The documentation of functions: each one that other modules can call, and that can fail, says when.
//!
//! Clippy's `missing_errors_doc` checks `pub` functions only; this test includes `pub(crate)` and `pub(super)` ones.

use crate::support::project_file;
use std::path::Path;

/// The name of the function that is declared in this line, if other modules can call it.
fn visible_function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if !line.starts_with("pub ") && !line.starts_with("pub(") {
        return None;
    }
    let (before, declaration) = line.split_once("fn ")?;
    let modifiers = before.split_whitespace().skip(1);
    let is_function = modifiers.clone().all(|word| ["async", "const"].contains(&word));
    is_function.then(|| declaration.split(['(', '<']).next().unwrap())
}

/// Whether the function whose declaration begins these lines returns a `Result`, or a future of one.
fn returns_result(lines: &[&str]) -> bool {
    let end = lines.iter().position(|line| line.contains('{') || line.ends_with(';')).unwrap();
    let declaration = lines[..=end].join(" ");
    let declaration = declaration.split('{').next().unwrap();
    let returned = declaration.rsplit_once(") -> ").map_or("", |(_, returned)| returned);
    let returned = returned.strip_prefix("impl Future<Output = ").unwrap_or(returned);
    let name = returned.split('<').next().unwrap();
    name == "Result" || name.ends_with("::Result")
}

/// The lines and names of the functions whose errors are not documented.
fn undocumented(source: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = visible_function(line) else { continue };
        let above = lines[..index].iter().rev().map(|line| line.trim_start());
        let mut documentation = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
        if returns_result(&lines[index..]) && !documentation.any(|line| line == "/// # Errors") {
            found.push((index + 1, name));
        }
    }
    found
}

fn check_directory(directory: &Path, failures: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_directory(&path, failures);
        } else {
            let source = std::fs::read_to_string(&path).unwrap();
            let found = undocumented(&source);
            failures.extend(found.iter().map(|(line, name)| format!("{}:{line}: {name}", path.display())));
        }
    }
}

#[test]
fn every_function_that_other_modules_call_documents_its_errors() {
    let mut failures = Vec::new();
    check_directory(&project_file("src"), &mut failures);
    assert!(failures.is_empty(), "without `# Errors`:\n{}", failures.join("\n"));
}

#[test]
fn undocumented_errors_are_found() {
    let source = "
        /// Documented.
        ///
        /// # Errors
        /// Always.
        #[must_use]
        pub fn documented() -> Result<(), Error> {}
        /// It has no section about errors.
        pub(super) async fn no_section(
            callback: impl FnOnce() -> Result<(), Error>,
        ) -> io::Result<()> {
        pub(crate) fn future() -> impl Future<Output = Result<(), Error>> {}
        pub fn infallible(callback: impl FnOnce() -> Result<(), Error>) -> u8 {
        pub fn nothing(result: Result<u8, u8>) {
        fn private() -> Result<(), Error> {
        pub struct Function(fn () -> Result<(), Error>);
    ";
    let names: Vec<&str> = undocumented(source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["no_section", "future"]);
}
