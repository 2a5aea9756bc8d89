//! Reads the settings.

use super::{Config, ConfigError, DEFAULT_FILE, PREFIX};
use config::Source as _;
use std::collections::HashMap;
use std::path::Path;

/// The settings of which `…_FILE` names a file that holds the value.
const SECRETS: [&str; 4] = ["admin_password", "database_listen_url", "database_url", "jwt_secret"];

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] if none is named and it is there, and then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        // What is no text is no setting of ours.
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_environment(file, texts.collect())
    }

    pub(super) fn from_environment(
        file: Option<&Path>,
        environment: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        let default = Path::new(DEFAULT_FILE);
        if let Some(file) = file.or_else(|| default.exists().then_some(default)) {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        let mut values = HashMap::new();
        let mut from_files = HashMap::new();
        for (name, value) in environment {
            let Some(setting) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')) else {
                continue;
            };
            // An empty value is an unset one, as in a compose file with `${NAME:-}`.
            if value.is_empty() {
                continue;
            }
            let setting = setting.to_lowercase();
            match setting.strip_suffix("_file") {
                Some(secret) if SECRETS.contains(&secret) => {
                    let text = crate::types::read_text(Path::new(&value))
                        .map_err(|error| ConfigError::new(&setting, format!("{value}: {error}")))?;
                    from_files.insert(secret.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned());
                }
                // The file that was read above.
                _ if setting == "config" => {}
                // What Kubernetes tells every process of a service that is called cedargate.
                _ if ["port", "service_port", "service_host"].contains(&setting.as_str())
                    || setting.starts_with("port_")
                    || setting.starts_with("service_port_") => {}
                _ => {
                    values.insert(setting, value);
                }
            }
        }
        if let Some(setting) = from_files.keys().find(|setting| values.contains_key(*setting)) {
            let name = format!("{PREFIX}_{}", setting.to_uppercase());
            let message = format!("{name} and {name}_FILE are both set; only one of them may be");
            return Err(ConfigError::new(setting, message));
        }
        for (setting, value) in values.into_iter().chain(from_files) {
            builder =
                builder.set_override(&setting, value).map_err(|error| ConfigError::new(&setting, error))?;
        }
        let read = remove_empty_values(&builder.build().map_err(|error| to_config_error(&error))?);
        let config: Self = read
            .map_err(|error| to_config_error(&error))?
            .try_deserialize()
            .map_err(|error| to_config_error(&error))?;
        config.check()?;
        Ok(config)
    }
}

/// The settings without those of the file that are empty.
fn remove_empty_values(read: &config::Config) -> Result<config::Config, config::ConfigError> {
    let mut builder = config::Config::builder();
    for (name, value) in read.collect()? {
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
            ConfigError::new(key, format!("it is {unexpected}{place}; it must be {expected}"))
        }
        Error::At { error, key: Some(key), .. } => ConfigError::new(key, error),
        Error::FileParse { uri, cause } => {
            // The library's own words go on with the line itself, and that may hold a secret.
            let text = cause.to_string();
            let place = text.lines().next().unwrap_or_default();
            let file = uri.as_deref().map(|file| format!(" of {file}")).unwrap_or_default();
            let what = cause.downcast_ref::<toml::de::Error>().map(toml::de::Error::message);
            ConfigError("file".into(), format!("{place}{file}: {}", what.unwrap_or("it is not TOML").trim()))
        }
        other => {
            let message = other.to_string();
            let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            match unknown {
                Some(field) => {
                    ConfigError::new(field, "there is no such setting; `cedargate --help` lists them")
                }
                None => ConfigError("file".into(), message),
            }
        }
    }
}
