//! Replaces references in the JSON of resources by the resources, where the caller could fetch them (see "Populate" in
//! docs/decisions.md).

use super::{Authorizer, Error};
use crate::authz::AuthzRequest;
use crate::types::{Id, JsonSize};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The maximum number of resources that are loaded for a path.
const MAX_RESOURCES: usize = 1000;
/// The maximum size of what is inserted into one resource, in bytes as JSON.
const MAX_INSERTED_BYTES: usize = 4 * 1024 * 1024;

/// A field whose ids are replaced by the resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePath {
    /// The path of the field, as in [`crate::resource::Resource::REFERENCE_FIELDS`].
    pub field: &'static str,
    /// The Cedar entity type of the resources.
    pub target: &'static str,
    /// The fields of these that are replaced, too.
    pub nested: Vec<ReferencePath>,
}

/// The loaded resources of a path.
#[derive(Debug)]
struct LoadedPath {
    field: &'static str,
    /// The resources that the caller could fetch, with their sizes in bytes as JSON.
    resources: HashMap<Id, (usize, Value)>,
    nested: Vec<LoadedPath>,
}

/// The resources that are inserted into those of a page.
#[derive(Debug, Default)]
pub struct References(Vec<LoadedPath>);

impl References {
    /// Loads the resources that these ones refer to: one query per path, and a decision on each. At most 1000 are loaded for a
    /// path, as far as they have at most `max_bytes` together.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn load(
        authorizer: &Authorizer,
        paths: &[ReferencePath],
        resources: &[Value],
        max_bytes: usize,
    ) -> Result<Self, Error> {
        let resources: Vec<&Value> = resources.iter().collect();
        Ok(Self(load_paths(authorizer, paths, resources, max_bytes).await?))
    }

    /// Returns the size of all loaded resources, in bytes as JSON.
    pub fn bytes(&self) -> usize {
        total_bytes(&self.0)
    }

    /// Replaces the ids in a resource. An id stays if the caller could not fetch the resource, or if the result would be too
    /// large.
    pub fn insert_into(&self, resource: &mut Value) {
        let mut rest = MAX_INSERTED_BYTES;
        insert_paths(&self.0, resource, &mut rest);
    }
}

fn total_bytes(paths: &[LoadedPath]) -> usize {
    let of_path = |path: &LoadedPath| {
        path.resources.values().map(|(bytes, _)| *bytes).sum::<usize>() + total_bytes(&path.nested)
    };
    paths.iter().map(of_path).sum()
}

fn load_paths<'a>(
    authorizer: &'a Authorizer,
    paths: &'a [ReferencePath],
    resources: Vec<&'a Value>,
    max_bytes: usize,
) -> BoxFuture<'a, Result<Vec<LoadedPath>, Error>> {
    Box::pin(async move {
        let mut loaded = Vec::new();
        for path in paths {
            let resources = load_path(authorizer, path, &resources, max_bytes).await?;
            let nested = if path.nested.is_empty() {
                Vec::new()
            } else {
                let targets = resources.values().map(|(_, value)| value).collect();
                load_paths(authorizer, &path.nested, targets, max_bytes).await?
            };
            loaded.push(LoadedPath { field: path.field, resources, nested });
        }
        Ok(loaded)
    })
}

async fn load_path(
    authorizer: &Authorizer,
    path: &ReferencePath,
    resources: &[&Value],
    max_bytes: usize,
) -> Result<HashMap<Id, (usize, Value)>, Error> {
    let (mut ids, mut seen) = (Vec::new(), HashSet::new());
    for resource in resources {
        collect_ids(resource, path.field, &mut |id| {
            if ids.len() < MAX_RESOURCES && seen.insert(id) {
                ids.push(id);
            }
        });
    }
    let max_bytes = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    let types = &authorizer.state().resource_types;
    let found = types.find_many(&authorizer.reader(), path.target, &ids, max_bytes).await?;
    let context = authorizer.request_context();
    // The decision log does not record these decisions, like those of a search.
    let request = AuthzRequest {
        principal: &authorizer.caller().principal,
        action: "",
        context: &context,
        recorder: None,
    };
    let fetched = found.into_iter().filter_map(|resource| resource.fetch(authorizer.engine(), &request));
    Ok(fetched.map(|(id, value)| (id, (JsonSize::of(&value).bytes, value))).collect())
}

/// Calls `visit` with the ids at a path, in the items of arrays too.
fn collect_ids(value: &Value, path: &str, visit: &mut impl FnMut(Id)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_ids(item, path, visit)),
        Value::Object(fields) if !path.is_empty() => {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            if let Some(value) = fields.get(name) {
                collect_ids(value, rest, visit);
            }
        }
        Value::String(id) if path.is_empty() => {
            if let Ok(id) = id.parse() {
                visit(id);
            }
        }
        _ => {}
    }
}

fn insert_paths(paths: &[LoadedPath], resource: &mut Value, rest: &mut usize) {
    for path in paths {
        insert_path(path, resource, path.field, rest);
    }
}

fn insert_path(path: &LoadedPath, value: &mut Value, field: &str, rest: &mut usize) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| insert_path(path, item, field, rest)),
        Value::Object(fields) if !field.is_empty() => {
            let (name, inner) = field.split_once('.').unwrap_or((field, ""));
            if let Some(value) = fields.get_mut(name) {
                insert_path(path, value, inner, rest);
            }
        }
        Value::String(id) if field.is_empty() => {
            let found = id.parse::<Id>().ok().and_then(|id| path.resources.get(&id));
            if let Some((bytes, resource)) = found
                && let Some(left) = rest.checked_sub(*bytes)
            {
                *rest = left;
                let mut resource = resource.clone();
                insert_paths(&path.nested, &mut resource, rest);
                *value = resource;
            }
        }
        _ => {}
    }
}
