//! Real connections to a router that says who asked.

#![allow(clippy::unwrap_used, reason = "a test")]

use axum::Extension;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::config::GrpcConfig;
use crate::submission::RejectionKind;

async fn start(connections_max: usize, router: Router) -> (Api, Arc<Metrics>) {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = GrpcConfig { listen, connections_max, ..GrpcConfig::default() };
    let metrics = Arc::new(Metrics::new());
    (Api::start("grpc", &config, router, Arc::clone(&metrics)).unwrap(), metrics)
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.local_addrs()[0]).await.unwrap()
}

async fn until(mut look: impl FnMut() -> bool) {
    while !look() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_request_knows_its_peer() {
    let router =
        Router::new().route("/", get(|Extension(peer): Extension<Arc<Peer>>| async move { format!("{peer:?}") }));
    let (api, metrics) = start(10, router).await;
    let mut stream = connect(&api).await;
    stream.write_all(ASK).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("address: Some(127.0.0.1), user: None"), "{answer}");
    let open = metrics.submission_connections.with_label_values(&["grpc"]);
    until(|| open.get() == 0).await;
    api.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let (api, metrics) = start(2, Router::new().route("/", get(|| async { "hello" }))).await;
    let first = connect(&api).await;
    let _second = connect(&api).await;
    let open = metrics.submission_connections.with_label_values(&["grpc"]);
    until(|| open.get() == 2).await;
    let mut third = connect(&api).await;
    let mut answer = Vec::new();
    let read = third.read_to_end(&mut answer).await;
    assert!(read.is_err() || answer.is_empty());
    assert_eq!(metrics.submissions_refused.with_label_values(&["grpc", "connections"]).get(), 1);
    drop(first);
    until(|| open.get() == 1).await;
    let mut fourth = connect(&api).await;
    fourth.write_all(ASK).await.unwrap();
    fourth.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"hello"));
}

#[tokio::test]
async fn one_client_does_not_take_all_connections() {
    let (api, metrics) = start(10, Router::new().route("/", get(|| async { "hello" }))).await;
    let config = GrpcConfig { connections_per_client_max: 2, ..GrpcConfig::default() };
    api.reload(&GrpcConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..config }, None);
    let first = connect(&api).await;
    let _second = connect(&api).await;
    let open = metrics.submission_connections.with_label_values(&["grpc"]);
    until(|| open.get() == 2).await;
    let mut answer = Vec::new();
    let read = connect(&api).await.read_to_end(&mut answer).await;
    assert!(read.is_err() || answer.is_empty());
    assert_eq!(metrics.submissions_refused.with_label_values(&["grpc", "connections"]).get(), 1);
    // Another address has seats of its own.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(api.local_addrs()[0]).await.unwrap();
    other.write_all(ASK).await.unwrap();
    other.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"hello"));
    drop(first);
    until(|| open.get() == 1).await;
    let mut again = connect(&api).await;
    again.write_all(ASK).await.unwrap();
    again.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"hello"));
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_cuts_off_those_that_do_not() {
    for ends in [true, false] {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go));
        let slow = move || async move {
            tell.notify_one();
            wait.notified().await;
            "done"
        };
        let (api, _) = start(10, Router::new().route("/", get(slow))).await;
        let _idle = connect(&api).await;
        let mut stream = connect(&api).await;
        stream.write_all(ASK).await.unwrap();
        begun.notified().await;
        let grace = Duration::from_millis(if ends { 20_000 } else { 100 });
        let reading = async {
            if ends {
                go.notify_one();
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let (answer, ()) = tokio::join!(reading, api.close(grace));
        assert_eq!(answer.ends_with(b"done"), ends);
        assert!(TcpStream::connect(api.local_addrs()[0]).await.is_err());
    }
}

#[tokio::test]
async fn bodies_take_their_memory_from_the_budget() {
    let budget = Budget::new(100);
    let read = |octets: usize| {
        let budget = Arc::clone(&budget);
        async move { read_body(vec![b'x'; octets].into(), &budget, 80).await }
    };
    let (octets, share) = read(80).await.unwrap();
    assert_eq!((octets.len(), share.held(), budget.used()), (80, 80, 80));
    assert_eq!(read(81).await.unwrap_err().kind, RejectionKind::TooLarge);
    // Waits for room.
    let waiting = tokio::spawn(read(50));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(share);
    let (_, other) = waiting.await.unwrap().unwrap();
    assert_eq!(budget.used(), 50);
    drop(other);
    assert_eq!((budget.used(), budget.free()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_body_without_room_is_refused_after_a_while() {
    let budget = Budget::new(100);
    let share = budget.share();
    assert!(share.try_take(90) && !share.try_take(20));
    let refused = read_body(vec![b'x'; 20].into(), &budget, 80).await.unwrap_err();
    assert_eq!((refused.kind, refused.retry_after.is_some()), (RejectionKind::Full, true));
    assert_eq!(budget.used(), 90);
}

#[tokio::test]
async fn a_body_in_pieces_is_read_whole() {
    let budget = Budget::new(1 << 20);
    let whole = move |body: axum::body::Body| async move {
        let (octets, _share) = read_body(body, &budget, 1 << 20).await.unwrap();
        format!("{} {}", octets.len(), octets.iter().filter(|b| **b == b'7').count())
    };
    let (api, _) = start(10, Router::new().route("/", post(whole))).await;
    let mut stream = connect(&api).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for n in 0..10 {
        stream.write_all(format!("5\r\n{}\r\n", n.to_string().repeat(5)).as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("50 5"), "{answer}");
}
