//! Snapshots of the policy files in memory, so that the content that is hashed is the content that is parsed.

use super::snapshot_file::{FileKind, SnapshotFile};
use super::version::version_of;
use super::{BundleDiagnostic, BundleError, Rule, SuppliedAttribute};
use crate::types::strip_bom;
use aws_lc_rs::digest::{Context, SHA256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The maximum total size of all files: 64 MiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A file in a policy directory that is no entity data: it says what was proven about a version, and has no part in it.
pub const PROOF_FILE: &str = "PROOF.json";

/// The maximum number of reads until two consecutive ones agree.
const MAX_READS: usize = 5;

/// The directories of a bundle. Subdirectories are not read, except `claims` and `cases` in a policy directory.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Directories with `*.cedarschema` files.
    pub schema: Vec<PathBuf>,
    /// Directories with `*.cedar` files, entity data in `*.json`, claims in `claims/*.cedar`, and policy tests in
    /// `cases/*.json`.
    pub policies: Vec<PathBuf>,
    /// The entity types that are stored in the database. Data files must not define entities of these types.
    pub stored: Vec<StoredType>,
}

/// An entity type that is stored in the database.
#[derive(Debug, Clone)]
pub struct StoredType {
    /// Its name.
    pub name: &'static str,
    /// The attributes that its entities can have besides `organization`, which all of them have.
    pub attributes: &'static [SuppliedAttribute],
    /// The names of the fields that updates can change.
    pub fields: Vec<String>,
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
    /// A diagnostic for every directory and file that cannot be read.
    pub fn read(sources: &Sources) -> Result<Self, BundleError> {
        let mut reader = SnapshotReader {
            files: Vec::new(),
            diagnostics: Vec::new(),
            hash: Context::new(&SHA256),
            bytes: 0,
        };
        for directory in &sources.schema {
            reader.read_directory(directory, FileKind::Schema, "cedarschema");
        }
        for directory in &sources.policies {
            reader.read_directory(directory, FileKind::Policies, "cedar");
            reader.read_directory(directory, FileKind::Data, "json");
            for (kind, extension) in [(FileKind::Claims, "cedar"), (FileKind::Cases, "json")] {
                let subdirectory = directory.join(kind.as_str());
                if subdirectory.is_dir() {
                    reader.read_directory(&subdirectory, kind, extension);
                }
            }
        }
        if !reader.diagnostics.is_empty() {
            return Err(BundleError(reader.diagnostics));
        }
        Ok(Self { files: reader.files, hash: digest(reader.hash) })
    }

    /// A snapshot of these files, which were read before.
    pub(crate) fn from_files(files: Vec<SnapshotFile>) -> Self {
        let mut hash = Context::new(&SHA256);
        for file in &files {
            hash_part(&mut hash, file.path.as_bytes());
            hash_part(&mut hash, file.text.as_bytes());
        }
        Self { files, hash: digest(hash) }
    }

    /// Reads all files until two consecutive reads agree.
    ///
    /// # Errors
    /// As [`Snapshot::read`], or the files keep changing.
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
        Err(BundleError(vec![BundleDiagnostic::without_file(
            Rule::UnreadableFile,
            format!("the files changed during {MAX_READS} reads; try again when they are complete"),
        )]))
    }

    /// The hash over the names and bytes of all files.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The snapshot without the files of one kind.
    pub(super) fn without(mut self, kind: FileKind) -> Self {
        self.files.retain(|file| file.kind != kind);
        self
    }

    /// The version of a bundle of these files.
    pub(crate) fn version(&self) -> String {
        version_of(&self.files)
    }

    /// The text of the file with this path.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| &*file.text)
    }

    /// The files of one kind, in the order of the directories and then of their names.
    pub(crate) fn of_kind(&self, kind: FileKind) -> impl Iterator<Item = &SnapshotFile> {
        self.files.iter().filter(move |file| file.kind == kind)
    }

    /// All files, in the order in which they were read.
    pub(crate) fn files(&self) -> &[SnapshotFile] {
        &self.files
    }
}

/// The hash of a read: of the content, or of the error.
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

/// Adds a part with its length, so that two sequences of parts never have the same input.
fn hash_part(hash: &mut Context, part: &[u8]) {
    hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(part);
}

fn digest(hash: Context) -> ContentHash {
    let mut bytes = ContentHash::default();
    for (byte, hashed) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *byte = *hashed;
    }
    bytes
}

struct SnapshotReader {
    files: Vec<SnapshotFile>,
    diagnostics: Vec<BundleDiagnostic>,
    hash: Context,
    bytes: u64,
}

impl SnapshotReader {
    /// Reads the files of a directory with this extension, without subdirectories. Files whose name begins with a dot are
    /// ignored: editors, archives and file systems create them.
    fn read_directory(&mut self, directory: &Path, kind: FileKind, extension: &str) {
        // Resolved once, so that replacing a symbolic link to the directory does not mix old and new files.
        let listed = std::fs::canonicalize(directory).and_then(|resolved| list_files(&resolved, extension));
        let paths = match listed {
            Ok(paths) => paths,
            Err(error) => return self.add_read_error(directory, &error),
        };
        for path in paths {
            let reported = path.file_name().map_or_else(|| directory.to_owned(), |name| directory.join(name));
            match self.read_file(&path) {
                Ok(bytes) => self.add_file(kind, &reported, bytes),
                Err(error) => self.add_read_error(&reported, &error),
            }
        }
    }

    fn read_file(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        // Checked before opening, since opening a FIFO would block.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        let remaining = MAX_BYTES.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(remaining.saturating_add(1)).read_to_end(&mut bytes)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > remaining {
            let message = format!("the files exceed the maximum total size of {MAX_BYTES} bytes");
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
            // PostgreSQL cannot store the character in a text.
            Ok(text) if text.contains('\0') => self.add_diagnostic(path, "contains the character U+0000"),
            Ok(text) => self.files.push(SnapshotFile::new(kind, path, strip_bom(text))),
            Err(error) => self.add_diagnostic(path, format!("not valid UTF-8: {}", error.utf8_error())),
        }
    }

    fn add_read_error(&mut self, path: &Path, error: &std::io::Error) {
        self.add_diagnostic(path.display().to_string(), format!("cannot be read: {error}"));
    }

    fn add_diagnostic(&mut self, file: String, message: impl Into<String>) {
        self.diagnostics.push(BundleDiagnostic::new(Rule::UnreadableFile, file, message));
    }
}

/// The entries of a directory with this extension, except [`PROOF_FILE`], in the order of their names.
fn list_files(directory: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        let is_proof = entry.file_name() == PROOF_FILE;
        if !is_hidden && !is_proof && path.extension().is_some_and(|actual| actual == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
