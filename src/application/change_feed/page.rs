//! A page of the change feed: changes of resources that the caller may list, each resource once, as it is now.
//!
//! Resources are loaded by the list of their type, so that the caller sees exactly what that list contains. Of a deleted
//! resource, its type and id are reported to those who may list its type in the organization that owned it, unless the policies
//! decide by rows for them.

use super::ChangeFeed;
use super::cursor::CursorError;
use crate::application::{Authorizer, Error, ErrorKind};
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::resource::Resource;
use crate::store::{
    Change, ChangeKind, ChangePosition, ChangeSelection, Field, Filter, FilterValue, ListQuery, Store,
    StoreError, Test,
};
use crate::types::{Id, JsonSize, Timestamp};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The maximum number of windows of changes that one page looks through.
const MAX_WINDOWS: usize = 5;

type LoadFn = for<'a> fn(
    &'a Store,
    &'a Permitted<AuthorizedOrgs>,
    Vec<Id>,
    &'a mut usize,
) -> BoxFuture<'a, Result<Option<Vec<(Id, Value)>>, StoreError>>;

/// A resource type of the feed.
#[derive(Clone, Copy)]
pub struct FeedType {
    /// Its name in the feed: that of its path.
    pub name: &'static str,
    /// The Cedar entity type.
    pub resource_type: &'static str,
    /// The action that lists it.
    pub list_action: &'static str,
    load: LoadFn,
}

impl std::fmt::Debug for FeedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl FeedType {
    /// Returns the type of a resource, with its name in the feed and the action that lists it.
    pub fn new<R: Resource>(name: &'static str, list_action: &'static str) -> Self {
        Self {
            name,
            resource_type: R::TYPE,
            list_action,
            load: |store, within, ids, room| Box::pin(load::<R>(store, within, ids, room)),
        }
    }
}

/// Loads those resources with these ids that the list of their type contains, and takes their bytes from `room`. None if there is
/// no room for all of them.
async fn load<R: Resource>(
    store: &Store,
    within: &Permitted<AuthorizedOrgs>,
    ids: Vec<Id>,
    room: &mut usize,
) -> Result<Option<Vec<(Id, Value)>>, StoreError> {
    let limit = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    let values = ids.iter().map(|id| FilterValue::Text(id.to_string())).collect();
    let test = Test::OneOf { values, or_null: false };
    let filters = vec![Filter { field: Field::Column("id".to_owned()), test, is_negated: false }];
    let query = ListQuery { limit, filters, skips_total: true, ..ListQuery::default() };
    let (mut rows, mut has_room) = (Vec::new(), true);
    let visit = |row: Permitted<R>| {
        let bytes = JsonSize::of(&row).bytes;
        has_room = bytes <= *room;
        *room = room.saturating_sub(bytes);
        if let (true, Ok(json)) = (has_room, serde_json::to_value(&row)) {
            rows.push((row.id(), json));
        }
        has_room
    };
    store.list::<R>(within, &query, visit).await?;
    Ok(has_room.then_some(rows))
}

/// The types that a caller wants.
#[derive(Debug, Clone)]
pub struct FeedTypes {
    /// The types.
    pub types: Vec<FeedType>,
    /// Whether the caller named them, so that each of them has to be permitted.
    pub is_explicit: bool,
}

/// Checks that no list was refused. `needs_all` says whether the caller needs all of these lists, or any of them.
///
/// # Errors
/// The refusal, which names all of the actions.
fn check_none_refused(refused: Vec<(&'static str, Error)>, needs_all: bool) -> Result<(), Error> {
    let actions: Vec<&str> = refused.iter().map(|(action, _)| *action).collect();
    let actions = actions.join(", ");
    let is_forbidden = refused.iter().all(|(_, error)| error.kind == ErrorKind::Forbidden);
    let count = refused.len();
    let Some((_, first)) = refused.into_iter().next() else { return Ok(()) };
    if count == 1 || !is_forbidden {
        return Err(first);
    }
    let quantity = if needs_all { "" } else { "any of " };
    let message = format!("Not authorized to perform {quantity}{actions}.");
    // The reasons of one action do not explain the others.
    Err(Error { message, reasons: None, ..first })
}

/// What a caller may see of the feed: the types, each with the organizations in which it may list them.
#[derive(Debug)]
pub struct FeedScope(Vec<(FeedType, Permitted<AuthorizedOrgs>)>);

impl FeedScope {
    /// Authorizes the lists of these types. `is_logged` says whether the decision log records allowed ones.
    ///
    /// # Errors
    /// `forbidden` or `not_found` if none of them is permitted, or one that the caller named is not.
    pub async fn authorize(
        authorizer: &Authorizer,
        types: &FeedTypes,
        is_logged: bool,
    ) -> Result<Self, Error> {
        let (mut permitted, mut refused) = (Vec::new(), Vec::new());
        for feed_type in &types.types {
            let authorizer = match is_logged {
                true => authorizer.with_action(feed_type.list_action),
                false => authorizer.for_prerequisite(feed_type.list_action),
            };
            match authorizer.lookups().authorized_orgs(None).await {
                Ok(within) => permitted.push((*feed_type, within)),
                Err(error) if error.kind.is_server_error() => return Err(error),
                Err(error) => refused.push((feed_type.list_action, error)),
            }
        }
        if types.is_explicit || permitted.is_empty() {
            check_none_refused(refused, types.is_explicit)?;
        }
        Ok(Self(permitted))
    }

    /// Returns whether a change of this type in this organization may concern the caller. That of an organization may change
    /// which ones the caller sees.
    pub fn concerns(&self, resource_type: &str, organization: Id) -> bool {
        resource_type == "Organization" || self.within(resource_type, organization).is_some()
    }

    fn within(
        &self,
        resource_type: &str,
        organization: Id,
    ) -> Option<&(FeedType, Permitted<AuthorizedOrgs>)> {
        let is_one = |(feed_type, within): &&(FeedType, Permitted<AuthorizedOrgs>)| {
            feed_type.resource_type == resource_type && within.organizations().contains(&organization)
        };
        self.0.iter().find(is_one)
    }

    fn organizations(&self) -> Vec<Id> {
        let all: HashSet<Id> =
            self.0.iter().flat_map(|(_, within)| within.organizations().iter().copied()).collect();
        all.into_iter().collect()
    }
}

/// A change, as a caller sees it.
#[derive(Debug)]
pub struct FeedChange {
    /// The cursor after it.
    pub cursor: String,
    /// The name of the type.
    pub type_name: &'static str,
    /// The id of the resource.
    pub id: Id,
    /// What happened.
    pub kind: ChangeKind,
    /// When.
    pub time: Timestamp,
    /// The resource as it is now; none of a deleted one.
    pub resource: Option<Value>,
}

/// A page of the feed.
#[derive(Debug)]
pub struct FeedPage {
    /// The changes.
    pub changes: Vec<FeedChange>,
    /// The position after the page.
    pub end: ChangePosition,
    /// Whether more may follow now.
    pub has_more: bool,
}

impl ChangeFeed {
    /// Returns the position of a cursor.
    ///
    /// # Errors
    /// An invalid field `field` if it is malformed; `cursor_expired` if changes after it were deleted.
    pub async fn position(
        &self,
        authorizer: &Authorizer,
        field: &str,
        cursor: &str,
    ) -> Result<ChangePosition, Error> {
        let store = &authorizer.state().store;
        let position = self.key(store).await?.decode(cursor);
        match position {
            Ok(position) if store.has_position(&position).await? => Ok(position),
            Ok(_) | Err(CursorError::Expired) => Err(Error::new(
                ErrorKind::Gone,
                "cursor_expired",
                "Changes after this cursor were deleted. List the resources again, and follow the changes from a new cursor.",
            )),
            Err(CursorError::Malformed) => {
                let message = "expected a cursor of this feed";
                Err(Error::invalid_field(field, crate::types::FieldErrorCode::InvalidFormat, message))
            }
        }
    }

    /// Returns the cursor of a position.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn cursor(&self, store: &Store, position: &ChangePosition) -> Result<String, Error> {
        let cursor = self.key(store).await?.encode(position);
        cursor.ok_or_else(|| Error::internal("no random numbers"))
    }

    /// Returns the changes after a position, at most `limit`, whose resources have at most `max_bytes` together.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn page(
        &self,
        authorizer: &Authorizer,
        scope: &FeedScope,
        after: &ChangePosition,
        (limit, max_bytes): (u64, usize),
    ) -> Result<FeedPage, Error> {
        let store = &authorizer.state().store;
        let resource_types: Vec<&str> =
            scope.0.iter().map(|(feed_type, _)| feed_type.resource_type).collect();
        let organizations = scope.organizations();
        let selection =
            ChangeSelection { resource_types: &resource_types, organizations: Some(&organizations), limit };
        let mut page = FeedPage { changes: Vec::new(), end: *after, has_more: true };
        for _ in 0..MAX_WINDOWS {
            let window = store.changes_after(&page.end, &selection).await?;
            page.has_more = window.has_more;
            let (changes, cut) = self.visible(authorizer, scope, window.changes, max_bytes).await?;
            page.end = cut.unwrap_or(window.end);
            page.has_more |= cut.is_some();
            page.changes = changes;
            if !page.changes.is_empty() || !page.has_more {
                break;
            }
        }
        Ok(page)
    }

    /// Returns those of the changes that the caller sees, and the position of the last one for which there is room, if
    /// that is not the last of all.
    async fn visible(
        &self,
        authorizer: &Authorizer,
        scope: &FeedScope,
        changes: Vec<Change>,
        max_bytes: usize,
    ) -> Result<(Vec<FeedChange>, Option<ChangePosition>), Error> {
        let store = &authorizer.state().store;
        let mut changes: Vec<Change> = changes
            .into_iter()
            .filter(|change| scope.within(&change.resource_type, change.organization).is_some())
            .collect();
        let mut end = None;
        let mut resources = loop {
            if let Some(resources) = load_resources(store, scope, &changes, max_bytes).await? {
                break resources;
            }
            changes.truncate((changes.len() / 2).max(1));
            end = changes.last().map(|change| change.position);
        };
        let last = last_changes(&changes);
        let key = self.key(store).await?;
        let mut visible = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let id = change.position.resource;
            let Some((is_new, _)) =
                last.get(&(change.resource_type.as_str(), id)).filter(|(_, last)| *last == index)
            else {
                continue;
            };
            let Some((feed_type, within)) = scope.within(&change.resource_type, change.organization) else {
                continue;
            };
            let resource = resources.remove(&(feed_type.name, id));
            let kind = match (change.kind, *is_new) {
                // Whether the caller could list a row that is gone is unknown if the policies decide by rows for the caller.
                (ChangeKind::Deleted, _) if !within.has_all_rows(feed_type.resource_type) => continue,
                (ChangeKind::Deleted, _) => ChangeKind::Deleted,
                // Deleted, moved or hidden since: a later change says so to those who may know.
                _ if resource.is_none() => continue,
                (_, true) => ChangeKind::Created,
                (kind, false) => kind,
            };
            let resource = resource.filter(|_| kind != ChangeKind::Deleted);
            let cursor = key.encode(&change.position).ok_or_else(|| Error::internal("no random numbers"))?;
            visible.push(FeedChange {
                cursor,
                type_name: feed_type.name,
                id,
                kind,
                time: change.time,
                resource,
            });
        }
        Ok((visible, end))
    }
}

/// Returns for each resource whether it was created by one of the changes, and the index of its last change.
fn last_changes(changes: &[Change]) -> HashMap<(&str, Id), (bool, usize)> {
    let mut last: HashMap<(&str, Id), (bool, usize)> = HashMap::new();
    for (index, change) in changes.iter().enumerate() {
        let entry = last.entry((change.resource_type.as_str(), change.position.resource)).or_default();
        *entry = (entry.0 || change.kind == ChangeKind::Created, index);
    }
    last
}

/// Loads the resources of these changes that the caller may list. None if they have more than `max_bytes` together; a single
/// one may.
async fn load_resources(
    store: &Store,
    scope: &FeedScope,
    changes: &[Change],
    max_bytes: usize,
) -> Result<Option<HashMap<(&'static str, Id), Value>>, StoreError> {
    let (mut resources, mut room) = (HashMap::new(), max_bytes);
    for (feed_type, within) in &scope.0 {
        let of_type = changes.iter().filter(|change| {
            change.resource_type == feed_type.resource_type && change.kind != ChangeKind::Deleted
        });
        let mut ids: Vec<Id> = of_type.map(|change| change.position.resource).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            continue;
        }
        room = if changes.len() == 1 { usize::MAX } else { room };
        let Some(rows) = (feed_type.load)(store, within, ids, &mut room).await? else { return Ok(None) };
        resources.extend(rows.into_iter().map(|(id, json)| ((feed_type.name, id), json)));
    }
    Ok(Some(resources))
}
