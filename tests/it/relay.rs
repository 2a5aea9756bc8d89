//! A network between the service and PostgreSQL that becomes silent or slow.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP proxy that can stop forwarding without closing a connection, as a firewall that has lost its state.
pub(crate) struct Relay {
    address: SocketAddr,
    network: watch::Sender<Network>,
}

#[derive(Clone, Copy, Default)]
struct Network {
    /// Whether connections are accepted but nothing is forwarded.
    is_silent: bool,
    /// The number of times that all open connections became silent. They stay silent.
    silences: u64,
    /// The number of accepted connections.
    accepted: u64,
    /// The time until a new connection is forwarded.
    connect_delay: Duration,
}

impl Relay {
    /// A proxy for the server of this database.
    pub(crate) async fn start_to(database: &str) -> Self {
        let port = port_of(database);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = watch::Sender::new(Network::default());
        let accepting = network.clone();
        tokio::spawn(async move {
            while let Ok((mut downstream, _)) = listener.accept().await {
                accepting.send_modify(|network| network.accepted += 1);
                let mut network = accepting.subscribe();
                let Network { silences, connect_delay, .. } = *network.borrow();
                tokio::spawn(async move {
                    let forward = async {
                        tokio::time::sleep(connect_delay).await;
                        // A stopped server refuses the connection.
                        let Ok(mut upstream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                        drop(tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await);
                    };
                    let is_cut = |now: &Network| now.is_silent || now.silences > silences;
                    let silenced = async { drop(network.wait_for(is_cut).await) };
                    tokio::select! {
                        biased;
                        // Both ends stay open.
                        () = silenced => std::future::pending().await,
                        () = forward => {}
                    }
                });
            }
        });
        Self { address, network }
    }

    /// The URL of this database by way of the proxy.
    pub(crate) fn url_of(&self, database: &str) -> String {
        let mut url = reqwest::Url::parse(database).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.to_string()
    }

    /// Stops forwarding, on open connections and on new ones.
    pub(crate) fn fall_silent(&self) {
        self.network.send_modify(|network| network.is_silent = true);
    }

    /// Forwards new connections again.
    pub(crate) fn recover(&self) {
        self.network.send_modify(|network| network.is_silent = false);
    }

    /// Stops forwarding on open connections only.
    pub(crate) fn silence_open_connections(&self) {
        self.network.send_modify(|network| network.silences += 1);
    }

    pub(crate) fn delay_new_connections(&self, delay: Duration) {
        self.network.send_modify(|network| network.connect_delay = delay);
    }

    /// The number of connections that the proxy has accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.network.borrow().accepted
    }
}

fn port_of(database: &str) -> u16 {
    reqwest::Url::parse(database).unwrap().port().unwrap()
}
