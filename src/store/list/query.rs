//! The typed query of a list: filters, order and page. How clients write it is a matter of `http::query`.

use crate::types::Timestamp;
use sea_orm::sea_query::Order;
use serde_json::{Number, Value};

/// Filters, order and page of a list. The columns are those of the table.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// The maximum number of rows.
    pub limit: u64,
    /// The number of rows to skip.
    pub offset: u64,
    /// The columns to sort by. Ties are ordered by creation time and id: see [`full_order`].
    pub sort: Vec<SortKey>,
    /// The conditions that every row meets.
    pub filters: Vec<Filter>,
    /// The position after which the page begins: a value for each column of [`full_order`], none for null.
    pub after: Option<Vec<Option<FilterValue>>>,
    /// Whether the rows of the whole list are not counted.
    pub skips_total: bool,
}

/// A column to sort by, or a text in a JSON column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// The column.
    pub column: String,
    /// The property of the object in the column; none for the column itself.
    pub property: Option<String>,
    /// The direction.
    pub order: SortOrder,
}

impl SortKey {
    /// Creates the key of a column.
    pub fn new(column: &str, order: SortOrder) -> Self {
        Self { column: column.to_owned(), property: None, order }
    }
}

/// The order of a list by one column. Texts are in the order of their code points, and nulls are last in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    /// Smallest value first.
    Ascending,
    /// Largest value first.
    Descending,
}

impl From<SortOrder> for Order {
    fn from(order: SortOrder) -> Self {
        match order {
            SortOrder::Ascending => Self::Asc,
            SortOrder::Descending => Self::Desc,
        }
    }
}

/// Returns all columns that determine the order of a list of resources: those of `sort`, then the creation time, and the id in
/// the direction of the creation time.
pub fn full_order(sort: &[SortKey]) -> Vec<SortKey> {
    let mut keys = sort.to_vec();
    // Ids of the same second are in no particular order, so the creation time comes first. The id has its direction: the
    // opposite order of an index.
    let mut order = SortOrder::Ascending;
    for column in ["created_at", "id"] {
        match keys.iter().find(|key| key.column == column) {
            Some(key) => order = key.order,
            None => keys.push(SortKey::new(column, order)),
        }
    }
    keys
}

/// A condition on a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// The field that is tested.
    pub field: Field,
    /// The test.
    pub test: Test,
    /// Whether exactly the rows match that fail the test.
    pub is_negated: bool,
}

impl Filter {
    /// The condition that a column has this value.
    pub fn equal(column: &str, value: FilterValue) -> Self {
        Self::one_of(column, vec![value])
    }

    /// The condition that a column has one of these values.
    pub fn one_of(column: &str, values: Vec<FilterValue>) -> Self {
        let test = Test::OneOf { values, or_null: false };
        Self { field: Field::Column(column.to_owned()), test, is_negated: false }
    }

    /// The condition that the value of a column compares like this.
    pub fn compare(column: &str, comparison: Comparison, value: FilterValue) -> Self {
        let test = Test::Compare(comparison, value);
        Self { field: Field::Column(column.to_owned()), test, is_negated: false }
    }
}

/// The field of a row that a filter tests. It has any number of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A column, with one value or none.
    Column(String),
    /// A text property of the object in a JSON column, with one value or none.
    Property {
        /// The column.
        column: String,
        /// The name of the property: letters and digits.
        key: String,
    },
    /// Values within a JSON column. A row passes a test if any of its values does.
    Elements(ElementPath),
}

/// Where the values are within a JSON column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementPath {
    /// The column.
    pub column: String,
    /// Whether the column is an array of objects, in each of which `keys` lead to values.
    pub in_elements: bool,
    /// The names of the nested properties, without quotation marks, backslashes and control characters.
    pub keys: Vec<String>,
    /// What is at the end of the path.
    pub leaf: Leaf,
}

/// What is at the end of an [`ElementPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A single value.
    Value,
    /// An array, whose items are the values.
    Array,
    /// Either of them.
    Any,
}

/// The test of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Any value is one of these; or the field has no value, if `or_null` is set.
    OneOf {
        /// The values.
        values: Vec<FilterValue>,
        /// Whether rows without a value match, too.
        or_null: bool,
    },
    /// Any value of the same type compares like this with the given one. Texts are compared by code points.
    Compare(Comparison, FilterValue),
    /// Any value is a text that contains this one, ignoring case: see [`super::fold`].
    Contains(String),
    /// Any value is a text that begins with this one.
    StartsWith(String),
}

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Less than the given value.
    Less,
    /// At most the given value.
    LessOrEqual,
    /// Greater than the given value.
    Greater,
    /// At least the given value.
    GreaterOrEqual,
}

impl Comparison {
    /// Returns the operator in SQL.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// The value that a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterValue {
    /// A text, in the form in which the column stores it.
    Text(String),
    /// A number in a column.
    Integer(i64),
    /// A truth value.
    Boolean(bool),
    /// A point in time.
    Time(Timestamp),
    /// A number in a JSON column.
    Number(Number),
}

impl FilterValue {
    /// Returns the value in JSON.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Integer(number) => Value::from(*number),
            Self::Boolean(value) => Value::Bool(*value),
            Self::Time(time) => Value::String(time.to_string()),
            Self::Number(number) => Value::Number(number.clone()),
        }
    }
}

impl From<FilterValue> for sea_orm::Value {
    fn from(value: FilterValue) -> Self {
        match value {
            FilterValue::Text(text) => text.into(),
            FilterValue::Integer(number) => number.into(),
            FilterValue::Boolean(value) => value.into(),
            FilterValue::Time(time) => time.into(),
            FilterValue::Number(number) => match number.as_i64() {
                Some(number) => number.into(),
                None => number.as_f64().into(),
            },
        }
    }
}
