//! May it? Cedar and nothing else: no SQL, no HTTP.

mod scope;

pub use scope::{Scope, ScopeSet};
