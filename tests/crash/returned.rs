//! Mail that was taken and comes back, while the daemon is killed again and again: those who return it try until they hear 250.
//! Every sender gets his report, and one only.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use posthaste::demo::load::{Client, Letter};
use posthaste::feedback::token::{Sent, Tokens};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::seed;
use crate::stage::{RETURNING, RETURNS, Stage};

const MESSAGES: u64 = 400;
const KILLS: usize = 12;
const LIMIT: Duration = Duration::from_secs(58);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_is_reported_once_however_often_it_is_killed() {
    let seed = seed();
    println!("POSTHASTE_SEED={seed}");
    let stage = Stage::build().await;
    match tokio::time::timeout(LIMIT, play(&stage, seed)).await {
        Ok(events) => check(&events),
        Err(_) => panic!("not done within {LIMIT:?}; the daemon's log ends:\n{}", stage.log_end()),
    }
}

fn sender(number: u64) -> String {
    format!("sender{number}@{RETURNING}")
}

fn gone(number: u64) -> String {
    format!("gone{number}@good.test")
}

/// Sends, and has it all come back through the kills; the event log.
async fn play(stage: &Stage, seed: u64) -> Vec<Value> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut daemon = stage.start();
    stage.answers(&mut daemon).await;
    let mut client = Client::connect(stage.smtp).await.unwrap();
    for number in 0..MESSAGES {
        let content = format!("From: {}\r\nSubject: {number}\r\n\r\nhello\r\n", sender(number)).into_bytes();
        client
            .hand_over(number, &Letter { sender: sender(number), recipients: vec![gone(number)], content })
            .await
            .unwrap();
    }
    stage.drain((0..MESSAGES).map(gone).collect()).await;
    let tokens = Tokens::load_or_make(&stage.file("data/tokens.key")).unwrap();
    let delivered = stage.lines();
    let path = |number: u64| {
        let line = delivered.iter().find(|line| line["recipient"] == gone(number)).unwrap();
        let sent = Sent::to(
            line["message_id"].as_str().unwrap().parse().unwrap(),
            [&gone(number).parse().unwrap()].into_iter(),
        );
        format!("b+{}@{RETURNS}", tokens.sent(sent))
    };
    let paths: Vec<String> = (0..MESSAGES).map(path).collect();
    let (back, taken) = (stage.back, Arc::new(AtomicU64::new(0)));
    let hosts: Vec<_> = (0..8u64)
        .map(|host| {
            let mine: Vec<(String, String)> =
                (host..MESSAGES).step_by(8).map(|number| (paths[number as usize].clone(), gone(number))).collect();
            let taken = Arc::clone(&taken);
            tokio::spawn(async move {
                for (path, gone) in mine {
                    while hand_in(back, &path, &gone).await.is_none() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..KILLS {
        // Some have heard their 250, others are on their way there.
        let until = (taken.load(Ordering::Relaxed) + rng.random_range(1..20)).min(MESSAGES);
        while taken.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stage.kill(&mut daemon);
        daemon = stage.start();
        stage.answers(&mut daemon).await;
    }
    for host in hosts {
        host.await.unwrap();
    }
    stage.drain((0..MESSAGES).map(sender).collect()).await;
    assert_eq!(daemon.stop().await, Some(0), "the daemon's log ends:\n{}", stage.log_end());
    stage.lines()
}

fn check(events: &[Value]) {
    let mut reports: HashMap<&str, u64> = HashMap::new();
    let mut told: HashMap<&str, u64> = HashMap::new();
    for event in events {
        let recipient = event["recipient"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap() {
            // One end for each message: this counts messages, not copies.
            "delivered" => *reports.entry(recipient).or_default() += 1,
            "returned" if event["what"] == "failed" => *told.entry(recipient).or_default() += 1,
            _ => {}
        }
    }
    let twice = told.values().filter(|count| **count > 1).count();
    println!("{KILLS} kills: {twice} of {MESSAGES} told as failed more than once");
    for number in 0..MESSAGES {
        assert_eq!(reports.get(&*sender(number)), Some(&1), "reports to {}", sender(number));
        assert!(told.contains_key(&*gone(number)), "{} is not told", gone(number));
    }
}

/// Hands in a bounce; `None`: it did not hear 250.
async fn hand_in(back: SocketAddr, path: &str, gone: &str) -> Option<()> {
    let mut stream = BufReader::new(TcpStream::connect(back).await.ok()?);
    let content = format!(
        "From: MAILER-DAEMON@good.test\r\nSubject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\nSorry.\r\n--x\r\n\
         Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; good.test\r\n\r\nFinal-Recipient: rfc822; {gone}\r\n\
         Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--x--\r\n."
    );
    reply(&mut stream, "220").await?;
    let steps =
        [("EHLO good.test", "250"), ("MAIL FROM:<>", "250"), (&format!("RCPT TO:<{path}>"), "250"), ("DATA", "354")];
    for (line, expected) in steps.into_iter().chain([(content.as_str(), "250")]) {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.ok()?;
        reply(&mut stream, expected).await?;
    }
    Some(())
}

async fn reply(stream: &mut BufReader<TcpStream>, expected: &str) -> Option<()> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.starts_with(expected).then_some(());
        }
    }
}
