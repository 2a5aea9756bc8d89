//! Results of the tables: their signs, the policies that determine them, and the policy tests about them.

use super::layout::{count, policy_link, policy_links};
use super::model::Case;
use crate::analysis::access::{Condition, Outcome, Verdict};
use maud::{Markup, html};

/// The maximum number of cases that a cell lists.
const MAX_CASES: usize = 12;

/// The sign of a result. Screen readers read the word beside it.
pub(super) fn sign(verdict: Verdict) -> Markup {
    let sign = match verdict {
        Verdict::Allowed => "●",
        Verdict::Depends => "◐",
        Verdict::Denied => "–",
    };
    html! { span.sign aria-hidden="true" { (sign) } }
}

/// The word for a result.
pub(super) const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Depends => "depends",
        Verdict::Denied => "denied",
    }
}

/// The policies that determine a result.
pub(super) fn outcome_policies(outcome: &Outcome) -> Markup {
    let has_permit = !outcome.permits.is_empty() || !outcome.conditional_permits.is_empty();
    html! {
        ul.policies {
            @if !outcome.forbids.is_empty() { li { "Forbidden by " (policy_links(&outcome.forbids)) } }
            @if !outcome.permits.is_empty() {
                li {
                    @if outcome.forbids.is_empty() { "Permitted by " } @else { "Otherwise permitted by " }
                    (policy_links(&outcome.permits))
                }
            }
            @for condition in &outcome.conditional_permits { (condition_item("Permitted by ", condition)) }
            @for condition in &outcome.conditional_forbids { (condition_item("Forbidden by ", condition)) }
            @if !has_permit && outcome.forbids.is_empty() { li { "No policy permits it." } }
        }
    }
}

fn condition_item(verb: &str, condition: &Condition) -> Markup {
    html! {
        li { (verb) (policy_link(&condition.policy)) " when " code.expression { (condition.expression) } }
    }
}

/// Policy tests; the text if there are none.
pub(super) fn case_list(cases: &[&Case], empty: &str) -> Markup {
    html! {
        @if cases.is_empty() {
            p.cases { (empty) }
        } @else {
            details.cases {
                summary { (count(cases.len(), "policy test", "policy tests")) }
                ul {
                    @for case in cases.iter().take(MAX_CASES) { (case_item(case)) }
                    @if cases.len() > MAX_CASES { li { "and " (cases.len() - MAX_CASES) " more" } }
                }
            }
        }
    }
}

pub(super) fn case_item(case: &Case) -> Markup {
    html! {
        li {
            (case.name) " " small { "(" @if case.is_allowed { "allowed" } @else { "denied" } ", " (case.file) ")" }
            @if let Some(failure) = &case.failure { " " strong { "fails: " (failure) } }
        }
    }
}
