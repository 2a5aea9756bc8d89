//! The only module that imports `cedar_policy_core`, the crate behind the public API of `cedar_policy`.
//!
//! The engine evaluates requests with Cedar's evaluator instead of `cedar_policy::Authorizer`, for which the public API has
//! no equivalent:
//!
//! - `Authorizer::is_authorized` evaluates every policy of a policy set, and combines scope and conditions of each one for
//!   every request. The engine evaluates only the policies of the action, combined once ([`super::compiled_policy`]).
//! - Its entity store owns the entities and computes the transitive closure of their ancestors. The engine shares entities
//!   between requests, and builds them with all of their ancestors ([`super::entities`]).
//! - It ignores a policy whose evaluation fails. The engine denies the request
//!   ([`super::compiled_policy::evaluate_policies`]).
//!
//! `cedar_policy_core` has no stable API. Both crates are therefore pinned to one exact version, and the tests `engine` and
//! `engine_external` compare random decisions of the engine with those of `Authorizer::is_authorized`.

pub(super) use cedar_policy_core::ast::{
    Entity, EntityUID, Expr, ExprKind, Literal, PartialValue, PrincipalOrResource,
    PrincipalOrResourceConstraint, Request, Value, ValueKind, Var,
};
pub(super) use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
pub(super) use cedar_policy_core::evaluator::Evaluator;
pub(super) use cedar_policy_core::extensions::Extensions;
