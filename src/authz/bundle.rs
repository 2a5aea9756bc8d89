//! Bundles: schema, policies and data, parsed, validated, linted and versioned. All errors are reported at once, with file
//! and line.

mod cascade;
mod claims;
mod diagnostics;
mod policies;
mod row_policies;
mod rules;
mod schema;
mod style;
mod supplied;
mod syntax;
mod undeclared;

pub use claims::{BUILT_IN_CLAIMS, CASCADE_CLAIM, Claim};
pub use diagnostics::{BundleDiagnostic, BundleError};
pub use rules::Rule;

use super::Scope;
use super::entity_uid::SCOPE;
use super::inventory::Inventory;
use super::policy_metadata::PolicyMetadata;
use super::schema_type::SchemaType;
use super::snapshot::{Snapshot, Sources, StoredType};
use super::snapshot_file::{FileKind, SnapshotFile};
use super::version::{VERSIONED_KINDS, legacy_version_of, short_version};
use crate::types::strict_json::{self, JsonError};
use cedar_policy::{Entities, Entity, EntityTypeName, EntityUid, PolicySet, Schema};
use diagnostics::{Diagnostics, SourceFile};
use policies::parse_policies;
use schema::parse_schema;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A validated set of schema, policies and data.
#[derive(Debug)]
pub struct Bundle {
    pub(super) schema: Schema,
    pub(super) policies: PolicySet,
    pub(super) data: Vec<Entity>,
    pub(super) context_types: BTreeMap<EntityUid, SchemaType>,
    pub(super) entity_types: BTreeMap<String, SchemaType>,
    metadata: BTreeMap<String, Arc<PolicyMetadata>>,
    claims: Arc<[Claim]>,
    files: Vec<SnapshotFile>,
    warnings: Vec<BundleDiagnostic>,
    version: Arc<str>,
    legacy_version: String,
    inventory: Inventory,
    /// The entity types that are stored in the database.
    stored_types: BTreeSet<String>,
}

impl Bundle {
    /// Reads, parses and validates the files of these directories.
    ///
    /// # Errors
    /// All errors that were found, with file and line.
    pub fn read(sources: &Sources) -> Result<Self, BundleError> {
        Self::parse(&Snapshot::read(sources)?, &sources.stored)
    }

    /// As [`Bundle::read`], as if there were no files of claims.
    ///
    /// # Errors
    /// All errors that were found, with file and line.
    pub fn read_without_claims(sources: &Sources) -> Result<Self, BundleError> {
        Self::parse(&Snapshot::read(sources)?.without(FileKind::Claims), &sources.stored)
    }

    /// Parses and validates the files of a snapshot. `stored` describes the entity types that are stored in the database.
    ///
    /// # Errors
    /// All errors that were found, with file and line.
    pub fn parse(snapshot: &Snapshot, stored: &[StoredType]) -> Result<Self, BundleError> {
        let (bundle, mut diagnostics) = Self::check(snapshot, stored);
        bundle.ok_or_else(|| {
            diagnostics.retain(|diagnostic| !diagnostic.rule.is_warning());
            BundleError(diagnostics)
        })
    }

    /// As [`Bundle::parse`], with all errors and warnings, in the order of files and lines. None if there are errors.
    pub fn check(snapshot: &Snapshot, stored: &[StoredType]) -> (Option<Self>, Vec<BundleDiagnostic>) {
        let mut diagnostics = Diagnostics::default();
        let of_kind = |kind| -> Vec<SourceFile> {
            let files = snapshot.of_kind(kind);
            files.map(|file| SourceFile::new(file.path.clone(), file.text.to_string())).collect()
        };
        let (schemas, policy_files, data_files) =
            (of_kind(FileKind::Schema), of_kind(FileKind::Policies), of_kind(FileKind::Data));
        let schema = parse_schema(&schemas, &mut diagnostics);
        if let Some((schema, types)) = &schema {
            supplied::check(types, stored, &schemas, &mut diagnostics);
            undeclared::check(schema, types, stored, &schemas, &mut diagnostics);
        }
        let schema_only = schema.as_ref().map(|(schema, _)| schema);
        let (policies, metadata) = parse_policies(&policy_files, schema_only, &mut diagnostics);
        let data = parse_data(&data_files, schema_only, stored, &mut diagnostics);
        lint(&policies, &metadata, &data, &mut diagnostics);
        if metadata.is_empty() && diagnostics.0.is_empty() {
            let message = "no policy found in the policy directories: every request would be denied";
            diagnostics.0.push(BundleDiagnostic::without_file(Rule::NoPolicies, message));
        }
        let claims = claims::read_claims(snapshot, schema_only, &data, &mut diagnostics);
        style::check_policies(&policies, &metadata, &policy_files, schema_only, &mut diagnostics);
        style::check_tests(snapshot.of_kind(FileKind::Cases), &mut diagnostics);
        row_policies::check(&policies, &metadata, schema.as_ref(), stored, &mut diagnostics);
        let diagnostics = diagnostics.into_sorted();
        let Some((schema, (context_types, entity_types))) = schema else { return (None, diagnostics) };
        if diagnostics.iter().any(|diagnostic| !diagnostic.rule.is_warning()) {
            return (None, diagnostics);
        }
        let texts = policies.policies().filter_map(|policy| {
            let metadata: &PolicyMetadata = metadata.get::<str>(policy.id().as_ref())?;
            Some((metadata, policy.to_string()))
        });
        let inventory = Inventory::new(snapshot, texts, claims.iter().map(Claim::metadata));
        let metadata = metadata.into_iter().map(|(id, metadata)| (id, Arc::new(metadata))).collect();
        let bundle = Self {
            schema,
            policies,
            data,
            context_types,
            entity_types,
            metadata,
            claims,
            files: VERSIONED_KINDS.into_iter().flat_map(|kind| snapshot.of_kind(kind)).cloned().collect(),
            version: snapshot.version().into(),
            legacy_version: legacy_version_of(snapshot.files()),
            warnings: diagnostics.clone(),
            inventory,
            stored_types: stored.iter().map(|kind| kind.name.to_owned()).collect(),
        };
        (Some(bundle), diagnostics)
    }

    /// Whether the entities of a type are stored in the database, so that the data have none of them.
    pub(super) fn is_stored_type(&self, kind: &str) -> bool {
        self.stored_types.contains(kind)
    }

    /// The warnings about its files.
    pub fn warnings(&self) -> &[BundleDiagnostic] {
        &self.warnings
    }

    /// The forbid policies and files, for the comparison with another bundle.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The version: a SHA-256 over all files but the policy tests, as 64 hex digits. Bundles with the same version make the
    /// same decisions (see "Policy version" in docs/decisions.md).
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The first digits of the version, for log lines, messages and the output of commands.
    pub fn short_version(&self) -> &str {
        short_version(&self.version)
    }

    /// Whether a version in a database is the version of this bundle. Earlier releases stored another one of 16 digits.
    pub fn has_stored_version(&self, stored: &str) -> bool {
        stored == &*self.version || stored == self.legacy_version
    }

    /// The files that the version covers.
    pub(crate) fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// The paths of the files that the version covers.
    pub fn file_paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// The metadata of all policies, in ascending order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyMetadata>> {
        self.metadata.values()
    }

    /// The metadata of the policy with this id.
    pub fn policy(&self, id: &str) -> Option<&Arc<PolicyMetadata>> {
        self.metadata.get(id)
    }

    /// The claims about the policies, in the order of the files and lines.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// A copy with other policies, which are valid and keep their ids. It keeps the version.
    pub(crate) fn with_policies(&self, policies: PolicySet) -> Self {
        Self {
            schema: self.schema.clone(),
            policies,
            data: self.data.clone(),
            context_types: self.context_types.clone(),
            entity_types: self.entity_types.clone(),
            metadata: self.metadata.clone(),
            claims: Arc::clone(&self.claims),
            stored_types: self.stored_types.clone(),
            files: self.files.clone(),
            warnings: self.warnings.clone(),
            version: Arc::clone(&self.version),
            legacy_version: self.legacy_version.clone(),
            inventory: self.inventory.clone(),
        }
    }

    /// The schema.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The policies, with their `@id` as id.
    pub(crate) fn policy_set(&self) -> &PolicySet {
        &self.policies
    }

    /// The entities of the data.
    pub(crate) fn data(&self) -> &[Entity] {
        &self.data
    }

    /// The literal for a value of a context field, in Cedar's JSON format: a string, a boolean, or an entity of the declared
    /// type. None if the action's context does not declare the field, or declares it with another type.
    pub(crate) fn context_literal(&self, action: &EntityUid, field: &str, value: &str) -> Option<Value> {
        match self.context_types.get(action)?.field(field)? {
            SchemaType::Entity(kind) | SchemaType::Enum(kind, _) => {
                Some(serde_json::json!({ "__entity": { "type": kind, "id": value } }))
            }
            SchemaType::String => Some(Value::String(value.to_owned())),
            SchemaType::Boolean => value.parse().ok().map(Value::Bool),
            _ => None,
        }
    }

    /// Whether entities of the type `kind` have this attribute, with entities of the type `value` as its values.
    pub(crate) fn has_entity_attribute(&self, kind: &str, attribute: &str, value: &str) -> bool {
        let declared = self.entity_types.get(kind).and_then(|entity_type| entity_type.field(attribute));
        matches!(declared, Some(SchemaType::Entity(declared)) if declared == value)
    }

    /// The data file that defines the scopes, and its first line that does.
    pub(crate) fn scopes_place(&self) -> Option<(String, usize)> {
        let data = self.files.iter().filter(|file| file.kind == FileKind::Data);
        let mut places = data.filter_map(|file| {
            let entities: Vec<Value> = serde_json::from_str(&file.text).ok()?;
            let is_scope = |entity: &Value| {
                let uid = entity.get("uid")?;
                uid.get("__entity").unwrap_or(uid).get("type")?.as_str().map(|kind| kind == SCOPE)
            };
            entities.iter().find(|entity| is_scope(entity) == Some(true))?;
            let position = file.text.find(&Value::from(SCOPE).to_string())?;
            Some((file.path.clone(), file.text.get(..position)?.matches('\n').count() + 1))
        });
        places.next()
    }

    /// The names of all actions: the id in the empty namespace, else the qualified name such as `Docs::Action::"read"`.
    pub fn actions(&self) -> BTreeSet<String> {
        self.schema.actions().map(action_name).collect()
    }
}

/// The name of an action: its id in the empty namespace, else its qualified name.
pub(crate) fn action_name(action: &EntityUid) -> String {
    if action.type_name().namespace().is_empty() {
        action.id().unescaped().to_owned()
    } else {
        action.to_string()
    }
}

fn parse_data(
    files: &[SourceFile],
    schema: Option<&Schema>,
    stored: &[StoredType],
    diagnostics: &mut Diagnostics,
) -> Vec<Entity> {
    let mut all: Vec<Entity> = Vec::new();
    let mut files_by_uid: HashMap<EntityUid, &SourceFile> = HashMap::new();
    for file in files {
        if let Err(JsonError::DuplicateKey(path)) = strict_json::check(file.text.as_bytes()) {
            let message = format!("{path}: duplicate key in a JSON object");
            diagnostics.0.push(file.diagnostic(Rule::DuplicateKey, None, message));
            continue;
        }
        match Entities::from_json_str(&file.text, schema) {
            Ok(entities) => {
                // Parsing with the schema adds the schema's actions.
                for entity in entities.iter().filter(|entity| entity.uid().type_name().basename() != "Action")
                {
                    if let Some(first) = files_by_uid.insert(entity.uid(), file) {
                        let message =
                            format!("duplicate entity {}: already defined in {}", entity.uid(), first.name);
                        let bytes = find_entity(file, &entity.uid());
                        diagnostics.0.push(file.diagnostic_at(Rule::DuplicateEntity, bytes, message));
                    }
                    all.push(entity.clone());
                }
            }
            Err(error) => diagnostics.0.push(file.to_bundle_diagnostic(Rule::InvalidData, &error)),
        }
    }
    lint_data(&all, &files_by_uid, stored, diagnostics);
    // A parent may be defined in another file.
    match Entities::from_entities(all.clone(), None) {
        Ok(entities) => cascade::check(&entities, &files_by_uid, diagnostics),
        Err(error) => {
            diagnostics.0.push(BundleDiagnostic::in_files(Rule::InvalidData, files, error.to_string()));
        }
    }
    check_scopes(files, &files_by_uid, diagnostics);
    all
}

/// Reports scopes that are missing, in the file that defines others, and entities that are no scopes.
fn check_scopes(
    files: &[SourceFile],
    files_by_uid: &HashMap<EntityUid, &SourceFile>,
    diagnostics: &mut Diagnostics,
) {
    let scopes: BTreeMap<&str, (&EntityUid, &SourceFile)> = files_by_uid
        .iter()
        .filter(|(uid, _)| uid.type_name().to_string() == SCOPE)
        .map(|(uid, file)| (uid.id().unescaped(), (uid, *file)))
        .collect();
    let place = scopes.values().map(|(_, file)| std::slice::from_ref(*file)).next().unwrap_or(files);
    for scope in Scope::ALL {
        if !scopes.contains_key(scope.as_str()) {
            let message = format!("the entity {SCOPE}::\"{scope}\" is missing in the data");
            diagnostics.0.push(BundleDiagnostic::in_files(Rule::Scopes, place, message));
        }
    }
    for (id, (uid, file)) in &scopes {
        if id.parse::<Scope>().is_err() {
            let message = format!("{uid} is not a scope; the scopes are guest, agent, bot and admin");
            diagnostics.0.push(file.diagnostic_at(Rule::Scopes, find_entity(file, uid), message));
        }
    }
}

/// Reports what Cedar's validation accepts: parents that are not defined anywhere, which would silently break a cascade, and
/// entities of types that are stored in the database, which would then exist twice.
fn lint_data(
    data: &[Entity],
    files_by_uid: &HashMap<EntityUid, &SourceFile>,
    stored: &[StoredType],
    diagnostics: &mut Diagnostics,
) {
    let is_stored = |uid: &EntityUid| {
        let name = uid.type_name().to_string();
        stored.iter().any(|kind| kind.name == name)
    };
    for entity in data {
        let uid = entity.uid();
        let Some(file) = files_by_uid.get(&uid) else { continue };
        if is_stored(&uid) {
            diagnostics.0.push(file.diagnostic_at(
                Rule::StoredEntity,
                find_entity(file, &uid),
                format!("{uid} must not be defined in policy data: its type is stored in the database"),
            ));
        }
        // Stored entities may be parents, so that an external entity can belong to an organization.
        let parents = entity.clone().into_inner().2;
        for parent in
            parents.iter().filter(|parent| !files_by_uid.contains_key(*parent) && !is_stored(parent))
        {
            diagnostics.0.push(file.diagnostic_at(
                Rule::UndefinedParent,
                find_entity(file, parent),
                format!("{uid} has the parent {parent}, which is not defined in the data"),
            ));
        }
    }
}

/// Reports entity literals that the data does not define, if it defines other entities of their type.
///
/// Strict validation accepts `Scope::"agnet"`.
fn lint(
    policies: &PolicySet,
    metadata: &BTreeMap<String, PolicyMetadata>,
    data: &[Entity],
    diagnostics: &mut Diagnostics,
) {
    let uids: HashSet<EntityUid> = data.iter().map(Entity::uid).collect();
    let types: HashSet<&EntityTypeName> = uids.iter().map(EntityUid::type_name).collect();
    for policy in policies.policies() {
        let Some(metadata) = metadata.get::<str>(policy.id().as_ref()) else { continue };
        for literal in policy.entity_literals() {
            if uids.contains(&literal) || !types.contains(literal.type_name()) {
                continue;
            }
            let same_type = |uid: &&EntityUid| uid.type_name() == literal.type_name();
            let mut listed: Vec<String> = uids.iter().filter(same_type).map(EntityUid::to_string).collect();
            listed.sort();
            let message = format!("{literal} is not defined in the data; defined are {}", listed.join(", "));
            let bytes = style::find_in_policy(policy, &literal.to_string());
            diagnostics.0.push(BundleDiagnostic {
                line: Some(metadata.line),
                bytes,
                ..BundleDiagnostic::new(Rule::UndefinedEntity, &metadata.file, message).about(&metadata.id)
            });
        }
    }
}

/// The place of the id of an entity in a data file.
fn find_entity(file: &SourceFile, uid: &EntityUid) -> Option<std::ops::Range<usize>> {
    file.find(&Value::from(uid.id().unescaped()).to_string())
}

#[cfg(test)]
mod tests;
