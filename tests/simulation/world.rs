//! The world around the engine: sites, names, the network between, and the books of what happened.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::delivery::{Dialling, Io, Network};
use posthaste::demo::receiver::{self, Answer, Step, Taken};
use posthaste::mail::Domain;
use posthaste::routing::{MxAnswer, NameTable, Said};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::books::Books;
use crate::dns::{Mail, Names};
use crate::receiver::habits::Window;
use crate::receiver::{Habit, OFFERS, Site};

/// A domain that mail is sent to.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    /// How much of all mail goes there.
    pub weight: u32,
    /// Whoever writes to it is answered at once, and well: what is late there, is late because of us.
    pub healthy: bool,
    /// DNS says no for certain, so a bounce needs no receiver.
    pub nowhere: bool,
    /// The site it is at, if that is always the same.
    pub site: Option<usize>,
}

/// Everything but the engine.
#[derive(Debug)]
pub struct World {
    pub places: Vec<Place>,
    pub sites: Vec<Arc<Site>>,
    names: Names,
    /// Site and host by address.
    addresses: HashMap<IpAddr, (usize, usize)>,
    books: Mutex<Books>,
    open: Mutex<Open>,
    /// Addresses of ours that are not there for a while.
    gone: Mutex<Vec<(IpAddr, Window)>>,
    trace: bool,
}

/// Connections as the client sees them.
#[derive(Debug)]
struct Open {
    by_site: Vec<usize>,
    all: usize,
    per_site_max: usize,
    all_max: usize,
}

impl World {
    /// A world of these. What may be connected at once is set by [`World::limit`].
    pub fn new(places: Vec<Place>, sites: Vec<Site>, mut names: Names) -> Arc<World> {
        let mut addresses = HashMap::new();
        for (site, hosts) in sites.iter().map(|site| &site.hosts).enumerate() {
            for (host, (name, address)) in hosts.iter().enumerate() {
                names.host(name, *address);
                addresses.insert(*address, (site, host));
            }
        }
        let open = Open { by_site: vec![0; sites.len()], all: 0, per_site_max: usize::MAX, all_max: usize::MAX };
        Arc::new(World {
            places,
            sites: sites.into_iter().map(Arc::new).collect(),
            names,
            addresses,
            books: Mutex::default(),
            open: Mutex::new(open),
            gone: Mutex::default(),
            trace: std::env::var_os("POSTHASTE_TRACE").is_some(),
        })
    }

    /// More connections than this are a fault.
    pub fn limit(&self, per_site: usize, all: usize) {
        let mut open = self.open.lock().unwrap();
        (open.per_site_max, open.all_max) = (per_site, all);
    }

    /// One domain, whose one receiver has this habit; `healthy` as in [`Place`].
    pub fn of_one(name: &str, healthy: bool, habit: impl Habit + 'static, seed: u64) -> Arc<World> {
        let (domain, host) = (format!("{name}.example"), format!("mx.{name}.example"));
        let hosts = vec![(host.clone(), "11.0.1.1".parse().unwrap())];
        let site = Site::new(name.into(), hosts, OFFERS, Duration::from_millis(50), vec![Box::new(habit)], seed);
        let mut names = Names::default();
        names.domain(&domain, Mail::Hosts(vec![host]), None);
        let place = Place { name: domain, weight: 1, healthy, nowhere: false, site: Some(0) };
        World::new(vec![place], vec![site], names)
    }

    /// One of our addresses is taken from the host for a while.
    pub fn takes_away(&self, address: IpAddr, window: Window) {
        self.gone.lock().unwrap().push((address, window));
    }

    /// The time, simulated.
    pub fn now(&self) -> Timestamp {
        Clock.timestamp()
    }

    /// The books.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Something happened: it becomes part of the digest, by which two runs are compared.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let now = self.now();
        if self.trace {
            println!("{now} {what}");
        }
        self.books().digest.add(format_args!("{} {what}\n", now.0));
    }
}

impl receiver::Books for World {
    /// The copies.
    type Receipt = Vec<(usize, usize)>;

    fn happened(&self, host: &str, step: Step, recipient: &str, answer: &Answer) {
        self.note(format_args!("{host} {step:?} {recipient} {answer:?}"));
    }

    fn asked(&self, recipient: &str) {
        self.books().asked(recipient, self.now());
    }

    fn refused(&self, recipient: &str) {
        self.books().refused(recipient);
    }

    fn refused_sender(&self, sender: &str) {
        self.books().refused_sender(sender, self.now());
    }

    fn took(&self, taken: Taken<'_>) -> io::Result<Vec<(usize, usize)>> {
        Ok(self.books().took(&taken.recipients, taken.content, self.now()))
    }

    fn answered(&self, copies: Vec<(usize, usize)>, heard: bool) {
        self.books().answered(&copies, heard, self.now());
    }

    fn violation(&self, what: String) {
        self.books().fault(what);
    }
}

impl NameTable for World {
    fn mx(&self, domain: &Domain) -> Said<MxAnswer> {
        self.names.mx(domain, self.now())
    }

    fn addresses(&self, host: &Domain) -> Said<(Vec<IpAddr>, Duration)> {
        self.names.addresses(host)
    }
}

/// The way from the engine to the sites.
#[derive(Debug, Clone)]
pub struct Net(pub Arc<World>);

impl Network for Net {
    fn connect(&self, source: Option<IpAddr>, address: SocketAddr) -> Dialling<'_> {
        Box::pin(async move {
            let is_gone =
                |(address, window): &(IpAddr, Window)| Some(*address) == source && window.contains(&self.0.now());
            if self.0.gone.lock().unwrap().iter().any(is_gone) {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            let Some(&(site, host)) = self.0.addresses.get(&address.ip()) else {
                return std::future::pending().await;
            };
            // Counted from the first packet: a connection that is being made is one.
            let counted = Counting::begin(Arc::clone(&self.0), site);
            let stream = self.0.sites[site].call(&self.0, host, source).await?;
            Ok(Box::new(Counted { stream, _counting: counted }) as Box<dyn Io>)
        })
    }
}

/// Counts a connection for as long as the client holds it.
#[derive(Debug)]
struct Counting(Arc<World>, usize);

impl Counting {
    fn begin(world: Arc<World>, site: usize) -> Counting {
        let mut open = world.open.lock().unwrap();
        open.all += 1;
        open.by_site[site] += 1;
        let (here, all) = (open.by_site[site], open.all);
        if here > open.per_site_max || all > open.all_max {
            world.books().fault(format!("{here} connections to {}, {all} in all", world.sites[site].name));
        }
        let mut books = world.books();
        books.tally.connections += 1;
        books.tally.connections_max = books.tally.connections_max.max(all);
        drop((books, open));
        Counting(world, site)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap();
        open.all -= 1;
        open.by_site[self.1] -= 1;
    }
}

/// A stream that counts while it lives.
struct Counted {
    stream: Box<dyn Io>,
    _counting: Counting,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
