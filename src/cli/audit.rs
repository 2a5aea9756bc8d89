//! `cedargate audit`.

use super::{CommandResult, Failure, block_on, open, print_line};
use crate::application::Credential;
use crate::config::Config;
use crate::server::App;
use crate::store::{ArchiveError, ArchiveFile, ArchiveSegment, ArchiveWriter, AuditActor, ChainHead};
use crate::types::Timestamp;
use clap::Subcommand;
use std::path::{Path, PathBuf};

/// The maximum number of entries of an archive file. They are deleted in one transaction, for which logins wait.
const ENTRIES_PER_FILE: u32 = 10_000;

/// The number of entries that are read at a time.
const PAGE_SIZE: u64 = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Verify that no audit entry was changed, removed or moved; prints the number of entries and the head
    Verify {
        /// Expected head from an earlier run; detects truncation or rewriting of the whole log
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<ChainHead>,
        /// Also verify these archive files, in any order; without them, only entries that are not archived are verified
        #[arg(long, value_name = "FILE", num_args = 1..)]
        archive: Vec<PathBuf>,
    },
    /// Move old audit entries to files of at most 10,000 entries; prints the name and SHA-256 of each file
    Archive {
        /// Archive entries older than this time, such as 2026-01-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        before: Timestamp,
        /// Directory of the files
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
        archived => format!(" after entry {archived}, the last one of the archives that were not verified"),
    };
    print_line(format_args!("{} entries{since}, head {}", report.entries, report.head))?;
    if report.faults.is_empty() { Ok(()) } else { Err(Failure::CheckFailed(report.faults.join("\n"))) }
}

/// Exports segment by segment. The entries of a segment are deleted only after its file was synced to disk.
async fn archive(app: &App, before: Timestamp, directory: &Path) -> CommandResult {
    let store = &app.state.store;
    // Each archive adds an entry, which this command must not archive in turn.
    let up_to = store.archivable_up_to(before).await?;
    let mut is_empty = true;
    while let Some(segment) = store.next_segment(up_to, ENTRIES_PER_FILE).await? {
        let file = export(app, &segment, directory).await?;
        let credential = Some(Credential::Terminal.as_str());
        let actor = AuditActor { credential, ..AuditActor::service(app.state.clock.now()) };
        if !store.replace_with_archive(actor, &segment, &file).await? {
            return Err(Failure::failed(format!(
                "another command has archived these entries at the same time; nothing was deleted for {}, which is \
                 useless unless the other command printed its name",
                file.name
            )));
        }
        is_empty = false;
        let (first, last) = (segment.first(), segment.last.seq);
        print_line(format_args!("entries {first} to {last}: {}, SHA-256 {}", file.name, file.digest))?;
    }
    if is_empty {
        print_line(format_args!("no entries before {before}"))?;
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
