//! A PostgreSQL server that a test can stop and start.

use crate::command_line::text;
use crate::support::{project_file, run_sql};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// The password of the database. The server does not require it; it must not appear in any output.
pub(crate) const DATABASE_PASSWORD: &str = "Kf93xVq7TzLw";

/// A PostgreSQL server of a single test.
pub(crate) struct Cluster {
    directory: TempDir,
    pub(crate) url: String,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts a server with the options that `prepare` returns. `prepare` creates the files that they name in the data directory.
    pub(crate) fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let directory = TempDir::new().unwrap();
        // Committed data must survive a stop of the process, but not a power failure.
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

    /// Replaces the access rules (`pg_hba.conf`).
    pub(crate) async fn set_access(&self, rules: &str) {
        std::fs::write(self.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        // Through the socket, to which the rules always permit access.
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
        // A child process may have ended meanwhile.
        let send = |process: &str| drop(Command::new("kill").args([name, process]).output());
        // The postmaster first: a process that it starts later would not get the signal.
        send(postmaster);
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", postmaster]).output().unwrap();
        text(&children.stdout).split_whitespace().for_each(send);
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
        // A server that a test has paused can only end after it continues.
        self.signal("-CONT");
        let mut program = Command::new(project_file("tests/postgres"));
        let _ = program.arg("stop").arg(self.directory.path()).arg("immediate").output();
    }
}

pub(crate) fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0"
}
