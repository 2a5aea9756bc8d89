//! What is recorded of a decision. A record is made of numbers, of what is shared and of what is moved: no text is put
//! together before the writer has it.

use crate::values::{Id, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A decision, with all that it was made of.
#[derive(Debug)]
pub struct Record {
    /// When it was made.
    pub time: Timestamp,
    /// The id of the request that it was made for, if there is one.
    pub request: Option<Text>,
    /// Who asked for it.
    pub caller: Caller,
    /// Whom it is about.
    pub subject: Subject,
    /// What was to be done.
    pub action: Text,
    /// To what.
    pub resource: Thing,
    /// Whether it was permitted.
    pub decision: bool,
    /// By which policies.
    pub grounds: Arc<dyn Grounds>,
    /// The version of the policies.
    pub policy_version: Text,
    /// How long it took.
    pub latency: Duration,
    /// What else was read: attributes, parents, the context.
    pub inputs: Inputs,
}

/// Who asked, and with which credential. Of the credential there is no more here than its id.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The user.
    pub user: Id,
    /// The kind of its credential, by the word that policies know it by.
    pub credential: &'static str,
    /// The id of the session or API key, if it is one.
    pub credential_id: Option<Id>,
}

/// Whom a decision is about, and with which scopes.
#[derive(Debug, Serialize)]
pub struct Subject {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: Text,
    /// Its id.
    pub id: Text,
    /// The scopes that it had.
    pub scopes: Vec<&'static str>,
}

/// What a decision is about.
#[derive(Debug, Serialize)]
pub struct Thing {
    /// Its Cedar entity type.
    #[serde(rename = "type")]
    pub kind: Text,
    /// Its id.
    pub id: Text,
}

/// What a decision rests on. Whoever decides has this in some form already, and shares it as it is.
pub trait Grounds: fmt::Debug + Send + Sync {
    /// The ids of the policies that decided.
    fn policies(&self) -> Vec<&str>;

    /// What went wrong in deciding.
    fn errors(&self) -> &[String];
}

/// A text that costs nothing to hand over: a fixed one, a shared one, one that is given away, or an id not yet written.
#[derive(Debug, Clone)]
pub enum Text {
    /// A text of the program's own.
    Fixed(&'static str),
    /// A text that others have, too.
    Shared(Arc<str>),
    /// A text that nobody else has.
    Own(Box<str>),
    /// An id.
    Id(Id),
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(text) => serializer.serialize_str(text),
            Self::Shared(text) => serializer.serialize_str(text),
            Self::Own(text) => serializer.serialize_str(text),
            Self::Id(id) => id.serialize(serializer),
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::Fixed(text)
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Own(text.into())
    }
}

impl From<Id> for Text {
    fn from(id: Id) -> Self {
        Self::Id(id)
    }
}

/// What a decision has read.
pub enum Inputs {
    /// Nothing that is not elsewhere in the record.
    None,
    /// This.
    Known(Value),
    /// What the writer makes of what it is given.
    Made(Box<dyn FnOnce() -> Value + Send>),
}

impl Inputs {
    /// Inputs that the writer puts together, so that no request waits for it.
    pub fn made(make: impl FnOnce() -> Value + Send + 'static) -> Self {
        Self::Made(Box::new(make))
    }

    pub(super) fn value(self) -> Value {
        match self {
            Self::None => Value::Object(serde_json::Map::new()),
            Self::Known(value) => value,
            Self::Made(make) => make(),
        }
    }
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They may hold what is to be masked.
        f.write_str("Inputs")
    }
}
