//! `cedargate health`, by which a container asks whether its service is ready.

use crate::command_line::{run, start, text};
use crate::running::{certificate, signal};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn it_says_by_its_exit_code_whether_the_service_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    certificate(path, "tls");
    let tls = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    for (settings, any) in [(&[] as &[(&str, &str)], "0.0.0.0"), (&tls, "127.0.0.1")] {
        let running = start(path, &[settings, &[("CEDARGATE_DRAIN", "15")]].concat());
        let address = running.base.rsplit('/').next().unwrap().replace("127.0.0.1", any);
        // A proxy of the environment is for other hosts.
        let proxy = [("http_proxy", "http://127.0.0.1:1"), ("ALL_PROXY", "http://127.0.0.1:1")];
        let settings = [settings, &proxy, &[("CEDARGATE_LISTEN", address.as_str())]].concat();
        let output = run(path, &settings, &["health"]);
        assert_eq!(text(&output.stdout), "ready\n", "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0));

        signal("-TERM", running.id());
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let output = run(path, &settings, &["health"]);
            if output.status.code() == Some(1) {
                assert!(text(&output.stderr).contains("it answers 503"), "{}", text(&output.stderr));
                break;
            }
            assert!(Instant::now() < end, "it is ready after SIGTERM");
        }
    }
    let files: Vec<_> = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().starts_with("decisions")), "{files:?}");
}

#[test]
fn it_asks_the_management_listener_where_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    certificate(path, "tls");
    let tls = [("CEDARGATE_TLS_CERT", "tls.pem"), ("CEDARGATE_TLS_KEY", "tls.key")];
    let running = start(path, &[&tls[..], &[("CEDARGATE_MANAGEMENT_LISTEN", "127.0.0.1:0")]].concat());
    let address = running.greeting.lines().find_map(|line| line.strip_prefix("Health and metrics: http://"));
    // Nothing listens at the other address, so an answer can come from the management listener only.
    let settings =
        [&tls[..], &[("CEDARGATE_LISTEN", "127.0.0.1:1"), ("CEDARGATE_MANAGEMENT_LISTEN", address.unwrap())]]
            .concat();
    let output = run(path, &settings, &["health"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("ready\n", Some(0)));
}

#[test]
fn where_nothing_answers_it_fails() {
    let directory = tempfile::tempdir().unwrap();
    // A listener that accepts nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = silent.local_addr().unwrap().to_string();
    for (listen, told) in [
        (free.as_str(), "http://127.0.0.1:"),
        (&silent, "timeout"),
        ("127.0.0.1:0", "CEDARGATE_LISTEN"),
        ("no such host:80", "CEDARGATE_LISTEN"),
    ] {
        let output = run(directory.path(), &[("CEDARGATE_LISTEN", listen)], &["health"]);
        assert_eq!(output.status.code(), Some(1), "{listen}");
        assert!(text(&output.stderr).contains(told), "{listen}: {}", text(&output.stderr));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no database is made");
}
