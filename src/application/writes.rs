//! Changes and deletions of single resources, and what they involve for each type. [`super::bulk`] changes several.

use super::changes::{AuthorizedUpdate, Patch, UpdateRequest};
use super::precondition::Precondition;
use super::{Authorizer, Error};
use crate::authz::{Permitted, Unchecked};
use crate::resource::Resource;
use crate::store::{Reader, SortKey, UnitOfWork};

/// What changing and deleting resources of a type involves. The methods do what is needed for one whose rows are independent of
/// others.
pub trait WritableResource: Resource {
    /// Returns the order in which resources are deleted together, so that none is deleted before those that hold it.
    fn deletion_order() -> Vec<SortKey> {
        Vec::new()
    }

    /// Locks what several resources have in common, before their rows are locked.
    ///
    /// # Errors
    /// The database is unavailable.
    fn lock_shared(_work: &UnitOfWork) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// Checks the caller once more when the rows are locked.
    ///
    /// # Errors
    /// `invalid_token` if its credential has ended.
    fn check_caller(_authorizer: &Authorizer, _work: &UnitOfWork) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// Authorizes a change, as [`UpdateRequest::authorize`].
    ///
    /// # Errors
    /// As [`UpdateRequest::authorize`].
    fn authorize_change(
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        resource: Option<Unchecked<Self>>,
        change: UpdateRequest<'_>,
    ) -> impl Future<Output = Result<AuthorizedUpdate<Self>, Error>> {
        async move { change.authorize(authorizer, reader, resource, |_| None).await }
    }

    /// Saves an authorized change.
    ///
    /// # Errors
    /// A conflict with stored resources; the resource is too large; the database is unavailable.
    fn save(
        _authorizer: &Authorizer,
        work: &UnitOfWork,
        update: AuthorizedUpdate<Self>,
        _patch: &Patch,
    ) -> impl Future<Output = Result<Permitted<Self>, Error>> {
        async move { Ok(work.save(update.row).await?) }
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// A conflict with stored resources; the database is unavailable.
    fn delete(
        _authorizer: &Authorizer,
        work: &UnitOfWork,
        row: &Permitted<Self>,
    ) -> impl Future<Output = Result<(), Error>> {
        async move { Ok(work.delete(row).await?) }
    }
}

/// Changes a resource, if permitted.
///
/// # Errors
/// As [`Authorizer::authorize`]; `precondition_failed`; invalid fields; a conflict with stored resources.
pub async fn update<R: WritableResource>(
    authorizer: &Authorizer,
    id: &str,
    patch: &Patch,
    precondition: &Precondition,
) -> Result<Permitted<R>, Error> {
    let change = UpdateRequest { patch, extra_changes: &[], precondition };
    // Authorized without a lock first, then again on the locked row.
    let unchecked = authorizer.lookups().find_unchecked(id).await?;
    let first = R::authorize_change(authorizer, &authorizer.reader(), unchecked, change).await?;
    authorizer.lookups().check_references(&authorizer.reader(), first.references).await?;
    let work = authorizer.begin().await?;
    R::lock_shared(&work).await?;
    let unchecked = authorizer.lookups().find_unchecked_in(&work, id).await?;
    R::check_caller(authorizer, &work).await?;
    let update = R::authorize_change(authorizer, &work.reader(), unchecked, change).await?;
    let row = R::save(authorizer, &work, update, patch).await?;
    work.commit().await?;
    Ok(row)
}

/// Deletes a resource, if permitted.
///
/// # Errors
/// As [`Authorizer::authorize`]; `precondition_failed`; a conflict with stored resources.
pub async fn delete<R: WritableResource>(
    authorizer: &Authorizer,
    id: &str,
    precondition: &Precondition,
) -> Result<(), Error> {
    authorizer.lookups().find_authorized::<R>(id).await?;
    let work = authorizer.begin().await?;
    R::lock_shared(&work).await?;
    let unchecked = authorizer.lookups().find_unchecked_in::<R>(&work, id).await?;
    let row = authorizer.authorize(unchecked, &authorizer.request_context())?;
    precondition.check(&row)?;
    R::check_caller(authorizer, &work).await?;
    R::delete(authorizer, &work, &row).await?;
    Ok(work.commit().await?)
}
