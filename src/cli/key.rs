//! `cedargate key`.

use super::user::user_id;
use super::{CommandResult, Failure, block_on, open, print_created};
use crate::api::api_keys::{self, NewKey};
use crate::authn::KeyFormat;
use crate::authz::{Scope, ScopeSet};
use crate::config::Config;
use crate::types::{Email, Name, Timestamp};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an API key for a user; prints the key, which is shown this once
    Add {
        /// The user's address
        #[arg(long)]
        user: Email,
        /// What to call it
        #[arg(long)]
        name: Name,
        /// What it is for: guest, agent, bot or admin; may be given several times
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Until when it is good, such as 2030-01-01T00:00:00Z; for ever if nothing is said
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
        /// `cg`, which scanners can find where it has leaked, or `hex`
        #[arg(long, default_value = "cg")]
        format: KeyFormat,
    },
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let Command::Add { user, name, scopes, expires_at, format } = command;
    let scopes = ScopeSet::new(scopes).ok_or_else(|| Failure::failed("at least one scope is needed"))?;
    block_on(async {
        let app = open(config).await?;
        let id = user_id(&app, &user).await?.to_string();
        let authorizer = app.terminal_authorizer("createApiKey").await?;
        let user = api_keys::authorize_scopes(&authorizer, &id, &scopes).await?;
        let new = NewKey { name, scopes, expires_at, format };
        let key = api_keys::create_key_with(&authorizer, &user, new, |key| print_created(key)).await;
        key?;
        Ok(())
    })
}
