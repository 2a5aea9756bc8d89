//! The table of the audit log.

use crate::types::Timestamp;
use sea_orm::Iterable;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// An audit entry as stored, and as a line of an archive file.
///
/// The fields are the columns, in the order in which they are hashed.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "audit")]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The sequence number: 1, 2, 3 and so on, without gaps.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    /// When the unit of work began.
    pub time: Timestamp,
    /// The kind of the event.
    pub event: String,
    /// The outcome.
    pub outcome: String,
    /// The user on whose behalf it happened.
    pub actor: Option<String>,
    /// The kind of the credential.
    pub credential: Option<String>,
    /// The id of the session or API key.
    pub credential_id: Option<String>,
    /// The type of the target.
    pub target_type: Option<String>,
    /// The id of the target.
    pub target: Option<String>,
    /// The organization of the event.
    pub organization: Option<String>,
    /// The path of that organization at the time.
    pub path: Option<String>,
    /// The IP address of the client.
    pub address: Option<String>,
    /// The id of the request.
    pub request: Option<String>,
    /// Further details: a JSON object with sorted keys.
    pub details: String,
    /// The hash of the previous entry; 64 zeros in the first one.
    pub previous: String,
    /// The hash of all fields above.
    pub hash: String,
}

/// Entries refer to nothing, since what they name may be deleted.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// Returns the values of the columns, in their order.
    pub(super) fn values(&self) -> impl Iterator<Item = Value> {
        Column::iter().map(|column| self.get(column))
    }
}

/// Returns the text of a value in the hash of an entry; none for null.
pub(super) fn text_of(value: Value) -> Option<String> {
    match value {
        Value::BigInt(number) => number.map(|number| number.to_string()),
        Value::String(text) => text,
        // The table has no other types of columns, which a test checks.
        _ => None,
    }
}
