//! The query language of lists: filters, order, pages, and what of each resource is returned. See docs/lists.md.
//!
//! - [`field`]: the fields of a resource, derived from its schema.
//! - [`value`]: the value of a filter, with its operator.
//! - [`cursor`]: where a page begins.
//! - [`shape`]: `select`, `populate` and `include`.
//! - [`list_request`]: the query string of a list.
//! - [`selection`]: the query string of a request that changes all resources that match.

pub mod cursor;
pub mod field;
pub mod list_request;
pub mod selection;
pub mod shape;
pub mod value;

pub use field::{ListSpec, QueryField};
pub use list_request::{DEFAULT_LIMIT, ListRequest, MAX_LIMIT, parse_number};
pub use selection::SelectionRequest;
pub use shape::{Shape, platform_fields};
