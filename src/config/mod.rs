//! The settings: from a TOML file and from `CEDARGATE_*`, the environment winning. Knows nothing of what they are for.

mod check;
mod lists;
mod load;
#[cfg(test)]
mod tests;

use crate::types::{Id, string_enum};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;
use std::path::PathBuf;

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
    /// Where `/health/*` and `/metrics` listen apart from everything else: an address or host name and a port. `/metrics`
    /// is then served there only, and `/health/*` at both listeners. Without TLS.
    pub management_listen: Option<String>,
    /// The most client connections. Fewer where the limit on open files is lower.
    pub max_connections: usize,
    /// The most client connections from one address, proxies of `trusted_proxies` excepted; 0 for any number.
    pub max_connections_per_address: usize,
    /// How long the head of a request may take, in seconds.
    pub header_timeout: u64,
    /// How long the body of a request may take, in seconds, extended by its size over `min_transfer_rate`.
    pub body_timeout: u64,
    /// How long a client may take to receive a response, in seconds, extended by its size over `min_transfer_rate`.
    pub write_timeout: u64,
    /// The bytes a second that a client must send or receive beyond these times.
    pub min_transfer_rate: u64,
    /// The memory for the bodies of all requests and responses of more than 8 KiB, in bytes.
    pub body_budget: usize,
    /// The most bytes of one page of a list.
    pub list_max_bytes: usize,
    /// `sqlite://file` or `postgres://user:password@host/database`.
    pub database_url: SecretString,
    /// How many connections to the database at most.
    pub database_connections: u32,
    /// How long decisions go on during an outage of PostgreSQL with what was read before it, in seconds; 0 for not at all.
    pub stale_decisions: u64,
    /// How many further connections to PostgreSQL for reads at most.
    pub database_read_connections: u32,
    /// The address of PostgreSQL itself for notifications, where `database_url` is that of a pooler in transaction mode.
    pub database_listen_url: Option<SecretString>,
    /// How long a request waits for a connection to the database, in milliseconds.
    pub database_acquire_timeout_ms: u64,
    /// How long a unit of work on PostgreSQL may take, in milliseconds.
    pub database_work_timeout_ms: u64,
    /// How long a statement waits for a lock (`lock_timeout` of PostgreSQL), in milliseconds.
    pub database_lock_timeout_ms: u64,
    /// How long a statement may take (`statement_timeout` of PostgreSQL), in milliseconds.
    pub database_statement_timeout_ms: u64,
    /// How long a transaction may be idle before PostgreSQL ends it (`idle_in_transaction_session_timeout`), in
    /// milliseconds.
    pub database_idle_in_transaction_timeout_ms: u64,
    /// After how many idle seconds PostgreSQL sends TCP keepalives to this process (`tcp_keepalives_idle`).
    pub database_keepalive: u64,
    /// After how many milliseconds without acknowledgement PostgreSQL closes a connection (`tcp_user_timeout`).
    pub database_tcp_user_timeout_ms: u64,
    /// Directories with policies and entity data.
    #[serde(deserialize_with = "lists::paths")]
    pub policies: Vec<PathBuf>,
    /// How often to look whether the files of the policies have changed, in seconds; 0 for never.
    pub policy_poll_seconds: u64,
    /// Which changed policies need a confirmation: `guarded`, `auto` or `manual`.
    #[serde(deserialize_with = "lists::from_text")]
    pub policy_reload: PolicyReload,
    /// Whether changed policies must pass the tests in `cases/*.json`: `enforce`, `warn` or `off`.
    #[serde(deserialize_with = "lists::from_text")]
    pub policy_tests: PolicyTests,
    /// Directories with schemas.
    #[serde(deserialize_with = "lists::paths")]
    pub schema: Vec<PathBuf>,
    /// How long an access token is good, in seconds.
    pub access_ttl: u64,
    /// How long a refresh token is good, in seconds.
    pub refresh_ttl: u64,
    /// How long after a refresh the spent token gets the same successor again, in seconds; 0 for never.
    pub refresh_reuse_grace: u64,
    /// How long a login lasts at most, however often it is refreshed, in seconds.
    pub session_ttl: u64,
    /// How often what has expired is cleaned up, in seconds; 0 for never.
    pub cleanup_interval: u64,
    /// The status that an expired access token is answered with: 403, as the seed says, or 401.
    pub expired_token_status: u16,
    /// What access tokens are signed with: `HS256`, or `EdDSA`, which others can check.
    #[serde(deserialize_with = "lists::from_text")]
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
    #[serde(deserialize_with = "lists::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The ids of the API keys that may administer identities: create, change and delete users, and end sessions and keys.
    #[serde(deserialize_with = "lists::ids")]
    pub provisioning_keys: Vec<Id>,
    /// How long somebody who guesses passwords has to wait at most, in seconds.
    pub login_backoff_max: u64,
    /// How many requests a second one user may make of this process; 0 for any number.
    pub rate_limit_per_caller: u32,
    /// How many requests a second may come from one address to this process; 0 for any number.
    pub rate_limit_per_address: u32,
    /// How many requests a second without a valid credential may come from one address to this process; 0 for any number.
    pub rate_limit_anonymous: u32,
    /// How many requests a second of one user this process may refuse; 0 for any number.
    pub rate_limit_refusals: u32,
    /// How many requests a second of one user may change something; 0 for any number.
    pub rate_limit_writes: u32,
    /// Over how many seconds the rate limits are counted: so much of them may come at once.
    pub rate_limit_window: u32,
    /// What a new password must be: `standard` or `strict`.
    #[serde(deserialize_with = "lists::from_text")]
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
    #[serde(deserialize_with = "lists::names")]
    pub cors_origins: Vec<String>,
    /// How long after SIGTERM the service goes on while it says that it is not ready, in seconds.
    pub shutdown_drain_seconds: u64,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter such as `info,cedargate=debug`.
    pub log: String,
    /// How the log is written: `text` or `json`.
    #[serde(deserialize_with = "lists::from_text")]
    pub log_format: LogFormat,
    /// The base address of the OpenTelemetry collector that gets the traces, by OTLP over HTTP; empty for no traces.
    pub otlp_endpoint: String,
    /// Which decisions are kept in the decision log: `off`, `denials` or `all`.
    #[serde(deserialize_with = "lists::from_text")]
    pub decision_log: DecisionLogFilter,
    /// Where the decision log is written: `stdout`, or the path of a file.
    pub decision_log_path: String,
    /// How many bytes a file of the decision log may have before the next one is begun.
    pub decision_log_max_bytes: u64,
    /// How many full files of the decision log are kept.
    pub decision_log_max_files: u32,
    /// How many decisions may wait to be written.
    pub decision_log_queue: usize,
    /// What happens to a decision when that many wait: `block` or `drop`.
    #[serde(deserialize_with = "lists::from_text")]
    pub decision_log_overflow: Overflow,
    /// How long a request waits until its decisions can be recorded, in seconds, with `block`; then the answer is 503.
    pub decision_log_wait: u64,
    /// The names of attributes whose values stay out of the decision log.
    #[serde(deserialize_with = "lists::names")]
    pub decision_log_mask: Vec<String>,
}

string_enum!(
    /// What access tokens are signed with.
    TokenAlgorithm { Hs256 = "HS256", EdDsa = "EdDSA" }
);

string_enum!(
    /// Which changed policies need a confirmation before they become active: those that lose a `forbid` or a file
    /// (`guarded`), none (`auto`), or all (`manual`).
    PolicyReload { Guarded = "guarded", Auto = "auto", Manual = "manual" }
);

string_enum!(
    /// What a failing policy test does: it rejects the policies (`enforce`), it is logged (`warn`), or no test runs (`off`).
    PolicyTests { Enforce = "enforce", Warn = "warn", Off = "off" }
);

string_enum!(
    /// What a new password must be: 8 characters and hard to guess, or 15 characters and very hard to guess.
    PasswordProfile { Standard = "standard", Strict = "strict" }
);

string_enum!(
    /// How the log is written: one line of text per event, or one JSON object per event.
    LogFormat { Text = "text", Json = "json" }
);

string_enum!(
    /// Which decisions are kept in the decision log: none, those that permit nothing, or all.
    DecisionLogFilter { Off = "off", Denials = "denials", All = "all" }
);

string_enum!(
    /// What happens to a decision when the queue of the decision log is full: its request waits, or it is left out of the
    /// log and counted.
    Overflow { Block = "block", Drop = "drop" }
);

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            management_listen: None,
            max_connections: 4096,
            max_connections_per_address: 512,
            header_timeout: 10,
            body_timeout: 10,
            write_timeout: 30,
            min_transfer_rate: 16 * 1024,
            body_budget: 128 * 1024 * 1024,
            list_max_bytes: 4 * 1024 * 1024,
            database_url: "sqlite://cedargate.db".into(),
            database_connections: 10,
            stale_decisions: 60,
            database_read_connections: 5,
            database_listen_url: None,
            database_acquire_timeout_ms: 5_000,
            database_work_timeout_ms: 10_000,
            database_lock_timeout_ms: 3_000,
            database_statement_timeout_ms: 5_000,
            database_idle_in_transaction_timeout_ms: 2_000,
            database_keepalive: 15,
            database_tcp_user_timeout_ms: 15_000,
            policies: vec!["policies".into()],
            policy_poll_seconds: 1,
            policy_reload: PolicyReload::Guarded,
            policy_tests: PolicyTests::Enforce,
            schema: vec!["schema".into()],
            access_ttl: 86_400,
            refresh_ttl: 30 * 86_400,
            refresh_reuse_grace: 30,
            session_ttl: 90 * 86_400,
            cleanup_interval: 600,
            expired_token_status: 403,
            token_algorithm: TokenAlgorithm::Hs256,
            signing_key_rotation: 0,
            jwt_secret: None,
            public_url: None,
            admin_email: "admin@example.com".into(),
            admin_password: None,
            access_batch_limit: 1000,
            forward_routes: None,
            trusted_proxies: Vec::new(),
            provisioning_keys: Vec::new(),
            login_backoff_max: 900,
            rate_limit_per_caller: 0,
            rate_limit_per_address: 0,
            rate_limit_anonymous: 100,
            rate_limit_refusals: 100,
            rate_limit_writes: 200,
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
            shutdown_drain_seconds: 5,
            log: "info".into(),
            log_format: LogFormat::Text,
            otlp_endpoint: String::new(),
            decision_log: DecisionLogFilter::Off,
            decision_log_path: "decisions.ndjson".into(),
            decision_log_max_bytes: 100 * 1024 * 1024,
            decision_log_max_files: 10,
            decision_log_queue: 10_000,
            decision_log_overflow: Overflow::Block,
            decision_log_wait: 5,
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

impl Config {
    /// Whether the decision log is written to the standard output.
    pub fn decision_log_goes_to_stdout(&self) -> bool {
        self.decision_log != DecisionLogFilter::Off && self.decision_log_path == "stdout"
    }
}
