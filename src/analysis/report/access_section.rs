//! Who may do what: the table of permissions per kind of credential, and how each of its cells is decided.

use super::claims_section::claim_anchor;
use super::domains_section;
use super::layout::{anchor, empty, or_empty, scrolling, section};
use super::model::{Case, ClaimEntry, Report};
use super::results::{case_list, outcome_policies, sign, verdict_word};
use crate::analysis::access::{AccessRow, Cell, CredentialType, Location, Target, Verdict};
use crate::authz::Scope;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(super) fn render(report: &Report) -> Markup {
    let content = html! {
        (introduction())
        @match &report.access {
            Ok(rows) if rows.is_empty() => (empty("The schema declares no action for users of this service.")),
            Ok(rows) => {
                @for credential in CredentialType::ALL { (credential_table(rows, credential)) }
                (super::credentials_section::render(rows))
                (decisions(rows, report))
            },
            Err(reason) => (empty(reason)),
        }
        h3 id="domains" { "External domains" }
        (or_empty(&report.domains, |domains| html! {
            @if domains.is_empty() {
                (empty("The schema declares no action of another service: all actions are for users of this service."))
            }
            @for domain in domains { (domains_section::render(domain, &report.cases)) }
        }))
    };
    section("access", "Who may do what", &content)
}

fn introduction() -> Markup {
    html! {
        p {
            "Each cell is about all requests of its kind. The scope and the kind of the credential, the action, and the organizations of caller and resource are fixed. Everything else is unknown: the changed fields and the rest of the request context, and the other attributes of caller and resource. The cells were decided from the policies by partial evaluation, not by examples."
        }
        dl.legend {
            div { dt { (sign(Verdict::Allowed)) " allowed" } dd { "Every such request is allowed." } }
            div { dt { (sign(Verdict::Depends)) " depends" } dd { "Some such requests may be allowed; the cell links to the conditions." } }
            div { dt { (sign(Verdict::Denied)) " denied" } dd { "No such request is allowed." } }
        }
        p {
            "Own, below and sibling say where the resource is: in the organization of the caller, in one below it, or in one beside it. A creation is decided on the organization and on the new resource; both must be allowed."
        }
    }
}

pub(super) const fn credential_name(credential: CredentialType) -> &'static str {
    match credential {
        CredentialType::Session => "session",
        CredentialType::ApiKey => "API key",
        CredentialType::ProvisioningKey => "provisioning key",
    }
}

const fn credential_title(credential: CredentialType) -> &'static str {
    match credential {
        CredentialType::Session => "With a session",
        CredentialType::ApiKey => "With an API key",
        CredentialType::ProvisioningKey => "What a provisioning key changes",
    }
}

/// What a row is about, such as `User` or `own record`.
pub(super) fn row_subject(row: &AccessRow) -> String {
    let types = match row.resources.as_slice() {
        [only] => only.clone(),
        several => format!("{} types", several.len()),
    };
    match row.target {
        Target::Existing => types,
        Target::New => format!("new {types}"),
        Target::OwnRecord => format!("{types}, own record"),
    }
}

/// The id of the part that says how a row is decided.
pub(super) fn row_anchor(row: &AccessRow) -> String {
    let target = match row.target {
        Target::Existing => "",
        Target::New => " new",
        Target::OwnRecord => " own",
    };
    anchor("access", &format!("{} {}{target}", row.action, row.resources.join(",")))
}

pub(super) fn outcome_anchor(row: &AccessRow, outcome: usize) -> String {
    format!("{}-{}", row_anchor(row), outcome + 1)
}

/// The rows of a table, by what they are about.
fn by_subject(rows: &[AccessRow]) -> BTreeMap<String, Vec<&AccessRow>> {
    let mut groups: BTreeMap<String, Vec<&AccessRow>> = BTreeMap::new();
    for row in rows {
        let group = match row.resources.as_slice() {
            [only] => only.clone(),
            _ => String::new(),
        };
        groups.entry(group).or_default().push(row);
    }
    groups
}

/// Whether the row has the same results with a provisioning key as with any API key.
fn is_changed_by_provisioning(row: &AccessRow) -> bool {
    let of = |credential| -> Vec<&Cell> {
        row.cells.iter().filter(|cell| cell.credential == credential).collect()
    };
    let pairs = of(CredentialType::ApiKey).into_iter().zip(of(CredentialType::ProvisioningKey));
    pairs.into_iter().any(|(one, other)| one.outcome != other.outcome)
}

fn credential_table(rows: &[AccessRow], credential: CredentialType) -> Markup {
    let is_provisioning = credential == CredentialType::ProvisioningKey;
    let shown: Vec<AccessRow> =
        rows.iter().filter(|row| !is_provisioning || is_changed_by_provisioning(row)).cloned().collect();
    let title = credential_title(credential);
    let caption = format!(
        "Results by action, scope and organization, with the credential {}",
        credential_name(credential)
    );
    html! {
        h3 id={ "with-" (credential.as_str()) } { (title) }
        @if is_provisioning {
            p { "Provisioning keys are the API keys that the setting CEDARGATE_PROVISIONING_KEYS lists. The table has the actions whose results differ from those with other API keys." }
        }
        @if shown.is_empty() {
            (empty("No result differs from those with other API keys."))
        } @else {
            (scrolling(&caption, &html! {
                table.access {
                    caption { (caption) }
                    colgroup { col.action; }
                    @for _ in Scope::ALL { colgroup { @for _ in Location::ALL { col; } } }
                    thead {
                        tr {
                            th scope="col" rowspan="2" { "Action" }
                            @for scope in Scope::ALL { th.first scope="colgroup" colspan="3" { (scope) } }
                        }
                        tr {
                            @for _ in Scope::ALL {
                                @for location in Location::ALL {
                                    th.first[location == Location::Own] scope="col" { (location.as_str()) }
                                }
                            }
                        }
                    }
                    @for (group, rows) in by_subject(&shown) {
                        tbody {
                            tr.group {
                                th scope="rowgroup" { @if group.is_empty() { "Several types" } @else { (group) } }
                                // Repeats the headings for readers who have scrolled past them.
                                @for scope in Scope::ALL { td.first colspan="3" aria-hidden="true" { (scope) } }
                            }
                            @for row in rows { (access_row(row, credential)) }
                        }
                    }
                }
            }))
        }
    }
}

fn access_row(row: &AccessRow, credential: CredentialType) -> Markup {
    html! {
        tr {
            th scope="row" {
                a href={ "#" (row_anchor(row)) } { (row.action) }
                @match row.target {
                    Target::OwnRecord => { " " small { "own record" } },
                    Target::New => { " " small { "new" } },
                    Target::Existing => @if row.resources.len() > 1 { " " small { (row_subject(row)) } },
                }
            }
            @for scope in Scope::ALL {
                @for location in Location::ALL {
                    td.first[location == Location::Own] {
                        @if let Some((index, outcome)) = row.outcome(credential, scope, location) {
                            a.cell.(verdict_word(outcome.verdict)) href={ "#" (outcome_anchor(row, index)) } {
                                (sign(outcome.verdict))
                                span.hidden { (verdict_word(outcome.verdict)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How each row is decided: its results, with the cells, the policies, the conditions and the cases of each.
fn decisions(rows: &[AccessRow], report: &Report) -> Markup {
    html! {
        h3 id="decisions" { "How the cells are decided" }
        p { "For each action and type of resource: the results that occur, the cells that have them, and the policies that determine them." }
        @for row in rows {
            article.decision id=(row_anchor(row)) {
                h4 { code { (row.action) } " on " (row_subject(row)) }
                @if row.resources.len() > 1 { p.note { "The types: " (row.resources.join(", ")) "." } }
                (row_claims(row, report))
                @for (index, outcome) in row.outcomes.iter().enumerate() {
                    div.outcome id=(outcome_anchor(row, index)) {
                        p { strong { (sign(outcome.verdict)) " " (verdict_word(outcome.verdict)) } ": " (cells_of(row, index)) }
                        (outcome_policies(outcome))
                        (outcome_cases(row, index, &report.cases))
                    }
                }
            }
        }
    }
}

/// The claims about the action of a row.
fn row_claims(row: &AccessRow, report: &Report) -> Markup {
    let is_about =
        |claim: &&ClaimEntry| claim.actions.as_ref().is_some_and(|actions| actions.contains(&row.action));
    let claims: Vec<&ClaimEntry> = report.claims.claims.iter().filter(is_about).collect();
    let general = report.claims.claims.iter().filter(|claim| claim.actions.is_none()).count();
    html! {
        p.note {
            "Claims: "
            @if claims.is_empty() { "none about this action alone" }
            @for (index, claim) in claims.into_iter().enumerate() {
                @if index > 0 { ", " }
                a.id href={ "#" (claim_anchor(&claim.id)) } { (claim.id) } " (" (claim.kind) ", " (claim.result) ")"
            }
            @if general > 0 { "; " a href="#claims" { (general) " about all actions" } }
            "."
        }
    }
}

/// The cells with a result, such as `session, API key: bot (own, below), admin (own, below)`.
fn cells_of(row: &AccessRow, outcome: usize) -> String {
    let mut by_cells: BTreeMap<String, Vec<CredentialType>> = BTreeMap::new();
    for credential in CredentialType::ALL {
        let mut scopes = Vec::new();
        for scope in Scope::ALL {
            let has_outcome = |location: &Location| {
                row.outcome(credential, scope, *location).is_some_and(|(index, _)| index == outcome)
            };
            let locations: Vec<&str> =
                Location::ALL.into_iter().filter(has_outcome).map(Location::as_str).collect();
            if !locations.is_empty() {
                scopes.push(format!("{scope} ({})", locations.join(", ")));
            }
        }
        if !scopes.is_empty() {
            by_cells.entry(scopes.join(", ")).or_default().push(credential);
        }
    }
    let mut parts: Vec<(Vec<CredentialType>, String)> =
        by_cells.into_iter().map(|(cells, credentials)| (credentials, cells)).collect();
    parts.sort();
    let text = |(credentials, cells): (Vec<CredentialType>, String)| match credentials.len() {
        3 => format!("any credential: {cells}"),
        _ => {
            let names: Vec<&str> = credentials.into_iter().map(credential_name).collect();
            format!("{}: {cells}", names.join(", "))
        }
    };
    parts.into_iter().map(text).collect::<Vec<_>>().join("; ")
}

/// The cases whose requests belong to the cells with a result.
fn outcome_cases(row: &AccessRow, outcome: usize, cases: &[Case]) -> Markup {
    let is_in_cells = |case: &&Case| {
        let cells = row.cells.iter().filter(|cell| cell.outcome == outcome);
        let is_in = |cell: &Cell| {
            let place = case.place.as_ref();
            place.is_some_and(|place| {
                place.contains((&row.resources, row.target), (cell.credential, cell.scope, cell.location))
            })
        };
        case.action == row.action && cells.into_iter().any(is_in)
    };
    case_list(&cases.iter().filter(is_in_cells).collect::<Vec<_>>(), "No policy test is about these cells.")
}
