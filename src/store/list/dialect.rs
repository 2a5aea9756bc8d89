//! SQL expressions that the databases write differently.

use super::fold;
use super::query::{Comparison, FilterValue};
use sea_orm::DbBackend;
use sea_orm::sea_query::{Alias, Expr, ExprTrait};

/// Marks an expression in a template of [`Dialect::expr`].
const PLACEHOLDER: &str = "@@";

/// The SQL of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Dialect {
    Sqlite,
    Postgres,
}

impl From<DbBackend> for Dialect {
    fn from(backend: DbBackend) -> Self {
        if backend == DbBackend::Postgres { Self::Postgres } else { Self::Sqlite }
    }
}

/// Returns a column, qualified with its table.
pub(in crate::store) fn column(table: &str, name: &str) -> Expr {
    Expr::col((Alias::new(table), Alias::new(name)))
}

/// Returns the condition that no row meets.
pub(in crate::store) fn never() -> Expr {
    Expr::cust("1 = 0")
}

impl Dialect {
    /// Returns the expression of a template, in which each `@@` stands for one of the expressions.
    pub(in crate::store) fn expr(self, template: &str, expressions: impl IntoIterator<Item = Expr>) -> Expr {
        let mut sql = String::new();
        for (index, part) in template.split(PLACEHOLDER).enumerate() {
            match (index, self) {
                (0, _) => {}
                (_, Self::Sqlite) => sql.push('?'),
                (number, Self::Postgres) => sql.push_str(&format!("${number}")),
            }
            sql.push_str(part);
        }
        Expr::cust_with_exprs(sql, expressions)
    }

    /// Returns one of two templates as an expression.
    pub(in crate::store) fn either(
        self,
        sqlite: &str,
        postgres: &str,
        expressions: impl IntoIterator<Item = Expr>,
    ) -> Expr {
        self.expr(if self == Self::Sqlite { sqlite } else { postgres }, expressions)
    }

    /// Returns a text that is compared by code points. The order of PostgreSQL depends on the collation of the database.
    pub(super) fn by_code_points(self, text: Expr) -> Expr {
        self.either("@@", "(@@ COLLATE \"C\")", [text])
    }

    /// Returns a text in lower case, as far as a comparison with `pattern` needs it.
    pub(super) fn folded(self, text: Expr, pattern: &str) -> Expr {
        let ascii = self.either("lower(@@)", "lower(@@ COLLATE \"C\")", [text]);
        fold::replacements(pattern).into_iter().fold(ascii, |text, (upper, lower)| {
            self.expr(
                "replace(@@, @@, @@)",
                [text, Expr::val(upper.to_string()), Expr::val(lower.to_string())],
            )
        })
    }

    /// Returns the condition that a text contains another one, ignoring case.
    pub(super) fn contains(self, text: Expr, part: &str) -> Expr {
        let part = fold::lower_text(part);
        let text = self.folded(text, &part);
        self.either("instr(@@, @@) > 0", "strpos(@@, @@) > 0", [text, Expr::val(part)])
    }

    /// Returns the condition that a text begins with another one, as a range that an index can find.
    pub(super) fn starts_with(self, text: Expr, start: &str) -> Expr {
        let text = self.by_code_points(text);
        let from = text.clone().gte(start);
        match first_after(start) {
            Some(end) => from.and(text.lt(end)),
            None => from,
        }
    }

    /// Returns the condition that two values compare like this.
    pub(super) fn compare(self, value: Expr, comparison: Comparison, with: &FilterValue) -> Expr {
        let value = if matches!(with, FilterValue::Text(_)) { self.by_code_points(value) } else { value };
        let template = format!("@@ {} @@", comparison.sql());
        self.expr(&template, [value, Expr::val(with.clone())])
    }

    /// Returns the condition that another one is not met: it is false or null.
    pub(in crate::store) fn negate(self, condition: Expr) -> Expr {
        self.expr("(@@) IS NOT TRUE", [condition])
    }

    /// Returns a JSON column as the database reads it. The same expression is in the indexes of the migrations.
    ///
    /// PostgreSQL's `jsonb` cannot hold the character U+0000. No filter has it, so nothing has to match it.
    pub(super) fn json(self, column: Expr) -> Expr {
        self.either("@@", "CAST(replace(@@, '\\u0000', '\\ufffd') AS jsonb)", [column])
    }

    /// Returns the text property of the object in a JSON column. The same expression is in the indexes of the migrations.
    pub(super) fn property(self, column: Expr, key: &str) -> Expr {
        let key = key.replace('\'', "''");
        self.either(
            &format!("json_extract(@@, '$.\"{key}\"')"),
            &format!("(CAST(@@ AS jsonb) ->> '{key}')"),
            [column],
        )
    }
}

/// Returns the smallest text that is greater than all that begin with `start`; none if there is none.
fn first_after(start: &str) -> Option<String> {
    let mut letters: Vec<char> = start.chars().collect();
    while let Some(last) = letters.pop() {
        let next = match u32::from(last).saturating_add(1) {
            // After the last code point before the surrogates.
            0xD800 => Some('\u{E000}'),
            next => char::from_u32(next),
        };
        if let Some(next) = next {
            letters.push(next);
            return Some(letters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_text_without_it() {
        assert_eq!(first_after("ab").as_deref(), Some("ac"));
        assert_eq!(first_after("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(first_after("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(first_after("\u{10ffff}"), None);
        assert_eq!(first_after(""), None);
    }
}
