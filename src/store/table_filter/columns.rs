//! Which columns of a table have the attributes of its rows.

use super::render::SqlDialect;
use crate::authz::filter::Path;
use std::collections::BTreeMap;

/// The maximum length of a name, in bytes: that of PostgreSQL.
const MAX_NAME: usize = 63;
/// The maximum number of parts of a name: schema, table and column.
const MAX_PARTS: usize = 3;
/// The prefix of the key of a column with the parents of the rows.
const IN: &str = "resource in ";

/// The columns of a table, by attribute.
#[derive(Debug, Default)]
pub struct ColumnMap {
    /// The column of each path; the empty path is the id of the resource.
    attributes: BTreeMap<Path, ColumnName>,
    /// The column with the id of the parent of each type; none if rows have no parents of the type.
    parents: BTreeMap<String, Option<ColumnName>>,
}

/// A name such as `owner_id` or `documents.owner_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnName(Vec<String>);

/// An entry of a column map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidColumn {
    /// The key of the entry.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

impl ColumnMap {
    /// Parses a map from attribute paths to columns.
    ///
    /// A key is a path such as `owner` or `profile.city`, with or without `resource.` before it; `resource` is the id of the
    /// resource, and `resource in T` the id of its parent of the entity type `T`. Only the latter may have no column.
    ///
    /// # Errors
    /// The first entry that cannot be used.
    pub fn parse<'a>(
        entries: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<Self, InvalidColumn> {
        let mut map = Self::default();
        for (key, name) in entries {
            let invalid = |reason: String| InvalidColumn { key: key.to_owned(), reason };
            let column = name.map(|name| ColumnName::parse(name).map_err(invalid)).transpose()?;
            if let Some(kind) = key.strip_prefix(IN) {
                map.parents.insert(kind.trim().to_owned(), column);
                continue;
            }
            let column =
                column.ok_or_else(|| invalid("expected the name of a column, got null".to_owned()))?;
            let path = match key {
                "resource" => Path::resource(),
                key => Path::new(key.strip_prefix("resource.").unwrap_or(key).split('.')),
            };
            if path.names().iter().any(String::is_empty) {
                return Err(invalid("expected an attribute such as `owner` or `profile.city`".to_owned()));
            }
            if map.attributes.insert(path, column).is_some() {
                return Err(invalid("the attribute has two columns".to_owned()));
            }
        }
        Ok(map)
    }

    /// The column of a path.
    pub(super) fn attribute(&self, path: &Path) -> Option<&ColumnName> {
        self.attributes.get(path)
    }

    /// The column with the parents of a type: none if it is missing, and an empty one if rows have no such parents.
    pub(super) fn parent(&self, kind: &str) -> Option<Option<&ColumnName>> {
        self.parents.get(kind).map(Option::as_ref)
    }

    /// The key of a path.
    pub fn key(path: &Path) -> String {
        path.to_string()
    }

    /// The key of the parents of a type.
    pub fn parent_key(kind: &str) -> String {
        format!("{IN}{kind}")
    }

    /// The name of the column of a path, with dots between its parts.
    pub fn attribute_name(&self, path: &Path) -> Option<String> {
        self.attribute(path).map(ColumnName::dotted)
    }

    /// The name of the column with the parents of a type, with dots between its parts: none if it is missing, and an empty one
    /// if rows have no such parents.
    pub fn parent_name(&self, kind: &str) -> Option<Option<String>> {
        self.parent(kind).map(|column| column.map(ColumnName::dotted))
    }
}

impl ColumnName {
    fn parse(name: &str) -> Result<Self, String> {
        let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
        if parts.len() > MAX_PARTS {
            return Err(format!(
                "a name has at most {MAX_PARTS} parts: schema, table and column, got {name:?}"
            ));
        }
        let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '$';
        let is_valid = |part: &String| {
            part.len() <= MAX_NAME
                && part.starts_with(|first: char| first.is_alphabetic() || first == '_')
                && part.chars().all(is_letter)
        };
        match parts.iter().all(is_valid) {
            true => Ok(Self(parts)),
            false => Err(format!(
                "expected a column such as owner_id or documents.owner_id, of letters, digits, _ and $, got {name:?}"
            )),
        }
    }

    /// The quoted name.
    ///
    /// SQLite takes a name in double quotes for a text if there is no such column, so that a wrong name would be no error.
    pub(super) fn quoted(&self, dialect: SqlDialect) -> String {
        let quote = match dialect {
            SqlDialect::Postgres => '"',
            SqlDialect::Sqlite => '`',
        };
        self.0.iter().map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".")
    }

    fn dotted(&self) -> String {
        self.0.join(".")
    }
}
