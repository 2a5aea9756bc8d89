//! Findings: what a check of policies reports, with its place in a file.

use serde::Serialize;
use std::fmt;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The policies cannot be used, or a property does not hold.
    Error,
    /// The policies are probably not what their author means.
    Warning,
    /// Information.
    Note,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// A part of a file, in lines and columns from 1. The end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Region {
    /// The first line.
    pub start_line: usize,
    /// The first column, in characters.
    pub start_column: usize,
    /// The last line.
    pub end_line: usize,
    /// The column after the last character.
    pub end_column: usize,
}

impl Region {
    /// The region of these bytes of a text. Offsets beyond the text, or within a character, are moved to the left.
    pub fn of(text: &str, start: usize, end: usize) -> Self {
        let (start_line, start_column) = position(text, start);
        let (end_line, end_column) = position(text, end.max(start));
        Self { start_line, start_column, end_line, end_column }
    }

    /// A whole line.
    pub fn line(line: usize) -> Self {
        Self { start_line: line, start_column: 1, end_line: line + 1, end_column: 1 }
    }
}

/// The line and column of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..text.floor_char_boundary(offset)).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}

/// Something that a check reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The rule that it violates: a stable code in kebab case, such as `missing-doc`.
    pub rule: &'static str,
    /// How serious it is.
    pub level: Level,
    /// The path of the file; none if it concerns no single file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// The policy that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What was found, in one sentence.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{file}:")?;
            if let Some(region) = self.region {
                write!(formatter, "{}:{}:", region.start_line, region.start_column)?;
            }
            formatter.write_str(" ")?;
        }
        write!(formatter, "{}: {} [{}]", self.level, self.message, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_counts_lines_and_characters() {
        let text = "permit\nwhen { \"ä\" == x }\n";
        let start = text.find("\"ä\"").unwrap();
        let region = Region::of(text, start, start + "\"ä\"".len());
        assert_eq!(region, Region { start_line: 2, start_column: 8, end_line: 2, end_column: 11 });
        assert_eq!(
            Region::of("", 5, 9),
            Region { start_line: 1, start_column: 1, end_line: 1, end_column: 1 }
        );
    }
}
