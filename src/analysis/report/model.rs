//! What the report shows.

use crate::analysis::access::{AccessRow, DomainAccess, Place};
use crate::analysis::diff::PolicyDiff;
use crate::analysis::{Coverage, Finding, Mutants};
use crate::types::Timestamp;
use std::collections::BTreeMap;

/// The content of a part of the report, or the sentence that says why it is empty.
pub type Section<T> = Result<T, String>;

/// What the report shows.
#[derive(Debug)]
pub struct Report {
    /// When it was made.
    pub created_at: String,
    /// The program that made it, with its version.
    pub program: String,
    /// Which policies it is about.
    pub identity: Identity,
    /// The changes since the base.
    pub changes: Section<PolicyDiff>,
    /// The findings of the checks.
    pub findings: FindingsPart,
    /// The parts of the policies that the policy tests decide.
    pub coverage: Section<Coverage>,
    /// The changes of policies that no policy test notices.
    pub mutants: Section<Mutants>,
    /// Who may do what in this service.
    pub access: Section<Vec<AccessRow>>,
    /// Who may do what in external domains.
    pub domains: Section<Vec<DomainAccess>>,
    /// The policies, in ascending order of their ids.
    pub policies: Vec<PolicyEntry>,
    /// The use of the policies in the decision log.
    pub log_use: Section<LogUse>,
    /// The policy tests.
    pub cases: Vec<Case>,
    /// The routes of the service, in the order of the route table.
    pub routes: Vec<RouteEntry>,
    /// The claims about the policies.
    pub claims: ClaimsPart,
    /// The versions that were active, the last one first.
    pub history: Section<Vec<HistoryEntry>>,
}

/// Which policies the report is about.
#[derive(Debug)]
pub struct Identity {
    /// The version of the policy files.
    pub version: String,
    /// The files.
    pub files: Vec<FileEntry>,
    /// The version that is active in the database.
    pub active: Section<ActiveVersion>,
}

/// A policy file.
#[derive(Debug)]
pub struct FileEntry {
    /// Its path.
    pub path: String,
    /// What it contains, such as `schema`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
    /// The SHA-256 of its text.
    pub sha256: String,
}

/// The version that became active last.
#[derive(Debug)]
pub struct ActiveVersion {
    /// The version.
    pub version: String,
    /// Whether it is the version of the files.
    pub is_of_files: bool,
    /// When it became active, and by whom.
    pub activation: Section<(String, String)>,
}

/// A policy.
#[derive(Debug)]
pub struct PolicyEntry {
    /// Its id.
    pub id: String,
    /// Its description.
    pub doc: Option<String>,
    /// Whether it permits rather than forbids.
    pub permits: bool,
    /// Its file.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// Its text.
    pub source: String,
    /// The entities and attributes that it reads.
    pub reads: Vec<String>,
    /// The request environments in which it can apply, as actions with the types of principals and resources.
    pub environments: Vec<Environments>,
}

/// The request environments of an action in which a policy can apply.
#[derive(Debug)]
pub struct Environments {
    /// The action.
    pub action: String,
    /// The types of principals and resources.
    pub types: Vec<String>,
}

/// The use of policies in decision logs.
#[derive(Debug)]
pub struct LogUse {
    /// The number of decisions in the logs.
    pub decisions: u64,
    /// The time of the first one and of the last one.
    pub period: Option<(Timestamp, Timestamp)>,
    /// The number of lines that are no decisions.
    pub invalid_lines: u64,
    /// The last decision that each policy determined, by policy.
    pub by_policy: BTreeMap<String, LastUse>,
}

/// The decisions that a policy determined.
#[derive(Debug, Clone)]
pub struct LastUse {
    /// The time of the last one.
    pub time: Timestamp,
    /// Their number.
    pub decisions: u64,
}

/// A policy test.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// The name of its action.
    pub action: String,
    /// The principal and the resource of its request; none of a test that cannot be evaluated.
    pub subject: Option<CaseSubject>,
    /// Whether the request is allowed.
    pub is_allowed: bool,
    /// How the result differs from the expected one; none if the test passes.
    pub failure: Option<String>,
    /// The determining policies.
    pub policies: Vec<String>,
    /// The cells of the table of permissions that it is about; none if it is about an external domain.
    pub place: Option<Place>,
}

/// The principal and the resource of a policy test.
#[derive(Debug)]
pub struct CaseSubject {
    /// The types of principal and resource.
    pub types: [String; 2],
    /// Principal and resource, as Cedar writes them.
    pub entities: [String; 2],
}

/// A route of the service.
#[derive(Debug)]
pub struct RouteEntry {
    /// The method; `*` for every method.
    pub method: String,
    /// The path.
    pub path: String,
    /// What authorizes it.
    pub authorization: RouteAuthorization,
}

/// What authorizes a route.
#[derive(Debug)]
pub enum RouteAuthorization {
    /// An action.
    Action {
        /// Its name.
        name: String,
        /// Actions that are authorized in addition, depending on the request.
        additional: Vec<String>,
        /// Whether the schema declares all of these actions.
        is_declared: bool,
        /// Whether it is authorized on the root organization.
        on_root_organization: bool,
    },
    /// None: the route is public for this reason.
    Public(String),
}

impl RouteEntry {
    /// Whether the route has neither an action that the schema declares nor a reason to be public.
    pub fn is_uncovered(&self) -> bool {
        match &self.authorization {
            RouteAuthorization::Action { is_declared, .. } => !is_declared,
            RouteAuthorization::Public(reason) => reason.trim().is_empty(),
        }
    }
}

/// The findings of the checks.
#[derive(Debug)]
pub struct FindingsPart {
    /// The findings.
    pub findings: Vec<Finding>,
    /// What was not examined, or not decided.
    pub remarks: Vec<String>,
}

/// The claims about the policies.
#[derive(Debug)]
pub struct ClaimsPart {
    /// The claims.
    pub claims: Vec<ClaimEntry>,
    /// What is known of their proof.
    pub proof: Section<ProofSummary>,
}

/// A claim about the policies.
#[derive(Debug, Clone)]
pub struct ClaimEntry {
    /// Its id.
    pub id: String,
    /// What it says.
    pub doc: String,
    /// What kind of claim it is.
    pub kind: String,
    /// Its file and line; none if it is built in.
    pub place: Option<String>,
    /// The actions that it is about; none if it is about all.
    pub actions: Option<Vec<String>>,
    /// Whether it holds.
    pub result: String,
    /// What contradicts it, or why it is unknown.
    pub detail: Option<String>,
}

/// A proof of claims.
#[derive(Debug)]
pub struct ProofSummary {
    /// How many claims are proven, broken and unknown.
    pub summary: String,
    /// Where the proof is from, when it was made, and by which solver.
    pub origin: String,
    /// What was assumed of the policy data.
    pub assumptions: Vec<String>,
}

/// A version that was active.
#[derive(Debug)]
pub struct HistoryEntry {
    /// The version.
    pub version: String,
    /// Whether it is the active version.
    pub is_active: bool,
    /// When it became active for the first time.
    pub first_activated_at: String,
    /// When it became active for the last time.
    pub last_activated_at: String,
    /// What made it active for the last time, and on whose request.
    pub cause: String,
    /// The number of its files.
    pub files: i64,
    /// The total size of its files in bytes.
    pub bytes: i64,
}
