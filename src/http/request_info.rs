//! What is known of a request apart from its route: its id, its client, and later its caller.

use super::state::WorkerState;
use crate::store::Origin;
use crate::types::{Id, random_u128};
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use ipnet::IpNet;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The header with the request id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id, action and caller of a request. The id is that of its `X-Request-ID` header if that is short and printable, else a
/// new one.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    pub(super) header: HeaderValue,
    /// The same as text.
    id: Arc<str>,
    /// The action that the route has.
    pub(super) action: Cell<Option<&'static str>>,
    /// The authenticated user.
    pub(super) caller: Cell<Option<Id>>,
}

impl RequestInfo {
    pub(super) fn from_request(request: &ServiceRequest) -> Self {
        let sent = request.headers().get(REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        let header = sent.cloned().unwrap_or_else(new_id);
        let id = header_text(&header).unwrap_or_default().into();
        Self { header, id, action: Cell::new(None), caller: Cell::new(None) }
    }

    /// Returns the id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Sets the authenticated user.
    pub fn set_caller(&self, caller: Id) {
        self.caller.set(Some(caller));
    }

    /// Sets the action.
    pub fn set_action(&self, action: &'static str) {
        self.action.set(Some(action));
    }
}

/// Returns the text of a header value. This is faster than `HeaderValue::to_str`, which checks each byte separately.
pub(super) fn header_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// Returns a new request id: a counter of this thread that starts at a random number.
fn new_id() -> HeaderValue {
    thread_local! {
        static NEXT: Cell<u128> = Cell::new(random_u128());
    }
    let number = NEXT.get();
    NEXT.set(number.wrapping_add(1));
    let mut digits = [0; 32];
    // Cannot fail: the digits have twice the length of the number.
    let _ = hex::encode_to_slice(number.to_be_bytes(), &mut digits);
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("none"))
}

/// Returns the origin of a request as a session stores it: the address, and at most 256 characters of the `User-Agent`.
pub fn request_origin(request: &HttpRequest) -> Origin {
    let agent = request.headers().get(header::USER_AGENT).map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.chars().filter(|letter| !letter.is_control()).take(256).collect()
    });
    let address = client_address(request);
    let id = request.extensions().get::<RequestInfo>().map(|request_info| request_info.id().to_string());
    Origin { address, agent, request: id }
}

/// The header with the client address of a request that a proxy forwards.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client address of a request, computed once.
#[derive(Debug, Clone, Copy)]
struct CachedClientAddress(IpAddr);

/// Returns whether a request comes from a trusted proxy (`trusted_proxies`).
pub fn is_from_trusted_proxy(request: &HttpRequest) -> bool {
    let Some((peer, state)) = request.peer_addr().zip(WorkerState::get(request)) else { return false };
    let peer = peer.ip().to_canonical();
    state.http.config.trusted_proxies.iter().any(|network| network.contains(&peer))
}

/// Returns the address of the client; none if the request did not come over a network.
///
/// That is the peer. If the peer is a trusted proxy (`trusted_proxies`), it is the right-most address of `X-Forwarded-For` that
/// is not a trusted proxy; the client may have written everything left of it. The header of RFC 7239 is not read, because a
/// proxy that sets one of the two headers passes on what the client sent as the other.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    // An IPv4-mapped IPv6 address becomes IPv4: Cedar compares addresses of one family only.
    let peer = request.peer_addr()?.ip().to_canonical();
    let proxies = &WorkerState::get(request)?.http.config.trusted_proxies;
    if proxies.is_empty() {
        return Some(peer);
    }
    if let Some(cached) = request.extensions().get::<CachedClientAddress>() {
        return Some(cached.0);
    }
    let lines: Vec<&[u8]> = request.headers().get_all(FORWARDED_FOR).map(HeaderValue::as_bytes).collect();
    let client =
        resolve_client(peer, proxies, lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')));
    request.extensions_mut().insert(CachedClientAddress(client));
    Some(client)
}

/// Returns the first address from `peer` outwards that is not a trusted proxy; before a malformed hop, the last address. `hops`
/// are the addresses behind the peer, the nearest first.
fn resolve_client<'a>(peer: IpAddr, proxies: &[IpNet], hops: impl Iterator<Item = &'a [u8]>) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut client = peer;
    for hop in hops {
        match parse_hop(hop).filter(|_| is_proxy(&client)) {
            Some(next) => client = next,
            None => break,
        }
    }
    client
}

/// Parses the address of a hop, with or without a port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|socket: SocketAddr| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(peer: &str, forwarded: &str) -> String {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| text.parse().unwrap());
        resolve_client(peer.parse().unwrap(), &proxies, forwarded.as_bytes().rsplit(|byte| *byte == b','))
            .to_string()
    }

    #[test]
    fn the_client_address_is_the_last_one_that_is_not_a_trusted_proxy() {
        for (peer, forwarded, client) in [
            // The header of an untrusted peer is ignored.
            ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            // The client's own header is left of the address that the proxy has added.
            ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "10.0.0.9, 198.51.100.1,10.0.0.2", "198.51.100.1"),
            // All hops are trusted proxies.
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // Ports, brackets, and IPv4-mapped addresses.
            ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
            ("2001:db8:1::1", "[2001:db8:2::7]:4711", "2001:db8:2::7"),
            ("2001:db8:1::1", "[2001:db8:2::7]", "2001:db8:2::7"),
            ("10.0.0.1", "2001:db8:2::7", "2001:db8:2::7"),
            ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
            // Hops behind a malformed one are ignored.
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "198.51.100.1,", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.256", "10.0.0.1"),
        ] {
            assert_eq!(from(peer, forwarded), client, "{peer} says {forwarded:?}");
        }
    }

    proptest! {
        #[test]
        fn addresses_that_a_client_adds_are_ignored(spoofed in "[0-9a-f:., \\[\\]]{0,60}") {
            prop_assert_eq!(from("10.0.0.1", &format!("{spoofed},198.51.100.1")), "198.51.100.1");
            prop_assert_eq!(from("192.0.2.1", &spoofed), "192.0.2.1");
        }
    }
}
