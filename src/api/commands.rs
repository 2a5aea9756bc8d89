//! Command messages: messages of the type `command`, which change their conversation when they are created.
//!
//! | text | change of the conversation | action |
//! |---|---|---|
//! | `/set key value` | the value in `meta`, as a text; without a value, the key is removed | `setConversationMeta` |
//! | `/set @field value` | `name`, `category` or `status` | `updateConversation` |
//! | `/assign`, `meta.users` | the users are participants with the conversation in their inbox | `assignConversation` |
//! | `/accept` | the caller is an active participant who has accepted; the status is `active` | `acceptConversation` |
//! | `/join` | the caller is an active participant | `joinConversation` |
//! | `/leave` | the caller is no active participant; `closed` after the last one who had accepted | `leaveConversation` |
//!
//! Each is authorized with its own action on the conversation, in addition to `createMessage`, as it is and as it would be.
//! A text that begins with `>` is a command to a bot: it changes nothing here.

use super::conversations::Conversation;
use super::messages::MessageBody;
use super::participants::Participant;
use crate::application::changes::{Patch, UpdateRequest};
use crate::application::fields::join_path;
use crate::application::precondition::Precondition;
use crate::application::{Authorizer, Error, FieldError};
use crate::authz::Permitted;
use crate::resource::Reference;
use crate::resource::user::User;
use crate::store::Reader;
use crate::types::{FieldErrorCode, Id, InvalidValue, quoted};
use serde_json::{Value, json};

/// The actions of commands, and that of references in them.
pub const ACTIONS: &[&str] = &[
    "setConversationMeta",
    "updateConversation",
    "assignConversation",
    "acceptConversation",
    "joinConversation",
    "leaveConversation",
    "referTo",
];

/// The message type.
const TYPE: &str = "command";
/// The first character of a command to a bot.
const BOT_COMMAND: char = '>';
/// The commands, for errors.
const SYNTAX: &str = "expected \"/set key value\", \"/assign\", \"/accept\", \"/join\", \"/leave\", or a bot command such as \
     \">help\"";
/// The maximum number of commands in a request. Each is authorized on the conversation that the one before leaves.
const MAX_COMMANDS: usize = 20;
/// The maximum number of users in a command.
const MAX_USERS: usize = 50;
/// The maximum number of characters of a key in `meta`.
const MAX_KEY: usize = 100;
/// The fields that `/set @field value` changes.
const SETTABLE_FIELDS: [&str; 3] = ["name", "category", "status"];
/// The status of a conversation that a participant has accepted.
const ACTIVE: &str = "active";
/// The status of a conversation after the last participant who had accepted it left.
const CLOSED: &str = "closed";

/// The commands among new messages of a conversation.
#[derive(Debug, Default)]
pub struct Commands(Vec<Command>);

/// A command, with the path of its message in the request.
#[derive(Debug)]
struct Command {
    path: String,
    change: Change,
}

/// What a command changes.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Sets a key of `meta`, or removes it.
    Meta {
        key: String,
        value: Option<String>,
    },
    /// Sets a field, or clears it.
    Field {
        name: &'static str,
        value: Option<String>,
    },
    /// Adds users as participants.
    Assign(Vec<Id>),
    Accept,
    Join,
    Leave,
}

impl Commands {
    /// Parses the commands among new messages. `path` returns the path of the message with this index in the request.
    ///
    /// # Errors
    /// Invalid fields: an unknown command, wrong arguments, or too many commands.
    pub fn parse(messages: &[MessageBody], path: impl Fn(usize) -> String) -> Result<Self, Error> {
        let (mut commands, mut errors) = (Vec::new(), Vec::new());
        for (index, message) in messages.iter().enumerate() {
            if message.r#type.as_str() != TYPE {
                continue;
            }
            match Change::parse(message) {
                Ok(None) => {}
                Ok(Some(change)) => commands.push(Command { path: path(index), change }),
                Err((field, error)) => {
                    errors.push(FieldError::new(join_path(&path(index), &field), error.code, error));
                }
            }
        }
        if let Some(command) = commands.get(MAX_COMMANDS) {
            let message = format!("a request has at most {MAX_COMMANDS} commands");
            errors.push(FieldError::new(&command.path, FieldErrorCode::TooManyItems, message));
        }
        if errors.is_empty() { Ok(Self(commands)) } else { Err(Error::invalid_fields(errors)) }
    }

    /// Returns the references to the users that commands assign.
    pub fn references(&self) -> Vec<Reference> {
        let references = self.0.iter().flat_map(|command| {
            let users = match &command.change {
                Change::Assign(users) => users.as_slice(),
                _ => &[],
            };
            let field = |index| join_path(&command.path, &format!("meta.users.{index}"));
            users.iter().enumerate().map(move |(index, id)| Reference::new::<User>(field(index), *id))
        });
        references.collect()
    }

    /// Authorizes the commands in their order, and returns the changed conversation; none if nothing changes it.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`]; invalid fields if the conversation cannot have the value that a command sets.
    pub async fn apply(
        &self,
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        conversation: &Permitted<Conversation>,
    ) -> Result<Option<Permitted<Conversation>>, Error> {
        let mut changed: Option<Permitted<Conversation>> = None;
        for command in &self.0 {
            let row = changed.as_ref().unwrap_or(conversation);
            let patch = command.change.patch(row, authorizer.caller().id)?;
            let update =
                UpdateRequest { patch: &patch, extra_changes: &[], precondition: &Precondition::None };
            let unchecked = row.with_changes((**row).clone(), row.path().clone());
            let at = authorizer.with_action(command.change.action());
            let authorized = update.authorize(&at, reader, Some(unchecked), |_| None).await;
            changed = Some(authorized.map_err(|error| command.rename_fields(error))?.row);
        }
        Ok(changed)
    }
}

impl Command {
    /// Returns an error about fields of the conversation as one about the field of the message that sets them.
    fn rename_fields(&self, mut error: Error) -> Error {
        if error.fields.is_empty() {
            return error;
        }
        let field = if matches!(self.change, Change::Assign(_)) { "meta.users" } else { "text" };
        for invalid in &mut error.fields {
            invalid.field = join_path(&self.path, field);
        }
        Error::invalid_fields(error.fields)
    }
}

impl Change {
    /// Parses a command; none for a command to a bot.
    ///
    /// # Errors
    /// The invalid field of the message, and what is wrong with it.
    fn parse(message: &MessageBody) -> Result<Option<Self>, (String, InvalidValue)> {
        let text = message.text.as_str();
        if text.starts_with(BOT_COMMAND) {
            return Ok(None);
        }
        let in_text = |error| ("text".to_owned(), error);
        let (name, arguments) = split_word(text);
        let change = match name {
            "/set" => return Self::parse_set(arguments).map(Some).map_err(in_text),
            "/assign" => Self::Assign(parse_users(message.meta.get("users"))?),
            "/accept" => Self::Accept,
            "/join" => Self::Join,
            "/leave" => Self::Leave,
            _ => {
                let message = format!("unknown command {}; {SYNTAX}", quoted(name));
                return Err(in_text(InvalidValue::new(FieldErrorCode::UnknownValue, message)));
            }
        };
        if arguments.trim().is_empty() {
            return Ok(Some(change));
        }
        let message = format!("{name} has no arguments in the text, got {}", quoted(arguments));
        Err(in_text(InvalidValue::new(FieldErrorCode::InvalidFormat, message)))
    }

    /// Parses the arguments of `/set`: a key or `@field`, and after one white space the value.
    fn parse_set(arguments: &str) -> Result<Self, InvalidValue> {
        let (key, value) = split_word(arguments);
        let value = (!value.is_empty()).then(|| value.to_owned());
        let length = key.chars().count();
        if length == 0 {
            let message = "expected a key after \"/set \", as in \"/set intent order\"";
            return Err(InvalidValue::new(FieldErrorCode::InvalidFormat, message));
        }
        if length > MAX_KEY {
            let message = format!("the key {} has {length} characters; expected 1 to {MAX_KEY}", quoted(key));
            return Err(InvalidValue::new(FieldErrorCode::TooLong, message));
        }
        let Some(field) = key.strip_prefix('@') else {
            return Ok(Self::Meta { key: key.to_owned(), value });
        };
        match SETTABLE_FIELDS.iter().find(|name| **name == field) {
            Some(name) => Ok(Self::Field { name, value }),
            None => {
                let names = SETTABLE_FIELDS.map(|name| format!("@{name}")).join(", ");
                let message = format!("unknown field {}; expected one of {names}", quoted(key));
                Err(InvalidValue::new(FieldErrorCode::UnknownField, message))
            }
        }
    }

    const fn action(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "setConversationMeta",
            Self::Field { .. } => "updateConversation",
            Self::Assign(_) => "assignConversation",
            Self::Accept => "acceptConversation",
            Self::Join => "joinConversation",
            Self::Leave => "leaveConversation",
        }
    }

    /// Returns the fields of the conversation that the command of this caller sets.
    ///
    /// # Errors
    /// An internal error if the conversation cannot be serialized.
    fn patch(&self, conversation: &Conversation, caller: Id) -> Result<Patch, Error> {
        let mut patch = Patch::new();
        let mut participants = conversation.participants.to_vec();
        match self {
            Self::Meta { key, value } => {
                let mut meta = serde_json::to_value(&conversation.meta).map_err(Error::internal)?;
                if let Value::Object(values) = &mut meta {
                    match value {
                        Some(value) => values.insert(key.clone(), Value::String(value.clone())),
                        None => values.shift_remove(key),
                    };
                }
                patch.insert("meta".to_owned(), meta);
                return Ok(patch);
            }
            Self::Field { name, value } => {
                patch.insert((*name).to_owned(), json!(value));
                return Ok(patch);
            }
            Self::Assign(users) => {
                for user in users {
                    change_participant(&mut participants, *user, |assigned| assigned.inbox = true);
                }
            }
            Self::Join => change_participant(&mut participants, caller, |own| own.active = true),
            Self::Accept => {
                change_participant(&mut participants, caller, |own| {
                    (own.active, own.accepted, own.inbox) = (true, true, false);
                });
                patch.insert("status".to_owned(), ACTIVE.into());
            }
            Self::Leave => {
                let has_accepted = participants.iter().any(|participant| participant.accepted);
                for own in participants.iter_mut().filter(|participant| participant.user == caller) {
                    (own.active, own.accepted, own.inbox) = (false, false, false);
                }
                if has_accepted && !participants.iter().any(|participant| participant.accepted) {
                    patch.insert("status".to_owned(), CLOSED.into());
                }
            }
        }
        patch.insert("participants".to_owned(), serde_json::to_value(participants).map_err(Error::internal)?);
        Ok(patch)
    }
}

/// Changes the participant that is this user, after adding it if there is none.
fn change_participant(participants: &mut Vec<Participant>, user: Id, change: impl FnOnce(&mut Participant)) {
    if let Some(participant) = participants.iter_mut().find(|participant| participant.user == user) {
        return change(participant);
    }
    let mut participant = Participant { user, role: None, active: false, accepted: false, inbox: false };
    change(&mut participant);
    participants.push(participant);
}

/// Splits a text at its first white space.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest),
        None => (text, ""),
    }
}

/// Parses the users of `/assign`.
///
/// # Errors
/// The invalid field of the message, and what is wrong with it.
fn parse_users(users: Option<&Value>) -> Result<Vec<Id>, (String, InvalidValue)> {
    let invalid = |code, message: &str| ("meta.users".to_owned(), InvalidValue::new(code, message));
    let Some(users) = users.filter(|users| !users.is_null()) else {
        return Err(invalid(FieldErrorCode::Required, "/assign requires the ids of the users"));
    };
    let Some(users) = users.as_array() else {
        return Err(invalid(FieldErrorCode::InvalidType, "expected an array of the ids of users"));
    };
    if users.is_empty() {
        return Err(invalid(FieldErrorCode::TooFewItems, "expected at least one user"));
    }
    if users.len() > MAX_USERS {
        let message = format!("expected at most {MAX_USERS} users");
        return Err(invalid(FieldErrorCode::TooManyItems, &message));
    }
    let mut ids = Vec::with_capacity(users.len());
    for (index, user) in users.iter().enumerate() {
        let field = format!("meta.users.{index}");
        let Some(text) = user.as_str() else {
            return Err((field, InvalidValue::new(FieldErrorCode::InvalidType, "expected the id of a user")));
        };
        let id: Id = text.parse().map_err(|error| (field.clone(), error))?;
        if ids.contains(&id) {
            return Err((
                field,
                InvalidValue::new(FieldErrorCode::Duplicate, format!("duplicate user {id}")),
            ));
        }
        ids.push(id);
    }
    Ok(ids)
}
