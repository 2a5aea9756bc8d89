//! Reloading the policies: which candidate becomes active, which one waits for a confirmation, and what is recorded of it.
//!
//! A candidate that would lose a `forbid` or a file is held as pending (`CEDARGATE_POLICY_RELOAD`). It becomes active when its
//! version is confirmed, by `POST /v2/policies/reload` or by `cedargate policy reload --confirm`. A confirmation is a row in the
//! database: each process reads it, and activates the version if its own files have it. The row also has the version that was
//! active last, so that a start cannot lose silently what a running process would have held.

use crate::authz::{Bundle, BundleError, Candidate, Inventory, Live, Losses, Pending};
use crate::http::{Gate, Parts, Problem, audit};
use crate::store::{Cause, Entry, Event, Outcome, PolicyState, Store, StoreError};
use crate::values::Timestamp;
use actix_web::http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Why the policies are reloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The periodic scan of the files.
    Scan,
    /// A signal, or a confirmation that another process has recorded.
    Signal,
    /// A caller of the API.
    Request,
    /// A caller of the API, who confirms this version.
    Confirmation(String),
}

/// The result of a reload whose files could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The active version is the one in the files; true if it was another one before.
    Active(bool),
    /// The files have a version that needs a confirmation.
    Held(Pending),
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files are invalid, or their tests fail.
    #[error("{0}")]
    Invalid(BundleError),
    /// The files have another version than the one that was confirmed.
    #[error("the files have the version {0}")]
    OtherVersion(String),
    /// The database is not available.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files could not be read for an internal reason.
    #[error("{0}")]
    Internal(String),
}

/// A candidate that needs a confirmation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingView {
    /// The version to confirm.
    pub version: String,
    /// The ids of the forbid policies that would be lost.
    pub lost_policies: Vec<String>,
    /// The ids of the forbid policies whose scope or conditions would change.
    pub changed_policies: Vec<String>,
    /// The names of the files that are missing or have become empty.
    pub lost_files: Vec<String>,
}

impl PendingView {
    /// The candidate that needs a confirmation, if any.
    pub fn of(policies: &Live) -> Option<Self> {
        let pending = policies.pending()?;
        let Losses { policies, changed, files } = pending.losses.clone();
        let version = pending.version.clone();
        Some(Self { version, lost_policies: policies, changed_policies: changed, lost_files: files })
    }
}

/// Reloads the policies, and records in the database and in the audit log what came of it.
///
/// # Errors
/// [`ReloadError::Invalid`] if the files cannot be used; [`ReloadError::OtherVersion`] if they do not have the version that
/// was confirmed; [`ReloadError::Store`] if a confirmation cannot be read or recorded. The active version stays in each case.
pub async fn reload(parts: Arc<Parts>, cause: Cause, trigger: Trigger) -> Result<Reload, ReloadError> {
    let mut scans = parts.policies.begin_reload().await;
    let (reader, is_scan) = (Arc::clone(&parts), trigger == Trigger::Scan);
    let reading = actix_web::web::block(move || {
        let read =
            if is_scan { reader.policies.scan(&mut scans) } else { Some(reader.policies.read(&mut scans)) };
        (scans, read)
    });
    let (mut scans, read) = reading.await.map_err(|error| ReloadError::Internal(error.to_string()))?;
    let Some(candidate) = read else { return Ok(Reload::Active(false)) };
    let result = match candidate {
        Ok(candidate) => settle(&parts, cause, &trigger, candidate).await,
        Err(error) => {
            refuse(&parts, cause, &error).await;
            Err(ReloadError::Invalid(error))
        }
    };
    // Otherwise the next scan tries again.
    if !matches!(result, Err(ReloadError::Store(_) | ReloadError::OtherVersion(_))) {
        scans.consider_last();
    }
    result
}

/// Activates a valid candidate, or holds it.
async fn settle(
    parts: &Parts,
    cause: Cause,
    trigger: &Trigger,
    candidate: Candidate,
) -> Result<Reload, ReloadError> {
    let policies = &parts.policies;
    if let Trigger::Confirmation(version) = trigger {
        if version != candidate.version() {
            return Err(ReloadError::OtherVersion(candidate.version().to_owned()));
        }
        return activate_confirmed(parts, cause, candidate, true).await;
    }
    if policies.is_active(&candidate) {
        tracing::debug!("the policies were reloaded and are unchanged");
        policies.activate(candidate);
        return Ok(Reload::Active(false));
    }
    let losses = policies.losses(&candidate);
    if !policies.needs_confirmation(&losses, *trigger == Trigger::Request) {
        return Ok(activate(parts, cause, candidate, &losses).await);
    }
    let pending = Pending { version: candidate.version().to_owned(), losses };
    match parts.store.policy_state().await {
        Ok(Some(state)) if state.confirmed_version.as_deref() == Some(candidate.version()) => {
            activate_confirmed(parts, cause, candidate, false).await
        }
        Ok(_) => {
            hold(parts, cause, pending.clone()).await;
            Ok(Reload::Held(pending))
        }
        Err(error) => {
            hold(parts, cause, pending).await;
            Err(error.into())
        }
    }
}

/// Activates a candidate that needs no confirmation. It takes effect even while the database is away; the record follows.
async fn activate(parts: &Parts, cause: Cause, candidate: Candidate, losses: &Losses) -> Reload {
    let version = candidate.version().to_owned();
    let is_new = parts.policies.current().bundle().version() != version;
    // Before it is active: a process that ends here has recorded too much, and not too little.
    if let Err(error) = record(parts, candidate.bundle()).await {
        tracing::warn!(%error, "the active policy version could not be recorded; this is tried again");
    }
    parts.policies.activate(candidate);
    if is_new {
        log_active(&version, losses);
        audit::note(parts, cause, reloaded(&version, losses)).await;
    }
    Reload::Active(is_new)
}

/// Activates a candidate whose version is confirmed: first in the database, then in this process. `confirms` is true if it is
/// confirmed by this reload, and false if it was before.
async fn activate_confirmed(
    parts: &Parts,
    cause: Cause,
    candidate: Candidate,
    confirms: bool,
) -> Result<Reload, ReloadError> {
    let losses = parts.policies.losses(&candidate);
    let version = candidate.version().to_owned();
    let is_new = parts.policies.current().bundle().version() != version;
    let inventory = inventory_text(candidate.bundle().inventory());
    let at = cause.at;
    let work = parts.store.begin(cause).await?;
    work.record_active_policies(&version, &inventory).await?;
    if confirms {
        work.confirm_policies(&version, at).await?;
        work.audit(with_losses(Entry::new(Event::PoliciesConfirmed), &version, &losses));
    }
    if is_new {
        work.audit(reloaded(&version, &losses));
    }
    work.commit().await?;
    parts.policies.activate(candidate);
    parts.policies.set_recorded(true);
    if is_new {
        log_active(&version, &losses);
    }
    Ok(Reload::Active(is_new))
}

async fn hold(parts: &Parts, cause: Cause, pending: Pending) {
    if !parts.policies.hold(pending.clone()) {
        return;
    }
    let Pending { version, losses } = &pending;
    let active = parts.policies.current();
    tracing::warn!(
        pending = version,
        active = active.bundle().version(),
        lost_policies = losses.policies.join(","),
        changed_policies = losses.changed.join(","),
        lost_files = losses.files.join(","),
        "the changed policies need a confirmation; the active version stays"
    );
    audit::note(parts, cause, with_losses(Entry::new(Event::PoliciesHeld), version, losses)).await;
}

async fn refuse(parts: &Parts, cause: Cause, error: &BundleError) {
    tracing::error!(%error, "the policies cannot be used; the active version stays");
    parts.policies.refuse(error.clone());
    let reason: String = error.to_string().chars().take(1_000).collect();
    let version = parts.policies.current().bundle().version().to_owned();
    let entry = Entry::new(Event::PoliciesRefused).outcome(Outcome::Failed).with("reason", reason);
    audit::note(parts, cause, entry.with("version", version)).await;
}

fn log_active(version: &str, losses: &Losses) {
    if losses.is_empty() {
        tracing::info!(version, "the policies were reloaded");
    } else {
        tracing::warn!(version, %losses, "the policies were reloaded with losses");
    }
}

fn reloaded(version: &str, losses: &Losses) -> Entry {
    with_losses(Entry::new(Event::PoliciesReloaded), version, losses)
}

/// How many characters of the lost ids an audit event has.
const MAX_LOSSES: usize = 1_000;

fn with_losses(entry: Entry, version: &str, losses: &Losses) -> Entry {
    let entry = entry.with("version", version);
    if losses.is_empty() {
        return entry;
    }
    entry.with("losses", losses.to_string().chars().take(MAX_LOSSES).collect::<String>())
}

fn inventory_text(inventory: &Inventory) -> String {
    // It is made of texts and numbers, which JSON can express.
    serde_json::to_string(inventory).unwrap_or_default()
}

/// Records in the database which version is active in this process.
///
/// # Errors
/// Where the database is not available.
pub async fn record_active(parts: &Parts) -> Result<(), StoreError> {
    record(parts, parts.policies.current().bundle()).await
}

async fn record(parts: &Parts, bundle: &Bundle) -> Result<(), StoreError> {
    parts.policies.set_recorded(false);
    let (version, inventory) = (bundle.version(), inventory_text(bundle.inventory()));
    let is_recorded = |state: &PolicyState| state.version == version && state.inventory == inventory;
    if !parts.store.policy_state().await?.as_ref().is_some_and(is_recorded) {
        let work = parts.store.begin(Cause::service(parts.clock.now())).await?;
        work.record_active_policies(version, &inventory).await?;
        work.commit().await?;
    }
    parts.policies.set_recorded(true);
    Ok(())
}

/// The confirmation that this process has followed last.
#[derive(Debug, Default)]
pub struct Followed(Option<(String, Option<Timestamp>)>);

/// Reloads the policies if a version was confirmed that this process has not activated, and records the active version if
/// that could not be done before.
pub async fn follow_confirmations(parts: &Arc<Parts>, followed: &mut Followed) {
    if !parts.policies.is_recorded() && record_active(parts).await.is_err() {
        return;
    }
    let Ok(state) = parts.store.policy_state().await else { return };
    let confirmed = state.and_then(|state| Some((state.confirmed_version?, state.confirmed_at)));
    if confirmed == followed.0 {
        return;
    }
    if let Some((version, _)) = &confirmed
        && parts.policies.current().bundle().version() != version
    {
        let cause = Cause::service(parts.clock.now());
        if let Err(ReloadError::Store(_)) = reload(Arc::clone(parts), cause, Trigger::Signal).await {
            return;
        }
    }
    followed.0 = confirmed;
}

/// Checks that the policies that were read at the start need no confirmation, compared with the version that was active last.
///
/// # Errors
/// The text says what would be lost and how to confirm it; or the database is not available.
pub async fn check_start(policies: &Live, store: &Store) -> Result<Result<(), String>, StoreError> {
    let Some(state) = store.policy_state().await? else { return Ok(Ok(())) };
    let active = policies.current();
    let bundle = active.bundle();
    let version = bundle.version();
    if state.version.is_empty() || state.confirmed_version.as_deref() == Some(version) {
        return Ok(Ok(()));
    }
    let recorded: Inventory = serde_json::from_str(&state.inventory).map_err(|error| {
        let column = "policy_state.inventory";
        StoreError::Failed(format!(
            "{column} is not readable ({error}); `cedargate policy reload --confirm {version}` replaces it"
        ))
    })?;
    let losses = recorded.losses(bundle.inventory());
    let is_same = state.version == version && losses.is_empty();
    if is_same || !policies.needs_confirmation(&losses, false) {
        if !losses.is_empty() {
            tracing::warn!(version, %losses, "the policies have losses, compared with the version that was active last");
        }
        return Ok(Ok(()));
    }
    let what =
        if losses.is_empty() { "every change needs a confirmation".to_owned() } else { losses.to_string() };
    Ok(Err(format!(
        "version {version} is not the version {} that was active last: {what}; restore the files, or confirm the version \
         with `cedargate policy reload --confirm {version}`",
        state.version
    )))
}

/// Records that the version in the files of this command is confirmed; the running processes whose files have it activate
/// it within seconds.
///
/// # Errors
/// Where the action is not permitted on the root organization, or the database is not available.
pub async fn confirm_at_terminal(gate: &Gate, version: &str) -> Result<(), Problem> {
    let parts = gate.parts();
    let root = parts.store.root().await?;
    gate.require(&root.ok_or_else(|| Problem::internal("there is no root organization"))?)?;
    let state = parts.store.policy_state().await?;
    let recorded = state.and_then(|state| serde_json::from_str::<Inventory>(&state.inventory).ok());
    let losses = recorded.unwrap_or_default().losses(gate.engine().bundle().inventory());
    let work = gate.begin().await?;
    work.confirm_policies(version, parts.clock.now()).await?;
    work.audit(with_losses(Entry::new(Event::PoliciesConfirmed), version, &losses));
    Ok(work.commit().await?)
}

impl ReloadError {
    /// The problem that answers a request to reload. `active` is the version that stays.
    pub fn problem(self, active: &str) -> Problem {
        match self {
            Self::Invalid(error) => Problem::new(
                StatusCode::CONFLICT,
                "bad_policies",
                format!("The policies cannot be used; version {active} stays active. {error}"),
            ),
            Self::OtherVersion(found) => Problem::new(
                StatusCode::CONFLICT,
                "policy_version_mismatch",
                format!(
                    "The policy files have the version {found}, not the confirmed one; version {active} stays active."
                ),
            ),
            Self::Store(error) => error.into(),
            Self::Internal(error) => Problem::internal(error),
        }
    }
}
