//! The order of a list, and the condition that a row comes after a position in it.

use super::dialect::{Dialect, column};
use super::query::{FilterValue, SortKey, SortOrder};
use sea_orm::sea_query::{Expr, ExprTrait, NullOrdering, SelectStatement, StringLen};
use sea_orm::{ColumnTrait, ColumnType, EntityTrait, IdenStatic, Iterable, QuerySelect, Select};

/// A column to sort by, with what the query needs to know of it.
#[derive(Debug, Clone)]
pub(super) struct OrderKey {
    value: Expr,
    order: SortOrder,
    is_nullable: bool,
}

impl OrderKey {
    /// Creates the key of a column.
    pub(super) fn new(value: Expr, order: SortOrder, is_nullable: bool) -> Self {
        Self { value, order, is_nullable }
    }

    /// Adds the order by this column to a query.
    pub(super) fn add_to(&self, select: &mut SelectStatement) {
        let order = self.order.into();
        if self.is_nullable {
            select.order_by_expr_with_nulls(self.value.clone(), order, NullOrdering::Last);
        } else {
            select.order_by_expr(self.value.clone(), order);
        }
    }
}

/// Returns the columns of an entity by which a list is sorted.
pub(super) fn order_keys<E: EntityTrait>(dialect: Dialect, table: &str, sort: &[SortKey]) -> Vec<OrderKey> {
    sort.iter()
        .map(|key| {
            if let Some(property) = &key.property {
                let value = dialect.property(column(table, &key.column), property);
                return OrderKey::new(dialect.by_code_points(value), key.order, true);
            }
            let definition = E::Column::iter().find(|other| other.as_str() == key.column).map(|it| it.def());
            let value = column(table, &key.column);
            // Not ids, which have a length: hex digits have the same order in every collation.
            let is_text =
                |kind: &ColumnType| matches!(kind, ColumnType::Text | ColumnType::String(StringLen::None));
            let is_text = definition.as_ref().is_some_and(|it| is_text(it.get_column_type()));
            let value = if is_text { dialect.by_code_points(value) } else { value };
            OrderKey::new(value, key.order, definition.is_none_or(|it| it.is_null()))
        })
        .collect()
}

/// Adds the order to a query.
pub(super) fn sorted<E: EntityTrait>(mut select: Select<E>, keys: &[OrderKey]) -> Select<E> {
    // Explicit about nulls, since the defaults of the databases differ.
    keys.iter().for_each(|key| key.add_to(QuerySelect::query(&mut select)));
    select
}

/// Returns the condition that a row comes after the row with these values. `position` has a value for each key.
pub(super) fn is_after(dialect: Dialect, keys: &[OrderKey], position: &[Option<FilterValue>]) -> Expr {
    let pairs: Vec<(&OrderKey, &Option<FilterValue>)> = keys.iter().zip(position).collect();
    if let Some(tuple) = is_after_tuple(&pairs) {
        return tuple;
    }
    // Later in one column, and equal in those before it.
    let mut alternatives = Vec::new();
    let mut equal_before: Option<Expr> = None;
    for (key, value) in &pairs {
        if let Some(later) = is_later(key, value.as_ref()) {
            alternatives.push(match equal_before.clone() {
                Some(equal) => equal.and(later),
                None => later,
            });
        }
        let equal = match value {
            Some(value) => key.value.clone().eq(Expr::val(value.clone())),
            None => key.value.clone().is_null(),
        };
        equal_before = Some(match equal_before {
            Some(before) => before.and(equal),
            None => equal,
        });
    }
    let any = alternatives.into_iter().reduce(ExprTrait::or).unwrap_or_else(|| Expr::cust("1 = 0"));
    match pairs.first().and_then(|(key, value)| is_not_before(key, value.as_ref())) {
        // Redundant, but a range that an index finds.
        Some(bound) => bound.and(dialect.expr("(@@)", [any])),
        None => dialect.expr("(@@)", [any]),
    }
}

/// Returns the comparison of row values, which an index finds exactly; none if the columns are nullable or differ in direction.
fn is_after_tuple(pairs: &[(&OrderKey, &Option<FilterValue>)]) -> Option<Expr> {
    let order = pairs.first()?.0.order;
    let mut values = Vec::new();
    for (key, value) in pairs {
        if key.is_nullable || key.order != order {
            return None;
        }
        values.push(Expr::val((*value).clone()?));
    }
    let columns = Expr::tuple(pairs.iter().map(|(key, _)| key.value.clone()));
    Some(match order {
        SortOrder::Ascending => columns.gt(Expr::tuple(values)),
        SortOrder::Descending => columns.lt(Expr::tuple(values)),
    })
}

/// Returns the condition that a row has a later value in this column; none if no value is later. Nulls are last.
fn is_later(key: &OrderKey, value: Option<&FilterValue>) -> Option<Expr> {
    let value = Expr::val(value?.clone());
    let column = key.value.clone();
    let later = match key.order {
        SortOrder::Ascending => column.clone().gt(value),
        SortOrder::Descending => column.clone().lt(value),
    };
    Some(if key.is_nullable { later.or(column.is_null()) } else { later })
}

/// Returns the condition that a row has no earlier value in this column; none if it is no range.
fn is_not_before(key: &OrderKey, value: Option<&FilterValue>) -> Option<Expr> {
    let value = Expr::val(value?.clone());
    if key.is_nullable {
        return None;
    }
    Some(match key.order {
        SortOrder::Ascending => key.value.clone().gte(value),
        SortOrder::Descending => key.value.clone().lte(value),
    })
}
