//! Simplifies the conditions that partial evaluation leaves. Cedar keeps `x && false`, because `x` could fail; the policies are
//! validated, so most expressions cannot.

use serde_json::{Value, json};

/// The operators that do not fail in validated policies. Arithmetic may overflow, and extension functions may reject a value.
const INFALLIBLE: [&str; 23] = [
    "Value",
    "Var",
    "Set",
    "Record",
    "==",
    "!=",
    "in",
    "<",
    "<=",
    ">",
    ">=",
    "&&",
    "||",
    "!",
    ".",
    "has",
    "like",
    "is",
    "contains",
    "containsAll",
    "containsAny",
    "isEmpty",
    "if-then-else",
];

/// An expression with the same value, in Cedar's JSON format.
pub(super) fn simplify(expression: Value) -> Value {
    let Value::Object(fields) = expression else { return expression };
    let Some((operator, operands)) = fields.into_iter().next() else { return json!({}) };
    let operands = match operands {
        Value::Object(operands) if operator != "Value" && operator != "Record" => {
            operands.into_iter().map(|(name, operand)| (name, simplify(operand))).collect()
        }
        operands => operands,
    };
    let operand = |name: &str| operands.get(name).cloned().unwrap_or_default();
    match operator.as_str() {
        "&&" => junction("&&", operand("left"), operand("right"), false),
        "||" => junction("||", operand("left"), operand("right"), true),
        "!" => negation(operand("arg")),
        "if-then-else" => match constant(&operand("if")) {
            Some(true) => operand("then"),
            Some(false) => operand("else"),
            None => json!({ operator: operands }),
        },
        _ => json!({ operator: operands }),
    }
}

/// The value of an expression that is `true` or `false`.
pub(super) fn constant(expression: &Value) -> Option<bool> {
    expression.get("Value")?.as_bool()
}

/// `left && right` or `left || right`. `decisive` is the value of an operand that is the value of the whole.
fn junction(operator: &str, left: Value, right: Value, decisive: bool) -> Value {
    match (constant(&left), constant(&right)) {
        (Some(value), _) if value == decisive => left,
        (Some(_), _) => right,
        (None, Some(value)) if value != decisive => left,
        (None, Some(_)) if !can_fail(&left) => right,
        _ => json!({ operator: { "left": left, "right": right } }),
    }
}

fn negation(argument: Value) -> Value {
    if let Some(value) = constant(&argument) {
        return json!({ "Value": !value });
    }
    match argument.get("!").and_then(|inner| inner.get("arg")) {
        Some(inner) => inner.clone(),
        None => json!({ "!": { "arg": argument } }),
    }
}

/// Whether the evaluation of an expression of a validated policy can fail.
fn can_fail(expression: &Value) -> bool {
    let Some(fields) = expression.as_object() else { return false };
    fields.iter().any(|(operator, operands)| {
        if operator == "Value" {
            return false;
        }
        !INFALLIBLE.contains(&operator.as_str())
            || match operands {
                Value::Object(operands) => operands.values().any(can_fail),
                Value::Array(operands) => operands.iter().any(can_fail),
                _ => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::Policy;

    #[test]
    fn constants_and_double_negations_disappear() {
        for (condition, expected) in [
            ("context has a && false", "false"),
            ("context has a || true", "true"),
            ("context.a + 1 == 2 && false", "context.a + 1 == 2 && false"),
            ("context.a.isLoopback() && false", "context.a.isLoopback() && false"),
            ("true && context has a && true", "context has a"),
            ("!(!(context has a))", "context has a"),
            ("!(context has a && false)", "true"),
            ("if true then context has a else context has b", "context has a"),
            (
                "context.a in [User::\"x\"] && principal == resource",
                "context.a in [User::\"x\"] && principal == resource",
            ),
        ] {
            let body = |text: &str| {
                let policy = format!("permit (principal, action, resource) when {{ {text} }};");
                let json = Policy::parse(None, policy).unwrap().to_json().unwrap();
                json.pointer("/conditions/0/body").unwrap().clone()
            };
            assert_eq!(simplify(body(condition)), body(expected), "{condition}");
        }
    }
}
