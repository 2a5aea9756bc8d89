//! The file of a SQLite database: its owner and permissions, the lock of the serving process, and whether it was moved.

use super::StoreError;
use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// With fewer free bytes the disk counts as full: the smallest transaction of SQLite needs some pages.
const MIN_FREE_BYTES: u64 = 1024 * 1024;

/// Returns the path of the SQLite file in a URL; none for PostgreSQL and for a database in memory.
pub(super) fn path_of_url(url: &str) -> Option<PathBuf> {
    if !url.starts_with("sqlite:") || url.contains(":memory:") || url.contains("mode=memory") {
        return None;
    }
    url.parse::<SqliteConnectOptions>().ok().map(|options| options.get_filename().to_owned())
}

/// Creates a new file that only its owner may read.
///
/// # Errors
/// The file exists, or cannot be created.
pub(super) fn create_private(file: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map(drop)
}

/// Creates the database file if it does not exist.
///
/// # Errors
/// The file cannot be given to the owner of its directory, although root runs the program.
pub(super) fn create_if_missing(path: &Path) -> Result<(), StoreError> {
    // Errors are reported by the attempt to open the file.
    let _ = create_private(path);
    chown_to_directory_owner(path)
}

/// Gives a file that belongs to root to the owner of its directory, as whom the service runs. Root's are a file that it
/// creates, and a restored backup.
fn chown_to_directory_owner(path: &Path) -> Result<(), StoreError> {
    let Some((directory, file)) = metadata_of(directory_of(path)).zip(metadata_of(path)) else {
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() || file.uid() == directory.uid() || !file.uid().eq(&0) {
        return Ok(());
    }
    set_owner_from(path, &directory).map_err(|error| {
        StoreError::Misconfigured(format!(
            "the database file {} belongs to root and cannot be given to the owner of its directory (user {}): {error}",
            path.display(),
            directory.uid()
        ))
    })
}

/// Checks that the database file exists.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if it does not, [`StoreError::Misconfigured`] if root cannot give it to its owner.
pub(super) fn require_exists(path: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::Unavailable(format!(
            "the database file {} does not exist; run `cedargate serve` or `cedargate user add` to create it",
            path.display()
        ))),
        // The attempt to open it reports other errors.
        _ => chown_to_directory_owner(path),
    }
}

/// Sets the owner of a file to that of its directory. Another user owns the directory and could have put a link there.
fn set_owner_from(path: &Path, directory: &Metadata) -> std::io::Result<()> {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(std::io::Error::other("not a regular file with a single link"));
    }
    std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

fn metadata_of(path: &Path) -> Option<Metadata> {
    std::fs::metadata(path).ok()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns why the system refuses to open the database file, since SQLite does not say; none if it opens the file.
pub(super) fn open_error(path: &Path) -> Option<String> {
    let directory = directory_of(path);
    if !directory.exists() {
        return Some(format!("cannot open {}: no such directory: {}", path.display(), directory.display()));
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.err().map(|error| format!("cannot open {}: {error}", path.display()))
}

/// Returns why this process may not use the database file and how to change that; none if permissions are not the reason.
pub(super) fn permission_problem(path: &Path) -> Option<String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let user = rustix::process::geteuid().as_raw();
    let is_denied = |path: &Path, access: Access| {
        matches!(
            accessat(CWD, path, access, AtFlags::EACCESS),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)
        )
    };
    let describe = |path: &Path| match metadata_of(path) {
        Some(metadata) => {
            format!(
                "owner {}, group {}, mode {:04o}",
                metadata.uid(),
                metadata.gid(),
                metadata.mode() & 0o7777
            )
        }
        None => "owner unknown".to_owned(),
    };
    let directory = directory_of(path);
    let companions = ["-wal", "-shm"].map(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    });
    let files = std::iter::once(path.to_owned()).chain(companions);
    if let Some(file) = files.into_iter().find(|file| is_denied(file, Access::READ_OK | Access::WRITE_OK)) {
        return Some(format!(
            "permission denied: {} ({}) is not readable and writable for this process, which runs as user {user}; \
             run `chown {user} {}`, or start the service as the owner",
            file.display(),
            describe(&file),
            file.display()
        ));
    }
    is_denied(directory, Access::WRITE_OK | Access::EXEC_OK).then(|| {
        format!(
            "permission denied: the directory {} ({}) is not writable for this process, which runs as user {user}; \
             SQLite creates files next to the database",
            directory.display(),
            describe(directory)
        )
    })
}

/// The opened database file: its path and identity.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Whether the file is known to be missing, so that it is logged once.
    is_missing: AtomicBool,
}

impl DatabaseFile {
    /// Records the identity of the existing file at this path.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the file cannot be examined.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let unreadable = |error: std::io::Error| {
            StoreError::Unavailable(format!("the database file {}: {error}", path.display()))
        };
        // An absolute path, since the working directory may change.
        let path = std::path::absolute(path).map_err(unreadable)?;
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        Ok(Self { path, identity: (metadata.dev(), metadata.ino()), is_missing: AtomicBool::new(false) })
    }

    /// Checks that the path still refers to the opened file.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritable`] if it was moved, deleted or replaced: writes would be lost.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        let what = match std::fs::metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.identity => {
                self.is_missing.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Ok(_) => "was replaced by another file".to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => "was moved away or deleted".to_owned(),
            Err(error) => format!("cannot be found: {error}"),
        };
        let message = format!(
            "the database file {} {what} while the service uses it; writes are rejected. Put the file back, or stop the service \
             before replacing the file",
            self.path.display()
        );
        if !self.is_missing.swap(true, Ordering::Relaxed) {
            tracing::error!("{message}");
        }
        Err(StoreError::NotWritable(message))
    }

    /// Checks that the disk has free space.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritable`] if the disk is full.
    pub(super) fn check_free_space(&self) -> Result<(), StoreError> {
        let Ok(disk) = rustix::fs::statvfs(directory_of(&self.path)) else { return Ok(()) };
        // Root may use the reserved blocks.
        let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
        let free = blocks.saturating_mul(disk.f_frsize);
        if free >= MIN_FREE_BYTES {
            return Ok(());
        }
        Err(StoreError::NotWritable(format!(
            "the disk is full: {free} bytes are free for the database file {}; at least {MIN_FREE_BYTES} are required",
            self.path.display()
        )))
    }
}

/// The lock of the process that serves a SQLite database. The kernel releases it when the process ends. Commands that run
/// beside the service do not need it.
#[derive(Debug)]
pub struct ServeLock {
    /// The locked file; none for PostgreSQL, which several processes may serve.
    _file: Option<File>,
}

impl ServeLock {
    /// Acquires the lock for the database in a URL.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misconfigured`] if another process serves the database, or the lock file cannot be used.
    pub fn acquire(url: &str) -> Result<Self, StoreError> {
        let Some(path) = path_of_url(url) else { return Ok(Self { _file: None }) };
        let path = resolve_path(&path);
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let cause = |error: std::io::Error| {
            let cause = permission_problem(&name).or_else(|| permission_problem(&path));
            let cause = cause.unwrap_or_else(|| error.to_string());
            StoreError::Misconfigured(format!("cannot use the lock file {}: {cause}", name.display()))
        };
        create_if_missing(&name)?;
        let mut file = OpenOptions::new().read(true).write(true).open(&name).map_err(cause)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(20).read_to_string(&mut holder);
                return Err(StoreError::Misconfigured(format!(
                    "another process{} already serves the database file {} (it holds {}); stop that process first, or use \
                     PostgreSQL to run several replicas",
                    if holder.is_empty() { String::new() } else { format!(" ({})", holder.trim()) },
                    path.display(),
                    name.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cause(error)),
        }
        // The process id is informational; on a full disk it cannot be written.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { _file: Some(file) })
    }
}

/// Resolves symbolic links, so that all names of a file share one lock.
fn resolve_path(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (directory_of(path).canonicalize(), path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}
