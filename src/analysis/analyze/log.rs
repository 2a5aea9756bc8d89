//! Reads the decision log.

use crate::types::Timestamp;
use serde::Deserialize;
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
    /// Whether the decision was allow.
    pub decision: bool,
    /// The ids of the determining policies.
    #[serde(borrow)]
    pub policies: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) purpose: Cow<'a, str>,
}

/// A search of the decision log, which has no decision.
#[derive(Debug, Deserialize)]
pub struct LoggedSearch<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) caller: Option<LoggedCaller<'a>>,
}

impl LoggedSearch<'_> {
    /// The time of the search.
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// What a line of the decision log records.
#[derive(Debug, Clone, Copy)]
pub enum LogEntry<'a> {
    /// A decision.
    Decision(&'a LoggedDecision<'a>),
    /// A search.
    Search(&'a LoggedSearch<'a>),
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
    /// In ascending order.
    #[serde(default, borrow)]
    pub(super) scopes: Vec<Cow<'a, str>>,
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

/// Reads the lines of these files, one after the other, and returns how many of them are neither decisions nor searches.
///
/// # Errors
/// A file cannot be read, or has a line of more than 16 MiB.
pub fn read_log(files: &[PathBuf], mut visit: impl FnMut(LogEntry<'_>)) -> Result<u64, LogError> {
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
                Ok(decision) if decision.time().is_some() => visit(LogEntry::Decision(&decision)),
                Ok(_) => invalid += 1,
                Err(_) => match serde_json::from_slice::<LoggedSearch<'_>>(&line) {
                    Ok(search) if search.kind == "search" => visit(LogEntry::Search(&search)),
                    Ok(_) | Err(_) => invalid += 1,
                },
            }
        }
    }
    Ok(invalid)
}
