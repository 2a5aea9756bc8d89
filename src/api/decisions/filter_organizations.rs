//! The organizations below those that a filter names.
//!
//! A row has the organization that owns it, and the tree of organizations is in the database of this service. A client that has
//! the filter as SQL or UCAST therefore needs all organizations in which its rows may be.

use crate::authz::AuthzResource as _;
use crate::authz::filter::{EntityId, FilterExpr, Operand};
use crate::resource::organization::Organization;
use crate::store::table_filter::NotExpressible;
use crate::store::{Reader, StoreError};
use crate::types::Id;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The maximum number of organizations of a filter.
const MAX_ORGANIZATIONS: usize = 10_000;

/// The organizations below those that a filter names.
#[derive(Debug, Default)]
pub(super) struct Organizations {
    /// For each organization, itself and all below it; none for the root, to which everything belongs.
    subtrees: BTreeMap<Id, Option<Vec<EntityId>>>,
}

impl Organizations {
    /// Reads the organizations below those that an expression names.
    ///
    /// # Errors
    /// The database is unavailable, or there are too many.
    pub(super) async fn read(
        reader: &Reader<'_>,
        expr: &FilterExpr,
    ) -> Result<Result<Self, NotExpressible>, StoreError> {
        let mut named = Vec::new();
        name_organizations(expr, &mut named);
        let (mut all, mut count) = (Self::default(), 0);
        for id in named {
            if let Entry::Vacant(unknown) = all.subtrees.entry(id) {
                unknown.insert(read_subtree(reader, id).await?);
            }
            // Counted as often as the filter names it.
            count += all.subtrees.get(&id).and_then(Option::as_ref).map_or(0, Vec::len);
            if count > MAX_ORGANIZATIONS {
                let reason = format!("the filter has more than {MAX_ORGANIZATIONS} organizations");
                return Ok(Err(NotExpressible::Unsupported(reason)));
            }
        }
        Ok(Ok(all))
    }

    /// Returns an expression on rows of this service in which each named organization stands with all below it.
    pub(super) fn expand(&self, expr: &FilterExpr) -> FilterExpr {
        let all = |parts: &[FilterExpr]| parts.iter().map(|part| self.expand(part)).collect::<Vec<_>>();
        match expr {
            FilterExpr::And(parts) => FilterExpr::and(all(parts)),
            FilterExpr::Or(parts) => FilterExpr::or(all(parts)),
            FilterExpr::Not(inner) => FilterExpr::not(self.expand(inner)),
            FilterExpr::In { entity, ancestors } if is_resource(entity) => {
                let mut expanded = Vec::new();
                for ancestor in ancestors {
                    match organization_id(ancestor).and_then(|id| self.subtrees.get(&id)) {
                        Some(None) => return FilterExpr::always(),
                        Some(Some(subtree)) => expanded.extend(subtree.iter().cloned()),
                        None => expanded.push(ancestor.clone()),
                    }
                }
                expanded.sort_unstable();
                expanded.dedup();
                FilterExpr::In { entity: entity.clone(), ancestors: expanded }
            }
            other => other.clone(),
        }
    }
}

/// Reads an organization and all below it, one more than the maximum at most; none for the root.
///
/// # Errors
/// The database is unavailable.
async fn read_subtree(reader: &Reader<'_>, id: Id) -> Result<Option<Vec<EntityId>>, StoreError> {
    let Some(path) = reader.path(id).await? else { return Ok(Some(vec![entity(id)])) };
    if path.level() == 0 {
        return Ok(None);
    }
    let paths = reader.subtree_up_to(&path, Some(MAX_ORGANIZATIONS as u64 + 1)).await?;
    Ok(Some(paths.iter().map(|path| entity(path.org_id())).collect()))
}

fn name_organizations(expr: &FilterExpr, named: &mut Vec<Id>) {
    match expr {
        FilterExpr::And(parts) | FilterExpr::Or(parts) => {
            parts.iter().for_each(|part| name_organizations(part, named));
        }
        FilterExpr::Not(inner) => name_organizations(inner, named),
        FilterExpr::In { entity, ancestors } if is_resource(entity) => {
            named.extend(ancestors.iter().filter_map(organization_id));
        }
        _ => {}
    }
}

fn is_resource(operand: &Operand) -> bool {
    matches!(operand, Operand::Path(path) if path.is_resource())
}

fn organization_id(entity: &EntityId) -> Option<Id> {
    if entity.kind == Organization::TYPE { entity.id.parse().ok() } else { None }
}

fn entity(id: Id) -> EntityId {
    EntityId { kind: Organization::TYPE.to_owned(), id: id.to_string() }
}
