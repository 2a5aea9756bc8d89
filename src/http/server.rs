//! The server: listeners, with or without TLS, whose connections are limited in number and have deadlines.

use super::connection::{Connection, Deadlines, Stream};
use super::connection_limiter::{ConnectionLimiter, ConnectionSlot};
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::ServerBuilder;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::AppConfig;
use actix_web::rt::time::timeout;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The library that parses requests, as the log names it.
pub const PARSER_LOG_TARGET: &str = "actix_http";

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a connection may take to close.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The settings of a listener's connections.
#[derive(Clone)]
pub struct Transport {
    /// Performs TLS handshakes; none if the listener has no TLS.
    pub tls: Option<TlsAcceptor>,
    /// Counts the connections.
    pub connection_limiter: Arc<ConnectionLimiter>,
    /// The deadlines of the connections.
    pub deadlines: Deadlines,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("connections", &self.connection_limiter).finish_non_exhaustive()
    }
}

impl Transport {
    /// Performs the TLS handshake, if the listener has TLS, and wraps the connection.
    async fn accept(self, stream: TcpStream, slot: ConnectionSlot) -> io::Result<Connection> {
        let Self { tls, deadlines, .. } = self;
        let stream = match tls {
            Some(tls) => Stream::Tls(Box::new(timeout(deadlines.head, tls.accept(stream)).await??)),
            None => Stream::Plain(stream),
        };
        Ok(Connection::new(stream, deadlines, slot))
    }
}

/// Adds a listener to a server. `factory` creates the actix application of each worker.
///
/// # Errors
/// The listener cannot be used.
pub fn listen<F, I, S, B>(
    server: ServerBuilder,
    listener: TcpListener,
    transport: Transport,
    factory: F,
) -> io::Result<ServerBuilder>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    let address = listener.local_addr()?;
    let shutdown_signal = server.graceful_shutdown_signal();
    server.listen(format!("cedargate-{address}"), listener, move || {
        let transport = transport.clone();
        let head = transport.deadlines.head;
        let application = factory().into_factory().map_err(error_response);
        // The scheme, host and address in it stay unused: `address.rs` reads the settings, and `ConnectionState` has the scheme.
        let config = |()| AppConfig::default();
        let shutdown_signal = shutdown_signal.clone();
        let http = HttpService::<Connection, _, B>::build()
            .graceful_shutdown_signal(move || {
                let shutdown_signal = shutdown_signal.clone();
                async move { shutdown_signal.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(head)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .local_addr(address)
            .on_connect_ext(|connection: &Connection, data| {
                data.insert(connection.state());
            })
            .finish(map_config(application, config));
        fn_service(move |stream: TcpStream| {
            let transport = transport.clone();
            async move {
                let peer: Option<SocketAddr> = stream.peer_addr().ok();
                let slot = transport.connection_limiter.admit(peer.map(|peer| peer.ip()));
                let slot = slot.ok_or_else(|| io::Error::other("too many connections"))?;
                let connection = transport.accept(stream, slot).await?;
                Ok::<_, DispatchError>((connection, Protocol::Http1, peer))
            }
        })
        .and_then(http)
    })
}

fn error_response(error: impl Into<Error>) -> Response<BoxBody> {
    error.into().error_response().into()
}
