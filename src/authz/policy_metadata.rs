//! What is known of a policy beside its meaning.

use std::collections::BTreeMap;

/// The annotations, effect and source location of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyMetadata {
    /// Its `@id`.
    pub id: String,
    /// Its `@doc`.
    pub doc: Option<String>,
    /// Whether its effect is permit rather than forbid.
    pub permits: bool,
    /// The path of its file.
    pub file: String,
    /// The line of its `@id`, from 1.
    pub line: usize,
    /// All annotations, by name.
    pub annotations: BTreeMap<String, String>,
}
