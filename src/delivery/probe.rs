//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

mod relay;
mod socks;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::capabilities::Capabilities;
use super::client::{Client, Local, Target};
use super::connection::Connection;
use super::data::{Outbox, WINDOW};
use super::reply::{EHLO_TEXT_MAX, Replies, TEXT_MAX};
use super::transaction::{Job, Transaction};
use crate::clock::Clock;
use crate::config::{DeliveryConfig, TlsPolicy};
use crate::mail::{Outcome, Recipient, Reply, ReversePath};
use crate::telemetry::Metrics;

pub use relay::receiver_auth;
pub use socks::socks;

/// What a receiver says, after an octet that says how to cut it: however it is cut, the same replies come out, and
/// nonsense is seen in the same place. Texts are harmless, codes make sense.
pub fn replies(octets: &[u8]) {
    let Some((&cut, wire)) = octets.split_first() else { return };
    // A short limit on every other input, so that the cutting of texts is met.
    let text_max = if cut & 1 == 0 { TEXT_MAX } else { 20 };
    let whole = read(wire, wire.len().max(1), text_max);
    assert_eq!(whole, read(wire, usize::from(cut).max(1), text_max), "it matters how it is cut");
    for reply in &whole.0 {
        assert!((200..600).contains(&reply.code));
        assert!(reply.enhanced.is_none_or(|enhanced| u16::from(enhanced.0) == reply.code / 100));
        // A line feed between lines may come when the text is one octet short of full.
        assert!(reply.text.len() <= text_max);
        assert!(!reply.text.chars().any(|c| c.is_control() && c != '\n'), "{:?}", reply.text);
        assert!(!reply.to_string().contains('\n'));
    }
}

/// All replies, and the nonsense that ended them.
fn read(wire: &[u8], cut: usize, text_max: usize) -> (Vec<Reply>, Option<String>) {
    let mut replies = Replies::new();
    let mut found = Vec::new();
    for mut piece in wire.chunks(cut) {
        while !piece.is_empty() {
            let room = replies.room();
            let octets = room.len().min(piece.len());
            assert!(octets > 0, "no room to read into");
            room[..octets].copy_from_slice(&piece[..octets]);
            replies.filled(octets);
            piece = &piece[octets..];
            loop {
                match replies.has_next(text_max) {
                    Ok(true) => found.push(replies.take_next().to_reply()),
                    Ok(false) => break,
                    Err(garbage) => return (found, Some(garbage.to_string())),
                }
            }
        }
    }
    (found, None)
}

/// A reply to EHLO: case does not matter, limits of zero are none.
pub fn capabilities(octets: &[u8]) {
    for reply in read(octets, octets.len().max(1), EHLO_TEXT_MAX).0 {
        let capabilities = Capabilities::parse(&reply.text);
        assert_eq!(capabilities, Capabilities::parse(&reply.text.to_ascii_lowercase()));
        assert!(capabilities.size_max != Some(0) && capabilities.recipients_max != Some(0));
        assert!(capabilities.size || capabilities.size_max.is_none());
    }
}

/// Content on its way out by DATA, after two octets: how many of it are the signature's, and how many go in one write.
/// A receiver that follows RFC 5321 §4.5.2 gets it back, and sees the end once.
pub fn stuffing(octets: &[u8]) {
    let [signature, piece, text @ ..] = octets else { return };
    let (signature, content) = text.split_at(usize::from(*signature).min(text.len()));
    let wire = written(Outbox::stuffed(signature, content), usize::from(*piece).max(1));
    let mut expected = text.to_vec();
    if !expected.is_empty() && !expected.ends_with(b"\r\n") {
        expected.extend_from_slice(b"\r\n");
    }
    let mut received = Vec::new();
    let mut rest = wire.as_slice();
    while rest != b".\r\n" {
        let at = memchr::memmem::find(rest, b"\r\n").expect("lines until the end");
        let (line, behind) = rest.split_at(at + 2);
        assert!(line != b".\r\n", "it ends before its end");
        received.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = behind;
    }
    assert_eq!(received, expected);
    assert_eq!(written(Outbox::plain(&[signature, content]), usize::from(*piece).max(1)), text);
}

/// Writes an outbox out, `piece` octets at a time.
pub(super) fn written(mut outbox: Outbox<'_>, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut room = [IoSlice::new(&[]); WINDOW];
        let slices = outbox.next(&mut room);
        if slices.is_empty() {
            return all;
        }
        let mut left = piece;
        for slice in slices {
            let octets = slice.len().min(left);
            all.extend_from_slice(&slice[..octets]);
            left -= octets;
        }
        outbox.wrote(piece - left);
    }
}

/// A receiver that says what it likes, after an octet that says how much of ours it takes at a time. NULs divide what it
/// says: the next part comes when we listen again, and behind the last one it is gone.
///
/// We keep to the protocol whatever it says, each recipient gets at most one verdict, and nobody is taken for delivered
/// without a yes to content that was sent whole.
pub fn receiver(octets: &[u8]) {
    let Some((&piece, script)) = octets.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let peer = Peer {
        parts: script.split(|b| *b == 0).map(<[u8]>::to_vec).collect(),
        piece: usize::from(piece).max(1),
        heard: Vec::new(),
    };
    let heard = Arc::new(Mutex::new(peer));
    let transactions = runtime.block_on(talk(Line(heard.clone())));
    let heard = std::mem::take(&mut heard.lock().expect("no code panics under this lock").heard);
    let sent_whole = check_heard(&heard);
    let mut delivering = 0;
    for transaction in &transactions {
        assert_eq!(transaction.outcomes.len(), 2);
        for outcome in transaction.outcomes.iter().flatten() {
            match outcome {
                Outcome::Delivered { reply } => assert!(reply.is_positive(), "delivered: {reply}"),
                Outcome::Deferred(failure) | Outcome::Failed(failure) => {
                    assert!(failure.reply.is_transient() || failure.reply.is_permanent(), "{failure:?}");
                }
            }
        }
        let is_delivered = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Delivered { .. }));
        delivering += usize::from(transaction.outcomes.iter().any(is_delivered));
    }
    assert!(delivering <= sent_whole, "{delivering} delivered, content sent {sent_whole} times");
}

/// Begins with a line that DATA must stuff.
const CONTENT: &[u8] = b".A: b\r\n\r\nc\r\n.d\r\n";
const STUFFED: &[u8] = b"..A: b\r\n\r\nc\r\n..d\r\n.\r\n";

/// As many messages as the session is good for, at most three.
async fn talk(line: Line) -> Vec<Transaction> {
    match open(line).await {
        Some(connection) => deliver_some(connection).await,
        None => Vec::new(),
    }
}

async fn deliver_some(mut connection: Connection<Line>) -> Vec<Transaction> {
    let reverse_path: ReversePath = "a@us.example".parse().expect("an address");
    let recipients = ["b@them.example", "c@them.example"].map(|to| Recipient::new(to.parse().expect("an address")));
    let content = Bytes::from_static(CONTENT);
    let job = Job {
        reverse_path: &reverse_path,
        recipients: &[&recipients[0], &recipients[1]],
        signature: &Bytes::new(),
        content: &content,
        eight_bit: false,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let mut transactions = Vec::new();
    while connection.is_usable() && transactions.len() < 3 {
        transactions.push(connection.deliver(&job).await);
    }
    connection.quit().await;
    transactions
}

async fn open(line: Line) -> Option<Connection<Line>> {
    let hostname = "mta.us.example".parse().expect("a domain");
    let client = Client::new(&DeliveryConfig::default(), &hostname, Arc::new(Metrics::new()));
    let address = ([127, 0, 0, 1], 25).into();
    let host = "mx.them.example".into();
    let target = Target { host, address, local: Local::default(), tls: TlsPolicy::None, credentials: None };
    let now = Clock.instant();
    let upgrade = client.upgrade_for(&target, now);
    client.open(line, &target, None, upgrade, now).await.ok()
}

/// Every line is a command we know, or content. Returns how often content was sent whole.
fn check_heard(mut heard: &[u8]) -> usize {
    let mut sent_whole = 0;
    while let Some(at) = memchr::memmem::find(heard, b"\r\n") {
        let (line, behind) = heard.split_at(at + 2);
        heard = behind;
        let text = std::str::from_utf8(line).expect("ASCII");
        let word = text.split([' ', '\r']).next().unwrap_or_default();
        match word {
            "EHLO" | "HELO" => assert_eq!(text, format!("{word} mta.us.example\r\n")),
            "MAIL" => assert!(text.starts_with("MAIL FROM:<a@us.example>"), "{text}"),
            "RCPT" => assert!(text.starts_with("RCPT TO:<b@them") || text.starts_with("RCPT TO:<c@them"), "{text}"),
            "RSET" | "QUIT" | "NOOP" => assert_eq!(text.len(), 6, "{text}"),
            "BDAT" => {
                let size = text.split([' ', '\r']).nth(1).and_then(|size| size.parse::<usize>().ok());
                assert!(size == Some(CONTENT.len()) || size == Some(0), "{text}");
                let there = behind.len().min(size.unwrap_or_default());
                assert!(CONTENT.starts_with(&behind[..there]));
                sent_whole += usize::from(there == CONTENT.len());
                heard = &behind[there..];
            }
            "DATA" => {
                // With 354 comes the text; without it, the next command, or only the dot where it was promised already.
                if let Some(rest) = behind.strip_prefix(STUFFED) {
                    heard = rest;
                    sent_whole += 1;
                } else if let Some(rest) = behind.strip_prefix(b".\r\n") {
                    heard = rest;
                } else if STUFFED.starts_with(behind) {
                    return sent_whole;
                }
            }
            _ => panic!("we said {text:?}"),
        }
    }
    sent_whole
}

/// The receiver's side.
struct Peer {
    parts: VecDeque<Vec<u8>>,
    piece: usize,
    heard: Vec<u8>,
}

/// Our end of the line to it.
struct Line(Arc<Mutex<Peer>>);

impl Line {
    fn peer(&self) -> MutexGuard<'_, Peer> {
        self.0.lock().expect("no code panics under this lock")
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut peer = self.peer();
        while let Some(mut part) = peer.parts.pop_front() {
            let rest = part.split_off(part.len().min(buf.remaining()));
            if !rest.is_empty() {
                peer.parts.push_front(rest);
            }
            if !part.is_empty() {
                buf.put_slice(&part);
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut peer = self.peer();
        let taken = octets.len().min(peer.piece);
        peer.heard.extend_from_slice(&octets[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// For benchmarks: the slices that content goes out in, all written. Returns their octets.
pub fn stuff(signature: &[u8], content: &[u8]) -> usize {
    let mut outbox = Outbox::stuffed(signature, content);
    let mut octets = 0;
    loop {
        let mut room = [IoSlice::new(&[]); WINDOW];
        let slices: usize = outbox.next(&mut room).iter().map(|slice| slice.len()).sum();
        if slices == 0 {
            return octets;
        }
        outbox.wrote(slices);
        octets += slices;
    }
}

/// For benchmarks: so many messages of one recipient to a receiver that takes all of them. Returns how many it took.
pub fn deliver(messages: usize, content: &Bytes) -> usize {
    let mut parts =
        VecDeque::from([b"220 mx ESMTP\r\n".to_vec(), b"250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n".to_vec()]);
    for _ in 0..messages {
        parts.push_back(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n".to_vec());
        parts.push_back(b"250 2.0.0 ok: queued as 0K3V9Z8Q2M1XA\r\n".to_vec());
    }
    let peer = Arc::new(Mutex::new(Peer { parts, piece: usize::MAX, heard: Vec::new() }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = open(Line(peer.clone())).await.expect("it greets us");
        let reverse_path: ReversePath = "bounces+0K3V9Z8Q2M1XA@us.example".parse().expect("an address");
        let recipient = Recipient::new("bob@them.example".parse().expect("an address"));
        let (signature, mut taken) = (Bytes::new(), 0);
        for _ in 0..messages {
            let job = Job {
                reverse_path: &reverse_path,
                recipients: &[&recipient],
                signature: &signature,
                content,
                eight_bit: false,
                smtputf8: false,
                ret: None,
                envid: None,
            };
            let transaction = connection.deliver(&job).await;
            taken += usize::from(matches!(transaction.outcomes[..], [Some(Outcome::Delivered { .. })]));
            peer.lock().expect("no code panics under this lock").heard.clear();
        }
        taken
    })
}

/// For benchmarks: reads replies; returns how many there were.
pub fn read_replies(wire: &[u8]) -> usize {
    let mut replies = Replies::new();
    let mut found = 0;
    let mut rest = wire;
    while !rest.is_empty() {
        let room = replies.room();
        let octets = room.len().min(rest.len());
        room[..octets].copy_from_slice(&rest[..octets]);
        replies.filled(octets);
        rest = &rest[octets..];
        while replies.has_next(TEXT_MAX).unwrap_or(false) {
            replies.take_next();
            found += 1;
        }
    }
    found
}
