//! Excerpts of source text with the place of a finding marked.

use super::Region;
use std::fmt::Write;

/// The maximum number of lines of an excerpt.
const MAX_LINES: usize = 8;

/// The maximum number of characters of a line of an excerpt.
const MAX_CHARS: usize = 120;

/// The number of characters before a region that are shown of a long line.
const CHARS_BEFORE: usize = 20;

/// The lines of a region with their numbers. The characters of the region are marked below their line.
///
/// A long region is cut after a few lines, and a long line after a number of characters. Empty if the text does not have these lines.
pub fn excerpt(text: &str, region: Region) -> String {
    // A region that ends before the first character of a line does not include that line.
    let last = match region.end_column {
        1 if region.end_line > region.start_line => region.end_line - 1,
        _ => region.end_line,
    };
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut lines: Vec<(usize, &str)> = numbered
        .skip_while(|(number, _)| *number < region.start_line)
        .take_while(|(number, _)| *number <= last)
        .collect();
    let is_cut = lines.len() > MAX_LINES;
    lines.truncate(MAX_LINES);
    let width = last.to_string().len();
    let mut excerpt = String::new();
    for (number, line) in lines {
        let start = if number == region.start_line { region.start_column } else { 1 };
        let end = if number == region.end_line { region.end_column } else { line.chars().count() + 1 };
        let indent = line.chars().take_while(|character| character.is_whitespace()).count() + 1;
        let (line, start, end) = shortened(line.trim_end(), start.max(indent), end);
        let marks = "^".repeat(end.saturating_sub(start).max(1));
        // Tabs are kept, so that the marks are below their characters.
        let before: String = line
            .chars()
            .take(start - 1)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        // Writing to a string does not fail.
        let _ = writeln!(excerpt, "{number:>width$} | {line}");
        if !line.trim().is_empty() {
            let _ = writeln!(excerpt, "{:>width$} | {before}{marks}", "");
        }
    }
    if is_cut {
        let _ = writeln!(excerpt, "{:>width$} | …", "");
    }
    excerpt
}

/// The part of a line that is shown, with the columns in it at which the marks start and end.
fn shortened(line: &str, start: usize, end: usize) -> (String, usize, usize) {
    let length = line.chars().count();
    if length <= MAX_CHARS {
        return (line.to_owned(), start, end);
    }
    // The start of the line, unless the region is not in it.
    let skipped = if start <= MAX_CHARS / 2 { 0 } else { start - CHARS_BEFORE };
    let shown: String = line.chars().skip(skipped).take(MAX_CHARS).collect();
    let before = if skipped > 0 { "…" } else { "" };
    let after = if skipped + MAX_CHARS < length { "…" } else { "" };
    let shift = skipped - before.chars().count();
    let last = before.chars().count() + shown.chars().count() + 1;
    (format!("{before}{shown}{after}"), start - shift, (end - shift.min(end)).min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_marked_in_every_line() {
        let text = "permit (\n  principal,\n\tä == b\n);\n";
        let start = text.find("principal").unwrap();
        let one = Region::of(text, start, start + "principal".len());
        assert_eq!(excerpt(text, one), "2 |   principal,\n  |   ^^^^^^^^^\n");
        let end = text.find(" b").unwrap();
        let two = Region::of(text, start, end);
        assert_eq!(excerpt(text, two), "2 |   principal,\n  |   ^^^^^^^^^^\n3 | \tä == b\n  | \t^^^^\n");
        assert_eq!(excerpt(text, Region::line(4)), "4 | );\n  | ^^\n");
        assert_eq!(excerpt(text, Region::line(9)), "");
    }

    #[test]
    fn a_long_line_is_shortened() {
        let text = format!("{}target{}", "a".repeat(200), "b".repeat(200));
        let whole = excerpt(&text, Region::of(&text, 0, text.len()));
        assert_eq!(whole, format!("1 | {}…\n  | {}\n", "a".repeat(120), "^".repeat(120)));
        let target = excerpt(&text, Region::of(&text, 200, 206));
        let (before, after) = ("a".repeat(19), "b".repeat(95));
        let marks = format!("{}{}", " ".repeat(20), "^".repeat(6));
        assert_eq!(target, format!("1 | …{before}target{after}…\n  | {marks}\n"));
        let end = excerpt(&text, Region::of(&text, 404, 406));
        assert!(end.ends_with("bb\n  |                     ^^\n"), "{end}");
    }
}
