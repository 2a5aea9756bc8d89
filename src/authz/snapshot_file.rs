//! The files of a snapshot and their kinds.

use crate::types::string_enum;
use std::sync::Arc;

string_enum!(
    /// The kind of a policy file: a schema, policies, entity data, claims about the policies, or policy tests.
    FileKind { Schema = "schema", Policies = "policies", Data = "data", Claims = "claims", Cases = "cases" }
);

impl FileKind {
    /// The subdirectory of the policy directory that contains files of this kind.
    fn subdirectory(self) -> Option<&'static str> {
        match self {
            Self::Claims | Self::Cases => Some(self.as_str()),
            Self::Schema | Self::Policies | Self::Data => None,
        }
    }
}

/// The content of a file. Copies share the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    pub(crate) kind: FileKind,
    /// The path, beginning with the configured directory.
    pub(crate) path: String,
    /// The text, without a byte-order mark.
    pub(crate) text: Arc<str>,
}

impl SnapshotFile {
    pub(crate) fn new(kind: FileKind, path: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        Self { kind, path: path.into(), text: text.into() }
    }

    /// The file name, without directories.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The file name, with `claims/` or `cases/` before it for a file in such a directory.
    pub(crate) fn label(&self) -> String {
        match self.kind.subdirectory() {
            Some(directory) => format!("{directory}/{}", self.name()),
            None => self.name().to_owned(),
        }
    }
}
