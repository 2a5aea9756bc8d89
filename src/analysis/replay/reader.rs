//! Reads log files in blocks of whole lines, with a bounded amount of memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The size of a block that is read at once: 1 MiB.
const BLOCK_BYTES: usize = 1024 * 1024;

/// The maximum size of a line: 16 MiB. Longer lines are skipped and counted.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Whole lines of a file.
#[derive(Debug)]
pub(super) struct Block {
    /// The index of the file.
    pub(super) file: usize,
    /// The number of the first line, from 1.
    pub(super) first_line: usize,
    pub(super) text: Vec<u8>,
    /// Whether the last line does not end with a newline, since it was not written completely.
    pub(super) is_cut: bool,
}

/// The files of a log in the order in which they were written: `log.2`, `log.1`, `log`. Files of different logs stay in the given
/// order.
pub(super) fn in_order(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut logs: Vec<(PathBuf, Vec<(u64, &PathBuf)>)> = Vec::new();
    for file in files {
        let (log, number) = rotation(file);
        match logs.iter_mut().find(|(known, _)| *known == log) {
            Some((_, rotated)) => rotated.push((number, file)),
            None => logs.push((log, vec![(number, file)])),
        }
    }
    logs.into_iter()
        .flat_map(|(_, mut rotated)| {
            rotated.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
            rotated.into_iter().map(|(_, file)| file.clone())
        })
        .collect()
}

/// The log that a file belongs to, and its number: 0 for the current file.
fn rotation(file: &Path) -> (PathBuf, u64) {
    let number = file.extension().and_then(|number| number.to_str()?.parse().ok());
    number.map_or_else(|| (file.to_owned(), 0), |number| (file.with_extension(""), number))
}

/// Reads a file. Calls `on_block` with its lines, and `on_bytes` with the number of bytes that were read. Returns the number of
/// lines that were skipped since they are too long.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read_file(
    path: &Path,
    index: usize,
    mut on_bytes: impl FnMut(usize),
    mut on_block: impl FnMut(Block),
) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut first_line, mut skipped) = (1, 0);
    let mut rest: Vec<u8> = Vec::new();
    let mut is_skipping = false;
    loop {
        let mut text = std::mem::take(&mut rest);
        text.reserve(BLOCK_BYTES);
        let read = Read::by_ref(&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut text)?;
        on_bytes(read);
        if is_skipping {
            match text.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    text.drain(..=end);
                    first_line += 1;
                    is_skipping = false;
                }
                None => text.clear(),
            }
        }
        let is_end = read < BLOCK_BYTES;
        let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        if is_end {
            let is_cut = complete < text.len();
            on_block(Block { file: index, first_line, text, is_cut });
            return Ok(skipped);
        }
        rest = text.split_off(complete);
        if rest.len() > MAX_LINE_BYTES {
            rest.clear();
            skipped += 1;
            is_skipping = true;
        }
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        if lines > 0 {
            on_block(Block { file: index, first_line, text, is_cut: false });
            first_line += lines;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_log_are_read_in_the_order_in_which_they_were_written() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let given = paths(&["a/log", "a/log.10", "a/log.2", "b/log.1", "a/log.1", "b/log", "c.json"]);
        let expected = paths(&["a/log.10", "a/log.2", "a/log.1", "a/log", "b/log.1", "b/log", "c.json"]);
        assert_eq!(in_order(&given), expected);
    }

    #[test]
    fn lines_keep_their_numbers_beyond_blocks_and_oversized_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let long = "x".repeat(BLOCK_BYTES - 1);
        let oversized = "y".repeat(2 * MAX_LINE_BYTES + 17);
        std::fs::write(&path, format!("one\n{long}\nthree\n{oversized}\nfive\ncut")).unwrap();
        let mut seen = Vec::new();
        let skipped = read_file(
            &path,
            0,
            |_| {},
            |block| {
                let text = String::from_utf8(block.text).unwrap();
                for (index, line) in text.lines().enumerate() {
                    seen.push((block.first_line + index, line.len(), block.is_cut));
                }
            },
        );
        assert_eq!(skipped.unwrap(), 1);
        let expected = [(1, 3), (2, long.len()), (3, 5), (5, 4), (6, 3)];
        assert_eq!(seen.iter().map(|(number, length, _)| (*number, *length)).collect::<Vec<_>>(), expected);
        assert!(seen.last().unwrap().2);
    }
}
