//! The routes of the service, and what authorizes each.

use super::layout::{count, empty, scrolling, section};
use super::model::{Report, RouteAuthorization, RouteEntry};
use maud::{Markup, html};

pub(super) fn render(report: &Report) -> Markup {
    let uncovered: Vec<&RouteEntry> = report.routes.iter().filter(|route| route.is_uncovered()).collect();
    let is_public = |route: &&RouteEntry| matches!(route.authorization, RouteAuthorization::Public(_));
    let public = report.routes.iter().filter(is_public).count();
    let caption = "The routes, in the order of the route table";
    let content = html! {
        @if report.routes.is_empty() {
            (empty("The service has no routes."))
        } @else {
            p {
                (count(report.routes.len(), "route", "routes")) ": " (report.routes.len() - public) " authorized by an action, "
                (public) " public. "
                strong { (count(uncovered.len(), "route is", "routes are")) " uncovered." }
                " A route is uncovered if it has neither an action that the schema declares nor a reason to be public. The action is authorized before anything else of the request is examined."
            }
            (scrolling(caption, &html! {
                table {
                    caption { (caption) }
                    thead { tr {
                        th scope="col" { "Method" } th scope="col" { "Path" } th scope="col" { "Authorized by" }
                    } }
                    tbody { @for route in &report.routes { (row(route)) } }
                }
            }))
        }
    };
    section("routes", "Routes", &content)
}

fn row(route: &RouteEntry) -> Markup {
    html! {
        tr {
            td { (route.method) }
            th scope="row" { code { (route.path) } }
            td {
                @if route.is_uncovered() { strong { "uncovered: " } }
                @match &route.authorization {
                    RouteAuthorization::Action { name, additional, on_root_organization, .. } => {
                        code { (name) }
                        @if *on_root_organization { " on the root organization" }
                        @if !additional.is_empty() { ", depending on the request also " code { (additional.join(", ")) } }
                    },
                    RouteAuthorization::Public(reason) => { "public: " (reason) },
                }
            }
        }
    }
}
