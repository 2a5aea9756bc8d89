//! The participants of conversations.

use crate::resource::column::json_column;
use crate::types::{FieldErrorCode, Id, InvalidValue, Label, json_list, object_only};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// A participant of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct Participant {
    /// The user id.
    pub user: Id,
    /// The role in the conversation.
    #[serde(default)]
    pub role: Option<Label>,
    /// Whether the user still participates.
    #[serde(default = "default_true")]
    pub active: bool,
    /// Whether the user has accepted the conversation, and is responsible for the replies.
    #[serde(default)]
    pub accepted: bool,
    /// Whether the conversation is in the inbox of the user: assigned, and not accepted yet.
    #[serde(default)]
    pub inbox: bool,
}

object_only!(Participant);

const fn default_true() -> bool {
    true
}

json_list!(
    /// Up to 1000 participants.
    Participants, Participant, 1000
);

json_column!(Participants);

/// Up to 1000 participants, each user once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Participants")]
pub struct UniqueParticipants(pub(super) Participants);

impl TryFrom<Participants> for UniqueParticipants {
    type Error = InvalidValue;

    fn try_from(participants: Participants) -> Result<Self, InvalidValue> {
        let mut seen = HashSet::new();
        match participants.iter().find(|participant| !seen.insert(participant.user)) {
            None => Ok(Self(participants)),
            Some(Participant { user, .. }) => {
                let message = format!("the user {user} is given more than once");
                Err(InvalidValue::new(FieldErrorCode::Duplicate, message))
            }
        }
    }
}

impl PartialSchema for UniqueParticipants {
    fn schema() -> RefOr<Schema> {
        match Participants::schema() {
            RefOr::T(Schema::Array(mut list)) => {
                list.description = Some("Up to 1000 participants, each user once.".to_owned());
                list.unique_items = true;
                list.into()
            }
            other => other,
        }
    }
}

impl ToSchema for UniqueParticipants {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Participants::schemas(schemas);
    }
}
