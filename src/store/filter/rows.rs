//! The tables of the resource types as policies see them.

use super::{ColumnKind, FilterColumn, FilterTable, Inexpressible, condition, simplified};
use crate::authz::filter::{Comparison, EntityId, Filter, FilterExpr, Operand, Path, Value};
use crate::authz::{AttributeType, AuthorizedOrgs, AuthzResource as _, Permitted, ResourceEntity};
use crate::resource::Resource;
use crate::resource::organization::Organization;
use crate::store::list::{Dialect, column, never};
use crate::store::org_tree::is_within;
use crate::store::rows::{
    MAX_IDS, OWNER_ORG, RowWithOrg, id_column, select_decision_columns, select_with_org, table,
};
use crate::store::{Reader, StoreError};
use crate::types::{Id, OrgPath};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Order};
use sea_orm::{ConnectionTrait, IdenStatic, QueryFilter, QueryOrder, QuerySelect};
use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;

/// The attribute with the organization that owns a resource.
const ORGANIZATION_ATTRIBUTE: &str = "organization";

/// The rows of a resource type within a part of the tree of organizations.
struct Rows<'a, R> {
    /// The top of that part.
    top: &'a OrgPath,
    /// The organizations of the rows, if they are known.
    organizations: Option<&'a HashSet<Id>>,
    resource: PhantomData<fn() -> R>,
}

/// Returns the condition that a list of these organizations contains a row; none if it contains all of their rows.
///
/// # Errors
/// [`StoreError::Failed`] if the filter cannot be expressed. The policies are checked for that when they are loaded.
pub(in crate::store) fn row_condition<R: Resource>(
    dialect: Dialect,
    organizations: &Permitted<AuthorizedOrgs>,
) -> Result<Option<Expr>, StoreError> {
    let rows = Rows::<R> {
        top: organizations.top(),
        organizations: Some(organizations.organizations()),
        resource: PhantomData,
    };
    filter_condition(dialect, &rows, organizations.row_filter(R::TYPE)).map_err(|error| {
        StoreError::Failed(format!("the policies of {} cannot filter rows: {error}", R::TYPE))
    })
}

impl Reader<'_> {
    /// Returns the ids of those resources in `top` and its descendants that all filters permit, in ascending order: at most
    /// `limit`, after the id `after`. None if a filter cannot be expressed.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn search<R: Resource>(
        &self,
        top: &OrgPath,
        filters: &[Filter],
        after: Option<Id>,
        limit: u64,
    ) -> Result<Option<Vec<Id>>, StoreError> {
        let Some(conditions) = self.search_conditions::<R>(top, filters) else { return Ok(None) };
        let mut select = select_with_org::<R>().select_only().expr_as(id_column::<R>(), "id");
        // Every organization is below the root.
        if top.level() > 0 {
            select = match self.subtree(top).await?.as_slice() {
                // A single value lets the database read an index in the order of the ids.
                [one] => {
                    let owner = column(table::<R>(), R::organization_column().as_str());
                    select.filter(owner.eq(one.org_id()))
                }
                _ => select.filter(is_within(Expr::col((OWNER_ORG, "path")), top)),
            };
        }
        select = select.filter(conditions);
        if let Some(after) = after {
            select = select.filter(id_column::<R>().gt(after));
        }
        let ids = select.order_by(id_column::<R>(), Order::Asc).limit(limit).into_tuple();
        Ok(Some(ids.all(&self.0).await?))
    }

    /// Returns the Cedar entities of those resources with these ids that [`Self::search`] finds with the same filters, as they are
    /// when this query selects them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn searched_entities<R: Resource>(
        &self,
        top: &OrgPath,
        filters: &[Filter],
        ids: &[Id],
    ) -> Result<Vec<Arc<ResourceEntity>>, StoreError> {
        let Some(conditions) = self.search_conditions::<R>(top, filters) else { return Ok(Vec::new()) };
        let mut entities = Vec::with_capacity(ids.len());
        for batch in ids.chunks(MAX_IDS) {
            let select = select_decision_columns::<R>()
                .filter(id_column::<R>().is_in(batch.iter().copied()))
                .filter(conditions.clone());
            let rows = select.into_model::<RowWithOrg<R::DecisionRow>>().all(&self.0).await?;
            entities.extend(rows.into_iter().map(|row| row.into_id_and_entity().1));
        }
        Ok(entities)
    }

    /// Returns the condition that all filters permit a row; none if one cannot be expressed.
    fn search_conditions<R: Resource>(&self, top: &OrgPath, filters: &[Filter]) -> Option<Condition> {
        let dialect = Dialect::from(self.0.get_database_backend());
        let rows = Rows::<R> { top, organizations: None, resource: PhantomData };
        filters.iter().try_fold(Condition::all(), |all, filter| {
            Some(all.add_option(filter_condition(dialect, &rows, filter).ok()?))
        })
    }
}

/// Returns the condition that a filter permits a row; none if it permits all of them.
///
/// # Errors
/// The filter cannot be expressed.
fn filter_condition<R: Resource>(
    dialect: Dialect,
    rows: &Rows<'_, R>,
    filter: &Filter,
) -> Result<Option<Expr>, Inexpressible> {
    let expr = match filter {
        Filter::Always => return Ok(None),
        Filter::Never => return Ok(Some(never())),
        Filter::When(expr) => simplified(rows, expr),
    };
    match expr.as_constant() {
        Some(true) => Ok(None),
        _ => condition(dialect, rows, &expr).map(Some),
    }
}

impl<R: Resource> FilterTable for Rows<'_, R> {
    fn column(&self, path: &Path) -> Option<FilterColumn> {
        let (value, kind) = match path.names() {
            [] => (id_column::<R>(), ColumnKind::Entity(R::TYPE.to_owned())),
            [name] if name == ORGANIZATION_ATTRIBUTE => {
                let owner = column(table::<R>(), R::organization_column().as_str());
                (owner, ColumnKind::Entity(Organization::TYPE.to_owned()))
            }
            [name] => {
                let attribute = R::ATTRIBUTES.iter().find(|attribute| attribute.name == name)?;
                let kind = match attribute.value {
                    AttributeType::Text => ColumnKind::Text,
                    AttributeType::Bool => ColumnKind::Boolean,
                    AttributeType::Long => ColumnKind::Long,
                    AttributeType::Entity(kind) | AttributeType::Enum(kind, _) => {
                        ColumnKind::Entity(kind.to_owned())
                    }
                };
                (column(table::<R>(), &R::column_name(name)?), kind)
            }
            _ => return None,
        };
        Some(FilterColumn { value, kind })
    }

    fn is_in(&self, dialect: Dialect, ancestors: &[EntityId]) -> Expr {
        let path = Expr::col((OWNER_ORG, "path"));
        let is_below = |ancestor: &EntityId| {
            if let Some(id) = organization_id(ancestor) {
                // A path consists of ids of equal length, so that it contains no other text of this form.
                let id = Expr::val(id.to_string());
                return Some(dialect.either("instr(@@, @@) > 0", "strpos(@@, @@) > 0", [path.clone(), id]));
            }
            let own = stored_id(ancestor).filter(|_| ancestor.kind == R::TYPE)?;
            Some(id_column::<R>().eq(own))
        };
        let any = ancestors.iter().filter_map(is_below).reduce(ExprTrait::or);
        any.map_or_else(never, |any| dialect.expr("(@@)", [any]))
    }

    fn constant(&self, atom: &FilterExpr) -> Option<bool> {
        match atom {
            FilterExpr::In { entity: Operand::Path(path), ancestors } if path.is_resource() => {
                let contains_all =
                    |ancestor: &EntityId| organization_id(ancestor).is_some_and(|id| self.top.is_within(id));
                ancestors.iter().any(contains_all).then_some(true)
            }
            FilterExpr::Compare { left, op: Comparison::Equal, right } => {
                let ((Operand::Path(path), Operand::Value(Value::Entity(entity)))
                | (Operand::Value(Value::Entity(entity)), Operand::Path(path))) = (left, right)
                else {
                    return None;
                };
                let organizations =
                    self.organizations.filter(|_| path.names() == [ORGANIZATION_ATTRIBUTE])?;
                match organization_id(entity).is_some_and(|id| organizations.contains(&id)) {
                    false => Some(false),
                    true => (organizations.len() == 1).then_some(true),
                }
            }
            _ => None,
        }
    }
}

/// Returns the id of an organization that can exist; none for other entities.
fn organization_id(entity: &EntityId) -> Option<Id> {
    stored_id(entity).filter(|_| entity.kind == Organization::TYPE)
}

/// Returns the id of a resource that can exist. Ids in policies are any texts.
fn stored_id(entity: &EntityId) -> Option<Id> {
    entity.id.parse().ok().filter(|id: &Id| id.to_string() == entity.id)
}
