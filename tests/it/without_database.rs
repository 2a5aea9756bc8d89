//! Which tests do not depend on the kind of the database. `make test` runs them once, and skips them in its pass with PostgreSQL.

use std::collections::HashSet;

/// The rule: the tests whose name contains one of these lines, as `--skip` of the test binary understands it.
const SKIPPED: &str = include_str!("without_database.txt");

/// The URL of the PostgreSQL server on which the tests run; none if they run with SQLite. A test that depends on it fails if it
/// is skipped in the pass with PostgreSQL.
pub fn postgres_server() -> Option<String> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let rule = skipping_line(test);
    assert!(
        rule.is_none(),
        "{test} uses a database, and must not be skipped with PostgreSQL: remove the line {rule:?} from tests/it/without_database.txt"
    );
    std::env::var("TEST_POSTGRES_URL").ok()
}

fn skipping_line(test: &str) -> Option<&'static str> {
    SKIPPED.lines().find(|line| test.contains(line))
}

#[test]
fn every_skipped_module_exists() {
    let modules: HashSet<&str> = include_str!("main.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    for line in SKIPPED.lines() {
        let module = line.split("::").next().unwrap();
        assert!(line.contains("::") && modules.contains(module), "no module of the tests: {line:?}");
    }
}

#[test]
fn a_test_that_asks_for_the_database_is_not_skipped() {
    let ask_as = |test: &str| {
        std::thread::Builder::new().name(test.to_owned()).spawn(|| drop(postgres_server())).unwrap().join()
    };
    assert!(ask_as("policy_prove::the_shipped_claims_are_proven").is_err());
    assert!(ask_as("tokens::a_token_expires").is_ok());
}

#[test]
fn only_this_file_reads_the_address_of_the_server() {
    let directory = crate::support::project_file("tests/it");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let readers: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("\"TEST_POSTGRES_URL\""))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(readers, ["without_database.rs"]);
}
