//! The command line, one file per subcommand. Commands that change data are authorized by the policies, as requests are.
//!
//! A command opens the database with the settings of the service, and acts as the caller `terminal`, an admin of the root
//! organization. Only `serve` and `user add` create or migrate a database. Results go to standard output, messages to standard
//! error. The exit codes are 0, 1 if a command could not be executed or its arguments are invalid, 3 if a check failed, and 4 if it
//! could not be decided.

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
use crate::config::{self, Config};
use crate::server::{AnnounceFirstAdmin, App, FirstAdmin, StartError};
use crate::types::Clock;
use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// An authorization service: tokens, the nine resources of a conversation platform, and decisions by Cedar policies.
#[derive(Debug, Parser)]
#[command(name = "cedargate", version, about, after_long_help = after_help())]
struct Cli {
    /// Read the settings from this TOML file [default: cedargate.toml, if it exists]
    #[arg(long, short, global = true, env = "CEDARGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Returns the part of `--help` below the options.
fn after_help() -> String {
    format!(
        "{}
Only `serve` and `user add` create a database; every other command needs an existing one.
With CEDARGATE_OTLP_ENDPOINT, OTEL_SERVICE_NAME and other variables of OpenTelemetry apply.

Exit codes:
  0  done, or the check passed
  1  the command line is invalid, or the command failed; the reason is on standard error
  3  the check failed: invalid policies, a failing test, an outdated file, a changed audit log
  4  the check could not be decided: the solver is missing, or gave no answer

Examples:
  cedargate                                        run the service
  cedargate user add --email ada@example.com --role agent
  cedargate key add --user ada@example.com --name import --scope agent
  cedargate policy check && cedargate policy test && cedargate policy matrix --check",
        config::help()
    )
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (default)
    Serve,
    /// Manage users
    #[command(subcommand)]
    User(user::Command),
    /// Manage API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Manage the signing keys of the access tokens
    #[command(subcommand)]
    SigningKey(signing_key::Command),
    /// Check, test, explain and confirm policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Verify and archive the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Ask the running service with these settings whether it is ready; exit code 0 if it is, else 1
    Health,
    /// Delete expired sessions, tokens and keys, as the service does periodically; prints their numbers
    Janitor,
    /// Copy the database to a new file, while it is in use (SQLite)
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Revoke all signing keys, sessions and API keys: after a restored backup, or a leak of the database
    RevokeAll {
        /// Keep all API keys, including those that were revoked since the backup was made
        #[arg(long)]
        keep_api_keys: bool,
    },
    /// Print the reference of all settings, as Markdown
    Config(OutputArgs),
    /// Print the OpenAPI document
    Openapi(OutputArgs),
}

/// Where generated text goes.
#[derive(Debug, Args)]
struct OutputArgs {
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare with the file instead of writing it; exit code 3 if it is outdated
    #[arg(long, requires = "output")]
    check: bool,
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The command could not be executed: exit code 1.
    Failed(String),
    /// The check failed: exit code 3.
    CheckFailed(String),
    /// The check failed, and standard output says how: exit code 3.
    Found,
    /// The check could not be decided: exit code 4.
    Undecided(String),
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

/// Runs the command that the arguments of the process name, and returns its exit code.
pub fn run() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(cli),
        // `--help` and `--version` are errors to clap, too.
        Err(error) => match error.print() {
            Ok(()) => return ExitCode::from(u8::from(error.use_stderr())),
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
        Err(Failure::Found) => ExitCode::from(3),
        Err(Failure::Undecided(message)) => {
            let _ = writeln!(std::io::stderr(), "cedargate: {message}");
            ExitCode::from(4)
        }
    }
}

fn dispatch(cli: Cli) -> CommandResult {
    let config = || Config::load(cli.config.as_deref());
    match cli.command {
        Some(Command::Config(arguments)) => write_or_check(arguments, &config::markdown()),
        Some(Command::Openapi(arguments)) => write_or_check(arguments, &crate::server::openapi_json()),
        None | Some(Command::Serve) => serve::run(&config()?),
        Some(Command::User(command)) => user::run(&config()?, command),
        Some(Command::Key(command)) => key::run(&config()?, command),
        Some(Command::SigningKey(command)) => signing_key::run(&config()?, &command),
        Some(Command::Policy(command)) => policy::run(&config()?, command),
        Some(Command::Audit(command)) => audit::run(&config()?, command),
        Some(Command::Health) => health::run(&config()?),
        Some(Command::Janitor) => janitor::run(&config()?),
        Some(Command::Backup { file }) => backup::back_up(&config()?, &file),
        Some(Command::RevokeAll { keep_api_keys }) => backup::revoke_all(&config()?, keep_api_keys),
    }
}

/// Opens an existing database, and what else a command needs.
async fn open(config: &Config) -> Result<App, Failure> {
    Ok(App::open_for_command(config, Clock::system()).await?)
}

/// Opens the database, or creates it with a first admin, whose random password is written to standard error.
async fn open_or_create(config: &Config) -> Result<App, Failure> {
    let announce: AnnounceFirstAdmin = |FirstAdmin { email, random_password }| {
        let Some(password) = random_password else { return Ok(()) };
        let password = password.expose_secret();
        writeln!(std::io::stderr(), "Created the database with the admin {email}, password {password}")
            .map_err(|error| write_error("standard error", &error))
    };
    Ok(App::open_for_creating_command(config, Clock::system(), announce).await?)
}

/// Writes a line to standard output.
///
/// # Errors
/// The line cannot be written, because the disk is full or the reader has closed the pipe.
fn print_line(line: impl fmt::Display) -> CommandResult {
    write_line(line).map_err(Failure::Failed)
}

/// Writes a line with a secret to standard output, before what the secret belongs to is stored.
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
    format!("cannot write to {stream}: {error}")
}

/// Writes generated text, or compares it with the file.
fn write_or_check(OutputArgs { output, check }: OutputArgs, text: &str) -> CommandResult {
    let Some(file) = output else {
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
    Err(Failure::CheckFailed(format!("{name}:{line}: out of date; run the command without --check")))
}

/// Runs a future to its end in a new runtime.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    crate::server::block_on(future)
}

/// Reads a password from the first line of standard input, because arguments are visible in the list of processes.
fn password_from_stdin() -> Result<secrecy::SecretString, Failure> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::failed)?;
    let password = line.trim_end_matches(['\r', '\n']);
    // PowerShell and some editors begin a text with a byte-order mark.
    let password = password.strip_prefix('\u{feff}').unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::failed("no password on standard input"));
    }
    Ok(password.to_owned().into())
}
