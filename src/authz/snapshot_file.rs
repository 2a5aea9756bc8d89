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
    /// Whether the text is blank, or a JSON list without an element. Other lists are not parsed: files of policy tests are long.
    pub(crate) fn is_empty_list(&self) -> bool {
        let text = self.text.trim();
        let elements = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        elements.unwrap_or(text).trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_recognized_without_parsing_others() {
        for (text, expected) in [
            ("", true),
            (" \n", true),
            ("[]", true),
            ("\n[ \n ]\n", true),
            ("[{}]", false),
            ("[[]]", false),
            ("[", false),
            ("{}", false),
            ("no list", false),
        ] {
            let file = SnapshotFile::new(FileKind::Cases, "cases/a.json", text);
            assert_eq!(file.is_empty_list(), expected, "{text:?}");
        }
    }
}
