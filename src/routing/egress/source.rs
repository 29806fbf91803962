//! One source: its addresses, its name in EHLO, what connects for it, and whether it is fit to send.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Credentials, Proxy, SourceConfig};
use crate::mail::Domain;
use crate::routing::RoutingError;
use crate::routing::fixed::read_password;

/// The longest user name or password of a SOCKS5 proxy in octets (RFC 1929 §2).
const SOCKS_WORD_MAX: usize = 255;

/// How long a proxy that was out may take to let us connect again.
const PROXY_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Who we are to a receiver. Shared; what is fit to send may change at any time.
#[derive(Debug)]
pub struct Source {
    /// For pools, events, metrics, operators.
    pub name: Arc<str>,
    /// This host's, or the proxy's; empty: the system or the proxy chooses.
    pub addresses: Vec<IpAddr>,
    /// `None`: the daemon's own.
    pub ehlo: Option<Domain>,
    /// What connects for it.
    pub proxy: Option<Arc<Proxy>>,
    /// Read for every message, changed hardly ever.
    out: AtomicBool,
    lost: Mutex<Lost>,
}

/// What a source lacks at present.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Lost {
    addresses: Vec<IpAddr>,
    /// Why the proxy cannot be reached.
    proxy: Option<Box<str>>,
}

/// Why a source has no address for a receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// It has none of that family, and never will.
    #[error("source {0} has no address of this family")]
    Family(Arc<str>),
    /// It has, but not now.
    #[error("source {name} is out: {why}")]
    Lost {
        /// Which.
        name: Arc<str>,
        /// What it lacks.
        why: String,
    },
}

impl Source {
    /// A source that sends from `addresses`, or as the system chooses.
    pub(super) fn new(name: &str, addresses: Vec<IpAddr>) -> Source {
        let (name, out) = (name.into(), AtomicBool::new(false));
        Source { name, addresses, ehlo: None, proxy: None, out, lost: Mutex::default() }
    }

    pub(super) fn read(config: &SourceConfig) -> Result<Source, RoutingError> {
        let credentials = match (&config.username, &config.password_file) {
            (Some(username), Some(file)) => {
                let failed = |source| RoutingError::PasswordFile { path: file.clone(), source };
                let password = read_password(file).map_err(failed)?;
                if password.len() > SOCKS_WORD_MAX {
                    let why = "RFC 1929 §2 has no room for more than 255 octets";
                    return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Some(Credentials { username: username.clone(), password })
            }
            _ => None,
        };
        let proxy = config.proxy.map(|url| Arc::new(Proxy { url, credentials }));
        Ok(Source { ehlo: config.ehlo.clone(), proxy, ..Source::new(&config.name, config.addresses.clone()) })
    }

    /// Nothing can be sent from it at present.
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// What it lacks at present, for people; `None`: nothing. A source may lack an address and still send from another.
    pub fn trouble(&self) -> Option<String> {
        self.lost().tell(self)
    }

    /// An address to reach `peer` from, any of those there are; `None`: as the system or the proxy chooses.
    ///
    /// # Errors
    /// It has no such address, now or at all.
    pub fn address_for(&self, peer: IpAddr, rng: &mut impl Rng) -> Result<Option<IpAddr>, NoAddress> {
        let lost = self.lost();
        let no_address = || NoAddress::Lost { name: Arc::clone(&self.name), why: lost.tell(self).unwrap_or_default() };
        if lost.proxy.is_some() {
            return Err(no_address());
        }
        if self.addresses.is_empty() {
            return Ok(None);
        }
        let fits = |address: &&IpAddr| address.is_ipv4() == peer.is_ipv4();
        let mut fitting = self.addresses.iter().filter(fits).peekable();
        if fitting.peek().is_none() {
            return Err(NoAddress::Family(Arc::clone(&self.name)));
        }
        let there: Vec<IpAddr> = fitting.copied().filter(|address| !lost.addresses.contains(address)).collect();
        match there.as_slice() {
            [] => Err(no_address()),
            [only] => Ok(Some(*only)),
            several => Ok(Some(several[rng.random_range(0..several.len())])),
        }
    }

    /// A session found that `address` is not ours, or, if there is none, that the proxy cannot be reached, for this
    /// reason. True if that is news.
    pub fn note_lost(&self, address: Option<IpAddr>, why: &str) -> bool {
        self.change(|lost| match (address, &self.proxy) {
            (_, Some(_)) => lost.proxy = Some(why.into()),
            (Some(address), None) if !lost.addresses.contains(&address) => lost.addresses.push(address),
            (Some(_) | None, None) => {}
        })
    }

    /// Whether there is anything that could get lost and come back.
    pub fn needs_watch(&self) -> bool {
        self.proxy.is_some() || !self.addresses.is_empty()
    }

    /// Looks whether the addresses are this host's; whether the proxy can be reached again, if it could not. True if
    /// anything changed.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn look(&self) -> bool {
        let Some(proxy) = &self.proxy else { return self.look_for_addresses(is_ours) };
        if self.lost().proxy.is_none() {
            return false;
        }
        let why = match timeout(PROXY_ANSWERS_WITHIN, TcpStream::connect(proxy.url.address)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string().into()),
            Err(_) => Some(format!("no answer within {PROXY_ANSWERS_WITHIN:?}").into()),
        };
        self.change(|lost| lost.proxy = why)
    }

    /// As [`look`](Source::look), of addresses of which `is_ours` knows.
    pub(crate) fn look_for_addresses(&self, is_ours: impl Fn(IpAddr) -> bool) -> bool {
        let missing: Vec<IpAddr> = self.addresses.iter().copied().filter(|address| !is_ours(*address)).collect();
        self.change(|lost| lost.addresses = missing)
    }

    fn change(&self, deed: impl FnOnce(&mut Lost)) -> bool {
        let mut lost = self.lost();
        let before = lost.clone();
        deed(&mut lost);
        let none_left = !self.addresses.is_empty() && self.addresses.iter().all(|a| lost.addresses.contains(a));
        self.out.store(lost.proxy.is_some() || none_left, Ordering::Relaxed);
        lost.addresses != before.addresses || lost.proxy.is_some() != before.proxy.is_some()
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().expect("no code panics under this lock")
    }
}

impl Lost {
    fn tell(&self, source: &Source) -> Option<String> {
        if let (Some(why), Some(proxy)) = (&self.proxy, &source.proxy) {
            return Some(format!("proxy {}: {why}", proxy.url));
        }
        let missing: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        (!missing.is_empty()).then(|| format!("{} is not on this host", missing.join(", ")))
    }
}

/// Whether this host has the address, which is what the system says when a socket is bound to it.
fn is_ours(address: IpAddr) -> bool {
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => true,
        // Anything else, such as too many open files, says nothing of the address.
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}
