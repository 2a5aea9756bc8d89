//! What of each resource is returned: `select`, `populate` and `include`.

use super::field::ListSpec;
use crate::application::populate::ReferencePath;
use crate::http::state::WorkerState;
use crate::http::{FieldError, Problem, body};
use crate::store::ResourceTypes;
use crate::types::{FieldErrorCode, InvalidValue, quoted};
use actix_web::HttpRequest;
use serde_json::{Map, Value};

/// The parameters of this module.
pub const PARAMETERS: [&str; 3] = ["select", "populate", "include"];
/// The parameters that are lists of names, separated by commas.
const LISTS: [&str; 3] = ["sort", "select", "populate"];
/// The maximum number of paths in `populate`.
const MAX_PATHS: usize = 10;
/// The maximum number of resources that lead to each other in a path of `populate`.
const MAX_DEPTH: usize = 3;

/// The fields that clients of the platform select and populate by themselves, and that this service does not store, by Cedar type.
/// They are accepted and select nothing.
const PLATFORM_FIELDS: [(&str, &[&str]); 1] = [("Organization", &["categories", "commands"])];

/// Returns the fields of a resource type that are accepted in `select` and `populate` and that it does not have.
pub fn platform_fields(resource: &str) -> &'static [&'static str] {
    PLATFORM_FIELDS.iter().find(|(kind, _)| *kind == resource).map_or(&[], |(_, fields)| fields)
}

/// What of each resource is returned.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// The fields; none for all of them.
    select: Option<Vec<String>>,
    /// The references that are replaced by the resources.
    pub populate: Vec<ReferencePath>,
    /// Whether the permitted actions are added.
    pub includes_permissions: bool,
}

/// Joins repeated parameters that are lists: some generated clients send `sort=a&sort=-b` for `sort=a,-b`.
pub(super) fn join_repeated(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut joined: Vec<(String, String)> = Vec::with_capacity(pairs.len());
    for (name, text) in pairs {
        let first = joined.iter_mut().find(|(other, _)| *other == name && LISTS.contains(&name.as_str()));
        match first {
            Some((_, list)) => *list = format!("{list},{text}"),
            None => joined.push((name, text)),
        }
    }
    joined
}

impl Shape {
    /// Returns whether resources are returned as they are stored.
    pub fn is_plain(&self) -> bool {
        self.select.is_none() && self.populate.is_empty() && !self.includes_permissions
    }

    /// Returns whether only the resource itself determines what is returned.
    pub fn depends_on_resource_only(&self) -> bool {
        self.populate.is_empty() && !self.includes_permissions
    }

    /// Parses the query string of a single resource.
    ///
    /// # Errors
    /// 400 with the invalid parameters.
    pub fn parse(request: &HttpRequest, spec: &ListSpec) -> Result<Self, Problem> {
        if request.query_string().is_empty() {
            return Ok(Self::default());
        }
        let types = &WorkerState::from_request(request)?.app.resource_types;
        let (mut shape, mut errors, mut seen) = (Self::default(), Vec::new(), Vec::new());
        for (name, text) in join_repeated(body::query_pairs(request)?) {
            let set = if seen.contains(&name) {
                Err(InvalidValue::new(FieldErrorCode::Duplicate, "duplicate parameter"))
            } else if PARAMETERS.contains(&name.as_str()) {
                shape.set(&name, &text, spec.resource.unwrap_or_default(), &spec.top_level, types)
            } else {
                let message = format!("unknown parameter; expected one of {}", PARAMETERS.join(", "));
                Err(InvalidValue::new(FieldErrorCode::UnknownField, message))
            };
            if let Err(error) = set {
                errors.push(FieldError::new(name.clone(), error.code, error));
            }
            seen.push(name);
        }
        if errors.is_empty() { Ok(shape) } else { Err(Problem::invalid_fields(errors)) }
    }

    /// Sets one of [`PARAMETERS`]. `top_level` are the names of the fields.
    ///
    /// # Errors
    /// An unknown field, path or value.
    pub fn set(
        &mut self,
        name: &str,
        text: &str,
        resource: &str,
        top_level: &[String],
        types: &ResourceTypes,
    ) -> Result<(), InvalidValue> {
        match name {
            "select" => self.select = Some(parse_select(text, resource, top_level)?),
            "populate" => self.populate = parse_populate(text, resource, types)?,
            _ if text == "permissions" => self.includes_permissions = true,
            _ => {
                let message = format!("expected permissions, got {}", quoted(text));
                return Err(InvalidValue::new(FieldErrorCode::UnknownValue, message));
            }
        }
        Ok(())
    }

    /// Removes the fields that are not selected. `id`, populated fields and included ones stay.
    pub fn select(&self, resource: &mut Map<String, Value>) {
        let Some(select) = &self.select else { return };
        resource.retain(|name, _| {
            name == "id"
                || name == "permissions" && self.includes_permissions
                || select.contains(name)
                || self.populate.iter().any(|path| path.field.split('.').next() == Some(name))
        });
    }
}

fn parse_select(text: &str, resource: &str, top_level: &[String]) -> Result<Vec<String>, InvalidValue> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        let is_known = top_level.iter().any(|field| field == name);
        if !is_known && !platform_fields(resource).contains(&name) {
            let own = top_level.iter().map(String::as_str);
            let accepted: Vec<&str> = own.chain(platform_fields(resource).iter().copied()).collect();
            let message = format!("unknown field {}; expected {}", quoted(name), accepted.join(", "));
            return Err(InvalidValue::new(FieldErrorCode::UnknownField, message));
        }
        if names.iter().any(|other| other == name) {
            return Err(duplicate(name));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn duplicate(name: &str) -> InvalidValue {
    InvalidValue::new(FieldErrorCode::Duplicate, format!("duplicate field {}", quoted(name)))
}

fn parse_populate(
    text: &str,
    resource: &str,
    types: &ResourceTypes,
) -> Result<Vec<ReferencePath>, InvalidValue> {
    let mut paths = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for path in text.split(',').map(str::trim) {
        if seen.len() >= MAX_PATHS {
            let message = format!("more than {MAX_PATHS} paths");
            return Err(InvalidValue::new(FieldErrorCode::TooManyItems, message));
        }
        if seen.contains(&path) {
            return Err(duplicate(path));
        }
        seen.push(path);
        let first = path.split('.').next().unwrap_or_default();
        if platform_fields(resource).contains(&first) {
            continue;
        }
        add_path(&mut paths, path, resource, types, 1)?;
    }
    Ok(paths)
}

/// Adds a path to those of a resource type, and the paths that it leads through.
fn add_path(
    paths: &mut Vec<ReferencePath>,
    path: &str,
    resource: &str,
    types: &ResourceTypes,
    depth: usize,
) -> Result<(), InvalidValue> {
    let fields = types.reference_fields(resource);
    let found = fields.iter().find_map(|(field, target)| {
        let rest = path.strip_prefix(field)?;
        if rest.is_empty() {
            Some((*field, *target, ""))
        } else {
            Some((*field, *target, rest.strip_prefix('.')?))
        }
    });
    let Some((field, target, rest)) = found else {
        let own = fields.iter().map(|(field, _)| *field);
        let names: Vec<&str> = own.chain(platform_fields(resource).iter().copied()).collect();
        let message =
            format!("{} is no reference of {resource}; expected {}", quoted(path), names.join(", "));
        return Err(InvalidValue::new(FieldErrorCode::UnknownField, message));
    };
    if depth > MAX_DEPTH {
        let message = format!("a path leads through at most {MAX_DEPTH} references");
        return Err(InvalidValue::new(FieldErrorCode::TooDeep, message));
    }
    let known = paths.iter().position(|known| known.field == field).unwrap_or_else(|| {
        paths.push(ReferencePath { field, target, nested: Vec::new() });
        paths.len() - 1
    });
    match paths.get_mut(known) {
        Some(known) if !rest.is_empty() => add_path(&mut known.nested, rest, target, types, depth + 1),
        _ => Ok(()),
    }
}
