//! Many messages in one request, each answered as it comes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Client, JSON, NDJSON, hello, whole, world};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_line_by_line() {
    let (world, them) = world(|_| {}).await;
    let mut client = Client::new(&world).await;
    let mut lines = String::new();
    for n in 1..=1000 {
        let line = match n {
            10 => "{\"from\": ".to_owned(),
            20 => String::new(),
            30 => hello("nobody").to_string(),
            _ => hello(&format!("r{n}@them.test")).to_string(),
        };
        lines += &line;
        lines.push('\n');
    }
    let answer = client.send("POST", "/v1/messages:batch", &[NDJSON], lines).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let answers: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=1000).filter(|n| *n != 20).collect::<Vec<_>>());
    for answer in &answers {
        match answer["line"].as_u64().unwrap() {
            10 => assert_eq!(
                (&answer["status"], &answer["problem"]["violations"][0]["field"]),
                (&json!(400), &json!("from"))
            ),
            30 => assert_eq!(answer["problem"]["violations"][0]["field"], "to[0]"),
            _ => assert!(answer["status"] == 201 && answer["receipt"]["id"].is_string(), "{answer}"),
        }
    }
    world.until("delivered", "them.test", 997).await;
    assert_eq!(them.recipients().len(), 997);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_while_it_is_being_sent() {
    let (world, _them) = world(|_| {}).await;
    for expect in [&[NDJSON][..], &[NDJSON, ("expect", "100-continue")]] {
        one_batch_with_answers_between(&world, expect).await;
    }
}

async fn one_batch_with_answers_between(world: &World, headers: &[(&str, &str)]) {
    let mut client = Client::new(world).await;
    let (sender, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(ReceiverStream::new(body)).boxed_unsync();
    let line = |n: u32| {
        let mut message = hello(&format!("r{n}@them.test"));
        message["idempotency_key"] = format!("k{}-{}", headers.len(), n.min(4)).into();
        Bytes::from(format!("{message}\n"))
    };
    let push = move |data: Bytes| {
        let sender = sender.clone();
        async move { sender.send(Ok(Frame::data(data))).await.unwrap() }
    };
    push(line(1)).await;
    let mut response = client.open("POST", "/v1/messages:batch", headers, body).await.into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(20), response.frame()).await.expect("an answer");
        let frame = frame?.unwrap().into_data().unwrap();
        Some(serde_json::from_slice::<Value>(&frame).unwrap())
    };
    assert_eq!(next().await.unwrap()["line"], 1);
    // A line in two pieces, and what was answered before is told again.
    let second = line(2);
    push(second.slice(..10)).await;
    push(second.slice(10..)).await;
    let answer = next().await.unwrap();
    assert_eq!((&answer["line"], &answer["status"]), (&json!(2), &json!(201)));
    push(line(1)).await;
    let answer = next().await.unwrap();
    assert_eq!((&answer["status"], &answer["receipt"]["replayed"]), (&json!(200), &json!(true)));
    push(line(4)).await;
    assert_eq!(next().await.unwrap()["status"], 201);
    push(line(5)).await;
    assert_eq!(next().await.unwrap()["status"], 409);
    drop(push);
    assert_eq!(next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answers_nobody_takes_is_given_up() {
    let (world, _them) = world(|config| config.submission.http.unread_timeout = Duration::from_secs(2)).await;
    // Over HTTP/2, where a client may keep its window shut and its connection well.
    let stream = TcpStream::connect(world.daemon().http_addresses()[0]).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (sender, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(ReceiverStream::new(body)).boxed_unsync();
    let uri = format!("http://{}/v1/messages:batch", world.daemon().http_addresses()[0]);
    let request = Request::post(uri).header(NDJSON.0, NDJSON.1).body(body).unwrap();
    // A line a frame, and short: many frames wait to be read, and the connection must bear them.
    let writing = tokio::spawn(async move {
        let line = Bytes::from(format!("{}\n", hello("r@them.test")));
        while sender.send(Ok(Frame::data(line.clone()))).await.is_ok() {}
    });
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let given_up = async {
        while world.metric("posthaste_submissions_refused_total", &["http", "unread"]).await == 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_up).await.expect("the batch is not given up");
    // Who reads at last hears that answers are missing.
    let read = tokio::time::timeout(Duration::from_secs(20), response.into_body().collect()).await.expect("an end");
    assert!(read.is_err());
    tokio::time::timeout(Duration::from_secs(20), writing).await.expect("nobody takes what it writes").unwrap();
    // Other requests on the connection are as well as before.
    let uri = format!("http://{}/v1/messages", world.daemon().http_addresses()[0]);
    let body = whole(hello("r@them.test").to_string());
    let request = Request::post(uri).header(JSON.0, JSON.1).body(body).unwrap();
    let response =
        tokio::time::timeout(Duration::from_secs(20), client.send_request(request)).await.expect("an answer");
    assert_eq!(response.unwrap().status(), 201);
}
