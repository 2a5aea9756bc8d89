//! Credentials: access tokens, refresh tokens, API keys, passwords, and the key ring.
//!
//! Knows neither the database, nor HTTP, nor the policies.

mod api_key;
mod bearer;
mod keyring;
mod password_rules;
mod passwords;
mod refresh;
mod secret;
mod tokens;

pub use api_key::{ApiKey, KeyFormat};
pub use bearer::BearerToken;
pub use keyring::{Keyring, KeyringError, PublicKey, SigningKey};
pub use password_rules::PasswordRules;
pub use passwords::{HashingPermit, Lane, PasswordCheck, PasswordError, PasswordService, normalize_password};
pub use refresh::RefreshToken;
pub use secret::{SecretError, random_hex, random_password, short_digest};
pub use tokens::{Claims, IssuedToken, TokenError, VerifiedToken};
