//! Policy reload: which candidate becomes active, which one needs a confirmation, and what is recorded.
//!
//! A candidate that would lose a `forbid` or a file is held as pending (`CEDARGATE_POLICY_RELOAD`). It becomes active when its
//! version is confirmed, by `POST /v2/policies/reload` or by `cedargate policy reload --confirm`. A confirmation is a row in the
//! database: each process reads it, and activates the version if its own files have it. The row also has the version that was
//! active last, so that a start cannot lose silently what a running process would have held.

use super::{AppState, Authorizer, Error, audit};
use crate::authz::{
    Bundle, BundleError, Candidate, Inventory, Losses, PendingConfirmation, PolicyHandle, VersionPrefix,
    short_version,
};
use crate::store::{
    Activation, ActivationTrigger, ActiveVersion, AuditActor, AuditEntry, Event, Outcome, PolicyState, Store,
    StoreError,
};
use crate::types::Timestamp;
use std::sync::Arc;

/// Why the policies are reloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The periodic scan of the files.
    Scan,
    /// A signal, or a confirmation that another process has recorded.
    Signal,
    /// A caller of the API.
    Request,
    /// A caller of the API, who confirms the version with this prefix.
    Confirmation(VersionPrefix),
}

impl Trigger {
    /// Why a version that this reload makes active became active.
    fn activation(&self, actor: &AuditActor) -> Activation {
        let trigger = match self {
            Self::Scan => ActivationTrigger::Poll,
            Self::Signal => ActivationTrigger::Signal,
            Self::Request | Self::Confirmation(_) => ActivationTrigger::Request,
        };
        Activation::by_actor(trigger, actor)
    }
}

/// The result of a reload whose files could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The active version is the one in the files; true if it was another one before.
    Active(bool),
    /// The files have a version that needs a confirmation.
    Pending(PendingConfirmation),
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files are invalid, or their tests fail.
    #[error("{0}")]
    Invalid(BundleError),
    /// The files have another version than the one that was confirmed.
    #[error("the files have the version {}", short_version(.0))]
    VersionMismatch(String),
    /// The database is not available.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files could not be read for an internal reason.
    #[error("{0}")]
    Internal(String),
}

/// Reloads the policies, and records the result in the database and in the audit log.
///
/// # Errors
/// [`ReloadError::Invalid`] if the files cannot be used; [`ReloadError::VersionMismatch`] if they do not have the version that
/// was confirmed; [`ReloadError::Store`] if a confirmation cannot be read or recorded. The active version stays in each case.
pub async fn reload(
    state: Arc<AppState>,
    actor: AuditActor,
    trigger: Trigger,
) -> Result<ReloadOutcome, ReloadError> {
    let mut scans = state.policies.begin_reload().await;
    let (reader, is_scan) = (Arc::clone(&state), trigger == Trigger::Scan);
    let reading = tokio::task::spawn_blocking(move || {
        let read =
            if is_scan { reader.policies.scan(&mut scans) } else { Some(reader.policies.read(&mut scans)) };
        (scans, read)
    });
    let (mut scans, read) = reading.await.map_err(|error| ReloadError::Internal(error.to_string()))?;
    let Some(candidate) = read else { return Ok(ReloadOutcome::Active(false)) };
    let result = match candidate {
        Ok(candidate) => apply_candidate(&state, actor, &trigger, candidate).await,
        Err(error) => {
            reject_candidate(&state, actor, &error).await;
            Err(ReloadError::Invalid(error))
        }
    };
    // Otherwise the next scan tries again.
    if !matches!(result, Err(ReloadError::Store(_) | ReloadError::VersionMismatch(_))) {
        scans.mark_processed();
    }
    result
}

/// Activates a valid candidate, or holds it.
async fn apply_candidate(
    state: &AppState,
    actor: AuditActor,
    trigger: &Trigger,
    candidate: Candidate,
) -> Result<ReloadOutcome, ReloadError> {
    let policies = &state.policies;
    if let Trigger::Confirmation(version) = trigger {
        if !is_named(policies, &candidate, version) {
            return Err(ReloadError::VersionMismatch(candidate.version().to_owned()));
        }
        let activation = trigger.activation(&actor);
        return activate_confirmed(state, actor, candidate, activation, true).await;
    }
    if policies.is_active(&candidate) {
        tracing::debug!("the policies were reloaded and are unchanged");
        policies.activate(candidate);
        return Ok(ReloadOutcome::Active(false));
    }
    let losses = policies.losses(&candidate);
    if !policies.needs_confirmation(&losses, *trigger == Trigger::Request) {
        return Ok(activate(state, actor, candidate, trigger, &losses).await);
    }
    let pending = PendingConfirmation { version: candidate.version().to_owned(), losses };
    match state.store.policy_state().await {
        Ok(Some(stored_state)) if is_confirmed(&stored_state, candidate.bundle()) => {
            let activation = confirmed_activation(&stored_state, ActivationTrigger::Confirmation);
            activate_confirmed(state, actor, candidate, activation, false).await
        }
        Ok(_) => {
            hold_pending(state, actor, pending.clone()).await;
            Ok(ReloadOutcome::Pending(pending))
        }
        Err(error) => {
            hold_pending(state, actor, pending).await;
            Err(error.into())
        }
    }
}

/// Whether a confirmation names this candidate. A part of a version has to be that of the pending version, which the caller has
/// seen, and not that of the active one.
fn is_named(policies: &PolicyHandle, candidate: &Candidate, named: &VersionPrefix) -> bool {
    let version = candidate.version();
    let is_pending = || policies.pending().is_some_and(|pending| pending.version == version);
    let is_ambiguous = || {
        let active = policies.current();
        active.bundle().version() != version && named.matches(active.bundle().version())
    };
    named.matches(version) && (named.is_full() || (is_pending() && !is_ambiguous()))
}

/// Activates a candidate that needs no confirmation. It takes effect even while the database is away; the record follows.
async fn activate(
    state: &AppState,
    actor: AuditActor,
    candidate: Candidate,
    trigger: &Trigger,
    losses: &Losses,
) -> ReloadOutcome {
    let version = candidate.version().to_owned();
    let is_new = state.policies.current().bundle().version() != version;
    *state.last_activation() = trigger.activation(&actor);
    // Before it is active: a process that ends here has recorded too much rather than too little.
    if let Err(error) = record_active_version(state, candidate.bundle()).await {
        tracing::warn!(%error, "the active policy version could not be recorded; this is tried again");
    }
    state.policies.activate(candidate);
    if is_new {
        log_active(&version, losses);
        audit::record_or_queue(state, actor, reload_event(&version, losses)).await;
    }
    ReloadOutcome::Active(is_new)
}

/// Activates a candidate whose version is confirmed: first in the database, then in this process. `confirms` is true if it is
/// confirmed by this reload, and false if it was before.
async fn activate_confirmed(
    state: &AppState,
    actor: AuditActor,
    candidate: Candidate,
    activation: Activation,
    confirms: bool,
) -> Result<ReloadOutcome, ReloadError> {
    let losses = state.policies.losses(&candidate);
    let version = candidate.version().to_owned();
    let is_new = state.policies.current().bundle().version() != version;
    let inventory = inventory_text(candidate.bundle().inventory());
    let work = state.store.begin(actor).await?;
    work.record_active_policies(active_version(state, candidate.bundle(), &inventory, &activation)).await?;
    if confirms {
        work.confirm_policies(&version, &inventory).await?;
        work.audit(with_losses(AuditEntry::new(Event::PoliciesConfirmed), &version, &losses));
    }
    if is_new {
        work.audit(reload_event(&version, &losses));
    }
    work.commit().await?;
    state.policies.activate(candidate);
    state.policies.set_recorded(true);
    if is_new {
        log_active(&version, &losses);
    }
    Ok(ReloadOutcome::Active(is_new))
}

async fn hold_pending(state: &AppState, actor: AuditActor, pending: PendingConfirmation) {
    if !state.policies.set_pending(pending.clone()) {
        return;
    }
    let PendingConfirmation { version, losses } = &pending;
    let active = state.policies.current();
    tracing::warn!(
        pending = short_version(version),
        active = active.bundle().short_version(),
        lost_policies = losses.policies.join(","),
        changed_policies = losses.changed.join(","),
        lost_files = losses.files.join(","),
        "the changed policies need a confirmation; the active version stays"
    );
    audit::record_or_queue(state, actor, with_losses(AuditEntry::new(Event::PoliciesHeld), version, losses))
        .await;
}

async fn reject_candidate(state: &AppState, actor: AuditActor, error: &BundleError) {
    tracing::error!(%error, "policies rejected; the active version stays");
    state.policies.set_failure(error.clone());
    let reason: String = error.to_string().chars().take(1_000).collect();
    let version = state.policies.current().bundle().version().to_owned();
    let entry = AuditEntry::new(Event::PoliciesRefused).outcome(Outcome::Failed).with("reason", reason);
    audit::record_or_queue(state, actor, entry.with("version", version)).await;
}

fn log_active(version: &str, losses: &Losses) {
    let version = short_version(version);
    if losses.is_empty() {
        tracing::info!(version, "the policies were reloaded");
    } else {
        tracing::warn!(version, %losses, "the policies were reloaded with losses");
    }
}

fn reload_event(version: &str, losses: &Losses) -> AuditEntry {
    with_losses(AuditEntry::new(Event::PoliciesReloaded), version, losses)
}

/// How many characters of the lost ids an audit event has.
const MAX_LOSSES: usize = 1_000;

fn with_losses(entry: AuditEntry, version: &str, losses: &Losses) -> AuditEntry {
    let entry = entry.with("version", version);
    if losses.is_empty() {
        return entry;
    }
    entry.with("losses", losses.to_string().chars().take(MAX_LOSSES).collect::<String>())
}

/// Whether the version of this bundle was confirmed with the files that the bundle has.
fn is_confirmed(stored_state: &PolicyState, bundle: &Bundle) -> bool {
    stored_state.confirmed_version.as_deref().is_some_and(|confirmed| bundle.has_stored_version(confirmed))
        && stored_state.confirmed_inventory.as_deref() == Some(&inventory_text(bundle.inventory()))
}

/// The activation of a confirmed version, on request of who confirmed it.
fn confirmed_activation(stored_state: &PolicyState, trigger: ActivationTrigger) -> Activation {
    let credential = stored_state.confirmed_credential.clone();
    Activation { trigger, actor: stored_state.confirmed_by, credential }
}

/// What the database records of a version that becomes active.
fn active_version<'a>(
    state: &AppState,
    bundle: &'a Bundle,
    inventory: &'a str,
    activation: &'a Activation,
) -> ActiveVersion<'a> {
    let (version, files) = (bundle.version(), bundle.files());
    let max_versions = state.request_config.policy_versions_kept;
    ActiveVersion { version, inventory, files, activation, max_versions }
}

fn inventory_text(inventory: &Inventory) -> String {
    // The inventory has strings and numbers only, which always serialize.
    serde_json::to_string(inventory).unwrap_or_default()
}

/// Records in the database which version is active in this process.
///
/// # Errors
/// The database is not available.
pub async fn record_active(state: &AppState) -> Result<(), StoreError> {
    record_active_version(state, state.policies.current().bundle()).await
}

async fn record_active_version(state: &AppState, bundle: &Bundle) -> Result<(), StoreError> {
    state.policies.set_recorded(false);
    let (version, inventory) = (bundle.version(), inventory_text(bundle.inventory()));
    let is_recorded =
        |stored_state: &PolicyState| stored_state.version == version && stored_state.inventory == inventory;
    let stored_state = state.store.policy_state().await?;
    if !stored_state.as_ref().is_some_and(is_recorded) {
        let mut activation = state.last_activation().clone();
        if let Some(confirmed) = stored_state.filter(|stored_state| is_confirmed(stored_state, bundle)) {
            activation = confirmed_activation(&confirmed, activation.trigger);
        }
        let work = state.store.begin(AuditActor::service(state.clock.now())).await?;
        work.record_active_policies(active_version(state, bundle, &inventory, &activation)).await?;
        work.commit().await?;
    }
    state.policies.set_recorded(true);
    Ok(())
}

/// The confirmation that this process has followed last.
#[derive(Debug, Default)]
pub struct LastConfirmation(Option<(String, Option<Timestamp>)>);

/// Reloads the policies if a version was confirmed that this process has not activated, and records the active version if
/// that could not be done before.
pub async fn apply_confirmations(state: &Arc<AppState>, last_confirmation: &mut LastConfirmation) {
    if !state.policies.is_recorded() && record_active(state).await.is_err() {
        return;
    }
    let Ok(stored_state) = state.store.policy_state().await else { return };
    let confirmed = stored_state
        .and_then(|stored_state| Some((stored_state.confirmed_version?, stored_state.confirmed_at)));
    if confirmed == last_confirmation.0 {
        return;
    }
    // The version does not cover the policy tests: a candidate with the active version is pending if it lacks some.
    let is_awaited = |version: &str| {
        !state.policies.current().bundle().has_stored_version(version)
            || state.policies.pending().is_some_and(|pending| pending.version == version)
    };
    if confirmed.as_ref().is_some_and(|(version, _)| is_awaited(version)) {
        let actor = AuditActor::service(state.clock.now());
        if let Err(ReloadError::Store(_)) = reload(Arc::clone(state), actor, Trigger::Signal).await {
            return;
        }
    }
    last_confirmation.0 = confirmed;
}

/// Checks that the policies that were read at the start need no confirmation, compared with the version that was active last.
///
/// # Errors
/// The text says what would be lost and how to confirm it; or the database is not available.
pub async fn check_startup_version(
    policies: &PolicyHandle,
    store: &Store,
) -> Result<Result<(), String>, StoreError> {
    let Some(stored_state) = store.policy_state().await? else { return Ok(Ok(())) };
    let active = policies.current();
    let bundle = active.bundle();
    let version = bundle.short_version();
    if stored_state.version.is_empty() || is_confirmed(&stored_state, bundle) {
        return Ok(Ok(()));
    }
    let recorded: Inventory = serde_json::from_str(&stored_state.inventory).map_err(|error| {
        let column = "policy_state.inventory";
        StoreError::Failed(format!(
            "{column} is not readable ({error}); `cedargate policy reload --confirm {version}` replaces it"
        ))
    })?;
    let losses = recorded.losses(bundle.inventory());
    let is_same = bundle.has_stored_version(&stored_state.version);
    let is_unchanged = is_same && losses.is_empty();
    if is_unchanged || !policies.needs_confirmation(&losses, false) {
        if !losses.is_empty() {
            tracing::warn!(version, %losses, "the policies have losses, compared with the version that was active last");
        }
        return Ok(Ok(()));
    }
    let what =
        if losses.is_empty() { "every change needs a confirmation".to_owned() } else { losses.to_string() };
    // The version does not cover the policy tests, so that it can be the same although files are missing.
    let change = match is_same {
        true => format!("version {version} is incomplete, compared with the files that were active last"),
        false => {
            let stored = short_version(&stored_state.version);
            format!("version {version} is not the version {stored} that was active last")
        }
    };
    Ok(Err(format!(
        "{change}: {what}; restore the files, or confirm the version with `cedargate policy reload --confirm {version}`"
    )))
}

/// Records that the version in the files of this command is confirmed; the running processes whose files have it activate
/// it within seconds.
///
/// # Errors
/// The action is not permitted on the root organization, or the database is not available.
pub async fn confirm_from_cli(authorizer: &Authorizer, version: &str) -> Result<(), Error> {
    let app = authorizer.state();
    let root = app.store.root().await?;
    authorizer.require(&root.ok_or_else(|| Error::internal("there is no root organization"))?)?;
    let state = app.store.policy_state().await?;
    let recorded = state.and_then(|state| serde_json::from_str::<Inventory>(&state.inventory).ok());
    let inventory = authorizer.engine().bundle().inventory();
    let losses = recorded.unwrap_or_default().losses(inventory);
    let work = authorizer.begin().await?;
    work.confirm_policies(version, &inventory_text(inventory)).await?;
    work.audit(with_losses(AuditEntry::new(Event::PoliciesConfirmed), version, &losses));
    Ok(work.commit().await?)
}
