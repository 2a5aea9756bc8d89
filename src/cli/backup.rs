//! `cedargate backup` and `cedargate revoke-all`. A restored backup contains credentials that were revoked since it was made.

use super::{CommandResult, block_on, open, print_line};
use crate::application::signing_keys::SigningKeysError;
use crate::config::Config;
use crate::resource::user::User;
use crate::store::{EndReason, SessionSelection};
use std::path::Path;

/// The number of users whose credentials are revoked in one unit of work.
const PAGE_SIZE: u64 = 200;

/// Copies the database to a new file.
pub(super) fn back_up(config: &Config, file: &Path) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        app.state.store.back_up(file).await?;
        print_line(format_args!("copied to {}", file.display()))
    })
}

/// Revokes all signing keys and sessions, and all API keys unless they are kept.
pub(super) fn revoke_all(config: &Config, keep_api_keys: bool) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        let authorizer = app.terminal_authorizer("deleteSession").await?;
        let keys = authorizer.with_action("deleteApiKey");
        let state = authorizer.state();
        let key_message = match state.signing_keys.revoke(authorizer.audit_actor()).await {
            Ok(_) => "revoked all signing keys and created a new one",
            Err(SigningKeysError::Configured) => {
                "the signing key in CEDARGATE_JWT_SECRET was not revoked; if it has leaked, change the setting"
            }
            Err(error) => return Err(error.into()),
        };
        let (mut after, mut sessions, mut users) = (None, 0, 0);
        loop {
            let now = state.clock.now();
            let user_ids = state.store.users_with_credentials(after, now, PAGE_SIZE).await?;
            let Some(last) = user_ids.last().copied() else { break };
            after = Some(last);
            let work = state.store.begin(authorizer.audit_actor()).await?;
            for id in user_ids {
                let found = authorizer.lookups().find_unchecked_in::<User>(&work, &id.to_string()).await?;
                let user = authorizer.authorize(found, &authorizer.request_context())?;
                sessions +=
                    work.end_sessions(user.id, SessionSelection::All, EndReason::Revoked, now).await?;
                users += 1;
                if !keep_api_keys {
                    let found = keys.lookups().find_unchecked_in::<User>(&work, &id.to_string()).await?;
                    let user = keys.authorize(found, &keys.request_context())?;
                    work.delete_api_keys(&user, EndReason::Revoked).await?;
                }
            }
            work.commit().await?;
        }
        let what = if keep_api_keys { "" } else { " and all API keys" };
        print_line(format_args!("ended {sessions} sessions{what} of {users} users"))?;
        print_line(key_message)
    })
}
