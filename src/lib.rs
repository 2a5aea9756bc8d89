//! Cedargate.

pub mod authz;
pub mod values;
