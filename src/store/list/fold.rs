//! Comparison ignoring case, the same on both databases.
//!
//! Two characters are equal if they have the same lower-case form: the simple lower-case mapping of Unicode, where ASCII letters
//! equal ASCII letters only. The databases agree on ASCII alone: SQLite's `lower` changes no other letters, and that of
//! PostgreSQL depends on the collation. So the query maps ASCII by `lower`, and of the other letters those that occur in the
//! text that is searched for, by `replace`: the letters that do not occur in it cannot match in either case.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

/// Returns the lower-case form of a character; the character itself if it has none of one character.
pub fn lower(letter: char) -> char {
    if letter.is_ascii() {
        return letter.to_ascii_lowercase();
    }
    let mut lower = letter.to_lowercase();
    match (lower.next(), lower.next()) {
        // The Kelvin sign has the lower-case form `k`.
        (Some(one), None) if !one.is_ascii() => one,
        _ => letter,
    }
}

/// Returns a text in lower case.
pub fn lower_text(text: &str) -> String {
    text.chars().map(lower).collect()
}

/// The upper-case forms of each letter outside of ASCII.
static UPPER: LazyLock<HashMap<char, Vec<char>>> = LazyLock::new(|| {
    let mut upper: HashMap<char, Vec<char>> = HashMap::new();
    for letter in ('\u{80}'..=char::MAX).filter(|letter| letter.is_uppercase() || lower(*letter) != *letter) {
        let lower = lower(letter);
        if lower != letter {
            upper.entry(lower).or_default().push(letter);
        }
    }
    upper
});

/// Returns the letters to replace so that a text can be compared with `lower`, a text in lower case: pairs of an upper-case
/// form and the letter.
pub(super) fn replacements(lower: &str) -> Vec<(char, char)> {
    let letters: BTreeSet<char> = lower.chars().filter(|letter| !letter.is_ascii()).collect();
    letters
        .into_iter()
        .flat_map(|letter| UPPER.get(&letter).into_iter().flatten().map(move |upper| (*upper, letter)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_outside_of_ascii_have_their_upper_case_forms() {
        assert_eq!(replacements("müller"), [('Ü', 'ü')]);
        assert_eq!(replacements("straße я"), [('ẞ', 'ß'), ('Я', 'я')]);
        assert_eq!(replacements("kelvin"), []);
        // The Angstrom sign and the letter.
        assert_eq!(replacements("å"), [('Å', 'å'), ('\u{212b}', 'å')]);
        assert_eq!(lower_text("ÄK\u{212a}İ"), "äk\u{212a}İ");
    }
}
