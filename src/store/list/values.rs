//! Conditions on the values within JSON columns, which are stored as text.
//!
//! The values of a path are the items of the array at its end, or the value there if it is no array. A value matches only
//! values of its own JSON type, and an object or a nested array matches none.

use super::dialect::Dialect;
use super::query::{ElementPath, FilterValue, Leaf, Test};
use sea_orm::sea_query::{Expr, ExprTrait};
use serde_json::Value;

/// Returns the condition that a text passes a test.
type TextTest = fn(Dialect, Expr, &Test) -> Expr;

/// A value within a JSON column, and its JSON type as the database names it.
struct JsonValue {
    value: Expr,
    kind: Expr,
    /// Whether the schema of the resource determines the type.
    is_typed: bool,
}

impl JsonValue {
    /// The value of the row `v` of a table function.
    fn of_row(dialect: Dialect) -> Self {
        let kind = dialect.either("v.type", "jsonb_typeof(v.value)", []);
        Self { value: Expr::cust("v.value"), kind, is_typed: false }
    }

    /// The single value at the end of a path.
    fn at(dialect: Dialect, container: Expr, path: &ElementPath) -> Self {
        let (value, kind) = match dialect {
            Dialect::Sqlite => {
                let part = |function: &str| {
                    let path = Expr::val(json_path(path));
                    dialect.expr(&format!("{function}(@@, @@)"), [container.clone(), path])
                };
                (part("json_extract"), part("json_type"))
            }
            Dialect::Postgres => {
                let end = end_of(dialect, container, path);
                (end.clone(), dialect.expr("jsonb_typeof(@@)", [end]))
            }
        };
        Self { value, kind, is_typed: true }
    }
}

/// Returns the condition that any value of a path in a JSON column passes a test. `text_test` is the test of a text.
pub(super) fn condition(
    dialect: Dialect,
    column: &Expr,
    path: &ElementPath,
    test: &Test,
    text_test: TextTest,
) -> Expr {
    let any = || any_value(dialect, column, path, |value| passes(dialect, value, test, text_test));
    let Test::OneOf { values, or_null } = test else { return any() };
    let equal = match dialect {
        // Containment is what a GIN index finds.
        Dialect::Postgres => {
            containments(path, values).map(|json| contains(dialect, column, &json)).collect()
        }
        Dialect::Sqlite if values.is_empty() => Vec::new(),
        Dialect::Sqlite => vec![any()],
    };
    let absent = or_null.then(|| dialect.negate(has_value(dialect, column, path)));
    equal.into_iter().chain(absent).reduce(ExprTrait::or).unwrap_or_else(|| Expr::cust("1 = 0"))
}

/// Returns the JSON values that a column with one of these values contains.
fn containments(path: &ElementPath, values: &[FilterValue]) -> impl Iterator<Item = Value> {
    let in_elements = path.in_elements;
    values.iter().flat_map(move |value| {
        let (one, list) = (value.to_json(), Value::Array(vec![value.to_json()]));
        let forms = match path.leaf {
            Leaf::Value => vec![one],
            Leaf::Array => vec![list],
            Leaf::Any => vec![one, list],
        };
        forms.into_iter().map(move |form| {
            let nested = path
                .keys
                .iter()
                .rev()
                .fold(form, |inner, key| Value::Object([(key.clone(), inner)].into_iter().collect()));
            if in_elements { Value::Array(vec![nested]) } else { nested }
        })
    })
}

fn contains(dialect: Dialect, column: &Expr, json: &Value) -> Expr {
    dialect.expr("@@ @> CAST(@@ AS jsonb)", [dialect.json(column.clone()), Expr::val(json.to_string())])
}

/// Returns the condition that a value passes a test.
fn passes(dialect: Dialect, json: JsonValue, test: &Test, text_test: TextTest) -> Expr {
    match test {
        Test::Compare(comparison, with @ (FilterValue::Integer(_) | FilterValue::Number(_))) => {
            number(dialect, json, comparison.sql(), with)
        }
        Test::Contains(_) | Test::StartsWith(_) | Test::Compare(..) => text(dialect, json, test, text_test),
        Test::OneOf { values, .. } => {
            let equals = |value: &FilterValue| {
                let json = JsonValue { value: json.value.clone(), kind: json.kind.clone(), ..json };
                match value {
                    FilterValue::Integer(_) | FilterValue::Number(_) => number(dialect, json, "=", value),
                    FilterValue::Boolean(value) => json.kind.eq(if *value { "true" } else { "false" }),
                    FilterValue::Text(_) | FilterValue::Time(_) => {
                        let test = Test::OneOf { values: vec![value.clone()], or_null: false };
                        text(dialect, json, &test, text_test)
                    }
                }
            };
            values.iter().map(equals).reduce(ExprTrait::or).unwrap_or_else(|| Expr::cust("1 = 0"))
        }
    }
}

/// Returns the condition that a value is a text that passes a test.
fn text(dialect: Dialect, json: JsonValue, test: &Test, text_test: TextTest) -> Expr {
    let value = dialect.either("@@", "(@@ #>> '{}')", [json.value]);
    let passes = text_test(dialect, value, test);
    if json.is_typed {
        return passes;
    }
    json.kind.eq(if dialect == Dialect::Sqlite { "text" } else { "string" }).and(passes)
}

/// Returns the condition that a value is a number that compares like this.
fn number(dialect: Dialect, json: JsonValue, operator: &str, with: &FilterValue) -> Expr {
    let with = match dialect {
        Dialect::Sqlite => Expr::val(with.clone()),
        Dialect::Postgres => Expr::val(with.to_json().to_string()),
    };
    dialect.either(
        &format!("(@@ IN ('integer', 'real') AND @@ {operator} @@)"),
        &format!("(@@ = 'number' AND @@ {operator} CAST(@@ AS jsonb))"),
        [json.kind, json.value, with],
    )
}

/// Returns the condition that any value of a path meets a condition.
fn any_value(
    dialect: Dialect,
    column: &Expr,
    path: &ElementPath,
    passes: impl Fn(JsonValue) -> Expr,
) -> Expr {
    in_containers(dialect, column, path, |container| {
        if path.leaf == Leaf::Value {
            return passes(JsonValue::at(dialect, container, path));
        }
        let passes = passes(JsonValue::of_row(dialect));
        match dialect {
            Dialect::Sqlite => {
                let path = json_path(path);
                // `json_each` iterates over the properties of an object, too.
                let template = "(json_type(@@, @@) IS NOT 'object' \
                                AND EXISTS (SELECT 1 FROM json_each(@@, @@) AS v WHERE @@))";
                let path = || Expr::val(path.clone());
                dialect.expr(template, [container.clone(), path(), container, path(), passes])
            }
            Dialect::Postgres => exists_postgres(dialect, container, path, passes),
        }
    })
}

/// Returns the condition that a path has any value except null.
fn has_value(dialect: Dialect, column: &Expr, path: &ElementPath) -> Expr {
    in_containers(dialect, column, path, |container| match dialect {
        _ if path.leaf == Leaf::Value => JsonValue::at(dialect, container, path).kind.ne("null"),
        Dialect::Sqlite => {
            let path = json_path(path);
            let template = "(json_type(@@, @@) IS 'object' \
                            OR EXISTS (SELECT 1 FROM json_each(@@, @@) AS v WHERE v.type <> 'null'))";
            let path = || Expr::val(path.clone());
            dialect.expr(template, [container.clone(), path(), container, path()])
        }
        Dialect::Postgres => {
            exists_postgres(dialect, container, path, Expr::cust("jsonb_typeof(v.value) <> 'null'"))
        }
    })
}

/// Returns the JSON at the end of a path.
fn end_of(dialect: Dialect, container: Expr, path: &ElementPath) -> Expr {
    path.keys.iter().fold(container, |container, key| {
        dialect.expr("(@@ -> CAST(@@ AS text))", [container, Expr::val(key.clone())])
    })
}

fn exists_postgres(dialect: Dialect, container: Expr, path: &ElementPath, condition: Expr) -> Expr {
    let end = end_of(dialect, container, path);
    let template = "EXISTS (SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof(@@) WHEN 'array' THEN @@ \
                    ELSE jsonb_build_array(@@) END) AS v(value) WHERE @@)";
    dialect.expr(template, [end.clone(), end.clone(), end, condition])
}

/// Returns the condition that the column, or any of its elements, meets a condition.
fn in_containers(
    dialect: Dialect,
    column: &Expr,
    path: &ElementPath,
    condition: impl Fn(Expr) -> Expr,
) -> Expr {
    let json = dialect.json(column.clone());
    if !path.in_elements {
        return condition(json);
    }
    let inner = condition(Expr::cust("e.value"));
    dialect.either(
        "EXISTS (SELECT 1 FROM json_each(@@) AS e WHERE @@)",
        "EXISTS (SELECT 1 FROM jsonb_array_elements(@@) AS e(value) WHERE @@)",
        [json, inner],
    )
}

/// Returns the path in SQLite's notation.
fn json_path(path: &ElementPath) -> String {
    path.keys.iter().fold("$".to_owned(), |text, key| format!("{text}.\"{key}\""))
}
