//! Reads the schema and policy directories at a revision, by the program `git` and without a checkout.

use super::PolicySourceError;
use crate::authz::{FileKind, PROOF_FILE, Snapshot, SnapshotFile, Sources};
use crate::types::strip_bom;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The maximum total size of all files: 64 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A file at the revision.
struct Blob {
    kind: FileKind,
    path: String,
    hash: String,
    size: usize,
}

/// Reads the files of the configured directories at a revision of the repository of the working directory.
///
/// # Errors
/// `git` fails, there is no such revision or directory, or the files are too large or no valid UTF-8.
pub(super) fn read(revision: &str, configured: &Sources) -> Result<Snapshot, PolicySourceError> {
    // The revision is resolved once, and never used as an option or a path.
    let resolved =
        ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")];
    let commit = String::from_utf8_lossy(&run(&resolved, &[]).map_err(|error| match error {
        PolicySourceError::Git(message) if message.is_empty() => {
            PolicySourceError::Git(format!("there is no commit {revision:?} in this repository"))
        }
        error => error,
    })?)
    .trim()
    .to_owned();
    let mut blobs = Vec::new();
    for directory in &configured.schema {
        blobs.extend(list(&commit, directory, FileKind::Schema, "cedarschema", true)?);
    }
    for directory in &configured.policies {
        for (subdirectory, kind, extension) in [
            ("", FileKind::Policies, "cedar"),
            ("", FileKind::Data, "json"),
            ("claims", FileKind::Claims, "cedar"),
            ("cases", FileKind::Cases, "json"),
        ] {
            let is_required = subdirectory.is_empty();
            blobs.extend(list(&commit, &directory.join(subdirectory), kind, extension, is_required)?);
        }
    }
    if blobs.iter().map(|blob| blob.size).sum::<usize>() > MAX_BYTES {
        let message = format!("the files exceed the maximum total size of {MAX_BYTES} bytes");
        return Err(PolicySourceError::Git(message));
    }
    Ok(Snapshot::from_files(contents(blobs)?))
}

/// The files of a directory with this extension, without subdirectories, hidden files and [`PROOF_FILE`], in the order of their
/// names.
fn list(
    commit: &str,
    directory: &Path,
    kind: FileKind,
    extension: &str,
    is_required: bool,
) -> Result<Vec<Blob>, PolicySourceError> {
    let shown = directory.display().to_string();
    let trimmed = shown.trim_end_matches('/');
    let output = run(&["ls-tree", "-z", "--long", commit, "--", &format!("{trimmed}/")], &[])?;
    let listing = String::from_utf8_lossy(&output);
    if is_required && listing.is_empty() {
        return Err(PolicySourceError::Git(format!("there is no directory {trimmed} at {commit}")));
    }
    let mut blobs = Vec::new();
    for entry in listing.split('\0').filter(|entry| !entry.is_empty()) {
        let Some((fields, path)) = entry.split_once('\t') else { continue };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [mode, object_type, hash, size] = fields[..] else { continue };
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_selected = !name.starts_with('.')
            && name != PROOF_FILE
            && Path::new(name).extension().is_some_and(|actual| actual == extension);
        if !is_selected || object_type != "blob" {
            continue;
        }
        let path = format!("{trimmed}/{name}");
        if mode == "120000" {
            return Err(PolicySourceError::Git(format!("{path} is a symbolic link")));
        }
        blobs.push(Blob { kind, path, hash: hash.to_owned(), size: size.parse().unwrap_or(usize::MAX / 2) });
    }
    blobs.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(blobs)
}

/// The contents of the files.
fn contents(blobs: Vec<Blob>) -> Result<Vec<SnapshotFile>, PolicySourceError> {
    let hashes: String = blobs.iter().map(|blob| format!("{}\n", blob.hash)).collect();
    let output = run(&["cat-file", "--batch"], hashes.as_bytes())?;
    let mut rest = output.as_slice();
    let mut files = Vec::new();
    for blob in blobs {
        // `<hash> blob <size>`, the content, and a newline.
        let invalid = || PolicySourceError::Git(format!("cannot read {}", blob.path));
        let header = rest.iter().position(|byte| *byte == b'\n').ok_or_else(invalid)?;
        let content = rest.get(header + 1..header + 1 + blob.size).ok_or_else(invalid)?;
        rest = rest.get(header + 2 + blob.size..).ok_or_else(invalid)?;
        let text = String::from_utf8(content.to_vec())
            .map_err(|_| PolicySourceError::Git(format!("{} is not valid UTF-8", blob.path)))?;
        files.push(SnapshotFile::new(blob.kind, blob.path, strip_bom(text)));
    }
    Ok(files)
}

/// Runs `git` with this standard input, and returns its output.
///
/// # Errors
/// It cannot be executed, or fails; then the error is what it printed.
fn run(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, PolicySourceError> {
    let mut child = Command::new("git")
        .args(arguments)
        // Nothing is fetched, and nothing in the repository is changed.
        .envs([("GIT_OPTIONAL_LOCKS", "0"), ("GIT_NO_LAZY_FETCH", "1"), ("GIT_TERMINAL_PROMPT", "0")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(PolicySourceError::NoGit)?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Written by another thread, since git stops reading while nobody reads its output.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    })
    .map_err(PolicySourceError::NoGit)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(PolicySourceError::Git(message.trim().trim_start_matches("fatal: ").to_owned()))
}
