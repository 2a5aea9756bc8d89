//! Lines that are handed on together.

use crate::types::Timestamp;
use std::ops::Range;

/// How many bytes of lines are one batch: 32 KiB.
const FULL_BYTES: usize = 32 * 1024;

/// Lines in their order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    text: Vec<u8>,
    /// Where each of them ends, and when what it tells was decided.
    ends: Vec<(usize, Timestamp)>,
}

impl Batch {
    pub(super) fn push(&mut self, line: &[u8], time: Timestamp) {
        self.push_with(time, |text| text.extend_from_slice(line));
    }

    /// Adds a line that is made where it is to stand.
    pub(super) fn push_with(&mut self, time: Timestamp, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.ends.push((self.text.len(), time));
    }

    /// How many lines there are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes the lines have.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether the next line goes into another one.
    pub(super) fn is_full(&self) -> bool {
        self.text.len() >= FULL_BYTES
    }

    /// The lines, each with its time.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], Timestamp)> {
        self.ends.iter().enumerate().map(|(line, (_, time))| (self.text(line..line + 1), *time))
    }

    /// The text of these lines.
    pub(super) fn text(&self, lines: Range<usize>) -> &[u8] {
        self.text.get(self.start(lines.start)..self.start(lines.end)).unwrap_or_default()
    }

    /// When what these lines tell was decided.
    pub(super) fn times(&self, lines: Range<usize>) -> impl Iterator<Item = Timestamp> + '_ {
        self.ends.get(lines).into_iter().flatten().map(|(_, time)| *time)
    }

    /// How many of the lines from this one on have no more than so many bytes together.
    pub(super) fn count_fitting(&self, first: usize, bytes: u64) -> usize {
        let start = self.start(first);
        let ends = self.ends.get(first..).unwrap_or_default();
        ends.partition_point(|(end, _)| (end - start) as u64 <= bytes)
    }

    /// Where a line begins; the one after the last, where that ends.
    fn start(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(end, _)| *end)
    }

    /// Forgets the lines.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        // A long line needs more once.
        self.text.shrink_to(2 * FULL_BYTES);
        self.ends.clear();
    }
}
