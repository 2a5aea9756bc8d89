//! What a replay counts. Tallies of several threads are added.

use serde::Serialize;
use std::collections::BTreeMap;

/// How many examples of each kind are kept: those that come first in the log.
const MAX_EXAMPLES: usize = 5;

/// How many groups of flips are kept apart.
const MAX_GROUPS: usize = 10_000;

/// How many unknown versions are listed.
const MAX_VERSIONS: usize = 1_000;

/// A place in the log: the index of the file, and the number of the line.
pub(super) type Position = (usize, usize);

/// A decision and the policies that determine it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayedDecision {
    /// Whether the request is allowed.
    pub allowed: bool,
    /// The determining policies, in ascending order.
    pub policies: Vec<String>,
    /// Whether the evaluation failed, which denies the request.
    #[serde(rename = "failed", skip_serializing_if = "std::ops::Not::not")]
    pub is_failed: bool,
}

/// A line of the log whose decision differs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    #[serde(skip)]
    pub(super) position: Position,
    /// The file.
    pub file: String,
    /// The number of the line, from 1.
    pub line: usize,
    /// The id of the evaluation.
    pub evaluation_id: String,
    /// The time of the decision.
    pub time: String,
    /// The principal as a Cedar uid.
    pub principal: String,
    /// The action.
    pub action: String,
    /// The resource as a Cedar uid.
    pub resource: String,
    /// What the log says.
    pub logged: ReplayedDecision,
    /// What the policies decide.
    pub decided: ReplayedDecision,
}

/// A line that is not one of a decision log.
#[derive(Debug, Clone, Serialize)]
pub struct InvalidLine {
    #[serde(skip)]
    pub(super) position: Position,
    /// The file.
    pub file: String,
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// What flips have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    pub(super) action: String,
    pub(super) is_allowed_now: bool,
    /// The policies that decide it: the permits or forbids that are new, or the permits that no longer apply.
    pub(super) policies: Vec<String>,
}

/// The flips of a group.
#[derive(Debug, Default)]
pub(super) struct FlipGroup {
    pub(super) count: u64,
    pub(super) examples: Vec<Example>,
}

/// The counts of a part of the log.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) lines: u64,
    /// Lines that were decided again.
    pub(super) replayed: u64,
    /// Those of them that are allow in the log.
    pub(super) allows: u64,
    /// Searches, which have no decision.
    pub(super) searches: u64,
    pub(super) masked: u64,
    pub(super) not_evaluated: u64,
    /// Decisions that the service dropped.
    pub(super) dropped: u64,
    /// Last lines that were not written completely.
    pub(super) cut: u64,
    pub(super) invalid: u64,
    pub(super) invalid_examples: Vec<InvalidLine>,
    /// Lines by version, as far as the version is not known.
    pub(super) unknown_versions: BTreeMap<String, u64>,
    pub(super) different: u64,
    pub(super) differences: Vec<Example>,
    /// Lines with the same decision, by other policies.
    pub(super) other_policies: u64,
    pub(super) flips: BTreeMap<GroupKey, FlipGroup>,
    /// Flips beyond the groups that are kept apart.
    pub(super) other_flips: u64,
}

impl Tally {
    pub(super) fn count_replayed(&mut self, is_allowed: bool) {
        self.replayed += 1;
        self.allows += u64::from(is_allowed);
    }

    pub(super) fn add_invalid(&mut self, line: impl FnOnce() -> InvalidLine) {
        self.invalid += 1;
        if self.invalid_examples.len() < MAX_EXAMPLES {
            self.invalid_examples.push(line());
        }
    }

    pub(super) fn add_unknown_version(&mut self, version: &str) {
        let is_listed =
            self.unknown_versions.len() < MAX_VERSIONS || self.unknown_versions.contains_key(version);
        let name = if is_listed { version } else { "others" };
        *self.unknown_versions.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn add_difference(&mut self, example: impl FnOnce() -> Example) {
        self.different += 1;
        if self.differences.len() < MAX_EXAMPLES {
            self.differences.push(example());
        }
    }

    pub(super) fn add_flip(&mut self, key: GroupKey, example: impl FnOnce() -> Example) {
        if self.flips.len() >= MAX_GROUPS && !self.flips.contains_key(&key) {
            self.other_flips += 1;
            return;
        }
        let group = self.flips.entry(key).or_default();
        group.count += 1;
        if group.examples.len() < MAX_EXAMPLES {
            group.examples.push(example());
        }
    }

    /// The number of flips.
    pub(super) fn flip_count(&self) -> u64 {
        self.flips.values().map(|group| group.count).sum::<u64>() + self.other_flips
    }

    /// Adds the counts of another part of the log.
    pub(super) fn merge(&mut self, other: Self) {
        self.lines += other.lines;
        self.replayed += other.replayed;
        self.allows += other.allows;
        self.searches += other.searches;
        self.masked += other.masked;
        self.not_evaluated += other.not_evaluated;
        self.dropped += other.dropped;
        self.cut += other.cut;
        self.invalid += other.invalid;
        self.different += other.different;
        self.other_policies += other.other_policies;
        self.other_flips += other.other_flips;
        for (version, count) in other.unknown_versions {
            *self.unknown_versions.entry(version).or_default() += count;
        }
        self.invalid_examples.extend(other.invalid_examples);
        keep_first(&mut self.invalid_examples, |line| line.position);
        self.differences.extend(other.differences);
        keep_first(&mut self.differences, |example| example.position);
        for (key, group) in other.flips {
            let kept = self.flips.entry(key).or_default();
            kept.count += group.count;
            kept.examples.extend(group.examples);
            keep_first(&mut kept.examples, |example| example.position);
        }
    }
}

/// Keeps the examples that come first in the log.
fn keep_first<T>(examples: &mut Vec<T>, position: impl Fn(&T) -> Position) {
    examples.sort_by_key(|example| position(example));
    examples.truncate(MAX_EXAMPLES);
}
