//! Inventories of bundles: forbid policies and files. Comparing two inventories shows what a reload would lose.

use super::policy_metadata::PolicyMetadata;
use super::snapshot::Snapshot;
use super::snapshot_file::FileKind;
use cedar_policy::Policy;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// The forbid policies and the files of a bundle. Stored in the database, so that the policies at a start are compared with the
/// version that was active before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The text of each forbid policy, by its id.
    forbids: BTreeMap<String, String>,
    /// The number of non-empty files by name: several directories may have files of the same name.
    files: BTreeMap<String, usize>,
}

/// What would be lost if a candidate replaced the active version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// The ids of forbid policies that the candidate does not have, or has as permit policies.
    pub policies: Vec<String>,
    /// The ids of forbid policies that the candidate has with another scope or condition.
    pub changed: Vec<String>,
    /// The names of files that have disappeared or have become empty.
    pub files: Vec<String>,
}

impl Losses {
    /// Whether nothing would be lost.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.changed.is_empty() && self.files.is_empty()
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("forbid policies lost", &self.policies),
            ("forbid policies changed", &self.changed),
            ("files missing or empty", &self.files),
        ];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let texts: Vec<String> =
            parts.map(|(label, names)| format!("{label}: {}", names.join(", "))).collect();
        f.write_str(&texts.join("; "))
    }
}

impl Inventory {
    /// The inventory of files that were read, of the policies and of the claims in them.
    pub(super) fn new<'a>(
        snapshot: &Snapshot,
        policies: impl Iterator<Item = (&'a PolicyMetadata, String)>,
        claims: impl Iterator<Item = &'a PolicyMetadata>,
    ) -> Self {
        let mut forbids = BTreeMap::new();
        let mut files_with_policies = HashSet::new();
        for (policy, text) in policies {
            files_with_policies.insert(policy.file.as_str());
            if !policy.permits {
                forbids.insert(policy.id.clone(), text);
            }
        }
        // A file with comments only has neither.
        files_with_policies.extend(claims.map(|claim| claim.file.as_str()));
        let mut files = BTreeMap::new();
        for file in snapshot.files() {
            let has_content = match file.kind {
                FileKind::Policies | FileKind::Claims => files_with_policies.contains(file.path.as_str()),
                FileKind::Schema => !file.text.trim().is_empty(),
                FileKind::Data | FileKind::Cases => !file.is_empty_list(),
            };
            if has_content {
                *files.entry(file.label()).or_default() += 1;
            }
        }
        Self { forbids, files }
    }

    /// What would be lost if `candidate` replaced this one.
    ///
    /// Every change of a forbid counts, since whether it forbids less is not analyzed here. Comments, annotations and white
    /// space do not count.
    pub fn losses(&self, candidate: &Self) -> Losses {
        let mut losses = Losses::default();
        for (id, text) in &self.forbids {
            match candidate.forbids.get(id) {
                None => losses.policies.push(id.clone()),
                Some(new) if !is_same_policy(text, new) => losses.changed.push(id.clone()),
                Some(_) => {}
            }
        }
        for (name, count) in &self.files {
            if candidate.files.get(name).is_none_or(|found| found < count) {
                losses.files.push(name.clone());
            }
        }
        losses
    }
}

/// Whether two policies have the same effect, scope and conditions.
fn is_same_policy(one: &str, other: &str) -> bool {
    one == other || statement(one).is_some_and(|one| statement(other) == Some(one))
}

/// The effect, scope and conditions of a policy as JSON; none if the text is not a policy.
fn statement(text: &str) -> Option<Value> {
    let mut json = Policy::parse(None, text).ok()?.to_json().ok()?;
    json.as_object_mut()?.shift_remove("annotations");
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(forbids: &[(&str, &str)], files: &[(&str, usize)]) -> Inventory {
        Inventory {
            forbids: forbids.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect(),
            files: files.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn a_changed_forbid_is_lost_unless_the_change_is_cosmetic() {
        let text = "@id(\"a\") forbid (principal, action, resource) unless { principal == resource };";
        let active = inventory(&[("a", text)], &[]);
        for (candidate, is_lost) in [
            (text, false),
            (
                "@id(\"a\") @doc(\"why\")\nforbid (principal, action, resource) // where\nunless { principal == resource };",
                false,
            ),
            ("@id(\"a\") forbid (principal, action, resource) unless { true };", true),
            (
                "@id(\"a\") forbid (principal is User, action, resource) unless { principal == resource };",
                true,
            ),
            ("@id(\"a\") forbid (principal, action, resource) when { principal == resource };", true),
            ("no policy", true),
        ] {
            let losses = active.losses(&inventory(&[("a", candidate)], &[]));
            assert_eq!(losses.changed, if is_lost { vec!["a"] } else { vec![] }, "{candidate}");
            assert_eq!(losses.is_empty(), !is_lost);
        }
    }

    #[test]
    fn files_with_the_same_name_are_counted_separately() {
        let active = inventory(&[], &[("a.cedar", 2), ("b.json", 1)]);
        let losses = |files| active.losses(&inventory(&[], files)).files;
        assert_eq!(losses(&[("a.cedar", 2), ("b.json", 1)]), [] as [&str; 0]);
        assert_eq!(losses(&[("a.cedar", 1), ("c.json", 1)]), ["a.cedar", "b.json"]);
    }
}
