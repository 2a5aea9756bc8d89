//! Archive files of the audit log: a header as a line of JSON, then one line for each entry with its hash and the previous
//! hash. A file gets its final name only when it is complete and synced.

use super::archive::{ArchiveFile, ArchiveSegment};
use super::audit::AuditRow;
use super::chain::ChainHead;
use super::verification_report::VerificationReport;
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format in the header.
const FORMAT: &str = "cedargate-audit-archive-1";

/// The maximum length of a line in bytes. Entries have only ids, keywords and a few short texts.
const MAX_LINE: u64 = 1024 * 1024;

/// The first line of an archive file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    format: String,
    /// The number of the first entry.
    pub(super) first: i64,
    /// The number of the last entry.
    pub(super) last: i64,
    /// The hash of the entry before the first one.
    previous: String,
    /// The hash of the last entry.
    hash: String,
}

/// Writes an archive file.
pub struct ArchiveWriter {
    out: BufWriter<File>,
    digest: Context,
    directory: PathBuf,
    temporary: PathBuf,
    segment: ArchiveSegment,
    verified: VerificationReport,
}

impl fmt::Debug for ArchiveWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveWriter").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

/// Why an archive file was not written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An input or output error.
    #[error("{}: {error}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of this name exists with other content.
    #[error("{} exists with other content; move it away", .0.display())]
    Exists(PathBuf),
    /// The entries do not verify; one fault per line.
    #[error("{0}")]
    Faults(String),
}

impl ArchiveWriter {
    /// Creates the file of a segment under a temporary name in this directory.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(directory: &Path, segment: &ArchiveSegment) -> Result<Self, ArchiveError> {
        let temporary = directory.join(format!(".{}.{}", file_name(segment), std::process::id()));
        let failed = |error| ArchiveError::File { path: temporary.clone(), error };
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let out = BufWriter::new(file.map_err(failed)?);
        let mut writer = Self {
            out,
            digest: Context::new(&SHA256),
            directory: directory.to_owned(),
            temporary,
            segment: segment.clone(),
            verified: VerificationReport::starting_at(segment.previous.clone()),
        };
        let header = Header {
            format: FORMAT.to_owned(),
            first: segment.first(),
            last: segment.last.seq,
            previous: segment.previous.hash.clone(),
            hash: segment.last.hash.clone(),
        };
        writer.write_line(&header)?;
        Ok(writer)
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, row: &AuditRow) -> Result<(), ArchiveError> {
        self.verified.check(row, None);
        self.write_line(row)
    }

    fn write_line(&mut self, value: &impl Serialize) -> Result<(), ArchiveError> {
        let text = serde_json::to_string(value).map_err(|error| self.io_error(error.into()))? + "\n";
        self.digest.update(text.as_bytes());
        self.out.write_all(text.as_bytes()).map_err(|error| self.io_error(error))
    }

    fn io_error(&self, error: io::Error) -> ArchiveError {
        ArchiveError::File { path: self.temporary.clone(), error }
    }

    /// Verifies the entries, syncs the file and gives it its final name. An existing file with the same content, left by an
    /// interrupted run, is accepted.
    ///
    /// # Errors
    /// If the entries are not those of the segment or do not verify, or the file cannot be written.
    pub fn finish(mut self) -> Result<ArchiveFile, ArchiveError> {
        let finished = self.publish();
        let _ = std::fs::remove_file(&self.temporary);
        finished
    }

    fn publish(&mut self) -> Result<ArchiveFile, ArchiveError> {
        if self.verified.faults.is_empty() && self.verified.head != self.segment.last {
            let (first, last) = (self.segment.first(), self.segment.last.seq);
            self.verified.add_fault(format!("entries {first} to {last} changed while they were archived"));
        }
        if !self.verified.faults.is_empty() {
            return Err(ArchiveError::Faults(self.verified.faults.join("\n")));
        }
        self.out.flush().map_err(|error| self.io_error(error))?;
        self.out.get_ref().sync_all().map_err(|error| self.io_error(error))?;
        let file =
            ArchiveFile { name: file_name(&self.segment), digest: hex::encode(self.digest.clone().finish()) };
        let path = self.directory.join(&file.name);
        let failed = |error| ArchiveError::File { path: path.clone(), error };
        match std::fs::hard_link(&self.temporary, &path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if digest(&path).map_err(failed)? != file.digest {
                    return Err(ArchiveError::Exists(path));
                }
                File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
            }
            linked => linked.map_err(failed)?,
        }
        // The directory entry must survive a crash, too.
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(file)
    }
}

/// Returns the name of the file of a segment. The hash distinguishes segments of different databases.
fn file_name(segment: &ArchiveSegment) -> String {
    let hash: String = segment.last.hash.chars().take(8).collect();
    format!("audit-{}-{}-{hash}.ndjson", segment.first(), segment.last.seq)
}

/// Returns the SHA-256 of a file in hex.
///
/// # Errors
/// The file cannot be read.
pub(super) fn digest(path: &Path) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut file = BufReader::new(File::open(path)?);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hex::encode(context.finish()));
        }
        context.update(bytes);
        let count = bytes.len();
        file.consume(count);
    }
}

/// Reads a line of bounded length; none at the end of the file.
fn read_line(file: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let mut limited = io::Read::take(file, MAX_LINE);
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(io::Error::new(ErrorKind::InvalidData, "the last line is incomplete"));
    }
    Ok(Some(line))
}

/// Reads the header of a file.
///
/// # Errors
/// The file cannot be read, or does not begin with a header.
pub(super) fn header(path: &Path) -> io::Result<Header> {
    let mut file = BufReader::new(File::open(path)?);
    read_header(&mut file)
}

fn read_header(file: &mut impl BufRead) -> io::Result<Header> {
    let line = read_line(file)?.unwrap_or_default();
    let header: Header = serde_json::from_str(&line).map_err(|_| not_an_archive())?;
    if header.format == FORMAT { Ok(header) } else { Err(not_an_archive()) }
}

fn not_an_archive() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an archive of an audit log")
}

/// Verifies the entries of a file, which continue those verified before.
///
/// # Errors
/// The file cannot be read, or does not begin with a header. Faults of its entries are added to the report.
pub(super) fn check_archive(
    path: &Path,
    report: &mut VerificationReport,
    expected_head: Option<&ChainHead>,
) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let header = read_header(&mut file)?;
    while let Some(line) = read_line(&mut file)? {
        match serde_json::from_str::<AuditRow>(&line) {
            Ok(row) => report.check(&row, expected_head),
            Err(error) => report.add_fault(format!("{}: {error}", path.display())),
        }
    }
    let end = ChainHead { seq: header.last, hash: header.hash };
    if report.head != end {
        let head = &report.head;
        report.add_fault(format!("{}: ends with entry {head}, but its header says {end}", path.display()));
    }
    Ok(())
}
