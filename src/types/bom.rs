//! Removes the byte-order mark that some editors write at the beginning of a text file.

use std::path::Path;

/// The byte-order mark (U+FEFF).
const BOM: char = '\u{feff}';

/// Removes a byte-order mark from the beginning of a text.
pub(crate) fn strip_bom(mut text: String) -> String {
    if text.starts_with(BOM) {
        text.remove(0);
    }
    text
}

/// Removes a byte-order mark from the beginning of a UTF-8 file.
pub(crate) fn strip_bom_bytes(bytes: Vec<u8>) -> Vec<u8> {
    match bytes.strip_prefix("\u{feff}".as_bytes()) {
        Some(rest) => rest.to_vec(),
        None => bytes,
    }
}

/// Reads a UTF-8 text file without its byte-order mark.
///
/// # Errors
///
/// If the file cannot be read or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(strip_bom)
}

#[cfg(test)]
mod tests {
    use super::strip_bom;

    #[test]
    fn only_a_mark_at_the_beginning_is_removed() {
        for (text, expected) in [("\u{feff}a", "a"), ("a\u{feff}", "a\u{feff}"), ("\u{feff}", ""), ("", "")] {
            assert_eq!(strip_bom(text.to_owned()), expected);
        }
    }
}
