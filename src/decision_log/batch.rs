//! Batches of log lines.

use crate::types::Timestamp;
use std::ops::Range;

/// The size at which a batch is full: 32 KiB.
const FULL_BYTES: usize = 32 * 1024;

/// Lines in order, in one buffer.
#[derive(Debug, Default)]
pub(super) struct Batch {
    text: Vec<u8>,
    /// The end offset of each line, and the time of its decision.
    ends: Vec<(usize, Timestamp)>,
}

impl Batch {
    /// Adds a line.
    pub(super) fn push(&mut self, line: &[u8], time: Timestamp) {
        self.push_with(time, |text| text.extend_from_slice(line));
    }

    /// Adds a line that `write` appends to the buffer.
    pub(super) fn push_with(&mut self, time: Timestamp, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.ends.push((self.text.len(), time));
    }

    /// The number of lines.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// The total size of the lines in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether the next line belongs in another batch.
    pub(super) fn is_full(&self) -> bool {
        self.text.len() >= FULL_BYTES
    }

    /// The lines with the times of their decisions.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], Timestamp)> {
        self.ends.iter().enumerate().map(|(line, (_, time))| (self.text(line..line + 1), *time))
    }

    /// The text of these lines.
    pub(super) fn text(&self, lines: Range<usize>) -> &[u8] {
        self.text.get(self.start(lines.start)..self.start(lines.end)).unwrap_or_default()
    }

    /// The times of the decisions of these lines.
    pub(super) fn times(&self, lines: Range<usize>) -> impl Iterator<Item = Timestamp> + '_ {
        self.ends.get(lines).into_iter().flatten().map(|(_, time)| *time)
    }

    /// The number of lines, starting with `first`, that fit into `bytes`.
    pub(super) fn count_fitting(&self, first: usize, bytes: u64) -> usize {
        let start = self.start(first);
        let ends = self.ends.get(first..).unwrap_or_default();
        ends.partition_point(|(end, _)| (end - start) as u64 <= bytes)
    }

    /// The start offset of a line. For the line after the last one, the end of the text.
    fn start(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(end, _)| *end)
    }

    /// Removes all lines and keeps the buffer.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        // An unusually long line must not keep its memory.
        self.text.shrink_to(2 * FULL_BYTES);
        self.ends.clear();
    }
}
