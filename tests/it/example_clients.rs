//! The clients of `examples/clients`, built with types that are generated from the OpenAPI document.

use crate::packages::{npm_packages, python_packages};
use crate::support::{ADMIN, PASSWORD, TestApp, project_file};
use std::path::Path;
use std::process::Command;

/// Runs a command to its end. Returns its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A copy of an example, beside a copy of the OpenAPI document, as in the project.
fn copy_of(example: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let copy = |directory: &str| {
        std::fs::create_dir_all(root.path().join(directory)).unwrap();
        for entry in std::fs::read_dir(project_file(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, root.path().join(directory).join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    copy("openapi");
    copy(example);
    root
}

/// Runs the client against a service and checks what it prints.
async fn check(client: &mut Command, directory: &Path) {
    let app = TestApp::start().await;
    client.current_dir(directory).env("CEDARGATE", &app.base).env("EMAIL", ADMIN).env("PASSWORD", PASSWORD);
    let printed = run(client);
    let lines: Vec<&str> = printed.lines().collect();
    let id = lines[0].strip_prefix("created ").unwrap();
    assert_eq!(lines[1..], [format!("{id} Opening hours")], "{printed}");
    // A wrong password ends the program with an error.
    assert!(!client.env("PASSWORD", "wrong").output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_compiles_in_strict_mode_and_works() {
    let root = copy_of("examples/clients/typescript");
    let directory = root.path().join("examples/clients/typescript");
    let packages = npm_packages("typescript").join("node_modules");
    std::os::unix::fs::symlink(packages, directory.join("node_modules")).unwrap();
    run(Command::new("npm").args(["run", "build"]).current_dir(&directory));
    check(Command::new("npm").args(["--silent", "start"]), &directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    let root = copy_of("examples/clients/python");
    let directory = root.path().join("examples/clients/python");
    let programs = python_packages("python").join("bin");
    let generator = ["generate", "--path", "../../../openapi/openapi.json", "--output-path", "generated"];
    run(Command::new(programs.join("openapi-python-client")).args(generator).current_dir(&directory));
    check(Command::new(programs.join("python")).arg("client.py"), &directory).await;
}
