//! Diagnostics of a bundle, with file and line.

use super::rules::Rule;
use miette::Diagnostic;
use std::fmt;
use std::ops::Range;

/// An error or warning about a file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDiagnostic {
    /// The rule that is violated.
    pub rule: Rule,
    /// The path of the file or directory; none if it concerns no single one.
    pub file: Option<String>,
    /// The line, from 1, if it is known.
    pub line: Option<usize>,
    /// The bytes of the file that it is about, if they are known.
    pub bytes: Option<Range<usize>>,
    /// The id of the policy that it is about.
    pub policy: Option<String>,
    /// What is wrong with the file.
    pub message: String,
}

impl BundleDiagnostic {
    /// A violation of a rule in a file or directory.
    pub fn new(rule: Rule, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..Self::without_file(rule, message) }
    }

    /// A violation of a rule that concerns no single file.
    pub fn without_file(rule: Rule, message: impl Into<String>) -> Self {
        Self { rule, file: None, line: None, bytes: None, policy: None, message: message.into() }
    }

    /// A violation in one of these files: in the file if there is only one, else in none.
    pub(super) fn in_files(rule: Rule, files: &[SourceFile], message: impl Into<String>) -> Self {
        match files {
            [file] => Self::new(rule, &file.name, message),
            _ => Self::without_file(rule, message),
        }
    }

    /// The same about the policy with this id.
    pub(super) fn about(self, policy: &str) -> Self {
        Self { policy: Some(policy.to_owned()), ..self }
    }
}

impl fmt::Display for BundleDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: {}", self.message),
            (Some(file), None) => write!(f, "{file}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// Why a bundle is invalid: all diagnostics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(BundleDiagnostic::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BundleError(pub Vec<BundleDiagnostic>);

impl BundleError {
    /// The locations of the errors as `name:line`, without directories and messages. An error without a file has its rule.
    pub fn locations(&self) -> String {
        let location = |diagnostic: &BundleDiagnostic| {
            let Some(file) = &diagnostic.file else { return diagnostic.rule.code().to_owned() };
            let name = file.rsplit('/').next().unwrap_or_default();
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
    pub(super) fn diagnostic(
        &self,
        rule: Rule,
        line: Option<usize>,
        message: impl fmt::Display,
    ) -> BundleDiagnostic {
        BundleDiagnostic { line, ..BundleDiagnostic::new(rule, &self.name, message.to_string()) }
    }

    /// A diagnostic about these bytes of this file; about the whole file without them.
    pub(super) fn diagnostic_at(
        &self,
        rule: Rule,
        bytes: Option<Range<usize>>,
        message: impl fmt::Display,
    ) -> BundleDiagnostic {
        let line = bytes.as_ref().map(|bytes| self.line_at(bytes.start));
        BundleDiagnostic { bytes, ..self.diagnostic(rule, line, message) }
    }

    /// The bytes of the first occurrence of a text.
    pub(super) fn find(&self, text: &str) -> Option<Range<usize>> {
        self.text.find(text).map(|start| start..start + text.len())
    }

    /// The line at a byte offset, from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.newline_offsets.partition_point(|newline| *newline < offset) + 1
    }

    /// Converts a diagnostic of Cedar, with its causes, help text and line.
    pub(super) fn to_bundle_diagnostic(&self, rule: Rule, diagnostic: &dyn Diagnostic) -> BundleDiagnostic {
        self.to_bundle_diagnostic_after(0, rule, diagnostic)
    }

    /// As [`Self::to_bundle_diagnostic`], with the diagnostics that are related to it: of several errors, Cedar returns the first,
    /// to which the others are related.
    pub(super) fn to_bundle_diagnostics(
        &self,
        rule: Rule,
        diagnostic: &dyn Diagnostic,
    ) -> Vec<BundleDiagnostic> {
        let mut all = vec![self.to_bundle_diagnostic(rule, diagnostic)];
        let related = diagnostic.related().into_iter().flatten();
        all.extend(related.flat_map(|related| self.to_bundle_diagnostics(rule, related)));
        all
    }

    /// As [`Self::to_bundle_diagnostic`], of a diagnostic about the text from this offset on.
    pub(super) fn to_bundle_diagnostic_after(
        &self,
        offset: usize,
        rule: Rule,
        diagnostic: &dyn Diagnostic,
    ) -> BundleDiagnostic {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let bytes = label.map(|label| offset + label.offset()..offset + label.offset() + label.len());
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
        self.diagnostic_at(rule, bytes, message)
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

    /// The diagnostics in the order of files and lines, each once.
    pub(super) fn into_sorted(mut self) -> Vec<BundleDiagnostic> {
        let position = |diagnostic: &BundleDiagnostic| {
            let start = diagnostic.bytes.as_ref().map(|bytes| bytes.start);
            (diagnostic.file.clone(), diagnostic.line, start, diagnostic.rule)
        };
        self.0.sort_by_key(position);
        self.0.dedup();
        self.0
    }
}
