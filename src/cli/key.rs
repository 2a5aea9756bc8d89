//! `cedargate key`.

use super::user::user_id;
use super::{CommandResult, Failure, block_on, open, print_created};
use crate::application::api_keys::{self, CreateApiKey};
use crate::authn::KeyFormat;
use crate::authz::{Scope, ScopeSet};
use crate::config::Config;
use crate::types::{Email, Name, Timestamp};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an API key for a user; prints the key, which cannot be displayed again
    Add {
        /// Email address of the user
        #[arg(long)]
        user: Email,
        /// Name of the key
        #[arg(long)]
        name: Name,
        /// Scope of the key: guest, agent, bot or admin; may be repeated
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Expiry, such as 2030-01-01T00:00:00Z [default: none]
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
        /// Format: `cg`, which secret scanners recognize, or `hex`
        #[arg(long, default_value = "cg")]
        format: KeyFormat,
    },
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let Command::Add { user, name, scopes, expires_at, format } = command;
    let scopes = ScopeSet::new(scopes).ok_or_else(|| Failure::failed("at least one --scope is required"))?;
    block_on(async {
        let app = open(config).await?;
        let id = user_id(&app, &user).await?.to_string();
        let authorizer = app.terminal_authorizer("createApiKey").await?;
        let command = CreateApiKey { name, scopes, expires_at, format };
        api_keys::create(&authorizer, &id, command, |key| print_created(key)).await?;
        Ok(())
    })
}
