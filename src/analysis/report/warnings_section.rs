//! What a reader of the policies should know: findings, failing tests, parts that no test decides, and changes that no test
//! notices.

use super::changes_section::unified_diff;
use super::layout::{count, or_empty, policy_link, scrolling, section};
use super::model::{Case, Report};
use crate::analysis::{Coverage, Finding, MutantStatus, Mutants, PartCoverage, PolicyCoverage};
use maud::{Markup, html};

pub(super) fn render(report: &Report) -> Markup {
    let content = html! {
        h3 id="findings" { "Findings" }
        (findings(&report.findings.findings))
        @for remark in &report.findings.remarks { p { (remark) } }
        h3 id="tests" { "Policy tests" }
        (tests(&report.cases))
        h3 id="coverage" { "Parts that no policy test decides" }
        (or_empty(&report.coverage, coverage))
        h3 id="mutants" { "Changes that no policy test notices" }
        (or_empty(&report.mutants, mutants))
    };
    section("warnings", "Warnings", &content)
}

fn findings(findings: &[Finding]) -> Markup {
    let caption = count(findings.len(), "finding", "findings");
    html! {
        @if findings.is_empty() {
            p { "The checks of schema, policies, data and claims found nothing." }
        } @else {
            (scrolling(&caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "Level" } th scope="col" { "Rule" } th scope="col" { "Finding" }
                        th scope="col" { "Policy" } th scope="col" { "Place" }
                    } }
                    tbody {
                        @for finding in findings {
                            tr {
                                td.level { (finding.level) }
                                th scope="row" { code { (finding.rule) } }
                                td { (finding.message) }
                                td { @if let Some(policy) = &finding.policy { (policy) } }
                                td {
                                    @if let Some(file) = &finding.file { (file) }
                                    @if let Some(region) = finding.region { ", line " (region.start_line) }
                                }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn tests(cases: &[Case]) -> Markup {
    let failing: Vec<&Case> = cases.iter().filter(|case| case.failure.is_some()).collect();
    html! {
        @if cases.is_empty() {
            p.empty { "There are no policy tests: no policy directory has files in cases/." }
        } @else if failing.is_empty() {
            p { "All " (count(cases.len(), "policy test passes", "policy tests pass")) "." }
        } @else {
            p.alert { (failing.len()) " of " (count(cases.len(), "policy test fails", "policy tests fail")) "." }
            ul { @for case in failing { (super::results::case_item(case)) } }
        }
    }
}

fn coverage(coverage: &Coverage) -> Markup {
    let incomplete: Vec<&PolicyCoverage> =
        coverage.policies.iter().filter(|policy| !policy.is_complete()).collect();
    let caption = "The parts of policies of which the policy tests have not seen both values";
    html! {
        p { (coverage.covered) " of " (count(coverage.parts, "part", "parts")) " of the policies have been true and false in policy tests: " (coverage.percent()) " %." }
        @if !incomplete.is_empty() {
            (scrolling(caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr { th scope="col" { "Policy" } th scope="col" { "Line" } th scope="col" { "Part" } th scope="col" { "Policy tests" } } }
                    tbody {
                        @for policy in incomplete {
                            @if policy.times_applied == 0 {
                                tr {
                                    th scope="row" { (policy_link(&policy.policy)) }
                                    td { (policy.region.start_line) }
                                    td { "the whole policy" }
                                    td { "applies in none" }
                                }
                            }
                            @for part in policy.parts.iter().filter(|part| part.coverage != PartCoverage::Covered) {
                                tr {
                                    th scope="row" { (policy_link(&policy.policy)) }
                                    td { (part.region.start_line) }
                                    td { code { (part.text) } }
                                    td { @match part.coverage {
                                        PartCoverage::NeverFalse => "false in none",
                                        PartCoverage::NeverTrue => "true in none",
                                        PartCoverage::NeverReached => "reached in none",
                                        PartCoverage::Covered => "covered",
                                    } }
                                }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn mutants(mutants: &Mutants) -> Markup {
    let (noticed, equivalent) = mutants.noticed_and_equivalent();
    let surviving = mutants.surviving().count();
    html! {
        p {
            (count(mutants.mutants.len(), "small change", "small changes")) " of the policies, one at a time: "
            (noticed) " make a policy test fail, " (equivalent) " are proven to change no decision, "
            strong { (surviving) " change a decision that no policy test checks" }
            ", " (mutants.undecided()) " are undecided."
        }
        @for mutant in &mutants.mutants {
            @match &mutant.status {
                MutantStatus::Survived { missing_test } => article.decision {
                    h4 { (policy_link(&mutant.policy)) ": " (mutant.description) " " small { (mutant.file) ", line " (mutant.line) } }
                    (unified_diff(&mutant.diff))
                    p { "A test that is missing: " (missing_test) }
                },
                MutantStatus::Undecided { reason } => p {
                    (policy_link(&mutant.policy)) ": " (mutant.description) ". Undecided: " (reason)
                },
                MutantStatus::Noticed { .. } | MutantStatus::Equivalent => {},
            }
        }
    }
}
