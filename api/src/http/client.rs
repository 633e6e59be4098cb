//! Who is asking: the client's network, which is what limits are counted by.
//!
//! A single client has many addresses (a household's IPv6 prefix, a provider's pool), so limits go by network: /24 for
//! IPv4, /56 for IPv6. X-Forwarded-For can be written by anyone, so it is believed only as far as it was added by a
//! proxy that the settings name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use poem::Request;

/// The proxies whose X-Forwarded-For is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

/// The network of whoever sent the request, such as `192.0.2.0/24`.
pub fn network(request: &Request, trusted: &TrustedProxies) -> String {
    let peer = request.remote_addr().as_socket_addr().map(|address| address.ip().to_canonical());
    // A connection without an IP address is a test's.
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let forwarded = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let forwarded: Vec<&str> = forwarded.flat_map(|value| value.split(',')).map(str::trim).collect();
    network_of(trusted.client(peer, &forwarded))
}

impl TrustedProxies {
    /// The address that the outermost trusted proxy saw: from the right, the first that is no trusted proxy.
    fn client(&self, peer: IpAddr, forwarded: &[&str]) -> IpAddr {
        let mut client = peer;
        for hop in forwarded.iter().rev() {
            if !self.0.iter().any(|network| network.contains(client)) {
                break;
            }
            // An unreadable hop was not written by a proxy of ours; what stands left of it proves nothing.
            match parse_hop(hop) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches('"');
    let address = hop.parse().ok().or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn network_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => format!("{}/24", Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8))),
        IpAddr::V6(ip) => format!("{}/56", Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 72))),
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let same_prefix = |a: u128, b: u128, width: u32| self.prefix == 0 || (a ^ b) >> (width - self.prefix) == 0;
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_prefix(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for TrustedProxies {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(width), |prefix| prefix.parse().map_err(|_| ()))?;
        if prefix <= width { Ok(Self { address, prefix }) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let trusted = if trusted.is_empty() { TrustedProxies::default() } else { trusted.parse().unwrap() };
        trusted.client(peer.parse().unwrap(), forwarded).to_string()
    }

    #[test]
    fn a_forwarded_address_is_believed_from_trusted_proxies_only() {
        assert_eq!(client("", "192.0.2.1", &["198.51.100.9"]), "192.0.2.1");
        assert_eq!(client("10.0.0.0/8", "192.0.2.1", &["198.51.100.9"]), "192.0.2.1");
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &["198.51.100.9"]), "198.51.100.9");
        // What the client itself wrote stands to the left of what the proxy added.
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &["1.1.1.1", "198.51.100.9"]), "198.51.100.9");
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &["198.51.100.9", "10.2.2.2"]), "198.51.100.9");
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &["198.51.100.9", "unknown"]), "10.1.1.1");
        assert_eq!(client("10.0.0.0/8,::1", "::1", &["198.51.100.9:4711"]), "198.51.100.9");
        assert_eq!(client("0.0.0.0/0", "10.1.1.1", &["198.51.100.9", "10.2.2.2"]), "198.51.100.9");
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &["::ffff:198.51.100.9"]), "198.51.100.9");
    }

    #[test]
    fn clients_are_told_apart_by_network() {
        let network = |address: &str| network_of(address.parse().unwrap());
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:22ff::9"), "2001:db8:1:2200::/56");
        assert_eq!(network("2001:db8:1:2200::1"), network("2001:db8:1:22fe::2"));
    }

    #[test]
    fn mistyped_networks_are_refused() {
        for text in ["10.0.0.0/33", "10.0.0/8", "proxy", "", "10.0.0.1,", "::1/129", "10.0.0.0/-1"] {
            assert!(text.parse::<TrustedProxies>().is_err(), "{text}");
        }
    }
}
