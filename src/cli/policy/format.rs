//! `cedargate policy format`: formats policy files.

use crate::analysis::format_policies;
use crate::cli::{CommandResult, Failure, print_line};
use crate::config::Config;
use crate::types::read_text;
use similar::TextDiff;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Formats these files, or those of the policy directories and their claims. With `check` it writes nothing, and fails if a
/// file would change.
pub(super) fn run(config: &Config, mut files: Vec<PathBuf>, check: bool) -> CommandResult {
    if files.is_empty() {
        let directories = config.policies.iter();
        for directory in directories.flat_map(|directory| [directory.clone(), directory.join("claims")]) {
            files.extend(policy_files(&directory).map_err(|error| failed(&directory, &error))?);
        }
    }
    let (mut invalid, mut changed) = (Vec::new(), Vec::new());
    for file in &files {
        let text = read_text(file).map_err(|error| failed(file, &error))?;
        match format_policies(&text) {
            Ok(formatted) if formatted == text => {}
            Ok(formatted) => changed.push((file, text, formatted)),
            Err(error) => invalid.push(format!("{}: {error}", file.display())),
        }
    }
    for (file, text, formatted) in &changed {
        let name = file.display().to_string();
        if check {
            let diff = TextDiff::from_lines(text, formatted);
            print_line(diff.unified_diff().header(&name, &name).to_string().trim_end())?;
        } else {
            replace(file, formatted).map_err(|error| failed(file, &error))?;
            print_line(format_args!("formatted {name}"))?;
        }
    }
    if !invalid.is_empty() {
        return Err(Failure::CheckFailed(invalid.join("\n")));
    }
    if !check || changed.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = changed.iter().map(|(file, ..)| file.display().to_string()).collect();
    Err(Failure::CheckFailed(format!("not formatted: {}; run `cedargate policy format`", names.join(", "))))
}

fn failed(path: &Path, error: &impl std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

/// The policy files of a directory in the order of their names, hidden ones excepted. None if there is no such directory.
fn policy_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "cedar") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Replaces a file in one step, so that a running service never reads a part of it.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    // A symbolic link is kept, and its target replaced.
    let target = std::fs::canonicalize(file)?;
    let name = target.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    // A service ignores hidden files.
    let temporary = target.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut output = std::fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        output.write_all(text.as_bytes())?;
        output.set_permissions(std::fs::metadata(&target)?.permissions())?;
        output.sync_all()?;
        std::fs::rename(&temporary, &target)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}
