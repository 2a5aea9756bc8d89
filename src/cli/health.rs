//! `cedargate health`: asks the service that runs with these settings whether it is ready, for a container's health check.

use super::{CommandResult, Failure, print_line};
use crate::config::{Config, ConfigError};
use rustls::crypto::aws_lc_rs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::TlsConfig;

/// How long the service may take to answer: less than the health check of a container waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) fn run(config: &Config) -> CommandResult {
    // The management listener answers while all connections of the other one are taken, and speaks no TLS.
    let (scheme, setting, listen) = match &config.management_listen {
        Some(listen) => ("http", "management_listen", listen),
        None if config.tls_cert.is_some() => ("https", "listen", &config.listen),
        None => ("http", "listen", &config.listen),
    };
    let url = format!("{scheme}://{}/health/ready", local_socket(setting, listen)?);
    // The service is asked by its address, for which its certificate was not made; the connection does not leave this host.
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
        status => Err(Failure::failed(format!("{url}: the service is not ready, it answers {status}"))),
    }
}

/// Returns the socket address at which a process of this host reaches a listener with this setting.
fn local_socket(setting: &str, listen: &str) -> Result<SocketAddr, ConfigError> {
    let invalid = |message: String| ConfigError::new(setting, format!("{listen:?}: {message}"));
    let mut addresses = listen.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
    let mut address = addresses.next().ok_or_else(|| invalid("it names no address".into()))?;
    if address.port() == 0 {
        return Err(invalid(
            "port 0 is a different one at each start; it must be the port of the service".into(),
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
