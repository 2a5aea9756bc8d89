//! Connections to PostgreSQL: TLS modes, URLs, and errors if the server is not available.

use crate::cluster::Cluster;
use crate::command_line::{run, text};
use crate::lifecycle::create_certificate;
use crate::multi_process::{cached_client, count, log_in, serve_with};
use crate::support::{ADMIN, Database};
use cedargate::config::Config;
use cedargate::store::Store;
use cedargate::types::Clock;
use reqwest::StatusCode;
use serde_json::json;
use std::path::Path;
use std::process::Command;

fn runs_on_postgres() -> bool {
    crate::without_database::postgres_server().is_some()
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
}

/// Creates a certificate for localhost and an authority for client certificates. Returns the server options.
fn with_tls(directory: &Path) -> Vec<String> {
    create_certificate(directory, "server");
    create_certificate(directory, "other");
    // A client certificate for the user, from a separate authority.
    openssl(
        directory,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
    );
    openssl(
        directory,
        "req -newkey rsa:2048 -nodes -subj /CN=cedargate -addext basicConstraints=CA:FALSE -keyout client.key -out client.csr",
    );
    openssl(
        directory,
        "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2 -out client.pem",
    );
    let file = |name: &str| directory.join(name).display().to_string();
    let options = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("server.pem")),
        format!("ssl_key_file={}", file("server.key")),
        format!("ssl_ca_file={}", file("ca.pem")),
        "listen_addresses=127.0.0.1,::1".to_owned(),
    ];
    options.into_iter().flat_map(|option| ["-c".to_owned(), option]).collect()
}

/// Copies a file, with a byte-order mark at its beginning, and returns the name of the copy.
fn with_byte_order_mark(file: &str) -> String {
    let marked = format!("{file}.marked");
    std::fs::write(&marked, ["\u{feff}".as_bytes(), &std::fs::read(file).unwrap()].concat()).unwrap();
    marked
}

/// Opens the database with this URL. Returns the store or the error message.
async fn open(url: &str) -> Result<Store, String> {
    let config = Config { database_url: url.to_owned().into(), ..Config::default() };
    Store::open(&config, &Clock::system()).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_and_verified_as_the_url_requires() {
    if !runs_on_postgres() {
        return;
    }
    let server = Cluster::start_with(with_tls);
    let (port, file) = (server.port(), |name: &str| server.directory().join(name).display().to_string());
    let (trusted, other) = (file("server.pem"), file("other.pem"));
    let marked = ["server.pem", "client.pem", "client.key"].map(|name| with_byte_order_mark(&file(name)));
    let [marked_root, marked_certificate, marked_key] = &marked;
    let client = format!("sslcert={}&sslkey={}", file("client.pem"), file("client.key"));
    let any = "hostssl all all all trust\nhostnossl all all all trust\n";
    let tls_only = "hostssl all all all trust\n";
    let certificate = "hostssl all all 127.0.0.1/32 cert\nhostnossl all all all trust\n";
    // The access rule of the server, the host, the URL parameters, and a part of the message or whether the connection is encrypted.
    let cases: [(&str, &str, &str, Result<bool, &str>); 16] = [
        (any, "localhost", "", Ok(true)),
        (any, "[::1]", "", Ok(true)),
        (any, "localhost", "sslmode=disable", Ok(false)),
        (any, "localhost", "sslmode=require", Ok(true)),
        (any, "localhost", &format!("sslrootcert={trusted}"), Ok(true)),
        (any, "localhost", &format!("sslmode=verify-full&sslrootcert={trusted}"), Ok(true)),
        (any, "localhost", &format!("sslmode=verify-full&sslrootcert={other}"), Err("sslrootcert")),
        (any, "localhost", "sslmode=verify-full", Err("TLS: invalid peer certificate")),
        (any, "127.0.0.1", &format!("sslmode=require&sslrootcert={trusted}"), Err("not valid for name")),
        (
            any,
            "localhost",
            "sslrootcert=/no/such/file",
            Err("cannot read sslrootcert \"/no/such/file\": No such file"),
        ),
        (tls_only, "127.0.0.1", "", Ok(true)),
        (tls_only, "127.0.0.1", "sslmode=disable", Err("no encryption")),
        (certificate, "127.0.0.1", "sslmode=require", Err("certificate")),
        (certificate, "127.0.0.1", &format!("sslmode=require&{client}"), Ok(true)),
        (any, "localhost", &format!("sslrootcert={marked_root}"), Ok(true)),
        (
            certificate,
            "127.0.0.1",
            &format!("sslmode=require&sslcert={marked_certificate}&sslkey={marked_key}"),
            Ok(true),
        ),
    ];
    let socket =
        format!("postgres:///postgres?host={}&port={port}&user=cedargate", server.directory().display());
    for (case, (rules, host, parameters, expected)) in cases.into_iter().enumerate() {
        server.set_access(&format!("local all all trust\n{rules}")).await;
        let name = format!("application_name=case{case}");
        let url = format!("postgres://cedargate@{host}:{port}/postgres?{name}&{parameters}");
        match (open(&url).await, expected) {
            (Ok(store), Ok(is_encrypted)) => {
                store.check().await.unwrap();
                let sessions = async |what: &str| {
                    let query = "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)";
                    count(&socket, &format!("{query} WHERE application_name = 'case{case}' AND {what}")).await
                };
                let found = (sessions("ssl").await > 0, sessions("NOT ssl").await > 0);
                assert_eq!(found, (is_encrypted, !is_encrypted), "{url}");
            }
            (Err(message), Err(part)) => assert!(message.contains(part), "{url}: {message}"),
            (opened, _) => panic!("{url}: {:?}", opened.err()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_runs_on_a_server_that_permits_tls_only_and_on_a_socket() {
    if !runs_on_postgres() {
        return;
    }
    let server = Cluster::start_with(with_tls);
    server.set_access("local all all trust\nhostssl all all all trust\n").await;
    let socket = format!(
        "postgres:///postgres?host={}&port={}&user=cedargate",
        server.directory().display(),
        server.port()
    );
    let trusted = server.directory().join("server.pem").display().to_string();
    let tls = format!("postgres://cedargate@localhost:{}/postgres?sslrootcert={trusted}", server.port());
    for url in [tls, socket.clone()] {
        let directory = tempfile::tempdir().unwrap();
        let database = Database { url, directory, server: None };
        let running = serve_with(&database, &[]);
        let tokens = log_in(&running.base, ADMIN).await;
        let admin = cached_client(&running.base, tokens["token"].as_str().unwrap()).await;
        admin.post("/v2/forms", json!({ "name": "form" })).await.expect(StatusCode::CREATED);
        // The connection for notifications is encrypted too.
        let sessions = |what: &str| {
            format!(
                "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'cedargate' AND {what}"
            )
        };
        if database.url != socket {
            assert_eq!(count(&socket, &sessions("NOT ssl")).await, 0);
            assert!(count(&socket, &sessions("query LIKE 'LISTEN%' OR query = 'SELECT 1'")).await > 0);
        }
        let log = running.stop();
        assert!(!log.contains("row cache is off"), "{log}");
    }
}

#[test]
fn plaintext_to_a_remote_server_is_refused_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    for (url, expected) in [
        ("postgres://u:S3cretWord@db.invalid/d?sslmode=prefer", "sslmode=prefer may send passwords"),
        ("postgres://u:S3cretWord@192.0.2.1/d?sslmode=allow", "sslmode=allow may send passwords"),
        ("postgres://u:S3cretWord@db.invalid/d?sslmode=sometimes", "invalid sslmode"),
        ("postgres://u:S3cretWord@localhost/d?sslcert=Cargo.toml", "sslcert and sslkey go together"),
    ] {
        let output = run(directory.path(), &[("CEDARGATE_DATABASE_URL", url)], &["janitor"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {error}");
        assert!(error.contains(expected) && !error.contains("S3cretWord"), "{url}: {error}");
    }
}

#[test]
fn a_failed_connection_reports_its_first_cause() {
    let directory = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = directory.path().join("missing");
    for (url, expected) in [
        (format!("postgres://u@{free}/d"), format!("{free}: Connection refused")),
        (
            format!("postgres:///d?host={}&user=u", missing.display()),
            "missing/.s.PGSQL.5432: No such file".to_owned(),
        ),
    ] {
        let output = run(directory.path(), &[("CEDARGATE_DATABASE_URL", url.as_str())], &["janitor"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {error}");
        assert!(error.contains(&expected) && !error.contains("timed out"), "{url}: {error}");
    }
}
