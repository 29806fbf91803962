//! What the sink has seen.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use bench_tools::{now_ns, ID_HEADER};
use memchr::memmem;

/// Counts since the start; the harness takes differences.
#[derive(Default)]
pub struct Stats {
    pub messages: AtomicU64,
    /// Recipients of messages that were taken.
    pub recipients: AtomicU64,
    /// Recipients that got 451.
    pub deferred: AtomicU64,
    pub connections: AtomicU64,
    pub open: AtomicU64,
    pub max_open: AtomicU64,
    /// Messages that came over TLS, by BDAT, with a DKIM-Signature.
    pub tls: AtomicU64,
    pub bdat: AtomicU64,
    pub dkim: AtomicU64,
    pub last_ns: AtomicU64,
    /// When each numbered message came first.
    ids: Mutex<HashMap<u64, u64>>,
    /// Our own addresses that were connected to.
    addresses: Mutex<HashSet<IpAddr>>,
}

impl Stats {
    pub fn opened(&self, tcp: &TcpStream) {
        self.connections.fetch_add(1, Relaxed);
        self.max_open.fetch_max(self.open.fetch_add(1, Relaxed) + 1, Relaxed);
        if let Ok(own) = tcp.local_addr() {
            self.addresses.lock().unwrap().insert(own.ip());
        }
    }

    /// Counts one message that is taken for `recipients`.
    pub fn message(&self, content: &[u8], recipients: u64, tls: bool, bdat: bool) {
        let now = now_ns();
        let head = &content[..memmem::find(content, b"\r\n\r\n").unwrap_or(content.len())];
        if memmem::find(head, b"DKIM-Signature:").is_some() {
            self.dkim.fetch_add(1, Relaxed);
        }
        if let Some(at) = memmem::find(head, ID_HEADER.as_bytes()) {
            let digits = head[at + ID_HEADER.len()..]
                .iter()
                .take_while(|octet| octet.is_ascii_digit());
            let id = digits.fold(0u64, |id, digit| id * 10 + u64::from(digit - b'0'));
            self.ids.lock().unwrap().entry(id).or_insert(now);
        }
        self.tls.fetch_add(u64::from(tls), Relaxed);
        self.bdat.fetch_add(u64::from(bdat), Relaxed);
        self.recipients.fetch_add(recipients, Relaxed);
        self.last_ns.fetch_max(now, Relaxed);
        self.messages.fetch_add(1, Relaxed);
    }

    pub fn json(&self) -> String {
        let count = |name: &str, value: &AtomicU64| format!("\"{name}\":{}", value.load(Relaxed));
        let parts = [
            count("messages", &self.messages),
            count("recipients", &self.recipients),
            count("deferred", &self.deferred),
            count("connections", &self.connections),
            count("open", &self.open),
            count("max_open", &self.max_open),
            count("tls", &self.tls),
            count("bdat", &self.bdat),
            count("dkim", &self.dkim),
            count("last_ns", &self.last_ns),
            format!("\"unique\":{}", self.ids.lock().unwrap().len()),
            format!("\"addresses\":{}", self.addresses.lock().unwrap().len()),
        ];
        format!("{{{}}}", parts.join(","))
    }

    pub fn write_times(&self, path: &str) -> io::Result<usize> {
        let mut file = BufWriter::new(File::create(path)?);
        let ids = self.ids.lock().unwrap();
        for (id, ns) in ids.iter() {
            file.write_all(&id.to_le_bytes())?;
            file.write_all(&ns.to_le_bytes())?;
        }
        file.flush()?;
        Ok(ids.len())
    }
}
