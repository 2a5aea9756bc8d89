//! Compares two versions of the policies: which requests are newly allowed or denied, with a request as a witness for each, which
//! cells of the permission matrix change, and which policies and files differ.

mod data;
mod declarations;
mod environment;
mod files;
mod flatten;
mod markdown;
mod text;

pub use files::{ChangedCell, ChangedFile, ChangedPolicy, PolicyChange};
pub use markdown::markdown;

use super::replay::ReplayReport;
use super::{Outcome, Solver, SolverCommand, SolverMissing};
use crate::authz::cases::PolicyTest;
use crate::authz::{Engine, Snapshot};
use cedar_policy::{Policy, RequestEnv, Schema};
use data::ChangedData;
use declarations::{ComparedSchema, Declarations, compared_schema, fields_of};
use environment::{EnvironmentQuery, VersionView};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A version of the policies.
#[derive(Clone, Copy)]
pub struct PolicyVersion<'a> {
    /// The source, as the command line names it.
    pub source: &'a str,
    /// The files.
    pub files: &'a Snapshot,
    /// The policies.
    pub engine: &'a Engine,
}

/// A difference of two versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDiff {
    /// The old version.
    pub old: VersionName,
    /// The new version.
    pub new: VersionName,
    /// How many request environments have each change.
    pub summary: BTreeMap<Change, usize>,
    /// The request environments whose decisions change, or could not be compared.
    pub environments: Vec<EnvironmentDiff>,
    /// The actions of the new version only.
    pub added_actions: Vec<String>,
    /// The actions of the old version only.
    pub removed_actions: Vec<String>,
    /// The entity types of the new version only.
    pub added_types: Vec<String>,
    /// The entity types of the old version only.
    pub removed_types: Vec<String>,
    /// The claims of the new version only.
    pub added_claims: Vec<String>,
    /// The claims of the old version only.
    pub removed_claims: Vec<String>,
    /// The claims that say something else.
    pub changed_claims: Vec<String>,
    /// The cells of the permission matrix that change.
    pub matrix: Vec<ChangedCell>,
    /// The policies that differ.
    pub policies: Vec<ChangedPolicy>,
    /// The other files that differ: schema, data, claims and policy tests.
    pub files: Vec<ChangedFile>,
    /// The logged decisions that the new version changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReport>,
}

/// A version in a report.
#[derive(Debug, Clone, Serialize)]
pub struct VersionName {
    /// The source, as the command line names it.
    pub source: String,
    /// The version: a hash over all files.
    pub version: String,
}

/// How the decisions of a request environment change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Some requests are newly allowed, none are newly denied.
    Wider,
    /// Some requests are newly denied, none are newly allowed.
    Narrower,
    /// Some requests are newly allowed, others are newly denied.
    Both,
    /// No decision changes. This is proven.
    Unchanged,
    /// The solver gave no answer, and no changed request was found.
    Undecided,
}

impl Change {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Both => "both",
            Self::Unchanged => "unchanged",
            Self::Undecided => "undecided",
        }
    }
}

/// The direction of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From deny to allow.
    Wider,
    /// From allow to deny.
    Narrower,
}

/// A request that both versions decide differently, confirmed by Cedar's own authorizer.
#[derive(Debug, Serialize)]
pub struct Witness {
    /// The direction.
    pub direction: Direction,
    /// The request as a policy test that expects the decision of the new version; of the old one if only that has the action.
    pub test: PolicyTest,
    /// The decision of the old version.
    pub old: Outcome,
    /// The decision of the new version.
    pub new: Outcome,
}

/// How the decisions of a request environment change.
#[derive(Debug, Serialize)]
pub struct EnvironmentDiff {
    /// The type of the principal.
    pub principal: String,
    /// The action.
    pub action: String,
    /// The type of the resource.
    pub resource: String,
    /// The change.
    pub change: Change,
    /// A request for each direction.
    pub witnesses: Vec<Witness>,
    /// Why a direction could not be decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<String>,
    /// Whether the reason is only that the data differ.
    #[serde(skip)]
    is_undecided_by_data: bool,
}

/// Types of principal and resource, and the name of the action.
type EnvironmentName = (String, String, String);

/// Compares two versions. `on_progress` is called with the number of environments that are compared, and of all.
pub async fn diff(
    old: PolicyVersion<'_>,
    new: PolicyVersion<'_>,
    solver: Result<SolverCommand, SolverMissing>,
    on_progress: impl Fn(usize, usize),
) -> PolicyDiff {
    let [old_bundle, new_bundle] = [old, new].map(|version| version.engine.bundle());
    let mut solver = solver.map(Solver::new);
    let [old_environments, new_environments] =
        [old_bundle.schema(), new_bundle.schema()].map(environments_of);
    let names: BTreeSet<&EnvironmentName> = old_environments.keys().chain(new_environments.keys()).collect();
    let has_same_schema = files::has_same_schema(old.files, new.files);
    let declarations = [old, new].map(|version| Declarations::read(version.files));
    let mut data = ChangedData::new(old, new);
    let mut environments = Vec::new();
    let mut summary = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
        let places = [
            new_environments.get(*name).map(|environment| (environment, new_bundle.schema())),
            old_environments.get(*name).map(|environment| (environment, old_bundle.schema())),
        ];
        let [is_new, is_old] = places.each_ref().map(Option::is_some);
        let query =
            |(environment, schema): (&'_ RequestEnv, &'_ Schema)| (environment.clone(), schema.clone());
        let candidates: Vec<(RequestEnv, Schema)> = places.into_iter().flatten().map(query).collect();
        let views = [(is_old, old.engine), (is_new, new.engine)]
            .map(|(is_known, engine)| VersionView { engine: is_known.then_some(engine) });
        let known = (!has_same_schema || !data.is_empty()).then(|| {
            KnownEnvironment::of(name, [&old_environments, &new_environments], &declarations, views)
        });
        let known = known.flatten();
        let schema = known.as_ref().map_or(ComparedSchema::Any, KnownEnvironment::compared_schema);
        // If the schemas differ, requests of the new one are compared; of the old one if the old policies do not fit the new one.
        let candidates = match schema {
            ComparedSchema::Any if has_same_schema => candidates.get(..1).unwrap_or_default(),
            ComparedSchema::Any => &candidates,
            ComparedSchema::New => candidates.get(..1).unwrap_or_default(),
            ComparedSchema::Old => candidates.get(1..).unwrap_or_default(),
            ComparedSchema::None(_) => &[],
        };
        let mut found = compare_environment(name, candidates, views, &mut solver).await;
        if let ComparedSchema::None(reason) = schema {
            found.undecided = Some(reason);
        }
        if let Some(change) = known.and_then(|known| known.compare_data(&mut data, views)) {
            let is_new =
                |witness: &Witness| found.witnesses.iter().all(|known| known.direction != witness.direction);
            let added: Vec<Witness> = change.witnesses.into_iter().filter(is_new).collect();
            found.witnesses.extend(added);
            found.is_undecided_by_data = found.undecided.is_none();
            found.undecided.get_or_insert(change.reason);
        }
        found.change = found.total_change();
        *summary.entry(found.change).or_default() += 1;
        if found.change != Change::Unchanged {
            environments.push(found);
        }
        on_progress(number + 1, names.len());
    }
    let [added_actions, removed_actions] = only_in_each(&new_bundle.actions(), &old_bundle.actions());
    let [added_types, removed_types] =
        only_in_each(&types_of(new_bundle.schema()), &types_of(old_bundle.schema()));
    let [added_claims, removed_claims, changed_claims] = files::changed_claims(old.engine, new.engine);
    let name = |version: PolicyVersion<'_>| VersionName {
        source: version.source.to_owned(),
        version: version.engine.bundle().version().to_owned(),
    };
    PolicyDiff {
        old: name(old),
        new: name(new),
        summary,
        environments,
        added_actions,
        removed_actions,
        added_types,
        removed_types,
        added_claims,
        removed_claims,
        changed_claims,
        matrix: files::changed_cells(old.engine, new.engine),
        policies: files::changed_policies(old, new),
        files: files::changed_files(old.files, new.files),
        replay: None,
    }
}

impl PolicyDiff {
    /// Whether some request is newly allowed.
    pub fn is_wider(&self) -> bool {
        self.count(Change::Wider) + self.count(Change::Both) > 0
    }

    /// Whether some decision changes.
    pub fn has_changes(&self) -> bool {
        self.is_wider() || self.count(Change::Narrower) > 0
    }

    /// Whether a claim about the policies is gone or says something else.
    pub fn has_changed_claims(&self) -> bool {
        !self.removed_claims.is_empty() || !self.changed_claims.is_empty()
    }

    /// The number of request environments with this change.
    pub fn count(&self, change: Change) -> usize {
        self.summary.get(&change).copied().unwrap_or_default()
    }

    /// Why the comparison is not complete; none if it is.
    pub fn undecided(&self) -> Option<String> {
        let undecided: Vec<&EnvironmentDiff> =
            self.environments.iter().filter(|environment| environment.undecided.is_some()).collect();
        match undecided.first() {
            Some(first) => {
                let reason = first.undecided.as_deref().unwrap_or_default();
                let count = undecided.len();
                Some(format!("{count} request environments could not be compared completely: {reason}"))
            }
            None => self.has_unexplained_cells().then(|| {
                "the permission matrix changes, but no such request was found in the comparison".to_owned()
            }),
        }
    }

    /// Whether the comparison is complete but for requests about entities whose data differ.
    pub fn is_incomplete_by_data_only(&self) -> bool {
        let mut undecided = self.environments.iter().filter(|environment| environment.undecided.is_some());
        undecided.all(|environment| environment.is_undecided_by_data) && !self.has_unexplained_cells()
    }

    /// Whether a cell of the matrix changes in a direction in which no request environment does.
    fn has_unexplained_cells(&self) -> bool {
        let is_narrower = self.count(Change::Narrower) + self.count(Change::Both) > 0;
        self.matrix.iter().any(|cell| match cell.is_wider() {
            true => !self.is_wider(),
            false => !is_narrower,
        })
    }
}

/// Compares the decisions in one environment. The first of the candidates in which the policies can be compared counts.
async fn compare_environment(
    (principal, action, resource): &EnvironmentName,
    candidates: &[(RequestEnv, Schema)],
    [old, new]: [VersionView<'_>; 2],
    solver: &mut Result<Solver, SolverMissing>,
) -> EnvironmentDiff {
    let mut found = EnvironmentDiff {
        principal: principal.clone(),
        action: action.clone(),
        resource: resource.clone(),
        change: Change::Unchanged,
        witnesses: Vec::new(),
        undecided: None,
        is_undecided_by_data: false,
    };
    for (environment, schema) in candidates {
        let query = EnvironmentQuery { environment, schema, old, new, action };
        if query.is_equal() {
            return found;
        }
        (found.witnesses, found.undecided) = (Vec::new(), None);
        match solver {
            Ok(solver) => match query.prepare(solver).await {
                Ok(prepared) => {
                    for direction in [Direction::Wider, Direction::Narrower] {
                        match query.find(direction, &prepared, solver).await {
                            Ok(witness) => found.witnesses.extend(witness),
                            Err(error) => found.undecided = Some(error.0),
                        }
                    }
                }
                Err(error) => found.undecided = Some(error.0),
            },
            Err(missing) => found.undecided = Some(missing.to_string()),
        }
        if found.undecided.is_none() {
            break;
        }
    }
    found
}

impl EnvironmentDiff {
    /// The change by the witnesses, and by what could not be decided.
    fn total_change(&self) -> Change {
        let has = |direction| self.witnesses.iter().any(|witness| witness.direction == direction);
        match (has(Direction::Wider), has(Direction::Narrower), &self.undecided) {
            (true, true, _) => Change::Both,
            (true, false, _) => Change::Wider,
            (false, true, _) => Change::Narrower,
            (false, false, Some(_)) => Change::Undecided,
            (false, false, None) => Change::Unchanged,
        }
    }
}

/// An environment that both versions have.
struct KnownEnvironment<'a> {
    environment: &'a RequestEnv,
    /// What the schemas declare for it.
    declared: [declarations::Environment; 2],
    /// The names of the fields that the policies of each version read.
    fields: [BTreeSet<String>; 2],
    policies: Vec<&'a Policy>,
}

impl<'a> KnownEnvironment<'a> {
    fn of(
        name: &EnvironmentName,
        [old, new]: [&'a BTreeMap<EnvironmentName, RequestEnv>; 2],
        declarations: &[Declarations; 2],
        views: [VersionView<'a>; 2],
    ) -> Option<Self> {
        let (before, environment) = (old.get(name)?, new.get(name)?);
        let [old_declarations, new_declarations] = declarations;
        let declared = [old_declarations.of(before), new_declarations.of(environment)];
        let (_, action, _) = name;
        let policies = views.map(|version| version.policies(action));
        let fields = policies.each_ref().map(|policies| fields_of(policies.iter().copied()));
        Some(Self { environment, declared, fields, policies: policies.concat() })
    }

    fn compared_schema(&self) -> ComparedSchema {
        let ([old, new], [old_fields, new_fields]) = (&self.declared, &self.fields);
        compared_schema([old, new], [old_fields, new_fields])
    }

    fn compare_data(&self, data: &mut ChangedData, views: [VersionView<'_>; 2]) -> Option<data::DataChange> {
        let ([old, new], [old_fields, new_fields]) = (&self.declared, &self.fields);
        data.compare(self.environment, [old, new], [old_fields, new_fields], views, &self.policies)
    }
}

fn environments_of(schema: &Schema) -> BTreeMap<EnvironmentName, RequestEnv> {
    let name = |environment: &RequestEnv| {
        let action = crate::authz::action_name(environment.action());
        (environment.principal().to_string(), action, environment.resource().to_string())
    };
    schema.request_envs().map(|environment| (name(&environment), environment)).collect()
}

fn types_of(schema: &Schema) -> BTreeSet<String> {
    schema.entity_types().map(ToString::to_string).collect()
}

/// What is in the first set only, and what is in the second set only.
fn only_in_each(one: &BTreeSet<String>, other: &BTreeSet<String>) -> [Vec<String>; 2] {
    [one.difference(other).cloned().collect(), other.difference(one).cloned().collect()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Scope;

    #[test]
    fn a_changed_cell_without_a_changed_request_is_undecided() {
        let name = || VersionName { source: ".".to_owned(), version: String::new() };
        let with_cell = |old, new, change| PolicyDiff {
            old: name(),
            new: name(),
            summary: BTreeMap::from([(change, 1)]),
            environments: Vec::new(),
            added_actions: Vec::new(),
            removed_actions: Vec::new(),
            added_types: Vec::new(),
            removed_types: Vec::new(),
            added_claims: Vec::new(),
            removed_claims: Vec::new(),
            changed_claims: Vec::new(),
            matrix: vec![ChangedCell {
                resource: "Form".to_owned(),
                action: "fetchForm".to_owned(),
                location: "own",
                scope: Scope::Guest,
                old,
                new,
            }],
            policies: Vec::new(),
            files: Vec::new(),
            replay: None,
        };
        for (old, new, change, is_decided) in [
            (Some("-"), Some("+"), Change::Unchanged, false),
            (Some("-"), Some("self"), Change::Narrower, false),
            (Some("self"), Some("+"), Change::Wider, true),
            (Some("+"), Some("-"), Change::Unchanged, false),
            (Some("+"), None, Change::Wider, false),
            (Some("+"), Some("self"), Change::Both, true),
        ] {
            let diff = with_cell(old, new, change);
            assert_eq!(diff.undecided().is_none(), is_decided, "{old:?} {new:?} {change:?}");
            let proven = markdown(&diff).contains("No decision changes (proven)");
            assert!(!proven, "{old:?} {new:?} {change:?}");
        }
    }
}
