//! `cedargate serve`: runs the service until a signal ends it.

use super::janitor::spawn_cleanup;
use super::policy_watch::spawn_reload_tasks;
use super::{CommandResult, Failure, block_on, log, write_error, write_line};
use crate::application::{AppState, audit, policy_proof};
use crate::config::{Config, ConfigError};
use crate::http::drain;
use crate::http::state::HttpState;
use crate::server::{App, FirstAdmin, Inputs, StartError};
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
    // Dropped last, because dropping it writes the remaining lines.
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
        // The limit on open files limits the connections.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
        let inputs = Inputs::read_to_serve(config)?;
        let listener = bind("listen", &config.listen)?;
        let management = config.management_listen.as_deref();
        let management = management.map(|address| bind("management_listen", address)).transpose()?;
        // Held from before the database is opened until the process exits.
        let _serve_lock = ServeLock::acquire(config.database_url.expose_secret())?;
        // The decision log may be written to standard output, which must then contain nothing else.
        let to_stderr = config.decision_log_goes_to_stdout();
        let announce = if to_stderr { announce_on_stderr } else { announce_on_stdout };
        let app = App::open_to_serve(inputs, config, Clock::system(), announce).await?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let listener_clone = listener.try_clone().map_err(Failure::failed)?;
        let server = app.serve(listener).await?;
        // Policies that changed while no process was running become active here, so their version is audited.
        let version = app.state.policies.current().bundle().version().to_owned();
        let started = AuditEntry::new(Event::ServiceStarted).with("policies", version);
        app.state.store.audit(AuditActor::service(app.state.clock.now()), started).await?;
        policy_proof::log_active_proof(&app.state.policies);
        let mut tasks = JoinSet::new();
        let management =
            management.map(|listener| serve_management(&mut tasks, &app, listener)).transpose()?;
        // From here on, SIGHUP no longer terminates the process.
        let mut hangups = unix::signal(unix::SignalKind::hangup()).map_err(Failure::failed)?;
        spawn_reload_tasks(&mut tasks, &app, config.policy_poll_seconds, async move || hangups.recv().await);
        maintain_signing_keys(&mut tasks, &app.state);
        shutdown_on_signal(
            &mut tasks,
            &app.http,
            server.handle(),
            listener_clone,
            config.shutdown_drain_seconds,
        )?;
        spawn_cleanup(&mut tasks, &app.state, config.cleanup_interval);
        let print: fn(fmt::Arguments<'_>) = if to_stderr { eprint_line } else { print_line };
        let scheme = if app.certificates.is_some() { "https" } else { "http" };
        print_banner(&app, &format!("{scheme}://{address}"), print);
        if let Some((address, _)) = &management {
            print(format_args!("Health and metrics: http://{address}"));
        }
        print(format_args!("Press Ctrl-C to stop."));
        let result = server.await.map_err(Failure::failed);
        if let Some((_, management)) = management {
            management.stop(false).await;
        }
        // Tasks return their database connections to the pool, which needs the runtime.
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

/// Starts the management listener, which responds until the service exits. Returns its address and handle.
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
            tracing::error!(%error, "the management listener failed");
        }
    });
    Ok((address, handle))
}

/// Starts the task that follows the signing keys in the database once a second, so that a key revoked by another process is
/// rejected within that time. While the database is reachable, it also writes pending audit entries and stores pending
/// revocations.
fn maintain_signing_keys(tasks: &mut JoinSet<()>, state: &Arc<AppState>) {
    let state = Arc::clone(state);
    tasks.spawn_local(async move {
        let mut was_ok = true;
        loop {
            actix_web::rt::time::sleep(Duration::from_secs(1)).await;
            let maintained = state.signing_keys.maintain().await;
            if let (true, Err(error)) = (was_ok, &maintained) {
                tracing::warn!(%error, "cannot read signing keys; using cached keys");
            }
            was_ok = maintained.is_ok();
            if was_ok {
                // Both are repeated a second later if they fail.
                let _ = audit::write_pending(&state).await;
                let _ = state.store.store_revocations().await;
            }
        }
    });
}

/// The time limit for a shutdown: below the 30 s after which service managers kill the process, so that it can be logged.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(28);

/// Exits the process after [`MAX_SHUTDOWN_TIME`], even if a request, the trace collector or a reader of the decision log blocks
/// the shutdown.
fn start_shutdown_watchdog() {
    let watchdog = || {
        std::thread::sleep(MAX_SHUTDOWN_TIME);
        tracing::error!("shutdown timed out; exiting");
        // The log thread needs time to write the line.
        std::thread::sleep(Duration::from_millis(500));
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new().name("watchdog".into()).spawn(watchdog) {
        tracing::warn!(%error, "cannot start shutdown watchdog");
    }
}

/// Starts the task that shuts the service down on a signal. On SIGTERM, readiness fails for `seconds` seconds first, so that
/// load balancers send no more requests; SIGINT or a second signal skips that. Requests in progress have ten seconds to
/// complete.
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
            tracing::info!(seconds, "shutdown started; readiness fails");
            tokio::select! {
                () = actix_web::rt::time::sleep(Duration::from_secs(seconds)) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        match drain::refuse_new_connections(&listener) {
            Ok(()) => actix_web::rt::time::sleep(drain::BACKLOG_DRAIN_TIME).await,
            Err(error) => {
                tracing::warn!(%error, "cannot refuse new connections; those not yet accepted may be reset");
            }
        }
        drop(listener);
        server.stop(true).await;
    });
    Ok(())
}

fn print_line(line: fmt::Arguments<'_>) {
    // A banner that cannot be written does not prevent the service.
    let _ = write_line(line);
}

fn eprint_line(line: fmt::Arguments<'_>) {
    // Written at once, so that no line of the log comes between its parts.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn announce_on_stdout(admin: &FirstAdmin) -> Result<(), String> {
    write_line(announcement(admin))
}

fn announce_on_stderr(admin: &FirstAdmin) -> Result<(), String> {
    std::io::stderr()
        .write_all(format!("{}\n", announcement(admin)).as_bytes())
        .map_err(|error| write_error("standard error", &error))
}

/// Returns the lines about the first admin. They are written before it is stored; if that fails, no admin is created.
fn announcement(admin: &FirstAdmin) -> String {
    let mut text =
        format!("Created the database with one user, an admin:\n  email           {}", admin.email);
    if let Some(password) = &admin.random_password {
        text += &format!("\n  password        {}   (cannot be displayed again)", password.expose_secret());
    }
    text + "\n"
}

fn print_banner(app: &App, base: &str, print: fn(fmt::Arguments<'_>)) {
    print(format_args!("Cedargate {} listens on {base}", env!("CARGO_PKG_VERSION")));
    print(format_args!("  documentation   {base}/docs"));
    let engine = app.state.policies.current();
    let policies = engine.bundle();
    print(format_args!(
        "  policies        version {}, {} policies",
        policies.short_version(),
        policies.policies().count()
    ));
    let Some(admin) = &app.first_admin else { return };
    let password = admin.random_password.as_ref().map_or("…", |password| password.expose_secret());
    print(format_args!(
        "\nTo log in:\n  curl {base}/v2/auth/token -H 'Content-Type: application/json' \\\n    -d '{{\"email\": \"{}\", \"password\": \"{password}\"}}'",
        admin.email
    ));
}
