//! What changes compared to the base version.

use super::layout::{count, or_empty, policy_link, policy_links, scrolling, section, short};
use super::model::{Case, Report};
use super::results::case_item;
use crate::analysis::Outcome;
use crate::analysis::diff::{
    ChangedCell, ChangedFile, ChangedPolicy, Direction, EnvironmentDiff, PolicyChange, PolicyDiff, Witness,
};
use maud::{Markup, html};

/// The maximum number of rows of a table.
const MAX_ROWS: usize = 300;

pub(super) fn render(report: &Report) -> Markup {
    let content = or_empty(&report.changes, |diff| {
        html! {
            (verdict(diff))
            (policies(&diff.policies, report))
            (environments(&diff.environments))
            (cells(&diff.matrix))
            (touched_cases(diff, &report.cases))
            (files(&diff.files))
        }
    });
    section("changes", "Changes since the base", &content)
}

fn verdict(diff: &PolicyDiff) -> Markup {
    let examined: usize = diff.summary.values().sum();
    let examined = count(examined, "request environment", "request environments");
    let is_complete = diff.undecided().is_none();
    html! {
        p { "Base: " (diff.old.source) ", version " code { (short(&diff.old.version)) } ". These files: version " code { (short(&diff.new.version)) } "." }
        p {
            strong {
                @if diff.is_wider() { "Some requests are newly allowed." }
                @else if !is_complete { "Not all requests could be compared." }
                @else if diff.has_changes() { "No request is newly allowed, and some are newly denied." }
                @else { "No request is newly allowed, and none is newly denied." }
            }
            @if !diff.is_wider() && is_complete { " This is proven for all requests of " (examined) "." }
        }
        @if let Some(reason) = diff.undecided() { p.alert { (reason) } }
        @for (title, names) in [
            ("New actions", &diff.added_actions), ("Removed actions", &diff.removed_actions),
            ("New types", &diff.added_types), ("Removed types", &diff.removed_types),
            ("New claims", &diff.added_claims), ("Removed claims", &diff.removed_claims),
            ("Changed claims", &diff.changed_claims),
        ] {
            @if !names.is_empty() { p { (title) ": " (names.join(", ")) "." } }
        }
    }
}

fn policies(policies: &[ChangedPolicy], report: &Report) -> Markup {
    html! {
        h3 { "Policies that differ" }
        @if policies.is_empty() { p.empty { "All policies have the same text." } }
        @for changed in policies {
            article.decision {
                h4 {
                    @if report.policies.iter().any(|policy| policy.id == changed.id) { (policy_link(&changed.id)) } @else { code { (changed.id) } }
                    ": "
                    @match &changed.change {
                        PolicyChange::Added => "added",
                        PolicyChange::Removed => "removed",
                        PolicyChange::Changed => "changed",
                        PolicyChange::Reworded => "reworded, with the same meaning",
                        PolicyChange::Renamed { from } => { "renamed from " (from) },
                    }
                    " " small { (changed.file) ", line " (changed.line) }
                }
                (unified_diff(&changed.diff))
            }
        }
    }
}

/// A unified diff. The signs at the start of its lines say what the colors say, too.
pub(super) fn unified_diff(text: &str) -> Markup {
    html! {
        pre { code {
            @for line in text.lines() {
                @match line.chars().next() {
                    Some('+') => span.added { (line) "\n" },
                    Some('-') => span.removed { (line) "\n" },
                    _ => { (line) "\n" },
                }
            }
        } }
    }
}

fn environments(environments: &[EnvironmentDiff]) -> Markup {
    let caption =
        "Who gains and who loses: the request environments whose decisions change, with a request for each";
    html! {
        h3 { "Who gains and who loses" }
        @if environments.is_empty() {
            p.empty { "No request environment has another decision." }
        } @else {
            (scrolling(caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "Action" } th scope="col" { "Principal" } th scope="col" { "Resource" }
                        th scope="col" { "Change" } th scope="col" { "Before" } th scope="col" { "Now" } th scope="col" { "Request" }
                    } }
                    tbody {
                        @for environment in environments.iter().take(MAX_ROWS) {
                            @for witness in &environment.witnesses { (witness_row(environment, witness)) }
                            @if let Some(reason) = &environment.undecided {
                                tr { (environment_cells(environment)) td colspan="4" { "not compared completely: " (reason) } }
                            }
                        }
                    }
                }
            }))
            (omitted(environments.len()))
        }
    }
}

fn environment_cells(environment: &EnvironmentDiff) -> Markup {
    html! {
        th scope="row" { code { (environment.action) } }
        td { (environment.principal) }
        td { (environment.resource) }
    }
}

fn witness_row(environment: &EnvironmentDiff, witness: &Witness) -> Markup {
    let outcome = |outcome: &Outcome| {
        html! {
            @if outcome.allowed { "allowed" } @else { "denied" }
            @if !outcome.reason.is_empty() { " by " (outcome.reason.join(", ")) }
            @if !outcome.errors.is_empty() { ", failing: " (outcome.errors.join(", ")) }
        }
    };
    html! {
        tr {
            (environment_cells(environment))
            td.result { @match witness.direction { Direction::Wider => strong { "+ newly allowed" }, Direction::Narrower => "− newly denied" } }
            td { (outcome(&witness.old)) }
            td { (outcome(&witness.new)) }
            td { details {
                summary { "A request" }
                pre { code { (serde_json::to_string_pretty(&witness.test).unwrap_or_default()) } }
            } }
        }
    }
}

fn cells(cells: &[ChangedCell]) -> Markup {
    let caption = "The changed cells of the permission matrix, which asks with an empty request context";
    html! {
        @if !cells.is_empty() {
            (scrolling(caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "Action" } th scope="col" { "Resource" } th scope="col" { "Scope" }
                        th scope="col" { "Organization" } th scope="col" { "Before" } th scope="col" { "Now" }
                    } }
                    tbody {
                        @for cell in cells.iter().take(MAX_ROWS) {
                            tr {
                                th scope="row" { code { (cell.action) } }
                                td { (cell.resource) } td { (cell.scope) } td { (cell.location) }
                                td { (decision_word(cell.old)) } td { (decision_word(cell.new)) }
                            }
                        }
                    }
                }
            }))
            (omitted(cells.len()))
        }
    }
}

fn decision_word(cell: Option<&str>) -> &'static str {
    match cell {
        Some("+") => "allowed",
        Some("self") => "own record only",
        Some(_) => "denied",
        None => "no such action",
    }
}

/// The policy tests that a changed policy decides.
fn touched_cases(diff: &PolicyDiff, cases: &[Case]) -> Markup {
    let changed: Vec<&String> = diff
        .policies
        .iter()
        .filter(|policy| !matches!(policy.change, PolicyChange::Reworded | PolicyChange::Renamed { .. }))
        .map(|policy| &policy.id)
        .collect();
    let is_touched = |case: &&Case| case.policies.iter().any(|policy| changed.contains(&policy));
    let touched: Vec<&Case> = cases.iter().filter(is_touched).collect();
    html! {
        h3 { "Policy tests that the changes touch" }
        @if changed.is_empty() {
            p.empty { "No policy says something else." }
        } @else if touched.is_empty() {
            p.empty { "None: no policy test is decided by " (policy_links(changed)) "." }
        } @else {
            details {
                summary { (count(touched.len(), "policy test is", "policy tests are")) " decided by a changed policy" }
                ul { @for case in touched { (case_item(case)) } }
            }
        }
    }
}

fn files(files: &[ChangedFile]) -> Markup {
    html! {
        @if !files.is_empty() {
            h3 { "Other files that differ" }
            @for file in files {
                details {
                    summary { (file.name) " (" (file.kind) "), " (file.change) }
                    (unified_diff(&file.diff))
                }
            }
        }
    }
}

fn omitted(number: usize) -> Markup {
    html! { @if number > MAX_ROWS { p { "and " (number - MAX_ROWS) " more" } } }
}
