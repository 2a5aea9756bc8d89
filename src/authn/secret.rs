//! Random secrets, and the hashes under which they are kept.

use std::fmt::Write;

/// The machine has no random bytes to give.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the machine gives no random bytes")]
pub struct SecretError;

/// Bytes as lower-case hex digits.
pub(super) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hex digits stand for; none where they are not whole bytes of hex digits.
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

/// This many random bytes as hex digits.
pub fn random_hex<const BYTES: usize>() -> Result<String, SecretError> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError)?;
    Ok(encode_hex(&bytes))
}

/// A password that nobody can guess: 20 letters and digits that are not easily mistaken for one another.
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

/// The first half of the SHA-256 of a text, as hex digits: tells texts apart.
pub fn short_digest(text: &str) -> String {
    sha256_hex(text).chars().take(32).collect()
}

/// The hash under which a secret of at least 128 random bits is kept: SHA-256. (A password needs more: it can be
/// guessed.)
pub(super) fn sha256_hex(secret: &str) -> String {
    encode_hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref())
}
