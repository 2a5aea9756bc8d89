//! Which policies the report is about.

use super::layout::{count, empty, scrolling, section};
use super::model::{Identity, Report};
use maud::{Markup, html};

pub(super) fn render(report: &Report) -> Markup {
    let identity = &report.identity;
    let content = html! {
        dl.facts {
            div { dt { "Version of the policy files" } dd { code.hash { (identity.version) } } }
            div { dt { "Policies" } dd { (count(report.policies.len(), "policy", "policies")) } }
            (activation(identity))
            div { dt { "Report made" } dd { (report.created_at) " by " (report.program) } }
        }
        (files(identity))
    };
    section("identity", "Identity", &content)
}

fn activation(identity: &Identity) -> Markup {
    html! {
        div {
            dt { "Active version" }
            dd {
                @match &identity.active {
                    Ok(active) => {
                        @if active.is_of_files {
                            "The active version is the version of these files."
                        } @else {
                            strong { "Another version is active: " } code.hash { (active.version) }
                            strong { ". This report does not describe what the service decides." }
                        }
                    },
                    Err(reason) => span.empty { (reason) },
                }
            }
        }
        @if let Ok(active) = &identity.active {
            div {
                dt { "Active since" }
                dd {
                    @match &active.activation {
                        Ok((time, by)) => { (time) ", " (by) },
                        Err(reason) => span.empty { (reason) },
                    }
                }
            }
        }
    }
}

fn files(identity: &Identity) -> Markup {
    let caption = "The files of this version, with the SHA-256 of their text";
    html! {
        @if identity.files.is_empty() {
            (empty("There are no files."))
        } @else {
            (scrolling(caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "File" } th scope="col" { "Content" }
                        th.number scope="col" { "Bytes" } th scope="col" { "SHA-256" }
                    } }
                    tbody {
                        @for file in &identity.files {
                            tr {
                                th scope="row" { (file.path) }
                                td { (file.kind) }
                                td.number { (file.bytes) }
                                td { code.hash { (file.sha256) } }
                            }
                        }
                    }
                }
            }))
        }
    }
}
