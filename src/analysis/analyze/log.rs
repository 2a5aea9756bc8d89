//! Reads the decision log.

use crate::types::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

/// The maximum length of a line: 16 MiB.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// A line of the decision log.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedDecision<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    /// Who made the request.
    #[serde(borrow)]
    pub(super) caller: Option<LoggedCaller<'a>>,
    #[serde(borrow)]
    pub(super) subject: LoggedSubject<'a>,
    #[serde(borrow)]
    pub(super) action: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) resource: LoggedUid<'a>,
    /// Whether the decision was allow.
    pub decision: bool,
    /// The ids of the determining policies.
    #[serde(borrow)]
    pub policies: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) purpose: Cow<'a, str>,
    #[serde(default)]
    pub(super) masked: bool,
    #[serde(borrow)]
    pub(super) inputs: Option<LoggedInputs<'a>>,
}

/// The caller of a logged decision.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoggedCaller<'a> {
    #[serde(default, borrow)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) credential: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) credential_id: Option<Cow<'a, str>>,
}

/// The principal of a logged decision.
#[derive(Debug, Deserialize)]
pub(super) struct LoggedSubject<'a> {
    #[serde(borrow)]
    pub(super) r#type: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    /// In ascending order.
    #[serde(default, borrow)]
    pub(super) scopes: Vec<Cow<'a, str>>,
}

/// The type and id of an entity.
#[derive(Debug, Deserialize)]
pub(super) struct LoggedUid<'a> {
    #[serde(borrow)]
    pub(super) r#type: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
}

/// The inputs of a logged decision.
#[derive(Debug, Deserialize)]
pub(super) struct LoggedInputs<'a> {
    #[serde(borrow)]
    pub(super) entities: Vec<&'a RawValue>,
    #[serde(borrow)]
    pub(super) context: &'a RawValue,
    /// The resource that was evaluated, if it is another one.
    #[serde(default, borrow)]
    pub(super) resource: Option<LoggedUid<'a>>,
}

impl LoggedDecision<'_> {
    /// The time of the decision.
    pub fn time(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Why a file of the decision log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {error}")]
pub struct LogError {
    file: String,
    error: std::io::Error,
}

/// Reads the lines of these files, one after the other, and returns how many of them are no decisions.
///
/// # Errors
/// A file cannot be read, or has a line of more than 16 MiB.
pub fn read_log(files: &[PathBuf], mut visit: impl FnMut(&LoggedDecision<'_>)) -> Result<u64, LogError> {
    let mut invalid = 0;
    for path in files {
        let failed = |error| LogError { file: path.display().to_string(), error };
        let mut reader = BufReader::new(File::open(path).map_err(failed)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
            if bytes == 0 {
                break;
            }
            if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
                return Err(failed(std::io::Error::other("a line has more than 16 MiB")));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice::<LoggedDecision<'_>>(&line) {
                Ok(decision) if decision.time().is_some() => visit(&decision),
                Ok(_) | Err(_) => invalid += 1,
            }
        }
    }
    Ok(invalid)
}
