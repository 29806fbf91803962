//! An authoritative name server on loopback that answers from a table.
//!
//! It serves what a sender of mail asks for and what goes wrong when it asks: MX with preferences, null MX, CNAME
//! chains, hosts without addresses, names that do not exist, names whose servers fail or stay silent. It counts the
//! questions, so that a test can tell a cache hit from a look-up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Links followed in a CNAME chain before the rest is left to the client.
const CHAIN_MAX: usize = 8;
/// Names whose questions are counted; beyond it new names go uncounted, so that memory stays bounded.
const COUNTED_MAX: usize = 65_536;
/// A TCP client that says nothing this long is dropped (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients at once.
const CLIENTS_MAX: usize = 128;

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
    fn answer(&self, name: &Name, kind: RecordType) -> Option<Answer> {
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

struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    authority: Option<Record>,
}

/// The name as the table knows it: lower case, no last dot.
fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn wire_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("names in the table are written by us");
    name.set_fqdn(true);
    name
}

/// A running name server. Dropping it stops it.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    zone: Mutex<Zone>,
    questions: Mutex<HashMap<(String, RecordType), u64>>,
}

impl DnsServer {
    /// Serves `zone` over UDP and TCP on one free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free for both.
    pub async fn start(zone: Zone) -> io::Result<DnsServer> {
        let (udp, tcp) = bind_both().await?;
        let address = tcp.local_addr()?;
        let shared = Arc::new(Shared { zone: Mutex::new(zone), questions: Mutex::default() });
        let task = tokio::spawn(serve(udp, tcp, Arc::clone(&shared)));
        Ok(DnsServer { address, shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it listens, UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Changes the table under the running server.
    pub fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.shared.zone.lock().expect("no code panics under this lock"));
    }

    /// How often `name` was asked for `kind`.
    pub fn questions(&self, name: &str, kind: RecordType) -> u64 {
        let questions = self.shared.questions.lock().expect("no code panics under this lock");
        questions.get(&(key(name), kind)).copied().unwrap_or(0)
    }

    /// How many questions there were in all.
    pub fn questions_total(&self) -> u64 {
        self.shared.questions.lock().expect("no code panics under this lock").values().sum()
    }
}

/// UDP and TCP on the same free port. The system gives out a port for one only, so the other may need a few tries.
async fn bind_both() -> io::Result<(UdpSocket, TcpListener)> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut last = None;
    for _ in 0..32 {
        let tcp = TcpListener::bind(loopback).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Stops when its task is aborted; the clients' tasks are in its set and go with it.
async fn serve(udp: UdpSocket, tcp: TcpListener, shared: Arc<Shared>) {
    let mut clients = JoinSet::new();
    let mut datagram = vec![0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                let Ok((length, from)) = received else { continue };
                if let Some(reply) = shared.reply(&datagram[..length], Transport::Udp) {
                    // A datagram that cannot be sent is one the client asks for again.
                    let _ = udp.send_to(&reply, from).await;
                }
            }
            accepted = tcp.accept(), if clients.len() < CLIENTS_MAX => {
                if let Ok((stream, _)) = accepted {
                    clients.spawn(serve_stream(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Questions on one TCP connection, each with its length before it (RFC 1035 §4.2.2), until the client closes, fails or
/// idles.
async fn serve_stream(mut stream: TcpStream, shared: Arc<Shared>) {
    while let Ok(Ok(question)) = tokio::time::timeout(IDLE, read_framed(&mut stream)).await {
        let Some(reply) = shared.reply(&question, Transport::Tcp) else { continue };
        let mut framed = Vec::with_capacity(reply.len() + 2);
        framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        framed.extend_from_slice(&reply);
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut question = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Udp,
    Tcp,
}

impl Shared {
    /// The bytes to answer with; `None` for garbage and for names that stay silent.
    fn reply(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        let query = asked.queries.first()?.clone();
        self.count(&query.name, query.query_type);

        let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&asked.metadata);
        reply.metadata.authoritative = true;
        reply.add_query(query.clone());
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            reply.set_edns(edns);
        }
        if asked.metadata.op_code == OpCode::Query {
            let zone = self.zone.lock().expect("no code panics under this lock");
            let answer = zone.answer(&query.name, query.query_type)?;
            reply.metadata.response_code = answer.code;
            reply.add_answers(answer.records);
            reply.add_authorities(answer.authority);
        } else {
            reply.metadata.response_code = ResponseCode::NotImp;
        }

        let bytes = reply.to_vec().ok()?;
        let fits = transport == Transport::Tcp || bytes.len() <= usize::from(asked.max_payload().max(512));
        if fits { Some(bytes) } else { reply.truncate().to_vec().ok() }
    }

    fn count(&self, name: &Name, kind: RecordType) {
        let mut questions = self.questions.lock().expect("no code panics under this lock");
        let key = (key(&name.to_ascii()), kind);
        if questions.len() < COUNTED_MAX || questions.contains_key(&key) {
            *questions.entry(key).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(wire_name(name), kind));
        message.to_vec().unwrap()
    }

    async fn ask_udp(server: &DnsServer, name: &str, kind: RecordType) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question(name, kind), server.addr()).await.unwrap();
        let mut reply = [0; 4096];
        let length = socket.recv(&mut reply).await.unwrap();
        Message::from_vec(&reply[..length]).unwrap()
    }

    async fn ask_tcp(server: &DnsServer, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        let question = question(name, kind);
        stream.write_u16(question.len() as u16).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut reply).await.unwrap();
        Message::from_vec(&reply).unwrap()
    }

    fn zone() -> Zone {
        let mut zone = Zone::new();
        zone.ttl(60, 7)
            .mx("example.test", 10, "mx1.example.test")
            .mx("example.test", 20, "mx2.example.test")
            .address("mx1.example.test", [127, 0, 0, 2].into())
            .address("mx1.example.test", "::1".parse().unwrap())
            .null_mx("nomail.test")
            .cname("www.example.test", "mx1.example.test")
            .cname("loop.test", "loop.test")
            .empty("nothing.test")
            .servfail("broken.test");
        zone
    }

    #[tokio::test]
    async fn answers_from_the_table() {
        let server = DnsServer::start(zone()).await.unwrap();
        // name, type, code, answers, authorities
        use ResponseCode::{NXDomain, NoError, ServFail};
        for (name, kind, code, answers, denials) in [
            ("Example.TEST", RecordType::MX, NoError, 2, 0),
            ("nomail.test", RecordType::MX, NoError, 1, 0),
            ("mx1.example.test", RecordType::A, NoError, 1, 0),
            ("mx1.example.test", RecordType::AAAA, NoError, 1, 0),
            ("www.example.test", RecordType::A, NoError, 2, 0),
            ("www.example.test", RecordType::MX, NoError, 1, 1),
            ("loop.test", RecordType::A, NoError, 8, 1),
            ("nothing.test", RecordType::MX, NoError, 0, 1),
            ("mx2.example.test", RecordType::A, NXDomain, 0, 1),
            ("broken.test", RecordType::MX, ServFail, 0, 0),
        ] {
            for reply in [ask_udp(&server, name, kind).await, ask_tcp(&server, name, kind).await] {
                assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
                assert_eq!(reply.answers.len(), answers, "{name} {kind}");
                assert_eq!(reply.authorities.len(), denials, "{name} {kind}");
            }
        }
        assert_eq!(server.questions("example.test.", RecordType::MX), 2);
        assert_eq!(server.questions("example.test", RecordType::A), 0);
    }

    #[tokio::test]
    async fn denials_carry_their_time_and_the_table_may_change() {
        let server = DnsServer::start(zone()).await.unwrap();
        let denied = ask_udp(&server, "later.test", RecordType::MX).await;
        let soa = &denied.authorities[0];
        assert_eq!((soa.ttl, soa.name.to_ascii()), (7, "test.".into()));
        server.change(|zone| {
            zone.mx("later.test", 5, "mx1.example.test");
        });
        assert_eq!(ask_udp(&server, "later.test", RecordType::MX).await.answers.len(), 1);
    }

    #[tokio::test]
    async fn an_answer_too_long_for_a_datagram_is_truncated() {
        let mut zone = Zone::new();
        for n in 0..60u16 {
            zone.mx("many.test", n, &format!("a-rather-long-host-name-{n}.many.test"));
        }
        let server = DnsServer::start(zone).await.unwrap();
        assert!(ask_udp(&server, "many.test", RecordType::MX).await.metadata.truncation);
        assert_eq!(ask_tcp(&server, "many.test", RecordType::MX).await.answers.len(), 60);
    }

    #[test]
    fn garbage_is_not_answered() {
        let shared = Shared { zone: Mutex::new(Zone::new()), questions: Mutex::default() };
        for garbage in [&b""[..], b"\0", &[0xff; 40], &[0; 12]] {
            assert_eq!(shared.reply(garbage, Transport::Udp), None);
        }
    }
}
