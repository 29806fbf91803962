//! Ways in for fuzz targets; see [`crate::probe`].

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, DnsResponseStream};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Message, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{ConnectionProvider, PoolContext, Resolver};

use super::dns::{self, DnsError, TTL_MAX, TTL_MIN};
use super::mx::{self, Choice, HOSTS_MAX, MxHost, Trouble};
use super::quick::{Question, Records};
use super::special;
use super::udp::answer_to;
use crate::config::DnsConfig;

/// What is asked.
const NAME: &str = "a.example.";
const NAME_ON_THE_WIRE: &[u8] = b"\x01a\x07example\x00";

/// The id of the question.
const ID: u16 = 0x7068;

/// What a name server answers, after an octet that says what it was asked: MX, A or AAAA.
///
/// An answer to another question is not taken. Where the short way speaks, hickory's says the same. What is found are
/// records of the name or of one that CNAMEs lead to, for a time that may be believed; hosts are names, each there once,
/// the best first, and no address that the standard library knows to be special is taken for public.
pub fn dns(octets: &[u8]) {
    let Some((&kind, octets)) = octets.split_first() else { return };
    let record_type = [RecordType::MX, RecordType::A, RecordType::AAAA][usize::from(kind % 3)];
    let name = Name::from_ascii(NAME).expect("a name");
    let mut request = DnsRequest::from_query(Query::query(name.clone(), record_type), DnsRequestOptions::default());
    request.metadata.id = ID;
    let question = (name, record_type);
    let quick = match answer_to(&request, octets) {
        Ok(Some(answer)) => {
            check_question(octets, record_type);
            Records::plain(answer, &question)
        }
        Ok(None) => return,
        Err(_) => {
            assert!(octets.starts_with(&ID.to_be_bytes()), "what is not ours ends no question");
            return;
        }
    };
    let hickory = through_hickory(octets, &question);
    if let Some(quick) = &quick {
        let hickory = hickory.as_ref().unwrap_or_else(|error| panic!("hickory finds no plain answer: {error}"));
        assert_eq!(data(quick), data(hickory), "both ways find the same");
        // hickory believes a TTL with its first bit set.
        assert!(quick.ttl <= hickory.ttl, "{:?} {:?}", quick.ttl, hickory.ttl);
        assert!(quick.records.iter().all(|record| record.name == question.0));
        check_found(Ok(quick.clone()), record_type);
    }
    if let Ok(found) = &hickory {
        assert!(found.records.iter().all(|record| record.record_type() == record_type), "what was asked for");
        check_names(octets, found);
    }
    check_found(hickory.map_err(|error| dns::meaning(&error)), record_type);
}

/// The answer has our id, is one, and repeats the question, unless it says that it could not read it.
fn check_question(octets: &[u8], record_type: RecordType) {
    assert!(octets.starts_with(&ID.to_be_bytes()) && octets[2] & 0x80 != 0, "an answer to somebody else");
    match (octets[4], octets[5]) {
        (0, 0) => assert!(matches!(octets[3] & 0x0f, 1 | 2 | 4 | 5), "no question, and no failure to read it"),
        (0, 1) if octets[12] & 0xc0 == 0 => {
            let (asked, behind) = octets[12..].split_at(NAME_ON_THE_WIRE.len());
            assert!(asked.eq_ignore_ascii_case(NAME_ON_THE_WIRE), "{}", asked.escape_ascii());
            assert!(behind.starts_with(&u16::from(record_type).to_be_bytes()) && behind[2..].starts_with(&[0, 1]));
        }
        // A name that points somewhere; only hickory follows it.
        (0, 1) => {}
        other => panic!("{other:?} questions"),
    }
}

/// Data of records as text, in order.
fn data(found: &Records) -> Vec<String> {
    let mut data: Vec<String> = found.records.iter().map(|record| record.data.to_string()).collect();
    data.sort_unstable();
    data
}

/// Each record belongs to the name asked for, or CNAMEs lead to it: looked for backwards here, from the record.
fn check_names(octets: &[u8], found: &Records) {
    let answer = Message::from_vec(octets).expect("it was read before");
    let asked = Name::from_ascii(NAME).expect("a name");
    for record in found.records.iter() {
        let mut names = vec![&record.name];
        let mut at = 0;
        while at < names.len() && !names.contains(&&asked) {
            let target = names[at];
            let before =
                answer.answers.iter().filter(|alias| matches!(&alias.data, RData::CNAME(to) if to.0 == *target));
            let before: Vec<&Name> = before.map(|alias| &alias.name).filter(|name| !names.contains(name)).collect();
            names.extend(before);
            at += 1;
        }
        assert!(names.contains(&&asked), "{} is about another name", record.name);
    }
}

/// What is made of what was found.
fn check_found(found: Result<Records, DnsError>, record_type: RecordType) {
    let believable = |ttl: std::time::Duration| assert!((TTL_MIN..=TTL_MAX).contains(&ttl), "{ttl:?}");
    match &found {
        Ok(_) => {}
        Err(DnsError::NoDomain { ttl } | DnsError::NoRecords { ttl }) => believable(*ttl),
        Err(DnsError::Unknown { what, wait }) => {
            assert!(!what.is_empty());
            believable(*wait);
        }
    }
    if record_type == RecordType::MX {
        let single = found.as_ref().is_ok_and(|found| found.records.len() == 1);
        match mx::choose(found.map(|found| dns::mx_answer(&found))) {
            Choice::Hosts(hosts, ttl) => {
                believable(ttl);
                check_hosts(&hosts);
            }
            Choice::None(Trouble::NullMx { ttl }) => {
                assert!(single, "RFC 7505 §3: it stands alone");
                believable(ttl);
            }
            Choice::Itself(ttl) => ttl.into_iter().for_each(believable),
            Choice::None(_) => {}
        }
        return;
    }
    let none = || Err(DnsError::NoRecords { ttl: TTL_MIN });
    let (v6, v4) = if record_type == RecordType::A { (none(), found) } else { (found, none()) };
    if let Ok((addresses, ttl, _)) = dns::addresses_of(v6, v4) {
        believable(ttl);
        assert!(!addresses.is_empty());
        for address in addresses {
            assert_eq!(address.is_ipv4(), record_type == RecordType::A, "{address}");
            check_address(address);
        }
    }
}

fn check_hosts(hosts: &[MxHost]) {
    assert!((1..=HOSTS_MAX).contains(&hosts.len()));
    assert!(hosts.is_sorted_by_key(|host| host.preference));
    for (at, host) in hosts.iter().enumerate() {
        assert!(!hosts[..at].iter().any(|other| other.exchange == host.exchange), "{} twice", host.exchange);
        assert_eq!(host.exchange.as_str().parse().as_ref(), Ok(&host.exchange));
    }
}

/// No mail goes to an address that names no host, and none unasked to one that is not public.
fn check_address(address: IpAddr) {
    let real = address.to_canonical();
    let nobody = real.is_unspecified() || real.is_multicast();
    let local = match real {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    assert!(!(nobody && special::may_be_sent_to(address, true)), "{address} is nobody");
    assert!(!((nobody || local) && special::may_be_sent_to(address, false)), "{address} is not public");
}

/// What our resolver's long way makes of a server that answers all questions with these octets, under the question's id.
fn through_hickory(octets: &[u8], question: &Question) -> Result<Records, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let server: SocketAddr = ([192, 0, 2, 53], 53).into();
    let ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let servers = vec![NameServerConfig::new(server.ip(), true, ways)];
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    runtime.block_on(async {
        let said = Saying { octets: octets.into(), runtime: TokioRuntimeProvider::default() };
        let mut builder = Resolver::builder_with_config(config, said);
        let config = DnsConfig { cache_entries: 0, ..DnsConfig::default() };
        *builder.options_mut() = dns::options(&config, ResolverOpts::default());
        let resolver = builder.build()?;
        let lookup = resolver.lookup(question.0.clone(), question.1).await?;
        Records::through_aliases(lookup.answers(), question)
    })
}

/// A server that says the same whatever it is asked.
#[derive(Clone)]
struct Saying {
    octets: Arc<[u8]>,
    runtime: TokioRuntimeProvider,
}

impl ConnectionProvider for Saying {
    type Conn = Saying;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Saying, NetError>> + Send + 'static>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(&self, _: IpAddr, _: &ConnectionConfig, _: &PoolContext) -> Result<Self::FutureConn, NetError> {
        let said = self.clone();
        Ok(Box::pin(async move { Ok(said) }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.runtime
    }
}

impl DnsHandle for Saying {
    type Response = DnsResponseStream;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        let mut octets = self.octets.to_vec();
        octets[..2].copy_from_slice(&request.metadata.id.to_be_bytes());
        Box::pin(async move { answer_to(&request, &octets)?.ok_or(NetError::Timeout) }).into()
    }
}
