//! `cedargate serve`.

use super::{Failure, Outcome, block_on, say};
use crate::app::{App, StartError};
use crate::config::{Config, ConfigError, LogFormat};
use crate::http::Parts;
use crate::values::Clock;
use actix_web::rt::signal::unix;
use secrecy::ExposeSecret;
use std::fmt;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

pub(super) fn run(config: &Config) -> Outcome {
    log(config)?;
    block_on(async {
        let listener = TcpListener::bind(&config.listen).map_err(|error| {
            StartError::Listen(ConfigError::new(
                "listen",
                format!("cannot listen on {:?}: {error}", config.listen),
            ))
        })?;
        let app = App::open(config, Clock::system()).await?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let server = app.serve(listener).await?;
        watch(&app.parts, config.policy_poll)?;
        tend_keys(&app.parts);
        // The log may have the standard output to itself.
        let say: fn(fmt::Arguments<'_>) =
            if config.decision_log_goes_to_stdout() { whisper } else { say_line };
        greet(&app, &format!("http://{address}"), say);
        say(format_args!("Ctrl-C ends it."));
        let served = server.await.map_err(Failure::failed);
        app.parts.decision_log.close();
        served
    })
}

/// Has the policies read again when their files change, and on SIGHUP.
fn watch(parts: &Arc<Parts>, seconds: u64) -> Outcome {
    // From here on a hangup does not end the process any more.
    let mut hangups = unix::signal(unix::SignalKind::hangup()).map_err(Failure::failed)?;
    let on_hangup = Arc::clone(parts);
    actix_web::rt::spawn(async move {
        while hangups.recv().await.is_some() {
            reload(&on_hangup).await;
        }
    });
    let on_change = Arc::clone(parts);
    if seconds > 0 {
        actix_web::rt::spawn(async move {
            loop {
                actix_web::rt::time::sleep(Duration::from_secs(seconds)).await;
                let parts = Arc::clone(&on_change);
                if actix_web::web::block(move || parts.policies.is_stale()).await.unwrap_or(false) {
                    reload(&on_change).await;
                }
            }
        });
    }
    Ok(())
}

/// Looks after the keys that sign, once a second: so soon is one refused that was revoked at the terminal.
fn tend_keys(parts: &Arc<Parts>) {
    let parts = Arc::clone(parts);
    actix_web::rt::spawn(async move {
        let mut is_well = true;
        loop {
            actix_web::rt::time::sleep(Duration::from_secs(1)).await;
            let tended = parts.tokens.tend().await;
            if let (true, Err(error)) = (is_well, &tended) {
                tracing::warn!(%error, "the keys that sign cannot be read; those of a while ago go on");
            }
            is_well = tended.is_ok();
        }
    });
}

async fn reload(parts: &Arc<Parts>) {
    let parts = Arc::clone(parts);
    // What came of it is in the log.
    let _ = actix_web::web::block(move || parts.policies.reload()).await;
}

fn log(config: &Config) -> Outcome {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| ConfigError::new("log", error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn say_line(line: fmt::Arguments<'_>) {
    say(line);
}

fn whisper(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
    say(format_args!(
        "\nThis database is new. It has one user, an admin:\n  email           {}",
        admin.email
    ));
    let password = match &admin.random_password {
        Some(password) => {
            say(format_args!("  password        {}   (shown this once)", password.expose_secret()));
            password.expose_secret()
        }
        None => "…",
    };
    say(format_args!(
        "\nTo log in:\n  curl {base}/v2/auth/token -H 'Content-Type: application/json' \\\n    -d '{{\"email\": \"{}\", \"password\": \"{password}\"}}'",
        admin.email
    ));
}
