//! May it? Cedar and nothing else: no SQL, no HTTP.

mod answer;
mod bundle;
pub mod cases;
mod circumstances;
mod counts;
mod domain;
mod engine;
mod explain;
mod facts;
mod live;
mod matrix;
mod permitted;
mod reads;
mod rules;
mod scope;
mod shape;
mod shown;
mod slice;
mod trail;

pub use answer::Answer;
pub use bundle::{About, Bundle, BundleError, Fault, Sources};
pub use circumstances::Circumstances;
pub use counts::{Decisions, LATENCIES};
pub use domain::Domain;
pub use engine::{Ask, Engine};
pub use explain::Missing;
pub use facts::{Attribute, Foreign, Principal, Resourced, Thing, UserFacts, boolean, entity, text};
pub use live::{Live, Reloads};
pub use matrix::{MatrixRow, ScopeCells, matrix, matrix_rows};
pub use permitted::{Denied, Permitted, Undecided, Within};
pub use scope::{Scope, ScopeSet};
pub use trail::Trail;
