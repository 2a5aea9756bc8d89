//! A PostgreSQL that a test may stop and start.

use crate::command_line::text;
use crate::support::{project_file, run_sql};
use std::path::Path;
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
        Self::start_with(|_| Vec::new())
    }

    /// A server with these options. Files that they name are created in its directory first.
    pub(crate) fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let directory = TempDir::new().unwrap();
        // What it has committed has to be there when it was stopped in the middle of things, though not after a power cut.
        let mut options: Vec<String> = vec!["-c".into(), "fsync=off".into()];
        options.extend(prepare(directory.path()));
        if is_root() {
            let owner =
                Command::new("chown").args(["-R", "postgres"]).arg(directory.path()).status().unwrap();
            assert!(owner.success());
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let url = Self::run(&directory, "make", &options);
        let url = url.trim().replace("cedargate@", &format!("cedargate:{DATABASE_PASSWORD}@"));
        Self { directory, url }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn port(&self) -> u16 {
        reqwest::Url::parse(&self.url).unwrap().port().unwrap()
    }

    /// Replaces the rules that say who may connect and how.
    pub(crate) async fn set_access(&self, rules: &str) {
        std::fs::write(self.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        // By the socket, which the rules leave open.
        let socket = format!(
            "postgres:///postgres?host={}&port={}&user=cedargate",
            self.directory.path().display(),
            self.port()
        );
        run_sql(&socket, "SELECT pg_reload_conf()").await;
    }

    /// Sends a signal to all processes of the server.
    pub(crate) fn signal(&self, name: &str) {
        let file = std::fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", postmaster]).output().unwrap();
        for process in text(&children.stdout).split_whitespace().chain([postmaster]) {
            // A child may have ended meanwhile.
            let _ = Command::new("kill").args([name, process]).output();
        }
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
        // A server that a test has stopped ends only once it goes on.
        self.signal("-CONT");
        let mut program = Command::new(project_file("tests/postgres"));
        let _ = program.arg("stop").arg(self.directory.path()).arg("immediate").output();
    }
}

pub(crate) fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0"
}
