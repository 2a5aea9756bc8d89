//! The decision endpoints, which answer questions of other services.
//!
//! - [`authorize`] answers one question, or explains a decision.
//! - [`authzen`] are the endpoints of AuthZEN 1.0: evaluations, batches and searches, which the decision log has, too.
//! - [`forward`] answers a reverse proxy by the status of the response.
//! - [`question_names`] warns of names that the schema or the data do not have.
//! - [`evaluation`] is what they share: it resolves the resource, decides, and describes the decision.
//!
//! [`SubjectResolver`](crate::application::subjects::SubjectResolver) resolves the subject of every question.

pub mod authorize;
pub mod authzen;
mod authzen_batch;
mod authzen_body;
mod authzen_evaluation;
mod authzen_resource_search;
pub mod authzen_search;
pub mod evaluation;
mod filter;
mod filter_format;
mod filter_organizations;
mod filter_schema;
pub mod forward;
pub mod question_names;
mod search_answer;
