//! The settings: from a TOML file and from `CEDARGATE_*`, the environment winning. Knows nothing of what they are for.

use crate::values::word;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The prefix of the settings in the environment.
const PREFIX: &str = "CEDARGATE";

/// The file that is read if no other is named and it is there.
pub const DEFAULT_FILE: &str = "cedargate.toml";

/// The settings. In the file they have these names, in the environment the same in capitals after `CEDARGATE_`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen: an address or host name and a port.
    pub listen: String,
    /// `sqlite://file` or `postgres://user:password@host/database`.
    pub database_url: SecretString,
    /// How many connections to the database at most.
    pub database_connections: u32,
    /// Directories with policies and entity data.
    #[serde(deserialize_with = "paths")]
    pub policies: Vec<PathBuf>,
    /// How often to look whether the files of the policies have changed, in seconds; 0 for never.
    pub policy_poll: u64,
    /// Directories with schemas.
    #[serde(deserialize_with = "paths")]
    pub schema: Vec<PathBuf>,
    /// How long an access token is good, in seconds.
    pub access_ttl: u64,
    /// How long a refresh token is good, in seconds.
    pub refresh_ttl: u64,
    /// How long after a refresh the spent token gets the same successor again, in seconds; 0 for never.
    pub refresh_grace: u64,
    /// How long a login lasts at most, however often it is refreshed, in seconds.
    pub session_ttl: u64,
    /// How often what has expired is cleaned up, in seconds; 0 for never.
    pub janitor_interval: u64,
    /// The status that an expired access token is answered with: 403, as the seed says, or 401.
    pub expired_status: u16,
    /// What access tokens are signed with: `HS256`, or `EdDSA`, which others can check.
    pub token_algorithm: TokenAlgorithm,
    /// How long a key signs until the next one follows, in seconds; 0 for ever.
    pub signing_key_rotation: u64,
    /// The one key that signs access tokens, with HS256, at least 32 bytes; keys are made and kept in the database if
    /// nothing is said.
    pub jwt_secret: Option<SecretString>,
    /// The address under which clients reach the service. It is the issuer of the access tokens, too.
    pub public_url: Option<String>,
    /// The address of the first admin.
    pub admin_email: String,
    /// The password of the first admin; a random one if nothing is said.
    pub admin_password: Option<SecretString>,
    /// How many questions one batch of `/access/v1/evaluations` may have.
    pub access_batch_limit: usize,
    /// The file with the routes of other services that proxies ask about; none if nothing is said.
    pub forward_routes: Option<PathBuf>,
    /// The proxies whose `X-Forwarded-For` is believed: addresses and CIDR ranges.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// How long somebody who guesses passwords has to wait at most, in seconds.
    pub guessing_wait_max: u64,
    /// How many requests a second one user may make of this process; 0 for any number.
    pub rate_limit_per_caller: u32,
    /// How many requests a second may come from one address to this process; 0 for any number.
    pub rate_limit_per_address: u32,
    /// Over how many seconds the rate limits are counted: so much of them may come at once.
    pub rate_limit_window: u32,
    /// What a new password must be: `standard` or `strict`.
    pub password_profile: PasswordProfile,
    /// The memory that a password is hashed with, in KiB (RFC 9106, `m`).
    pub argon2_memory_kib: u32,
    /// How often that memory is gone over (RFC 9106, `t`).
    pub argon2_iterations: u32,
    /// Into how many lanes it is divided (RFC 9106, `p`).
    pub argon2_parallelism: u32,
    /// How many passwords are hashed at the same time; as many as there are processors if nothing is said.
    pub password_workers: Option<usize>,
    /// How many threads answer requests; as many as there are processors if nothing is said.
    pub workers: Option<usize>,
    /// The file with the certificates of the service, its own first, as PEM; without it there is no TLS.
    pub tls_cert: Option<PathBuf>,
    /// The file with the key of the first of them, as PEM.
    pub tls_key: Option<PathBuf>,
    /// The origins whose pages may call the service from a browser, such as `https://app.example.com`.
    #[serde(deserialize_with = "names")]
    pub cors_origins: Vec<String>,
    /// How long after SIGTERM the service goes on while it says that it is not ready, in seconds.
    pub drain: u64,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter such as `info,cedargate=debug`.
    pub log: String,
    /// How the log is written: `text` or `json`.
    pub log_format: LogFormat,
    /// The base address of the OpenTelemetry collector that gets the traces, by OTLP over HTTP; empty for no traces.
    pub traces: String,
    /// Which decisions are kept in the decision log: `off`, `denials` or `all`.
    pub decision_log: Decisions,
    /// Where the decision log is written: `stdout`, or the path of a file.
    pub decision_log_to: String,
    /// How many bytes a file of the decision log may have before the next one is begun.
    pub decision_log_max_bytes: u64,
    /// How many full files of the decision log are kept.
    pub decision_log_keep: u32,
    /// How many decisions may wait to be written.
    pub decision_log_queue: usize,
    /// What happens to a decision when that many wait: `block` or `drop`.
    pub decision_log_overflow: Overflow,
    /// The names of attributes whose values stay out of the decision log.
    #[serde(deserialize_with = "names")]
    pub decision_log_mask: Vec<String>,
}

word!(
    /// What access tokens are signed with.
    TokenAlgorithm { Hs256 = "HS256", EdDsa = "EdDSA" }
);

/// What a new password must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordProfile {
    /// 8 characters and hard to guess.
    Standard,
    /// 15 characters and very hard to guess.
    Strict,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Which decisions are kept in the decision log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decisions {
    /// None.
    Off,
    /// Those that permit nothing.
    Denials,
    /// All.
    All,
}

/// What happens to a decision when the queue of the decision log is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Its request waits until there is room.
    Block,
    /// It is left out of the log and counted.
    Drop,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            database_url: "sqlite://cedargate.db".into(),
            database_connections: 10,
            policies: vec!["policies".into()],
            policy_poll: 1,
            schema: vec!["schema".into()],
            access_ttl: 86_400,
            refresh_ttl: 30 * 86_400,
            refresh_grace: 30,
            session_ttl: 90 * 86_400,
            janitor_interval: 600,
            expired_status: 403,
            token_algorithm: TokenAlgorithm::Hs256,
            signing_key_rotation: 0,
            jwt_secret: None,
            public_url: None,
            admin_email: "admin@example.com".into(),
            admin_password: None,
            access_batch_limit: 1000,
            forward_routes: None,
            trusted_proxies: Vec::new(),
            guessing_wait_max: 900,
            rate_limit_per_caller: 0,
            rate_limit_per_address: 0,
            rate_limit_window: 10,
            password_profile: PasswordProfile::Standard,
            argon2_memory_kib: 19 * 1024,
            argon2_iterations: 2,
            argon2_parallelism: 1,
            password_workers: None,
            workers: None,
            tls_cert: None,
            tls_key: None,
            cors_origins: Vec::new(),
            drain: 5,
            log: "info".into(),
            log_format: LogFormat::Text,
            traces: String::new(),
            decision_log: Decisions::Off,
            decision_log_to: "decisions.ndjson".into(),
            decision_log_max_bytes: 100 * 1024 * 1024,
            decision_log_keep: 10,
            decision_log_queue: 10_000,
            decision_log_overflow: Overflow::Block,
            decision_log_mask: Vec::new(),
        }
    }
}

/// A setting that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the setting {0} is wrong: {1}")]
pub struct ConfigError(pub String, pub String);

impl ConfigError {
    /// What is wrong with a setting, which is named as it is in the environment.
    pub fn new(setting: &str, message: impl ToString) -> Self {
        Self(format!("{PREFIX}_{}", setting.to_uppercase()), message.to_string())
    }
}

/// The settings of which `…_FILE` names a file that holds the value.
const SECRETS: [&str; 3] = ["admin_password", "database_url", "jwt_secret"];

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] if none is named and it is there, and then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        // What is no text is no setting of ours.
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from(file, texts.collect())
    }

    fn from(file: Option<&Path>, environment: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        let default = Path::new(DEFAULT_FILE);
        if let Some(file) = file.or_else(|| default.exists().then_some(default)) {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        let mut values: std::collections::HashMap<String, String> = std::collections::HashMap::new();
        for (name, value) in environment {
            let Some(setting) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')) else {
                continue;
            };
            let setting = setting.to_lowercase();
            match setting.strip_suffix("_file") {
                Some(secret) if SECRETS.contains(&secret) => {
                    let text = std::fs::read_to_string(&value)
                        .map_err(|error| ConfigError::new(&setting, format!("{value}: {error}")))?;
                    values.insert(secret.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned());
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
        for (setting, value) in values {
            builder =
                builder.set_override(&setting, value).map_err(|error| ConfigError::new(&setting, error))?;
        }
        let read = builder.build().map_err(|error| unreadable(&error))?;
        let config: Self = read.try_deserialize().map_err(|error| unreadable(&error))?;
        config.check()?;
        Ok(config)
    }

    /// Whether the decision log is written to the standard output.
    pub fn decision_log_goes_to_stdout(&self) -> bool {
        self.decision_log != Decisions::Off && self.decision_log_to == "stdout"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |setting: &str, message: String| Err(ConfigError::new(setting, message));
        if !matches!(self.expired_status, 401 | 403) {
            return wrong("expired_status", format!("it is {}; it must be 403 or 401", self.expired_status));
        }
        for (setting, seconds, least, most) in [
            ("access_ttl", self.access_ttl, 1, 366 * 86_400),
            ("refresh_ttl", self.refresh_ttl, 1, 10 * 366 * 86_400),
            ("refresh_grace", self.refresh_grace, 0, 600),
            ("session_ttl", self.session_ttl, 1, 10 * 366 * 86_400),
            ("janitor_interval", self.janitor_interval, 0, 366 * 86_400),
        ] {
            if !(least..=most).contains(&seconds) {
                return wrong(setting, format!("it is {seconds} seconds; it must be {least} to {most}"));
            }
        }
        // As many keys as a set of them may have, and as few rotations as caches of that set can follow.
        let least = 3_600.max(self.access_ttl / 50);
        if !(self.signing_key_rotation == 0
            || (least..=10 * 366 * 86_400).contains(&self.signing_key_rotation))
        {
            let is = self.signing_key_rotation;
            return wrong(
                "signing_key_rotation",
                format!(
                    "it is {is} seconds; it must be 0, or at least {least} (an hour, and a 50th of access_ttl)"
                ),
            );
        }
        let counts = [
            ("database_connections", Some(self.database_connections as usize)),
            ("password_workers", self.password_workers),
            ("workers", self.workers),
        ];
        for (setting, count) in counts {
            if count.is_some_and(|count| !(1..=1000).contains(&count)) {
                return wrong(setting, "it must be 1 to 1000".into());
            }
        }
        if !(1..=100_000).contains(&self.access_batch_limit) {
            return wrong("access_batch_limit", "it must be 1 to 100000".into());
        }
        for (setting, number, least, most) in [
            ("guessing_wait_max", self.guessing_wait_max, 10, 86_400),
            ("rate_limit_per_caller", u64::from(self.rate_limit_per_caller), 0, 1_000_000),
            ("rate_limit_per_address", u64::from(self.rate_limit_per_address), 0, 1_000_000),
            ("rate_limit_window", u64::from(self.rate_limit_window), 1, 3_600),
            // The least memory of all that OWASP's list has, and no more than a server has.
            ("argon2_memory_kib", u64::from(self.argon2_memory_kib), 7 * 1024, 4 * 1024 * 1024),
            ("argon2_iterations", u64::from(self.argon2_iterations), 1, 100),
            ("argon2_parallelism", u64::from(self.argon2_parallelism), 1, 64),
            ("drain", self.drain, 0, 15),
        ] {
            if !(least..=most).contains(&number) {
                return wrong(setting, format!("it is {number}; it must be {least} to {most}"));
            }
        }
        for (setting, other, is_alone) in [
            ("tls_key", "tls_cert", self.tls_cert.is_some() && self.tls_key.is_none()),
            ("tls_cert", "tls_key", self.tls_key.is_some() && self.tls_cert.is_none()),
        ] {
            if is_alone {
                return wrong(setting, format!("it is missing; it goes with {other}"));
            }
        }
        for origin in &self.cors_origins {
            let is_origin =
                url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !is_origin {
                let message = format!("{origin:?} is not an origin such as https://app.example.com");
                return wrong("cors_origins", message);
            }
        }
        if self.decision_log_to.is_empty() {
            return wrong("decision_log_to", "it is empty; it must be stdout or the path of a file".into());
        }
        for (setting, number, least, most) in [
            ("decision_log_max_bytes", self.decision_log_max_bytes, 4_096, 1 << 50),
            ("decision_log_keep", u64::from(self.decision_log_keep), 1, 1_000),
            ("decision_log_queue", self.decision_log_queue as u64, 1, 1_000_000),
        ] {
            if !(least..=most).contains(&number) {
                return wrong(setting, format!("it is {number}; it must be {least} to {most}"));
            }
        }
        if let Some(url) = &self.public_url {
            match url::Url::parse(url) {
                Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.query().is_none() => {}
                _ => {
                    return wrong(
                        "public_url",
                        format!("{url:?} is not an address such as https://api.example.com"),
                    );
                }
            }
        }
        check_collector(&self.traces).map_err(|message| ConfigError::new("traces", message))?;
        let url = secrecy::ExposeSecret::expose_secret(&self.database_url);
        if !["sqlite:", "postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme)) {
            return wrong("database_url", "it begins with neither sqlite: nor postgres:".into());
        }
        let Some(secret) = &self.jwt_secret else { return Ok(()) };
        let alone = "it is the one key that signs, with HS256, as long as jwt_secret is set; leave out one of the two";
        if self.token_algorithm != TokenAlgorithm::Hs256 {
            return wrong("token_algorithm", format!("it is {}, but {alone}", self.token_algorithm));
        }
        if self.signing_key_rotation != 0 {
            return wrong("signing_key_rotation", alone.into());
        }
        check_secret(secret)
    }
}

/// The base address of a collector, to which the exporter adds `/v1/traces` (OTLP specification, OTLP/HTTP); empty for none.
fn check_collector(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Ok(());
    }
    let wrong = || format!("{address:?} is not the address of a collector such as http://localhost:4318");
    let url = url::Url::parse(address).map_err(|_| wrong())?;
    if !url.username().is_empty() || url.password().is_some() {
        // Nor is it told with them.
        return Err("it must be without user and password; OTEL_EXPORTER_OTLP_HEADERS may have them".into());
    }
    if url.path().trim_end_matches('/').ends_with("/v1/traces") {
        return Err(format!("{address:?} has /v1/traces at its end, which is added to it; leave that out"));
    }
    let is_base = matches!(url.scheme(), "http" | "https") && url.query().or(url.fragment()).is_none();
    if is_base { Ok(()) } else { Err(wrong()) }
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

fn unreadable(error: &config::ConfigError) -> ConfigError {
    use config::ConfigError as Error;
    match error {
        Error::Type { key: Some(key), origin, unexpected, expected } => {
            let place = origin.as_deref().map(|origin| format!(" in {origin}")).unwrap_or_default();
            ConfigError::new(key, format!("it is {unexpected}{place}; it must be {expected}"))
        }
        Error::At { error, key: Some(key), .. } => ConfigError::new(key, error),
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

/// A list of directories, of which there is one at least.
fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = list(deserializer)?;
    if paths.is_empty() || paths.iter().any(String::is_empty) {
        return Err(serde::de::Error::custom("at least one directory is needed, and none can be empty"));
    }
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

/// A list of names; an empty text is none.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = list(deserializer)?;
    match names.as_slice() {
        [one] if one.is_empty() => Ok(Vec::new()),
        several if several.iter().any(String::is_empty) => {
            Err(serde::de::Error::custom("it has an empty name; it must be names separated by commas"))
        }
        _ => Ok(names),
    }
}

/// A list of networks: addresses, and ranges in CIDR notation (RFC 4632, 3.1).
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let address = text.parse().map(|address: IpAddr| address.to_canonical().into());
        address.or_else(|_| text.parse()).map_err(|_| {
            let message =
                format!("{text:?} is neither an address nor a range such as 10.0.0.0/8 or 2001:db8::/32");
            serde::de::Error::custom(message)
        })
    };
    names(deserializer)?.into_iter().map(network).collect()
}

/// A list: an array in the file, separated by commas in the environment.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        List(Vec<String>),
    }
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        Texts::List(texts) => texts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let nothing = tempfile::NamedTempFile::new().unwrap();
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from(Some(nothing.path()), pairs)
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "access_ttl = 60\nrefresh_ttl = 120\npolicies = [\"a\", \"b\"]\n")
            .unwrap();
        let environment = vec![
            ("CEDARGATE_ACCESS_TTL".into(), "90".into()),
            ("CEDARGATE_SCHEMA".into(), "x, y".into()),
            ("HOME".into(), "/".into()),
        ];
        let config = Config::from(Some(file.path()), environment).unwrap();
        assert_eq!((config.access_ttl, config.refresh_ttl), (90, 120));
        assert_eq!(config.policies, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(config.schema, [PathBuf::from("x"), PathBuf::from("y")]);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let strong = "0123456789abcdefghijklmnopqrstuvwxyz";
        assert!(from(&[("CEDARGATE_JWT_SECRET", strong)]).is_ok());
        for (name, value) in [
            ("CEDARGATE_ACCESS_TTL", "soon"),
            ("CEDARGATE_ACCESS_TTL", "0"),
            ("CEDARGATE_REFRESH_GRACE", "601"),
            ("CEDARGATE_SESSION_TTL", "0"),
            ("CEDARGATE_JANITOR_INTERVAL", "-1"),
            ("CEDARGATE_EXPIRED_STATUS", "404"),
            ("CEDARGATE_LISTEM", "127.0.0.1:1"),
            ("CEDARGATE_JWT_SECRET", ""),
            ("CEDARGATE_JWT_SECRET", "short"),
            ("CEDARGATE_JWT_SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            ("CEDARGATE_JWT_SECRET_FILE", "/no/such/file"),
            ("CEDARGATE_TOKEN_ALGORITHM", "RS256"),
            ("CEDARGATE_TOKEN_ALGORITHM", "none"),
            ("CEDARGATE_SIGNING_KEY_ROTATION", "60"),
            ("CEDARGATE_SIGNING_KEY_ROTATION", "-1"),
            ("CEDARGATE_PUBLIC_URL", "example.com"),
            ("CEDARGATE_DATABASE_URL", "mysql://localhost"),
            ("CEDARGATE_POLICIES", ""),
            ("CEDARGATE_LOG_FORMAT", "xml"),
            ("CEDARGATE_WORKERS", "0"),
            ("CEDARGATE_TRUSTED_PROXIES", "10.0.0.0/33"),
            ("CEDARGATE_TRUSTED_PROXIES", "10.0.0.1,proxy.example.com"),
            ("CEDARGATE_GUESSING_WAIT_MAX", "0"),
            ("CEDARGATE_RATE_LIMIT_PER_CALLER", "-1"),
            ("CEDARGATE_RATE_LIMIT_WINDOW", "0"),
            ("CEDARGATE_PASSWORD_PROFILE", "lax"),
            ("CEDARGATE_ARGON2_MEMORY_KIB", "64"),
            ("CEDARGATE_ARGON2_ITERATIONS", "0"),
            ("CEDARGATE_ARGON2_PARALLELISM", "0"),
            ("CEDARGATE_TRACES", "localhost:4318"),
            ("CEDARGATE_TRACES", "grpc://localhost:4317"),
            ("CEDARGATE_TRACES", "http://"),
            ("CEDARGATE_TRACES", "http://localhost:4318/?key=x"),
            ("CEDARGATE_TRACES", "http://localhost:4318/v1/traces/"),
            ("CEDARGATE_TRACES", "http://user@localhost:4318"),
            ("CEDARGATE_DECISION_LOG", "some"),
            ("CEDARGATE_DECISION_LOG_TO", ""),
            ("CEDARGATE_DECISION_LOG_MAX_BYTES", "1"),
            ("CEDARGATE_DECISION_LOG_KEEP", "0"),
            ("CEDARGATE_DECISION_LOG_QUEUE", "0"),
            ("CEDARGATE_DECISION_LOG_OVERFLOW", "wait"),
            ("CEDARGATE_DECISION_LOG_MASK", "email,,phone"),
        ] {
            let error = from(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn a_key_of_the_settings_neither_rotates_nor_has_another_algorithm() {
        let secret = ("CEDARGATE_JWT_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz");
        for (name, value) in
            [("CEDARGATE_TOKEN_ALGORITHM", "EdDSA"), ("CEDARGATE_SIGNING_KEY_ROTATION", "86400")]
        {
            assert!(from(&[(name, value)]).is_ok());
            let error = from(&[secret, (name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("jwt_secret"), "{error}");
        }
        let long = [("CEDARGATE_ACCESS_TTL", "31622400"), ("CEDARGATE_SIGNING_KEY_ROTATION", "86400")];
        assert!(from(&long).unwrap_err().to_string().contains("CEDARGATE_SIGNING_KEY_ROTATION"));
    }

    #[test]
    fn the_proxies_are_addresses_and_ranges_and_may_be_none() {
        let proxies = |text| from(&[("CEDARGATE_TRUSTED_PROXIES", text)]).unwrap().trusted_proxies;
        let expected: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.1/32", "192.0.2.2/32", "2001:db8::/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(proxies("10.0.0.0/8, 192.0.2.1, ::ffff:192.0.2.2, 2001:db8::/32"), expected);
        assert!(proxies("").is_empty());
    }

    #[test]
    fn the_names_to_mask_are_separated_by_commas_and_may_be_none() {
        let masked = |text| from(&[("CEDARGATE_DECISION_LOG_MASK", text)]).unwrap().decision_log_mask;
        assert_eq!(masked("email, phone"), ["email", "phone"]);
        assert_eq!(masked(""), [] as [&str; 0]);
    }

    #[test]
    fn a_secret_may_stand_in_a_file_and_stays_out_of_the_debug_form() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "t0pZ3kR3t\n").unwrap();
        let config = from(&[("CEDARGATE_ADMIN_PASSWORD_FILE", file.path().to_str().unwrap())]).unwrap();
        let password = config.admin_password.clone().unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "t0pZ3kR3t");
        assert!(!format!("{config:?}").contains("t0pZ3kR3t"));
    }
}
