//! Which addresses mail may go to.
//!
//! Anyone can publish `MX 10 printer.example` with an address inside our network, and then have us talk to it. So an
//! address found by DNS or given as a literal is used only if it is one of the public Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether to connect to `ip`. `allow_loopback` opens private, loopback, link-local and other local networks, never
/// those that name no single host.
pub(super) fn may_be_sent_to(ip: IpAddr, allow_loopback: bool) -> bool {
    match kind(ip) {
        Kind::Public => true,
        Kind::Local => allow_loopback,
        Kind::Nobody => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    /// Ours to reach, not the world's.
    Local,
    /// Unspecified, multicast, broadcast.
    Nobody,
}

fn kind(ip: IpAddr) -> Kind {
    match ip {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) => kind_v6(ip),
    }
}

/// The IPv4 special-purpose address registry (RFC 6890), as far as it is not globally reachable.
fn kind_v4(ip: Ipv4Addr) -> Kind {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (0, ..) | (224.., ..) => Kind::Nobody,
        (10 | 127, ..)
        | (100, 64..=127, _)
        | (169, 254, _)
        | (172, 16..=31, _)
        | (192, 0, 0 | 2)
        | (192, 168, _)
        | (198, 18 | 19, _)
        | (198, 51, 100)
        | (203, 0, 113) => Kind::Local,
        _ => Kind::Public,
    }
}

/// The IPv6 one. Addresses that carry an IPv4 address inside are what that one is.
fn kind_v6(ip: Ipv6Addr) -> Kind {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| kind_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) if g == 0 && h == 0 => Kind::Nobody,
        (0, 0, 0, 0, 0, 0) if g == 0 && h == 1 => Kind::Local,
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => embedded(g, h),
        // RFC 7915: IPv4 behind a translator.
        (0, 0, 0, 0, 0xffff, 0) => embedded(g, h),
        (0x2002, ..) => embedded(b, c),
        (0xff00.., ..) => Kind::Nobody,
        (0xfc00..=0xfdff | 0xfe80..=0xfeff | 0x5f00, ..)
        | (0x64, 0xff9b, 1, ..)
        | (0x100, 0, 0, ..)
        | (0x2001, 0..=0x1ff | 0xdb8, ..)
        | (0x3fff, 0..=0xfff, ..) => Kind::Local,
        _ => Kind::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ips: &[&str], expected: Kind) {
        for ip in ips {
            assert_eq!(kind(ip.parse().expect("an address")), expected, "{ip}");
        }
    }

    #[test]
    fn knows_special_networks() {
        check(&["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "192.0.3.1", "198.20.0.1"], Kind::Public);
        check(&["2a00:1450:4001::1a", "2606:4700::1", "2001:4860::1", "::ffff:8.8.8.8"], Kind::Public);
        check(&["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1"], Kind::Local);
        check(&["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1"], Kind::Local);
        check(&["::1", "fe80::1", "fd00::1", "2001:db8::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1"], Kind::Local);
        check(&["2002:7f00:1::", "2001::1", "fec0::1", "3fff::1"], Kind::Local);
        check(&["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1"], Kind::Nobody);
        check(&["::", "ff02::1", "::ffff:0.0.0.0"], Kind::Nobody);
    }

    #[test]
    fn loopback_opens_local_networks_only() {
        let local: IpAddr = "127.0.0.1".parse().expect("an address");
        let nobody: IpAddr = "0.0.0.0".parse().expect("an address");
        assert!(may_be_sent_to(local, true) && !may_be_sent_to(local, false));
        assert!(!may_be_sent_to(nobody, true));
    }
}
