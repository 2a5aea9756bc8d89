//! The whole page: head, table of contents and sections.

use super::layout::short;
use super::model::Report;
use super::{
    access_section, changes_section, claims_section, history_section, identity_section, policies_section,
    routes_section, sign_off_section, warnings_section,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The stylesheet, which contains neither `<` nor an address.
const STYLE: &str = include_str!("style.css");

/// What a browser may load: nothing but the stylesheet in the page.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The sections, by id and title, in the order of the page.
const CONTENTS: [(&str, &str); 9] = [
    ("identity", "Identity"),
    ("changes", "Changes since the base"),
    ("warnings", "Warnings"),
    ("access", "Who may do what"),
    ("policies", "Policies"),
    ("routes", "Routes"),
    ("claims", "Claims"),
    ("history", "History of versions"),
    ("sign-off", "Sign-off"),
];

/// The report as an HTML page.
pub fn html(report: &Report) -> String {
    let version = short(&report.identity.version);
    let page: Markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(CONTENT_SECURITY_POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(report.program);
                title { "Policy report, version " (version) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    p.product { "Cedargate" }
                    h1 { "Policy report" }
                    p.subtitle { "Version " code { (version) } ", made " (report.created_at) }
                }
                nav aria-label="Contents" {
                    ol { @for (id, title) in CONTENTS { li { a href={ "#" (id) } { (title) } } } }
                }
                main id="content" {
                    (identity_section::render(report))
                    (changes_section::render(report))
                    (warnings_section::render(report))
                    (access_section::render(report))
                    (policies_section::render(report))
                    (routes_section::render(report))
                    (claims_section::render(report))
                    (history_section::render(report))
                    (sign_off_section::render(report))
                }
                footer { p { "Made by " (report.program) ", " (report.created_at) ". Policy version " code.hash { (report.identity.version) } "." } }
            }
        }
    };
    page.into_string()
}
