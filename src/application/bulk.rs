//! Changes and deletions of all resources that a filter selects: all or none.

use super::changes::{AuthorizedUpdate, Patch, UpdateRequest};
use super::creation::{MAX_ELEMENTS, ensure_recorded, yield_sometimes};
use super::element_errors::ElementErrors;
use super::precondition::Precondition;
use super::writes::WritableResource;
use super::{Authorizer, Error, ErrorKind, FieldError};
use crate::authz::{AuthorizedOrgs, Permitted, Unchecked};
use crate::resource::Reference;
use crate::store::{Filter, FilterValue, ListQuery, Reader, UnitOfWork};
use crate::types::{FieldErrorCode, Id};

/// The size of the resources that are in memory at once, in bytes of text; a single resource may be larger.
const BATCH_BYTES: u64 = 512 * 1024;
/// The number of resources that are in memory at once.
const BATCH_ROWS: usize = 100;

/// The resources that a request selects.
#[derive(Debug)]
pub struct Selection<'a> {
    /// The organizations in which the caller may list them.
    pub within: &'a Permitted<AuthorizedOrgs>,
    /// Their filters.
    pub filters: Vec<Filter>,
}

/// What is done with each of the selected resources.
#[derive(Debug, Clone, Copy)]
pub enum BulkAction<'a> {
    /// Sets the fields of the patch.
    Update(&'a Patch),
    /// Deletes it.
    Delete,
}

/// Performs an action on the resources that match when the request begins, and still do when they are locked. Returns their ids,
/// in ascending order. A dry run performs it, too, and rolls back.
///
/// # Errors
/// `too_many_matches`; `forbidden` if the action is denied on one of them; invalid fields; a conflict with stored resources. Nothing
/// is changed then.
pub async fn apply<R: WritableResource>(
    authorizer: &Authorizer,
    selection: &Selection<'_>,
    action: BulkAction<'_>,
    is_dry_run: bool,
) -> Result<Vec<Id>, Error> {
    if let BulkAction::Update(patch) = action {
        check_field_names::<R>(patch)?;
    }
    let ids = matching_ids::<R>(&authorizer.reader(), selection, None).await?;
    if ids.len() > MAX_ELEMENTS {
        let message = format!(
            "More than {MAX_ELEMENTS} resources match. Nothing was changed: select at most that many, for example by `createdAt`."
        );
        return Err(Error::new(ErrorKind::InvalidInput, "too_many_matches", message));
    }
    if ids.is_empty() && !authorizer.could_in_home_org(R::TYPE) {
        return Err(authorizer.forbidden_audited());
    }
    // Its records are queued when it is dropped, before the transaction commits.
    let logging = authorizer.with_batched_log();
    // Authorized without locks first, then again on the locked rows.
    authorize_all::<R>(&logging, &ids, action).await?;
    let work = match is_dry_run {
        true => authorizer.state().store.begin_dry_run(authorizer.audit_actor()).await?,
        false => authorizer.begin().await?,
    };
    R::lock_shared(&work).await?;
    work.lock_rows::<R>(&ids).await?;
    let ids = matching_ids::<R>(&work.reader(), selection, Some(ids)).await?;
    R::check_caller(&logging, &work).await?;
    let mut changed = Vec::with_capacity(ids.len());
    let mut batches = Batches { ids: &ids };
    while let Some(rows) = batches.next::<R>(&work.reader()).await? {
        for row in rows {
            let id = row.id();
            perform(&logging, &work, row, action)
                .await
                .map_err(|error| of_resource(authorizer, error, id))?;
            changed.push(id);
        }
    }
    drop(logging);
    ensure_recorded()?;
    if !is_dry_run {
        work.commit().await?;
    }
    changed.sort_unstable();
    Ok(changed)
}

/// Checks that a patch has no fields that the resource does not have, even if no resource matches.
fn check_field_names<R: WritableResource>(patch: &Patch) -> Result<(), Error> {
    let names = R::updatable_fields();
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !R::UPDATABLE_EXTRAS.contains(name)).collect();
    let errors: Vec<FieldError> = patch
        .keys()
        .filter(|field| !names.contains(&field.as_str()))
        .map(|field| {
            if R::UPDATABLE_EXTRAS.contains(&field.as_str()) {
                let message = "is set on one resource at a time";
                return FieldError::new(field, FieldErrorCode::NotAllowed, message);
            }
            let message = format!("unknown field; expected one of {}", names.join(", "));
            FieldError::new(field, FieldErrorCode::UnknownField, message)
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(errors)) }
}

/// Returns the ids of the selected resources, one more than the maximum if there are as many; of those that `among` lists, if it
/// is given.
async fn matching_ids<R: WritableResource>(
    reader: &Reader<'_>,
    selection: &Selection<'_>,
    among: Option<Vec<Id>>,
) -> Result<Vec<Id>, Error> {
    let mut filters = selection.filters.clone();
    if let Some(ids) = among {
        if ids.is_empty() {
            return Ok(ids);
        }
        let values = ids.into_iter().map(|id| FilterValue::Text(id.to_string()));
        filters.push(Filter::one_of("id", values.collect()));
    }
    let limit = u64::try_from(MAX_ELEMENTS).unwrap_or(u64::MAX);
    let query =
        ListQuery { limit, filters, sort: R::deletion_order(), skips_total: true, ..ListQuery::default() };
    Ok(reader.list_ids::<R>(selection.within, &query).await?)
}

/// Reads resources in batches of limited size.
struct Batches<'a> {
    /// The ids of those that follow.
    ids: &'a [Id],
}

impl Batches<'_> {
    /// Returns the next batch, without those that no longer exist; none at the end.
    ///
    /// # Errors
    /// The database is unavailable.
    async fn next<R: WritableResource>(
        &mut self,
        reader: &Reader<'_>,
    ) -> Result<Option<Vec<Unchecked<R>>>, Error> {
        if self.ids.is_empty() {
            return Ok(None);
        }
        let (batch, _) = self.ids.split_at(BATCH_ROWS.min(self.ids.len()));
        let mut rows = reader.find_many::<R>(batch, BATCH_BYTES).await?;
        let taken = match rows.last() {
            // Some of the batch did not fit, or do not exist: the next batch begins after the last row of this one.
            Some(last) if rows.len() < batch.len() => {
                let last = last.id();
                batch.iter().position(|id| *id == last).map_or(batch.len(), |position| position + 1)
            }
            Some(_) => batch.len(),
            None => {
                // The first one is larger than a batch, or none of them exists.
                let (first, _) = batch.split_at(1);
                rows = reader.find_many::<R>(first, u64::MAX).await?;
                1
            }
        };
        let (_, rest) = self.ids.split_at(taken);
        self.ids = rest;
        Ok(Some(rows))
    }
}

/// Authorizes the action on all resources, and the new references of changes.
///
/// # Errors
/// The denials; else the invalid fields.
async fn authorize_all<R: WritableResource>(
    authorizer: &Authorizer,
    ids: &[Id],
    action: BulkAction<'_>,
) -> Result<(), Error> {
    let mut errors = ElementErrors::new(false);
    let mut references: Vec<Reference> = Vec::new();
    let mut batches = Batches { ids };
    let mut count = 0;
    while let Some(rows) = batches.next::<R>(&authorizer.reader()).await? {
        for row in rows {
            let id = row.id();
            let authorized = match action {
                BulkAction::Update(patch) => {
                    let update = authorize_update(authorizer, &authorizer.reader(), row, patch).await;
                    update.map(|update| references.extend(update.references))
                }
                BulkAction::Delete => {
                    authorizer.authorize(Some(row), &authorizer.request_context()).map(drop)
                }
            };
            if let Err(error) = authorized {
                errors.add(String::new(), of_resource(authorizer, error, id))?;
            }
            yield_sometimes(count).await;
            count += 1;
        }
        // The references of a patch are the same for all resources.
        references.sort_unstable();
        references.dedup();
    }
    if !errors.has_denials()
        && let Err(error) = authorizer.lookups().check_references(&authorizer.reader(), references).await
    {
        errors.add(String::new(), error)?;
    }
    errors.check()
}

/// Authorizes a change without a precondition.
async fn authorize_update<R: WritableResource>(
    authorizer: &Authorizer,
    reader: &Reader<'_>,
    row: Unchecked<R>,
    patch: &Patch,
) -> Result<AuthorizedUpdate<R>, Error> {
    let change = UpdateRequest { patch, extra_changes: &[], precondition: &Precondition::None };
    R::authorize_change(authorizer, reader, Some(row), change).await
}

/// Authorizes and performs the action on a locked resource.
async fn perform<R: WritableResource>(
    authorizer: &Authorizer,
    work: &UnitOfWork,
    row: Unchecked<R>,
    action: BulkAction<'_>,
) -> Result<(), Error> {
    match action {
        BulkAction::Update(patch) => {
            let update = authorize_update(authorizer, &work.reader(), row, patch).await?;
            R::save(authorizer, work, update, patch).await?;
        }
        BulkAction::Delete => {
            let row = authorizer.authorize(Some(row), &authorizer.request_context())?;
            R::delete(authorizer, work, &row).await?;
        }
    }
    Ok(())
}

/// Returns the error of a resource with its id. Errors about the fields of the body are the same for all resources.
///
/// The caller may list the resource, so a denial need not hide that it exists.
fn of_resource(authorizer: &Authorizer, error: Error, id: Id) -> Error {
    match error.kind {
        ErrorKind::InvalidInput => error,
        ErrorKind::NotFound => {
            let denied =
                Error { pending_audit: error.pending_audit, ..Error::forbidden(authorizer.action()) };
            denied.in_element(&id.to_string())
        }
        _ => error.in_element(&id.to_string()),
    }
}
