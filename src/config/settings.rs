//! The table of all settings.

use super::lists;
use super::table::{Setting, SettingValue, choice, list, number, number_or_zero, secret, settings, text};
use crate::types::{Id, string_enum};
use ipnet::IpNet;
use secrecy::SecretString;
use std::path::PathBuf;

const MIB: u64 = 1024 * 1024;
const DAY: u64 = 86_400;
const YEAR: u64 = 366 * DAY;

settings! {
    "Listeners" {
        /// Address or host name and port to listen on.
        listen: String = "127.0.0.1:8080".into(), text("HOST:PORT");
        /// Address or host name and port of a second listener for `/health/*` and `/metrics`, without TLS. `/metrics` is then
        /// served there only.
        management_listen: Option<String> = None, text("HOST:PORT");
        /// Base URL at which clients reach the service. It is also the issuer of the access tokens.
        public_url: Option<String> = None, text("URL");
        /// PEM file with the certificate chain, leaf first. Enables TLS; requires `CEDARGATE_TLS_KEY`.
        tls_cert: Option<PathBuf> = None, text("FILE");
        /// PEM file with the private key of the certificate.
        tls_key: Option<PathBuf> = None, text("FILE");
        /// Trusted proxies, whose `X-Forwarded-For` and `X-Forwarded-Proto` are used: addresses and CIDR ranges.
        trusted_proxies: Vec<IpNet> = Vec::new(), list("CIDR"), read by "lists::networks";
        /// Origins whose pages may call the service from a browser, such as `https://app.example.com`.
        cors_origins: Vec<String> = Vec::new(), list("ORIGIN"), read by "lists::names";
        /// Number of threads that handle requests.
        workers: Option<usize> = None, number(1, 512).or("number of processors");
        /// Time in seconds between SIGTERM, when readiness fails, and the end of accepting connections.
        shutdown_drain_seconds: u64 = 5, number(0, 15);
    }
    "Limits on connections and bodies" {
        /// Maximum number of client connections; lower if the limit on open files requires it.
        max_connections: usize = 4096, number(16, 1_000_000);
        /// Maximum number of client connections from one address, trusted proxies excepted; 0 for no limit.
        max_connections_per_address: usize = 512, number(0, 1_000_000);
        /// Time limit for the head of a request in seconds.
        header_timeout: u64 = 10, number(1, 600);
        /// Time limit for the body of a request in seconds, extended by its size divided by `CEDARGATE_MIN_TRANSFER_RATE`.
        body_timeout: u64 = 10, number(1, 600);
        /// Time limit for a client to receive a response in seconds, extended by its size divided by
        /// `CEDARGATE_MIN_TRANSFER_RATE`.
        write_timeout: u64 = 30, number(1, 600);
        /// Minimum transfer rate, in bytes per second, of clients that exceed these time limits.
        min_transfer_rate: u64 = 16 * 1024, number(1, 1024 * MIB);
        /// Memory in bytes for all request and response bodies of more than 8 KiB; at least four times
        /// `CEDARGATE_LIST_MAX_BYTES`.
        body_budget: usize = 128 * 1024 * 1024, number(4 * 1024, 1024 * 1024 * MIB);
        /// Maximum size of one page of a list in bytes.
        list_max_bytes: usize = 4 * 1024 * 1024, number(1024, 64 * MIB);
        /// Maximum number of exports of lists (NDJSON) that are sent at the same time.
        max_exports: usize = 8, number(1, 1_000);
        /// Maximum number of questions in one request to `/access/v1/evaluations`.
        access_batch_limit: usize = 1000, number(1, 100_000);
    }
    "Rate limits" {
        /// Requests per second of one user; 0 for no limit.
        rate_limit_per_caller: u32 = 0, number(0, 1_000_000);
        /// Requests per second from one address; 0 for no limit.
        rate_limit_per_address: u32 = 0, number(0, 1_000_000);
        /// Requests per second without a valid credential from one address; 0 for no limit.
        rate_limit_anonymous: u32 = 100, number(0, 1_000_000);
        /// Refused requests per second of one user; 0 for no limit.
        rate_limit_refusals: u32 = 100, number(0, 1_000_000);
        /// Writes per second of one user; 0 for no limit.
        rate_limit_writes: u32 = 200, number(0, 1_000_000);
        /// Time in seconds over which rates are averaged: a burst of that many seconds is allowed.
        rate_limit_window: u32 = 10, number(1, 3_600);
    }
    "Database" {
        /// Database: a SQLite file or a PostgreSQL database.
        database_url: SecretString = "sqlite://cedargate.db".into(), secret("sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME");
        /// URL of PostgreSQL itself for notifications, if `CEDARGATE_DATABASE_URL` is a connection pooler in transaction mode.
        database_listen_url: Option<SecretString> = None, secret("postgres://USER:PASSWORD@HOST/NAME");
        /// Maximum number of connections for units of work.
        database_connections: u32 = 10, number(1, 1000);
        /// Maximum number of further PostgreSQL connections for reads.
        database_read_connections: u32 = 5, number(1, 1000);
        /// Time limit for a request to get a connection, in milliseconds.
        database_acquire_timeout_ms: u64 = 5_000, number(100, 60_000);
        /// Time limit for a unit of work on PostgreSQL, in milliseconds.
        database_work_timeout_ms: u64 = 10_000, number(1_000, 600_000);
        /// `lock_timeout` of PostgreSQL in milliseconds.
        database_lock_timeout_ms: u64 = 3_000, number(100, 60_000);
        /// `statement_timeout` of PostgreSQL in milliseconds.
        database_statement_timeout_ms: u64 = 5_000, number(100, 600_000);
        /// `idle_in_transaction_session_timeout` of PostgreSQL in milliseconds.
        database_idle_in_transaction_timeout_ms: u64 = 2_000, number(100, 60_000);
        /// `tcp_keepalives_idle` of PostgreSQL in seconds.
        database_keepalive: u64 = 15, number(1, 7_200);
        /// `tcp_user_timeout` of PostgreSQL in milliseconds.
        database_tcp_user_timeout_ms: u64 = 15_000, number(1_000, 600_000);
        /// Time in seconds for which decisions use cached data while PostgreSQL is unavailable; 0 for none.
        stale_decisions: u64 = 60, number(0, DAY);
    }
    "Caches" {
        /// Caches that are off, to find out whether a cache causes a fault: `callers`, `users`, `rows` and `decisions`. Without
        /// them, requests read the database, or evaluate the policies, every time.
        caches_off: Vec<CacheName> = Vec::new(), list("NAME"), read by "lists::caches";
    }
    "Changes" {
        /// Time in seconds for which changes are kept for `/v2/changes`. A client that was away longer lists the resources again.
        changes_retention: u64 = 7 * DAY, number(3_600, YEAR);
        /// Maximum number of requests that wait for changes, event streams included.
        changes_streams: usize = 1_000, number(1, 1_000_000);
        /// Of these, maximum number of one user.
        changes_streams_per_user: usize = 10, number(1, 100_000);
        /// Time in seconds after which an event stream without events sends a comment.
        changes_heartbeat: u64 = 15, number(1, 300);
    }
    "Policies" {
        /// Directories with `*.cedar` policies and `*.json` entity data.
        policies: Vec<PathBuf> = vec!["policies".into()], list("DIRECTORY"), read by "lists::paths";
        /// Directories with `*.cedarschema` schemas.
        schema: Vec<PathBuf> = vec!["schema".into()], list("DIRECTORY"), read by "lists::paths";
        /// Poll interval of the policy files in seconds; 0 disables polling.
        policy_poll_seconds: u64 = 1, number(0, YEAR);
        /// Policy changes that need a confirmation: those that lose a `forbid` policy or a file (`guarded`), none (`auto`), or
        /// all (`manual`).
        policy_reload: PolicyReload = PolicyReload::Guarded, choice(PolicyReload::VALUES), read by "lists::from_text";
        /// Effect of a failing policy test in `cases/*.json`: the policies are rejected (`enforce`), the failure is logged
        /// (`warn`), or no test runs (`off`).
        policy_tests: PolicyTests = PolicyTests::Enforce, choice(PolicyTests::VALUES), read by "lists::from_text";
        /// Number of policy versions that are kept in the database with their files, of at most 64 MiB each: those that became
        /// active last.
        policy_versions_kept: u32 = 100, number(1, 10_000);
        /// TOML file with the routes of other services, for `/v2/authorize/forward`.
        forward_routes: Option<PathBuf> = None, text("FILE");
    }
    "Verification of decisions" {
        /// One decision in this many is decided again in the background, by Cedar's own authorizer over all policies and
        /// entities; 0 for none.
        verify_every: u64 = 1_000, number(0, 1_000_000_000);
    }
    "Tokens and sessions" {
        /// Access token lifetime in seconds.
        access_ttl: u64 = DAY, number(1, YEAR);
        /// Refresh token lifetime in seconds.
        refresh_ttl: u64 = 30 * DAY, number(1, 10 * YEAR);
        /// Grace period in seconds in which a used refresh token gets the same successor again; 0 for none.
        refresh_reuse_grace: u64 = 30, number(0, 600);
        /// Maximum session lifetime in seconds, regardless of refreshes.
        session_ttl: u64 = 90 * DAY, number(1, 10 * YEAR);
        /// Interval in seconds between deletions of expired rows; 0 disables them.
        cleanup_interval: u64 = 600, number(0, YEAR);
        /// HTTP status of the response to an expired access token.
        expired_token_status: u16 = 403, choice(&["403", "401"]);
        /// Signature algorithm of the access tokens. With `EdDSA`, other services can verify them.
        token_algorithm: TokenAlgorithm = TokenAlgorithm::Hs256, choice(TokenAlgorithm::VALUES), read by "lists::from_text";
        /// Signing key rotation interval in seconds; 0 disables rotation. At least a 50th of `CEDARGATE_ACCESS_TTL`.
        signing_key_rotation: u64 = 0, number_or_zero(3_600, 10 * YEAR);
        /// The only signing key, for HS256: at least 32 random bytes.
        jwt_secret: Option<SecretString> = None, secret("TEXT").or("generated keys, stored in the database");
    }
    "Users, passwords and logins" {
        /// Email address of the first admin.
        admin_email: String = "admin@example.com".into(), text("EMAIL");
        /// Password of the first admin.
        admin_password: Option<SecretString> = None, secret("TEXT").or("a random one, printed once");
        /// Ids of the API keys that may administer users, sessions and keys.
        provisioning_keys: Vec<Id> = Vec::new(), list("ID"), read by "lists::ids";
        /// Maximum login back-off in seconds.
        login_backoff_max: u64 = 900, number(10, DAY);
        /// Requirements on new passwords: at least 8 characters and a zxcvbn score of 3 (`standard`), or 15 characters and a
        /// score of 4 (`strict`).
        password_profile: PasswordProfile = PasswordProfile::Standard, choice(PasswordProfile::VALUES), read by "lists::from_text";
        /// Argon2 memory in KiB (RFC 9106, `m`).
        argon2_memory_kib: u32 = 19 * 1024, number(7 * 1024, 4 * 1024 * 1024);
        /// Argon2 iterations (RFC 9106, `t`).
        argon2_iterations: u32 = 2, number(1, 100);
        /// Argon2 parallelism (RFC 9106, `p`).
        argon2_parallelism: u32 = 1, number(1, 64);
        /// Number of passwords that are hashed at the same time.
        password_workers: Option<usize> = None, number(1, 1000).or("number of processors");
    }
    "Application log and traces" {
        /// Log level, or a filter such as `info,cedargate=debug`.
        log: String = "info".into(), text("off, error, warn, info, debug, trace or a filter");
        /// Log format: lines of text or of JSON.
        log_format: LogFormat = LogFormat::Text, choice(LogFormat::VALUES), read by "lists::from_text";
        /// Base URL of the OpenTelemetry collector that receives the traces by OTLP over HTTP, such as `http://localhost:4318`.
        /// Without it, there are no traces.
        otlp_endpoint: String = String::new(), text("URL");
    }
    "Decision log" {
        /// Decisions that are logged: none, those that are not an allow, all, or all and every allowed prerequisite (`full`).
        decision_log: DecisionLogFilter = DecisionLogFilter::Off, choice(DecisionLogFilter::VALUES), read by "lists::from_text";
        /// File of the decision log, or `stdout`.
        decision_log_path: String = "decisions.ndjson".into(), text("FILE or stdout");
        /// Maximum size of a file in bytes; then the next one is started.
        decision_log_max_bytes: u64 = 100 * MIB, number(4_096, 1 << 50);
        /// Number of full files that are kept.
        decision_log_max_files: u32 = 10, number(1, 1_000);
        /// Maximum number of decisions that wait to be written.
        decision_log_queue: usize = 10_000, number(1, 1_000_000);
        /// Behaviour if the queue is full: requests wait (`block`), or decisions are not logged, but counted (`drop`).
        decision_log_overflow: Overflow = Overflow::Block, choice(Overflow::VALUES), read by "lists::from_text";
        /// With `block`, time in seconds that a request waits before it receives 503.
        decision_log_wait: u64 = 5, number(1, 60);
        /// Names of attributes whose values are masked in the decision log.
        decision_log_mask: Vec<String> = Vec::new(), list("NAME"), read by "lists::names";
    }
}

string_enum!(
    /// Signature algorithm of the access tokens.
    TokenAlgorithm { Hs256 = "HS256", EdDsa = "EdDSA" }
);

string_enum!(
    /// A cache: of the callers by their credential, of evaluated users, of rows, or of decisions.
    CacheName { Callers = "callers", Users = "users", Rows = "rows", Decisions = "decisions" }
);

string_enum!(
    /// Which policy changes need a confirmation: those that lose a `forbid` policy or a file, none, or all.
    PolicyReload { Guarded = "guarded", Auto = "auto", Manual = "manual" }
);

string_enum!(
    /// Effect of a failing policy test: the policies are rejected, the failure is logged, or no test runs.
    PolicyTests { Enforce = "enforce", Warn = "warn", Off = "off" }
);

string_enum!(
    /// Requirements on new passwords: at least 8 characters and a zxcvbn score of 3, or 15 characters and a score of 4.
    PasswordProfile { Standard = "standard", Strict = "strict" }
);

string_enum!(
    /// Log format: one line of text per event, or one JSON object per event.
    LogFormat { Text = "text", Json = "json" }
);

string_enum!(
    /// Decisions that are logged: none, those that are not an allow, all, or all and every allowed prerequisite.
    DecisionLogFilter { Off = "off", Denials = "denials", All = "all", Full = "full" }
);

string_enum!(
    /// Behaviour if the queue of the decision log is full: the request waits, or the decision is not logged, but counted.
    Overflow { Block = "block", Drop = "drop" }
);
