//! What the settings must be.

use super::{Config, ConfigError, TokenAlgorithm};
use secrecy::SecretString;

impl Config {
    /// What is wrong with the first setting that is.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |setting: &str, message: String| Err(ConfigError::new(setting, message));
        check_log(&self.log).map_err(|message| ConfigError::new("log", message))?;
        if !matches!(self.expired_token_status, 401 | 403) {
            return invalid(
                "expired_token_status",
                format!("it is {}; it must be 403 or 401", self.expired_token_status),
            );
        }
        for (setting, seconds, least, most) in [
            ("access_ttl", self.access_ttl, 1, 366 * 86_400),
            ("refresh_ttl", self.refresh_ttl, 1, 10 * 366 * 86_400),
            ("refresh_reuse_grace", self.refresh_reuse_grace, 0, 600),
            ("session_ttl", self.session_ttl, 1, 10 * 366 * 86_400),
            ("cleanup_interval", self.cleanup_interval, 0, 366 * 86_400),
            ("stale_decisions", self.stale_decisions, 0, 86_400),
        ] {
            if !(least..=most).contains(&seconds) {
                return invalid(setting, format!("it is {seconds} seconds; it must be {least} to {most}"));
            }
        }
        // As many keys as a set of them may have, and as few rotations as caches of that set can follow.
        let least = 3_600.max(self.access_ttl / 50);
        if !(self.signing_key_rotation == 0
            || (least..=10 * 366 * 86_400).contains(&self.signing_key_rotation))
        {
            let is = self.signing_key_rotation;
            return invalid(
                "signing_key_rotation",
                format!(
                    "it is {is} seconds; it must be 0, or at least {least} (an hour, and a 50th of access_ttl)"
                ),
            );
        }
        let counts = [
            ("database_connections", Some(self.database_connections as usize), 1000),
            ("database_read_connections", Some(self.database_read_connections as usize), 1000),
            ("password_workers", self.password_workers, 1000),
            // The most that actix takes.
            ("workers", self.workers, 512),
        ];
        for (setting, count, most) in counts {
            if count.is_some_and(|count| !(1..=most).contains(&count)) {
                return invalid(setting, format!("it must be 1 to {most}"));
            }
        }
        self.check_http_limits()?;
        if !(1..=100_000).contains(&self.access_batch_limit) {
            return invalid("access_batch_limit", "it must be 1 to 100000".into());
        }
        for (setting, number, least, most) in [
            ("login_backoff_max", self.login_backoff_max, 10, 86_400),
            ("rate_limit_per_caller", u64::from(self.rate_limit_per_caller), 0, 1_000_000),
            ("rate_limit_per_address", u64::from(self.rate_limit_per_address), 0, 1_000_000),
            ("rate_limit_anonymous", u64::from(self.rate_limit_anonymous), 0, 1_000_000),
            ("rate_limit_refusals", u64::from(self.rate_limit_refusals), 0, 1_000_000),
            ("rate_limit_writes", u64::from(self.rate_limit_writes), 0, 1_000_000),
            ("rate_limit_window", u64::from(self.rate_limit_window), 1, 3_600),
            // The least memory of all that OWASP's list has, and no more than a server has.
            ("argon2_memory_kib", u64::from(self.argon2_memory_kib), 7 * 1024, 4 * 1024 * 1024),
            ("argon2_iterations", u64::from(self.argon2_iterations), 1, 100),
            ("argon2_parallelism", u64::from(self.argon2_parallelism), 1, 64),
            ("shutdown_drain_seconds", self.shutdown_drain_seconds, 0, 15),
            ("database_acquire_timeout_ms", self.database_acquire_timeout_ms, 100, 60_000),
            ("database_work_timeout_ms", self.database_work_timeout_ms, 1_000, 600_000),
            ("database_lock_timeout_ms", self.database_lock_timeout_ms, 100, 60_000),
            ("database_statement_timeout_ms", self.database_statement_timeout_ms, 100, 600_000),
            (
                "database_idle_in_transaction_timeout_ms",
                self.database_idle_in_transaction_timeout_ms,
                100,
                60_000,
            ),
            ("database_keepalive", self.database_keepalive, 1, 7_200),
            ("database_tcp_user_timeout_ms", self.database_tcp_user_timeout_ms, 1_000, 600_000),
        ] {
            if !(least..=most).contains(&number) {
                return invalid(setting, format!("it is {number}; it must be {least} to {most}"));
            }
        }
        for (setting, other, is_incomplete) in [
            ("tls_key", "tls_cert", self.tls_cert.is_some() && self.tls_key.is_none()),
            ("tls_cert", "tls_key", self.tls_key.is_some() && self.tls_cert.is_none()),
        ] {
            if is_incomplete {
                return invalid(setting, format!("it is missing; it goes with {other}"));
            }
        }
        for origin in &self.cors_origins {
            let is_origin =
                url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !is_origin {
                let message = format!("{origin:?} is not an origin such as https://app.example.com");
                return invalid("cors_origins", message);
            }
        }
        if self.decision_log_path.is_empty() {
            return invalid(
                "decision_log_path",
                "it is empty; it must be stdout or the path of a file".into(),
            );
        }
        for (setting, number, least, most) in [
            ("decision_log_max_bytes", self.decision_log_max_bytes, 4_096, 1 << 50),
            ("decision_log_max_files", u64::from(self.decision_log_max_files), 1, 1_000),
            ("decision_log_wait", self.decision_log_wait, 1, 60),
            ("decision_log_queue", self.decision_log_queue as u64, 1, 1_000_000),
        ] {
            if !(least..=most).contains(&number) {
                return invalid(setting, format!("it is {number}; it must be {least} to {most}"));
            }
        }
        self.public_address()?;
        check_collector(&self.otlp_endpoint).map_err(|message| ConfigError::new("otlp_endpoint", message))?;
        let url = secrecy::ExposeSecret::expose_secret(&self.database_url);
        if !["sqlite:", "postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme)) {
            return invalid("database_url", "it begins with neither sqlite: nor postgres:".into());
        }
        let listen_url = self.database_listen_url.as_ref().map(secrecy::ExposeSecret::expose_secret);
        if listen_url.is_some_and(|url| !url.starts_with("postgres:") && !url.starts_with("postgresql:")) {
            return invalid(
                "database_listen_url",
                "expected an address such as postgres://user:password@host/name".into(),
            );
        }
        let Some(secret) = &self.jwt_secret else { return Ok(()) };
        let incompatible = "it is the one key that signs, with HS256, as long as jwt_secret is set; leave out one of the two";
        if self.token_algorithm != TokenAlgorithm::Hs256 {
            return invalid("token_algorithm", format!("it is {}, but {incompatible}", self.token_algorithm));
        }
        if self.signing_key_rotation != 0 {
            return invalid("signing_key_rotation", incompatible.into());
        }
        check_secret(secret)
    }
}

impl Config {
    /// Returns `public_url` in its normal form, without a slash at its end.
    ///
    /// # Errors
    /// It is no http or https URL, or has user information, a query or a fragment: paths are appended to it, and it is the
    /// issuer of the tokens (RFC 8414, 2).
    pub fn public_address(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = &self.public_url else { return Ok(None) };
        let invalid = |message: String| Err(ConfigError::new("public_url", message));
        let url = match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            _ => return invalid(format!("{text:?} is not an address such as https://api.example.com")),
        };
        // A password is not repeated in the message.
        if !url.username().is_empty() || url.password().is_some() {
            return invalid(
                "it has user information; it must be an address without, such as https://api.example.com"
                    .into(),
            );
        }
        if url.query().or(url.fragment()).is_some() {
            return invalid(format!("{text:?} has a query or a fragment; leave out what follows the path"));
        }
        Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// Checks the settings of connections and bodies.
    fn check_http_limits(&self) -> Result<(), ConfigError> {
        const MIB: u64 = 1024 * 1024;
        let size = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        for (setting, number, least, most) in [
            ("max_connections", size(self.max_connections), 16, 1_000_000),
            ("max_connections_per_address", size(self.max_connections_per_address), 0, 1_000_000),
            ("header_timeout", self.header_timeout, 1, 600),
            ("body_timeout", self.body_timeout, 1, 600),
            ("write_timeout", self.write_timeout, 1, 600),
            ("min_transfer_rate", self.min_transfer_rate, 1, 1024 * MIB),
            // Less than the largest page would refuse lists for good.
            ("body_budget", size(self.body_budget), 4 * size(self.list_max_bytes), 1024 * 1024 * MIB),
            ("list_max_bytes", size(self.list_max_bytes), 1024, 64 * MIB),
        ] {
            if !(least..=most).contains(&number) {
                let message = format!("it is {number}; it must be {least} to {most}");
                return Err(ConfigError::new(setting, message));
            }
        }
        Ok(())
    }
}

/// The levels of the log; a filter without `=` would take any other word for the name of a module.
fn check_log(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    for directive in directives.filter(|directive| !directive.contains(['=', '['])) {
        if !LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level)) {
            return Err(format!(
                "{directive:?} is not one of {}; a module is written as {directive}=debug",
                LEVELS.join(", ")
            ));
        }
    }
    tracing_subscriber::EnvFilter::try_new(filter).map(drop).map_err(|error| format!("{filter:?}: {error}"))
}

/// The base address of a collector, to which the exporter adds `/v1/traces` (OTLP specification, OTLP/HTTP); empty for none.
fn check_collector(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Ok(());
    }
    let invalid = || format!("{address:?} is not the address of a collector such as http://localhost:4318");
    let url = url::Url::parse(address).map_err(|_| invalid())?;
    if !url.username().is_empty() || url.password().is_some() {
        // Nor is it told with them.
        return Err("it must be without user and password; OTEL_EXPORTER_OTLP_HEADERS may have them".into());
    }
    if url.path().trim_end_matches('/').ends_with("/v1/traces") {
        return Err(format!("{address:?} has /v1/traces at its end, which is added to it; leave that out"));
    }
    let is_base = matches!(url.scheme(), "http" | "https") && url.query().or(url.fragment()).is_none();
    if is_base { Ok(()) } else { Err(invalid()) }
}

/// A key that can be guessed signs for everybody (RFC 8725, 3.5).
fn check_secret(secret: &SecretString) -> Result<(), ConfigError> {
    let secret = secrecy::ExposeSecret::expose_secret(secret);
    let different: std::collections::HashSet<u8> = secret.bytes().collect();
    if secret.len() >= 32 && different.len() >= 10 {
        return Ok(());
    }
    Err(ConfigError::new(
        "jwt_secret",
        format!(
            "it is weak, with {} bytes of which {} are different; it needs 32 random ones, such as `openssl rand -hex 32` makes",
            secret.len(),
            different.len()
        ),
    ))
}
