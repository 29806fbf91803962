//! The pool against a name server that does as it is told.

use std::net::SocketAddr;

use hickory_resolver::proto::op::{DnsRequestOptions, Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};

use super::*;

fn request(name: &str) -> DnsRequest {
    let query = Query::query(Name::from_ascii(name).expect("a name"), RecordType::MX);
    DnsRequest::from_query(query, DnsRequestOptions::default())
}

/// What a server says to `query`: NXDOMAIN, perhaps under another id or about another name.
fn reply(query: &[u8], id: u16, name: Option<&str>) -> Vec<u8> {
    let query = Message::from_vec(query).expect("we ask properly");
    let mut reply = Message::response(query.metadata.id ^ id, OpCode::Query);
    reply.metadata.response_code = ResponseCode::NXDomain;
    let mut question = query.queries[0].clone();
    if let Some(name) = name {
        question.set_name(Name::from_ascii(name).expect("a name"));
    }
    reply.add_query(question);
    reply.to_vec().expect("encodes")
}

async fn server() -> (UdpSocket, Arc<Sockets>) {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let sockets = Sockets::new(server.local_addr().expect("bound"), None, Duration::from_secs(5));
    (server, Arc::new(sockets))
}

/// The next query and who asks.
async fn query(server: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 512];
    let (length, from) = server.recv_from(&mut buffer).await.expect("loopback");
    buffer.truncate(length);
    (buffer, from)
}

fn ask(sockets: &Arc<Sockets>, name: &'static str) -> tokio::task::JoinHandle<Result<DnsResponse, NetError>> {
    let sockets = Arc::clone(sockets);
    tokio::spawn(async move { sockets.ask(&request(name)).await })
}

#[tokio::test]
async fn a_socket_serves_many_questions_but_one_at_a_time() {
    let (server, sockets) = server().await;
    let mut ports = Vec::new();
    for _ in 0..3 {
        let asked = ask(&sockets, "a.example.");
        let (octets, from) = query(&server).await;
        server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
        asked.await.expect("no panic").expect("an answer");
        ports.push(from.port());
    }
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    let (first, second) = (ask(&sockets, "a.example."), ask(&sockets, "b.example."));
    let (one, two) = (query(&server).await, query(&server).await);
    assert_ne!(one.1.port(), two.1.port());
    for (octets, from) in [one, two] {
        server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    }
    first.await.expect("no panic").expect("an answer");
    second.await.expect("no panic").expect("an answer");
    assert_eq!(sockets.idle.lock().expect("unharmed").len(), 2);
}

#[tokio::test]
async fn a_port_is_given_up_after_its_share() {
    let (server, sockets) = server().await;
    let mut ports = std::collections::HashSet::new();
    for _ in 0..=USES_MAX {
        let asked = ask(&sockets, "a.example.");
        let (octets, from) = query(&server).await;
        server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
        asked.await.expect("no panic").expect("an answer");
        ports.insert(from.port());
    }
    // The machine may be slow enough for one to grow too old, too.
    assert!(ports.len() >= 2, "{ports:?}");
}

#[tokio::test]
async fn forged_answers_are_not_believed() {
    let (server, sockets) = server().await;
    let asked = ask(&sockets, "a.example.");
    let (octets, from) = query(&server).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    stranger.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    for forged in [reply(&octets, 1, None), reply(&octets, 0, Some("b.example.")), vec![octets[0]]] {
        server.send_to(&forged, from).await.expect("loopback");
    }
    server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    let answer = asked.await.expect("no panic").expect("an answer");
    assert_eq!(answer.queries[0].name().to_ascii(), "a.example.");
    // What comes before the next question was not asked for: that port is not used again.
    server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    let asked = ask(&sockets, "a.example.");
    let (octets, again) = query(&server).await;
    assert_ne!(again.port(), from.port());
    server.send_to(&reply(&octets, 0, None), again).await.expect("loopback");
    asked.await.expect("no panic").expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn a_lost_question_is_asked_again_and_then_given_up() {
    let (server, sockets) = server().await;
    let asked = ask(&sockets, "a.example.");
    let (octets, from) = query(&server).await;
    let (again, from_again) = query(&server).await;
    assert_eq!((&octets, from), (&again, from_again), "the same question from the same port");
    server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    asked.await.expect("no panic").expect("an answer");
    assert!(sockets.idle.lock().expect("unharmed").is_empty(), "another answer may come for it");

    let begun = tokio::time::Instant::now();
    let asked = ask(&sockets, "a.example.");
    let result = asked.await.expect("no panic");
    assert!(matches!(result, Err(NetError::Timeout)), "{result:?}");
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_starting_is_waited_for() {
    let (server, sockets) = server().await;
    let address = server.local_addr().expect("bound");
    drop(server);
    let asked = ask(&sockets, "a.example.");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let server = UdpSocket::bind(address).await.expect("the port is free again");
    let (octets, from) = query(&server).await;
    server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    asked.await.expect("no panic").expect("an answer");
}

#[tokio::test]
async fn a_flood_of_wrong_ids_moves_the_question() {
    let (server, sockets) = server().await;
    let asked = ask(&sockets, "a.example.");
    let mut ports = std::collections::HashSet::new();
    for _ in 0..MOVES_MAX {
        let (octets, from) = query(&server).await;
        assert!(ports.insert(from.port()), "a port that is being tried was used again");
        for id in 1..=STRAYS_MAX as u16 + 1 {
            server.send_to(&reply(&octets, id, None), from).await.expect("loopback");
        }
    }
    let (octets, from) = query(&server).await;
    assert!(ports.insert(from.port()));
    server.send_to(&reply(&octets, 1, None), from).await.expect("loopback");
    server.send_to(&reply(&octets, 0, None), from).await.expect("loopback");
    asked.await.expect("no panic").expect("an answer");
    assert!(sockets.idle.lock().expect("unharmed").is_empty(), "somebody tries ids on that one");
    // Without end, it is given up.
    let asked = ask(&sockets, "a.example.");
    for _ in 0..=MOVES_MAX {
        let (octets, from) = query(&server).await;
        for id in 1..=STRAYS_MAX as u16 + 1 {
            server.send_to(&reply(&octets, id, None), from).await.expect("loopback");
        }
    }
    assert!(matches!(asked.await.expect("no panic"), Err(NetError::Timeout)));
}

#[tokio::test]
async fn what_came_a_moment_ago_is_seen() {
    let (server, sockets) = server().await;
    let socket = sockets.take().await.expect("a socket");
    let port = socket.socket.local_addr().expect("bound");
    sockets.give_back(socket);
    let server = server.into_std().expect("a socket");
    // No turn of the reactor comes in between.
    server.send_to(b"not asked for", ("127.0.0.1", port.port())).expect("loopback");
    let next = sockets.take().await.expect("a socket");
    assert_ne!(next.socket.local_addr().expect("bound"), port);
}
