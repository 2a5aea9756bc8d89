//! The versions that were active.

use super::layout::{or_empty, scrolling, section, short};
use super::model::{HistoryEntry, Report};
use maud::{Markup, html};

pub(super) fn render(report: &Report) -> Markup {
    section("history", "History of versions", &or_empty(&report.history, |entries| table(entries)))
}

fn table(entries: &[HistoryEntry]) -> Markup {
    let caption = "The versions that were active, the last one first. A version that became active again is listed once.";
    scrolling(
        caption,
        &html! {
            table {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Version" } th scope="col" { "First active" } th scope="col" { "Last activated" }
                    th scope="col" { "By" } th.number scope="col" { "Files" } th.number scope="col" { "Bytes" }
                } }
                tbody {
                    @for entry in entries {
                        tr {
                            th scope="row" {
                                code { (short(&entry.version)) }
                                @if entry.is_active { " " strong { "active" } }
                            }
                            td { (entry.first_activated_at) }
                            td { (entry.last_activated_at) }
                            td { (entry.cause) }
                            td.number { (entry.files) }
                            td.number { (entry.bytes) }
                        }
                    }
                }
            }
        },
    )
}
