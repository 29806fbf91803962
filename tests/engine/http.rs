//! The HTTP door with a plain hyper client; what is answered is held against the OpenAPI document.

#[path = "http/batch.rs"]
mod batch;

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mail_parser::{MessageParser, MimeHeaders};
use posthaste::config::{ByteSize, Config};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::peer::Peer;
use crate::world::{World, listeners, zone};

const JSON: (&str, &str) = ("content-type", "application/json");
const RFC822: (&str, &str) = ("content-type", "message/rfc822");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One connection to the door.
struct Client {
    sender: SendRequest<Body>,
    address: SocketAddr,
    document: Value,
}

struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

impl Client {
    async fn new(world: &World) -> Client {
        let address = world.daemon().http_addresses()[0];
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut client = Client { sender, address, document: Value::Null };
        let document = client.send("GET", "/v1/openapi.json", &[], "").await;
        assert_eq!((document.status, document.header("content-type")), (200, "application/json"));
        client.document = document.json();
        client
    }

    async fn open(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        self.sender.send_request(request.body(body).unwrap()).await.unwrap()
    }

    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, headers, whole(body)).await;
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        self.check(method, path, &answer);
        answer
    }

    /// Whether the document says that this may come.
    fn check(&self, method: &str, path: &str, answer: &Answer) {
        let Some(paths) = self.document["paths"].as_object() else { return };
        let path = path.split('?').next().unwrap();
        let found = paths.get(path).or_else(|| {
            let one = path.strip_prefix("/v1/messages/").filter(|id| !id.contains('/'));
            one.and_then(|_| paths.get("/v1/messages/{id}"))
        });
        let Some(operation) = found.and_then(|found| found.get(method.to_ascii_lowercase())) else {
            return assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
        };
        let declared = &operation["responses"][answer.status.to_string()];
        let kinds = declared["content"].as_object().unwrap_or_else(|| panic!("{method} {path}: {}", answer.status));
        assert!(kinds.contains_key(answer.header("content-type")), "{declared} {}", answer.header("content-type"));
        for name in declared["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
            assert!(!answer.header(name).is_empty(), "{name} is missing");
        }
    }

    async fn submit(&mut self, message: &Value) -> Answer {
        self.send("POST", "/v1/messages", &[JSON], message.to_string()).await
    }
}

fn hello(to: &str) -> Value {
    json!({"from": "A <a@us.test>", "to": [to], "subject": "hello", "text": "Hello.\n"})
}

async fn world(change: impl FnOnce(&mut Config)) -> (World, Peer) {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them"]), them.address().port(), change).await;
    (world, them)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_parts_arrives_as_it_was_said() {
    let (world, them) = world(|_| {}).await;
    let mut client = Client::new(&world).await;
    let answer = client
        .submit(&json!({
            "from": {"name": "J\u{fc}rgen", "address": "a@us.test"},
            "to": ["Bob <bob@them.test>"],
            "cc": ["zoe@them.test"],
            "bcc": ["hidden@them.test"],
            "subject": "Gr\u{fc}\u{df}e an alle, und zwar so viele, dass die Zeile daf\u{fc}r nicht reicht",
            "text": "Hallo\n.\nBob\n",
            "html": "<img src=\"cid:logo@us.test\">",
            "headers": {"X-Order": "4711"},
            "attachments": [
                {"content": "iVBORw0KGgo=", "content_type": "image/png", "content_id": "logo@us.test", "inline": true},
                {"content": "YSxiCg==", "content_type": "text/csv", "file_name": "\u{fc}bersicht.csv"},
            ],
        }))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let receipt = answer.json();
    let id = receipt["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/v1/messages/{id}"));
    assert_eq!((&receipt["ids"], &receipt["replayed"]), (&json!([id]), &json!(false)));
    world.until("delivered", "them.test", 3).await;
    let taken = them.taken();
    let message = MessageParser::default().parse(taken[0].content.as_bytes()).unwrap();
    assert_eq!(
        message.subject(),
        Some("Gr\u{fc}\u{df}e an alle, und zwar so viele, dass die Zeile daf\u{fc}r nicht reicht")
    );
    assert_eq!(message.from().and_then(|from| from.first()).and_then(|from| from.name()), Some("J\u{fc}rgen"));
    assert_eq!(message.body_text(0).as_deref(), Some("Hallo\r\n.\r\nBob\r\n"));
    assert_eq!(message.body_html(0).as_deref(), Some("<img src=\"cid:logo@us.test\">"));
    assert_eq!(message.header_raw("X-Order").map(str::trim), Some("4711"));
    let names: Vec<_> = message.attachments().map(|part| (part.content_id(), part.attachment_name())).collect();
    assert!(
        names.contains(&(Some("logo@us.test"), None)) && names.contains(&(None, Some("\u{fc}bersicht.csv"))),
        "{names:?}"
    );
    assert!(taken.iter().all(|taken| !taken.content.contains("hidden") && taken.content.contains(" with HTTP\r\n")));
    assert!(taken.iter().all(|taken| taken.sender == "a@us.test"));

    let status = client.send("GET", &format!("/v1/messages/{id}"), &[], "").await;
    assert_eq!(status.status, 200);
    let status = status.json();
    assert_eq!((&status["id"], &status["waiting"]), (&receipt["id"], &json!(false)));
    assert!(status["recipients"].as_array().unwrap().iter().all(|recipient| recipient["state"] == "delivered"));
    assert_eq!(world.metric("posthaste_messages_accepted_total", &["http"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_message_goes_as_it_is() {
    let (world, them) = world(|_| {}).await;
    let mut client = Client::new(&world).await;
    let path = "/v1/messages?recipient=b%40them.test&recipient=c%40them.test&sender=&campaign=spring&personal=true";
    let content = "From: A <a@us.test>\nSubject: raw\nBcc: x@them.test\n\n.\nbody\n";
    let answer = client.send("POST", path, &[RFC822, ("idempotency-key", "\"raw-1\"")], content).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.json()["ids"].as_array().unwrap().len(), 2);
    world.until("delivered", "them.test", 2).await;
    for taken in them.taken() {
        assert!(
            taken.content.ends_with("From: A <a@us.test>\r\nSubject: raw\r\n\r\n.\r\nbody\r\n"),
            "{}",
            taken.content
        );
        assert_eq!(taken.sender, "");
    }
    let again = client.send("POST", path, &[RFC822, ("idempotency-key", "raw-1")], content.replace('\n', "\r\n")).await;
    assert_eq!((again.status, &again.json()["replayed"]), (200, &json!(true)));
    assert_eq!(again.json()["ids"], answer.json()["ids"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_taken_once() {
    let (world, them) = world(|_| {}).await;
    let mut client = Client::new(&world).await;
    let mut message = hello("once@them.test");
    message["idempotency_key"] = "k-1".into();
    let first = client.submit(&message).await;
    let again = client.submit(&message).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!((&again.json()["id"], &again.json()["replayed"]), (&first.json()["id"], &json!(true)));
    // By the header it is the same key.
    let bare = hello("once@them.test").to_string();
    let header = client.send("POST", "/v1/messages", &[JSON, ("idempotency-key", "k-1")], bare).await;
    assert_eq!((header.status, &header.json()["id"]), (200, &first.json()["id"]));
    message["subject"] = "other".into();
    let contradiction = client.submit(&message).await;
    assert_eq!(
        (contradiction.status, &contradiction.json()["type"]),
        (409, &json!("urn:posthaste:problem:key-reused"))
    );
    let both = client.send("POST", "/v1/messages", &[JSON, ("idempotency-key", "k-2")], message.to_string()).await;
    assert_eq!((both.status, &both.json()["violations"][0]["field"]), (400, &json!("idempotency_key")));
    world.until("delivered", "once@", 1).await;
    world.until_empty().await;
    assert_eq!(them.recipients(), ["once@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_be_taken_back() {
    let (world, them) = world(|_| {}).await;
    let mut client = Client::new(&world).await;
    let mut ids = Vec::new();
    for (to, key, campaign) in [("a", "k-a", "x"), ("b", "k-b", "spring"), ("c", "k-c", "spring"), ("d", "k-d", "x")] {
        let mut message = hello(&format!("{to}@them.test"));
        message["not_before"] = "1h".into();
        message["idempotency_key"] = key.into();
        message["campaign"] = campaign.into();
        ids.push(client.submit(&message).await.json()["id"].as_str().unwrap().to_owned());
    }
    let waiting = client.send("GET", &format!("/v1/messages/{}", ids[0]), &[], "").await.json();
    assert_eq!((&waiting["waiting"], &waiting["recipients"][0]["state"]), (&json!(true), &json!("waiting")));
    let paths = [
        (format!("/v1/messages/{}", ids[0]), 1),
        ("/v1/messages?campaign=spring".to_owned(), 2),
        ("/v1/messages?idempotency_key=k-d".to_owned(), 1),
        ("/v1/messages?campaign=spring".to_owned(), 0),
    ];
    for (path, count) in paths {
        let answer = client.send("DELETE", &path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.json(), json!({"messages": count, "recipients": count, "in_flight": 0}), "{path}");
    }
    world.until("cancelled", "them.test", 4).await;
    let gone = client.send("DELETE", &format!("/v1/messages/{}", ids[0]), &[], "").await;
    // Who missed the answer may ask again.
    assert_eq!((gone.status, gone.json()), (200, json!({"messages": 0, "recipients": 0, "in_flight": 0})));
    let status = client.send("GET", &format!("/v1/messages/{}", ids[0]), &[], "").await.json();
    assert_eq!(status["recipients"][0]["state"], "cancelled");
    assert!(them.recipients().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_as_a_problem() {
    let (world, _them) = world(|config| {
        config.submission.http.max_message_size = ByteSize(4096);
        config.submission.http.recipients_max = 3;
    })
    .await;
    let mut client = Client::new(&world).await;
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, String, u16, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("POST", "/v1/messages", vec![JSON], "{".into(), 400, "body"),
        ("POST", "/v1/messages", vec![JSON], "".into(), 400, "body"),
        ("POST", "/v1/messages", vec![JSON], "{\"subjcet\": \"x\"}".into(), 400, "subjcet"),
        ("POST", "/v1/messages", vec![JSON], "{\"to\": [\"a@b\", 7]}".into(), 400, "to[1]"),
        ("POST", "/v1/messages", vec![JSON], hello("nobody").to_string(), 400, "to[0]"),
        ("POST", "/v1/messages?class=bulk", vec![JSON], hello("a@them.test").to_string(), 400, "class"),
        (
            "POST",
            "/v1/messages",
            vec![JSON, ("idempotency-key", "a b")],
            hello("a@them.test").to_string(),
            400,
            "idempotency_key",
        ),
        ("POST", "/v1/messages?to=x", vec![RFC822], "From: a@us.test\n\nx".into(), 400, "to"),
        ("POST", "/v1/messages", vec![RFC822], "From: a@us.test\n\nx".into(), 400, "recipients"),
        ("POST", "/v1/messages?recipient=b@them.test", vec![RFC822], "From: a@us.test\n\nx\0".into(), 400, "raw"),
        ("POST", "/v1/messages?recipient=b@them.test", vec![RFC822], "x\n".repeat(4096), 413, ""),
        ("POST", "/v1/messages", vec![("content-type", "text/plain")], "x".into(), 415, ""),
        ("POST", "/v1/messages", vec![], "x".into(), 415, ""),
        ("POST", "/v1/messages", vec![JSON, ("accept", "text/html")], "{}".into(), 406, ""),
        ("POST", "/v1/messages", vec![JSON, ("authorization", "Bearer wrong")], "{}".into(), 401, ""),
        ("POST", "/v1/messages:batch", vec![JSON], "{}".into(), 415, ""),
        ("POST", "/v1/messages:batch", vec![NDJSON, ("idempotency-key", "k")], "{}".into(), 400, "Idempotency-Key"),
        ("PUT", "/v1/messages", vec![], "".into(), 405, ""),
        ("GET", "/v1/messages", vec![], "".into(), 405, ""),
        ("GET", "/v2", vec![], "".into(), 404, ""),
        ("GET", "/v1/messages/nonsense", vec![], "".into(), 404, ""),
        ("GET", "/v1/messages/%ff", vec![], "".into(), 404, ""),
        ("GET", "/v1/messages/0000000000000", vec![], "".into(), 404, ""),
        ("DELETE", "/v1/messages/0000000000000", vec![], "".into(), 404, ""),
        ("DELETE", "/v1/messages", vec![], "".into(), 400, "campaign"),
        ("DELETE", "/v1/messages?campaign=a&idempotency_key=b", vec![], "".into(), 400, "campaign"),
        ("DELETE", "/v1/messages?campain=a", vec![], "".into(), 400, "campain"),
        ("DELETE", "/v1/messages?idempotency_key=never-seen", vec![], "".into(), 404, ""),
    ];
    for (method, path, headers, body, status, field) in cases {
        let answer = client.send(method, path, &headers, body.clone()).await;
        let told = format!("{method} {path} {headers:?} {body:.80}: {} {}", answer.status, answer.body);
        assert_eq!(answer.status, status, "{told}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{told}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{told}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:posthaste:problem:"), "{told}");
        assert_eq!(problem["violations"][0]["field"].as_str().unwrap_or_default(), field, "{told}");
        match status {
            401 => assert!(answer.header("www-authenticate").starts_with("Bearer"), "{told}"),
            405 => assert!(answer.header("allow").contains("POST"), "{told}"),
            _ => {}
        }
    }
    // All fields at once.
    let mut message = hello("nobody");
    message["class"] = "urgent".into();
    message["subject"] = "a\nb".into();
    let problem = client.submit(&message).await.json();
    let fields: Vec<_> =
        problem["violations"].as_array().unwrap().iter().map(|v| v["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["to[0]", "subject", "class"]);
    assert_eq!(problem["smtp_reply"].as_str().unwrap().split(' ').next(), Some("550"));
    assert!(world.events().is_empty() && world.daemon().queue().open_recipients() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_served() {
    let (world, _them) = world(|config| config.submission.http.trusted_networks = Vec::new()).await;
    let mut client = Client::new(&world).await;
    let answer = client.submit(&hello("a@them.test")).await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    assert_eq!(client.send("GET", "/v1/messages/0000000000000", &[], "").await.status, 401);
    assert_eq!(client.send("DELETE", "/v1/messages?campaign=x", &[], "").await.status, 401);
    assert_eq!(client.send("POST", "/v1/messages:batch", &[NDJSON], "").await.status, 401);
}
