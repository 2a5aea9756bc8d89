//! Shutdown of a listener without a loss of connections.

use socket2::{SockFilter, SockRef};
use std::net::TcpListener;
use std::time::Duration;

/// For how long connections are accepted that were established before new ones were refused.
pub const BACKLOG_DRAIN_TIME: Duration = Duration::from_secs(1);

/// Makes the kernel drop the first packet of every new connection to this listener; established ones are still accepted.
///
/// When the listener is closed afterwards, the client repeats that packet and is refused, and a proxy uses another replica.
/// Without this filter, closing the listener resets the connections in its backlog, which may carry a request that must not be
/// repeated.
///
/// # Errors
/// The kernel does not accept the filter.
pub fn refuse_new_connections(listener: &TcpListener) -> std::io::Result<()> {
    // Classic BPF: load the byte with the TCP flags. If SYN is set and ACK is not, keep no byte of the packet, else all.
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}
