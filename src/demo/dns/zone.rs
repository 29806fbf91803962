//! What the name server knows, and what it answers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Links followed in a CNAME chain before the rest is left to the client.
const CHAIN_MAX: usize = 8;
/// What the server knows. Names are given as `example.test`, in any case, with or without the last dot.
#[derive(Debug, Clone)]
pub struct Zone {
    records: HashMap<String, Vec<RData>>,
    failing: HashSet<String>,
    silent: HashSet<String>,
    ttl: u32,
    negative_ttl: u32,
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::new()
    }
}

impl Zone {
    /// An empty zone: every name answers NXDOMAIN. Records live 300 s, denials 30 s.
    pub fn new() -> Zone {
        Zone { records: HashMap::new(), failing: HashSet::new(), silent: HashSet::new(), ttl: 300, negative_ttl: 30 }
    }

    /// How long answers may be cached, in seconds: those with records and those without (RFC 2308 §5).
    pub fn ttl(&mut self, positive: u32, negative: u32) -> &mut Zone {
        self.ttl = positive;
        self.negative_ttl = negative;
        self
    }

    /// Mail for `name` goes to `host`.
    pub fn mx(&mut self, name: &str, preference: u16, host: &str) -> &mut Zone {
        self.add(name, RData::MX(MX::new(preference, wire_name(host))))
    }

    /// `name` takes no mail (RFC 7505 §3).
    pub fn null_mx(&mut self, name: &str) -> &mut Zone {
        self.add(name, RData::MX(MX::new(0, Name::root())))
    }

    /// `name` has this address.
    pub fn address(&mut self, name: &str, address: IpAddr) -> &mut Zone {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.add(name, data)
    }

    /// `name` has this text.
    pub fn txt(&mut self, name: &str, text: &str) -> &mut Zone {
        // Strings hold 255 octets each (RFC 1035 §3.3.14).
        let strings = text.as_bytes().chunks(255).map(|piece| String::from_utf8_lossy(piece).into_owned());
        self.add(name, RData::TXT(TXT::new(strings.collect())))
    }

    /// `name` is another name for `target`.
    pub fn cname(&mut self, name: &str, target: &str) -> &mut Zone {
        self.add(name, RData::CNAME(CNAME(wire_name(target))))
    }

    /// `name` exists and has nothing: NODATA instead of NXDOMAIN.
    pub fn empty(&mut self, name: &str) -> &mut Zone {
        self.records.entry(key(name)).or_default();
        self
    }

    /// Questions about `name` are answered SERVFAIL.
    pub fn servfail(&mut self, name: &str) -> &mut Zone {
        self.failing.insert(key(name));
        self
    }

    /// Questions about `name` are never answered.
    pub fn silent(&mut self, name: &str) -> &mut Zone {
        self.silent.insert(key(name));
        self
    }

    /// Forgets everything about `name`.
    pub fn remove(&mut self, name: &str) -> &mut Zone {
        let key = key(name);
        self.records.remove(&key);
        self.failing.remove(&key);
        self.silent.remove(&key);
        self
    }

    fn add(&mut self, name: &str, data: RData) -> &mut Zone {
        self.records.entry(key(name)).or_default().push(data);
        self
    }

    /// The answer to one question; `None`: silence.
    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let mut answer = Answer { code: ResponseCode::NoError, records: Vec::new(), authority: None };
        let mut owner = name.clone();
        for _ in 0..CHAIN_MAX {
            let key = key(&owner.to_ascii());
            if self.silent.contains(&key) {
                return None;
            }
            if self.failing.contains(&key) {
                answer.code = ResponseCode::ServFail;
                return Some(answer);
            }
            let Some(records) = self.records.get(&key) else {
                answer.code = ResponseCode::NXDomain;
                break;
            };
            let wanted = records.iter().filter(|data| data.record_type() == kind);
            let found = answer.records.len();
            answer.records.extend(wanted.map(|data| Record::from_rdata(owner.clone(), self.ttl, data.clone())));
            if answer.records.len() > found {
                return Some(answer);
            }
            let Some(target) = records.iter().find_map(|data| match data {
                RData::CNAME(CNAME(target)) => Some(target.clone()),
                _ => None,
            }) else {
                break;
            };
            answer.records.push(Record::from_rdata(owner, self.ttl, RData::CNAME(CNAME(target.clone()))));
            owner = target;
        }
        answer.authority = Some(self.authority(&owner));
        Some(answer)
    }

    /// The SOA that says how long a denial may be cached; its owner is the top-level domain of `name`.
    fn authority(&self, name: &Name) -> Record {
        let apex = name.trim_to(1);
        let server = Name::from_ascii("ns").and_then(|ns| ns.append_name(&apex)).unwrap_or_else(|_| apex.clone());
        let soa = SOA::new(server.clone(), server, 1, 3600, 600, 86_400, self.negative_ttl);
        Record::from_rdata(apex, self.negative_ttl, RData::SOA(soa))
    }
}

pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    pub(super) authority: Option<Record>,
}

/// The name as the table knows it: lower case, no last dot.
pub(super) fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

pub(super) fn wire_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("names in the table are written by us");
    name.set_fqdn(true);
    name
}
