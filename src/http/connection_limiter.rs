//! Limits on open connections: in total, and from one address.

use crate::application::rate_limits::network_prefix;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The descriptors that remain for everything but connections: the database, logs, policies, listeners.
const RESERVED_FILES: u64 = 256;
/// The minimum number of connections, whatever the limit on open files.
const MIN_CONNECTIONS: usize = 16;

/// Counts the open connections of a listener.
#[derive(Debug)]
pub struct ConnectionLimiter {
    max: usize,
    /// The maximum from one address; 0 for no limit.
    max_per_address: usize,
    /// The proxies, whose connections are those of many clients.
    proxies: Vec<IpNet>,
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    refused: AtomicU64,
    refused_by_address: AtomicU64,
}

/// Returns the number of connections that the limit on open files permits, at most `wanted`.
pub fn cap_by_file_limit(wanted: usize) -> usize {
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    let left = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
    wanted.min(left.max(MIN_CONNECTIONS))
}

impl ConnectionLimiter {
    /// Creates a limit of `max` connections, of these `max_per_address` from one address (0 for no limit). Connections from
    /// `proxies` are not counted by address.
    pub fn new(max: usize, max_per_address: usize, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            proxies,
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
            refused: AtomicU64::new(0),
            refused_by_address: AtomicU64::new(0),
        })
    }

    /// Returns the maximum number of connections.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the numbers of connections that were refused by the total limit and by the limit on one address.
    pub fn refused(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.refused_by_address.load(Ordering::Relaxed))
    }

    /// Admits a connection from `peer`; none if a limit is reached.
    pub fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<ConnectionSlot> {
        let add = |open: usize| Some(open + 1).filter(|open| *open <= self.max);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut slot = ConnectionSlot { connection_limiter: Arc::clone(self), address: None };
        let peer = peer.map(|peer| peer.to_canonical());
        let is_proxy = |peer: &IpAddr| self.proxies.iter().any(|network| network.contains(peer));
        if let Some(peer) = peer.filter(|peer| self.max_per_address > 0 && !is_proxy(peer)) {
            let address = network_prefix(peer);
            let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = by_address.entry(address).or_default();
            if *count >= self.max_per_address {
                drop(by_address);
                self.refused_by_address.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            *count += 1;
            slot.address = Some(address);
        }
        Some(slot)
    }
}

/// The permit of an open connection, released on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    connection_limiter: Arc<ConnectionLimiter>,
    /// The address by which it is counted.
    address: Option<IpAddr>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let ConnectionLimiter { open, by_address, .. } = &*self.connection_limiter;
        open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut by_address = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_limit_per_address_spares_proxies_and_counts_ipv6_by_network() {
        let connections = ConnectionLimiter::new(5, 2, vec!["10.0.0.0/8".parse().unwrap()]);
        let admit = |text: &str| connections.admit(address(text));
        let (first, second) = (admit("192.0.2.1").unwrap(), admit("::ffff:192.0.2.1").unwrap());
        assert!(admit("192.0.2.1").is_none());
        let proxies = [(); 3].map(|()| admit("10.0.0.1").unwrap());
        assert!(admit("192.0.2.2").is_none(), "all places are taken");
        assert_eq!((connections.open(), connections.refused()), (5, (1, 1)));
        drop((first, proxies));
        let third = admit("192.0.2.1").unwrap();
        drop((second, third));
        let _networks = [admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap()];
        assert!(admit("2001:db8::3").is_none() && admit("2001:db8:0:1::3").is_some());
        drop(_networks);
        assert_eq!(connections.open(), 0);
        assert!(connections.by_address.lock().unwrap().is_empty());
    }
}
