//! `cedargate policy versions`, `show` and `export`: the archive of policy versions.
//!
//! They read the database only, so that an earlier version can be exported when the policy files are lost or invalid.

use crate::api::policy_versions::{PolicyVersion, PolicyVersionDetail};
use crate::application::policy_archive::{self, PolicyArchiveError};
use crate::authz::{FileKind, Snapshot, SnapshotFile, VersionPrefix, short_version};
use crate::cli::{CommandResult, Failure, block_on, print_line};
use crate::config::Config;
use crate::store::{ListQuery, PolicyVersionRow, SortKey, SortOrder, Store, StoreError};
use crate::types::Clock;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The maximum number of versions that are listed: more than are kept.
const MAX_LISTED: u64 = 20_000;

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Text
    Text,
    /// JSON, as in the responses of `/v2/policies/versions`
    Json,
}

/// The arguments of `policy versions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct VersionsArgs {
    /// Format of the output
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The arguments of `policy show`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// Version, or at least 8 of its first digits
    version: VersionPrefix,
    /// Format of the output
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The arguments of `policy export`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Version, or at least 8 of its first digits
    version: VersionPrefix,
    /// Directory for the files, which must be empty or absent
    directory: PathBuf,
    /// Format of the output
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Opens the database, without reading the policies.
///
/// # Errors
/// The database cannot be opened.
pub(super) async fn open_store(config: &Config) -> Result<Store, StoreError> {
    Store::open_existing(config, &Clock::system()).await
}

/// The version that was active last; empty if none was.
///
/// # Errors
/// The database cannot be opened or read.
pub(super) async fn active_version(store: &Store) -> Result<String, StoreError> {
    Ok(store.policy_state().await?.map(|state| state.version).unwrap_or_default())
}

/// Returns the version that begins with these digits, and its files.
async fn read_version(
    store: &Store,
    prefix: &VersionPrefix,
) -> Result<(PolicyVersionRow, Snapshot), PolicyArchiveError> {
    let row = policy_archive::find_version(store, prefix).await?;
    let snapshot = policy_archive::read_files(store, &row).await?;
    Ok((row, snapshot))
}

/// Returns the files of the version in the database that begins with these digits.
///
/// # Errors
/// There is no such version, or several; or the database cannot be used.
pub(in crate::cli) fn archived_snapshot(
    config: &Config,
    prefix: &VersionPrefix,
) -> Result<Snapshot, Failure> {
    block_on(async { Ok(read_version(&open_store(config).await?, prefix).await?.1) })
}

fn print_json(value: &impl Serialize) -> CommandResult {
    print_line(serde_json::to_string_pretty(value).map_err(Failure::failed)?)
}

/// Lists the versions: as text, the one that became active last first; as JSON, in the order of the API.
pub(super) fn list(config: &Config, arguments: &VersionsArgs) -> CommandResult {
    block_on(async {
        let store = open_store(config).await?;
        let active = active_version(&store).await?;
        let sort = match arguments.format {
            Format::Text => vec![SortKey::new("last_activation", SortOrder::Descending)],
            Format::Json => Vec::new(),
        };
        let query = ListQuery { limit: MAX_LISTED, sort, ..ListQuery::default() };
        let rows = store.policy_versions(&query).await?.items;
        if arguments.format == Format::Json {
            let versions = rows.into_iter().map(|row| PolicyVersion::new(row, &active));
            return print_json(&versions.collect::<Vec<_>>());
        }
        if rows.is_empty() {
            return print_line("no policy version was active since the database has an archive of them");
        }
        for row in rows {
            let mark = if row.version == active { ", active" } else { "" };
            print_line(format_args!(
                "{}  {}  {} files, {} bytes, {}{mark}",
                short_version(&row.version),
                row.last_activated_at,
                row.files,
                row.bytes,
                activation_text(row.trigger, row.actor, row.credential.as_deref()),
            ))?;
        }
        Ok(())
    })
}

/// What made a version active, and who.
pub(super) fn activation_text(
    trigger: impl std::fmt::Display,
    actor: Option<impl std::fmt::Display>,
    credential: Option<&str>,
) -> String {
    match (actor, credential) {
        (Some(actor), _) => format!("{trigger} by user {actor}"),
        (None, Some(credential)) => format!("{trigger} by {credential}"),
        (None, None) => trigger.to_string(),
    }
}

/// Prints a version with its history and files.
pub(super) fn show(config: &Config, arguments: &ShowArgs) -> CommandResult {
    block_on(async {
        let store = open_store(config).await?;
        let active = active_version(&store).await?;
        let (row, snapshot) = read_version(&store, &arguments.version).await?;
        if arguments.format == Format::Json {
            return print_json(&PolicyVersionDetail::read(&store, row, &snapshot, &active).await?);
        }
        let mark = if row.version == active { " (active)" } else { "" };
        let mut text = format!("version {}{mark}\n\nactivations:\n", row.version);
        for activation in store.policy_activations(&row.version).await? {
            let cause =
                activation_text(activation.trigger, activation.actor, activation.credential.as_deref());
            let _ = writeln!(text, "  {}  {cause}", activation.time);
        }
        for file in snapshot.files() {
            let _ = write!(text, "\n==> {} ({}) <==\n{}", file.path, file.kind, file.text);
            if !file.text.ends_with('\n') {
                text.push('\n');
            }
        }
        print_line(text.trim_end())
    })
}

/// Writes the files of a version to a directory.
pub(super) fn export(config: &Config, arguments: &ExportArgs) -> CommandResult {
    let directory = &arguments.directory;
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", directory.display()));
    let is_free = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if !is_free {
        return Err(Failure::failed(format!("{} is not empty; nothing was written", directory.display())));
    }
    let (row, snapshot) = block_on(async {
        let store = open_store(config).await?;
        Ok(read_version(&store, &arguments.version).await?)
    })?;
    let mut layout = Layout::default();
    for file in snapshot.files() {
        let path = layout.place(file).map_err(Failure::failed)?;
        write_file(&directory.join(path), &file.text).map_err(failed)?;
    }
    let settings = [("CEDARGATE_SCHEMA", layout.schema), ("CEDARGATE_POLICIES", layout.policies)];
    let settings = settings.map(|(name, names)| {
        let names = names.into_iter().map(|(name, _)| directory.join(name).display().to_string());
        (name, names.collect::<Vec<_>>().join(","))
    });
    if arguments.format == Format::Json {
        let settings: serde_json::Map<_, _> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        return print_json(&json!({ "version": row.version, "files": row.files, "settings": settings }));
    }
    print_line(format_args!(
        "exported version {}: {} files; check them with\n  {} cedargate policy check",
        short_version(&row.version),
        row.files,
        settings.map(|(name, value)| format!("{name}={value}")).join(" "),
    ))
}

fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())
}

/// The directories of an export, and the files in each. Files of the same name are in directories of their own.
#[derive(Debug, Default)]
struct Layout {
    schema: Vec<(String, HashSet<String>)>,
    policies: Vec<(String, HashSet<String>)>,
}

impl Layout {
    /// Returns the path of a file below the directory of the export.
    ///
    /// # Errors
    /// The file has a name that no policy file can have, so the database was changed.
    fn place(&mut self, file: &SnapshotFile) -> Result<PathBuf, String> {
        let (base, directories) = match file.kind {
            FileKind::Schema => ("schema", &mut self.schema),
            _ => ("policies", &mut self.policies),
        };
        if file.name().is_empty() || file.name().starts_with('.') {
            return Err(format!(
                "{:?} is not the path of a policy file: the database was changed",
                file.path
            ));
        }
        let label = file.label();
        let free = directories.iter().position(|(_, labels)| !labels.contains(&label));
        let index = free.unwrap_or(directories.len());
        if free.is_none() {
            let name = if index == 0 { base.to_owned() } else { format!("{base}-{}", index + 1) };
            directories.push((name, HashSet::new()));
        }
        let Some((name, labels)) = directories.get_mut(index) else { return Err("no directory".to_owned()) };
        let path = Path::new(name).join(&label);
        labels.insert(label);
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_same_name_are_exported_to_directories_of_their_own() {
        let mut layout = Layout::default();
        let mut place = |kind, path: &str| layout.place(&SnapshotFile::new(kind, path, ""));
        for (kind, path, expected) in [
            (FileKind::Schema, "/etc/a/one.cedarschema", "schema/one.cedarschema"),
            (FileKind::Policies, "a/one.cedar", "policies/one.cedar"),
            (FileKind::Claims, "a/claims/one.cedar", "policies/claims/one.cedar"),
            (FileKind::Data, "a/one.json", "policies/one.json"),
            (FileKind::Policies, "b/one.cedar", "policies-2/one.cedar"),
            (FileKind::Policies, "c/one.cedar", "policies-3/one.cedar"),
            (FileKind::Policies, "b/two.cedar", "policies/two.cedar"),
        ] {
            assert_eq!(place(kind, path).unwrap(), Path::new(expected), "{path}");
        }
        for path in ["..", "a/..", "a/.hidden.cedar", "a/"] {
            assert!(place(FileKind::Policies, path).is_err(), "{path}");
        }
    }
}
