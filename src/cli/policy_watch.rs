//! The task of `cedargate serve` that watches the policy files, the signals and the confirmations.

use super::{CommandResult, Failure};
use crate::api::policy_reload::{self, LastConfirmation, Trigger};
use crate::application::AppState;
use crate::server::App;
use crate::store::AuditActor;
use actix_web::rt::signal::unix;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often the database is asked for a confirmation.
const CONFIRMATION_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Reloads the policies when their files have changed, when a version was confirmed, and on SIGHUP, which reloads the TLS
/// certificates and reopens the decision log too. `seconds` is the time between two scans of the files; 0 for no scans.
pub(super) fn spawn_reload_tasks(tasks: &mut JoinSet<()>, app: &App, seconds: u64) -> CommandResult {
    // From here on SIGHUP does not end the process any more.
    let mut hangups = unix::signal(unix::SignalKind::hangup()).map_err(Failure::failed)?;
    let parts = Arc::clone(&app.state);
    let certificates = app.certificates.clone();
    tasks.spawn_local(async move {
        while hangups.recv().await.is_some() {
            if let Some(Err(error)) = certificates.as_ref().map(|certificates| certificates.reload()) {
                tracing::error!(error, "the certificates cannot be used; the old ones stay");
            }
            parts.decision_log.reopen();
            reload(&parts, Trigger::Signal).await;
        }
    });
    let parts = Arc::clone(&app.state);
    tasks.spawn_local(async move {
        let mut followed = LastConfirmation::default();
        loop {
            actix_web::rt::time::sleep(CONFIRMATION_POLL_INTERVAL).await;
            policy_reload::apply_confirmations(&parts, &mut followed).await;
        }
    });
    if seconds > 0 {
        let parts = Arc::clone(&app.state);
        tasks.spawn_local(async move {
            loop {
                actix_web::rt::time::sleep(Duration::from_secs(seconds)).await;
                reload(&parts, Trigger::Scan).await;
            }
        });
    }
    Ok(())
}

/// Reloads the policies. The result is in the log and in the audit log.
async fn reload(parts: &Arc<AppState>, trigger: Trigger) {
    let actor = AuditActor::service(parts.clock.now());
    if let Err(error) = policy_reload::reload(Arc::clone(parts), actor, trigger).await {
        tracing::debug!(%error, "the policies were not reloaded");
    }
}
