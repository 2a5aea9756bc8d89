//! The order of the scopes in the data, compared with that of the specification.

use super::super::Scope;
use super::super::entity_uid::scope_uid;
use super::diagnostics::{Diagnostics, SourceFile};
use super::find_entity;
use super::rules::Rule;
use cedar_policy::{Entities, EntityUid};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;

/// Reports steps of the order guest < agent < bot < admin that the data lack or invert.
pub(super) fn check(
    data: &Entities,
    files_by_uid: &HashMap<EntityUid, &SourceFile>,
    diagnostics: &mut Diagnostics,
) {
    let mut report = |uid: &EntityUid, message: String| {
        let Some(file) = files_by_uid.get(uid) else { return };
        let message = format!("{message}; the order is guest < agent < bot < admin");
        diagnostics.0.push(file.diagnostic_at(Rule::ScopeCascade, find_definition(file, uid), message));
    };
    let mut lower_uids: Vec<EntityUid> = Vec::new();
    for uid in Scope::ALL.into_iter().filter_map(scope_uid).filter(|uid| data.get(uid).is_some()) {
        if let Some(next_lower) = lower_uids.last()
            && !data.is_ancestor_of(next_lower, &uid)
        {
            report(
                &uid,
                format!("{uid} is not in {next_lower}, so that it does not include what that permits"),
            );
        }
        for lower in lower_uids.iter().filter(|lower| data.is_ancestor_of(&uid, lower)) {
            report(lower, format!("{lower} is in {uid}, so that it includes what a higher scope permits"));
        }
        lower_uids.push(uid);
    }
}

/// The place of the id in the definition of an entity in a data file.
fn find_definition(file: &SourceFile, uid: &EntityUid) -> Option<Range<usize>> {
    let id = Value::from(uid.id().unescaped()).to_string();
    let in_definition = |(start, _): (usize, &str)| {
        let definition = file.text.get(start..)?.split('}').next()?;
        let position = start + definition.find(&id)?;
        Some(position..position + id.len())
    };
    file.text.match_indices("\"uid\"").find_map(in_definition).or_else(|| find_entity(file, uid))
}
