//! `cedargate janitor`, and the same every now and then while the service runs.

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

/// Cleans up every `seconds` seconds.
pub(super) fn spawn_cleanup(tasks: &mut JoinSet<()>, parts: &Arc<AppState>, seconds: u64) {
    if seconds == 0 {
        return;
    }
    let parts = Arc::clone(parts);
    tasks.spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            tracing::debug!("what has expired is about to be deleted");
            match parts.clean_up().await {
                Ok(swept) if swept == CleanupCounts::default() => {}
                Ok(swept) => tracing::info!("deleted {swept} that were no longer good"),
                Err(error) => tracing::warn!(%error, "what has expired could not be deleted"),
            }
        }
    });
}
