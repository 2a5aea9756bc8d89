//! Conditions on sets in SQL: arrays of PostgreSQL, and texts with JSON arrays in SQLite.

use super::render::{NotExpressible, Renderer, SqlDialect, unsupported};
use crate::authz::filter::{Operand, Path, Value};

const NEVER: &str = "1 = 0";

impl Renderer<'_> {
    /// Whether a set contains an element.
    ///
    /// # Errors
    /// The database cannot express it.
    pub(super) fn contains(&mut self, set: &Operand, element: &Operand) -> Result<String, NotExpressible> {
        match (set, element) {
            (Operand::Value(Value::Set(values)), Operand::Path(_)) => {
                let sample = Operand::Value(values.first().cloned().unwrap_or(Value::Bool(false)));
                let Some(column) = self.operand(element, &sample)? else { return Ok(NEVER.to_owned()) };
                let values = self.values(values)?;
                Ok(if values.is_empty() {
                    NEVER.to_owned()
                } else {
                    format!("{column} IN ({})", values.join(", "))
                })
            }
            (Operand::Path(set), element) => {
                let set = self.column(set);
                // In the set, the collation of the database is that of text.
                let element = match element {
                    Operand::Path(path) => Some(self.column(path)),
                    Operand::Value(value) => self.value(value)?,
                };
                Ok(element.map_or_else(|| NEVER.to_owned(), |element| self.is_element(&element, &set)))
            }
            _ => Err(unsupported("a set of constants contains a constant")),
        }
    }

    /// Whether a value is in the set of a column. Null or false if either is null.
    fn is_element(&self, element: &str, set: &str) -> String {
        match self.dialect {
            SqlDialect::Postgres => format!("{element} = ANY({set})"),
            SqlDialect::Sqlite => {
                format!("EXISTS (SELECT 1 FROM json_each({set}) AS e WHERE e.value = {element})")
            }
        }
    }

    /// The elements of the set of a column, as a table `e` with a column `value`.
    fn elements(&self, set: &str) -> String {
        match self.dialect {
            SqlDialect::Postgres => format!("unnest({set}) AS e(value)"),
            SqlDialect::Sqlite => format!("json_each({set}) AS e"),
        }
    }

    fn values(&mut self, values: &[Value]) -> Result<Vec<String>, NotExpressible> {
        let mut parameters = Vec::new();
        for value in values {
            parameters.extend(self.value(value)?);
        }
        Ok(parameters)
    }

    /// Whether a set contains all elements of another one.
    ///
    /// # Errors
    /// The database cannot express it.
    pub(super) fn contains_all(
        &mut self,
        set: &Operand,
        elements: &Operand,
    ) -> Result<String, NotExpressible> {
        match (set, elements) {
            (Operand::Path(set), Operand::Value(Value::Set(values))) => {
                let column = self.column(set);
                let mut conditions = vec![format!("{column} IS NOT NULL")];
                for value in values {
                    let value = self.value(value)?;
                    conditions.push(
                        value.map_or_else(|| NEVER.to_owned(), |value| self.is_element(&value, &column)),
                    );
                }
                Ok(format!("({})", conditions.join(" AND ")))
            }
            (Operand::Value(Value::Set(values)), Operand::Path(path)) => {
                let column = self.column(path);
                let values = self.values(values)?;
                let elements = self.elements(&column);
                let other = match values.is_empty() {
                    true => String::new(),
                    false => format!(" WHERE (e.value IN ({})) IS NOT TRUE", values.join(", ")),
                };
                Ok(format!("({column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {elements}{other}))"))
            }
            (Operand::Path(set), Operand::Path(path)) => self.all_elements(set, path),
            _ => Err(unsupported("a set of constants contains a set of constants")),
        }
    }

    fn all_elements(&mut self, set: &Path, path: &Path) -> Result<String, NotExpressible> {
        let (set, column) = (self.column(set), self.column(path));
        let elements = self.elements(&column);
        let is_element = match self.dialect {
            SqlDialect::Postgres => format!("e.value = ANY({set})"),
            SqlDialect::Sqlite => {
                format!("EXISTS (SELECT 1 FROM json_each({set}) AS f WHERE f.value = e.value)")
            }
        };
        Ok(format!(
            "({set} IS NOT NULL AND {column} IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM {elements} WHERE ({is_element}) IS NOT TRUE))"
        ))
    }

    /// Whether a set contains any element of another one.
    ///
    /// # Errors
    /// The database cannot express it.
    pub(super) fn contains_any(
        &mut self,
        set: &Operand,
        elements: &Operand,
    ) -> Result<String, NotExpressible> {
        match (set, elements) {
            (Operand::Path(path), Operand::Value(Value::Set(values)))
            | (Operand::Value(Value::Set(values)), Operand::Path(path)) => {
                let column = self.column(path);
                let values = self.values(values)?;
                let elements = self.elements(&column);
                Ok(match values.is_empty() {
                    true => NEVER.to_owned(),
                    false => {
                        format!("EXISTS (SELECT 1 FROM {elements} WHERE e.value IN ({}))", values.join(", "))
                    }
                })
            }
            (Operand::Path(set), Operand::Path(path)) => {
                let (set, column) = (self.column(set), self.column(path));
                let elements = self.elements(&column);
                let is_element = match self.dialect {
                    SqlDialect::Postgres => format!("e.value = ANY({set})"),
                    SqlDialect::Sqlite => {
                        format!("EXISTS (SELECT 1 FROM json_each({set}) AS f WHERE f.value = e.value)")
                    }
                };
                Ok(format!("EXISTS (SELECT 1 FROM {elements} WHERE {is_element})"))
            }
            _ => Err(unsupported("a set of constants contains a set of constants")),
        }
    }
}
