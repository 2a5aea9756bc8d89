//! Reports of findings: text with excerpts of the sources, JSON or SARIF.

use crate::analysis::{self, Finding};
use crate::cli::{CommandResult, print_line};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// The format of a report of findings.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum FindingFormat {
    /// Lines with excerpts of the files
    Text,
    /// A JSON object
    Json,
    /// SARIF 2.1.0, for code hosts
    Sarif,
}

/// A report of findings.
pub(super) struct FindingReport<'a> {
    /// The name of the command.
    pub(super) command: &'static str,
    /// The codes and meanings of the rules of the command.
    pub(super) rules: Vec<(&'static str, &'static str)>,
    pub(super) findings: &'a [Finding],
    /// Further members of the JSON object.
    pub(super) members: Map<String, Value>,
    /// Further lines of the text.
    pub(super) lines: Vec<String>,
}

impl FindingReport<'_> {
    /// Writes the report to standard output. `source` returns the text of a file.
    pub(super) fn print(
        &self,
        format: FindingFormat,
        source: impl Fn(&str) -> Option<String>,
    ) -> CommandResult {
        match format {
            FindingFormat::Sarif => {
                print_line(analysis::sarif(self.command, &self.rules, self.findings).trim_end())
            }
            FindingFormat::Json => {
                let mut report = Map::from_iter([("findings".to_owned(), json!(self.findings))]);
                report.extend(self.members.clone());
                print_line(format_args!("{:#}", Value::Object(report)))
            }
            FindingFormat::Text => {
                let finding = |finding: &Finding| {
                    let text = finding.file.as_deref().and_then(&source);
                    let excerpt =
                        text.zip(finding.region).map(|(text, region)| analysis::excerpt(&text, region));
                    format!("{finding}\n{}", excerpt.unwrap_or_default())
                };
                let findings = self.findings.iter().map(finding);
                let all: Vec<String> = findings.chain(self.lines.iter().cloned()).collect();
                if all.is_empty() { Ok(()) } else { print_line(all.join("\n").trim_end()) }
            }
        }
    }
}

/// The number of something, with the noun in the right form.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
