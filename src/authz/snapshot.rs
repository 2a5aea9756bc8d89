//! A copy of all policy files in memory: what is hashed and compared is exactly what is parsed afterwards.

use super::{BundleDiagnostic, BundleError, Sources};
use crate::types::strip_bom;
use aws_lc_rs::digest::{Context, SHA256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most bytes that all files together may have.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How often files that change while they are read are read again.
const MAX_READS: usize = 5;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// `*.cedarschema` in a schema directory.
    Schema,
    /// `*.cedar` in a policy directory.
    Policies,
    /// `*.json` in a policy directory.
    Data,
    /// `cases/*.json` in a policy directory.
    Cases,
}

/// A file as it was read.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    pub(super) kind: FileKind,
    /// The path, beginning with the configured directory.
    pub(super) path: String,
    /// The text, without a byte-order mark.
    pub(super) text: String,
}

impl SnapshotFile {
    /// The file name, with `cases/` before it for a file of policy tests.
    pub(super) fn label(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if self.kind == FileKind::Cases { format!("cases/{name}") } else { name.to_owned() }
    }
}

/// A SHA-256 over the names and bytes of all files, or over the error if they cannot be read.
pub(super) type ContentHash = [u8; 32];

/// All files of the schema and policy directories.
#[derive(Debug)]
pub struct Snapshot {
    files: Vec<SnapshotFile>,
    hash: ContentHash,
}

impl Snapshot {
    /// Reads all files once.
    ///
    /// # Errors
    /// A fault for every directory and file that cannot be read.
    pub fn read(sources: &Sources) -> Result<Self, BundleError> {
        let mut reader =
            SnapshotReader { files: Vec::new(), faults: Vec::new(), hash: Context::new(&SHA256), bytes: 0 };
        for directory in &sources.schema {
            reader.read_directory(directory, FileKind::Schema, "cedarschema");
        }
        for directory in &sources.policies {
            reader.read_directory(directory, FileKind::Policies, "cedar");
            reader.read_directory(directory, FileKind::Data, "json");
            let cases = directory.join("cases");
            if cases.is_dir() {
                reader.read_directory(&cases, FileKind::Cases, "json");
            }
        }
        if !reader.faults.is_empty() {
            return Err(BundleError(reader.faults));
        }
        Ok(Self { files: reader.files, hash: digest(reader.hash) })
    }

    /// Reads all files until two consecutive reads agree.
    ///
    /// # Errors
    /// As [`Snapshot::read`]; also if the files keep changing.
    pub fn read_stable(sources: &Sources) -> Result<Self, BundleError> {
        let mut last = None;
        for _ in 0..MAX_READS {
            let read = Self::read(sources);
            let hash = content_hash(&read);
            if last == Some(hash) {
                return read;
            }
            last = Some(hash);
        }
        Err(BundleError(vec![BundleDiagnostic {
            file: "policies".into(),
            line: None,
            message: format!(
                "the files changed during each of {MAX_READS} reads; try again when they are complete"
            ),
        }]))
    }

    /// The hash over names and bytes.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The files of one kind, in the order of the directories and then of their names.
    pub(super) fn of_kind(&self, kind: FileKind) -> impl Iterator<Item = &SnapshotFile> {
        self.files.iter().filter(move |file| file.kind == kind)
    }

    /// All files.
    pub(super) fn files(&self) -> &[SnapshotFile] {
        &self.files
    }
}

/// The hash of what was read: of the content, or of the error.
pub(super) fn content_hash(read: &Result<Snapshot, BundleError>) -> ContentHash {
    match read {
        Ok(snapshot) => snapshot.hash,
        Err(error) => {
            let mut hash = Context::new(&SHA256);
            hash_part(&mut hash, error.to_string().as_bytes());
            digest(hash)
        }
    }
}

fn hash_part(hash: &mut Context, part: &[u8]) {
    hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(part);
}

fn digest(hash: Context) -> ContentHash {
    let mut bytes = ContentHash::default();
    for (byte, found) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *byte = *found;
    }
    bytes
}

struct SnapshotReader {
    files: Vec<SnapshotFile>,
    faults: Vec<BundleDiagnostic>,
    hash: Context,
    bytes: u64,
}

impl SnapshotReader {
    /// Reads the files with this extension, without those in directories below. Files whose name begins with a dot are those
    /// of editors, archives and file systems, and are ignored.
    fn read_directory(&mut self, directory: &Path, kind: FileKind, extension: &str) {
        // Resolved once: a symbolic link to a directory that is replaced meanwhile does not mix old and new files.
        let listed = std::fs::canonicalize(directory).and_then(|resolved| list_files(&resolved, extension));
        let paths = match listed {
            Ok(paths) => paths,
            Err(error) => return self.add_read_error(directory, &error),
        };
        for path in paths {
            let shown = path.file_name().map_or_else(|| directory.to_owned(), |name| directory.join(name));
            match self.read_file(&path) {
                Ok(bytes) => self.add_file(kind, &shown, bytes),
                Err(error) => self.add_read_error(&shown, &error),
            }
        }
    }

    fn read_file(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        // Before it is opened: opening a FIFO would block.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let left = MAX_BYTES.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(left.saturating_add(1)).read_to_end(&mut bytes)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > left {
            let message = format!("all files together have more than {MAX_BYTES} bytes");
            return Err(std::io::Error::other(message));
        }
        self.bytes += length;
        Ok(bytes)
    }

    fn add_file(&mut self, kind: FileKind, path: &Path, bytes: Vec<u8>) {
        let path = path.display().to_string();
        hash_part(&mut self.hash, path.as_bytes());
        hash_part(&mut self.hash, &bytes);
        match String::from_utf8(bytes) {
            Ok(text) => self.files.push(SnapshotFile { kind, path, text: strip_bom(text) }),
            Err(error) => {
                let message = format!("it is not UTF-8 text: {}", error.utf8_error());
                self.faults.push(BundleDiagnostic { file: path, line: None, message });
            }
        }
    }

    fn add_read_error(&mut self, path: &Path, error: &std::io::Error) {
        let message = format!("it cannot be read: {error}");
        self.faults.push(BundleDiagnostic { file: path.display().to_string(), line: None, message });
    }
}

/// The entries of a directory with this extension, in the order of their names.
fn list_files(directory: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        if !is_hidden && path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
