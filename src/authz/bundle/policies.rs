//! Parses and validates policy files. A policy whose id is missing or invalid is validated, too, so that all errors are
//! reported at once.

use super::diagnostics::{BundleDiagnostic, Diagnostics, SourceFile};
use super::rules::Rule;
use super::style;
use super::syntax::syntax_errors;
use crate::authz::policy_metadata::PolicyMetadata;
use crate::types::{is_invisible, quoted};
use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Parses and validates the policies of these files. A policy whose id is missing, invalid or not unique has its place as id:
/// with such an error, the policies are not used.
pub(super) fn parse_policies(
    files: &[SourceFile],
    schema: Option<&Schema>,
    diagnostics: &mut Diagnostics,
) -> (PolicySet, BTreeMap<String, PolicyMetadata>) {
    let mut all = PolicySet::new();
    let mut metadata: BTreeMap<String, PolicyMetadata> = BTreeMap::new();
    let mut sources = HashMap::new();
    for file in files {
        let parsed: PolicySet = match file.text.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                diagnostics.0.extend(syntax_errors(file, &error));
                continue;
            }
        };
        for template in parsed.templates() {
            let message = "templates are not supported; replace ?principal and ?resource";
            let bytes = template.as_ref().loc().map(|loc| loc.start()..loc.end());
            diagnostics.0.push(file.diagnostic_at(Rule::Template, bytes, message));
        }
        for policy in parsed.policies() {
            let mut policy_metadata = policy_metadata(file, policy);
            if let Some(error) = id_error(file, policy, &policy_metadata, &metadata) {
                diagnostics.0.push(error);
                policy_metadata.id = id_by_place(file, policy);
            }
            if let Err(error) = all.add(policy.new_id(PolicyId::new(&policy_metadata.id))) {
                diagnostics.0.push(file.diagnostic(Rule::DuplicateId, Some(policy_metadata.line), error));
            }
            sources.insert(policy_metadata.id.clone(), file);
            metadata.insert(policy_metadata.id.clone(), policy_metadata);
        }
    }
    if let Some(schema) = schema {
        validate_policies(&all, schema, &sources, &metadata, diagnostics);
    }
    (all, metadata)
}

/// What is wrong with the id of a policy: it is missing, has characters that cannot be printed, or is one of `known`.
fn id_error(
    file: &SourceFile,
    policy: &Policy,
    metadata: &PolicyMetadata,
    known: &BTreeMap<String, PolicyMetadata>,
) -> Option<BundleDiagnostic> {
    let PolicyMetadata { id, line, .. } = metadata;
    if id.is_empty() {
        let text = policy.to_string();
        let first_line = text.lines().find(|line| !line.starts_with('@')).unwrap_or_default();
        let message =
            format!("the policy that begins with {} has no @id(\"…\") annotation", quoted(first_line));
        let start = policy_start(policy);
        let effect = style::effect_keyword(file, policy).unwrap_or(start..start);
        return Some(file.diagnostic_at(Rule::MissingId, Some(effect), message));
    }
    if !id.chars().all(is_printable) {
        let message = format!("the @id {id:?} has control characters or invisible characters");
        return Some(file.diagnostic(Rule::InvalidId, Some(*line), message));
    }
    let first = known.get(id)?;
    let message = format!("duplicate policy id {id:?}: already used in {}:{}", first.file, first.line);
    Some(file.diagnostic(Rule::DuplicateId, Some(*line), message).about(id))
}

/// Whether a character is visible where it is printed, and ends no line.
fn is_printable(character: char) -> bool {
    !is_invisible(character) && !matches!(character, '\u{2028}' | '\u{2029}')
}

/// The offset of a policy in its file.
fn policy_start(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.span.offset())
}

/// A unique id for a policy without a valid one.
fn id_by_place(file: &SourceFile, policy: &Policy) -> String {
    let start = policy_start(policy);
    let start_of_line =
        file.text.get(..start).and_then(|text| text.rfind('\n')).map_or(0, |newline| newline + 1);
    format!("{}:{}:{}", file.name, file.line_at(start), start - start_of_line + 1)
}

/// Validates the policies against the schema. Warnings are errors, too.
fn validate_policies(
    policies: &PolicySet,
    schema: &Schema,
    sources: &HashMap<String, &SourceFile>,
    metadata: &BTreeMap<String, PolicyMetadata>,
    diagnostics: &mut Diagnostics,
) {
    // Level 1: a policy may read attributes of the principal and the resource, but not of the entities that these refer to,
    // which are not loaded for an evaluation.
    let checked = Validator::new(schema.clone()).validate_with_level(policies, ValidationMode::Strict, 1);
    let errors = checked
        .validation_errors()
        .map(|error| (Rule::InvalidPolicy, error.policy_id(), error as &dyn Diagnostic));
    let warnings = checked
        .validation_warnings()
        .map(|warning| (Rule::ImpossiblePolicy, warning.policy_id(), warning as &dyn Diagnostic));
    let invalid: HashSet<&PolicyId> = checked.validation_errors().map(|error| error.policy_id()).collect();
    for (rule, id, finding) in errors.chain(warnings) {
        // An invalid policy is impossible, too, which says nothing about its error.
        if rule == Rule::ImpossiblePolicy && invalid.contains(id) {
            continue;
        }
        let id: &str = id.as_ref();
        let (Some(file), Some(policy_metadata)) = (sources.get(id), metadata.get(id)) else { continue };
        let diagnostic = file.to_bundle_diagnostic(rule, finding).about(id);
        let line = diagnostic.line.or(Some(policy_metadata.line));
        // Most messages begin with the id that Cedar gave the policy.
        let message = diagnostic.message.replace(&format!("for policy `{id}`, "), "");
        diagnostics.0.push(BundleDiagnostic { line, message, ..diagnostic });
    }
}

/// The metadata of a policy. Its id is empty if it has none.
fn policy_metadata(file: &SourceFile, policy: &Policy) -> PolicyMetadata {
    let start = policy_start(policy);
    let id = policy.annotation("id").unwrap_or_default();
    // `start` is the first annotation; the line of the policy is that of its @id.
    let annotation = file.text.get(start..).and_then(|source| source.find(&format!("@id({id:?})")));
    PolicyMetadata {
        id: id.to_owned(),
        doc: policy.annotation("doc").map(str::to_owned),
        annotations: policy.annotations().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
        permits: policy.effect() == Effect::Permit,
        file: file.name.clone(),
        line: file.line_at(start + annotation.unwrap_or_default()),
    }
}
