//! The claims about the policies, and whether they are proven.

use super::layout::{anchor, count, empty, scrolling, section};
use super::model::{ClaimEntry, ClaimsPart, Report};
use maud::{Markup, html};

pub(super) fn claim_anchor(id: &str) -> String {
    anchor("claim", id)
}

pub(super) fn render(report: &Report) -> Markup {
    let claims = &report.claims;
    let content = html! {
        p { "A claim is proven for all requests that the schema allows, not for examples. A claim " em { "never" } " says that no request that it matches is allowed; a claim " em { "always" } " says that every request that it matches is allowed." }
        (proof(claims))
        @if claims.claims.is_empty() {
            (empty("There are no claims: no policy directory has files in claims/, and there is no record of a proof."))
        } @else {
            (table(&claims.claims))
        }
    };
    section("claims", "Claims", &content)
}

fn proof(claims: &ClaimsPart) -> Markup {
    html! {
        @match &claims.proof {
            Ok(proof) => {
                p { strong { (proof.summary) } " " (proof.origin) }
                @if !proof.assumptions.is_empty() {
                    p { "Assumed of the policy data:" }
                    ul { @for assumption in &proof.assumptions { li { (assumption) } } }
                }
            },
            Err(reason) => (empty(reason)),
        }
    }
}

fn table(claims: &[ClaimEntry]) -> Markup {
    let caption = format!("{}, with the result of the proof", count(claims.len(), "claim", "claims"));
    scrolling(
        &caption,
        &html! {
            table.claims {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Claim" } th scope="col" { "Kind" } th scope="col" { "What it says" }
                    th scope="col" { "Actions" } th scope="col" { "Result" }
                } }
                tbody { @for claim in claims { (row(claim)) } }
            }
        },
    )
}

fn row(claim: &ClaimEntry) -> Markup {
    html! {
        tr id=(claim_anchor(&claim.id)) {
            th scope="row" {
                code { (claim.id) }
                @if let Some(place) = &claim.place { br; small { (place) } }
            }
            td { (claim.kind) }
            td { (claim.doc) @if let Some(detail) = &claim.detail { br; strong { (detail) } } }
            td {
                @match &claim.actions {
                    Some(actions) if actions.len() > 3 => details {
                        summary { (count(actions.len(), "action", "actions")) }
                        (actions.join(", "))
                    },
                    Some(actions) => (actions.join(", ")),
                    None => "all",
                }
            }
            td.result { (claim.result) }
        }
    }
}
