//! The command line: one file a subcommand. Whatever it does to the data, it does through the same gate as a request.

mod audit;
mod backup;
mod health;
mod janitor;
mod key;
mod log;
mod policy;
mod policy_watch;
mod serve;
mod signing_key;
mod user;

use crate::application::Error;
use crate::config::Config;
use crate::server::{AnnounceFirstAdmin, App, FirstAdmin, StartError};
use crate::types::Clock;
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// An authorization service: tokens, the nine resources of a conversation platform, and decisions by Cedar policies.
#[derive(Debug, Parser)]
#[command(name = "cedargate", version, about, after_long_help = AFTER_HELP)]
struct Cli {
    /// Read the settings from this TOML file [default: cedargate.toml, if it is there]
    #[arg(long, short, global = true, env = "CEDARGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Settings, from the file (in small letters, without the prefix) and from the environment, which goes first:
  CEDARGATE_LISTEN                where to listen                        [127.0.0.1:8080]
  CEDARGATE_MANAGEMENT_LISTEN     where /health/* and /metrics listen apart from the rest  [none]
  CEDARGATE_MAX_CONNECTIONS       client connections at most             [4096]
  CEDARGATE_MAX_CONNECTIONS_PER_ADDRESS  those of one address, 0 for any number  [512]
  CEDARGATE_HEADER_TIMEOUT        seconds for the head of a request      [10]
  CEDARGATE_BODY_TIMEOUT          seconds for the body of a request, and more for large ones  [10]
  CEDARGATE_WRITE_TIMEOUT         seconds for a client to receive a response, and more for large ones  [30]
  CEDARGATE_MIN_TRANSFER_RATE     bytes a second that clients must send or receive beyond these times  [16384]
  CEDARGATE_BODY_BUDGET           bytes for the bodies of all requests and responses together  [134217728]
  CEDARGATE_LIST_MAX_BYTES        bytes of one page of a list at most    [4194304]
  CEDARGATE_DATABASE_URL          sqlite://file or postgres://…          [sqlite://cedargate.db]
  CEDARGATE_DATABASE_CONNECTIONS  connections to the database at most    [10]
  CEDARGATE_STALE_DECISIONS       seconds that decisions go on from memory while PostgreSQL is away, 0 for none  [60]
  CEDARGATE_DATABASE_READ_CONNECTIONS     further connections to PostgreSQL for reads  [5]
  CEDARGATE_DATABASE_LISTEN_URL           PostgreSQL itself, where DATABASE_URL is a pooler in transaction mode  [none]
  CEDARGATE_DATABASE_ACQUIRE_TIMEOUT_MS   milliseconds that a request waits for a connection  [5000]
  CEDARGATE_DATABASE_WORK_TIMEOUT_MS      milliseconds that a unit of work on PostgreSQL may take  [10000]
  CEDARGATE_DATABASE_LOCK_TIMEOUT_MS      lock_timeout of PostgreSQL     [3000]
  CEDARGATE_DATABASE_STATEMENT_TIMEOUT_MS  statement_timeout of PostgreSQL  [5000]
  CEDARGATE_DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_MS  idle_in_transaction_session_timeout of PostgreSQL  [2000]
  CEDARGATE_DATABASE_KEEPALIVE            seconds after which PostgreSQL sends TCP keepalives  [15]
  CEDARGATE_DATABASE_TCP_USER_TIMEOUT_MS  tcp_user_timeout of PostgreSQL  [15000]
  CEDARGATE_POLICIES              directories with *.cedar and *.json, separated by commas  [policies]
  CEDARGATE_POLICY_POLL_SECONDS           seconds between scans of these files for changes, 0 for never  [1]
  CEDARGATE_POLICY_RELOAD         changes that need a confirmation: those that lose a forbid policy or a file (guarded),
                                  none (auto), or all (manual)           [guarded]
  CEDARGATE_POLICY_TESTS          a failing test in cases/*.json rejects the policies (enforce), is logged (warn), or is
                                  not run (off)                          [enforce]
  CEDARGATE_SCHEMA                directories with *.cedarschema         [schema]
  CEDARGATE_ACCESS_TTL            seconds that an access token is good   [86400]
  CEDARGATE_REFRESH_TTL           seconds that a refresh token is good   [2592000]
  CEDARGATE_REFRESH_REUSE_GRACE         seconds in which a spent one gets the same successor again  [30]
  CEDARGATE_SESSION_TTL           seconds that a login lasts at most, however often it is refreshed  [7776000]
  CEDARGATE_CLEANUP_INTERVAL      seconds between clean-ups of what has expired, 0 for never  [600]
  CEDARGATE_EXPIRED_TOKEN_STATUS        answer to an expired token: 403 or 401 [403]
  CEDARGATE_TOKEN_ALGORITHM       what signs access tokens: HS256, or EdDSA, which others can check  [HS256]
  CEDARGATE_SIGNING_KEY_ROTATION  seconds until the next key signs, at least 3600, 0 for never  [0]
  CEDARGATE_JWT_SECRET            the one key that signs, with HS256, at least 32 random bytes  [keys are made and kept]
  CEDARGATE_PUBLIC_URL            the address under which clients reach the service
  CEDARGATE_ADMIN_EMAIL           the first admin                        [admin@example.com]
  CEDARGATE_ADMIN_PASSWORD        its password                           [a random one, printed once]
  CEDARGATE_ACCESS_BATCH_LIMIT    questions in one batch of /access/v1/evaluations at most  [1000]
  CEDARGATE_FORWARD_ROUTES        a TOML file with the routes of other services, for /v2/authorize/forward
  CEDARGATE_TRUSTED_PROXIES       proxies whose X-Forwarded-For is believed: addresses and ranges, separated by commas
  CEDARGATE_PROVISIONING_KEYS     ids of API keys that may administer users, sessions and keys, separated by commas  [none]
  CEDARGATE_LOGIN_BACKOFF_MAX     seconds that somebody who guesses passwords waits at most  [900]
  CEDARGATE_RATE_LIMIT_PER_CALLER   requests a second of one user, 0 for any number  [0]
  CEDARGATE_RATE_LIMIT_PER_ADDRESS  requests a second from one address, 0 for any number  [0]
  CEDARGATE_RATE_LIMIT_ANONYMOUS    requests a second without a valid credential from one address, 0 for any number  [100]
  CEDARGATE_RATE_LIMIT_REFUSALS     refused requests a second of one user, 0 for any number  [100]
  CEDARGATE_RATE_LIMIT_WRITES       writes a second of one user, 0 for any number  [200]
  CEDARGATE_RATE_LIMIT_WINDOW     seconds over which these are counted   [10]
  CEDARGATE_PASSWORD_PROFILE      what new passwords must be: standard or strict  [standard]
  CEDARGATE_ARGON2_MEMORY_KIB     memory that a password is hashed with  [19456]
  CEDARGATE_ARGON2_ITERATIONS     how often it is gone over              [2]
  CEDARGATE_ARGON2_PARALLELISM    into how many lanes it is divided      [1]
  CEDARGATE_PASSWORD_WORKERS      passwords that are checked at the same time  [processors]
  CEDARGATE_WORKERS               threads that answer requests           [processors]
  CEDARGATE_TLS_CERT              the certificates of the service, a PEM file; with it, TLS  [none]
  CEDARGATE_TLS_KEY               the key of the first of them, a PEM file
  CEDARGATE_CORS_ORIGINS          origins whose pages may call from a browser, separated by commas  [none]
  CEDARGATE_SHUTDOWN_DRAIN_SECONDS                 seconds from SIGTERM, when it is no longer ready, to its end  [5]
  CEDARGATE_LOG                   error, warn, info, debug, or a filter  [info]
  CEDARGATE_LOG_FORMAT            text or json                           [text]
  CEDARGATE_OTLP_ENDPOINT                the OpenTelemetry collector of the traces, such as http://localhost:4318  [none]
  CEDARGATE_DECISION_LOG          decisions that are kept: off, denials or all  [off]
  CEDARGATE_DECISION_LOG_PATH       stdout, or the path of a file          [decisions.ndjson]
  CEDARGATE_DECISION_LOG_MAX_BYTES  bytes of a file before the next one is begun  [104857600]
  CEDARGATE_DECISION_LOG_MAX_FILES     full files that are kept               [10]
  CEDARGATE_DECISION_LOG_QUEUE    decisions that may wait to be written  [10000]
  CEDARGATE_DECISION_LOG_OVERFLOW  when that many wait: block or drop    [block]
  CEDARGATE_DECISION_LOG_WAIT     seconds that a request waits with block; then the answer is 503  [5]
  CEDARGATE_DECISION_LOG_MASK     attributes whose values stay out of it, separated by commas
CEDARGATE_DATABASE_URL_FILE, CEDARGATE_DATABASE_LISTEN_URL_FILE, CEDARGATE_JWT_SECRET_FILE and
CEDARGATE_ADMIN_PASSWORD_FILE name a file that contains the value. A setting and its _FILE exclude each other.
Only `serve` and `user add` create a database; every other command needs one that exists.
With CEDARGATE_OTLP_ENDPOINT, OTEL_SERVICE_NAME and other variables of OpenTelemetry say how.

Exit codes:
  0  done, or what was checked is as it should be
  1  it could not be done; the reason is on standard error
  2  the command line is wrong
  3  what was checked is not as it should be: policies that do not validate, a case that fails, a stale file

Examples:
  cedargate                                        serve
  cedargate user add --email ada@example.com --role agent
  cedargate key add --user ada@example.com --name import --scope agent
  cedargate policy check && cedargate policy test && cedargate policy matrix --check";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what happens without a command, too)
    Serve,
    /// Look after users
    #[command(subcommand)]
    User(user::Command),
    /// Look after API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Look after the keys that sign access tokens
    #[command(subcommand)]
    SigningKey(signing_key::Command),
    /// Look after the policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Look after the audit trail
    #[command(subcommand)]
    Audit(audit::Command),
    /// Ask the service that runs with these settings whether it is ready: exit 0 if it is, else 1
    Health,
    /// Delete what has expired long ago, as the service does every now and then; prints what that was
    Janitor,
    /// Copy the database, while it is in use, to a file that is not there yet (SQLite)
    Backup {
        /// The file
        file: PathBuf,
    },
    /// Revoke the keys that sign, and end every session and every API key: after a backup was restored, or when a database has leaked
    RevokeAll {
        /// Keep the API keys. Those that were ended since the backup was made come back with the others
        #[arg(long)]
        keep_api_keys: bool,
    },
    /// Write the OpenAPI document
    Openapi {
        /// To this file instead of the terminal
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write nothing, but compare: exit 3 if the file is not what would be written
        #[arg(long, requires = "output")]
        check: bool,
    },
}

/// Why a command ended without doing what it was told.
#[derive(Debug)]
enum Failure {
    /// It could not be done.
    Failed(String),
    /// What was checked is not as it should be.
    CheckFailed(String),
}

impl<E: Into<StartError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into().to_string())
    }
}

impl Failure {
    fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }
}

type CommandResult = Result<(), Failure>;

/// Runs the command that the arguments of the process name.
pub fn run() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(cli),
        // --help and --version come here, too.
        Err(error) => match error.print() {
            Ok(()) => return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
            Err(error) => Err(Failure::failed(write_error("standard output", &error))),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            let _ = writeln!(std::io::stderr(), "cedargate: {message}");
            ExitCode::from(1)
        }
        Err(Failure::CheckFailed(message)) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(3)
        }
    }
}

fn dispatch(cli: Cli) -> CommandResult {
    if let Some(Command::Openapi { output, check }) = cli.command {
        return write_or_check(output, check, &crate::server::openapi_json());
    }
    let config = Config::load(cli.config.as_deref())?;
    match cli.command {
        None | Some(Command::Serve) => serve::run(&config),
        Some(Command::User(command)) => user::run(&config, command),
        Some(Command::Key(command)) => key::run(&config, command),
        Some(Command::SigningKey(command)) => signing_key::run(&config, &command),
        Some(Command::Policy(command)) => policy::run(&config, command),
        Some(Command::Audit(command)) => audit::run(&config, command),
        Some(Command::Health) => health::run(&config),
        Some(Command::Janitor) => janitor::run(&config),
        Some(Command::Backup { file }) => backup::back_up(&config, &file),
        Some(Command::RevokeAll { keep_api_keys }) => backup::revoke_all(&config, keep_api_keys),
        Some(Command::Openapi { .. }) => Ok(()),
    }
}

/// Opens the parts of the service for a command on a database that exists.
async fn open(config: &Config) -> Result<App, Failure> {
    Ok(App::open_for_command(config, Clock::system()).await?)
}

/// The same for a command that creates the database where there is none. The random password of the first admin is written to
/// standard error.
async fn open_or_create(config: &Config) -> Result<App, Failure> {
    let announce: AnnounceFirstAdmin = |FirstAdmin { email, random_password }| {
        let Some(password) = random_password else { return Ok(()) };
        let password = password.expose_secret();
        writeln!(
            std::io::stderr(),
            "This database is new. It has an admin, {email}, with the password {password}"
        )
        .map_err(|error| write_error("standard error", &error))
    };
    Ok(App::open_for_creating_command(config, Clock::system(), announce).await?)
}

/// Writes a line to standard output.
///
/// # Errors
/// The line cannot be written, because the disk is full or the reader has closed its end.
fn print_line(line: impl fmt::Display) -> CommandResult {
    write_line(line).map_err(Failure::Failed)
}

/// Writes a line with a secret to standard output, before what it belongs to is stored.
fn print_created(line: impl fmt::Display) -> Result<(), Error> {
    write_line(line).map_err(|error| Error::bad_request(format!("nothing was created: {error}")))
}

fn write_line(line: impl fmt::Display) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(|error| write_error("standard output", &error))
}

fn write_error(stream: &str, error: &std::io::Error) -> String {
    format!("{stream} cannot be written: {error}")
}

/// Writes a generated text, or compares it with the file.
fn write_or_check(file: Option<PathBuf>, check: bool, text: &str) -> CommandResult {
    let Some(file) = file else {
        return print_line(text.trim_end());
    };
    let name = file.display();
    if !check {
        return std::fs::write(&file, text).map_err(|error| Failure::failed(format!("{name}: {error}")));
    }
    let existing =
        std::fs::read_to_string(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    if existing == text {
        return Ok(());
    }
    let line = existing.lines().zip(text.lines()).take_while(|(old, new)| old == new).count() + 1;
    Err(Failure::CheckFailed(format!("{name}:{line}: it is stale; write it again without --check")))
}

/// Runs something that waits.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    crate::server::block_on(future)
}

/// A password from the first line of standard input, so that it stands in no list of processes.
fn password_from_stdin() -> Result<secrecy::SecretString, Failure> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::failed)?;
    let password = line.trim_end_matches(['\r', '\n']);
    // PowerShell and some editors begin a text with a byte-order mark.
    let password = password.strip_prefix('\u{feff}').unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::failed("there is no password on standard input"));
    }
    Ok(password.to_owned().into())
}
