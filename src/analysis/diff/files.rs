//! The policies, files and cells of the matrix that differ.

use super::PolicyVersion;
use super::flatten::logic;
use crate::authz::{Engine, FileKind, MatrixRow, PolicyMetadata, Scope, Snapshot, matrix_rows};
use cedar_policy::PolicyId;
use serde::Serialize;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};

/// The number of unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

/// A cell of the permission matrix that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedCell {
    /// The resource type.
    pub resource: String,
    /// The action.
    pub action: String,
    /// The organization of the resource: own, below, sibling or above.
    pub location: &'static str,
    /// The scope.
    pub scope: Scope,
    /// The old decision: `+`, `-` or `self`; none if the old version does not have the action.
    pub old: Option<&'static str>,
    /// The new decision.
    pub new: Option<&'static str>,
}

impl ChangedCell {
    /// Whether the new version allows more. A cell that differs allows more or less.
    pub(super) fn is_wider(&self) -> bool {
        let rank = |cell: Option<&str>| match cell {
            Some("+") => 2,
            Some("self") => 1,
            _ => 0,
        };
        rank(self.new) > rank(self.old)
    }
}

/// What happened to a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else.
    Changed,
    /// It says the same with another text, such as another description.
    Reworded,
    /// It says the same under another id.
    Renamed {
        /// The old id.
        from: String,
    },
}

/// A policy that differs.
#[derive(Debug, Clone, Serialize)]
pub struct ChangedPolicy {
    /// The id.
    pub id: String,
    /// What happened to it.
    pub change: PolicyChange,
    /// The file.
    pub file: String,
    /// The line of its id, from 1.
    pub line: usize,
    /// The difference of the texts, in unified format.
    pub diff: String,
}

/// A file that differs.
#[derive(Debug, Clone, Serialize)]
pub struct ChangedFile {
    /// What it contains: schema, data, claims or cases.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// The difference of the texts, in unified format.
    pub diff: String,
}

/// The cells that differ. A row that only one version has counts as far as it allows something.
pub(super) fn changed_cells(old: &Engine, new: &Engine) -> Vec<ChangedCell> {
    let [old_rows, new_rows] = [old, new].map(expanded_rows);
    let keys: BTreeSet<_> = old_rows.keys().chain(new_rows.keys()).collect();
    let mut changed = Vec::new();
    for key in keys {
        let (resource, action) = key;
        let [old_row, new_row] = [old_rows.get(key), new_rows.get(key)];
        for (place, location) in ["own", "below", "sibling", "above"].into_iter().enumerate() {
            for (number, scope) in Scope::ALL.into_iter().enumerate() {
                let cell = |row: Option<&MatrixRow>| Some(*row?.cells.get(place)?.get(number)?);
                let (old, new) = (cell(old_row), cell(new_row));
                if old.unwrap_or("-") != new.unwrap_or("-") {
                    let (resource, action) = (resource.clone(), action.clone());
                    changed.push(ChangedCell { resource, action, location, scope, old, new });
                }
            }
        }
    }
    changed
}

/// The rows by resource type and action. A row for all types is one for each.
fn expanded_rows(engine: &Engine) -> BTreeMap<(String, String), MatrixRow> {
    let mut rows = BTreeMap::new();
    for row in matrix_rows(engine) {
        let kinds = match row.kind.as_str() {
            "*" => engine.resource_types(&row.action),
            kind => vec![kind.to_owned()],
        };
        rows.extend(kinds.into_iter().map(|kind| ((kind, row.action.clone()), row.clone())));
    }
    rows
}

/// The policies that differ, by id.
pub(super) fn changed_policies(old: PolicyVersion<'_>, new: PolicyVersion<'_>) -> Vec<ChangedPolicy> {
    let [old_texts, new_texts] = [old, new].map(policy_texts);
    let removed: BTreeMap<&String, &PolicyText<'_>> =
        old_texts.iter().filter(|(id, _)| !new_texts.contains_key(*id)).collect();
    let mut renamed_from = BTreeSet::new();
    let mut changed = Vec::new();
    for (id, text) in &new_texts {
        let (change, before) = match old_texts.get(id) {
            Some(before) if before.text == text.text => continue,
            Some(before) if before.logic == text.logic => (PolicyChange::Reworded, Some(before)),
            Some(before) => (PolicyChange::Changed, Some(before)),
            None => match removed
                .iter()
                .find(|(id, before)| before.logic == text.logic && !renamed_from.contains(*id))
            {
                Some((from, before)) => {
                    renamed_from.insert(*from);
                    (PolicyChange::Renamed { from: (*from).clone() }, Some(*before))
                }
                None => (PolicyChange::Added, None),
            },
        };
        changed.push(changed_policy(id, change, text.metadata, before.map_or("", |it| &it.text), &text.text));
    }
    for (id, text) in removed.into_iter().filter(|(id, _)| !renamed_from.contains(id)) {
        changed.push(changed_policy(id, PolicyChange::Removed, text.metadata, &text.text, ""));
    }
    changed.sort_by(|one, other| one.id.cmp(&other.id));
    changed
}

struct PolicyText<'a> {
    metadata: &'a PolicyMetadata,
    text: String,
    logic: String,
}

fn policy_texts(version: PolicyVersion<'_>) -> BTreeMap<String, PolicyText<'_>> {
    let bundle = version.engine.bundle();
    let text = |metadata: &'_ std::sync::Arc<PolicyMetadata>| {
        let policy = bundle.policy_set().policy(&PolicyId::new(&metadata.id))?;
        Some((policy.to_string(), logic(policy)))
    };
    bundle
        .policies()
        .filter_map(|metadata| {
            let (text, logic) = text(metadata)?;
            Some((metadata.id.clone(), PolicyText { metadata, text, logic }))
        })
        .collect()
}

fn changed_policy(
    id: &str,
    change: PolicyChange,
    metadata: &PolicyMetadata,
    old: &str,
    new: &str,
) -> ChangedPolicy {
    let (file, line) = (metadata.file.clone(), metadata.line);
    ChangedPolicy { id: id.to_owned(), change, file, line, diff: unified(old, new) }
}

/// Whether both versions have the same schema files.
pub(super) fn has_same_schema(old: &Snapshot, new: &Snapshot) -> bool {
    let texts = |files: &Snapshot| -> Vec<String> {
        files.of_kind(FileKind::Schema).map(|file| file.text.to_string()).collect()
    };
    texts(old) == texts(new)
}

/// The files that differ, without those of policies.
pub(super) fn changed_files(old: &Snapshot, new: &Snapshot) -> Vec<ChangedFile> {
    let mut changed = Vec::new();
    for kind in [FileKind::Schema, FileKind::Data, FileKind::Claims, FileKind::Cases] {
        let texts = |files: &Snapshot| -> BTreeMap<String, String> {
            files.of_kind(kind).map(|file| (file.label(), file.text.to_string())).collect()
        };
        let (old, new) = (texts(old), texts(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (before, after) = (old.get(name), new.get(name));
            let change = match (before, after) {
                (Some(before), Some(after)) if before == after => continue,
                (Some(_), Some(_)) => "changed",
                (None, _) => "added",
                (_, None) => "removed",
            };
            let text = |text: Option<&String>| text.map(String::as_str).unwrap_or_default().to_owned();
            let diff = unified(&text(before), &text(after));
            changed.push(ChangedFile { kind: kind.as_str(), name: name.clone(), change, diff });
        }
    }
    changed
}

/// The ids of the claims that are new, gone, and different, in this order.
pub(super) fn changed_claims(old: &Engine, new: &Engine) -> [Vec<String>; 3] {
    let [old, new] = [old, new].map(|engine| -> BTreeMap<String, String> {
        let claims = engine.bundle().claims().iter();
        claims.map(|claim| (claim.metadata().id.clone(), logic(claim.policy()))).collect()
    });
    let only_in = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        one.keys().filter(|id| !other.contains_key(*id)).cloned().collect()
    };
    let is_changed = |(id, claim): &(&String, &String)| new.get(*id).is_some_and(|other| other != *claim);
    let changed = old.iter().filter(is_changed).map(|(id, _)| id.clone()).collect();
    [only_in(&new, &old), only_in(&old, &new), changed]
}

/// The difference of two texts in unified format, without file names.
fn unified(old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT_LINES).missing_newline_hint(false).to_string()
}
