//! The lines of the log, and the file that they go to. A line is whole or it is not there: what could not be written is
//! counted, and told in the log as soon as that can be written again.

use super::batch::Batch;
use super::queue::Missed;
use super::{Counts, LogError, Settings, Target};
use crate::values::Timestamp;
use serde::Serialize;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line that stands for records that are not there.
#[derive(Debug, Serialize)]
struct Gap {
    dropped: u64,
    time: Timestamp,
}

/// Where lines go.
pub(super) struct Lines {
    out: Box<dyn Write + Send>,
    files: Option<Files>,
    counts: Arc<Counts>,
    /// What is not in the log, and not told there yet.
    missed: Missed,
    /// Whether the log ends in the midst of a line.
    is_torn: bool,
    /// Whether the last attempt to write failed.
    is_failing: bool,
}

/// A file and those before it.
#[derive(Debug, Clone)]
struct Files {
    path: PathBuf,
    /// Which file it is, whatever its name.
    identity: Identity,
    /// The bytes of the file.
    length: u64,
    max_bytes: u64,
    keep: u32,
    /// Whether the last attempt to begin the next file failed.
    is_failing: bool,
}

/// The device and the inode of a file.
type Identity = (u64, u64);

fn identity(about: &Metadata) -> Identity {
    (about.dev(), about.ino())
}

/// A file that was opened to append to.
struct Opened {
    file: File,
    /// None where it is a pipe or a device.
    identity: Option<Identity>,
    length: u64,
    is_torn: bool,
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let about = file.metadata()?;
        let (is_file, length) = (about.is_file(), about.len());
        let is_torn = is_file && length > 0 && last_byte(path)? != b'\n';
        Ok(Self { file, identity: is_file.then(|| identity(&about)), length, is_torn })
    }
}

impl Lines {
    pub(super) fn open(settings: &Settings, counts: Arc<Counts>) -> Result<Self, LogError> {
        let path = match &settings.to {
            Target::Stdout => return Ok(Self::new(Box::new(io::stdout()), None, counts)),
            Target::File(path) => path,
        };
        let failed = |error| LogError::File { path: path.clone(), error };
        let opened = Opened::at(path).map_err(failed)?;
        // A pipe or a device is neither read nor renamed.
        let files = opened.identity.map(|identity| Files {
            path: path.clone(),
            identity,
            length: opened.length,
            max_bytes: settings.max_bytes,
            keep: settings.keep.max(1),
            is_failing: false,
        });
        Ok(Self { is_torn: opened.is_torn, ..Self::new(Box::new(opened.file), files, counts) })
    }

    #[cfg(test)]
    pub(super) fn to_writer(out: Box<dyn Write + Send>, counts: Arc<Counts>) -> Self {
        Self::new(out, None, counts)
    }

    fn new(out: Box<dyn Write + Send>, files: Option<Files>, counts: Arc<Counts>) -> Self {
        Self { out, files, counts, missed: Missed::NONE, is_torn: false, is_failing: false }
    }

    /// Writes the lines of a batch. What could not be written is lost: to hold it would only move the loss to later lines.
    pub(super) fn write(&mut self, batch: &Batch) {
        self.follow();
        let mut next = 0;
        // What is missing before a line is told before it.
        while next < batch.count() && self.tell_missed() {
            next += self.write_from(batch, next);
        }
        self.lose(batch, next..batch.count());
    }

    /// Writes as many lines of a batch from this one on as the file has room for, and says how many those are.
    fn write_from(&mut self, batch: &Batch, first: usize) -> usize {
        let mut count = batch.that_fit(first, self.room());
        if count == 0 {
            self.rotate();
            // One that is longer than a file has one of its own.
            count = batch.that_fit(first, self.room()).max(1);
        }
        let end = first + count;
        let written = self.put(batch.text(first..end));
        let whole = batch.that_fit(first, written as u64);
        self.counts.keep(whole as u64);
        self.lose(batch, first + whole..end);
        count
    }

    /// These lines are not written.
    fn lose(&mut self, batch: &Batch, lines: Range<usize>) {
        for time in batch.times(lines) {
            self.counts.lose(1);
            self.missed.add(Missed { records: 1, last: time });
        }
    }

    /// Opens the file again where its name stands for another one, or for none: another program has rotated it.
    fn follow(&mut self) {
        let Some(files) = &mut self.files else { return };
        match std::fs::metadata(&files.path) {
            Ok(about) if identity(&about) == files.identity => {
                // Shorter than it was, if another program has copied and truncated it.
                if about.len() == 0 {
                    self.is_torn = false;
                }
                files.length = about.len();
            }
            Ok(_) => self.reopen(),
            Err(error) if error.kind() == ErrorKind::NotFound => self.reopen(),
            // The file that is open can be written still.
            Err(_) => {}
        }
    }

    /// Opens the file again by its name. Where that fails, the lines go on in the one that is open.
    pub(super) fn reopen(&mut self) {
        let Some(files) = &mut self.files else { return };
        match Opened::at(&files.path) {
            Ok(Opened { file, identity: Some(identity), length, is_torn }) => {
                self.out = Box::new(file);
                self.is_torn = is_torn;
                *files = Files { identity, length, is_failing: false, ..files.clone() };
            }
            Ok(_) => files.failed(&"it is not a file"),
            Err(error) => files.failed(&error),
        }
    }

    /// Tells that records were dropped after those that were written.
    pub(super) fn miss(&mut self, missed: Missed) {
        self.missed.add(missed);
        self.tell_missed();
    }

    /// Tells what is still to be told.
    pub(super) fn end(mut self) {
        self.tell_missed();
    }

    /// Tells what is missing in the log. Whether nothing is left to be told.
    fn tell_missed(&mut self) -> bool {
        let missed = self.missed;
        if missed.records == 0 {
            return true;
        }
        let line = match serde_json::to_string(&Gap { dropped: missed.records, time: missed.last }) {
            Ok(line) => line + "\n",
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        if self.room() < line.len() as u64 {
            self.rotate();
        }
        let is_told = self.put(line.as_bytes()) == line.len();
        if is_told {
            self.missed = Missed::NONE;
        }
        is_told
    }

    /// How many bytes more the file may have.
    fn room(&self) -> u64 {
        self.files.as_ref().map_or(u64::MAX, |files| files.max_bytes.saturating_sub(files.length))
    }

    /// Writes whole lines, and says how many bytes of them were written.
    fn put(&mut self, lines: &[u8]) -> usize {
        let (written, result) = self.pour(lines);
        match result {
            Err(error) => self.failed(&error),
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!("the decision log is written again");
            }
            Ok(()) => {}
        }
        written
    }

    /// Writes lines, the first of them on a line of its own.
    fn pour(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut more = 0;
        if self.is_torn {
            let (written, result) = write(&mut self.out, b"\n");
            if written == 0 {
                return (0, result);
            }
            more = written;
        }
        let (written, result) = write(&mut self.out, lines);
        let last = lines.get(..written).and_then(<[u8]>::last);
        self.is_torn = last.is_some_and(|last| *last != b'\n');
        if let Some(files) = &mut self.files {
            files.length += (more + written) as u64;
        }
        (written, result)
    }

    /// Begins the next file, unless there is nothing in this one.
    fn rotate(&mut self) {
        let Some(files) = self.files.as_mut().filter(|files| files.length > 0) else { return };
        match files.next().and_then(|file| Ok((identity(&file.metadata()?), file))) {
            Ok((identity, file)) => {
                self.out = Box::new(file);
                self.is_torn = false;
                *files = Files { identity, length: 0, is_failing: false, ..files.clone() };
            }
            // The lines go on in the same file.
            Err(error) => files.failed(&error),
        }
    }

    /// Tells of a failure, but not of the same one with every line.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "the decision log could not be written; decisions are missing in it");
        }
    }
}

impl Files {
    /// Logs that another file could not be opened, but not with every line.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let path = self.path.display();
            tracing::error!(%error, %path, "the next file of the decision log could not be begun");
        }
    }

    /// Begins the next file. It is there before anything is renamed, so that a failure leaves the files as they are.
    fn next(&self) -> io::Result<File> {
        let new = self.beside("new");
        let file = append_to(&new)?;
        // Up to the first number that is free: trying again moves no file further than it must.
        let free = (1..=self.keep).find(|number| !self.beside(number).exists()).unwrap_or(self.keep);
        let last = self.beside(free);
        let last = if last.is_file() { File::open(last).ok() } else { None };
        for number in (1..free).rev() {
            rename(&self.beside(number), &self.beside(number + 1))?;
        }
        rename(&self.path, &self.beside(1))?;
        rename(&new, &self.path)?;
        if let Some(last) = last {
            give_up(last);
        }
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

/// Closes a file that has lost its name, and so frees what it occupies. That can take a disk as long as the queue has room,
/// so a thread of its own waits for it.
fn give_up(file: File) {
    let thread = std::thread::Builder::new().name("decision-log-old".into());
    // Where there is no thread to be had, it is closed here.
    if let Err(error) = thread.spawn(move || drop(file)) {
        tracing::debug!(%error, "the oldest file of the decision log was closed by the writer");
    }
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
