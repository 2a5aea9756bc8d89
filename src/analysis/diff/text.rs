//! The difference of two versions as text.

use super::files::{ChangedCell, ChangedPolicy, PolicyChange};
use super::{Change, Direction, EnvironmentDiff, PolicyDiff, Witness};
use crate::analysis::Outcome;
use std::fmt::{self, Display, Formatter};

/// How many claims the summary names. The rest is counted.
const MAX_NAMES: usize = 10;

impl Display for PolicyDiff {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "old: {} ({})", self.old.source, self.old.version)?;
        writeln!(f, "new: {} ({})", self.new.source, self.new.version)?;
        writeln!(f, "{}", self.headline())?;
        for environment in &self.environments {
            write_environment(f, environment)?;
        }
        write_list(f, "added actions", &self.added_actions)?;
        write_list(f, "removed actions", &self.removed_actions)?;
        write_list(f, "added types", &self.added_types)?;
        write_list(f, "removed types", &self.removed_types)?;
        if !self.matrix.is_empty() {
            writeln!(f, "\nmatrix:")?;
        }
        for ChangedCell { resource, action, location, scope, old, new } in &self.matrix {
            let [old, new] = [old, new].map(|cell| cell.unwrap_or("none"));
            writeln!(f, "  {action} on {resource} ({location}), {scope}: {old} → {new}")?;
        }
        for ChangedPolicy { id, change, file, line, diff } in &self.policies {
            writeln!(f, "\npolicy {id}: {} ({file}:{line})", change.sentence())?;
            write_indented(f, diff)?;
        }
        for file in &self.files {
            writeln!(f, "\n{} {}: {}", file.kind, file.name, file.change)?;
            write_indented(f, &file.diff)?;
        }
        if let Some(replay) = &self.replay {
            write!(f, "\nreplay:\n{replay}")?;
        }
        Ok(())
    }
}

impl PolicyDiff {
    /// The summary in one line.
    pub(super) fn headline(&self) -> String {
        let changes = [Change::Wider, Change::Narrower, Change::Both, Change::Unchanged, Change::Undecided];
        let counts = changes.map(|change| format!("{} {}", self.count(change), change.as_str()));
        let proven = if !self.is_wider() && self.undecided().is_none() {
            "; no request is newly allowed (proven)"
        } else {
            ""
        };
        let claims: String = [
            ("removed", &self.removed_claims),
            ("changed", &self.changed_claims),
            ("added", &self.added_claims),
        ]
        .into_iter()
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(change, ids)| format!("; claims {change}: {}", first_names(ids)))
        .collect();
        format!("request environments: {}{proven}{claims}", counts.join(", "))
    }
}

/// The first names, and how many others there are.
fn first_names(names: &[String]) -> String {
    let first = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => first,
        others => format!("{first} and {others} others"),
    }
}

impl PolicyChange {
    /// A description of what happened.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Added => "added".to_owned(),
            Self::Removed => "removed".to_owned(),
            Self::Changed => "changed".to_owned(),
            Self::Reworded => "says the same with another text".to_owned(),
            Self::Renamed { from } => format!("renamed from {from}"),
        }
    }
}

fn write_environment(f: &mut Formatter<'_>, environment: &EnvironmentDiff) -> fmt::Result {
    let EnvironmentDiff { principal, action, resource, change, witnesses, undecided, .. } = environment;
    writeln!(f, "\n{}: {action} on {resource} by {principal}", change.as_str())?;
    for Witness { direction, test, old, new } in witnesses {
        let what = if *direction == Direction::Wider { "newly allowed" } else { "newly denied" };
        writeln!(f, "  {what}: old {}, new {}", outcome_sentence(old), outcome_sentence(new))?;
        let test = serde_json::to_string(test).unwrap_or_default();
        writeln!(f, "    {test}")?;
    }
    match undecided {
        Some(reason) => writeln!(f, "  not compared completely: {reason}"),
        None => Ok(()),
    }
}

/// A decision and its policies.
pub(super) fn outcome_sentence(outcome: &Outcome) -> String {
    let decision = if outcome.allowed { "allow" } else { "deny" };
    let policies = if outcome.reason.is_empty() { "no policy".to_owned() } else { outcome.reason.join(", ") };
    let failed = if outcome.errors.is_empty() {
        String::new()
    } else {
        format!(", failing: {}", outcome.errors.join(", "))
    };
    format!("{decision} by {policies}{failed}")
}

fn write_list(f: &mut Formatter<'_>, title: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() { Ok(()) } else { writeln!(f, "\n{title}: {}", names.join(", ")) }
}

fn write_indented(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    text.lines().try_for_each(|line| writeln!(f, "  {line}"))
}
