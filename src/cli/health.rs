//! `cedargate health`: asks the running service with these settings whether it is ready, for the health check of a container.

use super::{CommandResult, Failure, print_line};
use crate::config::{Config, ConfigError};
use rustls::crypto::aws_lc_rs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::TlsConfig;

/// The time limit for the response: less than that of the health check in the Dockerfile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) fn run(config: &Config) -> CommandResult {
    // The management listener has no TLS, and answers while all connections of the main listener are in use.
    let (scheme, setting, listen) = match &config.management_listen {
        Some(listen) => ("http", "management_listen", listen),
        None if config.tls_cert.is_some() => ("https", "listen", &config.listen),
        None => ("http", "listen", &config.listen),
    };
    let url = format!("{scheme}://{}/health/ready", local_socket(setting, listen)?);
    // The certificate does not name the address, and the connection does not leave this host.
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .disable_verification(true)
        .build();
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(REQUEST_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .tls_config(tls)
        .build()
        .into();
    let response = agent.get(&url).call().map_err(|error| Failure::failed(format!("{url}: {error}")))?;
    match response.status().as_u16() {
        200 => print_line("ready"),
        status => Err(Failure::failed(format!("{url}: not ready, status {status}"))),
    }
}

/// Returns the address at which a process on this host reaches the listener of a setting.
fn local_socket(setting: &str, listen: &str) -> Result<SocketAddr, ConfigError> {
    let invalid = |message: String| ConfigError::new(setting, format!("{listen:?}: {message}"));
    let mut addresses = listen.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
    let mut address = addresses.next().ok_or_else(|| invalid("the name has no address".into()))?;
    if address.port() == 0 {
        return Err(invalid(
            "expected the port of the running service, got 0, which is a different one at each start".into(),
        ));
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(address)
}
