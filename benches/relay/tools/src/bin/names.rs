//! A small authoritative name server for the benchmark's own little internet.
//!
//!     names --listen 127.0.0.1:53 --domains 10000 --sites 200 [--ttl 300]
//!
//! d0.test … d(N-1).test each have one MX, mx(I mod S).site.test; each of those one A record in 127.0.1.0/24 and on.
//! Everything else does not exist. UDP only, for no answer is longer than 512 octets; no EDNS, so OPT is left out of
//! the answers (RFC 6891 §7). A line of JSON with the number of queries goes to stdout when stdin ends.

use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bench_tools::Options;

const A: u16 = 1;
const SOA: u16 = 6;
const MX: u16 = 15;
const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;

static QUERIES: AtomicU64 = AtomicU64::new(0);

struct Zone {
    domains: u32,
    sites: u32,
    ttl: u32,
}

/// What a name is.
enum Name {
    Domain(u32),
    Site(u32),
    None,
}

impl Zone {
    fn look_up(&self, labels: &[&[u8]]) -> Name {
        let number = |label: &[u8], prefix: &str, end: u32| {
            let digits = label
                .strip_prefix(prefix.as_bytes())
                .and_then(|digits| std::str::from_utf8(digits).ok())?;
            digits.parse().ok().filter(|number| *number < end)
        };
        let found = match labels {
            [label, b"test"] => number(label, "d", self.domains).map(Name::Domain),
            [label, b"site", b"test"] => number(label, "mx", self.sites).map(Name::Site),
            _ => None,
        };
        found.unwrap_or(Name::None)
    }

    /// The answer to one query; `None` if it is not worth one.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        if query.len() < 12 || query[2] & 0x80 != 0 {
            return None;
        }
        let mut labels = Vec::new();
        let lower = query.to_ascii_lowercase();
        let mut at = 12;
        loop {
            match usize::from(*lower.get(at)?) {
                0 => break,
                length if length < 64 => labels.push(lower.get(at + 1..at + 1 + length)?),
                _ => return Some(header(query, FORMAT_ERROR, 0, 0)[..12].to_vec()),
            }
            at += labels.last()?.len() + 1;
        }
        let question = query.get(12..at + 5)?;
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let name = self.look_up(&labels);
        let data = match (&name, kind) {
            (Name::Domain(domain), MX) => {
                let site = format!("mx{}", domain % self.sites);
                let mut data = vec![0, 10, site.len() as u8];
                data.extend_from_slice(site.as_bytes());
                data.extend_from_slice(b"\x04site\x04test\0");
                Some(data)
            }
            (Name::Site(site), A) => Some(site_address(*site).octets().to_vec()),
            _ => None,
        };
        let code = if matches!(name, Name::None) {
            NAME_ERROR
        } else {
            NO_ERROR
        };
        let mut out = header(query, code, u8::from(data.is_some()), u8::from(data.is_none()));
        out.extend_from_slice(question);
        match data {
            // A pointer to the name in the question.
            Some(data) => self.record(&mut out, b"\xc0\x0c", kind, &data),
            None => {
                let numbers = [1u32, 3600, 600, 86400, self.ttl];
                let data = [b"\0\0".as_slice(), &numbers.map(u32::to_be_bytes).concat()].concat();
                self.record(&mut out, b"\x04test\0", SOA, &data);
            }
        }
        Some(out)
    }

    fn record(&self, out: &mut Vec<u8>, name: &[u8], kind: u16, data: &[u8]) {
        out.extend_from_slice(name);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&1u16.to_be_bytes());
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    }
}

fn site_address(site: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + 1 + site)
}

/// One question, `answers` and `authorities` records: a response, authoritative, recursion available.
fn header(query: &[u8], code: u8, answers: u8, authorities: u8) -> Vec<u8> {
    let flags = [0x84 | query[2] & 0x79, 0x80 | code];
    vec![
        query[0],
        query[1],
        flags[0],
        flags[1],
        0,
        1,
        0,
        answers,
        0,
        authorities,
        0,
        0,
    ]
}

fn main() {
    let options = Options::read(&["listen", "domains", "sites", "ttl"], &[]);
    let zone = Zone {
        domains: options.get("domains", 1),
        sites: options.get("sites", 1).max(1),
        ttl: options.get("ttl", 300),
    };
    let socket = UdpSocket::bind(options.get("listen", "127.0.0.1:53".to_string())).expect("name server port");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            QUERIES.fetch_add(1, Relaxed);
            if let Some(answer) = zone.answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{{\"queries\":{}}}", QUERIES.load(Relaxed));
}
