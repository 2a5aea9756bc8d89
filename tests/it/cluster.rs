//! A PostgreSQL that a test may stop and start.

use crate::command_line::text;
use crate::support::project_file;
use std::process::Command;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// The password of the database, which the server does not ask for, and nobody is to see.
pub(crate) const DATABASE_PASSWORD: &str = "Kf93xVq7TzLw";

/// A server of its own, of which the test may do what it likes.
pub(crate) struct Cluster {
    directory: TempDir,
    pub(crate) url: String,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        // What it has committed has to be there when it was stopped in the middle of things, though not after a power cut.
        let url = Self::run(&directory, "make", &["-c", "fsync=off"]);
        let url = url.trim().replace("cedargate@", &format!("cedargate:{DATABASE_PASSWORD}@"));
        Self { directory, url }
    }

    fn run(directory: &TempDir, command: &str, arguments: &[&str]) -> String {
        let mut program = Command::new(project_file("tests/postgres"));
        program.arg(command).arg(directory.path()).args(arguments);
        let output = block_in_place(|| program.output()).unwrap();
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn stop(&self, how: &str) {
        Self::run(&self.directory, "stop", &[how]);
    }

    pub(crate) fn start(&self) {
        Self::run(&self.directory, "start", &[]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut program = Command::new(project_file("tests/postgres"));
        let _ = program.arg("stop").arg(self.directory.path()).arg("immediate").output();
    }
}
