//! Mounts the routes on the server.

use super::Problem;
use super::route_group::{Route, RouteChecks, RouteGroup};
use super::routes::method_not_allowed;
use actix_web::http::Method;
use actix_web::{HttpResponse, guard, web};
use std::collections::BTreeMap;

/// Mounts all routes, aliases included.
///
/// Paths without placeholders come first: they are cheap to compare, and the most frequent requests have none. Paths with
/// placeholders are grouped by their prefix, because matching each of them costs more than the rest of a request.
pub fn mount(all: &[RouteGroup], server: &mut web::ServiceConfig) {
    let mut paths: BTreeMap<(usize, String), Vec<&Route>> = BTreeMap::new();
    for (index, group) in all.iter().enumerate() {
        for (path, route) in group.paths() {
            paths.entry((index, path)).or_default().push(route);
        }
    }
    let mut scopes: BTreeMap<String, Vec<(String, Vec<&Route>)>> = BTreeMap::new();
    for ((_, path), routes) in paths {
        match path.split_once("/{") {
            Some((start, end)) => {
                scopes.entry(start.to_owned()).or_default().push((format!("/{{{end}"), routes));
            }
            None => {
                server.service(resource(&path, &routes));
            }
        }
    }
    for (start, mut paths) in scopes.clone() {
        // A path that matches one scope is not looked up in another one.
        debug_assert!(!scopes.keys().any(|other| start.starts_with(&format!("{other}/"))), "{start}");
        // Fixed segments come before placeholders.
        paths.sort_by_key(|(path, _)| (path.matches('{').count(), path.len()));
        let scope = paths
            .iter()
            .fold(web::scope(&start), |scope, (path, routes)| scope.service(resource(path, routes)));
        server.service(scope);
    }
}

/// Returns the actix resource of a path with all its routes.
fn resource(path: &str, routes: &[&Route]) -> actix_web::Resource {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if routes.iter().any(|route| route.method == Method::GET && route.answers_head) {
        methods.push("HEAD");
    }
    let allow = methods.join(", ");
    let resource = routes.iter().fold(web::resource(path), |resource, route| {
        let checks = RouteChecks { key_use: route.key_use, query: route.query.clone() };
        let mounted = (route.mount)(checks);
        resource.route(if route.answers_head { mounted } else { mounted.guard(guard::Not(guard::Head())) })
    });
    resource.default_service(web::to(move || {
        let allow = allow.clone();
        async move { Err::<HttpResponse, Problem>(method_not_allowed(allow)) }
    }))
}
