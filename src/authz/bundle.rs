//! Everything that decides: schema, policies and data, read from their directories, validated, linted, and given a
//! version. What is wrong is told with file and line, all of it at once.

use super::Scope;
use super::facts::SCOPE;
use super::inventory::Inventory;
use super::shape::Shape;
use super::snapshot::{FileKind, Snapshot};
use crate::values::quoted;
use crate::values::strict_json::{self, JsonError};
use cedar_policy::{
    Effect, Entities, Entity, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Schema, SchemaFragment,
    ValidationMode, Validator,
};
use miette::Diagnostic;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files are. Each directory is read as it stands, without those below it.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Directories with `*.cedarschema`.
    pub schema: Vec<PathBuf>,
    /// Directories with `*.cedar` and with entity data, `*.json`.
    pub policies: Vec<PathBuf>,
    /// The entity types whose things are in the database, so that no data file may have them.
    pub stored: Vec<&'static str>,
}

/// What is known of a policy besides what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its `@id`.
    pub id: String,
    /// Its `@doc`.
    pub doc: Option<String>,
    /// Whether it permits or forbids.
    pub permits: bool,
    /// The file that it stands in.
    pub file: String,
    /// The line of its `@id`, from 1.
    pub line: usize,
    /// All its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Schema, policies and data that fit together.
#[derive(Debug)]
pub struct Bundle {
    pub(super) schema: Schema,
    pub(super) policies: PolicySet,
    pub(super) data: Vec<Entity>,
    pub(super) contexts: BTreeMap<EntityUid, Shape>,
    pub(super) shapes: BTreeMap<String, Shape>,
    about: BTreeMap<String, Arc<About>>,
    files: Vec<String>,
    version: Arc<str>,
    inventory: Inventory,
}

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, or the directory.
    pub file: String,
    /// The line, from 1, where it can be told.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Why a bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BundleError(pub Vec<Fault>);

impl BundleError {
    /// Where something is wrong, by the names of the files and the lines, without what and without directories.
    pub fn places(&self) -> String {
        let place = |fault: &Fault| {
            let name = fault.file.rsplit('/').next().unwrap_or_default();
            fault.line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))
        };
        self.0.iter().map(place).collect::<Vec<_>>().join(", ")
    }
}

/// A file as it was read.
struct Source {
    name: String,
    text: String,
    /// Where its lines end.
    breaks: Vec<usize>,
}

impl Source {
    fn new(name: String, text: String) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { name, text, breaks }
    }

    fn fault(&self, line: Option<usize>, message: impl fmt::Display) -> Fault {
        Fault { file: self.name.clone(), line, message: message.to_string() }
    }

    /// The line at this byte, from 1.
    fn line_at(&self, offset: usize) -> usize {
        self.breaks.partition_point(|at| *at < offset) + 1
    }

    /// What a diagnosis of Cedar says, with the line that it points at.
    fn diagnosed(&self, diagnostic: &dyn Diagnostic) -> Fault {
        let offset = diagnostic.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let mut message = diagnostic.to_string();
        let mut source = std::error::Error::source(diagnostic);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        if let Some(help) = diagnostic.help() {
            message = format!("{message} ({help})");
        }
        self.fault(offset.map(|offset| self.line_at(offset)), message)
    }
}

/// Collects faults, so that all of them are told.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }

    fn check(&mut self) -> Result<(), BundleError> {
        if self.0.is_empty() { Ok(()) } else { Err(BundleError(std::mem::take(&mut self.0))) }
    }
}

impl Bundle {
    /// Reads and checks everything.
    pub fn read(sources: &Sources) -> Result<Self, BundleError> {
        Self::parse(&Snapshot::read(sources)?, &sources.stored)
    }

    /// Parses and checks the files of a snapshot. `stored` names the entity types whose entities are in the database.
    ///
    /// # Errors
    /// All faults that were found, with file and line.
    pub fn parse(snapshot: &Snapshot, stored: &[&str]) -> Result<Self, BundleError> {
        let mut faults = Faults::default();
        let of_kind = |kind| -> Vec<Source> {
            let files = snapshot.of_kind(kind);
            files.map(|file| Source::new(file.path.clone(), file.text.clone())).collect()
        };
        let (schemas, policies, data) =
            (of_kind(FileKind::Schema), of_kind(FileKind::Policies), of_kind(FileKind::Data));
        let version = version(&[&schemas, &policies, &data]);
        let files =
            [&schemas, &policies, &data].into_iter().flatten().map(|file| file.name.clone()).collect();

        let (schema, (contexts, shapes)) = read_schema(&schemas, &mut faults)?;
        let (policies, about) = read_policies(&policies, &schema, &mut faults);
        let data = read_data(&data, &schema, stored, &mut faults);
        lint(&policies, &about, &data, &mut faults);
        faults.check()?;
        let texts = policies.policies().filter_map(|policy| {
            let about: &About = about.get::<str>(policy.id().as_ref())?;
            Some((about, policy.to_string()))
        });
        let inventory = Inventory::new(snapshot, texts);
        let about = about.into_iter().map(|(id, about)| (id, Arc::new(about))).collect();
        Ok(Self {
            schema,
            policies,
            data,
            contexts,
            shapes,
            about,
            files,
            version: version.into(),
            inventory,
        })
    }

    /// Its forbid policies and files, for the comparison with another bundle.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// A hash over all of it: two bundles with the same version decide alike.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The files that it was read from.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// What is known of the policies, in the order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<About>> {
        self.about.values()
    }

    /// What is known of the policy with this id.
    pub fn policy(&self, id: &str) -> Option<&Arc<About>> {
        self.about.get(id)
    }

    /// The names of all actions: an action of the empty namespace by its id, any other by its whole name.
    pub fn actions(&self) -> BTreeSet<String> {
        self.schema.actions().map(action_name).collect()
    }
}

/// What an action is called: by its id in the empty namespace, else by its whole name.
pub(super) fn action_name(action: &EntityUid) -> String {
    if action.type_name().namespace().is_empty() {
        action.id().unescaped().to_owned()
    } else {
        action.to_string()
    }
}

fn version(files: &[&Vec<Source>]) -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for file in files.iter().copied().flatten() {
        // The name of the file only: the same files elsewhere are the same version.
        let name = Path::new(&file.name).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        for part in [name.as_ref(), file.text.as_str()] {
            hash.update(&part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What the schema declares: of the context of each action, and of each entity type.
type Shapes = (BTreeMap<EntityUid, Shape>, BTreeMap<String, Shape>);

fn read_schema(files: &[Source], faults: &mut Faults) -> Result<(Schema, Shapes), BundleError> {
    let mut fragments = Vec::new();
    for file in files {
        match SchemaFragment::from_cedarschema_str(&file.text) {
            Ok((fragment, warnings)) => {
                faults.0.extend(warnings.map(|warning| file.diagnosed(&warning)));
                fragments.push(fragment);
            }
            Err(error) => faults.0.push(file.diagnosed(&error)),
        }
    }
    faults.check()?;
    let whole = |error: &dyn fmt::Display| {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        BundleError(vec![Fault { file: names.join(", "), line: None, message: error.to_string() }])
    };
    if files.is_empty() {
        return Err(BundleError(vec![Fault {
            file: "schema".into(),
            line: None,
            message: "none of the schema directories has a *.cedarschema file".into(),
        }]));
    }
    let schema = Schema::from_schema_fragments(fragments).map_err(|error| whole(&error))?;
    let all: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
    let (json, _) = cedar_policy::schema_str_to_json_with_resolved_types(&all.join("\n"))
        .map_err(|error| whole(&error))?;
    let shapes = shapes(&json, &schema).map_err(|message| whole(&message))?;
    Ok((schema, shapes))
}

fn shapes(json: &Value, schema: &Schema) -> Result<Shapes, String> {
    let mut contexts = BTreeMap::new();
    for action in schema.actions() {
        let namespace = action.type_name().namespace();
        let declared =
            json.get(&namespace).and_then(|space| space.get("actions")?.get(action.id().unescaped()));
        let context = declared.and_then(|declared| declared.get("appliesTo")?.get("context"));
        let shape = match context {
            Some(form) => Shape::read(json, &namespace, form),
            None => Some(Shape::default()),
        };
        let shape =
            shape.ok_or_else(|| format!("the context of {action} is not a record with named fields"))?;
        contexts.insert(action.clone(), shape);
    }
    let mut types = BTreeMap::new();
    for kind in schema.entity_types() {
        let namespace = kind.namespace();
        let declared = json.get(&namespace).and_then(|space| space.get("entityTypes")?.get(kind.basename()));
        let shape = match declared.and_then(|declared| declared.get("shape")) {
            Some(form) => Shape::read(json, &namespace, form),
            None => Some(Shape::Record(BTreeMap::new())),
        };
        let shape =
            shape.ok_or_else(|| format!("the attributes of {kind} are not a record with named fields"))?;
        types.insert(kind.to_string(), shape);
    }
    Ok((contexts, types))
}

fn read_policies(
    files: &[Source],
    schema: &Schema,
    faults: &mut Faults,
) -> (PolicySet, BTreeMap<String, About>) {
    let mut all = PolicySet::new();
    let mut about: BTreeMap<String, About> = BTreeMap::new();
    let mut sources = HashMap::new();
    for file in files {
        let parsed: PolicySet = match file.text.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                let error: cedar_policy::ParseErrors = error;
                faults.0.extend(error.iter().map(|error| file.diagnosed(error)));
                continue;
            }
        };
        for template in parsed.templates() {
            let start = template.as_ref().loc().map_or(0, |loc| loc.span.offset());
            let message = "it is a template (?principal or ?resource); write a policy instead";
            faults.0.push(file.fault(Some(file.line_at(start)), message));
        }
        for policy in parsed.policies() {
            let Some(found) = faults.keep(about_policy(file, policy)) else { continue };
            if let Some(first) = about.get(&found.id) {
                let message =
                    format!("the id {:?} is taken: {}:{} has it already", found.id, first.file, first.line);
                faults.0.push(file.fault(Some(found.line), message));
                continue;
            }
            if let Err(error) = all.add(policy.new_id(PolicyId::new(&found.id))) {
                faults.0.push(file.fault(Some(found.line), error));
            }
            sources.insert(found.id.clone(), file);
            about.insert(found.id.clone(), found);
        }
    }
    if about.is_empty() && faults.0.is_empty() {
        let message = "none of the policy directories has a policy: everything would be denied".into();
        faults.0.push(Fault { file: "policies".into(), line: None, message });
    }
    // Level 1: a policy reads the attributes of principal and resource, and not those of what they name in turn, which
    // are not there when it is asked.
    let checked = Validator::new(schema.clone()).validate_with_level(&all, ValidationMode::Strict, 1);
    let errors = checked.validation_errors().map(|error| (error.policy_id(), error as &dyn Diagnostic));
    let warnings =
        checked.validation_warnings().map(|warning| (warning.policy_id(), warning as &dyn Diagnostic));
    for (id, problem) in errors.chain(warnings) {
        let id: &str = id.as_ref();
        let (Some(file), Some(found)) = (sources.get(id), about.get(id)) else { continue };
        let fault = file.diagnosed(problem);
        faults.0.push(Fault { line: fault.line.or(Some(found.line)), ..fault });
    }
    (all, about)
}

fn about_policy(file: &Source, policy: &Policy) -> Result<About, Fault> {
    let start = policy.as_ref().loc().map_or(0, |loc| loc.span.offset());
    let Some(id) = policy.annotation("id").filter(|id| !id.is_empty()) else {
        let text = policy.to_string();
        let head = text.lines().find(|line| !line.starts_with('@')).unwrap_or_default();
        let message = format!("the policy that begins with {} has no @id(\"…\")", quoted(head));
        return Err(file.fault(Some(file.line_at(start)), message));
    };
    // The @id among the policy's own annotations.
    let annotation = file.text.get(start..).and_then(|own| own.find(&format!("@id({id:?})")));
    Ok(About {
        id: id.to_owned(),
        doc: policy.annotation("doc").map(str::to_owned),
        annotations: policy.annotations().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
        permits: policy.effect() == Effect::Permit,
        file: file.name.clone(),
        line: file.line_at(start + annotation.unwrap_or_default()),
    })
}

fn read_data(files: &[Source], schema: &Schema, stored: &[&str], faults: &mut Faults) -> Vec<Entity> {
    let mut all: Vec<Entity> = Vec::new();
    let mut known: HashMap<EntityUid, &Source> = HashMap::new();
    for file in files {
        if let Err(JsonError::DuplicateKey(path)) = strict_json::check(file.text.as_bytes()) {
            faults.0.push(file.fault(None, format!("{path}: the key occurs twice in its object")));
            continue;
        }
        match Entities::from_json_str(&file.text, Some(schema)) {
            Ok(entities) => {
                // Parsing with the schema adds its actions, which are no data.
                for entity in entities.iter().filter(|entity| entity.uid().type_name().basename() != "Action")
                {
                    if let Some(first) = known.insert(entity.uid(), file) {
                        let message = format!("{} stands in {} already", entity.uid(), first.name);
                        faults.0.push(file.fault(None, message));
                    }
                    all.push(entity.clone());
                }
            }
            Err(error) => faults.0.push(file.diagnosed(&error)),
        }
    }
    lint_data(&all, &known, stored, faults);
    // What one file names as a parent may stand in another.
    if let Err(error) = Entities::from_entities(all.clone(), None) {
        faults.0.push(Fault { file: "data".into(), line: None, message: error.to_string() });
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let place = |message: String| Fault { file: names.join(", "), line: None, message };
    let scopes: HashSet<EntityUid> =
        known.into_keys().filter(|uid| uid.type_name().to_string() == SCOPE).collect();
    for scope in Scope::ALL {
        if !scopes.iter().any(|uid| uid.id().unescaped() == scope.as_str()) {
            faults.0.push(place(format!("the entity {SCOPE}::\"{scope}\" is missing")));
        }
    }
    for uid in scopes {
        if uid.id().unescaped().parse::<Scope>().is_err() {
            faults.0.push(place(format!("{uid} is not a scope; the scopes are guest, agent, bot and admin")));
        }
    }
    all
}

/// Validation lets a parent pass that is nowhere, which breaks a cascade unseen, and things that the store has already,
/// which would stand twice when they are asked about.
fn lint_data(data: &[Entity], known: &HashMap<EntityUid, &Source>, stored: &[&str], faults: &mut Faults) {
    for entity in data {
        let uid = entity.uid();
        let Some(file) = known.get(&uid) else { continue };
        if stored.contains(&uid.type_name().to_string().as_str()) {
            faults.0.push(
                file.fault(None, format!("{uid} is of a type whose things are in the database, not here")),
            );
        }
        // What is in the database may be named, so that a thing of another domain can stand in an organization.
        let is_stored = |uid: &EntityUid| stored.contains(&uid.type_name().to_string().as_str());
        let parents = entity.clone().into_inner().2;
        for parent in parents.iter().filter(|parent| !known.contains_key(*parent) && !is_stored(parent)) {
            faults
                .0
                .push(file.fault(None, format!("{uid} has the parent {parent}, which is not in the data")));
        }
    }
}

/// Strict validation lets `Scope::"agnet"` pass: an entity literal of a type that the data lists must be in that list.
fn lint(policies: &PolicySet, about: &BTreeMap<String, About>, data: &[Entity], faults: &mut Faults) {
    let uids: HashSet<EntityUid> = data.iter().map(Entity::uid).collect();
    let kinds: HashSet<&EntityTypeName> = uids.iter().map(EntityUid::type_name).collect();
    for policy in policies.policies() {
        let Some(about) = about.get::<str>(policy.id().as_ref()) else { continue };
        for literal in policy.entity_literals() {
            if uids.contains(&literal) || !kinds.contains(literal.type_name()) {
                continue;
            }
            let same_type = |uid: &&EntityUid| uid.type_name() == literal.type_name();
            let mut listed: Vec<String> = uids.iter().filter(same_type).map(EntityUid::to_string).collect();
            listed.sort();
            faults.0.push(Fault {
                file: about.file.clone(),
                line: Some(about.line),
                message: format!("{literal} is not in the data, which has {}", listed.join(", ")),
            });
        }
    }
}

#[cfg(test)]
mod tests;
