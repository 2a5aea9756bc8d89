//! `cedargate janitor`, and the same as a periodic task of the service.

use super::{CommandResult, block_on, open, print_line};
use crate::application::AppState;
use crate::config::Config;
use crate::store::CleanupCounts;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

pub(super) fn run(config: &Config) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        let deleted_counts = app.state.clean_up().await?;
        print_line(format_args!("deleted {deleted_counts}"))
    })
}

/// Starts the task that deletes expired rows every `seconds` seconds; 0 starts none.
pub(super) fn spawn_cleanup(tasks: &mut JoinSet<()>, state: &Arc<AppState>, seconds: u64) {
    if seconds == 0 {
        return;
    }
    let state = Arc::clone(state);
    tasks.spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            tracing::debug!("cleanup started");
            match state.clean_up().await {
                Ok(deleted) if deleted == CleanupCounts::default() => {}
                Ok(deleted) => tracing::info!("cleanup deleted {deleted}"),
                Err(error) => tracing::warn!(%error, "cleanup failed"),
            }
        }
    });
}
