//! Where the npm and Python packages of the tests are.

use std::path::PathBuf;

/// The directory with the npm packages of the tests (`tests/need-npm`).
pub fn npm_packages(name: &str) -> PathBuf {
    let directory = target_directory().join("npm").join(name);
    assert!(directory.join("node_modules").is_dir(), "run tests/need-npm: {}", directory.display());
    directory
}

/// The virtual environment with the Python packages of a directory (`tests/need-requirements`).
pub fn python_packages(name: &str) -> PathBuf {
    let directory = target_directory().join("python").join(name);
    assert!(directory.join("bin").is_dir(), "run tests/need-requirements: {}", directory.display());
    directory
}

/// The target directory of cargo.
fn target_directory() -> PathBuf {
    // The binary is in target/debug or target/release.
    PathBuf::from(env!("CARGO_BIN_EXE_cedargate")).ancestors().nth(2).unwrap().to_owned()
}
