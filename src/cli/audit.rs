//! `cedargate audit`.

use super::{Failure, Outcome, block_on, open, say};
use crate::config::Config;
use crate::store::{Head, Verified};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Look whether an entry of the audit trail was changed, taken out or put elsewhere; prints how many there are, and the head
    Verify {
        /// The trail has to have this head still, which was printed before and kept elsewhere: without it, nobody can tell a
        /// trail that was written anew from its beginning, or whose last entries were taken off
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<Head>,
    },
}

pub(super) fn run(config: &Config, command: Command) -> Outcome {
    let Command::Verify { head: known } = command;
    block_on(async {
        let app = open(config).await?;
        let Verified { entries, head, faults } = app.parts.store.verify_audit(known.as_ref()).await?;
        say(format_args!("{entries} entries, head {head}"));
        if faults.is_empty() { Ok(()) } else { Err(Failure::Found(faults.join("\n"))) }
    })
}
