//! What each kind of credential can do: what an attacker can do who has it.

use super::access_section::{credential_name, outcome_anchor, row_subject};
use super::layout::count;
use crate::analysis::access::{AccessRow, CredentialType, Location, Target, Verdict};
use crate::authz::Scope;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(super) fn render(rows: &[AccessRow]) -> Markup {
    html! {
        h3 id="credentials" { "What each credential can do" }
        p { "Read these parts to judge the damage of a leak. An attacker has every permission listed for the scope and the kind of the credential, until it is revoked or expires." }
        @for credential in CredentialType::ALL {
            @for scope in Scope::ALL {
                (credential_part(rows, credential, scope))
            }
        }
    }
}

/// The results of a row, by location, without denials.
fn possible(row: &AccessRow, credential: CredentialType, scope: Scope) -> Vec<(Location, usize, Verdict)> {
    let of_location = |location| {
        let (index, outcome) = row.outcome(credential, scope, location)?;
        (outcome.verdict != Verdict::Denied).then_some((location, index, outcome.verdict))
    };
    Location::ALL.into_iter().filter_map(of_location).collect()
}

fn credential_part(rows: &[AccessRow], credential: CredentialType, scope: Scope) -> Markup {
    let can: Vec<Possibility<'_>> = rows
        .iter()
        .map(|row| (row, possible(row, credential, scope)))
        .filter(|(_, cells)| !cells.is_empty())
        .collect();
    let conditional = can
        .iter()
        .filter(|(_, cells)| cells.iter().all(|(_, _, verdict)| *verdict == Verdict::Depends))
        .count();
    let reaches = |wanted: Location| {
        can.iter().any(|(_, cells)| cells.iter().any(|(location, ..)| *location == wanted))
    };
    let name = credential_name(credential);
    let actions = count(can.len(), "action", "actions");
    let conditions = count(conditional, "depends on a condition", "depend on conditions");
    html! {
        section.credential id={ "credential-" (credential.as_str()) "-" (scope) } {
            h4 { "What a leaked " (scope) " " (name) " can do" }
            p {
                (actions) " of " (rows.len()) ", of which " (conditions) ". "
                @if reaches(Location::Below) { "It reaches organizations below the own one. " } @else { "It reaches its own organization only. " }
                @if reaches(Location::Sibling) { strong { "It reaches organizations beside the own one." } } @else { "It reaches no organization beside the own one." }
            }
            @if can.is_empty() {
                p.empty { "The policies permit nothing." }
            } @else {
                (possibilities(&can))
            }
            @if credential != CredentialType::Session { (possible_with_session(rows, credential, scope)) }
        }
    }
}

type Possibility<'a> = (&'a AccessRow, Vec<(Location, usize, Verdict)>);

/// The possible actions by resource, and then by where the resource is.
fn possibilities(can: &[Possibility<'_>]) -> Markup {
    let mut groups: BTreeMap<String, BTreeMap<Vec<Location>, Vec<&Possibility<'_>>>> = BTreeMap::new();
    for entry in can {
        let (row, cells) = entry;
        let group = match row.target {
            Target::New => row.resources.join(", "),
            Target::Existing | Target::OwnRecord => row_subject(row),
        };
        let locations = cells.iter().map(|(location, ..)| *location).collect();
        groups.entry(group).or_default().entry(locations).or_default().push(entry);
    }
    html! {
        dl.abilities {
            @for (group, by_location) in groups {
                div {
                    dt { (group) }
                    @for (locations, entries) in by_location {
                        dd {
                            @let locations: Vec<&str> = locations.into_iter().map(Location::as_str).collect();
                            small { (locations.join(", ")) ": " }
                            @for (index, (row, cells)) in entries.into_iter().enumerate() {
                                @if index > 0 { ", " }
                                (ability(row, cells))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn ability(row: &AccessRow, cells: &[(Location, usize, Verdict)]) -> Markup {
    let outcome = cells.first().map_or(0, |(_, outcome, _)| *outcome);
    let is_conditional = cells.iter().any(|(_, _, verdict)| *verdict == Verdict::Depends);
    html! {
        a href={ "#" (outcome_anchor(row, outcome)) } { (row.action) }
        @if row.target == Target::New { " " small { "(new)" } }
        @if is_conditional { " " small { "(under conditions)" } }
    }
}

/// What the credential cannot do although a session of the same scope can.
fn possible_with_session(rows: &[AccessRow], credential: CredentialType, scope: Scope) -> Markup {
    let is_lost = |row: &&AccessRow| {
        possible(row, credential, scope).is_empty()
            && !possible(row, CredentialType::Session, scope).is_empty()
    };
    let lost: Vec<&AccessRow> = rows.iter().filter(is_lost).collect();
    html! {
        @if lost.is_empty() {
            p { "It can do everything that a session of this scope can." }
        } @else {
            p {
                "It cannot do the following, which a session of this scope can: "
                @for (index, row) in lost.into_iter().enumerate() {
                    @if index > 0 { ", " }
                    @let outcome = row.outcome(credential, scope, Location::Own).map_or(0, |(outcome, _)| outcome);
                    a href={ "#" (outcome_anchor(row, outcome)) } { (row.action) }
                    @if row.target != Target::Existing { " " small { "(" (row_subject(row)) ")" } }
                }
                "."
            }
        }
    }
}
