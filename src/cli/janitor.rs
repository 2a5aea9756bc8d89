//! `cedargate janitor`, and the same every now and then while the service runs.

use super::{Outcome, block_on, open, say};
use crate::config::Config;
use crate::http::Parts;
use crate::store::Swept;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

pub(super) fn run(config: &Config) -> Outcome {
    block_on(async {
        let app = open(config).await?;
        let swept = app.parts.clean_up().await?;
        say(format_args!("deleted {swept}"))
    })
}

/// Cleans up every `seconds` seconds.
pub(super) fn keep_sweeping(tasks: &mut JoinSet<()>, parts: &Arc<Parts>, seconds: u64) {
    if seconds == 0 {
        return;
    }
    let parts = Arc::clone(parts);
    tasks.spawn_local(async move {
        loop {
            actix_web::rt::time::sleep(Duration::from_secs(seconds)).await;
            tracing::debug!("what has expired is about to be deleted");
            match parts.clean_up().await {
                Ok(swept) if swept == Swept::default() => {}
                Ok(swept) => tracing::info!("deleted {swept} that were no longer good"),
                Err(error) => tracing::warn!(%error, "what has expired could not be deleted"),
            }
        }
    });
}
