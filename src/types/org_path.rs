//! The position of an organization in the tree.

use super::{FieldErrorCode, Id, InvalidValue, string_schema, text_serde};
use std::fmt;
use std::str::FromStr;

/// The ids from the root organization down to an organization, written `id#id#…`. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrgPath {
    ancestors: Vec<Id>,
    org_id: Id,
}

impl OrgPath {
    /// The regular expression of a path, for the OpenAPI document.
    pub const PATTERN: &str = "^[0-9a-fA-F]{24}(#[0-9a-fA-F]{24})*$";

    /// The maximum level of an organization.
    pub const MAX_LEVEL: usize = 32;

    /// The path of the root organization.
    pub fn root(org_id: Id) -> Self {
        Self { ancestors: Vec::new(), org_id }
    }

    /// The path of a child of this organization.
    pub fn child(&self, org_id: Id) -> Self {
        Self { ancestors: self.ids().collect(), org_id }
    }

    /// The id of the organization itself.
    pub fn org_id(&self) -> Id {
        self.org_id
    }

    /// The id of the parent organization; none for the root.
    pub fn parent(&self) -> Option<Id> {
        self.ancestors.last().copied()
    }

    /// The ids from the root down to the organization itself.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        self.ancestors.iter().copied().chain([self.org_id])
    }

    /// The number of ancestors: 0 for the root.
    pub fn level(&self) -> usize {
        self.ancestors.len()
    }

    /// Returns whether the organization is `other` or one of its descendants.
    pub fn is_within(&self, other: Id) -> bool {
        self.ids().any(|id| id == other)
    }
}

impl FromStr for OrgPath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut ancestors = text.split('#').map(str::parse).collect::<Result<Vec<Id>, _>>()?;
        let org_id = ancestors
            .pop()
            .ok_or_else(|| InvalidValue::new(FieldErrorCode::InvalidFormat, "a path has at least one id"))?;
        Ok(Self { ancestors, org_id })
    }
}

impl fmt::Display for OrgPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.ancestors {
            write!(f, "{id}#")?;
        }
        write!(f, "{}", self.org_id)
    }
}

text_serde!(OrgPath);

impl utoipa::PartialSchema for OrgPath {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema("The ids from the root organization down to this one, joined by `#`.")
            .pattern(Some(Self::PATTERN))
            .examples(["599e1fcd9da1c72645c95800#599e1fcd9da1c72645c95886"])
            .into()
    }
}

impl utoipa::ToSchema for OrgPath {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_parses_from_its_own_text() {
        let text = "599e1fcd9da1c72645c95800#599e1fcd9da1c72645c95886";
        let path: OrgPath = text.parse().unwrap();
        assert_eq!(path.to_string(), text);
        assert_eq!(path.level(), 1);
        assert_eq!(path.parent().unwrap().to_string(), "599e1fcd9da1c72645c95800");
        assert!(path.is_within(path.org_id()) && path.is_within(path.parent().unwrap()));
        assert!(!path.is_within(Id::NIL));
        assert!("".parse::<OrgPath>().is_err());
    }
}
