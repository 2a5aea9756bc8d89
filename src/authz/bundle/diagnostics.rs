//! Diagnostics of a bundle, with file and line.

use miette::Diagnostic;
use std::fmt;

/// An error or warning about a file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDiagnostic {
    /// The path of the file or directory.
    pub file: String,
    /// The line, from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong with the file.
    pub message: String,
}

impl fmt::Display for BundleDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Why a bundle is invalid: all diagnostics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(BundleDiagnostic::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BundleError(pub Vec<BundleDiagnostic>);

impl BundleError {
    /// The locations of the errors as `name:line`, without directories and messages.
    pub fn locations(&self) -> String {
        let location = |diagnostic: &BundleDiagnostic| {
            let name = diagnostic.file.rsplit('/').next().unwrap_or_default();
            diagnostic.line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))
        };
        self.0.iter().map(location).collect::<Vec<_>>().join(", ")
    }
}

/// A file of a snapshot, with its line offsets.
pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) text: String,
    /// The byte offsets of the line ends.
    newline_offsets: Vec<usize>,
}

impl SourceFile {
    pub(super) fn new(name: String, text: String) -> Self {
        let newline_offsets = text.match_indices('\n').map(|(offset, _)| offset).collect();
        Self { name, text, newline_offsets }
    }

    /// A diagnostic about this file.
    pub(super) fn diagnostic(&self, line: Option<usize>, message: impl fmt::Display) -> BundleDiagnostic {
        BundleDiagnostic { file: self.name.clone(), line, message: message.to_string() }
    }

    /// The line at a byte offset, from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.newline_offsets.partition_point(|newline| *newline < offset) + 1
    }

    /// Converts a diagnostic of Cedar, with its causes, help text and line.
    pub(super) fn to_bundle_diagnostic(&self, diagnostic: &dyn Diagnostic) -> BundleDiagnostic {
        let offset = diagnostic.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let mut message = diagnostic.to_string();
        let mut source = std::error::Error::source(diagnostic);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        if let Some(help) = diagnostic.help() {
            message = format!("{message} ({help})");
        }
        self.diagnostic(offset.map(|offset| self.line_at(offset)), message)
    }
}

/// Collects diagnostics, so that all errors are reported at once.
#[derive(Default)]
pub(super) struct Diagnostics(pub(super) Vec<BundleDiagnostic>);

impl Diagnostics {
    /// The value, or none after recording the error.
    pub(super) fn ok_or_record<T>(&mut self, result: Result<T, BundleDiagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.0.push(diagnostic)).ok()
    }

    /// Fails if there are diagnostics.
    ///
    /// # Errors
    /// The diagnostics, which are then removed.
    pub(super) fn check(&mut self) -> Result<(), BundleError> {
        if self.0.is_empty() { Ok(()) } else { Err(BundleError(std::mem::take(&mut self.0))) }
    }
}
