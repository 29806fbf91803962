//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::super::door::{Door, Handover};
use super::super::message::HEADROOM;
use super::super::rejection::Rejection;
use super::command::{self, Command};
use super::content::{Content, Fault};
use super::data::{DotReader, Progress};
use super::input::Input;
use super::limits::{Memory, MemoryShare};
use super::replies::Replies;
use super::sasl::example::Example;
use super::session::{Next, Session};
use super::{Controls, Policy, Shared};
use crate::clock::Clock;
use crate::config::{ByteSize, SmtpConfig};
use crate::mail::{Domain, Envelope, MessageId, Receipt, header};
use crate::telemetry::Metrics;

fn hostname() -> Domain {
    "mta1.us.example".parse().expect("a host name")
}

/// A command line: what is accepted can be written back, a refusal is a reply that fits on the wire.
pub fn command(octets: &[u8]) {
    let line = [octets, b"\r\n"].concat();
    let hostname = hostname();
    match command::parse(&line, &hostname) {
        Err(refusal) => {
            assert!(refusal.reply.is_transient() || refusal.reply.is_permanent());
            let mut replies = Replies::default();
            replies.push(&refusal.reply);
            check_replies(replies.ready());
        }
        Ok(Command::Mail { reverse_path, .. }) => {
            let again = format!("MAIL FROM:<{reverse_path}>\r\n");
            match command::parse(again.as_bytes(), &hostname) {
                Ok(Command::Mail { reverse_path: same, .. }) => assert_eq!(same, reverse_path),
                other => panic!("{again:?} gives {other:?}"),
            }
        }
        Ok(Command::Rcpt { address, .. }) => {
            let again = format!("RCPT TO:<{address}>\r\n");
            match command::parse(again.as_bytes(), &hostname) {
                Ok(Command::Rcpt { address: same, .. }) => assert_eq!(same, address),
                other => panic!("{again:?} gives {other:?}"),
            }
        }
        Ok(_) => {}
    }
}

/// Lines of three digits and printable ASCII, none too long.
fn check_replies(wire: &[u8]) {
    assert!(wire.is_empty() || wire.ends_with(b"\r\n"));
    for line in wire.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("a reply line ends in CRLF");
        assert!(text.len() >= 4 && text.len() <= 510, "{}", text.escape_ascii());
        assert!(text[..3].iter().all(u8::is_ascii_digit) && matches!(text[3], b' ' | b'-'));
        assert!(text.iter().all(|b| matches!(b, b' '..=b'~')), "{}", text.escape_ascii());
    }
}

/// Largest content in the targets, small enough that fuzzing meets it.
const SIZE_MAX: usize = 2_000;

fn empty_content() -> Content {
    Content::new(MemoryShare::empty(Memory::new(1 << 20)), None, SIZE_MAX, 998)
}

/// Octets behind DATA, after one that says how to cut them: however they are cut, the end is found in the same place and
/// the same content comes out, which is what RFC 5321 §4.5.2 says. The same octets are then sent as chunks.
pub fn content(octets: &[u8]) {
    let Some((&cut, wire)) = octets.split_first() else { return };
    let cut = usize::from(cut).max(1);
    let whole = read_dots(wire, wire.len().max(1));
    assert_same(&whole.1, &read_dots(wire, cut).1);
    assert_eq!(whole.0, read_dots(wire, cut).0, "the end was found elsewhere");
    if let (Some(end), Ok(content)) = &whole {
        assert_eq!(content, &undotted(&wire[..*end]), "not what stood on the wire");
        check_lines(content);
    }
    let chunks = |size: usize| {
        let mut content = empty_content();
        wire.chunks(size).for_each(|chunk| content.append(chunk).expect("memory for all of it"));
        content.finish().map(|whole| whole.buffer[HEADROOM..].to_vec())
    };
    let whole = chunks(wire.len().max(1));
    assert_same(&whole, &chunks(cut));
    if let Ok(content) = whole {
        check_lines(&content);
    }
}

/// Content or what was wrong with it. The fault may differ where one of them is the size, which is counted by the piece,
/// and the length told of a line that is too long where a NUL stands behind.
fn assert_same(one: &Result<Vec<u8>, Fault>, other: &Result<Vec<u8>, Fault>) {
    match (one, other) {
        (Err(Fault::TooLarge { .. }), Err(_)) | (Err(_), Err(Fault::TooLarge { .. })) => {}
        (Err(Fault::LineTooLong { line, .. }), Err(Fault::LineTooLong { line: same, .. })) => assert_eq!(line, same),
        _ => assert_eq!(one, other, "it matters how it is cut"),
    }
}

/// Where the end was found, and the content.
fn read_dots(wire: &[u8], cut: usize) -> (Option<usize>, Result<Vec<u8>, Fault>) {
    let mut content = empty_content();
    let mut reader = DotReader::new();
    let mut taken = 0;
    let mut end = None;
    for piece in wire.chunks(cut) {
        let (octets, progress) = reader.read(piece, &mut content);
        taken += octets;
        match progress {
            Progress::More => assert_eq!(octets, piece.len()),
            Progress::End => {
                end = Some(taken);
                break;
            }
            Progress::MemoryFull => panic!("there was memory for all of it"),
        }
    }
    (end, content.finish().map(|whole| whole.buffer[HEADROOM..].to_vec()))
}

/// The rule in its simplest form: lines that begin with a dot lose it; the one that is only a dot ends the text.
fn undotted(wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = wire;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        let (line, behind) = rest.split_at(at + 2);
        if line == b".\r\n" {
            assert!(behind.is_empty(), "the end stood further in front");
            return out;
        }
        out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = behind;
    }
    panic!("the end is not there");
}

/// Lines that end in CRLF and nothing else; no NUL.
fn check_lines(content: &[u8]) {
    assert!(content.is_empty() || content.ends_with(b"\r\n"));
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, content) {
        match content[at] {
            b'\r' => assert_eq!(content.get(at + 1), Some(&b'\n')),
            b'\n' => assert!(at > 0 && content[at - 1] == b'\r'),
            _ => panic!("a NUL got through"),
        }
    }
}

/// A message as the door was handed it.
type Accepted = (Envelope, Bytes);

/// A door that keeps what it is given.
#[derive(Debug, Default)]
struct Shelf {
    last: AtomicU64,
    accepted: Mutex<Vec<Accepted>>,
}

impl Door for Shelf {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.last.fetch_add(count.into(), Ordering::Relaxed) + 1)
    }

    fn ready(&self) -> Result<(), Rejection> {
        Ok(())
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let first = &handover.messages[0];
        let (id, accepted_at) = (first.id, first.envelope.accepted_at);
        let receipt = Receipt { id, messages: handover.messages.len() as u32, accepted_at, replayed: false };
        let messages = handover.messages.into_iter().map(|m| (m.envelope, m.content));
        self.accepted.lock().expect("no code panics under this lock").extend(messages);
        std::future::ready(Ok(receipt))
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(345_600)
    }
}

/// With this a session ends when content came behind a refused DATA; whether it has come by then depends on how it is cut.
const OUT_OF_TURN: &[u8] = b"; closing, content came without waiting for 354";

/// A dialogue, after an octet that says how to cut it: however it is cut, the same replies go out and the same messages
/// come in, and each is fit to be sent.
pub fn dialogue(octets: &[u8]) {
    let Some((&cut, input)) = octets.split_first() else { return };
    let whole = converse(input, input.len().max(1));
    let pieces = converse(input, usize::from(cut).max(1));
    check_replies(&whole.0);
    check_replies(&pieces.0);
    let cut_off = memchr::memmem::find(&whole.0, OUT_OF_TURN);
    // By lines, as the words for a fault differ in length.
    let alike = cut_off.map_or(usize::MAX, |at| memchr::memchr_iter(b'\n', &whole.0[..at]).count());
    let said = |replies: &[u8]| without_faults(replies).lines().take(alike).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(said(&whole.0), said(&pieces.0), "replies differ");
    assert!(cut_off.is_some() || whole.1.len() == pieces.1.len(), "messages differ");
    for (one, other) in whole.1.iter().zip(&pieces.1) {
        check_accepted(one);
        assert_eq!(one.0.reverse_path, other.0.reverse_path);
        assert_eq!(one.0.recipients, other.0.recipients);
        assert_eq!(timeless(&one.1), timeless(&other.1));
    }
}

/// Replies as text. What is told of content that has two faults may depend on the cut, see [`assert_same`].
fn without_faults(replies: &[u8]) -> String {
    let mut said = String::new();
    for line in replies.split_inclusive(|b| *b == b'\n') {
        let is_fault = [&b"552 5.3.4 "[..], b"550 5.6.11 ", b"554 5.6.0 line ", b"550 5.6.0 line "];
        match is_fault.iter().any(|start| line.starts_with(start)) {
            true => said.push_str("content refused\n"),
            false => said.push_str(&String::from_utf8_lossy(line)),
        }
    }
    said
}

/// Speaks `input` to a new session, `cut` octets at a time. Returns all replies, and what came in.
fn converse(input: &[u8], cut: usize) -> (Vec<u8>, Vec<Accepted>) {
    let config = SmtpConfig {
        max_message_size: ByteSize(SIZE_MAX as u64),
        recipients_max: 20,
        // That some were settled in between takes errors off the count; how many depends on how we cut.
        errors_max: u32::MAX,
        ..SmtpConfig::default()
    };
    let (mut session, door) = open(config);
    let mut buffer = Input::default();
    let mut said = Vec::new();
    session.greet();
    for piece in input.chunks(cut) {
        tell(&mut session, &mut buffer, &mut said, piece);
    }
    session.hung_up();
    advance(&mut session, &mut buffer, &mut said);
    let accepted = std::mem::take(&mut *door.accepted.lock().expect("no code panics under this lock"));
    (said, accepted)
}

/// A session with a client of our own, and the door behind it.
fn open(config: SmtpConfig) -> (Session<Shelf>, Arc<Shelf>) {
    let controls = Arc::new(Controls::new(Policy { config, tls: None }));
    let (authority, door) = (Arc::new(Example::default()), Arc::new(Shelf::default()));
    let shared = Shared::new(hostname(), door.clone(), authority, controls, Arc::new(Metrics::new()), Clock);
    (Session::new(Arc::new(shared), [127, 0, 0, 1].into()), door)
}

/// Says this to a session, for as long as it listens.
fn tell(session: &mut Session<Shelf>, buffer: &mut Input, said: &mut Vec<u8>, mut rest: &[u8]) {
    while !rest.is_empty() {
        read(buffer, &mut rest);
        if !advance(session, buffer, said) {
            break;
        }
    }
}

fn read(buffer: &mut Input, rest: &mut &[u8]) {
    match pin!(buffer.read(rest)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(1..)) => {}
        other => panic!("a slice always has its octets ready: {other:?}"),
    }
}

/// As the driver does it. Whether it goes on.
fn advance(session: &mut Session<Shelf>, buffer: &mut Input, said: &mut Vec<u8>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let next = session.advance(buffer);
        said.append(session.replies().ready());
        if session.replies().has_pending() {
            assert!(session.poll_settle(&mut context).is_ready(), "the door answers at once");
            continue;
        }
        match next {
            Next::Write => {}
            Next::Settle => panic!("nothing is in flight"),
            Next::Input => return true,
            Next::End(_) => return false,
        }
    }
}

/// What the door promises about a message.
fn check_accepted((envelope, content): &Accepted) {
    check_lines(content);
    assert!(content.starts_with(b"Received: "));
    let section = &content[..header::section_len(content)];
    let mut end = 0;
    for field in header::fields(section) {
        end = field.end;
        assert!(!field.is("Bcc") && !field.is("Return-Path"), "{}", field.text());
        assert!(!field.name.to_ascii_lowercase().starts_with(b"x-posthaste-"), "{}", field.text());
    }
    assert_eq!(end, section.len(), "a line of the header is no field");
    for name in ["From", "Date", "Message-ID"] {
        assert!(header::fields(section).any(|field| field.is(name)), "no {name}");
    }
    assert!(!envelope.recipients.is_empty() && envelope.recipients.len() <= 20);
    assert!(envelope.not_before <= envelope.expires_at);
    assert!(envelope.smtputf8 || section.is_ascii() && !envelope.recipients.iter().any(|r| r.address.needs_smtputf8()));
    assert!(envelope.eight_bit || envelope.smtputf8 || content.is_ascii());
}

/// The message without the fields that tell the time.
fn timeless(content: &[u8]) -> Vec<u8> {
    let section = header::section_len(content);
    let mut out = Vec::new();
    for field in header::fields(&content[..section]) {
        if !field.is("Received") && !field.is("Date") {
            out.extend_from_slice(&content[field.start..field.end]);
        }
    }
    out.extend_from_slice(&content[section..]);
    out
}

/// For benchmarks: takes content through DATA, in pieces of 64 KiB as the driver reads them. Returns its octets.
pub fn receive(wire: &[u8]) -> usize {
    let mut content = Content::new(MemoryShare::empty(Memory::new(1 << 30)), Some(wire.len() as u64), 1 << 26, 998);
    let mut reader = DotReader::new();
    for piece in wire.chunks(64 << 10) {
        reader.read(piece, &mut content);
    }
    content.finish().map_or(0, |whole| whole.buffer.len() - HEADROOM)
}

/// For benchmarks: a client that hands over so many messages of one recipient by DATA, `wire` being each one's content up
/// to its dot. Returns how many came in.
pub fn submit(messages: usize, wire: &[u8]) -> usize {
    let (mut session, door) = open(SmtpConfig::default());
    let (mut buffer, mut said, mut taken) = (Input::default(), Vec::new(), 0);
    session.greet();
    tell(&mut session, &mut buffer, &mut said, b"EHLO app1.us.example\r\n");
    let envelope = b"MAIL FROM:<bounces+0K3V9Z8Q2M1XA@us.example>\r\nRCPT TO:<bob@them.example>\r\nDATA\r\n";
    for _ in 0..messages {
        tell(&mut session, &mut buffer, &mut said, envelope);
        tell(&mut session, &mut buffer, &mut said, wire);
        said.clear();
        taken += door.accepted.lock().expect("no code panics under this lock").drain(..).count();
    }
    taken
}
