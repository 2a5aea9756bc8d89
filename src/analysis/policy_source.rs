//! Where the policies that are compared come from: a directory, or a revision of a git repository.

mod git;

use crate::authz::{BundleError, InvalidVersion, Snapshot, Sources, VersionPrefix};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A source of policies, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A directory that contains the configured schema and policy directories, or else `schema` and `policies`.
    Directory(PathBuf),
    /// The configured schema and policy directories at a revision of the git repository.
    Git(String),
    /// A version of the archive: its hash, or the first digits of it.
    Version(VersionPrefix),
}

/// Why the policies of a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicySourceError {
    /// The directory does not contain the schema and policy directories.
    #[error("{}: expected a directory with the configured schema and policy directories, or with schema and policies", .0.display())]
    NoPolicies(PathBuf),
    /// The program `git` cannot be executed.
    #[error("cannot execute git: {0}")]
    NoGit(std::io::Error),
    /// The program `git` failed.
    #[error("git: {0}")]
    Git(String),
    /// The archive does not have the version, or cannot be read.
    #[error("version:{0}: {1}")]
    Archive(VersionPrefix, String),
    /// The policies are invalid.
    #[error("{0}: {1}")]
    Invalid(PolicySource, BundleError),
}

impl FromStr for PolicySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("git", revision)) if revision.is_empty() || revision.starts_with('-') => Err(format!(
                "invalid revision {revision:?}: expected a commit, branch or tag such as git:main"
            )),
            Some(("git", revision)) => Ok(Self::Git(revision.to_owned())),
            Some(("version", version)) => {
                version.parse().map(Self::Version).map_err(|error: InvalidVersion| error.to_string())
            }
            _ if text.is_empty() => Err("expected a directory, git:REVISION or version:HASH".to_owned()),
            _ => Ok(Self::Directory(text.into())),
        }
    }
}

impl fmt::Display for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Git(revision) => write!(f, "git:{revision}"),
            Self::Version(version) => write!(f, "version:{version}"),
        }
    }
}

impl PolicySource {
    /// Reads the files. `configured` are the directories of the service, and `archive` reads a version of the archive.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_files(
        &self,
        configured: &Sources,
        archive: impl FnOnce(&VersionPrefix) -> Result<Snapshot, PolicySourceError>,
    ) -> Result<Snapshot, PolicySourceError> {
        match self {
            Self::Directory(path) => {
                let sources = below(path, configured)?;
                Snapshot::read(&sources).map_err(|error| PolicySourceError::Invalid(self.clone(), error))
            }
            Self::Git(revision) => git::read(revision, configured),
            Self::Version(version) => archive(version),
        }
    }
}

/// The configured directories below a directory if all of them are there, else `schema` and `policies`.
fn below(directory: &Path, configured: &Sources) -> Result<Sources, PolicySourceError> {
    let join =
        |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().map(|path| directory.join(path)).collect() };
    let is_relative = configured.schema.iter().chain(&configured.policies).all(|path| path.is_relative());
    let all = Sources {
        schema: join(&configured.schema),
        policies: join(&configured.policies),
        ..configured.clone()
    };
    let plain = Sources {
        schema: vec![directory.join("schema")],
        policies: vec![directory.join("policies")],
        ..configured.clone()
    };
    let exists = |sources: &Sources| sources.schema.iter().chain(&sources.policies).all(|path| path.is_dir());
    let candidates = [is_relative.then_some(all), Some(plain)].into_iter().flatten();
    let found = candidates.into_iter().find(exists);
    found.ok_or_else(|| PolicySourceError::NoPolicies(directory.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_directory_a_revision_or_a_version() {
        let parse = |text: &str| text.parse::<PolicySource>();
        assert_eq!(parse("old/policies"), Ok(PolicySource::Directory("old/policies".into())));
        assert_eq!(parse("git:HEAD~1"), Ok(PolicySource::Git("HEAD~1".into())));
        assert_eq!(parse("version:0123abcd"), Ok(PolicySource::Version("0123abcd".parse().unwrap())));
        for invalid in ["", "git:", "git:--output=x", "version:", "version:xyz"] {
            assert!(parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn the_configured_directories_are_preferred() {
        let directory = tempfile::tempdir().unwrap();
        let configured = |names: [&str; 2]| Sources {
            schema: vec![names[0].into()],
            policies: vec![names[1].into()],
            stored: Vec::new(),
        };
        let [plain, other] = [["schema", "policies"], ["a/schema", "a/policies"]].map(configured);
        assert!(below(directory.path(), &other).is_err());
        for name in ["schema", "policies"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let found = |configured: &Sources| below(directory.path(), configured).unwrap().schema;
        assert_eq!(found(&other), [directory.path().join("schema")]);
        assert_eq!(found(&plain), [directory.path().join("schema")]);
        for name in ["a/schema", "a/policies"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        assert_eq!(found(&other), [directory.path().join("a/schema")]);
    }
}
