//! Validation of the settings.

use super::table::{Kind, SettingValue};
use super::{Config, ConfigError, Setting, TokenAlgorithm};
use secrecy::{ExposeSecret, SecretString};

impl Config {
    /// Checks all settings.
    ///
    /// # Errors
    /// Names the first setting that is invalid, and what is expected.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (setting, value) in self.values() {
            check_range(setting, value)?;
        }
        check_log(&self.log).map_err(|message| ConfigError::new("log", message))?;
        self.check_signing_key_rotation()?;
        self.check_body_budget()?;
        self.check_listeners()?;
        self.public_address()?;
        check_collector(&self.otlp_endpoint).map_err(|message| ConfigError::new("otlp_endpoint", message))?;
        if self.decision_log_path.is_empty() {
            return Err(ConfigError::new(
                "decision_log_path",
                "expected stdout or the path of a file, got nothing",
            ));
        }
        self.check_database_urls()?;
        self.check_jwt_secret()
    }

    /// Returns `public_url` in its normal form, without a slash at its end.
    ///
    /// # Errors
    /// It is no http or https URL, or has user information, a query or a fragment: paths are appended to it, and it is the
    /// issuer of the tokens (RFC 8414, section 2).
    pub fn public_address(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = &self.public_url else { return Ok(None) };
        let invalid = |message: String| Err(ConfigError::new("public_url", message));
        let url = match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            // Without the text, which may contain a password.
            _ => return invalid("expected an http or https URL such as https://api.example.com".into()),
        };
        // The message must not repeat a password.
        if !url.username().is_empty() || url.password().is_some() {
            return invalid(
                "expected a URL without user information, such as https://api.example.com".into(),
            );
        }
        if url.query().or(url.fragment()).is_some() {
            return invalid(format!("expected a URL without a query or fragment, got {text:?}"));
        }
        Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// A key ring has a bounded number of keys that still verify tokens, and its caches follow a bounded rate of rotations.
    fn check_signing_key_rotation(&self) -> Result<(), ConfigError> {
        let interval = self.signing_key_rotation;
        let min = 3_600.max(self.access_ttl / 50);
        if interval == 0 || interval >= min {
            return Ok(());
        }
        let message =
            format!("expected 0, or at least {min} (an hour, and a 50th of access_ttl), got {interval}");
        Err(ConfigError::new("signing_key_rotation", message))
    }

    /// A budget below the size of one page would refuse lists permanently.
    fn check_body_budget(&self) -> Result<(), ConfigError> {
        let min = self.list_max_bytes.saturating_mul(4);
        if self.body_budget >= min {
            return Ok(());
        }
        let message =
            format!("expected at least {min} (four times list_max_bytes), got {}", self.body_budget);
        Err(ConfigError::new("body_budget", message))
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        for (setting, other, is_incomplete) in [
            ("tls_key", "tls_cert", self.tls_cert.is_some() && self.tls_key.is_none()),
            ("tls_cert", "tls_key", self.tls_key.is_some() && self.tls_cert.is_none()),
        ] {
            if is_incomplete {
                return Err(ConfigError::new(setting, format!("required, because {other} is set")));
            }
        }
        for origin in &self.cors_origins {
            let is_origin =
                url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !is_origin {
                let message = format!("expected an origin such as https://app.example.com, got {origin:?}");
                return Err(ConfigError::new("cors_origins", message));
            }
        }
        Ok(())
    }

    fn check_database_urls(&self) -> Result<(), ConfigError> {
        let is_postgres = |url: &str| url.starts_with("postgres:") || url.starts_with("postgresql:");
        let url = self.database_url.expose_secret();
        // The messages must not repeat a password.
        if !url.starts_with("sqlite:") && !is_postgres(url) {
            return Err(ConfigError::new(
                "database_url",
                "expected a URL that begins with sqlite: or postgres:",
            ));
        }
        let listen_url = self.database_listen_url.as_ref().map(ExposeSecret::expose_secret);
        if listen_url.is_some_and(|url| !is_postgres(url)) {
            return Err(ConfigError::new(
                "database_listen_url",
                "expected a URL such as postgres://user:password@host/name",
            ));
        }
        Ok(())
    }

    /// A configured secret is the only signing key, so it excludes other algorithms and rotation.
    fn check_jwt_secret(&self) -> Result<(), ConfigError> {
        let Some(secret) = &self.jwt_secret else { return Ok(()) };
        if self.token_algorithm != TokenAlgorithm::Hs256 {
            let message =
                format!("{} cannot be combined with jwt_secret, which is for HS256", self.token_algorithm);
            return Err(ConfigError::new("token_algorithm", message));
        }
        if self.signing_key_rotation != 0 {
            let message = "cannot be combined with jwt_secret, which is the only signing key";
            return Err(ConfigError::new("signing_key_rotation", message));
        }
        check_secret(secret)
    }
}

/// Checks a value against the accepted values of its setting.
fn check_range(setting: &Setting, value: &dyn SettingValue) -> Result<(), ConfigError> {
    let Some(number) = value.number() else { return Ok(()) };
    let is_accepted = match setting.accepts.kind {
        Kind::Number(min, max) => (min..=max).contains(&number),
        Kind::NumberOrZero(min, max) => number == 0 || (min..=max).contains(&number),
        Kind::Choice(values) => values.contains(&number.to_string().as_str()),
        Kind::Text(_) | Kind::Secret(_) | Kind::List(_) => true,
    };
    if is_accepted {
        return Ok(());
    }
    Err(ConfigError::new(setting.name, format!("expected {}, got {number}", setting.accepts.describe())))
}

/// Checks a log filter: without `=` it is a level, because `EnvFilter` takes any other word for the name of a module.
fn check_log(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    for directive in directives.filter(|directive| !directive.contains(['=', '['])) {
        if !LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level)) {
            return Err(format!(
                "expected one of {}, or a module and its level such as {directive}=debug, got {directive:?}",
                LEVELS.join(", ")
            ));
        }
    }
    tracing_subscriber::EnvFilter::try_new(filter).map(drop).map_err(|error| format!("{filter:?}: {error}"))
}

/// Checks the base URL of a collector, to which the exporter appends `/v1/traces` (OTLP specification, OTLP/HTTP Request).
fn check_collector(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Ok(());
    }
    let invalid = || format!("expected a URL such as http://localhost:4318, got {address:?}");
    let url = url::Url::parse(address).map_err(|_| invalid())?;
    // The message must not repeat a password.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected a URL without user information; use OTEL_EXPORTER_OTLP_HEADERS instead".into());
    }
    if url.path().trim_end_matches('/').ends_with("/v1/traces") {
        return Err(format!("expected a URL without /v1/traces, which is appended, got {address:?}"));
    }
    let is_base = matches!(url.scheme(), "http" | "https") && url.query().or(url.fragment()).is_none();
    if is_base { Ok(()) } else { Err(invalid()) }
}

/// Rejects a secret that can be guessed (RFC 8725, section 3.5).
fn check_secret(secret: &SecretString) -> Result<(), ConfigError> {
    let secret = secret.expose_secret();
    let distinct: std::collections::HashSet<u8> = secret.bytes().collect();
    if secret.len() >= 32 && distinct.len() >= 10 {
        return Ok(());
    }
    Err(ConfigError::new(
        "jwt_secret",
        format!(
            "expected at least 32 random bytes, such as from `openssl rand -hex 32`, got {} bytes, {} of them distinct",
            secret.len(),
            distinct.len()
        ),
    ))
}
