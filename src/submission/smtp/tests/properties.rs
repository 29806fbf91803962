//! What must hold for any octets, however they are cut.

use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;

use super::super::input::Input;
use super::super::session::{Next, Session};
use super::{CLIENT, Recorder, config, shared};
use crate::config::SmtpConfig;

/// A session without a connection.
struct Bench {
    door: Arc<Recorder>,
    session: Session<Recorder>,
    input: Input,
    next: Next,
    replies: Vec<u8>,
}

impl Bench {
    fn new(config: SmtpConfig) -> Bench {
        let door = Arc::new(Recorder::default());
        let session = Session::new(shared(door.clone(), config, None), CLIENT);
        Bench { door, session, input: Input::default(), next: Next::Input, replies: Vec::new() }
    }

    fn feed(&mut self, octets: &[u8]) {
        self.input.push(octets);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.next = self.session.advance(&mut self.input);
            // The recording door answers at once.
            let _ = self.session.poll_settle(&mut context);
            self.replies.append(self.session.replies().ready());
            match self.next {
                Next::Input | Next::End(_) => break,
                Next::Write | Next::Settle => {}
            }
        }
    }

    /// Feeds `octets` in pieces whose sizes go round in `cuts`.
    fn feed_cut(&mut self, mut octets: &[u8], cuts: &[usize]) {
        for cut in cuts.iter().cycle() {
            if octets.is_empty() || matches!(self.next, Next::End(_)) {
                break;
            }
            let (piece, rest) = octets.split_at((*cut).clamp(1, octets.len()));
            self.feed(piece);
            octets = rest;
        }
    }

    fn open(&mut self) {
        self.feed(b"EHLO app.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n");
        self.replies.clear();
    }

    /// Our own fields differ in ids and dates: what stands behind them.
    fn taken(&self) -> Option<Vec<u8>> {
        let contents = self.door.contents();
        assert!(contents.len() <= 1);
        contents.first().map(|content| {
            let at = memchr::memmem::find(content, b"Mark: x\r\n").expect("the mark is kept");
            content[at..].to_vec()
        })
    }
}

fn octets() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => "[a-z .]{0,12}\r\n".prop_map(String::into_bytes),
        4 => "\\.{1,3}".prop_map(String::into_bytes),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r\n.\r\n".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => Just(b"\r".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => "[a-z]{1,1100}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn clean_octets() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![4 => "[a-zü .]{0,80}", 2 => "\\.{0,4}", 1 => "[.a-z]{990,998}"];
    proptest::collection::vec(line, 0..60).prop_map(|lines| {
        let mut out = Vec::new();
        lines.iter().for_each(|line| out.extend([line.as_bytes(), b"\r\n"].concat()));
        out
    })
}

fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in content.split_inclusive(|b| *b == b'\n') {
        // A line begins behind CRLF only.
        if line.starts_with(b".") && (wire.is_empty() || wire.ends_with(b"\r\n")) {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

fn chunked(content: &[u8], chunks: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = content;
    for size in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at((*size).clamp(1, rest.len()));
        wire.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        rest = behind;
    }
    wire.extend_from_slice(b"BDAT 0 LAST\r\n");
    wire
}

fn check_both_ways(body: &[u8], cuts: &[usize], chunks: &[usize], fits: bool) {
    let content = [&b"Mark: x\r\n\r\n"[..], body].concat();
    let mut data = Bench::new(config());
    data.open();
    data.feed(b"DATA\r\n");
    data.feed_cut(&stuffed(&content), cuts);
    let mut bdat = Bench::new(config());
    bdat.open();
    bdat.feed_cut(&chunked(&content, chunks), cuts);
    if fits {
        assert_eq!(data.taken().as_deref(), Some(&*content));
    }
    assert_eq!(data.taken(), bdat.taken(), "{:?}", content.escape_ascii().to_string());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn data_and_bdat_carry_the_same(
        body in clean_octets(),
        cuts in proptest::collection::vec(1_usize..3000, 1..8),
        chunks in proptest::collection::vec(1_usize..3000, 1..8),
    ) {
        check_both_ways(&body, &cuts, &chunks, true);
    }

    #[test]
    fn data_and_bdat_refuse_the_same(
        body in octets(),
        cuts in proptest::collection::vec(1_usize..40, 1..8),
        chunks in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        // A bare CR at the very end would become a CRLF by the line end that only DATA must add.
        prop_assume!(!body.ends_with(b"\r"));
        check_both_ways(&body, &cuts, &chunks, false);
    }

    #[test]
    fn whatever_is_taken_is_fit_to_be_sent(
        body in octets(),
        cuts in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        let mut bench = Bench::new(config());
        bench.open();
        bench.feed(b"DATA\r\n");
        bench.feed_cut(&[&body[..], b"\r\n.\r\n"].concat(), &cuts);
        for content in bench.door.contents() {
            prop_assert!(content.starts_with(b"Received: ") && content.ends_with(b"\r\n"));
            for line in content.split_inclusive(|b| *b == b'\n') {
                let text = line.strip_suffix(b"\r\n").expect("ends in CRLF");
                prop_assert!(text.len() <= 998 && !text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
            let section = &content[..crate::mail::header::section_len(&content)];
            let end = crate::mail::header::fields(section).last().map_or(0, |field| field.end);
            prop_assert_eq!(end, section.len());
        }
    }

    #[test]
    fn no_octets_make_it_panic(
        pieces in proptest::collection::vec(prop_oneof![
            Just("EHLO x\r\n".to_owned().into_bytes()),
            Just("MAIL FROM:<a@b.example>".to_owned().into_bytes()),
            Just("RCPT TO:<c@d.example>".to_owned().into_bytes()),
            Just("\r\n".to_owned().into_bytes()),
            Just("DATA\r\n".to_owned().into_bytes()),
            Just("\r\n.\r\n".to_owned().into_bytes()),
            Just("STARTTLS\r\nRSET\r\n".to_owned().into_bytes()),
            "AUTH (PLAIN|LOGIN|SCRAM-SHA-256)( [A-Za-z0-9+/]{4}={0,2})?\r\n".prop_map(String::into_bytes),
            "([A-Za-z0-9+/]{4}){0,3}\r\n".prop_map(String::into_bytes),
            "MAIL FROM:<> (HOLDFOR|HOLDUNTIL|BY|MT-PRIORITY|AUTH)=[-+0-9;RNT:Z]{0,12}\r\n".prop_map(String::into_bytes),
            "BDAT [0-9]{1,21}( LAST)?\r\n".prop_map(String::into_bytes),
            "BDAT [0-9]( LAST)?\r\n".prop_map(String::into_bytes),
            "(MAIL FROM|RCPT TO):<?[a@.\"\\\\:,\\[\\]é]{0,12}>?( [A-Z0-9=+;]{0,10}){0,3}\r\n".prop_map(String::into_bytes),
            "X-Posthaste-[TCEN][a-z-]{0,9}: [0-9a-zT:+-]{0,20}\r\n".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..40),
            Just(vec![b'x'; 5000]),
        ], 0..40),
        cuts in proptest::collection::vec(1_usize..5000, 1..8),
    ) {
        let auth_without_tls = config().trusted_networks;
        let mut bench = Bench::new(SmtpConfig { errors_max: 1000, auth_without_tls, ..config() });
        bench.feed_cut(&pieces.concat(), &cuts);
        for line in bench.replies.split_inclusive(|b| *b == b'\n') {
            prop_assert!(line.ends_with(b"\r\n") && line.len() <= 512, "{:?}", line.escape_ascii().to_string());
            prop_assert!(line[..3].iter().all(u8::is_ascii_digit) && matches!(line[3], b' ' | b'-'));
        }
    }
}

/// Not a benchmark, only a look: `cargo test --release -- --ignored --nocapture door_costs`.
#[test]
#[ignore = "prints numbers"]
fn door_costs() {
    let body = [&[b'x'; 70][..], b"\r\n"].concat().repeat(142);
    let message =
        [&b"From: a@b.example\r\nTo: c@d.example\r\nSubject: s\r\nMark: x\r\n\r\n"[..], &body, b".\r\n"].concat();
    let clock = crate::clock::Clock;
    let mut bench = Bench::new(config());
    bench.feed(b"EHLO app.example\r\n");
    let (start, count) = (clock.instant(), 20_000);
    for _ in 0..count {
        bench.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
        bench.feed(&message);
        bench.replies.clear();
        bench.door.taken.lock().expect("not poisoned").clear();
    }
    println!("{:?} a message of {} octets", clock.instant().duration_since(start) / count, message.len());
}
