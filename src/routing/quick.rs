//! The short way for ordinary answers: one question to the first server, and a small cache.
//!
//! hickory's resolver is right in all corners and takes 30 µs of CPU time a look-up, most of it in layers that an
//! ordinary answer does not need. So the first server is asked straight away, and what it says counts if it is plain: no
//! error, not truncated, all records of the type asked for and of the name asked for. For everything else (no such name,
//! CNAMEs, errors, silence, a server that rests) hickory asks again and decides; which names those are is remembered,
//! too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ProtocolConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::BinEncodable;
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

use super::udp::{Connections, Sockets};
use crate::clock::{Clock, Instant};

/// How long a server that answers nobody is not asked first; then one question tries it.
const REST: Duration = Duration::from_secs(10);

/// A question with its answer takes less on average; those with many records or long ones push others out.
const ENTRY_OCTETS: usize = 2048;

/// Names that CNAMEs lead to, with the first. hickory asks for 8 at most.
const NAMES_MAX: usize = 16;

/// How long a name whose answer was not plain is left to hickory.
const DETOUR: Duration = Duration::from_secs(60);

/// The resolver.
pub(super) struct Quick {
    hickory: Resolver<Connections>,
    /// The first server, if it is asked by UDP.
    first: Option<(Sockets, Mutex<Health>)>,
    cache: Mutex<Cache>,
    clock: Clock,
}

/// The records that answer a question, and how long they hold.
#[derive(Debug, Clone)]
pub(super) struct Records {
    pub(super) records: Arc<[Record]>,
    pub(super) ttl: Duration,
}

/// Whether the first server answers at all: one name may be slow by itself.
#[derive(Debug)]
struct Health {
    heard: Instant,
    rests_until: Instant,
}

pub(super) type Question = (Name, RecordType);

/// Until when, and the records; none: hickory knows.
type Entry = (Instant, Option<Arc<[Record]>>);

/// What was used lately, in two generations: when the young one is full, the old one goes.
struct Cache {
    generation_max: usize,
    /// Octets that those in `young` take, about, and may take.
    octets: usize,
    octets_max: usize,
    young: HashMap<Question, Entry>,
    old: HashMap<Question, Entry>,
}

impl Quick {
    /// Over `hickory`, which has this configuration, with so many questions in the cache. The first
    /// server has `timeout` before hickory's turn comes.
    pub(super) fn new(
        hickory: Resolver<Connections>,
        servers: &ResolverConfig,
        timeout: Duration,
        cache_entries: usize,
    ) -> Quick {
        let clock = Clock;
        let now = clock.instant();
        let first = servers.name_servers().first().and_then(|server| {
            let udp = server.connections.iter().find(|way| matches!(way.protocol, ProtocolConfig::Udp))?;
            let sockets = Sockets::new((server.ip, udp.port).into(), udp.bind_addr, timeout);
            Some((sockets, Mutex::new(Health { heard: now, rests_until: now })))
        });
        let cache = Cache::new(cache_entries / 2, cache_entries / 2 * ENTRY_OCTETS);
        Quick { hickory, first, cache: Mutex::new(cache), clock }
    }

    /// The records of this type that a name has, through CNAMEs; at least one. hickory, if it is asked, must have its answer
    /// `within` this time from now.
    pub(super) async fn lookup(
        &self,
        name: Name,
        record_type: RecordType,
        within: Duration,
    ) -> Result<Result<Records, NetError>, Elapsed> {
        let question = (name, record_type);
        let now = self.clock.instant();
        let cached = self.cache.lock().expect("no code panics under this lock").get(&question, now);
        match cached {
            Some((until, Some(records))) => return Ok(Ok(Records { records, ttl: until - now })),
            Some((_, None)) => {}
            None => {
                if let Some(found) = self.ask_first(&question).await {
                    return Ok(Ok(found));
                }
            }
        }
        // In a box of its own: it is large, few need it, and every look-up under way would have room for it.
        let lookup = timeout_at(now + within, self.hickory.lookup(question.0.clone(), record_type));
        let found = Box::pin(lookup).await?;
        Ok(found.and_then(|found| Records::through_aliases(found.answers(), &question)))
    }

    /// What the first server says, if that is plain.
    async fn ask_first(&self, question: &Question) -> Option<Records> {
        let (sockets, health) = self.first.as_ref()?;
        let health = || health.lock().expect("no code panics under this lock");
        let asked = self.clock.instant();
        if !health().may_be_asked(asked) {
            return None;
        }
        let query = Query::query(question.0.clone(), question.1);
        let answer = sockets.ask(&DnsRequest::from_query(query, DnsRequestOptions::default())).await;
        let now = self.clock.instant();
        health().note(asked, answer.is_ok(), now);
        let answer = answer.ok()?;
        let found = Records::plain(answer, question);
        let until = now + found.as_ref().map_or(DETOUR, |found| found.ttl);
        let entry = (until, found.as_ref().map(|found| Arc::clone(&found.records)));
        self.cache.lock().expect("no code panics under this lock").insert(question.clone(), entry);
        found
    }
}

impl Records {
    /// What a plain answer says; `None`: it is not plain.
    pub(super) fn plain(answer: DnsResponse, question: &Question) -> Option<Records> {
        is_plain(&answer, question).then(|| {
            let records: Arc<[Record]> = answer.into_message().answers.into();
            Records { ttl: ttl(&records), records }
        })
    }

    /// What hickory found. It hands on all that the server answered: only records of the name, or of one that CNAMEs lead
    /// to, are meant.
    ///
    /// # Errors
    /// None is: that says nothing about the name.
    pub(super) fn through_aliases(answers: &[Record], (name, record_type): &Question) -> Result<Records, NetError> {
        let mut names = vec![name];
        while names.len() < NAMES_MAX {
            // One more name, in whatever order they come.
            let next = answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if names.contains(&&record.name) && !names.contains(&&target.0) => Some(&target.0),
                _ => None,
            });
            let Some(next) = next else { break };
            names.push(next);
        }
        let meant = |record: &&Record| is_of(record, *record_type) && names.contains(&&record.name);
        let records: Arc<[Record]> = answers.iter().filter(meant).cloned().collect();
        match records.is_empty() {
            true => Err(NetError::from("the answer is about other names")),
            false => Ok(Records { ttl: ttl(answers), records }),
        }
    }
}

impl Health {
    fn may_be_asked(&mut self, now: Instant) -> bool {
        if now < self.rests_until {
            return false;
        }
        if self.heard < self.rests_until {
            // This one tries; the others go on without it.
            self.rests_until = now + REST;
        }
        true
    }

    /// What became of a question.
    fn note(&mut self, asked: Instant, answered: bool, now: Instant) {
        if answered {
            (self.heard, self.rests_until) = (now, now);
        } else if self.heard <= asked {
            self.rests_until = now + REST;
        }
    }
}

/// Nothing but records of the name and type asked for.
fn is_plain(answer: &DnsResponse, (name, record_type): &Question) -> bool {
    let is_asked_for = |record: &Record| is_of(record, *record_type) && record.name == *name;
    answer.response_code == ResponseCode::NoError
        && !answer.truncation
        && !answer.answers.is_empty()
        && answer.answers.iter().all(is_asked_for)
}

fn is_of(record: &Record, record_type: RecordType) -> bool {
    record.record_type() == record_type && record.dns_class == DNSClass::IN
}

fn ttl(records: &[Record]) -> Duration {
    // With the most significant bit set it counts as zero (RFC 2181 §8).
    let plain = |record: &Record| if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
    let least = records.iter().map(plain).min().unwrap_or(0);
    Duration::from_secs(least.into()).min(super::dns::TTL_MAX)
}

impl Cache {
    /// Of two generations, each with so many entries and about so many octets.
    fn new(generation_max: usize, octets_max: usize) -> Cache {
        Cache { generation_max, octets: 0, octets_max, young: HashMap::new(), old: HashMap::new() }
    }

    fn get(&mut self, question: &Question, now: Instant) -> Option<Entry> {
        if let Some(entry) = self.young.get(question) {
            return (now < entry.0).then(|| entry.clone());
        }
        let entry = self.old.remove(question).filter(|entry| now < entry.0)?;
        self.insert(question.clone(), entry.clone());
        Some(entry)
    }

    fn insert(&mut self, question: Question, entry: Entry) {
        let octets = cost(&question, &entry);
        if self.young.len() >= self.generation_max || self.octets + octets > self.octets_max {
            self.old = std::mem::take(&mut self.young);
            self.octets = 0;
        }
        if self.generation_max > 0 && octets <= self.octets_max {
            self.young.insert(question, entry);
            self.octets += octets;
        }
    }
}

/// Octets an entry takes, about: a record and a name have boxes of their own, and other data is as long as on the wire.
fn cost(question: &Question, (_, records): &Entry) -> usize {
    let data = |record: &Record| match &record.data {
        RData::A(_) | RData::AAAA(_) => 0,
        RData::MX(mx) => mx.exchange.len(),
        _ => BinEncodable::to_bytes(record).map_or(0, |octets| octets.len()),
    };
    let of = |record: &Record| size_of::<Record>() + record.name.len() + data(record);
    let records = records.iter().flat_map(|records| records.iter()).map(of).sum::<usize>();
    size_of::<(Question, Entry)>() + question.0.len() + records
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, CNAME, TXT};

    use super::*;

    #[test]
    fn a_server_that_answers_nobody_rests() {
        let start = Clock.instant();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut health = Health { heard: at(0), rests_until: at(0) };
        health.note(at(1), true, at(2));
        health.note(at(1), false, at(4));
        assert!(health.may_be_asked(at(4)), "another name was answered meanwhile");
        health.note(at(4), false, at(7));
        assert!(!health.may_be_asked(at(16)));
        assert!(health.may_be_asked(at(17)) && !health.may_be_asked(at(17)), "one tries");
        health.note(at(17), false, at(20));
        assert!(!health.may_be_asked(at(29)) && health.may_be_asked(at(30)));
        health.note(at(30), true, at(31));
        assert!(health.may_be_asked(at(31)) && health.may_be_asked(at(31)));
    }

    #[test]
    fn the_cache_keeps_what_is_used() {
        let now = Clock.instant();
        let question = |n: usize| (Name::from_ascii(format!("d{n}.example.")).expect("a name"), RecordType::MX);
        let (mut cache, entry) = (Cache::new(10, 1 << 20), None);
        for n in 0..1000 {
            cache.insert(question(n), (now + Duration::from_secs(60), entry.clone()));
            assert!(cache.get(&question(0), now).is_some(), "asked for all the time");
            assert!(cache.get(&question(n), now).is_some());
            assert!(cache.young.len() <= 10 && cache.old.len() <= 10);
        }
        assert!(cache.get(&question(500), now).is_none());
        assert!(cache.get(&question(0), now + Duration::from_secs(60)).is_none(), "too old");
    }

    fn text(octets: usize, ttl: u32) -> Record {
        let strings = (0..octets / 250).map(|_| "x".repeat(249)).collect();
        Record::from_rdata(Name::from_ascii("t.example.").expect("a name"), ttl, RData::TXT(TXT::new(strings)))
    }

    #[test]
    fn long_answers_push_others_out() {
        let now = Clock.instant();
        let question = |n: usize| (Name::from_ascii(format!("d{n}.example.")).expect("a name"), RecordType::TXT);
        let mut cache = Cache::new(100, 10 << 10);
        let records: Arc<[Record]> = vec![text(3000, 60)].into();
        for n in 0..50 {
            cache.insert(question(n), (now + Duration::from_secs(60), Some(Arc::clone(&records))));
            assert!(cache.young.len() <= 3 && cache.old.len() <= 3, "{} {}", cache.young.len(), cache.old.len());
        }
        assert!(cache.get(&question(49), now).is_some());
        let huge: Arc<[Record]> = vec![text(20_000, 60)].into();
        cache.insert(question(50), (now + Duration::from_secs(60), Some(huge)));
        assert!(cache.get(&question(50), now).is_none(), "longer than all that may be kept");
    }

    #[test]
    fn records_of_other_names_are_not_meant() {
        let name = |text: &str| Name::from_ascii(text).expect("a name");
        let a = |of: &str, last: u8| Record::from_rdata(name(of), 60, RData::A(A::new(192, 0, 2, last)));
        let alias = |of: &str, to: &str| Record::from_rdata(name(of), 60, RData::CNAME(CNAME(name(to))));
        let question = (name("a.example."), RecordType::A);
        let found = |answers: &[Record]| {
            let found = Records::through_aliases(answers, &question).ok()?;
            let last = |record: &Record| record.data.ip_addr().map(|ip| ip.to_string());
            Some(found.records.iter().filter_map(last).collect::<Vec<_>>().join(" "))
        };
        let (own, others) = (a("a.example.", 1), a("b.example.", 2));
        assert_eq!(found(&[own.clone(), others.clone()]).as_deref(), Some("192.0.2.1"));
        assert_eq!(found(std::slice::from_ref(&others)), None, "says nothing of the name");
        // Through two aliases, the last of which comes first.
        let (first, second) = (alias("a.example.", "c.example."), alias("c.example.", "b.example."));
        assert_eq!(found(&[others, second, first, own]).as_deref(), Some("192.0.2.2 192.0.2.1"));
        assert_eq!(found(&[alias("a.example.", "b.example."), alias("b.example.", "a.example.")]), None, "a loop");
    }

    #[test]
    fn a_time_to_live_with_its_first_bit_set_is_none() {
        let of = |ttls: &[u32]| super::ttl(&ttls.iter().map(|ttl| text(250, *ttl)).collect::<Vec<_>>()).as_secs();
        assert_eq!((of(&[300, 60]), of(&[300, 1 << 31]), of(&[u32::MAX]), of(&[])), (60, 0, 0, 0));
        assert!(of(&[i32::MAX as u32]) > 0);
    }
}
