//! Writes lines to the target of the log and rotates its files.
//!
//! A line is either complete or counted as dropped. Drops are reported in the log by a marker line, as soon as it can be
//! written again.

use super::batch::Batch;
use super::queue::DroppedRecords;
use super::{DecisionLogError, LogCounters, LogTarget, Settings};
use crate::types::Timestamp;
use serde::Serialize;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line that reports dropped records.
#[derive(Debug, Serialize)]
struct DroppedMarker {
    /// The number of dropped records.
    dropped: u64,
    /// The time of the last dropped decision.
    time: Timestamp,
}

/// Writes lines to standard output or to a file.
pub(super) struct LineWriter {
    out: Box<dyn Write + Send>,
    files: Option<RotatingFile>,
    counts: Arc<LogCounters>,
    /// Dropped records that are not yet reported in the log.
    dropped: DroppedRecords,
    /// Whether the log ends with an incomplete line.
    ends_mid_line: bool,
    /// Whether the last attempt to write failed.
    is_failing: bool,
}

/// A log file that is rotated by size.
#[derive(Debug, Clone)]
struct RotatingFile {
    path: PathBuf,
    /// Identifies the open file independently of its name.
    identity: Identity,
    /// The size of the file in bytes.
    length: u64,
    max_bytes: u64,
    max_files: u32,
    /// Whether the last attempt to open the next file failed.
    is_failing: bool,
}

/// The device and inode of a file.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// A file that was opened for appending.
struct OpenedFile {
    file: File,
    /// None for a pipe or a device.
    identity: Option<Identity>,
    length: u64,
    ends_mid_line: bool,
}

impl OpenedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let metadata = file.metadata()?;
        let (is_file, length) = (metadata.is_file(), metadata.len());
        let ends_mid_line = is_file && length > 0 && last_byte(path)? != b'\n';
        Ok(Self { file, identity: is_file.then(|| identity(&metadata)), length, ends_mid_line })
    }
}

impl LineWriter {
    /// Opens the target of the log.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(settings: &Settings, counts: Arc<LogCounters>) -> Result<Self, DecisionLogError> {
        let path = match &settings.target {
            LogTarget::Stdout => return Ok(Self::new(Box::new(io::stdout()), None, counts)),
            LogTarget::File(path) => path,
        };
        let failed = |error| DecisionLogError::File { path: path.clone(), error };
        let opened = OpenedFile::open(path).map_err(failed)?;
        // Pipes and devices are not rotated.
        let files = opened.identity.map(|identity| RotatingFile {
            path: path.clone(),
            identity,
            length: opened.length,
            max_bytes: settings.max_bytes,
            max_files: settings.max_files.max(1),
            is_failing: false,
        });
        Ok(Self { ends_mid_line: opened.ends_mid_line, ..Self::new(Box::new(opened.file), files, counts) })
    }

    #[cfg(test)]
    pub(super) fn to_writer(out: Box<dyn Write + Send>, counts: Arc<LogCounters>) -> Self {
        Self::new(out, None, counts)
    }

    fn new(out: Box<dyn Write + Send>, files: Option<RotatingFile>, counts: Arc<LogCounters>) -> Self {
        Self { out, files, counts, dropped: DroppedRecords::NONE, ends_mid_line: false, is_failing: false }
    }

    /// Writes the lines of a batch. Lines that cannot be written are dropped: keeping them would only drop later lines instead.
    pub(super) fn write(&mut self, batch: &Batch) {
        self.reopen_if_replaced();
        let mut next = 0;
        // Drops are reported before the lines that follow them.
        while next < batch.count() && self.write_dropped_marker() {
            next += self.write_from(batch, next);
        }
        self.count_dropped(batch, next..batch.count());
    }

    /// Writes as many lines, starting with `first`, as fit into the file. Returns the number of lines it has processed.
    fn write_from(&mut self, batch: &Batch, first: usize) -> usize {
        let mut count = batch.count_fitting(first, self.remaining_bytes());
        if count == 0 {
            self.rotate();
            // A line that exceeds the maximum size gets its own file.
            count = batch.count_fitting(first, self.remaining_bytes()).max(1);
        }
        let end = first + count;
        let written = self.write_lines(batch.text(first..end));
        let complete = batch.count_fitting(first, written as u64);
        self.counts.add_written(complete as u64);
        self.count_dropped(batch, first + complete..end);
        count
    }

    /// Counts these lines as dropped.
    fn count_dropped(&mut self, batch: &Batch, lines: Range<usize>) {
        for time in batch.times(lines) {
            self.counts.add_dropped(1);
            self.dropped.add(DroppedRecords { records: 1, last: time });
        }
    }

    /// Reopens the file if another program has renamed, replaced or deleted it.
    fn reopen_if_replaced(&mut self) {
        let Some(files) = &mut self.files else { return };
        match std::fs::metadata(&files.path) {
            Ok(metadata) if identity(&metadata) == files.identity => {
                // The file is shorter if another program has copied and truncated it.
                if metadata.len() == 0 {
                    self.ends_mid_line = false;
                }
                files.length = metadata.len();
            }
            Ok(_) => self.reopen(),
            Err(error) if error.kind() == ErrorKind::NotFound => self.reopen(),
            // The open file can still be written.
            Err(_) => {}
        }
    }

    /// Reopens the file by its path. On failure, the open file stays in use.
    pub(super) fn reopen(&mut self) {
        let Some(files) = &mut self.files else { return };
        match OpenedFile::open(&files.path) {
            Ok(OpenedFile { file, identity: Some(identity), length, ends_mid_line }) => {
                self.out = Box::new(file);
                self.ends_mid_line = ends_mid_line;
                *files = RotatingFile { identity, length, is_failing: false, ..files.clone() };
            }
            Ok(_) => files.report_failure(&"not a regular file"),
            Err(error) => files.report_failure(&error),
        }
    }

    /// Reports records that were dropped after those that were written.
    pub(super) fn report_dropped(&mut self, dropped: DroppedRecords) {
        self.dropped.add(dropped);
        self.write_dropped_marker();
    }

    /// Writes a pending marker before the log is closed.
    pub(super) fn finish(mut self) {
        self.write_dropped_marker();
    }

    /// Writes a marker for unreported drops. True if none are left.
    fn write_dropped_marker(&mut self) -> bool {
        let dropped = self.dropped;
        if dropped.records == 0 {
            return true;
        }
        let line =
            match serde_json::to_string(&DroppedMarker { dropped: dropped.records, time: dropped.last }) {
                Ok(line) => line + "\n",
                Err(error) => {
                    self.report_failure(&error);
                    return false;
                }
            };
        if self.remaining_bytes() < line.len() as u64 {
            self.rotate();
        }
        let is_written = self.write_lines(line.as_bytes()) == line.len();
        if is_written {
            self.dropped = DroppedRecords::NONE;
        }
        is_written
    }

    /// The number of bytes until the file is full.
    fn remaining_bytes(&self) -> u64 {
        self.files.as_ref().map_or(u64::MAX, |files| files.max_bytes.saturating_sub(files.length))
    }

    /// Writes complete lines, and returns how many bytes of them were written.
    fn write_lines(&mut self, lines: &[u8]) -> usize {
        let (written, result) = self.write_bytes(lines);
        match result {
            Err(error) => self.report_failure(&error),
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!("decision log write succeeded again");
            }
            Ok(()) => {}
        }
        written
    }

    /// Writes lines, after a line break if the log ends with an incomplete line.
    fn write_bytes(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut newline_bytes = 0;
        if self.ends_mid_line {
            let (written, result) = write_all_counted(&mut self.out, b"\n");
            if written == 0 {
                return (0, result);
            }
            newline_bytes = written;
        }
        let (written, result) = write_all_counted(&mut self.out, lines);
        let last = lines.get(..written).and_then(<[u8]>::last);
        self.ends_mid_line = last.is_some_and(|last| *last != b'\n');
        if let Some(files) = &mut self.files {
            files.length += (newline_bytes + written) as u64;
        }
        (written, result)
    }

    /// Opens the next file, unless the current one is empty.
    fn rotate(&mut self) {
        let Some(files) = self.files.as_mut().filter(|files| files.length > 0) else { return };
        match files.rotate().and_then(|file| Ok((identity(&file.metadata()?), file))) {
            Ok((identity, file)) => {
                self.out = Box::new(file);
                self.ends_mid_line = false;
                *files = RotatingFile { identity, length: 0, is_failing: false, ..files.clone() };
            }
            // The current file stays in use.
            Err(error) => files.report_failure(&error),
        }
    }

    /// Logs a failure once, until a write succeeds.
    fn report_failure(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "decision log write failed; records lost");
        }
    }
}

impl RotatingFile {
    /// Logs once that the next file cannot be opened, until one is.
    fn report_failure(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let path = self.path.display();
            tracing::error!(%error, %path, "cannot open the next decision log file");
        }
    }

    /// Renames the files and opens the next one. It is created first, so that a failure to create it leaves the files unchanged.
    fn rotate(&self) -> io::Result<File> {
        let new = self.sibling_path("new");
        let file = append_to(&new)?;
        // Files are renamed up to the first unused number, so that a retry does not move them twice.
        let free_number =
            (1..=self.max_files).find(|number| !self.sibling_path(number).exists()).unwrap_or(self.max_files);
        let last = self.sibling_path(free_number);
        let last = if last.is_file() { File::open(last).ok() } else { None };
        for number in (1..free_number).rev() {
            rename(&self.sibling_path(number), &self.sibling_path(number + 1))?;
        }
        rename(&self.path, &self.sibling_path(1))?;
        rename(&new, &self.path)?;
        if let Some(last) = last {
            close_in_background(last);
        }
        Ok(file)
    }

    /// The path of the log with a suffix, such as `log.1`.
    fn sibling_path(&self, ending: impl std::fmt::Display) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{ending}"));
        name.into()
    }
}

/// Opens a file for appending. A new file is accessible to its owner and group only (mode 640).
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    let [byte] = byte;
    Ok(byte)
}

/// Closes a deleted file in a background thread. Freeing its blocks can take so long that the queue would fill up.
fn close_in_background(file: File) {
    let thread = std::thread::Builder::new().name("decision-log-old".into());
    // If no thread can be started, the file is closed here.
    if let Err(error) = thread.spawn(move || drop(file)) {
        tracing::debug!(%error, "cannot start a thread to close the oldest decision log file");
    }
}

/// Renames a file if it exists.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes all bytes, and returns how many were written.
fn write_all_counted(out: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}
