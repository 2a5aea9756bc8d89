//! Policies as filters: which resources of a type a principal may perform an action on, without evaluating each.

mod tree;

pub use tree::{Comparison, EntityId, Filter, FilterExpr, Operand, Path, PatternPart, Value};
