//! Random secrets, and the hashes under which they are stored.

use std::fmt::Write;

/// The system provides no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system provides no random bytes")]
pub struct SecretError;

/// Encodes bytes as lower-case hex digits.
pub(super) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Decodes hex digits; none if the text is not an even number of hex digits.
pub(super) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

/// Generates this many random bytes, as hex digits.
///
/// # Errors
///
/// If the system provides no random bytes.
pub fn random_hex<const BYTES: usize>() -> Result<String, SecretError> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError)?;
    Ok(encode_hex(&bytes))
}

/// Generates a random password: 20 letters and digits that are hard to confuse, 100 bits.
///
/// # Errors
///
/// If the system provides no random bytes.
pub fn random_password() -> Result<String, SecretError> {
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789A";
    let mut bytes = [0; 20];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError)?;
    Ok(bytes
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte & 31)))
        .copied()
        .map(char::from)
        .collect())
}

/// Returns the first half of the SHA-256 of a text as hex digits, to compare texts without storing them.
pub fn short_digest(text: &str) -> String {
    sha256_hex(text).chars().take(32).collect()
}

/// Returns the SHA-256 of a secret with at least 128 random bits, under which it is stored. (A password can be guessed and
/// needs a slow hash.)
pub(super) fn sha256_hex(secret: &str) -> String {
    encode_hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref())
}
