//! The creation of resources: of one, or of several together, which are all stored or none. Both take the same steps.

use super::changes::creation_info;
use super::element_errors::ElementErrors;
use super::fields::{element_label, from_value, join_path};
use super::{Authorizer, Error};
use crate::authz::AuthzResource;
use crate::authz::{Permitted, Unchecked};
use crate::resource::organization::Organization;
use crate::resource::{self, CreationInfo, Reference, Resource};
use crate::store::UnitOfWork;
use crate::telemetry;
use crate::types::{FieldErrorCode, Id};
use serde_json::Value;

/// The maximum number of resources that a request creates, changes or deletes.
pub const MAX_ELEMENTS: usize = 1000;

/// After so many elements, other requests of the same thread get processor time.
const YIELD_INTERVAL: usize = 50;

/// A new resource, as its body describes it.
pub trait NewResource: Sized {
    /// The resource.
    type Resource: Resource;

    /// A new resource that was authorized, and what is stored with it.
    type Authorized;

    /// Parses the body.
    ///
    /// # Errors
    /// The invalid fields.
    fn parse(body: Value) -> Result<Self, Error>;

    /// Checks limits on what is created together.
    ///
    /// # Errors
    /// The fields that exceed a limit.
    fn check_limits(_all: &[Self]) -> Result<(), Error> {
        Ok(())
    }

    /// Authorizes the new resource, without its references.
    ///
    /// # Errors
    /// `forbidden` if the creation is denied; invalid fields.
    fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> impl Future<Output = Result<AuthorizedNew<Self::Authorized>, Error>>;

    /// Completes the resource by what takes time, before the transaction.
    ///
    /// # Errors
    /// Invalid fields, or a resource of the service is exhausted.
    fn prepare(
        _authorizer: &Authorizer,
        _authorized: &mut Self::Authorized,
    ) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// Locks the rows that the creation of these resources changes, in the order of their ids, so that two requests do not
    /// wait for each other.
    ///
    /// # Errors
    /// The database is unavailable.
    fn lock(
        _authorizer: &Authorizer,
        _work: &UnitOfWork,
        _all: &[Self::Authorized],
    ) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// Stores the resource.
    ///
    /// # Errors
    /// A conflict with stored resources, or with what has changed since the authorization; the database is unavailable.
    fn store(
        authorizer: &Authorizer,
        work: &UnitOfWork,
        authorized: Self::Authorized,
    ) -> impl Future<Output = Result<Permitted<Self::Resource>, Error>>;
}

/// A new resource that may be stored after its references have been checked.
#[derive(Debug)]
pub struct AuthorizedNew<T> {
    /// The resource.
    pub resource: T,
    /// The organization that will own it.
    pub owner: Id,
    /// The resources that it refers to.
    pub references: Vec<Reference>,
}

/// A new resource of a type whose creation has no further effects.
#[derive(Debug)]
pub struct PlainBody<R: Resource>(R::Body);

impl<R: Resource> NewResource for PlainBody<R> {
    type Resource = R;
    type Authorized = Permitted<R>;

    fn parse(body: Value) -> Result<Self, Error> {
        Ok(Self(from_value(body, "")?))
    }

    async fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> Result<AuthorizedNew<Permitted<R>>, Error> {
        authorize_row(authorizer, resource::build_row::<R>(&self.0, creation)?).await
    }

    async fn store(
        _: &Authorizer,
        work: &UnitOfWork,
        authorized: Permitted<R>,
    ) -> Result<Permitted<R>, Error> {
        Ok(work.insert(authorized).await?)
    }
}

/// Authorizes a new row in its organization.
///
/// # Errors
/// `forbidden` if the creation is denied; an invalid field if the organization is missing or inaccessible.
pub(super) async fn authorize_row<R: Resource>(
    authorizer: &Authorizer,
    row: R,
) -> Result<AuthorizedNew<Permitted<R>>, Error> {
    let owner_path = authorizer
        .lookups()
        .resolve_owner_org(&authorizer.reader(), Some(row.organization()), "organization")
        .await?;
    let references = row.references();
    let resource = authorizer.authorize_new(&owner_path, Unchecked::new(row, owner_path.clone()))?;
    Ok(AuthorizedNew { resource, owner: owner_path.org_id(), references })
}

/// Creates a resource, if permitted.
///
/// # Errors
/// As [`create_with`].
pub async fn create<N: NewResource>(
    authorizer: &Authorizer,
    new: N,
) -> Result<Permitted<N::Resource>, Error> {
    create_with(authorizer, new, |_| Ok(())).await
}

/// Creates a resource, and calls `before_commit` before the transaction commits. If that fails, nothing is created.
///
/// # Errors
/// The resource is invalid or in conflict with stored ones, the policies do not permit it, or the database is unavailable.
pub async fn create_with<N: NewResource>(
    authorizer: &Authorizer,
    new: N,
    before_commit: impl FnOnce(&N::Resource) -> Result<(), Error>,
) -> Result<Permitted<N::Resource>, Error> {
    let authorized = authorize(authorizer, vec![new], false).await?;
    let (work, stored) = store::<N>(authorizer, authorized, false).await?;
    let only = stored.into_iter().next().ok_or_else(|| Error::internal("nothing was stored"))?;
    before_commit(&only)?;
    work.commit().await?;
    Ok(only)
}

/// Creates the resources of an array, all or none. Returns what `before_commit` returns, which is called before the transaction
/// commits; if that fails, nothing is created.
///
/// # Errors
/// As [`create_with`]; each names the index of its element, such as `[3].name`.
pub async fn create_all<N: NewResource, T, E: From<Error>>(
    authorizer: &Authorizer,
    bodies: Vec<Value>,
    before_commit: impl FnOnce(&[Permitted<N::Resource>]) -> Result<T, E>,
) -> Result<T, E> {
    let all = parse_elements(bodies, N::parse)?;
    N::check_limits(&all)?;
    // Its records are queued when it is dropped, before the transaction commits.
    let logging = authorizer.with_batched_log();
    let authorized = authorize(&logging, all, true).await?;
    let (work, stored) = store::<N>(&logging, authorized, true).await?;
    let result = before_commit(&stored)?;
    drop(logging);
    ensure_recorded()?;
    work.commit().await.map_err(Error::from)?;
    Ok(result)
}

/// Checks that the decisions of this request were recorded, so that a change without its decisions is not committed.
///
/// # Errors
/// `decision_log_full`.
pub(super) fn ensure_recorded() -> Result<(), Error> {
    if telemetry::is_unrecorded() { Err(Error::decision_log_full()) } else { Ok(()) }
}

/// Parses the elements of an array: at least one, at most [`MAX_ELEMENTS`].
///
/// # Errors
/// The array has another number of elements, or elements are invalid; the fields of all of them are named.
pub fn parse_elements<T>(
    bodies: Vec<Value>,
    parse: impl Fn(Value) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let (code, message) = match bodies.len() {
        0 => (FieldErrorCode::TooFewItems, "expected at least one element".to_owned()),
        1..=MAX_ELEMENTS => (FieldErrorCode::InvalidType, String::new()),
        count => {
            (FieldErrorCode::TooManyItems, format!("expected at most {MAX_ELEMENTS} elements, got {count}"))
        }
    };
    if !message.is_empty() {
        return Err(Error::invalid_field("", code, message));
    }
    let mut errors = ElementErrors::new(true);
    let mut all = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        let parsed = match body.is_object() {
            true => parse(body),
            false => Err(Error::invalid_field("", FieldErrorCode::InvalidType, "expected an object")),
        };
        match parsed {
            Ok(new) => all.push(new),
            Err(error) => errors.add(element_label(index), error)?,
        }
    }
    errors.check()?;
    Ok(all)
}

async fn authorize<N: NewResource>(
    authorizer: &Authorizer,
    all: Vec<N>,
    is_array: bool,
) -> Result<Vec<AuthorizedNew<N::Authorized>>, Error> {
    let mut errors = ElementErrors::new(is_array);
    let stamp = creation_info(authorizer, authorizer.caller().organization.org_id());
    // Ascending, so that lists have the order of the array.
    let ids = Id::new_ascending(&authorizer.state().clock, all.len());
    let mut authorized = Vec::with_capacity(all.len());
    let mut references = Vec::new();
    for (index, (new, id)) in all.into_iter().zip(ids).enumerate() {
        match new.authorize(authorizer, CreationInfo { id, ..stamp }).await {
            Ok(new) => {
                references.extend(new.references.iter().map(|reference| Reference {
                    field: join_path(&errors.label(element_label(index)), &reference.field),
                    ..*reference
                }));
                authorized.push(new);
            }
            Err(error) => errors.add(element_label(index), error)?,
        }
        yield_sometimes(index).await;
    }
    if !errors.has_denials()
        && let Err(error) = authorizer.lookups().check_references(&authorizer.reader(), references).await
    {
        errors.add_labelled(error)?;
    }
    errors.check()?;
    for (index, new) in authorized.iter_mut().enumerate() {
        if let Err(error) = N::prepare(authorizer, &mut new.resource).await {
            errors.add(element_label(index), error)?;
        }
    }
    errors.check()?;
    Ok(authorized)
}

/// Lets other requests of the thread run once in a while.
pub(super) async fn yield_sometimes(index: usize) {
    if index % YIELD_INTERVAL == YIELD_INTERVAL - 1 {
        tokio::task::yield_now().await;
    }
}

/// Stores authorized resources in a unit of work, which is returned with them.
async fn store<N: NewResource>(
    authorizer: &Authorizer,
    all: Vec<AuthorizedNew<N::Authorized>>,
    is_array: bool,
) -> Result<(UnitOfWork, Vec<Permitted<N::Resource>>), Error> {
    let work = authorizer.begin().await?;
    let mut locked = Vec::new();
    for new in &all {
        locked.push((Organization::TYPE, new.owner));
        let columns = new.references.iter();
        let columns = columns.filter(|reference| N::Resource::column_name(&reference.field).is_some());
        locked.extend(columns.map(|reference| (reference.kind, reference.id)));
    }
    let all: Vec<N::Authorized> = all.into_iter().map(|new| new.resource).collect();
    N::lock(authorizer, &work, &all).await?;
    if is_array {
        work.lock_references(&authorizer.state().resource_types, locked).await?;
    }
    let mut errors = ElementErrors::new(is_array);
    let mut stored = Vec::with_capacity(all.len());
    for (index, new) in all.into_iter().enumerate() {
        match N::store(authorizer, &work, new).await {
            Ok(row) => stored.push(row),
            // A failed statement may have ended the transaction.
            Err(error) => {
                errors.add(element_label(index), error)?;
                errors.check()?;
                return Err(Error::internal("an element was not stored"));
            }
        }
    }
    Ok((work, stored))
}
