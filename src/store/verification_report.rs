//! The report of a verification of the audit log: it checks entry after entry.

use super::archive::ArchiveRow;
use super::audit::{AuditRow, Event};
use super::chain::{self, ChainHead};
use std::collections::HashMap;

/// The maximum number of faults in a report.
const MAX_FAULTS: usize = 100;

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationReport {
    /// The number of entries that were verified.
    pub entries: u64,
    /// The last entry.
    pub head: ChainHead,
    /// The first 100 faults, as sentences that name the entries.
    pub faults: Vec<String>,
    /// The entry after which the verification began: the last archived one, unless archive files were given.
    pub start: ChainHead,
    /// The archives that entries of the log confirm: the number and hash of the last entry of each.
    confirmed_archives: HashMap<i64, String>,
}

impl VerificationReport {
    /// Creates an empty report; the next entry must follow `start`.
    pub(super) fn starting_at(start: ChainHead) -> Self {
        Self {
            entries: 0,
            head: start.clone(),
            faults: Vec::new(),
            start,
            confirmed_archives: HashMap::new(),
        }
    }

    pub(super) fn add_fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Verifies the next entry.
    pub(super) fn check(&mut self, row: &AuditRow, expected_head: Option<&ChainHead>) {
        let AuditRow { seq, previous, .. } = row;
        let next = self.head.seq.saturating_add(1);
        if *seq > next {
            self.add_missing(next, seq.saturating_sub(1));
        } else if *seq < next {
            let first = self.start.seq.saturating_add(1);
            self.add_fault(format!("entry {seq} is out of place: the first entry is {first}"));
        } else if *previous != self.head.hash {
            let before = self.head.seq;
            self.add_fault(format!(
                "entry {seq} does not follow entry {before}: its previous hash is a different one"
            ));
        }
        if chain::hash(row) != row.hash {
            self.add_fault(format!("entry {seq} was changed: its hash does not match its content"));
        }
        if expected_head
            .is_some_and(|expected_head| expected_head.seq == *seq && expected_head.hash != row.hash)
        {
            self.add_fault(format!("entry {seq} was replaced: its hash does not match the expected head"));
        }
        if row.event == Event::AuditArchived.to_string() {
            self.record_archive(row);
        }
        self.entries += 1;
        self.head = ChainHead { seq: *seq, hash: row.hash.clone() };
    }

    /// Adds the fault that these entries are missing.
    pub(super) fn add_missing(&mut self, first: i64, last: i64) {
        self.add_fault(if first == last {
            format!("entry {first} is missing")
        } else {
            format!("entries {first} to {last} are missing")
        });
    }

    fn record_archive(&mut self, row: &AuditRow) {
        let details: serde_json::Value = serde_json::from_str(&row.details).unwrap_or_default();
        let last = details.get("last").and_then(serde_json::Value::as_i64);
        let hash = details.get("hash").and_then(serde_json::Value::as_str);
        if let (Some(last), Some(hash)) = (last, hash) {
            self.confirmed_archives.insert(last, hash.to_owned());
        }
    }

    /// Verifies that the archives continue one another, and that the log confirms the newest one.
    pub(super) fn check_archives(&mut self, archives: &[ArchiveRow]) {
        let mut next = 1;
        for archive in archives {
            if archive.first_seq != next {
                self.add_missing(next, archive.first_seq.saturating_sub(1));
            }
            next = archive.last_seq.saturating_add(1);
            let is_newest = Some(archive) == archives.last();
            let recorded = self.confirmed_archives.get(&archive.last_seq);
            if recorded.map_or(is_newest, |hash| *hash != archive.hash) {
                let ArchiveRow { first_seq, last_seq, .. } = archive;
                self.add_fault(format!(
                    "entries {first_seq} to {last_seq} are missing: no entry audit.archived confirms their archive"
                ));
            }
        }
    }

    /// Verifies the expected head if its entry was not among those verified.
    pub(super) fn check_expected_head(&mut self, expected_head: &ChainHead) {
        if expected_head.seq > self.head.seq {
            let (last, head) = (self.head.seq, expected_head.seq);
            self.add_fault(format!(
                "the audit log ends at entry {last}, before the expected head {head}: the last entries are missing"
            ));
        } else if expected_head.seq == self.start.seq && expected_head.hash != self.start.hash {
            let seq = expected_head.seq;
            self.add_fault(format!("entry {seq} was replaced: its hash does not match the expected head"));
        } else if expected_head.seq < self.start.seq && expected_head.seq > 0 {
            let seq = expected_head.seq;
            self.add_fault(format!(
                "entry {seq} is archived: name the archive files to compare it with the expected head"
            ));
        }
    }
}
