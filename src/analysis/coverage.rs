//! Coverage: which parts of the policies the policy tests decide.
//!
//! A part is covered if it is true in one test and false in another, among those that reach it. A test that never sees a part
//! change does not notice when the part is removed.

use super::Region;
use crate::authz::cases::PreparedTest;
use crate::authz::{Bundle, PartKind, PartValue, PolicyMetadata, PolicyPart, PolicyParts};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The values that a part had in the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PartCoverage {
    /// Both values.
    Covered,
    /// True in every test that reached it.
    NeverFalse,
    /// False in every test that reached it.
    NeverTrue,
    /// No test reached it, or its evaluation failed in all that did.
    NeverReached,
}

/// A part of a policy, and how often the tests decided it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CoveredPart {
    /// The element of the policy: `action`, `principal`, `resource` or `condition`.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
    /// Its place in the file.
    pub region: Region,
    /// In how many tests it is true.
    pub times_true: usize,
    /// In how many tests it is false.
    pub times_false: usize,
    /// In how many tests its evaluation fails.
    pub times_failed: usize,
    /// Which of its values the tests have seen.
    pub coverage: PartCoverage,
}

/// The coverage of a policy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCoverage {
    /// The id of the policy.
    pub policy: String,
    /// Its file.
    pub file: String,
    /// From `permit` or `forbid` to the end of the policy.
    pub region: Region,
    /// To how many tests the policy applies: its scope and its conditions hold.
    pub times_applied: usize,
    /// Its parts, in the order of evaluation.
    pub parts: Vec<CoveredPart>,
    /// The lines of the region, as in the file.
    #[serde(skip)]
    pub lines: Vec<String>,
}

impl PolicyCoverage {
    /// The parts that are covered.
    pub fn covered(&self) -> usize {
        self.parts.iter().filter(|part| part.coverage == PartCoverage::Covered).count()
    }

    /// Whether the policy applies to a test, and all its parts are covered.
    pub fn is_complete(&self) -> bool {
        self.times_applied > 0 && self.covered() == self.parts.len()
    }
}

/// The coverage of all policies.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// The policies, by file and line.
    pub policies: Vec<PolicyCoverage>,
    /// The number of parts.
    pub parts: usize,
    /// The number of covered parts.
    pub covered: usize,
}

impl Coverage {
    /// Evaluates all policies for all tests.
    pub fn measure(bundle: &Bundle, tests: &[PreparedTest<'_>]) -> Self {
        let mut policies: Vec<PolicyCoverage> = bundle
            .policy_set()
            .policies()
            .filter_map(|policy| {
                let metadata = bundle.policy(policy.id().as_ref())?;
                let parts = PolicyParts::new(policy)?;
                Some(measure_policy(metadata, &parts, policy.as_ref().loc().map(|loc| &*loc.src)?, tests))
            })
            .collect();
        policies.sort_by(|one, other| (&one.file, one.region).cmp(&(&other.file, other.region)));
        let parts = policies.iter().map(|policy| policy.parts.len()).sum();
        let covered = policies.iter().map(PolicyCoverage::covered).sum();
        Self { policies, parts, covered }
    }

    /// The share of covered parts, in percent, rounded down. 100 if there are no parts.
    pub fn percent(&self) -> usize {
        (self.covered * 100).checked_div(self.parts).unwrap_or(100)
    }

    /// The coverage by file.
    pub fn by_file(&self) -> BTreeMap<&str, Vec<&PolicyCoverage>> {
        let mut files: BTreeMap<&str, Vec<&PolicyCoverage>> = BTreeMap::new();
        for policy in &self.policies {
            files.entry(&policy.file).or_default().push(policy);
        }
        files
    }
}

/// How often a part had each value.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    times_true: usize,
    times_false: usize,
    times_failed: usize,
}

fn measure_policy(
    metadata: &Arc<PolicyMetadata>,
    policy: &PolicyParts,
    text: &str,
    tests: &[PreparedTest<'_>],
) -> PolicyCoverage {
    let mut counts = vec![Counts::default(); policy.parts().len()];
    let mut times_applied = 0;
    for test in tests {
        let value = policy.evaluate(&test.request, &test.entities, &mut |part, value| {
            let Some(counts) = counts.get_mut(part) else { return };
            match value {
                PartValue::True => counts.times_true += 1,
                PartValue::False => counts.times_false += 1,
                PartValue::Error => counts.times_failed += 1,
            }
        });
        times_applied += usize::from(value == PartValue::True);
    }
    let region = Region::of(text, policy.span().start, policy.span().end);
    let lines = text.lines().skip(region.start_line - 1).take(region.end_line - region.start_line + 1);
    PolicyCoverage {
        policy: metadata.id.clone(),
        file: metadata.file.clone(),
        region,
        times_applied,
        parts: policy
            .parts()
            .iter()
            .zip(counts)
            .map(|(part, counts)| covered_part(part, counts, text))
            .collect(),
        lines: lines.map(str::to_owned).collect(),
    }
}

fn covered_part(part: &PolicyPart, counts: Counts, text: &str) -> CoveredPart {
    let Counts { times_true, times_false, times_failed } = counts;
    CoveredPart {
        kind: match part.kind {
            PartKind::Action => "action",
            PartKind::Principal => "principal",
            PartKind::Resource => "resource",
            PartKind::Condition => "condition",
        },
        text: part.text.clone(),
        region: Region::of(text, part.span.start, part.span.end),
        times_true,
        times_false,
        times_failed,
        coverage: match (times_true > 0, times_false > 0) {
            (true, true) => PartCoverage::Covered,
            (true, false) => PartCoverage::NeverFalse,
            (false, true) => PartCoverage::NeverTrue,
            (false, false) => PartCoverage::NeverReached,
        },
    }
}
