//! Policies as filters: which resources of a type a principal may perform an action on, without evaluating each.
//!
//! [`Engine::filter`](crate::authz::Engine::filter) evaluates the policies of an action partially, for a resource of which only the type is known, with the
//! facts of an ordinary decision. What remains of their conditions is translated to an expression over the attributes of a
//! resource ([`FilterExpr`]): the permits are combined by *or*, the forbids are subtracted, and so are the resources for which
//! a policy fails, since such a decision is a denial. An expression that cannot be translated is refused by name.
//!
//! [`Engine::row_filter`](crate::authz::Engine::row_filter) does the same for the rows of a list, which need no permit.

mod check;
mod constant;
mod pattern;
mod question;
mod sets;
mod stored;
mod term;
mod translation;
mod translator;
mod tree;
mod truth;

pub(super) use check::row_refusal;
pub use question::{FilterError, UntranslatablePolicy};
pub use translator::Refusal;
pub use tree::{Comparison, EntityId, Filter, FilterExpr, Operand, Path, PatternPart, Value};
