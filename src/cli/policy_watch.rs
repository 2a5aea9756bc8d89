//! The tasks of `cedargate serve` that reload the policies: on changed files, on SIGHUP, and on confirmations.

use crate::application::AppState;
use crate::application::policy_reload::{self, LastConfirmation, Trigger};
use crate::server::App;
use crate::store::AuditActor;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The interval at which confirmations are read from the database.
const CONFIRMATION_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Reloads the policies when their files have changed, when a version was confirmed, and on SIGHUP, which reloads the TLS
/// certificates and reopens the decision log too. `seconds` is the time between two scans of the files; 0 for no scans.
/// `next_hangup` waits for the next SIGHUP.
pub(super) fn spawn_reload_tasks(
    tasks: &mut JoinSet<()>,
    app: &App,
    seconds: u64,
    mut next_hangup: impl AsyncFnMut() -> Option<()> + 'static,
) {
    let state = Arc::clone(&app.state);
    let certificates = app.certificates.clone();
    tasks.spawn_local(async move {
        while next_hangup().await.is_some() {
            if let Some(Err(error)) = certificates.as_ref().map(|certificates| certificates.reload()) {
                tracing::error!(error, "cannot reload the certificates; the active ones stay in use");
            }
            state.decision_log.reopen();
            reload(&state, Trigger::Signal).await;
        }
    });
    let state = Arc::clone(&app.state);
    tasks.spawn_local(async move {
        let mut last = LastConfirmation::default();
        loop {
            tokio::time::sleep(CONFIRMATION_POLL_INTERVAL).await;
            policy_reload::apply_confirmations(&state, &mut last).await;
        }
    });
    if seconds > 0 {
        let state = Arc::clone(&app.state);
        tasks.spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                reload(&state, Trigger::Scan).await;
            }
        });
    }
}

/// Reloads the policies. The result is in the log and in the audit log.
async fn reload(state: &Arc<AppState>, trigger: Trigger) {
    let actor = AuditActor::service(state.clock.now());
    if let Err(error) = policy_reload::reload(Arc::clone(state), actor, trigger).await {
        tracing::debug!(%error, "policy reload failed");
    }
}
