//! The audit log: who did what to whom, from where, with which outcome.
//!
//! A unit of work collects its entries and appends them when it commits, so that an entry exists exactly when the event has
//! happened. Entries are never changed, and deleted only after archiving; the module `chain` links them by hashes.

use super::audit_row::Column;
pub use super::audit_row::Model as AuditRow;
use super::chain::{self, ChainHead};
use super::sessions::Origin;
use super::{Page, Store, StoreError, UnitOfWork};
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::resource::column::to_json_text;
use crate::store::list::ListedTable;
use crate::store::{ListQuery, SortKey, SortOrder};
use crate::types::{Id, OrgPath, Timestamp, string_enum};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query};
use sea_orm::{ConnectionTrait, DbErr, IdenStatic, Iterable, TryGetable};
use serde_json::{Map, Value};
use std::sync::PoisonError;

string_enum!(
    /// The kind of an audit event.
    Event {
        LoginSucceeded = "login.succeeded",
        LoginFailed = "login.failed",
        TokenRefreshed = "token.refreshed",
        TokenReused = "token.reused",
        TokenRevoked = "token.revoked",
        SessionEnded = "session.ended",
        KeyCreated = "key.created",
        KeyDeleted = "key.deleted",
        UserCreated = "user.created",
        UserDeleted = "user.deleted",
        UserMoved = "user.moved",
        UserRoleChanged = "user.role_changed",
        UserBlocked = "user.blocked",
        UserUnblocked = "user.unblocked",
        UserUnlocked = "user.unlocked",
        UserEmailChanged = "user.email_changed",
        UserPasswordChanged = "user.password_changed",
        OrganizationCreated = "organization.created",
        OrganizationMoved = "organization.moved",
        OrganizationActivated = "organization.activated",
        OrganizationDeactivated = "organization.deactivated",
        OrganizationDeleted = "organization.deleted",
        PoliciesReloaded = "policies.reloaded",
        PoliciesRefused = "policies.refused",
        PoliciesHeld = "policies.held",
        PoliciesConfirmed = "policies.confirmed",
        DecisionDiffers = "decision.differs",
        AccessDenied = "access.denied",
        AuditArchived = "audit.archived",
        SigningKeyCreated = "signing_key.created",
        SigningKeyDeleted = "signing_key.deleted",
        SigningKeysRevoked = "signing_key.revoked",
        ServiceStarted = "service.started",
    }
);

string_enum!(
    /// The outcome of an event: done, denied by a policy or rule, or failed.
    Outcome { Ok = "ok", Denied = "denied", Failed = "failed" }
);

/// The actor of audit entries: who, with which credential, from where, in which request, and when.
#[derive(Debug, Clone)]
pub struct AuditActor {
    /// The authenticated user; none without authentication.
    pub user: Option<Id>,
    /// The kind of its credential.
    pub credential: Option<&'static str>,
    /// The id of the session or API key.
    pub credential_id: Option<Id>,
    /// The IP address of the client.
    pub address: Option<String>,
    /// The id of the request.
    pub request: Option<String>,
    /// The time of the event.
    pub time: Timestamp,
}

impl AuditActor {
    /// The service itself, without a request.
    pub fn service(time: Timestamp) -> Self {
        Self { user: None, credential: None, credential_id: None, address: None, request: None, time }
    }

    /// A client that has not authenticated (yet).
    pub fn unauthenticated(origin: &Origin, time: Timestamp) -> Self {
        Self {
            address: origin.address.map(|address| address.to_string()),
            request: origin.request.clone(),
            ..Self::service(time)
        }
    }

    /// Sets the user and its credential.
    #[must_use]
    pub fn with_credential(self, user: Id, credential: &'static str, id: Id) -> Self {
        Self { user: Some(user), credential: Some(credential), credential_id: Some(id), ..self }
    }
}

/// An audit entry to append. It consists of ids and keywords, without free text that might contain a secret.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    event: Event,
    outcome: Outcome,
    target: Option<(&'static str, Id)>,
    organization_path: Option<OrgPath>,
    details: Map<String, Value>,
    /// The actor and origin of this entry, where they are not those of the unit of work that appends it.
    actor: Option<Box<AuditActor>>,
}

impl AuditEntry {
    /// Creates the entry of an event with the outcome `ok`.
    pub fn new(event: Event) -> Self {
        Self {
            event,
            outcome: Outcome::Ok,
            target: None,
            organization_path: None,
            details: Map::new(),
            actor: None,
        }
    }

    /// Sets the actor of an entry that is appended on behalf of another request.
    #[must_use]
    pub fn with_actor(self, actor: AuditActor) -> Self {
        Self { actor: Some(Box::new(actor)), ..self }
    }

    /// The kind of the event.
    pub fn event(&self) -> Event {
        self.event
    }

    /// Sets the outcome.
    #[must_use]
    pub fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// Sets a user as the target.
    #[must_use]
    pub fn target_user(self, user: Id) -> Self {
        self.target("User", user)
    }

    /// Sets the target: the type and id of a resource.
    #[must_use]
    pub fn target(self, kind: &'static str, id: Id) -> Self {
        Self { target: Some((kind, id)), ..self }
    }

    /// Sets the organization of the event. Its admins and those of its ancestors may read the entry; one without an
    /// organization only the admins of the root.
    #[must_use]
    pub fn in_organization(self, organization_path: &OrgPath) -> Self {
        Self { organization_path: Some(organization_path.clone()), ..self }
    }

    /// Adds a detail. Never pass a secret, or text from a field into which a user might have typed one by mistake.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// The number of entries per INSERT statement.
const BATCH: usize = 500;

impl AuditRow {
    /// Builds the entry that follows `head`.
    pub(super) fn after(head: &ChainHead, actor: &AuditActor, entry: AuditEntry) -> Self {
        let actor = entry.actor.as_deref().unwrap_or(actor);
        let (target_type, target) = entry.target.unzip();
        let mut row = Self {
            seq: head.seq.saturating_add(1),
            time: actor.time,
            event: entry.event.to_string(),
            outcome: entry.outcome.to_string(),
            actor: actor.user.map(|id| id.to_string()),
            credential: actor.credential.map(str::to_owned),
            credential_id: actor.credential_id.map(|id| id.to_string()),
            target_type: target_type.map(str::to_owned),
            target: target.map(|id| id.to_string()),
            organization: entry.organization_path.as_ref().map(|path| path.org_id().to_string()),
            path: entry.organization_path.as_ref().map(ToString::to_string),
            address: actor.address.clone(),
            request: actor.request.clone(),
            details: to_json_text(&entry.details),
            previous: head.hash.clone(),
            hash: String::new(),
        };
        row.hash = chain::hash(&row);
        row
    }
}

/// Appends entries at the end of a transaction on SQLite, which has a single writer.
///
/// # Errors
/// The database is unavailable or does not accept writes.
pub(super) async fn append(
    tx: &impl ConnectionTrait,
    actor: &AuditActor,
    entries: Vec<AuditEntry>,
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut head = chain::head(tx).await?;
    let mut rows = Vec::with_capacity(entries.len());
    for entry in entries {
        let row = AuditRow::after(&head, actor, entry);
        head = ChainHead { seq: row.seq, hash: row.hash.clone() };
        rows.push(row);
    }
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let mut insert = Query::insert();
        insert.into_table("audit").columns(Column::iter());
        for row in rows.by_ref().take(BATCH) {
            insert.values_panic(row.values().map(Expr::val));
        }
        tx.execute(&insert).await?;
    }
    Ok(())
}

impl UnitOfWork {
    /// Adds an entry, which is appended when this unit of work commits.
    pub fn audit(&self, entry: AuditEntry) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// Adds an entry about a user with one more id as a detail.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn audit_user_event(
        &self,
        event: Event,
        user: Id,
        name: &str,
        id: Id,
    ) -> Result<(), StoreError> {
        self.audit(self.entry_for_user(event, user).await?.with(name, id.to_string()));
        Ok(())
    }

    /// Creates an entry about a user, in its current organization.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) async fn entry_for_user(&self, event: Event, user: Id) -> Result<AuditEntry, StoreError> {
        let mut select = Query::select();
        select
            .column(("organizations", "path"))
            .from("users")
            .inner_join("organizations", Expr::col(("organizations", "id")).equals(("users", "organization")))
            .and_where(Expr::col(("users", "id")).eq(user));
        let organization_path = match self.tx.query_one(&select).await? {
            Some(row) => Some(OrgPath::try_get(&row, "", "path").map_err(DbErr::from)?),
            None => None,
        };
        Ok(AuditEntry { organization_path, ..AuditEntry::new(event).target_user(user) })
    }
}

impl Store {
    /// Appends an entry about an event that wrote nothing else.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn audit(&self, actor: AuditActor, entry: AuditEntry) -> Result<(), StoreError> {
        let work = self.begin(actor).await?;
        work.audit(entry);
        work.commit().await
    }

    /// Returns a page of the entries of these organizations, and of all that were below the topmost of them at the
    /// time. From the root, entries without an organization are included.
    ///
    /// Entries are sorted by `seq`; the query sets only the direction.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn audit_rows(
        &self,
        organizations: &Permitted<AuthorizedOrgs>,
        query: &ListQuery,
    ) -> Result<Page<AuditRow>, StoreError> {
        audit_table().page(&self.db, organization_condition(organizations), &audit_order(query), query).await
    }

    /// Returns the rows of the page that [`Self::audit_rows`] returns, without counting all of them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn uncounted_audit_rows(
        &self,
        organizations: &Permitted<AuthorizedOrgs>,
        query: &ListQuery,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let query = ListQuery { skips_total: true, ..query.clone() };
        Ok(self.audit_rows(organizations, &query).await?.items)
    }
}

/// The audit log as a list.
fn audit_table() -> ListedTable {
    ListedTable {
        name: "audit",
        columns: Column::iter().map(|column| column.as_str().to_owned()).collect(),
        texts: &[],
        nullable: &[],
    }
}

/// Returns the order of a list of entries: by `seq`, of which the query sets only the direction.
fn audit_order(query: &ListQuery) -> [SortKey; 1] {
    let order = query.sort.first().map_or(SortOrder::Ascending, |key| key.order);
    [SortKey::new("seq", order)]
}

/// Returns the condition that an entry belongs to one of these organizations.
fn organization_condition(organizations: &Permitted<AuthorizedOrgs>) -> Condition {
    let is_root = organizations.top().level() == 0;
    let mut condition = Condition::all();
    if !is_root {
        // A path consists of ids of equal length, so a substring match is a match of one of its ids.
        condition = condition.add(Expr::col("path").like(format!("%{}%", organizations.top().org_id())));
    }
    if !organizations.denied().is_empty() {
        let not_denied = Expr::col("organization").is_not_in(organizations.denied().iter().copied());
        condition = condition.add(if is_root {
            not_denied.or(Expr::col("organization").is_null())
        } else {
            not_denied
        });
    }
    condition
}
