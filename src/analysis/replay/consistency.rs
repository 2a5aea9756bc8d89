//! Members of a line that depend on each other. A line in which they differ is none that the service writes.
//!
//! The service writes the time of a decision also as `context.now`, and in an enforcement line, the caller is the principal and
//! `context.credential` is its credential. A denial without inputs has one of a few codes.

use crate::authz::LoggedUid;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The purpose of a decision about the caller's own request.
const ENFORCEMENT: &str = "enforcement";

/// The purpose of a decision that a client asked for.
const QUESTION: &str = "question";

/// The codes of a resource that cannot be evaluated.
const RESOURCE_CODES: [&str; 3] = ["undecidable", "invalid_attribute", "missing_attribute"];

/// The codes of a question that cannot be evaluated, in addition to those of its resource
/// ([`crate::api::decisions::evaluation::DecisionError`]).
const QUESTION_CODES: [&str; 6] =
    ["unknown_subject", "invalid", "blocked", "forbidden", "token_expired", "invalid_token"];

/// Who made the request.
#[derive(Debug, Deserialize)]
pub(super) struct LoggedCaller<'a> {
    /// The id of the user.
    #[serde(borrow)]
    user: Cow<'a, str>,
    /// The kind of the credential.
    #[serde(borrow)]
    credential: Cow<'a, str>,
}

/// When, why and by whom a request was made.
pub(super) struct RequestOrigin<'a> {
    pub(super) time: Option<&'a str>,
    pub(super) purpose: Option<&'a str>,
    pub(super) caller: Option<&'a LoggedCaller<'a>>,
}

/// The fields of the context that repeat other members of the line.
#[derive(Debug, Default, Deserialize)]
struct RepeatedFields<'a> {
    #[serde(borrow, default)]
    now: Option<&'a RawValue>,
    #[serde(borrow, default)]
    credential: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ExtensionValue<'a> {
    #[serde(borrow)]
    __extn: ExtensionCall<'a>,
}

#[derive(Deserialize)]
struct ExtensionCall<'a> {
    #[serde(borrow, rename = "fn")]
    function: Cow<'a, str>,
    #[serde(borrow)]
    arg: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow)]
    __entity: LoggedUid<'a>,
}

impl RequestOrigin<'_> {
    /// Checks that the principal of an enforcement line is the caller.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check_principal(&self, principal: &LoggedUid<'_>) -> Result<(), String> {
        if self.purpose != Some(ENFORCEMENT) {
            return Ok(());
        }
        let caller = self.caller.ok_or("`caller` is missing")?;
        match principal.kind == "User" && principal.id == caller.user {
            true => Ok(()),
            false => Err("the subject of an enforcement is not the user of `caller`".to_owned()),
        }
    }

    /// Checks the fields of the context that repeat other members. Only a context that may have such a field is parsed.
    ///
    /// # Errors
    /// A field has another value than the member that it repeats.
    pub(super) fn check_context(&self, context: &RawValue) -> Result<(), String> {
        let text = context.get();
        let is_enforcement = self.purpose == Some(ENFORCEMENT);
        let may_repeat = text.contains("\"now\"")
            || (is_enforcement && text.contains("\"credential\""))
            || text.contains('\\');
        if !may_repeat {
            return Ok(());
        }
        let RepeatedFields { now, credential } =
            serde_json::from_str(text).map_err(|error| format!("context: {error}"))?;
        let is_time = |value: &RawValue| {
            serde_json::from_str(value.get()).is_ok_and(|ExtensionValue { __extn: call }| {
                call.function == "datetime" && Some(&*call.arg) == self.time
            })
        };
        if !now.is_none_or(is_time) {
            return Err("`now` in the context is not the `time` of the line".to_owned());
        }
        let is_credential = |value: &RawValue| {
            let caller = self.caller.map(|caller| &*caller.credential);
            serde_json::from_str(value.get())
                .is_ok_and(|Reference { __entity: uid }| Some(&*uid.id) == caller)
        };
        if is_enforcement && !credential.is_none_or(is_credential) {
            return Err("`credential` in the context is not that of `caller`".to_owned());
        }
        Ok(())
    }

    /// Checks the error of a denial without inputs: one code, which says why the request could not be evaluated.
    ///
    /// # Errors
    /// The service writes no such error for this purpose.
    pub(super) fn check_unevaluated(&self, errors: Option<&RawValue>) -> Result<(), String> {
        let codes: Vec<Cow<'_, str>> =
            errors.and_then(|errors| serde_json::from_str(errors.get()).ok()).unwrap_or_default();
        let is_known = match codes.as_slice() {
            [code] if RESOURCE_CODES.contains(&&**code) => {
                [Some(ENFORCEMENT), Some(QUESTION)].contains(&self.purpose)
            }
            [code] => self.purpose == Some(QUESTION) && QUESTION_CODES.contains(&&**code),
            _ => false,
        };
        match is_known {
            true => Ok(()),
            false => {
                Err("`inputs` are missing, but `errors` is no code of a request that cannot be evaluated"
                    .to_owned())
            }
        }
    }
}
