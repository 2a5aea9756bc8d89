//! The lines of the log, and the file that they go to. A line is whole or it is not there: what could not be written is
//! counted, and told in the log as soon as that can be written again.

use super::queue::Missed;
use super::{Counts, LogError, Settings, Target};
use crate::values::Timestamp;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many bytes of lines are gathered before they are written.
const GATHERED: usize = 64 * 1024;

/// A line that stands for records that are not there.
#[derive(Debug, Serialize)]
struct Gap {
    dropped: u64,
    time: Timestamp,
}

/// Lines that are gathered, and where they go.
pub(super) struct Lines {
    out: Box<dyn Write + Send>,
    files: Option<Files>,
    counts: Arc<Counts>,
    /// Whole lines that are not written yet.
    gathered: Vec<u8>,
    /// Where each of them ends, and what it says.
    entries: Vec<(usize, Entry)>,
    /// What is not in the log, and not told there yet.
    missed: Missed,
    /// Whether the log ends in the midst of a line.
    is_torn: bool,
    /// Whether the last attempt to write failed.
    is_failing: bool,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Record(Timestamp),
    Gap(Missed),
}

/// A file and those before it.
#[derive(Debug, Clone)]
struct Files {
    path: PathBuf,
    /// The bytes of the file.
    length: u64,
    max_bytes: u64,
    keep: u32,
    /// Whether the last attempt to begin the next file failed.
    is_failing: bool,
}

impl Lines {
    pub(super) fn open(settings: &Settings, counts: Arc<Counts>) -> Result<Self, LogError> {
        let path = match &settings.to {
            Target::Stdout => return Ok(Self::new(Box::new(io::stdout()), None, counts)),
            Target::File(path) => path,
        };
        let failed = |error| LogError::File { path: path.clone(), error };
        let file = append_to(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        // A pipe or a device is neither read nor renamed.
        let files = about.is_file().then(|| Files {
            path: path.clone(),
            length: about.len(),
            max_bytes: settings.max_bytes,
            keep: settings.keep.max(1),
            is_failing: false,
        });
        let is_torn = about.is_file() && about.len() > 0 && last_byte(path).map_err(failed)? != b'\n';
        Ok(Self { is_torn, ..Self::new(Box::new(file), files, counts) })
    }

    #[cfg(test)]
    pub(super) fn to_writer(out: Box<dyn Write + Send>, counts: Arc<Counts>) -> Self {
        Self::new(out, None, counts)
    }

    fn new(out: Box<dyn Write + Send>, files: Option<Files>, counts: Arc<Counts>) -> Self {
        Self {
            out,
            files,
            counts,
            gathered: Vec::new(),
            entries: Vec::new(),
            missed: Missed::NONE,
            is_torn: false,
            is_failing: false,
        }
    }

    /// Adds the line of a record that was made at this time.
    pub(super) fn add(&mut self, line: &[u8], time: Timestamp) {
        self.tell_missed();
        self.gather(line, Entry::Record(time));
    }

    /// Notes that records were dropped after those that were added.
    pub(super) fn miss(&mut self, missed: Missed) {
        self.missed.add(missed);
        if missed.records > 0 {
            self.tell_missed();
        }
    }

    /// Writes what is gathered, and what is still to be told.
    pub(super) fn end(&mut self) {
        self.tell_missed();
        self.flush();
    }

    fn tell_missed(&mut self) {
        let missed = std::mem::replace(&mut self.missed, Missed::NONE);
        if missed.records > 0 {
            let gap = Gap { dropped: missed.records, time: missed.last };
            match serde_json::to_string(&gap) {
                Ok(line) => self.gather(format!("{line}\n").as_bytes(), Entry::Gap(missed)),
                Err(error) => {
                    self.failed(&error);
                    self.missed = missed;
                }
            }
        }
    }

    fn gather(&mut self, line: &[u8], entry: Entry) {
        if self.is_full(line.len()) {
            self.flush();
            if self.is_full(line.len()) {
                self.rotate();
            }
        }
        self.gathered.extend_from_slice(line);
        self.entries.push((self.gathered.len(), entry));
        if self.gathered.len() >= GATHERED {
            self.flush();
        }
    }

    /// Whether so many bytes more are too many for the file. For an empty one nothing is.
    fn is_full(&self, bytes: usize) -> bool {
        let Some(files) = &self.files else { return false };
        let length = files.length + self.gathered.len() as u64;
        length > 0 && length + bytes as u64 > files.max_bytes
    }

    /// Writes what is gathered. What could not be written is lost: to hold it would only move the loss to later lines.
    pub(super) fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let (written, result) = self.pour();
        let mut records = 0;
        for (end, entry) in std::mem::take(&mut self.entries) {
            match entry {
                _ if end > written => self.lose(entry),
                Entry::Record(_) => records += 1,
                Entry::Gap(_) => {}
            }
        }
        self.counts.keep(records);
        self.gathered.clear();
        match result {
            Err(error) => self.failed(&error),
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!("the decision log is written again");
            }
            Ok(()) => {}
        }
    }

    /// Writes what is gathered, on a line of its own, and says how many bytes of it were written.
    fn pour(&mut self) -> (usize, io::Result<()>) {
        let mut more = 0;
        if self.is_torn {
            let (written, result) = write(&mut self.out, b"\n");
            if written == 0 {
                return (0, result);
            }
            more = written;
        }
        let (written, result) = write(&mut self.out, &self.gathered);
        let last = self.gathered.get(..written).and_then(<[u8]>::last);
        self.is_torn = last.is_some_and(|last| *last != b'\n');
        if let Some(files) = &mut self.files {
            files.length += (more + written) as u64;
        }
        (written, result)
    }

    fn rotate(&mut self) {
        let Some(files) = &mut self.files else { return };
        match files.next() {
            Ok(file) => {
                self.out = Box::new(file);
                self.is_torn = false;
                *files = Files { length: 0, is_failing: false, ..files.clone() };
            }
            // The lines go on in the same file.
            Err(error) => {
                let path = files.path.display();
                if !std::mem::replace(&mut files.is_failing, true) {
                    tracing::error!(%error, %path, "the next file of the decision log could not be begun");
                }
            }
        }
    }

    fn lose(&mut self, entry: Entry) {
        self.missed.add(match entry {
            Entry::Gap(missed) => missed,
            Entry::Record(time) => {
                self.counts.lose(1);
                Missed { records: 1, last: time }
            }
        });
    }

    /// Tells of a failure, but not of the same one with every line.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "the decision log could not be written; decisions are missing in it");
        }
    }
}

impl Files {
    /// Begins the next file. It is there before anything is renamed, so that a failure leaves the files as they are.
    fn next(&self) -> io::Result<File> {
        let new = self.beside("new");
        let file = append_to(&new)?;
        // Up to the first number that is free: trying again moves no file further than it must.
        let free = (1..=self.keep).find(|number| !self.beside(number).exists()).unwrap_or(self.keep);
        for number in (1..free).rev() {
            rename(&self.beside(number), &self.beside(number + 1))?;
        }
        rename(&self.path, &self.beside(1))?;
        rename(&new, &self.path)?;
        Ok(file)
    }

    fn beside(&self, ending: impl std::fmt::Display) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{ending}"));
        name.into()
    }
}

/// Opens a file to append to; one that is not there is made, for its owner and group only.
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

/// Renames a file, if it is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes all bytes, or says how many it could.
fn write(out: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}
