//! May it? Cedar and nothing else: no SQL, no HTTP.

mod bundle;
pub mod cases;
mod engine;
mod facts;
mod matrix;
mod permitted;
mod scope;

pub use bundle::{About, Bundle, BundleError, Fault, Sources};
pub use cedar_policy::RestrictedExpression;
pub use engine::{Answer, Ask, Engine};
pub use facts::{Circumstances, Principal, Resourced, Thing, UserFacts, boolean, entity, integer, text};
pub use matrix::matrix;
pub use permitted::{Denied, Permitted, Undecided, Within};
pub use scope::{Scope, ScopeSet};
