//! Who may do what in external domains: by action and types, and for the entities of the policy data.

use super::layout::{anchor, count, or_empty, policy_links, scrolling};
use super::model::Case;
use super::results::{case_list, outcome_policies, sign, verdict_word};
use crate::analysis::access::{DataMatrix, DataRow, DomainAccess, DomainRow, Outcome, Verdict};
use maud::{Markup, html};

/// The tables of a domain. A result links to the policy tests about its requests.
pub(super) fn render(domain: &DomainAccess, cases: &[Case]) -> Markup {
    let name = domain_name(domain);
    let caption = format!("Domain {name}: results for all requests, by action and types");
    html! {
        h4 id=(anchor("domain", &domain.namespace)) { "Domain " (name) }
        (scrolling(&caption, &html! {
            table {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Action" } th scope="col" { "Principal" } th scope="col" { "Resource" }
                    th scope="col" { "Result" } th scope="col" { "Policies and policy tests" }
                } }
                tbody {
                    @for row in &domain.rows {
                        tr id=(row_anchor(row)) {
                            th scope="row" { code { (row.action) } }
                            td { (row.principal) }
                            td { (row.resource) }
                            td.result { (sign(row.outcome.verdict)) " " (verdict_word(row.outcome.verdict)) }
                            td {
                                (outcome_policies(&row.outcome))
                                (case_list(&cases_of_row(row, cases), "No policy test is about these types."))
                            }
                        }
                    }
                }
            }
        }))
        (or_empty(&domain.data, |data| data_matrix(domain, data, cases)))
    }
}

/// The policy tests about requests of a row.
fn cases_of_row<'a>(row: &DomainRow, cases: &'a [Case]) -> Vec<&'a Case> {
    let types = [&row.principal, &row.resource];
    let is_about = |case: &&Case| {
        case.action == row.action
            && case.subject.as_ref().is_some_and(|subject| subject.types.each_ref() == types)
    };
    cases.iter().filter(is_about).collect()
}

fn row_anchor(row: &DomainRow) -> String {
    anchor("domain", &format!("{} {} {}", row.action, row.principal, row.resource))
}

fn domain_name(domain: &DomainAccess) -> &str {
    if domain.namespace.is_empty() { "without a namespace" } else { &domain.namespace }
}

fn data_matrix(domain: &DomainAccess, data: &DataMatrix, cases: &[Case]) -> Markup {
    let name = domain_name(domain);
    let caption = format!("Domain {name}: results for the entities of the policy data");
    html! {
        p {
            "Principals and resources of the policy data, with the attributes that the data give them. The request context is unknown."
            @if data.other_principals > 0 { " " (count(data.other_principals, "principal is", "principals are")) " left out." }
            @if data.other_resources > 0 { " " (count(data.other_resources, "resource is", "resources are")) " left out." }
        }
        (scrolling(&caption, &html! {
            table.data {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Resource" } th scope="col" { "Action" }
                    @for principal in &data.principals { th scope="col" { (principal) } }
                } }
                tbody {
                    @for row in &data.rows {
                        tr {
                            th scope="row" { (row.resource) }
                            td { code { (row.action) } }
                            @for (outcome, principal) in row.outcomes.iter().zip(&data.principals) {
                                td {
                                    (data_cell(outcome.as_ref()))
                                    (cases_of_cell(domain, row, principal, cases))
                                }
                            }
                        }
                    }
                }
            }
        }))
    }
}

/// A link from a cell to the row of its types, which lists the policy tests, with the number of those about this cell.
fn cases_of_cell(domain: &DomainAccess, row: &DataRow, principal: &String, cases: &[Case]) -> Markup {
    let entities = [principal, &row.resource];
    let is_about = |case: &&Case| {
        case.action == row.action
            && case.subject.as_ref().is_some_and(|subject| subject.entities.each_ref() == entities)
    };
    let found: Vec<&Case> = cases.iter().filter(is_about).collect();
    let types = found.first().and_then(|case| Some(case.subject.as_ref()?.types.each_ref()));
    let of_types = types.and_then(|types| {
        domain
            .rows
            .iter()
            .find(|found| found.action == row.action && [&found.principal, &found.resource] == types)
    });
    html! {
        @if let Some(of_types) = of_types {
            br; small { a.cases href={ "#" (row_anchor(of_types)) } { (count(found.len(), "policy test", "policy tests")) } }
        }
    }
}

/// The result of a cell, and the policies that determine it.
fn data_cell(outcome: Option<&Outcome>) -> Markup {
    html! {
        @if let Some(outcome) = outcome {
            (sign(outcome.verdict)) " " (verdict_word(outcome.verdict))
            @let conditional = outcome.conditional_permits.iter().chain(&outcome.conditional_forbids);
            @let policies: Vec<&String> = match outcome.verdict {
                Verdict::Allowed => outcome.permits.iter().collect(),
                Verdict::Denied => outcome.forbids.iter().collect(),
                Verdict::Depends => conditional.map(|condition| &condition.policy).collect(),
            };
            @if !policies.is_empty() { br; small { (policy_links(policies)) } }
        }
    }
}
