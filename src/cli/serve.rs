//! `cedargate serve`.

use super::janitor::keep_sweeping;
use super::policy_watch::watch;
use super::{Failure, Outcome, block_on, log, unwritable, write_line};
use crate::app::{App, FirstAdmin, StartError, check_settings};
use crate::config::{Config, ConfigError};
use crate::http::{Parts, audit, drain};
use crate::store::{Cause, Entry, Event, ServeLock};
use crate::trace;
use crate::values::Clock;
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

pub(super) fn run(config: &Config) -> Outcome {
    // Dropped last: it writes the last lines.
    let _log = log::start(config)?;
    let traces = trace::start(config)?;
    let served = serve(config);
    if let Some(traces) = traces {
        traces.end();
    }
    served
}

fn serve(config: &Config) -> Outcome {
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
        let _serving = ServeLock::acquire(config.database_url.expose_secret())?;
        // The decision log may have the standard output to itself.
        let to_stderr = config.decision_log_goes_to_stdout();
        let announce = if to_stderr { announce_on_stderr } else { announce_on_stdout };
        let app = App::open_to_serve(config, Clock::system(), announce).await?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let own_listener = listener.try_clone().map_err(Failure::failed)?;
        let server = app.serve(listener).await?;
        // Policies that changed while nothing served come into force here.
        let version = app.parts.policies.current().bundle().version().to_owned();
        let started = Entry::new(Event::ServiceStarted).with("policies", version);
        app.parts.store.audit(Cause::service(app.parts.clock.now()), started).await?;
        let mut tasks = JoinSet::new();
        let management = management.map(|listener| manage(&mut tasks, &app, listener)).transpose()?;
        watch(&mut tasks, &app, config.policy_poll)?;
        tend_keys(&mut tasks, &app.parts);
        end_on_signal(&mut tasks, &app.parts, server.handle(), own_listener, config.drain)?;
        keep_sweeping(&mut tasks, &app.parts, config.janitor_interval);
        let say: fn(fmt::Arguments<'_>) = if to_stderr { whisper } else { say_line };
        let scheme = if app.certificates.is_some() { "https" } else { "http" };
        greet(&app, &format!("{scheme}://{address}"), say);
        if let Some((address, _)) = &management {
            say(format_args!("Health and metrics: http://{address}"));
        }
        say(format_args!("Ctrl-C ends it."));
        let served = server.await.map_err(Failure::failed);
        if let Some((_, management)) = management {
            management.stop(false).await;
        }
        // A connection to the database has to be given back while there is a runtime.
        tasks.shutdown().await;
        audit::finish(&app.parts).await;
        app.parts.decision_log.close();
        served
    })
}

/// Listens on the address of a setting.
fn bind(setting: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| {
        StartError::Listen(ConfigError::new(setting, format!("cannot listen on {address:?}: {error}")))
    })
}

/// Starts the management listener, which answers until the service has ended. Returns its address and its handle.
fn manage(
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
fn tend_keys(tasks: &mut JoinSet<()>, parts: &Arc<Parts>) {
    let parts = Arc::clone(parts);
    tasks.spawn_local(async move {
        let mut is_well = true;
        loop {
            actix_web::rt::time::sleep(Duration::from_secs(1)).await;
            let tended = parts.tokens.tend().await;
            if let (true, Err(error)) = (is_well, &tended) {
                tracing::warn!(%error, "the keys that sign cannot be read; those of a while ago go on");
            }
            is_well = tended.is_ok();
            if is_well {
                // Where it cannot, there is another time.
                let _ = audit::catch_up(&parts).await;
                let _ = parts.store.store_revocations().await;
            }
        }
    });
}

/// How long the end may take: so much less than the 30 s after which service managers kill that it can say so.
const LONGEST_END: Duration = Duration::from_secs(28);

/// Ends the process when [`LONGEST_END`] is over, whatever it waits for then: a request, a collector of traces, or a reader of
/// the decision log that does not read.
fn end_in_time() {
    let end = || {
        std::thread::sleep(LONGEST_END);
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
fn end_on_signal(
    tasks: &mut JoinSet<()>,
    parts: &Arc<Parts>,
    server: ServerHandle,
    listener: TcpListener,
    seconds: u64,
) -> Outcome {
    let mut terminate = unix::signal(unix::SignalKind::terminate()).map_err(Failure::failed)?;
    let mut interrupt = unix::signal(unix::SignalKind::interrupt()).map_err(Failure::failed)?;
    let parts = Arc::clone(parts);
    tasks.spawn_local(async move {
        let is_patient = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        end_in_time();
        parts.is_ending.store(true, Ordering::Release);
        if is_patient {
            tracing::info!(seconds, "the service is no longer ready, and ends");
            tokio::select! {
                () = actix_web::rt::time::sleep(Duration::from_secs(seconds)) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        match drain::refuse_new_connections(&listener) {
            Ok(()) => actix_web::rt::time::sleep(drain::ACCEPT_REST).await,
            Err(error) => tracing::warn!(%error, "connections that wait to be accepted may be reset"),
        }
        drop(listener);
        server.stop(true).await;
    });
    Ok(())
}

fn say_line(line: fmt::Arguments<'_>) {
    // Nothing of the greeting is needed to serve.
    let _ = write_line(line);
}

fn whisper(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn announce_on_stdout(admin: &FirstAdmin) -> Result<(), String> {
    write_line(announcement(admin))
}

fn announce_on_stderr(admin: &FirstAdmin) -> Result<(), String> {
    writeln!(std::io::stderr(), "{}", announcement(admin))
        .map_err(|error| unwritable("standard error", &error))
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

fn greet(app: &App, base: &str, say: fn(fmt::Arguments<'_>)) {
    say(format_args!("Cedargate {} listens on {base}", env!("CARGO_PKG_VERSION")));
    say(format_args!("  documentation   {base}/docs"));
    let engine = app.parts.policies.current();
    let policies = engine.bundle();
    say(format_args!(
        "  policies        version {}, {} of them",
        policies.version(),
        policies.policies().count()
    ));
    let Some(admin) = &app.first_admin else { return };
    let password = admin.random_password.as_ref().map_or("…", |password| password.expose_secret());
    say(format_args!(
        "\nTo log in:\n  curl {base}/v2/auth/token -H 'Content-Type: application/json' \\\n    -d '{{\"email\": \"{}\", \"password\": \"{password}\"}}'",
        admin.email
    ));
}
