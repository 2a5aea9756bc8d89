//! The report of a replay.

use super::tally::{Example, InvalidLine, ReplayedDecision, Tally};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// What a replay found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// The files in the order in which they were read.
    pub files: Vec<String>,
    /// The number of lines.
    pub lines: u64,
    /// The lines that were decided again.
    pub replayed: u64,
    /// Those of them that are allow in the log.
    pub allows: u64,
    /// The searches and filters, which cannot be replayed: the log has no data that they searched.
    pub searches: u64,
    /// The lines with masked inputs, which cannot be replayed.
    pub masked: u64,
    /// The denials of questions that could not be evaluated, which have no inputs.
    pub not_evaluated: u64,
    /// The decisions that the service dropped, according to the log.
    pub dropped: u64,
    /// The last lines of files that were not written completely.
    pub incomplete: u64,
    /// The lines that are too long, and were skipped.
    pub oversized: u64,
    /// The lines by policy version, of versions that are not known.
    pub unknown_versions: BTreeMap<String, u64>,
    /// The lines that are not lines of a decision log.
    pub invalid: Counted<InvalidLine>,
    /// Without other policies: the lines that do not say what the policies of their version decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differences: Option<Counted<Example>>,
    /// With other policies: the decisions that they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flips: Option<Flips>,
}

/// A number and the first examples.
#[derive(Debug, Clone, Serialize)]
pub struct Counted<T> {
    /// How many there are.
    pub count: u64,
    /// Those that come first in the log.
    pub examples: Vec<T>,
}

/// The decisions that other policies change.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flips {
    /// How many there are.
    pub count: u64,
    /// How many decisions stay the same, but are determined by other policies.
    pub other_policies: u64,
    /// The flips by action, direction and policies; the largest group first.
    pub groups: Vec<FlipGroupReport>,
    /// The flips that belong to none of the groups, since there are too many.
    pub not_grouped: u64,
}

/// Flips of the same action, in the same direction, by the same policies.
#[derive(Debug, Clone, Serialize)]
pub struct FlipGroupReport {
    /// The action.
    pub action: String,
    /// Whether they are allowed now; else they are denied now.
    pub allowed: bool,
    /// The policies that determine the decision now; if there are none, those that did before.
    pub policies: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// Those that come first in the log.
    pub examples: Vec<Example>,
}

impl Flips {
    /// Whether some decision is newly allowed, as far as the groups say.
    pub fn has_allows(&self) -> bool {
        self.not_grouped > 0 || self.groups.iter().any(|group| group.allowed)
    }
}

impl ReplayReport {
    pub(super) fn new(files: Vec<String>, tally: Tally, oversized: u64, is_against: bool) -> Self {
        let flip_count = tally.flip_count();
        let mut groups: Vec<FlipGroupReport> = tally
            .flips
            .into_iter()
            .map(|(key, group)| FlipGroupReport {
                action: key.action,
                allowed: key.is_allowed_now,
                policies: key.policies,
                count: group.count,
                examples: group.examples,
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        let flips = Flips {
            count: flip_count,
            other_policies: tally.other_policies,
            groups,
            not_grouped: tally.other_flips,
        };
        let differences = Counted { count: tally.different, examples: tally.differences };
        Self {
            files,
            lines: tally.lines,
            replayed: tally.replayed,
            allows: tally.allows,
            searches: tally.searches,
            masked: tally.masked,
            not_evaluated: tally.not_evaluated,
            dropped: tally.dropped,
            incomplete: tally.cut,
            oversized,
            unknown_versions: tally.unknown_versions,
            invalid: Counted { count: tally.invalid, examples: tally.invalid_examples },
            differences: (!is_against).then_some(differences),
            flips: is_against.then_some(flips),
        }
    }

    /// Whether a line differs from what the policies decide, or is not one of a decision log.
    pub fn has_findings(&self) -> bool {
        self.invalid.count > 0
            || self.differences.as_ref().is_some_and(|differences| differences.count > 0)
            || self.flips.as_ref().is_some_and(|flips| flips.count > 0)
    }

    /// How many lines are not lines of a decision log, with the first of them; none if all are.
    pub fn invalid_summary(&self) -> Option<String> {
        let InvalidLine { file, line, message, .. } = self.invalid.examples.first()?;
        Some(format!(
            "{} of {} lines are not lines of a decision log, the first is {file}:{line}: {message}",
            self.invalid.count, self.lines
        ))
    }

    /// Why lines could not be decided again although they have their inputs; none if all were.
    pub fn undecided(&self) -> Option<String> {
        let unknown: u64 = self.unknown_versions.values().sum();
        let mut reasons = Vec::new();
        if unknown > 0 {
            let versions: Vec<&str> = self.unknown_versions.keys().take(3).map(String::as_str).collect();
            let dots = if self.unknown_versions.len() > 3 { ", …" } else { "" };
            reasons.push(format!(
                "{unknown} lines have policy versions that are neither active nor in the archive: {}{dots}",
                versions.join(", ")
            ));
        }
        if self.oversized > 0 {
            reasons.push(format!("{} lines are too long", self.oversized));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} lines in {} files, {} decided again", self.lines, self.files.len(), self.replayed)?;
        let unknown: u64 = self.unknown_versions.values().sum();
        for (count, what) in [
            (self.searches, "are searches or filters, which cannot be replayed"),
            (self.masked, "have masked inputs and cannot be replayed"),
            (self.not_evaluated, "are denials without an evaluation"),
            (unknown, "have an unknown policy version"),
            (self.incomplete, "are incomplete last lines"),
            (self.oversized, "are too long and were skipped"),
            (self.invalid.count, "are not lines of a decision log"),
        ] {
            if count > 0 {
                writeln!(f, "  {count} {what}")?;
            }
        }
        if self.dropped > 0 {
            writeln!(f, "  {} decisions were dropped by the service", self.dropped)?;
        }
        for InvalidLine { file, line, message, .. } in &self.invalid.examples {
            writeln!(f, "{file}:{line}: not a line of a decision log: {message}")?;
        }
        write_omitted(f, self.invalid.count, self.invalid.examples.len())?;
        match (self.lines, self.replayed) {
            (0, _) => return writeln!(f, "the log is empty: no line was decided again"),
            (_, 0) => return writeln!(f, "no line was decided again"),
            _ => {}
        }
        if let Some(differences) = &self.differences {
            match differences.count {
                0 => writeln!(f, "{} decided again: each is as the log says", decisions(self.replayed))?,
                count => writeln!(f, "{count} lines differ from what the policies of their version decide:")?,
            }
            for example in &differences.examples {
                write_example(f, example, "")?;
            }
            write_omitted(f, differences.count, differences.examples.len())?;
        }
        self.flips.as_ref().map_or(Ok(()), |flips| write_flips(f, flips, self.replayed))
    }
}

/// The number of decisions, with the noun in the right form.
fn decisions(number: u64) -> String {
    format!("{number} decision{}", if number == 1 { "" } else { "s" })
}

fn write_flips(f: &mut fmt::Formatter<'_>, flips: &Flips, replayed: u64) -> fmt::Result {
    match flips.count {
        0 => writeln!(f, "{} decided again: none changes", decisions(replayed))?,
        count => writeln!(f, "{count} decisions change:")?,
    }
    for group in &flips.groups {
        let direction = if group.allowed { "deny → allow" } else { "allow → deny" };
        writeln!(f, "  {}: {direction} by {}: {}", group.action, list(&group.policies), group.count)?;
        for example in &group.examples {
            write_example(f, example, "    ")?;
        }
    }
    if flips.not_grouped > 0 {
        writeln!(f, "  in further groups: {}", flips.not_grouped)?;
    }
    if flips.other_policies > 0 {
        writeln!(f, "{} further decisions stay the same, but for other reasons", flips.other_policies)?;
    }
    Ok(())
}

fn write_example(f: &mut fmt::Formatter<'_>, example: &Example, indent: &str) -> fmt::Result {
    let Example { file, line, principal, action, resource, logged, decided, evaluation_id, .. } = example;
    writeln!(f, "{indent}{file}:{line}: {principal} {action} {resource} (evaluation {evaluation_id})")?;
    writeln!(f, "{indent}  logged {}, decided {}", sentence(logged), sentence(decided))
}

fn write_omitted(f: &mut fmt::Formatter<'_>, count: u64, shown: usize) -> fmt::Result {
    let omitted = count.saturating_sub(shown as u64);
    if omitted > 0 { writeln!(f, "and {omitted} more") } else { Ok(()) }
}

fn sentence(decision: &ReplayedDecision) -> String {
    let mut text = if decision.allowed { "allow" } else { "deny" }.to_owned();
    let _ = write!(text, " by {}", list(&decision.policies));
    if decision.is_failed {
        text.push_str(" with an error");
    }
    text
}

fn list(policies: &[String]) -> String {
    if policies.is_empty() { "no policy".to_owned() } else { policies.join(", ") }
}
