//! Unicode normalization, and invisible characters.

use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Returns a text in Normalization Form C (Unicode Standard Annex #15), in which `é` equals `e` with a combining accent.
pub fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    // Enough for the NFC form of every text: a buffer that grew would leave a copy of a password in freed memory.
    let mut normalized = String::with_capacity(text.len().saturating_mul(3));
    normalized.extend(text.nfc());
    Cow::Owned(normalized)
}

/// Returns whether a character is a control or format character or is otherwise not displayed (the Unicode property
/// `Default_Ignorable_Code_Point`).
pub(crate) fn is_invisible(character: char) -> bool {
    // The ignorable characters outside the category Cf, from DerivedCoreProperties.txt of Unicode 17.
    let is_ignorable = matches!(
        character,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2065}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    is_ignorable || matches!(character.general_category(), GeneralCategory::Control | GeneralCategory::Format)
}
