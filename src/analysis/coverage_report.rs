//! Coverage as text for people, and in the LCOV format that editors and code hosts show beside the code.

use super::coverage::{Coverage, CoveredPart, PartCoverage, PolicyCoverage};
use std::collections::BTreeMap;
use std::fmt::Write;

impl PartCoverage {
    /// The mark of a line in the text report.
    fn mark(self) -> char {
        match self {
            Self::Covered => '+',
            Self::NeverFalse => 'T',
            Self::NeverTrue => 'F',
            Self::NeverReached => '!',
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Covered => "true and false",
            Self::NeverFalse => "never false",
            Self::NeverTrue => "never true",
            Self::NeverReached => "never reached",
        }
    }
}

/// The coverage as text: each policy that is not covered with its lines marked, then a table.
pub fn coverage_text(coverage: &Coverage) -> String {
    let mut text = String::new();
    let incomplete: Vec<&PolicyCoverage> =
        coverage.policies.iter().filter(|policy| !policy.is_complete()).collect();
    if !incomplete.is_empty() {
        text.push_str("+ covered   T never false   F never true   ! never reached\n\n");
    }
    for policy in incomplete {
        marked_policy(&mut text, policy);
    }
    summary_table(&mut text, coverage);
    text
}

/// The lines of a policy, each with the mark of its least covered part, and below it the parts that are not covered.
fn marked_policy(text: &mut String, policy: &PolicyCoverage) {
    let PolicyCoverage { file, region, parts, times_applied, .. } = policy;
    let applied = match times_applied {
        0 => "applies to no test".to_owned(),
        1 => "applies to 1 test".to_owned(),
        _ => format!("applies to {times_applied} tests"),
    };
    let (covered, total) = (policy.covered(), parts.len());
    let _ = writeln!(
        text,
        "{file}:{}: {}: {applied}, {covered} of {total} parts covered",
        region.start_line, policy.policy
    );
    for (number, line) in (region.start_line..).zip(&policy.lines) {
        let on_line: Vec<&CoveredPart> =
            parts.iter().filter(|part| part.region.start_line == number).collect();
        let mark = on_line.iter().map(|part| part.coverage).max().map_or(' ', PartCoverage::mark);
        let _ = writeln!(text, "{number:>5} {mark} {line}");
        for part in on_line.iter().filter(|part| part.coverage != PartCoverage::Covered) {
            let _ = writeln!(
                text,
                "{:>8}{}^ {}: {}",
                "",
                " ".repeat(part.region.start_column.saturating_sub(1)),
                part.coverage.description(),
                part.text
            );
        }
    }
    text.push('\n');
}

fn summary_table(text: &mut String, coverage: &Coverage) {
    let names = coverage.policies.iter().map(|policy| policy.policy.chars().count());
    let width = names.max().unwrap_or_default().max("policy".len());
    let _ = writeln!(text, "{:width$}  tests  parts", "policy");
    for policy in &coverage.policies {
        let parts = format!("{}/{}", policy.covered(), policy.parts.len());
        let _ = writeln!(text, "{:width$}  {:>5}  {parts:>5}", policy.policy, policy.times_applied);
    }
    let _ = writeln!(
        text,
        "coverage: {} of {} parts ({} %)",
        coverage.covered,
        coverage.parts,
        coverage.percent()
    );
}

/// The coverage as an LCOV trace file: policies are functions, and each part has two branches, true and false.
///
/// A line is executed as often as the part on it that is reached most; lines without a part are not listed.
pub fn lcov(coverage: &Coverage) -> String {
    let mut text = String::new();
    for (file, policies) in coverage.by_file() {
        let _ = writeln!(text, "TN:\nSF:{file}");
        for policy in &policies {
            let _ = writeln!(text, "FN:{},{}", policy.region.start_line, policy.policy);
        }
        for policy in &policies {
            let _ = writeln!(text, "FNDA:{},{}", policy.times_applied, policy.policy);
        }
        let applied = policies.iter().filter(|policy| policy.times_applied > 0).count();
        let _ = writeln!(text, "FNF:{}\nFNH:{applied}", policies.len());
        branches(&mut text, &policies);
        lines(&mut text, &policies);
        text.push_str("end_of_record\n");
    }
    text
}

/// The branch records of a file. Each part is a block of two branches.
fn branches(text: &mut String, policies: &[&PolicyCoverage]) {
    let (mut found, mut hit) = (0, 0);
    for (block, part) in policies.iter().flat_map(|policy| &policy.parts).enumerate() {
        let is_reached = part.coverage != PartCoverage::NeverReached;
        for (branch, times) in [part.times_true, part.times_false].into_iter().enumerate() {
            found += 1;
            hit += usize::from(times > 0);
            let taken = if is_reached { times.to_string() } else { "-".to_owned() };
            let _ = writeln!(text, "BRDA:{},{block},{branch},{taken}", part.region.start_line);
        }
    }
    let _ = writeln!(text, "BRF:{found}\nBRH:{hit}");
}

/// The line records of a file.
fn lines(text: &mut String, policies: &[&PolicyCoverage]) {
    let mut times: BTreeMap<usize, usize> = BTreeMap::new();
    for policy in policies {
        for part in &policy.parts {
            let reached = part.times_true + part.times_false + part.times_failed;
            let line = times.entry(part.region.start_line).or_default();
            *line = reached.max(*line);
        }
    }
    for (line, times) in &times {
        let _ = writeln!(text, "DA:{line},{times}");
    }
    let hit = times.values().filter(|times| **times > 0).count();
    let _ = writeln!(text, "LF:{}\nLH:{hit}", times.len());
}
