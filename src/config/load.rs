//! Reading of the settings.

use super::{Config, ConfigError, DEFAULT_FILE, PREFIX, SETTINGS};
use config::Source as _;
use std::collections::HashMap;
use std::path::Path;

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] if none is named and it exists, and then the environment.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or invalid.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        // No setting is named or can have a value in another encoding than UTF-8.
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_environment(file, texts.collect())
    }

    /// Reads the settings from a file and from these variables, which take precedence.
    ///
    /// # Errors
    /// The file cannot be read, a setting is unknown, or a value is invalid.
    pub(super) fn from_environment(
        file: Option<&Path>,
        environment: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        let default = Path::new(DEFAULT_FILE);
        if let Some(file) = file.or_else(|| default.exists().then_some(default)) {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        for (setting, value) in read_environment(environment)? {
            builder =
                builder.set_override(&setting, value).map_err(|error| ConfigError::new(&setting, error))?;
        }
        let values = builder.build().and_then(|values| remove_empty_values(&values));
        let config: Self =
            values.and_then(config::Config::try_deserialize).map_err(|error| to_config_error(&error))?;
        config.check()?;
        Ok(config)
    }
}

/// Returns the settings in the environment, those in files of secrets included, by their names without prefix.
fn read_environment(environment: Vec<(String, String)>) -> Result<HashMap<String, String>, ConfigError> {
    let mut values = HashMap::new();
    let mut secrets = HashMap::new();
    for (name, value) in environment {
        let Some(setting) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')) else {
            continue;
        };
        let setting = setting.to_lowercase();
        // An empty value is an unset one, as in a compose file with `${NAME:-}`.
        if value.is_empty() || is_ignored(&setting) {
            continue;
        }
        match setting.strip_suffix("_file").filter(|name| is_secret(name)) {
            Some(secret) => {
                let text = crate::types::read_text(Path::new(&value))
                    .map_err(|error| ConfigError::new(&setting, format!("{value}: {error}")))?;
                secrets.insert(secret.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned());
            }
            None => {
                values.insert(setting, value);
            }
        }
    }
    if let Some(setting) = secrets.keys().find(|setting| values.contains_key(*setting)) {
        let name = super::table::variable(setting);
        return Err(ConfigError::new(setting, format!("{name} and {name}_FILE are mutually exclusive")));
    }
    values.extend(secrets);
    Ok(values)
}

/// Returns whether a variable with the prefix is no setting: `CEDARGATE_CONFIG`, which the command line reads, and those that
/// Kubernetes sets for a service named `cedargate`.
fn is_ignored(setting: &str) -> bool {
    ["config", "port", "service_port", "service_host"].contains(&setting)
        || setting.starts_with("port_")
        || setting.starts_with("service_port_")
}

fn is_secret(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name == name && setting.accepts.is_secret())
}

/// Removes empty values of the file, which are unset ones as well.
fn remove_empty_values(values: &config::Config) -> Result<config::Config, config::ConfigError> {
    let mut builder = config::Config::builder();
    for (name, value) in values.collect()? {
        let is_empty = matches!(&value.kind, config::ValueKind::String(text) if text.is_empty());
        if !is_empty {
            builder = builder.set_override(name, value)?;
        }
    }
    builder.build()
}

fn to_config_error(error: &config::ConfigError) -> ConfigError {
    use config::ConfigError as Error;
    match error {
        Error::Type { key: Some(key), origin, unexpected, expected } => {
            let place = origin.as_deref().map(|origin| format!(" in {origin}")).unwrap_or_default();
            ConfigError::new(key, format!("expected {expected}, got {unexpected}{place}"))
        }
        Error::At { error, key: Some(key), .. } => ConfigError::new(key, error),
        Error::FileParse { uri, cause } => {
            // The full message of the library quotes the line, which may contain a secret.
            let text = cause.to_string();
            let place = text.lines().next().unwrap_or_default();
            let file = uri.as_deref().map(|file| format!(" {file}")).unwrap_or_default();
            let reason = cause.downcast_ref::<toml::de::Error>().map(toml::de::Error::message);
            ConfigError::File(format!("{file}: {place}: {}", reason.unwrap_or("it is not TOML").trim()))
        }
        other => {
            let message = other.to_string();
            let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            match unknown {
                Some(field) => ConfigError::new(field, "unknown setting; see `cedargate --help`"),
                None => ConfigError::File(format!(": {message}")),
            }
        }
    }
}
