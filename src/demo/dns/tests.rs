//! What it answers to questions good and bad.

use hickory_proto::op::Query;

use super::zone::wire_name;
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
