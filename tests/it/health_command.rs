//! `cedargate health`, which containers use as their health check.

use crate::command_line::{run, start, text};
use crate::lifecycle::{create_certificate, send_signal};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn the_exit_code_reflects_readiness() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    create_certificate(path, "tls");
    let tls = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    for (settings, any) in [(&[] as &[(&str, &str)], "0.0.0.0"), (&tls, "127.0.0.1")] {
        let running = start(path, &[settings, &[("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "15")]].concat());
        let address = running.base.rsplit('/').next().unwrap().replace("127.0.0.1", any);
        // The proxy settings of the environment must be ignored.
        let proxy = [("http_proxy", "http://127.0.0.1:1"), ("ALL_PROXY", "http://127.0.0.1:1")];
        let settings = [settings, &proxy, &[("CEDARGATE_LISTEN", address.as_str())]].concat();
        let output = run(path, &settings, &["health"]);
        assert_eq!(text(&output.stdout), "ready\n", "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0));

        send_signal("-TERM", running.id());
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let output = run(path, &settings, &["health"]);
            if output.status.code() == Some(1) {
                assert!(text(&output.stderr).contains("not ready, status 503"), "{}", text(&output.stderr));
                break;
            }
            assert!(Instant::now() < end, "the service is still ready after SIGTERM");
        }
    }
    let files: Vec<_> = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().starts_with("decisions")), "{files:?}");
}

#[test]
fn the_management_listener_is_preferred() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    create_certificate(path, "tls");
    let tls = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    let running = start(path, &[&tls[..], &[("CEDARGATE_MANAGEMENT_LISTEN", "127.0.0.1:0")]].concat());
    let address = running.banner.lines().find_map(|line| line.strip_prefix("Health and metrics: http://"));
    // Nothing listens on the other address, so the response can only come from the management listener.
    let settings =
        [&tls[..], &[("CEDARGATE_LISTEN", "127.0.0.1:1"), ("CEDARGATE_MANAGEMENT_LISTEN", address.unwrap())]]
            .concat();
    let output = run(path, &settings, &["health"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("ready\n", Some(0)));
}

#[test]
fn an_unreachable_service_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    // A listener that accepts no connections.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = silent.local_addr().unwrap().to_string();
    for (listen, expected) in [
        (free.as_str(), "http://127.0.0.1:"),
        (&silent, "timeout"),
        ("127.0.0.1:0", "CEDARGATE_LISTEN"),
        ("no such host:80", "CEDARGATE_LISTEN"),
    ] {
        let output = run(directory.path(), &[("CEDARGATE_LISTEN", listen)], &["health"]);
        assert_eq!(output.status.code(), Some(1), "{listen}");
        assert!(text(&output.stderr).contains(expected), "{listen}: {}", text(&output.stderr));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no database may be created");
}
