//! The address of a PostgreSQL server: connection URL, TLS mode and certificates.

use crate::store::StoreError;
use crate::types::strip_bom_bytes;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::net::IpAddr;
use std::str::FromStr;

/// Parses a connection URL and chooses its TLS mode.
///
/// A host that is neither a loopback address nor a Unix socket gets TLS with a verified certificate unless the URL says
/// otherwise; plaintext needs `sslmode=disable` (see "Plaintext to a remote PostgreSQL" in docs/decisions.md).
///
/// # Errors
///
/// [`StoreError::Misconfigured`] if the URL is malformed, its `sslmode` may fall back to plaintext or verifies less than it
/// says, or a certificate file cannot be read.
pub(super) fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let invalid = |message: String| StoreError::Misconfigured(format!("invalid PostgreSQL URL: {message}"));
    let parameters = Parameters::from_url(url);
    let files = parameters.check().map_err(invalid)?;
    let options: PgConnectOptions = url.parse().map_err(|error| {
        invalid(format!(
            "expected postgres://user:password@host:5432/name, with %40 for an @ in the password: {error}"
        ))
    })?;
    // The parser keeps the brackets of an IPv6 address, which no resolver accepts.
    let host = options.get_host();
    let options = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => options.clone().host(address),
        None => options,
    };
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("cedargate"),
    };
    let mode = match location(&options) {
        Location::Socket => PgSslMode::Disable,
        location => parameters.mode(location == Location::Loopback, options.get_host()).map_err(invalid)?,
    };
    // PgBouncer rejects this parameter. PostgreSQL 12 and later print floating-point numbers exactly without it.
    Ok(files.apply(options).ssl_mode(mode).extra_float_digits(None).disable_statement_logging())
}

/// Returns the host and port, or the path of the socket, for messages; never the user or password.
pub(super) fn describe(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    match options.get_socket() {
        Some(directory) => format!("{}/.s.PGSQL.{port}", directory.display()),
        None if host.starts_with('/') => format!("{host}/.s.PGSQL.{port}"),
        None if host.contains(':') => format!("[{host}]:{port}"),
        None => format!("{host}:{port}"),
    }
}

#[derive(PartialEq, Eq)]
enum Location {
    Socket,
    Loopback,
    Remote,
}

fn location(options: &PgConnectOptions) -> Location {
    let host = options.get_host();
    if options.get_socket().is_some() || host.starts_with('/') {
        return Location::Socket;
    }
    let is_loopback =
        host == "localhost" || IpAddr::from_str(host).is_ok_and(|address| address.is_loopback());
    if is_loopback { Location::Loopback } else { Location::Remote }
}

/// The TLS parameters of the URL, or of the environment variables of libpq.
struct Parameters {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Parameters {
    fn from_url(url: &str) -> Self {
        let url = url::Url::parse(url).ok();
        let find = |names: [&str; 2], variable: &str| {
            let mut pairs = url.iter().flat_map(url::Url::query_pairs);
            let written = pairs.find(|(name, _)| names.contains(&name.as_ref()));
            written.map(|(_, value)| value.into_owned()).or_else(|| std::env::var(variable).ok())
        };
        Self {
            mode: find(["sslmode", "ssl-mode"], "PGSSLMODE"),
            root: find(["sslrootcert", "ssl-root-cert"], "PGSSLROOTCERT"),
            certificate: find(["sslcert", "ssl-cert"], "PGSSLCERT"),
            key: find(["sslkey", "ssl-key"], "PGSSLKEY"),
        }
    }

    /// Checks mode and files, and returns the contents of the files that begin with a byte-order mark.
    fn check(&self) -> Result<FilesWithBom, String> {
        const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        if let Some(mode) = self.mode.as_deref().filter(|mode| !MODES.contains(mode)) {
            return Err(format!("invalid sslmode {mode:?}; expected disable, require or verify-full"));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("sslcert and sslkey go together; expected both or neither".into());
        }
        Ok(FilesWithBom {
            root: read_if_bom("sslrootcert", self.root.as_deref())?,
            certificate: read_if_bom("sslcert", self.certificate.as_deref())?,
            key: read_if_bom("sslkey", self.key.as_deref())?,
        })
    }

    /// Returns the TLS mode to use.
    fn mode(&self, is_loopback: bool, host: &str) -> Result<PgSslMode, String> {
        let is_verified = self.root.is_some();
        match self.mode.as_deref() {
            None if is_verified || !is_loopback => Ok(PgSslMode::VerifyFull),
            None => Ok(PgSslMode::Prefer),
            Some("disable") => Ok(PgSslMode::Disable),
            Some("verify-full") => Ok(PgSslMode::VerifyFull),
            // As in libpq: with a certificate authority, `require` verifies.
            Some("require") if is_verified => Ok(PgSslMode::VerifyFull),
            Some("require") => Ok(PgSslMode::Require),
            // The library accepts the public authorities besides the given one: without a check of the host name, any
            // certificate from them would be accepted.
            Some("verify-ca") => Err("sslmode=verify-ca is not supported; expected verify-full".into()),
            Some(mode @ ("allow" | "prefer")) if !is_loopback => Err(format!(
                "sslmode={mode} may send passwords and data to {host} in plaintext; expected verify-full or require, or \
                 disable to permit plaintext"
            )),
            Some(_) => Ok(PgSslMode::Prefer),
        }
    }
}

/// The contents of PEM files that begin with a byte-order mark, without it: sqlx would skip the first section of such a file.
/// It reads the other files itself for each connection, so that they can be renewed.
struct FilesWithBom {
    root: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl FilesWithBom {
    fn apply(self, mut options: PgConnectOptions) -> PgConnectOptions {
        if let Some(pem) = self.root {
            options = options.ssl_root_cert_from_pem(pem);
        }
        if let Some(pem) = self.certificate {
            options = options.ssl_client_cert_from_pem(pem);
        }
        if let Some(pem) = self.key {
            options = options.ssl_client_key_from_pem(pem);
        }
        options
    }
}

/// Returns the contents of the file of a parameter without its byte-order mark; none if it has no such mark, or if the value of
/// the parameter is the PEM text itself.
///
/// # Errors
///
/// A message if the file cannot be read.
fn read_if_bom(parameter: &str, file: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = file.filter(|file| !file.starts_with("-----BEGIN")) else { return Ok(None) };
    let bytes = std::fs::read(file).map_err(|error| format!("cannot read {parameter} {file:?}: {error}"))?;
    let length = bytes.len();
    Ok(Some(strip_bom_bytes(bytes)).filter(|rest| rest.len() < length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_to_a_remote_host_requires_sslmode_disable() {
        for (url, expected) in [
            ("postgres://u@127.0.0.1/d", Some("Prefer")),
            ("postgres://u@localhost/d", Some("Prefer")),
            ("postgres://u@[::1]:5433/d", Some("Prefer")),
            ("postgres://u@%2Fvar%2Frun/d", Some("Disable")),
            ("postgres:///d?host=/var/run&user=u", Some("Disable")),
            ("postgres://u@db.example.com/d", Some("VerifyFull")),
            ("postgres://u@192.0.2.1/d", Some("VerifyFull")),
            ("postgres://u@[2001:db8::1]/d", Some("VerifyFull")),
            ("postgres://u@/d?host=db.example.com", None),
            ("postgres://u@localhost/d?host=db.example.com", Some("VerifyFull")),
            ("postgres://u@db.example.com/d?sslmode=require", Some("Require")),
            ("postgres://u@db.example.com/d?sslmode=require&sslrootcert=Cargo.toml", Some("VerifyFull")),
            ("postgres://u@localhost/d?sslrootcert=Cargo.toml", Some("VerifyFull")),
            ("postgres://u@db.example.com/d?sslmode=disable", Some("Disable")),
            ("postgres://u@db.example.com/d?sslmode=prefer", None),
            ("postgres://u@db.example.com/d?ssl-mode=allow", None),
            ("postgres://u@db.example.com/d?sslmode=verify-ca", None),
            ("postgres://u@db.example.com/d?sslmode=on", None),
            ("postgres://u@db.example.com/d?sslcert=Cargo.toml", None),
            ("postgres://u@db.example.com/d?sslrootcert=missing.pem", None),
        ] {
            let mode = parse(url).map(|options| format!("{:?}", options.get_ssl_mode()));
            assert_eq!(mode.as_deref().ok(), expected, "{url}: {mode:?}");
        }
    }

    #[test]
    fn ipv6_hosts_are_unbracketed_for_connecting_and_bracketed_in_messages() {
        let options = parse("postgres://u:secret@[::1]:5433/d").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("::1", 5433));
        assert_eq!(describe(&options), "[::1]:5433");
        assert_eq!(describe(&parse("postgres://u@%2Frun%2Fpg/d").unwrap()), "/run/pg/.s.PGSQL.5432");
    }
}
