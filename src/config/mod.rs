//! Settings, from a TOML file and from the environment variables `CEDARGATE_…`, which take precedence.
//!
//! One table (`settings.rs`) declares every setting: its type, default, accepted values and description. Parsing, range checks,
//! the text of `--help` and the page `docs/configuration.md` come from it.

mod check;
mod lists;
mod load;
mod reference;
mod settings;
mod table;
#[cfg(test)]
mod tests;

pub use reference::{help, markdown};
pub use settings::{
    CacheName, Config, DecisionLogFilter, LogFormat, Overflow, PasswordProfile, PolicyReload, PolicyTests,
    SETTINGS, TokenAlgorithm,
};
pub use table::{Accepts, Setting};

/// The prefix of the environment variables.
const PREFIX: &str = "CEDARGATE";

/// The configuration file that is read, if it exists, when none is named.
pub const DEFAULT_FILE: &str = "cedargate.toml";

/// An invalid setting or configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting is invalid: the name of its environment variable, and why.
    #[error("invalid setting {0}: {1}")]
    Setting(String, String),
    /// The configuration file is invalid.
    #[error("invalid configuration file{0}")]
    File(String),
}

impl ConfigError {
    /// Returns the error of the setting of this name, with a message that says what is expected.
    pub fn new(setting: &str, message: impl ToString) -> Self {
        Self::Setting(table::variable(setting), message.to_string())
    }
}

impl Config {
    /// Returns whether a cache is on.
    pub fn is_cache_on(&self, name: CacheName) -> bool {
        !self.caches_off.contains(&name)
    }

    /// Returns whether the decision log is written to standard output.
    pub fn decision_log_goes_to_stdout(&self) -> bool {
        self.decision_log != DecisionLogFilter::Off && self.decision_log_path == "stdout"
    }
}
