//! Scopes and scope sets. The cascade guest < agent < bot < admin is defined in `policies/scopes.json`.

use crate::types::{FieldErrorCode, InvalidValue, quoted, string_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A scope: a permission tier of the specification. Credentials carry scopes; the role of a user is a scope.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The lowest tier.
    Guest,
    /// Customer service agents.
    Agent,
    /// Bots and other service programs.
    Bot,
    /// Administrators of an organization and of those below it.
    Admin,
}

impl Scope {
    /// All scopes, in ascending order of permissions.
    pub const ALL: [Self; 4] = [Self::Guest, Self::Agent, Self::Bot, Self::Admin];

    /// Its name, which is also the id of its Cedar entity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Agent => "agent",
            Self::Bot => "bot",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            InvalidValue::new(
                FieldErrorCode::UnknownValue,
                format!("{} is not a scope; the scopes are guest, agent, bot and admin", quoted(text)),
            )
        })
    }
}

/// A non-empty set of scopes in ascending order. As text it is space-delimited (RFC 6749, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeSet(Vec<Scope>);

impl ScopeSet {
    /// The set of these scopes; none if there are none.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Option<Self> {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort_unstable();
        scopes.dedup();
        (!scopes.is_empty()).then_some(Self(scopes))
    }

    /// Its scopes, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }
}

impl From<Scope> for ScopeSet {
    fn from(scope: Scope) -> Self {
        Self(vec![scope])
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Scope::as_str).collect();
        f.write_str(&words.join(" "))
    }
}

impl FromStr for ScopeSet {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let scopes = text.split(' ').map(str::parse).collect::<Result<Vec<Scope>, _>>()?;
        Self::new(scopes)
            .ok_or_else(|| InvalidValue::new(FieldErrorCode::TooFewItems, "at least one scope is required"))
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<Scope>::deserialize(deserializer)?).ok_or_else(|| {
            let message = "at least one scope is required: guest, agent, bot or admin";
            serde::de::Error::custom(InvalidValue::new(FieldErrorCode::TooFewItems, message))
        })
    }
}

impl Serialize for ScopeSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl utoipa::PartialSchema for ScopeSet {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ArrayBuilder::new()
            .description(Some("At least one scope. Duplicates are ignored."))
            .items(
                string_schema("")
                    .description(None::<String>)
                    .enum_values(Some(Scope::ALL.map(Scope::as_str))),
            )
            .min_items(Some(1))
            .into()
    }
}

impl utoipa::ToSchema for ScopeSet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_set_is_space_delimited_in_ascending_order() {
        let set = ScopeSet::new([Scope::Bot, Scope::Guest, Scope::Bot]).unwrap();
        assert_eq!(set.to_string(), "guest bot");
        assert_eq!("bot guest".parse::<ScopeSet>().unwrap(), set);
    }

    #[test]
    fn an_empty_or_unknown_scope_is_rejected() {
        assert!("".parse::<ScopeSet>().is_err());
        assert!("agnet".parse::<ScopeSet>().unwrap_err().to_string().contains("\"agnet\" is not a scope"));
        assert!(serde_json::from_str::<ScopeSet>("[]").is_err());
        assert!(serde_json::from_str::<ScopeSet>(r#"["owner"]"#).is_err());
    }
}
