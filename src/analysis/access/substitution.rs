//! Replaces attributes of a policy by known values. Cedar's partial evaluation knows a context or the attributes of an entity
//! wholly or not at all; a substitution fixes one of them.

use cedar_policy::Policy;
use serde_json::{Value, json};

/// Attributes of variables, and the values that replace them.
#[derive(Debug, Clone, Default)]
pub(super) struct Substitution(Vec<Replacement>);

#[derive(Debug, Clone)]
struct Replacement {
    variable: &'static str,
    attribute: &'static str,
    /// An expression in Cedar's JSON format.
    value: Value,
}

impl Substitution {
    /// Also replaces this attribute by a literal, in Cedar's JSON format of values.
    pub(super) fn fix(&mut self, variable: &'static str, attribute: &'static str, literal: &Value) {
        self.0.push(Replacement { variable, attribute, value: json!({ "Value": literal }) });
    }

    /// A text that differs between different substitutions.
    pub(super) fn key(&self) -> String {
        let parts: Vec<Value> = self
            .0
            .iter()
            .map(|replacement| json!([replacement.variable, replacement.attribute, replacement.value]))
            .collect();
        Value::Array(parts).to_string()
    }

    /// The policy with the values in the place of the attributes.
    ///
    /// # Errors
    /// The policy cannot be converted.
    pub(super) fn apply(&self, policy: &Policy) -> Result<Policy, String> {
        let mut json = policy.to_json().map_err(|error| error.to_string())?;
        let conditions = json.get_mut("conditions").map(Value::take).unwrap_or_default();
        if let Some(place) = json.get_mut("conditions") {
            *place = self.replace(conditions);
        }
        Policy::from_json(Some(policy.id().clone()), json).map_err(|error| error.to_string())
    }

    fn replace(&self, expression: Value) -> Value {
        if let Some(value) = self.replacement(&expression) {
            return value;
        }
        match expression {
            Value::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, self.replace(value))).collect()
            }
            Value::Array(items) => items.into_iter().map(|item| self.replace(item)).collect(),
            scalar => scalar,
        }
    }

    fn replacement(&self, expression: &Value) -> Option<Value> {
        let fields = expression.as_object().filter(|fields| fields.len() == 1)?;
        let (operator, operands) = fields.iter().next()?;
        let (left, attribute) = (operands.get("left")?, operands.get("attr")?.as_str()?);
        let is_replaced = |replacement: &&Replacement| {
            replacement.attribute == attribute && *left == json!({ "Var": replacement.variable })
        };
        let replacement = self.0.iter().find(is_replaced)?;
        match operator.as_str() {
            "." => Some(replacement.value.clone()),
            "has" => Some(json!({ "Value": true })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_attribute_of_the_variable_is_replaced() {
        let mut substitution = Substitution::default();
        substitution.fix("context", "credential", &json!("apiKey"));
        let apply = |condition: &str| {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let policy = Policy::parse(None, text).unwrap();
            substitution.apply(&policy).unwrap().to_string()
        };
        for (condition, expected) in [
            (
                "context has credential && context.credential == \"apiKey\"",
                "true && (\"apiKey\" == \"apiKey\")",
            ),
            ("context.credentials == \"x\"", "context.credentials == \"x\""),
            ("resource.credential == \"x\"", "resource.credential == \"x\""),
            ("{credential: context.credential}.credential == \"x\"", "\"apiKey\""),
            ("context.nested.credential == \"x\"", "context.nested.credential == \"x\""),
            ("if context has credential then true else false", "if true then true else false"),
        ] {
            let text = apply(condition).replace(['\n', ' '], "");
            let expected = expected.replace(' ', "");
            let expected = expected.replace("(\"", "\"").replace("\")", "\"");
            assert!(
                text.replace("(\"", "\"").replace("\")", "\"").contains(&expected),
                "{condition}: {text}"
            );
        }
    }
}
