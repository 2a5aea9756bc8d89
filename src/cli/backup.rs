//! `cedargate backup`, and `cedargate revoke-all`, without which a backup that is restored would bring back what was ended
//! since it was made.

use super::{Failure, Outcome, block_on, open, say};
use crate::api::users::User;
use crate::config::Config;
use crate::http::Problem;
use crate::http::token_keys::TokenKeysError;
use crate::store::{Ending, Sessions};
use std::path::Path;

/// How many users are looked at in one unit of work.
const PAGE: u64 = 200;

/// Copies the database.
pub(super) fn back_up(config: &Config, file: &Path) -> Outcome {
    block_on(async {
        let app = open(config).await?;
        app.parts.store.back_up(file).await?;
        say(format_args!("copied to {}", file.display()))
    })
}

/// Revokes the keys that sign, and ends every session, and every API key unless they are kept.
pub(super) fn revoke_all(config: &Config, keep_api_keys: bool) -> Outcome {
    block_on(async {
        let app = open(config).await?;
        let gate = app.terminal("deleteSession").await?;
        let keys = gate.at("deleteApiKey");
        let parts = gate.parts();
        let signing = match parts.tokens.revoke(gate.cause()).await {
            Ok(_) => "revoked the keys that sign, and made a new one",
            Err(TokenKeysError::Configured) => {
                "the key that signs is the one of the setting CEDARGATE_JWT_SECRET: if it has leaked, or is an old one, \
                 change it there"
            }
            Err(error) => return Err(error.into()),
        };
        let (mut after, mut sessions, mut users) = (None, 0, 0);
        loop {
            let now = parts.clock.now();
            let holders = parts.store.holders(after, now, PAGE).await?;
            let Some(last) = holders.last().copied() else { break };
            after = Some(last);
            let work = parts.store.begin(gate.cause()).await?;
            for id in holders {
                let found = gate.look_up_in::<User>(&work, &id.to_string()).await;
                let user = gate.decide(found.map_err(failed)?, &gate.circumstances()).map_err(failed)?;
                sessions += work.end_sessions(user.id, Sessions::All, Ending::Revoked, now).await?;
                users += 1;
                if !keep_api_keys {
                    let found = keys.look_up_in::<User>(&work, &id.to_string()).await;
                    let user = keys.decide(found.map_err(failed)?, &keys.circumstances()).map_err(failed)?;
                    work.delete_api_keys(&user, Ending::Revoked).await?;
                }
            }
            work.commit().await?;
        }
        let what = if keep_api_keys { "" } else { " and all API keys" };
        say(format_args!("ended {sessions} sessions{what} of {users} users"))?;
        say(signing)
    })
}

fn failed(problem: Problem) -> Failure {
    Failure::problem(&problem)
}
