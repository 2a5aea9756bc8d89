//! Random secrets, and the hashes under which they are stored.

/// The system provides no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system provides no random bytes")]
pub struct SecretError;

/// Generates this many random bytes, as hex digits.
///
/// # Errors
///
/// If the system provides no random bytes.
pub fn random_hex<const BYTES: usize>() -> Result<String, SecretError> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError)?;
    Ok(hex::encode(bytes))
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
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()))
}
