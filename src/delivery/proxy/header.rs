//! The PROXY header, version 2, which tells a forwarder where from and where to (HAProxy's `proxy-protocol.txt`, §2.2).

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of another.
const PROXY: u8 = 0x21;
const TCP_IPV4: u8 = 0x11;
const TCP_IPV6: u8 = 0x21;

/// Asks a forwarder to connect from `source` to `to`; `None` if they are not of one family.
///
/// The port is what the forwarder would see of us otherwise; it uses one of its own.
pub(in crate::delivery) fn header(source: IpAddr, port: u16, to: SocketAddr) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(52);
    header.extend_from_slice(SIGNATURE);
    header.push(PROXY);
    match (source, to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            header.extend_from_slice(&[TCP_IPV4, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            header.extend_from_slice(&[TCP_IPV6, 0, 36]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&to.port().to_be_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, to: &str, expected: Option<&[u8]>) {
        let made = header(source.parse().expect("an address"), 0x1234, to.parse().expect("an address and port"));
        let expected = expected.map(|rest| [b"\r\n\r\n\0\r\nQUIT\n\x21".as_slice(), rest].concat());
        assert_eq!(made, expected, "{source} {to}");
    }

    #[test]
    fn says_where_from_and_where_to() {
        check("192.0.2.1", "198.51.100.7:25", Some(b"\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\x12\x34\0\x19"));
        let long = b"\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x12\x34\0\x19";
        check("2001:db8::1", "[2001:db8::2]:25", Some(long));
        check("192.0.2.1", "[2001:db8::2]:25", None);
    }
}
