//! An authoritative name server on loopback that answers from a table.
//!
//! It serves what a sender of mail asks for and what goes wrong when it asks: MX with preferences, null MX, CNAME
//! chains, hosts without addresses, names that do not exist, names whose servers fail or stay silent. It counts the
//! questions, so that a test can tell a cache hit from a look-up.

#[cfg(test)]
mod tests;
mod zone;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
pub use zone::Zone;
use zone::key;

/// Names whose questions are counted; beyond it new names go uncounted, so that memory stays bounded.
const COUNTED_MAX: usize = 65_536;
/// A TCP client that says nothing this long is dropped (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients at once.
const CLIENTS_MAX: usize = 128;

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
