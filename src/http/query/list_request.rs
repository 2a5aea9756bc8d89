//! The query string of a list.

use super::cursor;
use super::field::{ListSpec, QueryField};
use super::shape::{self, Shape};
use super::value;
use crate::application::{Authorizer, Error};
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::http::state::WorkerState;
use crate::http::{FieldError, Problem, body};
use crate::store::{ListQuery, ListResult, SortKey, SortOrder, full_order};
use crate::types::{FieldErrorCode, Id, InvalidValue, OrgPath, quoted};
use actix_web::HttpRequest;
use serde_json::{Map, Value};

/// The default number of resources in a page.
pub const DEFAULT_LIMIT: u64 = 100;
/// The maximum number of resources in a page.
pub const MAX_LIMIT: u64 = 1000;

/// The organizations that a list covers.
///
/// They are read before the other parameters, so that a caller who may not list receives no errors about these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListScope {
    /// Those of the caller's subtree.
    Caller,
    /// One organization (`organization=…`).
    One(String),
    /// An organization and those below it (`orgPath=^…`).
    Subtree(String),
}

impl ListScope {
    /// Reads the organizations from the query string of a list of resources.
    ///
    /// Values that are no ids or paths do not count here: [`ListRequest`] rejects them when the caller is authorized.
    pub fn of(request: &HttpRequest) -> Self {
        if let Some(organization) = organization_in_query(request) {
            return Self::One(organization);
        }
        let Some(path) = body::query_value(request, "orgPath") else { return Self::Caller };
        let (is_subtree, path) = path.strip_prefix('^').map_or((false, &*path), |path| (true, path));
        match path.parse::<OrgPath>() {
            Ok(path) if is_subtree => Self::Subtree(path.org_id().to_string()),
            Ok(path) => Self::One(path.org_id().to_string()),
            Err(_) => Self::Caller,
        }
    }

    /// Returns those of the organizations in which the list is permitted.
    ///
    /// # Errors
    /// If it is permitted in none of them: `not_found` or `forbidden`.
    pub async fn authorize(&self, authorizer: &Authorizer) -> Result<Permitted<AuthorizedOrgs>, Error> {
        let lookups = authorizer.lookups();
        match self {
            Self::Caller => lookups.authorized_orgs(None).await,
            Self::One(organization) => lookups.authorized_orgs(Some(organization)).await,
            Self::Subtree(organization) => lookups.authorized_subtree(Some(organization)).await,
        }
    }
}

/// Returns the id in the parameter `organization`; none if there is no such parameter, or it is not an id.
pub fn organization_in_query(request: &HttpRequest) -> Option<String> {
    body::query_value(request, "organization").filter(|text| text.parse::<Id>().is_ok())
}

/// The requested page of a list.
#[derive(Debug)]
pub struct ListRequest {
    /// The query.
    pub query: ListQuery,
    /// What of each resource is returned.
    pub shape: Shape,
    /// Whether the page is given by `offset`.
    has_offset: bool,
    /// The parameters of the query string that do not select the page.
    other_parameters: Vec<(String, String)>,
    /// The digest of the list in its cursors.
    digest: String,
    /// The fields of all columns of the order; empty for a list of something else than resources.
    order_fields: Vec<QueryField>,
    /// The maximum of `limit`.
    max_limit: u64,
    /// The parameter that names the organizations of the list: `organization` or `orgPath`.
    scope_parameter: Option<&'static str>,
}

/// The parameters that are no filters. Each is given once.
const FIXED: [&str; 5] = ["limit", "offset", "sort", "after", "total"];

impl ListRequest {
    /// Creates the request of the first page of a list without filters.
    pub(super) fn new(max_limit: u64) -> Self {
        Self {
            query: ListQuery { limit: DEFAULT_LIMIT, ..ListQuery::default() },
            shape: Shape::default(),
            has_offset: false,
            other_parameters: Vec::new(),
            digest: String::new(),
            order_fields: Vec::new(),
            max_limit,
            scope_parameter: None,
        }
    }

    /// Parses the query string of a list.
    ///
    /// # Errors
    /// 400 with the invalid parameters. Unknown ones are invalid, because a misspelled filter would return everything.
    pub fn parse(request: &HttpRequest, spec: &ListSpec) -> Result<Self, Problem> {
        Self::parse_with_limit(request, spec, MAX_LIMIT)
    }

    /// Parses the query string of an export, whose `limit` may be larger than a page.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_export(request: &HttpRequest, spec: &ListSpec) -> Result<Self, Problem> {
        Self::parse_with_limit(request, spec, i64::MAX.unsigned_abs())
    }

    fn parse_with_limit(request: &HttpRequest, spec: &ListSpec, max_limit: u64) -> Result<Self, Problem> {
        let types = &WorkerState::from_request(request)?.app.resource_types;
        let pairs = shape::join_repeated(body::query_pairs(request)?);
        let mut parsed = Self::new(max_limit);
        let (mut errors, mut seen, mut after) = (Vec::new(), Vec::new(), None);
        let mut of_list = Vec::new();
        for (name, text) in pairs {
            // Filters may be repeated: all of them apply. The other parameters would be ambiguous.
            let is_filter = spec.field(&name).is_some() && name != "organization";
            if seen.contains(&name) && !is_filter {
                errors.push(FieldError::new(name, FieldErrorCode::Duplicate, "duplicate parameter"));
                continue;
            }
            seen.push(name.clone());
            let set = match name.as_str() {
                "after" if spec.has_cursors => {
                    after = Some(text);
                    continue;
                }
                shaping if shape::PARAMETERS.contains(&shaping) && spec.resource.is_some() => {
                    let resource = spec.resource.unwrap_or_default();
                    parsed.shape.set(shaping, &text, resource, &spec.top_level, types)
                }
                _ => parsed.set(spec, &name, &text),
            };
            if let Err(error) = set {
                errors.push(FieldError::new(name, error.code, error));
                continue;
            }
            if !["limit", "offset", "total"].contains(&name.as_str())
                && !shape::PARAMETERS.contains(&name.as_str())
            {
                of_list.push((name.clone(), text.clone()));
            }
            if !["limit", "offset"].contains(&name.as_str()) {
                parsed.other_parameters.push((name, text));
            }
        }
        if parsed.query.sort.is_empty() {
            parsed.query.sort.clone_from(&spec.default_sort);
        }
        if spec.has_cursors {
            parsed.digest = cursor::list_digest(request.path(), &of_list);
            parsed.order_fields = order_fields(spec, &parsed.query.sort);
        }
        if let Some(after) = after
            && let Err(error) = parsed.set_after(&after)
        {
            errors.push(FieldError::new("after", error.code, error));
        }
        if errors.is_empty() { Ok(parsed) } else { Err(Problem::invalid_fields(errors)) }
    }

    /// Sets a parameter.
    ///
    /// # Errors
    /// The value is invalid, or there is no such parameter.
    pub(super) fn set(&mut self, spec: &ListSpec, name: &str, text: &str) -> Result<(), InvalidValue> {
        match name {
            "limit" => self.query.limit = parse_number(text, 1, self.max_limit)?,
            "offset" => {
                self.query.offset = parse_number(text, 0, i64::MAX.unsigned_abs())?;
                self.has_offset = true;
            }
            "sort" => self.query.sort = parse_sort(text, &spec.fields)?,
            "total" => self.query.skips_total = !parse_boolean(text)?,
            "orgPath" if spec.resource.is_some() => {
                check_org_path(text)?;
                self.set_scope_parameter("orgPath")?;
            }
            _ => match spec.field(name) {
                // The scope of a list is authorized: see `ListScope`.
                Some(_) if name == "organization" && value::is_plain(text) => {
                    text.parse::<Id>()?;
                    self.set_scope_parameter("organization")?;
                }
                Some(field) => self.query.filters.push(value::parse(&field, text)?),
                None => {
                    let message = format!("unknown parameter; expected one of {}", accepted(spec));
                    return Err(InvalidValue::new(FieldErrorCode::UnknownField, message));
                }
            },
        }
        Ok(())
    }

    /// Notes the parameter that [`ListScope`] reads. It reads one of them, so that the other one would have no effect.
    fn set_scope_parameter(&mut self, name: &'static str) -> Result<(), InvalidValue> {
        if let Some(other) = self.scope_parameter.filter(|other| *other != name) {
            let message = format!("cannot be combined with `{other}`");
            return Err(InvalidValue::new(FieldErrorCode::Conflict, message));
        }
        self.scope_parameter = Some(name);
        Ok(())
    }

    fn set_after(&mut self, text: &str) -> Result<(), InvalidValue> {
        if self.has_offset {
            let message = "cannot be combined with `offset`";
            return Err(InvalidValue::new(FieldErrorCode::Conflict, message));
        }
        let fields = self.cursor_fields().unwrap_or_default();
        self.query.after = Some(cursor::decode(&self.digest, fields, text)?);
        Ok(())
    }

    /// Returns the fields in cursors; none if the values of one are too long, or the list is none of resources.
    fn cursor_fields(&self) -> Option<&[QueryField]> {
        let fields = self.order_fields.as_slice();
        (!fields.is_empty() && fields.iter().all(|field| field.is_cursor_key)).then_some(fields)
    }

    /// Continues after the resource with this JSON.
    ///
    /// # Errors
    /// 500 if the resource does not have the fields of the order.
    pub fn continue_after(&mut self, last: &Map<String, Value>) -> Result<(), Problem> {
        let value = |field: &QueryField| cursor::decode_value(field, field.value_in(last));
        let position: Option<Vec<_>> = self.order_fields.iter().map(value).collect();
        let position = position.ok_or_else(|| Problem::internal("a resource has no position in its list"))?;
        self.query.after = Some(position);
        self.query.offset = 0;
        Ok(())
    }

    /// Returns the parameters of the next page; none if there is none. `last` is the JSON of the last resource of this page.
    pub fn next(
        &self,
        listed: &ListResult,
        last: Option<&Map<String, Value>>,
    ) -> Option<Vec<(String, String)>> {
        if !listed.has_more || listed.item_count == 0 {
            return None;
        }
        let mut pairs = self.other_parameters.clone();
        pairs.push(("limit".to_owned(), self.query.limit.to_string()));
        match (self.has_offset, self.cursor_fields(), last) {
            (false, Some(fields), Some(last)) => {
                let position: Vec<Value> = fields.iter().map(|field| field.value_in(last).clone()).collect();
                pairs.push(("after".to_owned(), cursor::encode(&self.digest, &position)));
            }
            _ => {
                // A page that reached its size limit has fewer rows than `limit`.
                let next = self.query.offset.saturating_add(listed.item_count);
                pairs.push(("offset".to_owned(), next.to_string()));
            }
        }
        Some(pairs)
    }
}

/// Returns the names of all accepted parameters.
fn accepted(spec: &ListSpec) -> String {
    let mut names: Vec<String> = FIXED
        .iter()
        .filter(|name| **name != "after" || spec.has_cursors)
        .map(|&name| name.to_owned())
        .collect();
    if spec.resource.is_some() {
        names.extend(shape::PARAMETERS.map(str::to_owned));
    }
    names.extend(spec.filter_names());
    names.join(", ")
}

/// Returns the fields of all columns of the order.
fn order_fields(spec: &ListSpec, sort: &[SortKey]) -> Vec<QueryField> {
    let find = |key: &SortKey| {
        spec.fields.iter().find(|field| field.sort_key(key.order).as_ref() == Some(key)).cloned()
    };
    full_order(sort).iter().filter_map(find).collect()
}

/// Checks `orgPath`, whose organization [`ListScope`] reads.
fn check_org_path(text: &str) -> Result<(), InvalidValue> {
    let path = text.strip_prefix('^').unwrap_or(text);
    if !value::is_plain(path) {
        let message = "expected ^ and the id or path of an organization, or its path";
        return Err(InvalidValue::new(FieldErrorCode::UnknownOperator, message));
    }
    path.parse::<OrgPath>().map(|_| ())
}

/// Parses a truth value.
///
/// # Errors
/// It is neither `true` nor `false`.
pub(super) fn parse_boolean(text: &str) -> Result<bool, InvalidValue> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => {
            let message = format!("expected true or false, got {}", quoted(text));
            Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message))
        }
    }
}

/// Parses the value of a parameter that is an integer.
///
/// # Errors
/// It is not one, or out of range.
pub fn parse_number(text: &str, min: u64, max: u64) -> Result<u64, InvalidValue> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        parsed => {
            let code =
                if parsed.is_ok() { FieldErrorCode::OutOfRange } else { FieldErrorCode::InvalidFormat };
            let message = format!("expected an integer from {min} to {max}, got {}", quoted(text));
            Err(InvalidValue::new(code, message))
        }
    }
}

fn parse_sort(text: &str, fields: &[QueryField]) -> Result<Vec<SortKey>, InvalidValue> {
    let mut keys: Vec<SortKey> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (name, order) =
            item.strip_prefix('-').map_or((item, SortOrder::Ascending), |name| (name, SortOrder::Descending));
        let field = fields.iter().find(|field| field.is_sortable && field.name == name);
        let Some(key) = field.and_then(|field| field.sort_key(order)) else {
            let sortable = fields.iter().filter(|field| field.is_sortable);
            let names: Vec<&str> = sortable.map(|field| field.name.as_str()).collect();
            let message = format!("cannot sort by {}; expected one of {}", quoted(name), names.join(", "));
            return Err(InvalidValue::new(FieldErrorCode::UnknownValue, message));
        };
        if keys.iter().any(|other| (&other.column, &other.property) == (&key.column, &key.property)) {
            let message = format!("duplicate field {}", quoted(name));
            return Err(InvalidValue::new(FieldErrorCode::Duplicate, message));
        }
        keys.push(key);
    }
    Ok(keys)
}
