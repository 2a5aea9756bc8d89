//! Policy versions: SHA-256 over the files of a bundle, their short form, and prefixes that name them.

use super::snapshot_file::{FileKind, SnapshotFile};
use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::str::FromStr;

/// The number of hex digits of a version.
const LENGTH: usize = 64;
/// The number of hex digits where people read a version.
const SHORT_LENGTH: usize = 12;
/// The number of hex digits that name a version at least.
const MIN_PREFIX: usize = 8;

/// The kinds of the files that a version covers, which are those that decisions and claims depend on.
pub(crate) const VERSIONED_KINDS: [FileKind; 4] =
    [FileKind::Schema, FileKind::Policies, FileKind::Data, FileKind::Claims];

/// The first digits of a version, for log lines, messages and the output of commands.
pub fn short_version(version: &str) -> &str {
    version.get(..SHORT_LENGTH).unwrap_or(version)
}

/// The version of these files: a SHA-256 over kind, name and text of each file.
///
/// Directories and their order do not count, so that files keep their version when they are moved.
pub(super) fn version_of(files: &[SnapshotFile]) -> String {
    let mut parts: Vec<[&str; 3]> = files
        .iter()
        .filter(|file| VERSIONED_KINDS.contains(&file.kind))
        .map(|file| [file.kind.as_str(), file.name(), &file.text])
        .collect();
    parts.sort_unstable();
    hash(parts.into_iter().flatten())
}

/// The version that earlier releases gave to the same files: 16 digits, over names and texts in the order in which they were
/// read. Databases of these releases contain it.
pub(super) fn legacy_version_of(files: &[SnapshotFile]) -> String {
    let kinds = [FileKind::Schema, FileKind::Policies, FileKind::Data];
    let files = kinds.into_iter().flat_map(|kind| files.iter().filter(move |file| file.kind == kind));
    let parts = files.flat_map(|file| [file.name(), &file.text]);
    hash(parts).chars().take(16).collect()
}

/// A SHA-256 over kind, path and text of the files of these kinds, in the order in which they were read.
pub(super) fn hash_of(files: &[SnapshotFile], kinds: &[FileKind]) -> String {
    let files = files.iter().filter(|file| kinds.contains(&file.kind));
    hash(files.flat_map(|file| [file.kind.as_str(), &file.path, &file.text]))
}

fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Context::new(&SHA256);
    for part in parts {
        // With its length, so that two sequences of parts never have the same input.
        hash.update(&part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finish())
}

/// The first digits of a version, at least 8, or all 64 of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPrefix(String);

impl VersionPrefix {
    /// Whether this is the whole version.
    pub fn is_full(&self) -> bool {
        self.0.len() == LENGTH
    }

    /// Whether a version begins with these digits.
    pub fn matches(&self, version: &str) -> bool {
        version.starts_with(&self.0)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not the beginning of a policy version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the first {MIN_PREFIX} to {LENGTH} hex digits of a policy version")]
pub struct InvalidVersion;

impl FromStr for VersionPrefix {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let is_prefix = (MIN_PREFIX..=LENGTH).contains(&text.len());
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_prefix && is_hex { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidVersion) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(files: &[(FileKind, &str, &str)]) -> String {
        let file = |(kind, path, text): &(FileKind, &str, &str)| SnapshotFile::new(*kind, *path, *text);
        version_of(&files.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn a_version_depends_on_kind_name_and_text_but_not_on_directories_and_policy_tests() {
        let files = [
            (FileKind::Schema, "schema/a.cedarschema", "entity A;"),
            (FileKind::Policies, "policies/a.cedar", "permit (principal, action, resource);"),
            (FileKind::Data, "policies/b.json", "[]"),
            (FileKind::Claims, "policies/claims/a.cedar", "forbid (principal, action, resource);"),
        ];
        let original = version(&files);
        assert_eq!(original.len(), LENGTH);
        assert_eq!(Some(short_version(&original)), original.get(..12));

        let mut moved = files.map(|(kind, path, text)| (kind, path.rsplit('/').next().unwrap(), text));
        moved.reverse();
        assert_eq!(version(&moved), original);
        let mut with_case = files.to_vec();
        with_case.push((FileKind::Cases, "policies/cases/a.json", "[]"));
        assert_eq!(version(&with_case), original);

        for index in 0..files.len() {
            let mut other_kind = files;
            other_kind[index].0 = VERSIONED_KINDS[(index + 1) % 4];
            let mut other_name = files;
            other_name[index].1 = "z.cedar";
            let mut other_text = files;
            other_text[index].2 = "";
            let mut without = files.to_vec();
            without.remove(index);
            for changed in [&other_kind[..], &other_name, &other_text, &without] {
                assert_ne!(version(changed), original, "{changed:?}");
            }
        }
    }

    #[test]
    fn a_prefix_has_8_to_64_hex_digits() {
        let version = "0123456789abcdef".repeat(4);
        for (text, is_valid) in [
            ("0123456", false),
            ("01234567", true),
            (version.as_str(), true),
            (&format!("{version}0"), false),
            ("0123456g", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<VersionPrefix>().is_ok(), is_valid, "{text:?}");
        }
        let prefix: VersionPrefix = "0123456789ABCDEF".parse().unwrap();
        assert!(prefix.matches(&version) && !prefix.is_full() && !prefix.matches("1123456789abcdef"));
    }
}
