//! `cedargate signing-key`.

use super::{Outcome, block_on, open, say};
use crate::authn::Keyring;
use crate::config::Config;
use crate::http::Credential;
use crate::store::Cause;
use crate::values::Timestamp;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the keys that sign: name, algorithm, and what each is good for
    List,
    /// Make the next key, which signs in ten minutes, when everybody knows it; the old one checks as long as it has to
    Rotate {
        /// Because a key has leaked: the new one signs at once, and all others are no good any more, nor is what they signed
        #[arg(long)]
        revoke: bool,
    },
}

pub(super) fn run(config: &Config, command: &Command) -> Outcome {
    block_on(async {
        let app = open(config).await?;
        let keys = &app.parts.tokens;
        let credential = Some(Credential::Terminal.as_str());
        let cause = Cause { credential, ..Cause::service(app.parts.clock.now()) };
        let ring = match command {
            Command::List => keys.known(),
            Command::Rotate { revoke: false } => keys.rotate(cause).await?,
            Command::Rotate { revoke: true } => keys.revoke(cause).await?,
        };
        list(&ring, app.parts.clock.now())
    })
}

fn list(ring: &Keyring, now: Timestamp) -> Outcome {
    let signing = ring.signing(now).map(|key| key.number);
    for (key, ends_at) in ring.keys() {
        let use_of = match ends_at {
            _ if key.signs_from > now && Some(key.number) > signing => {
                format!("signs from {}", key.signs_from)
            }
            Some(end) if Some(key.number) != signing => format!("checks until {end}"),
            _ => "signs".to_owned(),
        };
        say(format_args!("{:16}  {:5}  {use_of}", key.kid, key.algorithm.to_string()))?;
    }
    Ok(())
}
