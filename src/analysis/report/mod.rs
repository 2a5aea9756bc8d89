//! The report: one HTML page about the policies, for an auditor to read, print and sign. Data in, HTML out.
//!
//! The page has its stylesheet in it and needs neither a network nor scripts. All texts that come from policies, test cases,
//! logs or the database are escaped.

mod access_section;
mod changes_section;
mod claims_section;
mod collect;
mod credentials_section;
mod domains_section;
mod history_section;
mod identity_section;
mod layout;
mod model;
mod page;
mod policies_section;
mod results;
mod routes_section;
mod sign_off_section;
mod warnings_section;

pub use collect::{cases, claim_entries, policy_entries, proof_part, recorded_proof_part};
pub use model::{
    ActiveVersion, Case, CaseSubject, ClaimEntry, ClaimsPart, Environments, FileEntry, FindingsPart,
    HistoryEntry, Identity, LastUse, LogUse, PolicyEntry, ProofSummary, Report, RouteAuthorization,
    RouteEntry, Section,
};
pub use page::html;
