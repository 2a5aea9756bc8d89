//! Failures: policies whose evaluation can fail, such as by an overflow.
//!
//! Cedar skips a policy that fails; the service denies the request. [`with_denying_failures`] expresses that for the solver, which
//! knows Cedar's decisions only: each permit also requires that every policy that may fail can be evaluated.

use super::{Solver, Undecided};
use cedar_policy::{Effect, Policy, RequestEnv, Schema};
use cedar_policy_symcc::CompiledPolicy;
use serde_json::{Value, json};

/// Whether a policy fails for some request of an environment.
///
/// # Errors
/// The solver gives no answer, or the policy cannot be compiled.
pub(super) async fn may_fail(
    policy: &Policy,
    environment: &RequestEnv,
    schema: &Schema,
    solver: &mut Solver,
) -> Result<bool, Undecided> {
    let compiled =
        CompiledPolicy::compile(policy, environment, schema).map_err(|error| Undecided(error.to_string()))?;
    let never = solver.ask(async |compiler| compiler.check_never_errors_opt(&compiled).await).await?;
    Ok(!never)
}

/// Those of the policies that fail for some request of an environment.
///
/// # Errors
/// The solver gives no answer, or a policy cannot be compiled.
pub(super) async fn failing<'p>(
    policies: impl IntoIterator<Item = &'p Policy>,
    environment: &RequestEnv,
    schema: &Schema,
    solver: &mut Solver,
) -> Result<Vec<Policy>, Undecided> {
    let mut failing = Vec::new();
    for policy in policies {
        if may_fail(policy, environment, schema, solver).await? {
            failing.push(policy.clone());
        }
    }
    Ok(failing)
}

/// The policies, changed so that Cedar allows exactly the requests that the service allows: those for which none of `failing`
/// fails.
///
/// # Errors
/// Cedar cannot convert a policy.
pub(super) fn with_denying_failures(
    policies: &[Policy],
    failing: &[Policy],
) -> Result<Vec<Policy>, Undecided> {
    let evaluable = failing.iter().map(evaluable).collect::<Option<Vec<Value>>>();
    let guarded = |policy: &Policy| match policy.effect() {
        Effect::Permit => with_conditions(policy, evaluable.as_deref()?),
        Effect::Forbid => Some(policy.clone()),
    };
    let guarded: Option<Vec<Policy>> = policies.iter().map(guarded).collect();
    guarded.ok_or_else(|| Undecided("a policy that may fail cannot be converted".to_owned()))
}

/// A condition that is true if the policy can be evaluated, and fails if the policy fails.
fn evaluable(policy: &Policy) -> Option<Value> {
    // The condition with the scope, as a policy without a scope.
    let text = format!("permit (principal, action, resource) when {{ {} }};", policy.as_ref().condition());
    let json = Policy::parse(None, text).ok()?.to_json().ok()?;
    let body = json.get("conditions")?.as_array()?.first()?.get("body")?;
    Some(json!({ "kind": "when", "body": { "||": { "left": body, "right": { "!": { "arg": body } } } } }))
}

fn with_conditions(policy: &Policy, conditions: &[Value]) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    json.get_mut("conditions")?.as_array_mut()?.extend(conditions.iter().cloned());
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::{Authorizer, Context, Decision, Entities, PolicySet, Request};

    #[test]
    fn a_request_for_which_a_policy_fails_is_denied() {
        let policies: PolicySet = r#"
            permit (principal, action, resource);
            forbid (principal == User::"ann", action, resource) when { context.count * 2 > 100 };"#
            .parse()
            .unwrap();
        let all: Vec<Policy> = policies.policies().cloned().collect();
        let failing: Vec<Policy> =
            all.iter().filter(|policy| policy.effect() == Effect::Forbid).cloned().collect();
        let guarded = with_denying_failures(&all, &failing).unwrap();
        let guarded = PolicySet::from_policies(guarded).unwrap();
        for (principal, count, expected) in [
            ("ann", 1, Decision::Allow),
            ("ann", 51, Decision::Deny),
            ("ann", i64::MAX, Decision::Deny),
            ("bob", i64::MAX, Decision::Allow),
        ] {
            let uid = |text: &str| text.parse().unwrap();
            let context = Context::from_json_value(json!({ "count": count }), None).unwrap();
            let principal = uid(&format!("User::{principal:?}"));
            let request =
                Request::new(principal, uid("Action::\"read\""), uid("User::\"x\""), context, None).unwrap();
            let response = Authorizer::new().is_authorized(&request, &guarded, &Entities::empty());
            assert_eq!(response.decision(), expected, "{request}");
        }
    }
}
