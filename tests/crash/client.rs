//! An application as a process of its own, so that it can be killed: hands over a batch of messages with keys, again and
//! again from the start, until it has a receipt for each of them. Every receipt it sees goes to a file at once.
//!
//! The process is this test binary, told by [`ORDER`] to run [`application`] only.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use posthaste::submission::grpc::v1;
use posthaste::submission::grpc::v1::submission_client::SubmissionClient;
use posthaste::submission::grpc::v1::submit_result::Result as Outcome;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Endpoint;

/// The variable that says what to do.
const ORDER: &str = "POSTHASTE_APPLICATION";
/// An application that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(50);
/// Messages written by SMTP before the first reply is read.
const FLIGHT: u64 = 16;

type Trouble = Box<dyn Error + Send + Sync>;

/// What an application does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub door: Door,
    pub address: SocketAddr,
    pub messages: Range<u64>,
    /// Where its receipts go.
    pub receipts: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Door {
    Grpc,
    Http,
    Smtp,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    pub message: u64,
    pub id: String,
    pub replayed: bool,
}

/// A running application. Dropped, it is killed.
pub struct Application(Child);

impl Application {
    pub fn start(order: &Order) -> Application {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["client::application", "--exact", "--ignored", "--nocapture"])
            .env(ORDER, serde_json::to_string(order).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Application(child)
    }

    /// Whether it has all its receipts; it must not have failed.
    pub fn is_done(&mut self) -> bool {
        match self.0.try_wait().unwrap() {
            None => false,
            Some(status) => {
                assert!(status.success(), "an application failed: {status}; what it said is above");
                true
            }
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All receipts in a file.
pub fn noted(receipts: &Path) -> Vec<Noted> {
    let text = std::fs::read_to_string(receipts).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn recipient(message: u64) -> String {
    let domain = if message % 10 == 3 { "greylisting.test" } else { "good.test" };
    format!("customer{message}@{domain}")
}

#[tokio::test]
#[ignore = "no test: the application that `once` starts and kills"]
async fn application() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Order = serde_json::from_str(&order).unwrap();
    let file = File::options().create(true).append(true).open(&order.receipts).unwrap();
    let mut notes = Notes { file, missing: 0 };
    let work = async {
        loop {
            notes.missing = order.messages.end - order.messages.start;
            let result = match order.door {
                Door::Grpc => grpc(&order, &mut notes).await,
                Door::Http => http(&order, &mut notes).await,
                Door::Smtp => smtp(&order, &mut notes).await,
            };
            match result {
                Ok(()) if notes.missing == 0 => return,
                // The daemon died, or is not there yet, or would rather not now: all of it again.
                Ok(()) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("all receipts in time");
}

/// The receipts of one try.
struct Notes {
    file: File,
    missing: u64,
}

impl Notes {
    fn receipt(&mut self, message: u64, id: &str, replayed: bool) {
        let mut line = serde_json::to_vec(&Noted { message, id: id.to_owned(), replayed }).unwrap();
        line.push(b'\n');
        self.file.write_all(&line).unwrap();
        self.missing -= 1;
    }
}

fn key(message: u64) -> String {
    format!("order-{message}")
}

pub fn content(message: u64) -> String {
    let body = "A line that stands for the rest of the message.\r\n".repeat(message as usize % 100);
    format!("From: orders@shop.test\r\nSubject: order {message}\r\nX-Number: {message}\r\n\r\n{body}")
}

async fn grpc(order: &Order, notes: &mut Notes) -> Result<(), Trouble> {
    let mut client =
        SubmissionClient::new(Endpoint::from_shared(format!("http://{}", order.address))?.connect().await?);
    let request = |message| v1::SubmitRequest {
        idempotency_key: key(message),
        sender: Some("orders@shop.test".into()),
        recipients: vec![recipient(message)],
        content: Some(v1::submit_request::Content::Raw(content(message).into())),
        ..v1::SubmitRequest::default()
    };
    let requests = tokio_stream::iter(order.messages.clone().map(request));
    let mut results = client.submit_stream(requests).await?.into_inner();
    while let Some(result) = results.message().await? {
        match result.result {
            Some(Outcome::Receipt(one)) => {
                notes.receipt(order.messages.start + result.index, &one.message_id, one.replayed);
            }
            Some(Outcome::Error(error)) => must_pass(&error.message, Code::from(error.code) as i32, &[8, 14]),
            None => panic!("a result that says nothing"),
        }
    }
    Ok(())
}

async fn http(order: &Order, notes: &mut Notes) -> Result<(), Trouble> {
    let line = |message| {
        let line = serde_json::json!({
            "idempotency_key": key(message), "sender": "orders@shop.test", "recipients": [recipient(message)],
            "raw": STANDARD.encode(content(message)),
        });
        format!("{line}\n")
    };
    let batch: String = order.messages.clone().map(line).collect();
    let stream = TokioIo::new(TcpStream::connect(order.address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::post("/v1/messages:batch")
        .header("host", order.address.to_string())
        .header("content-type", "application/x-ndjson")
        .body(Full::<bytes::Bytes>::from(batch))?;
    let mut body = sender.send_request(request).await?.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(end) = read.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            let answer: serde_json::Value = serde_json::from_slice(&line)?;
            let receipt = &answer["receipt"];
            match (receipt["id"].as_str(), receipt["replayed"].as_bool()) {
                (Some(id), Some(replayed)) => {
                    notes.receipt(order.messages.start + answer["line"].as_u64().unwrap() - 1, id, replayed);
                }
                _ => must_pass(&answer.to_string(), answer["status"].as_i64().unwrap() as i32, &[429, 503]),
            }
        }
    }
    Ok(())
}

async fn smtp(order: &Order, notes: &mut Notes) -> Result<(), Trouble> {
    let mut stream = BufReader::new(TcpStream::connect(order.address).await?);
    replies(&mut stream, 1).await?;
    stream.write_all(b"EHLO application.shop.test\r\n").await?;
    replies(&mut stream, 1).await?;
    let mut next = order.messages.start;
    while next < order.messages.end {
        let flight = next..order.messages.end.min(next + FLIGHT);
        next = flight.end;
        let mut octets = String::new();
        for message in flight.clone() {
            let content = format!("X-Posthaste-Idempotency-Key: {}\r\n{}", key(message), content(message));
            octets += &format!("MAIL FROM:<orders@shop.test>\r\nRCPT TO:<{}>\r\n", recipient(message));
            octets += &format!("BDAT {} LAST\r\n{content}", content.len());
        }
        stream.write_all(octets.as_bytes()).await?;
        for message in flight {
            let reply = replies(&mut stream, 3).await?;
            let said = reply.split_once("queued as ").expect("a reply with an id").1;
            notes.receipt(message, &said[..13], said.contains("before"));
        }
    }
    Ok(())
}

/// So many replies, all good; the last one.
async fn replies(stream: &mut BufReader<TcpStream>, count: usize) -> Result<String, Trouble> {
    let mut line = String::new();
    for _ in 0..count {
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Err("the connection broke off".into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        if !line.starts_with('2') {
            must_pass(&line, line[..1].parse()?, &[4]);
            return Err(line.into());
        }
    }
    Ok(line)
}

/// A refusal that must be one to try again.
fn must_pass(text: &str, code: i32, passing: &[i32]) {
    assert!(passing.contains(&code), "refused for good: {text}");
}
