//! Cursors of the change feed: positions, encrypted, because their numbers would disclose how much is written by others.

use crate::store::ChangePosition;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};

/// The length of a position in bytes: two numbers and an id.
const POSITION_LENGTH: usize = 8 + 8 + 12;

/// The length of a cursor in bytes: a nonce, the position, and a tag.
const CURSOR_LENGTH: usize = NONCE_LEN + POSITION_LENGTH + 16;

/// The key that encrypts the cursors of a database.
#[derive(Debug)]
pub(super) struct CursorKey(RandomizedNonceKey);

/// Why a cursor is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorError {
    /// It is no cursor.
    Malformed,
    /// It is one of another database, or what follows it was deleted.
    Expired,
}

impl CursorKey {
    /// Returns the key with this secret, in hex digits; none if the secret is too short.
    pub(super) fn new(secret: &str) -> Option<Self> {
        let bytes = hex::decode(secret).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok().map(Self)
    }

    /// Returns the cursor of a position; none if there are no random numbers.
    pub(super) fn encode(&self, position: &ChangePosition) -> Option<String> {
        let mut bytes = Vec::with_capacity(CURSOR_LENGTH);
        bytes.extend(position.transaction.to_be_bytes());
        bytes.extend(position.number.to_be_bytes());
        bytes.extend(hex::decode(position.resource.to_string()).ok()?);
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut bytes).ok()?;
        bytes.extend(nonce.as_ref());
        Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns the position of a cursor.
    ///
    /// # Errors
    /// It is malformed, or of another database.
    pub(super) fn decode(&self, cursor: &str) -> Result<ChangePosition, CursorError> {
        let malformed = |_| CursorError::Malformed;
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| CursorError::Malformed)?;
        if bytes.len() != CURSOR_LENGTH {
            return Err(CursorError::Malformed);
        }
        let nonce: [u8; NONCE_LEN] =
            bytes.split_off(CURSOR_LENGTH - NONCE_LEN).try_into().map_err(|_| CursorError::Malformed)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_in_place(nonce, Aad::empty(), &mut bytes);
        let position = opened.map_err(|_| CursorError::Expired)?;
        let (transaction, rest) = position.split_first_chunk().ok_or(CursorError::Malformed)?;
        let (number, resource) = rest.split_first_chunk().ok_or(CursorError::Malformed)?;
        Ok(ChangePosition {
            transaction: i64::from_be_bytes(*transaction),
            number: i64::from_be_bytes(*number),
            resource: hex::encode(resource).parse().map_err(malformed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Id;

    #[test]
    fn a_cursor_is_read_with_its_own_key_only_and_discloses_no_number() {
        let [key, other] = ["07", "08"].map(|byte| CursorKey::new(&byte.repeat(32)).unwrap());
        let position = ChangePosition { transaction: 7, number: i64::MAX, resource: Id::EXAMPLE };
        let cursor = key.encode(&position).unwrap();
        assert_eq!(key.decode(&cursor), Ok(position));
        assert_ne!(cursor, key.encode(&position).unwrap());
        assert_eq!(other.decode(&cursor), Err(CursorError::Expired));
        let (first, rest) = cursor.split_at(1);
        for malformed in ["", "abc", "ä", rest, &format!("{cursor}A"), &format!("{cursor}=")] {
            assert_eq!(key.decode(malformed), Err(CursorError::Malformed), "{malformed}");
        }
        let changed = format!("{}{rest}", if first == "A" { 'B' } else { 'A' });
        assert_eq!(key.decode(&changed), Err(CursorError::Expired));
    }
}
