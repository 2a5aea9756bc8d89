//! `cedargate signing-key`.

use super::{CommandResult, block_on, open, print_line};
use crate::application::Credential;
use crate::authn::Keyring;
use crate::config::Config;
use crate::store::AuditActor;
use crate::types::Timestamp;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the signing keys: key id, algorithm and status
    List,
    /// Create the next signing key (active in 10 minutes); the old key keeps verifying until its tokens expire
    Rotate {
        /// After a leak: the new key is active immediately, and all other keys and the tokens they signed are invalid
        #[arg(long)]
        revoke: bool,
    },
}

pub(super) fn run(config: &Config, command: &Command) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        let keys = &app.state.signing_keys;
        let credential = Some(Credential::Terminal.as_str());
        let actor = AuditActor { credential, ..AuditActor::service(app.state.clock.now()) };
        let ring = match command {
            Command::List => keys.cached(),
            Command::Rotate { revoke: false } => keys.rotate(actor).await?,
            Command::Rotate { revoke: true } => keys.revoke(actor).await?,
        };
        list(&ring, app.state.clock.now())
    })
}

fn list(ring: &Keyring, now: Timestamp) -> CommandResult {
    let signing = ring.signing_key(now).map(|key| key.number);
    for (key, ends_at) in ring.keys() {
        let status = match ends_at {
            _ if key.signs_from > now && Some(key.number) > signing => {
                format!("active from {}", key.signs_from)
            }
            Some(end) if Some(key.number) != signing => format!("verifies until {end}"),
            _ => "active".to_owned(),
        };
        print_line(format_args!("{:16}  {:5}  {status}", key.kid, key.algorithm.to_string()))?;
    }
    Ok(())
}
