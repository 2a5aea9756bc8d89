//! `cedargate serve`.

use super::janitor::spawn_cleanup;
use super::policy_watch::spawn_reload_tasks;
use super::{CommandResult, Failure, block_on, log, write_error, write_line};
use crate::application::{AppState, audit};
use crate::config::{Config, ConfigError};
use crate::http::drain;
use crate::http::state::HttpState;
use crate::server::{App, FirstAdmin, StartError, check_settings};
use crate::store::{AuditActor, AuditEntry, Event, ServeLock};
use crate::telemetry;
use crate::types::Clock;
use actix_web::dev::ServerHandle;
use actix_web::rt::signal::unix;
use secrecy::ExposeSecret;
use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

pub(super) fn run(config: &Config) -> CommandResult {
    // Dropped last: it writes the last lines.
    let _log = log::start(config)?;
    let traces = telemetry::start(config)?;
    let served = serve(config);
    if let Some(traces) = traces {
        traces.shutdown();
    }
    served
}

fn serve(config: &Config) -> CommandResult {
    block_on(async {
        // Connections are limited by it.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!(%error, "the limit on open files cannot be raised");
        }
        check_settings(config)?;
        let listener = bind("listen", &config.listen)?;
        let management = config.management_listen.as_deref();
        let management = management.map(|address| bind("management_listen", address)).transpose()?;
        // Before the database is opened, and until the end of the process.
        let _serve_lock = ServeLock::acquire(config.database_url.expose_secret())?;
        // The decision log may have the standard output to itself.
        let to_stderr = config.decision_log_goes_to_stdout();
        let announce = if to_stderr { announce_on_stderr } else { announce_on_stdout };
        let app = App::open_to_serve(config, Clock::system(), announce).await?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let listener_clone = listener.try_clone().map_err(Failure::failed)?;
        let server = app.serve(listener).await?;
        // Policies that changed while nothing served come into force here.
        let version = app.state.policies.current().bundle().version().to_owned();
        let started = AuditEntry::new(Event::ServiceStarted).with("policies", version);
        app.state.store.audit(AuditActor::service(app.state.clock.now()), started).await?;
        let mut tasks = JoinSet::new();
        let management =
            management.map(|listener| serve_management(&mut tasks, &app, listener)).transpose()?;
        spawn_reload_tasks(&mut tasks, &app, config.policy_poll_seconds)?;
        maintain_signing_keys(&mut tasks, &app.state);
        shutdown_on_signal(&mut tasks, &app.http, server.handle(), listener_clone, config.shutdown_drain_seconds)?;
        spawn_cleanup(&mut tasks, &app.state, config.cleanup_interval);
        let print: fn(fmt::Arguments<'_>) = if to_stderr { eprint_line } else { print_line };
        let scheme = if app.certificates.is_some() { "https" } else { "http" };
        print_banner(&app, &format!("{scheme}://{address}"), print);
        if let Some((address, _)) = &management {
            print(format_args!("Health and metrics: http://{address}"));
        }
        print(format_args!("Ctrl-C ends it."));
        let result = server.await.map_err(Failure::failed);
        if let Some((_, management)) = management {
            management.stop(false).await;
        }
        // A connection to the database has to be given back while there is a runtime.
        tasks.shutdown().await;
        audit::flush_on_shutdown(&app.state).await;
        app.state.decision_log.close();
        result
    })
}

/// Listens on the address of a setting.
fn bind(setting: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| {
        StartError::Listen(ConfigError::new(setting, format!("cannot listen on {address:?}: {error}")))
    })
}

/// Starts the management listener, which answers until the service has ended. Returns its address and its handle.
fn serve_management(
    tasks: &mut JoinSet<()>,
    app: &App,
    listener: TcpListener,
) -> Result<(SocketAddr, ServerHandle), Failure> {
    let address = listener.local_addr().map_err(Failure::failed)?;
    let server = app.serve_management(listener)?;
    let handle = server.handle();
    tasks.spawn_local(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the management listener has failed");
        }
    });
    Ok((address, handle))
}

/// Looks after the keys that sign, once a second: so soon is one refused that was revoked at the terminal. And where the
/// database answers, the audit trail is told what it could not be told before, and revocations are stored that could not be.
fn maintain_signing_keys(tasks: &mut JoinSet<()>, parts: &Arc<AppState>) {
    let parts = Arc::clone(parts);
    tasks.spawn_local(async move {
        let mut was_ok = true;
        loop {
            actix_web::rt::time::sleep(Duration::from_secs(1)).await;
            let maintained = parts.signing_keys.maintain().await;
            if let (true, Err(error)) = (was_ok, &maintained) {
                tracing::warn!(%error, "the keys that sign cannot be read; those of a while ago go on");
            }
            was_ok = maintained.is_ok();
            if was_ok {
                // Where it cannot, there is another time.
                let _ = audit::write_pending(&parts).await;
                let _ = parts.store.store_revocations().await;
            }
        }
    });
}

/// How long the end may take: so much less than the 30 s after which service managers kill that it can say so.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(28);

/// Ends the process when [`LONGEST_END`] is over, whatever it waits for then: a request, a collector of traces, or a reader of
/// the decision log that does not read.
fn start_shutdown_watchdog() {
    let end = || {
        std::thread::sleep(MAX_SHUTDOWN_TIME);
        tracing::error!("the service has not ended in time, and is broken off");
        // So long the line may take.
        std::thread::sleep(Duration::from_millis(500));
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new().name("end".into()).spawn(end) {
        tracing::warn!(%error, "nothing sees to it that the service ends in time");
    }
}

/// Ends the service: on SIGTERM when it has said for so many seconds that it is not ready, so that nobody sends it requests
/// any more; on SIGINT, or a second signal, without that. What it has begun it finishes, for ten seconds at most.
fn shutdown_on_signal(
    tasks: &mut JoinSet<()>,
    http: &Arc<HttpState>,
    server: ServerHandle,
    listener: TcpListener,
    seconds: u64,
) -> CommandResult {
    let mut terminate = unix::signal(unix::SignalKind::terminate()).map_err(Failure::failed)?;
    let mut interrupt = unix::signal(unix::SignalKind::interrupt()).map_err(Failure::failed)?;
    let http = Arc::clone(http);
    tasks.spawn_local(async move {
        let is_graceful = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        start_shutdown_watchdog();
        http.is_shutting_down.store(true, Ordering::Release);
        if is_graceful {
            tracing::info!(seconds, "the service is no longer ready, and ends");
            tokio::select! {
                () = actix_web::rt::time::sleep(Duration::from_secs(seconds)) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        match drain::refuse_new_connections(&listener) {
            Ok(()) => actix_web::rt::time::sleep(drain::BACKLOG_DRAIN_TIME).await,
            Err(error) => tracing::warn!(%error, "connections that wait to be accepted may be reset"),
        }
        drop(listener);
        server.stop(true).await;
    });
    Ok(())
}

fn print_line(line: fmt::Arguments<'_>) {
    // Nothing of the greeting is needed to serve.
    let _ = write_line(line);
}

fn eprint_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn announce_on_stdout(admin: &FirstAdmin) -> Result<(), String> {
    write_line(announcement(admin))
}

fn announce_on_stderr(admin: &FirstAdmin) -> Result<(), String> {
    writeln!(std::io::stderr(), "{}", announcement(admin))
        .map_err(|error| write_error("standard error", &error))
}

/// The lines about the first admin, written before it is stored: where they cannot be, there is no admin.
fn announcement(admin: &FirstAdmin) -> String {
    let mut text =
        format!("This database is new. It has one user, an admin:\n  email           {}", admin.email);
    if let Some(password) = &admin.random_password {
        text += &format!("\n  password        {}   (shown this once)", password.expose_secret());
    }
    text + "\n"
}

fn print_banner(app: &App, base: &str, print: fn(fmt::Arguments<'_>)) {
    print(format_args!("Cedargate {} listens on {base}", env!("CARGO_PKG_VERSION")));
    print(format_args!("  documentation   {base}/docs"));
    let engine = app.state.policies.current();
    let policies = engine.bundle();
    print(format_args!(
        "  policies        version {}, {} of them",
        policies.version(),
        policies.policies().count()
    ));
    let Some(admin) = &app.first_admin else { return };
    let password = admin.random_password.as_ref().map_or("…", |password| password.expose_secret());
    print(format_args!(
        "\nTo log in:\n  curl {base}/v2/auth/token -H 'Content-Type: application/json' \\\n    -d '{{\"email\": \"{}\", \"password\": \"{password}\"}}'",
        admin.email
    ));
}
