//! The lines to sign.

use super::layout::{section, short};
use super::model::Report;
use maud::{Markup, html};

pub(super) fn render(report: &Report) -> Markup {
    let version = &report.identity.version;
    let content = html! {
        p {
            "I have read this report on the policy version " code { (short(version)) } " (" code.hash { (version) }
            "), made " (report.created_at) "."
        }
        table.sign-off {
            caption { "Signatures" }
            thead { tr {
                th scope="col" { "Role" } th scope="col" { "Name" } th scope="col" { "Date" } th scope="col" { "Signature" }
            } }
            tbody {
                @for role in ["Author of the policies", "Reviewer", "Auditor"] {
                    tr { th scope="row" { (role) } td {} td {} td {} }
                }
            }
        }
        p { "Objections and conditions:" }
        div.lines aria-hidden="true" { @for _ in 0..4 { div {} } }
    };
    section("sign-off", "Sign-off", &content)
}
