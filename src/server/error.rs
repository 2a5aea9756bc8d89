//! Errors of the start and of commands.

use crate::application::Error;
use crate::application::bootstrap::BootstrapError;
use crate::application::policy_archive::PolicyArchiveError;
use crate::application::signing_keys::SigningKeysError;
use crate::authn::{PasswordError, SecretError};
use crate::authz::BundleError;
use crate::config::ConfigError;
use crate::http::Problem;
use crate::store::StoreError;
use crate::types::InvalidValue;

/// The reason why the service or a command cannot start or fails.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policies, the schema or the policy data are invalid.
    #[error("the policies cannot be used:\n{0}")]
    Policies(#[from] BundleError),
    /// The policies need a confirmation.
    #[error("the policies are not activated: {0}")]
    Unconfirmed(String),
    /// The database is unavailable or cannot be used.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The listener cannot be opened.
    #[error("{0}")]
    Listen(ConfigError),
    /// Another failure.
    #[error("{0}")]
    Failed(String),
}

impl From<InvalidValue> for StartError {
    fn from(error: InvalidValue) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SigningKeysError> for StartError {
    fn from(error: SigningKeysError) -> Self {
        match error {
            SigningKeysError::Store(error) => Self::Store(error),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<BootstrapError> for StartError {
    fn from(error: BootstrapError) -> Self {
        match error {
            BootstrapError::Config(error) => error.into(),
            BootstrapError::Store(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Failed(error.message)
    }
}

impl From<Problem> for StartError {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem.detail)
    }
}

impl From<PolicyArchiveError> for StartError {
    fn from(error: PolicyArchiveError) -> Self {
        match error {
            PolicyArchiveError::Store(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<SecretError> for StartError {
    fn from(error: SecretError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<PasswordError> for StartError {
    fn from(error: PasswordError) -> Self {
        Self::Failed(error.to_string())
    }
}
