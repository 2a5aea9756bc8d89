//! Each policy: what it says, in Cedar and in plain words, and what is known of it.

use super::layout::{count, empty, policy_anchor, section};
use super::model::{Case, PolicyEntry, Report};
use super::results::case_item;
use maud::{Markup, html};

/// The maximum number of cases that a policy lists.
const MAX_CASES: usize = 20;

pub(super) fn render(report: &Report) -> Markup {
    let content = html! {
        p { (last_use_summary(report)) }
        @if report.policies.is_empty() { (empty("There are no policies.")) }
        @for policy in &report.policies { (entry(policy, report)) }
    };
    section("policies", "Policies", &content)
}

/// Which logs the last uses are from.
fn last_use_summary(report: &Report) -> String {
    match &report.log_use {
        Err(reason) => reason.clone(),
        Ok(log_use) => {
            let period = log_use.period.as_ref().map_or_else(
                || "They contain no decision.".to_owned(),
                |(first, last)| format!("They are from {first} to {last}."),
            );
            let invalid = match log_use.invalid_lines {
                0 => String::new(),
                1 => " One further line is no decision.".to_owned(),
                lines => format!(" {lines} further lines are no decisions."),
            };
            format!(
                "The last use of a policy is from decision logs with {} decisions. {period}{invalid}",
                log_use.decisions
            )
        }
    }
}

fn entry(policy: &PolicyEntry, report: &Report) -> Markup {
    let cases: Vec<&Case> = report.cases.iter().filter(|case| case.policies.contains(&policy.id)).collect();
    html! {
        article.policy id=(policy_anchor(&policy.id)) {
            h3 {
                code { (policy.id) } " "
                span.effect.(if policy.permits { "permit" } else { "forbid" }) {
                    @if policy.permits { "permit" } @else { "forbid" }
                }
            }
            @match &policy.doc {
                Some(doc) => p.doc { (doc) },
                None => (empty("The policy has no description: it lacks the annotation @doc.")),
            }
            pre { code { (policy.source) } }
            dl.facts {
                div { dt { "Source" } dd { (policy.file) ", line " (policy.line) } }
                div { dt { "Reads" } dd {
                    @if policy.reads.is_empty() { "nothing but the action and the types" }
                    @for (index, read) in policy.reads.iter().enumerate() {
                        @if index > 0 { ", " }
                        code { (read) }
                    }
                } }
                div { dt { "Applies to" } dd { (environments(policy)) } }
                div { dt { "Policy tests" } dd { (policy_cases(&cases)) } }
                div { dt { "Last use" } dd { (last_use(policy, report)) } }
            }
        }
    }
}

fn environments(policy: &PolicyEntry) -> Markup {
    let number: usize = policy.environments.iter().map(|environments| environments.types.len()).sum();
    html! {
        @if number == 0 {
            "no request: no action, principal and resource type match its scope"
        } @else {
            details {
                summary { (count(number, "request environment", "request environments")) }
                ul {
                    @for environments in &policy.environments {
                        li { code { (environments.action) } ": " (environments.types.join(", ")) }
                    }
                }
            }
        }
    }
}

fn policy_cases(cases: &[&Case]) -> Markup {
    html! {
        @if cases.is_empty() {
            "This policy determines the result of no policy test."
        } @else {
            details {
                summary { "Determines the result of " (count(cases.len(), "policy test", "policy tests")) }
                ul {
                    @for case in cases.iter().take(MAX_CASES) { (case_item(case)) }
                    @if cases.len() > MAX_CASES { li { "and " (cases.len() - MAX_CASES) " more" } }
                }
            }
        }
    }
}

fn last_use(policy: &PolicyEntry, report: &Report) -> String {
    match &report.log_use {
        Err(_) => "unknown: no decision log was given".to_owned(),
        Ok(log_use) => match log_use.by_policy.get(&policy.id) {
            Some(last) => format!("{}, in {} decisions", last.time, last.decisions),
            None => "in no decision of the logs".to_owned(),
        },
    }
}
