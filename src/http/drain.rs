//! The end of a service that loses no connection.

use socket2::{SockFilter, SockRef};
use std::net::TcpListener;
use std::time::Duration;

/// How long the connections are accepted that were established before new ones were refused.
pub const BACKLOG_DRAIN_TIME: Duration = Duration::from_secs(1);

/// Has the kernel drop the first packet of every new connection to this listener, while those that are established already
/// are still accepted. When the listener is closed afterwards, the client repeats that packet and is refused: a proxy then takes
/// another replica. Without this, connections that wait to be accepted when the listener is closed are reset, perhaps with a
/// request on them that must not be sent twice.
///
/// # Errors
///
/// Where the kernel takes no such filter.
pub fn refuse_new_connections(listener: &TcpListener) -> std::io::Result<()> {
    // Classic BPF: load the byte with the TCP flags; where SYN is set and ACK is not, keep no byte of the packet, else all.
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}
