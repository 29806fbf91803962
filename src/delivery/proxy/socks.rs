//! The client's part of SOCKS version 5 (RFC 1928), with user and password where the proxy asks (RFC 1929).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::Credentials;

const VERSION: u8 = 5;
/// Of the dialogue about the password (RFC 1929 §2).
const PASSWORD_VERSION: u8 = 1;

const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;

const CONNECT: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why a proxy does not connect us.
#[derive(Debug, thiserror::Error)]
pub(in crate::delivery) enum SocksError {
    /// The connection to it broke.
    #[error("it hung up: {0}")]
    Lost(#[from] io::Error),
    /// It says what no SOCKS5 proxy says.
    #[error("it does not speak SOCKS5: {0}")]
    Nonsense(&'static str),
    /// It asks for more, or for less, than we have.
    #[error("it takes no way to authenticate that we offer")]
    Methods,
    /// The user or the password is wrong.
    #[error("it refuses the user {0:?} or the password")]
    Password(String),
    /// It answers with a code (RFC 1928 §6).
    #[error("{}", reason(*.0))]
    Refused(u8),
}

impl SocksError {
    /// Whether the proxy did its part, and it is the receiver that cannot be reached.
    pub(in crate::delivery) fn is_of_the_receiver(&self) -> bool {
        matches!(self, SocksError::Refused(3..=6))
    }
}

/// What a code means (RFC 1928 §6).
fn reason(code: u8) -> &'static str {
    match code {
        1 => "the proxy says: general failure",
        2 => "the proxy says: not allowed by its rules",
        3 => "the proxy says: network unreachable",
        4 => "the proxy says: host unreachable",
        5 => "the proxy says: connection refused",
        6 => "the proxy says: no answer in time",
        7 => "the proxy says: it does not know CONNECT",
        8 => "the proxy says: it does not know this family of addresses",
        _ => "the proxy refuses, and does not say why",
    }
}

/// Has the proxy at the other end of `stream` connect it to `to`. Reads not an octet more than the proxy's own.
///
/// Returns the address the proxy says it sends from, if it does.
///
/// # Cancel safety
/// Not safe: the stream is of no use then.
pub(in crate::delivery) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    to: SocketAddr,
    credentials: Option<&Credentials>,
) -> Result<Option<IpAddr>, SocksError> {
    let methods: &[u8] = match credentials {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, PASSWORD],
    };
    write(stream, methods).await?;
    let [version, method] = read(stream).await?;
    if version != VERSION {
        return Err(SocksError::Nonsense("its version is another"));
    }
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => {}
        (PASSWORD, Some(credentials)) => log_in(stream, credentials).await?,
        (0xff, _) => return Err(SocksError::Methods),
        _ => return Err(SocksError::Nonsense("it chose what was not offered")),
    }
    write(stream, &request(to)).await?;
    let [version, code, _, family] = read(stream).await?;
    if version != VERSION {
        return Err(SocksError::Nonsense("its version is another"));
    }
    if code != 0 {
        return Err(SocksError::Refused(code));
    }
    bound(stream, family).await
}

/// RFC 1929 §2.
async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<(), SocksError> {
    let mut line = vec![PASSWORD_VERSION];
    for word in [&credentials.username, &credentials.password] {
        let length = u8::try_from(word.len()).map_err(|_| SocksError::Password(credentials.username.clone()))?;
        line.push(length);
        line.extend_from_slice(word.as_bytes());
    }
    write(stream, &line).await?;
    let [_, status] = read(stream).await?;
    if status != 0 {
        return Err(SocksError::Password(credentials.username.clone()));
    }
    Ok(())
}

fn request(to: SocketAddr) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    match to.ip() {
        IpAddr::V4(ip) => {
            request.push(IPV4);
            request.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(IPV6);
            request.extend_from_slice(&ip.octets());
        }
    }
    request.extend_from_slice(&to.port().to_be_bytes());
    request
}

/// The rest of a good answer: the address and port that the proxy sends from. Many say nothing but zeros.
async fn bound<S: AsyncRead + Unpin>(stream: &mut S, family: u8) -> Result<Option<IpAddr>, SocksError> {
    let address = match family {
        IPV4 => Some(IpAddr::from(Ipv4Addr::from(read::<4, _>(stream).await?))),
        IPV6 => Some(IpAddr::from(Ipv6Addr::from(read::<16, _>(stream).await?))),
        NAME => {
            let [length] = read(stream).await?;
            let mut name = vec![0; length.into()];
            stream.read_exact(&mut name).await?;
            None
        }
        _ => return Err(SocksError::Nonsense("it answers with an unknown kind of address")),
    };
    let _port: [u8; 2] = read(stream).await?;
    Ok(address.filter(|address| !address.is_unspecified()))
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, octets: &[u8]) -> Result<(), SocksError> {
    stream.write_all(octets).await?;
    Ok(stream.flush().await?)
}

async fn read<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; N], SocksError> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets).await?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// Talks to a proxy that says `said` whatever it hears: what came of it, what it heard, and what was left unread.
    async fn talk(said: &[u8], to: &str, user: Option<(&str, &str)>) -> (String, Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(4096);
        theirs.write_all(said).await.expect("there is room");
        let credentials =
            user.map(|(username, password)| Credentials { username: username.into(), password: password.into() });
        let to = to.parse().expect("an address");
        let told = {
            // Nothing more will be said: what is missing is a connection that broke.
            let (mut read, mut write) = tokio::io::split(&mut theirs);
            let _ = (&mut read, write.shutdown().await);
            connect(&mut ours, to, credentials.as_ref()).await
        };
        let told = match told {
            Ok(address) => format!("{address:?}"),
            Err(error) => error.to_string(),
        };
        let mut left = Vec::new();
        ours.read_to_end(&mut left).await.expect("a pipe");
        drop(ours);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.expect("a pipe");
        (told, heard, left)
    }

    #[tokio::test]
    async fn connects_and_leaves_the_rest_unread() {
        let v4 = ("192.0.2.1:25", b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x19".as_slice());
        let v6 =
            ("[2001:db8::1]:2525", b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x09\xdd".as_slice());
        let zeros = (b"\x05\0\0\x01\0\0\0\0\0\0".as_slice(), "None");
        let own = (b"\x05\0\0\x01\xc0\0\x02\x09\x10\0".as_slice(), "Some(192.0.2.9)");
        let own6 = (b"\x05\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\0\0".as_slice(), "Some(2001:db8::9)");
        let name = (b"\x05\0\0\x03\x03abc\0\0".as_slice(), "None");
        for ((to, request), (answer, told)) in [(v4, zeros), (v4, own), (v6, own6), (v6, name)] {
            let said = [b"\x05\0".as_slice(), answer, b"220 mx\r\n"].concat();
            let (seen, heard, left) = talk(&said, to, None).await;
            assert_eq!((seen.as_str(), left.as_slice()), (told, b"220 mx\r\n".as_slice()));
            assert_eq!(heard, [b"\x05\x01\x00".as_slice(), request].concat(), "{to}");
            // With a user, too, where the proxy does not ask for one.
            let (seen, heard, _) = talk(&said, to, Some(("me", "secret"))).await;
            assert_eq!((seen.as_str(), heard), (told, [b"\x05\x02\x00\x02".as_slice(), request].concat()));
        }
    }

    #[tokio::test]
    async fn logs_in_where_the_proxy_asks() {
        let said = b"\x05\x02\x01\0\x05\0\0\x01\0\0\0\0\0\0";
        let (seen, heard, _) = talk(said, "192.0.2.1:25", Some(("me", "secret"))).await;
        assert_eq!(seen, "None");
        assert!(heard.starts_with(b"\x05\x02\x00\x02\x01\x02me\x06secret\x05\x01\x00\x01"), "{heard:?}");
        let (seen, heard, _) = talk(b"\x05\x02\x01\x01", "192.0.2.1:25", Some(("me", "secret"))).await;
        assert_eq!(seen, "it refuses the user \"me\" or the password");
        assert!(heard.ends_with(b"secret"), "and nothing is asked of it");
    }

    #[tokio::test]
    async fn says_why_not() {
        for (said, why, of_the_receiver) in [
            (b"\x05\xff".as_slice(), "it takes no way to authenticate that we offer", false),
            (b"\x05\x02", "it does not speak SOCKS5: it chose what was not offered", false),
            (b"\x05\x01", "it does not speak SOCKS5: it chose what was not offered", false),
            (b"\x04\x5a", "it does not speak SOCKS5: its version is another", false),
            (b"SSH-2.0", "it does not speak SOCKS5: its version is another", false),
            (b"\x05\0\x04\0\0\x01", "it does not speak SOCKS5: its version is another", false),
            (b"\x05\0\x05\0\0\x02", "it does not speak SOCKS5: it answers with an unknown kind of address", false),
            (b"\x05\0\x05\x01\0\x01", "the proxy says: general failure", false),
            (b"\x05\0\x05\x02\0\x01", "the proxy says: not allowed by its rules", false),
            (b"\x05\0\x05\x05\0\x01", "the proxy says: connection refused", true),
            (b"\x05\0\x05\x04\0\x01\0\0\0\0\0\0", "the proxy says: host unreachable", true),
            (b"\x05\0\x05\x63\0\x01", "the proxy refuses, and does not say why", false),
            (b"\x05\0\x05\0\0\x01\0\0", "it hung up: early eof", false),
            (b"", "it hung up: early eof", false),
        ] {
            let (seen, ..) = talk(said, "192.0.2.1:25", None).await;
            assert_eq!(seen, why);
            let refused = said.len() >= 4 && said[3] != 0 && said[1] == 0;
            let code = if refused { said[3] } else { 0 };
            assert_eq!(SocksError::Refused(code).is_of_the_receiver(), of_the_receiver, "{why}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_harms_nobody(said in proptest::collection::vec(any::<u8>(), 0..64), start in 0usize..3) {
            let start: &[u8] = [b"".as_slice(), b"\x05\0", b"\x05\x02\x01\0\x05\0\0"][start];
            let said = [start, said.as_slice()].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async move { talk(&said, "192.0.2.1:25", Some(("me", "secret"))).await });
        }
    }
}
