//! `cedargate audit`.

use super::{CommandResult, Failure, block_on, open, print_line};
use crate::application::Credential;
use crate::config::Config;
use crate::server::App;
use crate::store::{ArchiveError, ArchiveFile, ArchiveSegment, ArchiveWriter, AuditActor, ChainHead};
use crate::types::Timestamp;
use clap::Subcommand;
use std::path::{Path, PathBuf};

/// How many entries one archive file has at most: they are deleted in one transaction, for which logins wait.
const ENTRIES_PER_FILE: u32 = 10_000;

/// How many entries are read at a time.
const PAGE_SIZE: u64 = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Verify that no audit entry was changed, removed or moved; prints the number of entries, and the head
    Verify {
        /// Require the log to contain this head, which an earlier `audit verify` printed and which was kept elsewhere:
        /// without it, a log that was rewritten from its beginning, or whose last entries were removed, is not noticed
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<ChainHead>,
        /// Verify these archive files, too, in any order; without them, only the entries that are not archived
        #[arg(long, value_name = "FILE", num_args = 1..)]
        archive: Vec<PathBuf>,
    },
    /// Move old audit entries to files, at most 10,000 to a file; prints the name and the SHA-256 of each
    Archive {
        /// The entries that were made before this time, such as 2026-01-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        before: Timestamp,
        /// The directory of the files
        #[arg(long, value_name = "DIRECTORY")]
        to: PathBuf,
    },
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        match command {
            Command::Verify { head, archive } => verify(&app, head.as_ref(), &archive).await,
            Command::Archive { before, to } => archive(&app, before, &to).await,
        }
    })
}

async fn verify(app: &App, expected_head: Option<&ChainHead>, files: &[PathBuf]) -> CommandResult {
    let report = app.state.store.verify_audit_with(expected_head, files).await?;
    let since = match report.start.seq {
        0 => String::new(),
        archived => format!(" after entry {archived}, the last one of the archives that were not checked"),
    };
    print_line(format_args!("{} entries{since}, head {}", report.entries, report.head))?;
    if report.faults.is_empty() { Ok(()) } else { Err(Failure::CheckFailed(report.faults.join("\n"))) }
}

/// Exports segment by segment. The entries of one are deleted only when its file is on the disk; what fails in between leaves
/// both.
async fn archive(app: &App, before: Timestamp, directory: &Path) -> CommandResult {
    let store = &app.state.store;
    // Each archive is an entry itself, which this command must not archive in turn.
    let up_to = store.archivable_up_to(before).await?;
    let mut is_empty = true;
    while let Some(segment) = store.next_segment(up_to, ENTRIES_PER_FILE).await? {
        let file = export(app, &segment, directory).await?;
        let credential = Some(Credential::Terminal.as_str());
        let actor = AuditActor { credential, ..AuditActor::service(app.state.clock.now()) };
        if !store.replace_with_archive(actor, &segment, &file).await? {
            return Err(Failure::failed(format!(
                "another command has archived entries in the meantime; nothing was deleted for {}, which is of no use \
                 unless that command has printed its name",
                file.name
            )));
        }
        is_empty = false;
        let (first, last) = (segment.first(), segment.last.seq);
        print_line(format_args!("entries {first} to {last}: {}, SHA-256 {}", file.name, file.digest))?;
    }
    if is_empty {
        print_line(format_args!("no entries were made before {before}"))?;
    }
    Ok(())
}

async fn export(app: &App, segment: &ArchiveSegment, directory: &Path) -> Result<ArchiveFile, Failure> {
    let failed = |error: ArchiveError| match error {
        ArchiveError::Faults(faults) => {
            Failure::CheckFailed(format!("nothing was archived, because the audit log is damaged:\n{faults}"))
        }
        other => Failure::failed(other),
    };
    let mut writer = ArchiveWriter::create(directory, segment).map_err(failed)?;
    let mut after = segment.previous.seq;
    loop {
        let rows = app.state.store.segment_rows(segment, after, PAGE_SIZE).await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in &rows {
            writer.add(row).map_err(failed)?;
        }
    }
    writer.finish().map_err(failed)
}
