//! A source of numbered messages that speaks the APIs of posthaste, as cheaply as can be.
//!
//!     api --to 127.0.0.1:2526 --speak grpc --messages 10000 --streams 8 --size 10240
//!         [--speak http]     one POST /v1/messages:batch a stream, whole messages in base64
//!         [--hold SECONDS]   not_before, so long from now
//!         [--keys PREFIX]    an idempotency key for each message
//!
//! Each stream has a connection and two threads: one writes requests as fast as the server takes them, one reads results.
//! HTTP/2 is written by hand, as far as one call on a connection needs it: what a client library costs would drown what
//! is measured. Prints one line of JSON: how many were accepted, how many were not. Exit 1 unless all were.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use bench_tools::{now_ns, Options};

/// Octets collected before they are written.
const FLIGHT: usize = 64 << 10;
const LINE: &[u8; 80] = b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\r\n";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Clone)]
struct Job {
    to: String,
    hold: u64,
    keys: Option<String>,
    body: Vec<u8>,
    /// The same in base64.
    encoded: Vec<u8>,
}

fn base64(octets: &[u8], into: &mut Vec<u8>) {
    for three in octets.chunks(3) {
        let number = three.iter().fold(0, |number, octet| number << 8 | *octet as usize) << (8 * (3 - three.len()));
        for place in 0..4 {
            let six = BASE64[number >> (18 - 6 * place) & 63];
            into.push(if place <= three.len() { six } else { b'=' });
        }
    }
}

impl Job {
    /// The header of a message, its length a multiple of three, so that it can be encoded apart from the body.
    fn header(&self, id: u64, into: &mut Vec<u8>) {
        let start = into.len();
        let _ = write!(
            into,
            "From: load@load.test\r\nTo: u{id}@sink.test\r\nMessage-Id: <{id}@load.test>\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nSubject: load {id}"
        );
        while (into.len() - start + 4) % 3 != 0 {
            into.push(b'.');
        }
        into.extend_from_slice(b"\r\n\r\n");
    }

    fn not_before(&self) -> u64 {
        now_ns() / 1_000_000_000 + self.hold
    }

    /// A DATA frame with one `SubmitRequest`.
    fn grpc_request(&self, id: u64, not_before: u64, header: &mut Vec<u8>, into: &mut Vec<u8>) {
        header.clear();
        self.header(id, header);
        let frame = into.len();
        into.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let start = into.len();
        if self.hold > 0 {
            let mut time = vec![0x08];
            varint(not_before, &mut time);
            field(5, &time, into);
        }
        if let Some(prefix) = &self.keys {
            field(7, format!("{prefix}-{id}").as_bytes(), into);
        }
        field(8, b"load@load.test", into);
        field(9, format!("u{id}@sink.test").as_bytes(), into);
        into.push(11 << 3 | 2);
        varint((header.len() + self.body.len()) as u64, into);
        into.extend_from_slice(header);
        into.extend_from_slice(&self.body);
        let length = into.len() - start;
        into[frame..frame + 3].copy_from_slice(&((length + 5) as u32).to_be_bytes()[1..]);
        into[start - 4..start].copy_from_slice(&(length as u32).to_be_bytes());
    }

    fn grpc(&self, ids: Range<u64>) -> io::Result<u64> {
        let stream = TcpStream::connect(&self.to)?;
        stream.set_nodelay(true)?;
        let call = Arc::new(Call {
            stream,
            writing: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        call.open(&self.to)?;
        let reading = Arc::clone(&call);
        let expected = ids.end - ids.start;
        let reader = std::thread::spawn(move || reading.read(expected));
        let (mut flight, mut one, mut header) = (Vec::with_capacity(2 * FLIGHT), Vec::new(), Vec::new());
        let not_before = self.not_before();
        for id in ids {
            one.clear();
            self.grpc_request(id, not_before, &mut header, &mut one);
            let window = (one.len() - 9) as i64;
            // What is collected leaves before we wait.
            if !call.take(window, false)? {
                call.send(&mut flight)?;
                call.take(window, true)?;
            }
            flight.extend_from_slice(&one);
            if flight.len() >= FLIGHT {
                call.send(&mut flight)?;
            }
        }
        flight.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 1]);
        call.send(&mut flight)?;
        reader.join().expect("the reader does not panic")
    }

    fn http_line(&self, id: u64, header: &mut Vec<u8>, into: &mut Vec<u8>) {
        header.clear();
        self.header(id, header);
        let _ = write!(
            into,
            "{{\"sender\":\"load@load.test\",\"recipients\":[\"u{id}@sink.test\"],"
        );
        if self.hold > 0 {
            let _ = write!(into, "\"not_before\":\"{}s\",", self.hold);
        }
        if let Some(prefix) = &self.keys {
            let _ = write!(into, "\"idempotency_key\":\"{prefix}-{id}\",");
        }
        into.extend_from_slice(b"\"raw\":\"");
        base64(header, into);
        into.extend_from_slice(&self.encoded);
        into.extend_from_slice(b"\"}\n");
    }

    fn http(&self, ids: Range<u64>) -> io::Result<u64> {
        let mut stream = TcpStream::connect(&self.to)?;
        stream.set_nodelay(true)?;
        write!(
            stream,
            "POST /v1/messages:batch HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            self.to
        )?;
        let expected = ids.end - ids.start;
        let reading = stream.try_clone()?;
        // Each chunk of the response holds whole lines.
        let reader = std::thread::spawn(move || -> io::Result<u64> {
            let (mut accepted, mut answered) = (0, 0);
            let mut reader = BufReader::with_capacity(1 << 16, reading);
            let mut line = Vec::new();
            while answered < expected {
                line.clear();
                if reader.read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                if line.starts_with(b"{") {
                    answered += 1;
                    let good = line.windows(10).any(|part| part == b"\"receipt\":");
                    accepted += u64::from(good);
                    if !good && answered - accepted == 1 {
                        eprintln!("api: {}", String::from_utf8_lossy(&line));
                    }
                }
            }
            Ok(accepted)
        });
        let (mut flight, mut header) = (Vec::with_capacity(2 * FLIGHT), Vec::new());
        for id in ids {
            self.http_line(id, &mut header, &mut flight);
            if flight.len() >= FLIGHT {
                chunk(&mut stream, &mut flight)?;
            }
        }
        if !flight.is_empty() {
            chunk(&mut stream, &mut flight)?;
        }
        stream.write_all(b"0\r\n\r\n")?;
        reader.join().expect("the reader does not panic")
    }
}

fn chunk(stream: &mut TcpStream, flight: &mut Vec<u8>) -> io::Result<()> {
    let length = flight.len();
    flight.extend_from_slice(b"\r\n");
    stream.write_all(format!("{length:x}\r\n").as_bytes())?;
    stream.write_all(flight)?;
    flight.clear();
    Ok(())
}

fn varint(mut number: u64, into: &mut Vec<u8>) {
    while number > 127 {
        into.push(number as u8 | 128);
        number >>= 7;
    }
    into.push(number as u8);
}

/// A field of a protobuf message, of those that have a length.
fn field(number: u8, value: &[u8], into: &mut Vec<u8>) {
    into.push(number << 3 | 2);
    varint(value.len() as u64, into);
    into.extend_from_slice(value);
}

/// One call on a connection of its own.
struct Call {
    stream: TcpStream,
    writing: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the server lets us send.
#[derive(Default)]
struct State {
    settled: bool,
    initial: i64,
    /// Beyond what they begin with.
    stream: i64,
    connection: i64,
    over: bool,
}

impl Call {
    /// Preface, settings with windows that never close, and the request's header (RFC 9113, RFC 7541 §6.2.2).
    fn open(&self, authority: &str) -> io::Result<()> {
        let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        octets.extend_from_slice(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff]);
        octets.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0]);
        let mut header = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/posthaste.v1.Submission/SubmitStream"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            header.extend_from_slice(&[0, name.len() as u8]);
            header.extend_from_slice(name.as_bytes());
            header.push(value.len() as u8);
            header.extend_from_slice(value.as_bytes());
        }
        octets.extend_from_slice(&(header.len() as u32).to_be_bytes()[1..]);
        octets.extend_from_slice(&[1, 4, 0, 0, 0, 1]);
        octets.extend_from_slice(&header);
        (&self.stream).write_all(&octets)
    }

    /// Takes so much of both windows; false if that is too much now and we are not to wait.
    fn take(&self, octets: i64, wait: bool) -> io::Result<bool> {
        let mut state = self.state.lock().expect("nobody panics");
        loop {
            if state.over {
                return Err(io::Error::other("the server ended the call"));
            }
            if state.settled && state.initial + state.stream >= octets && 65535 + state.connection >= octets {
                state.stream -= octets;
                state.connection -= octets;
                return Ok(true);
            }
            if !wait {
                return Ok(false);
            }
            state = self.changed.wait(state).expect("nobody panics");
        }
    }

    /// Written as a whole: acknowledgements come from the reader's thread, between frames.
    fn send(&self, octets: &mut Vec<u8>) -> io::Result<()> {
        let _whole = self.writing.lock().expect("nobody panics");
        (&self.stream).write_all(octets)?;
        octets.clear();
        Ok(())
    }

    fn read(&self, expected: u64) -> io::Result<u64> {
        let read = self.results(expected);
        self.state.lock().expect("nobody panics").over = true;
        self.changed.notify_all();
        read
    }

    /// Counts results.
    fn results(&self, expected: u64) -> io::Result<u64> {
        let mut reader = BufReader::with_capacity(1 << 16, self.stream.try_clone()?);
        let (mut accepted, mut answered) = (0, 0);
        let mut data = Vec::new();
        while answered < expected {
            let mut head = [0; 9];
            reader.read_exact(&mut head)?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            reader.read_exact(&mut payload)?;
            match (head[3], head[4]) {
                (0, _) => data.extend_from_slice(&payload),
                (1, flags) if flags & 1 == 1 => break,
                (4, 0) => self.settle(&payload)?,
                (6, 0) => self.send(&mut [&[0, 0, 8, 6, 1, 0, 0, 0, 0], payload.as_slice()].concat())?,
                (8, _) => {
                    let more = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]) as i64;
                    let mut state = self.state.lock().expect("nobody panics");
                    if head[8] == 0 {
                        state.connection += more;
                    } else {
                        state.stream += more;
                    }
                    self.changed.notify_all();
                }
                (3 | 7, _) => return Err(io::Error::other(format!("frame {head:?} {payload:?}"))),
                _ => {}
            }
            let mut at = 0;
            while let Some(length) = data.get(at + 1..at + 5) {
                let end = at + 5 + u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
                let Some(result) = data.get(at + 5..end) else { break };
                at = end;
                answered += 1;
                // Behind the index, field 2 is a receipt and field 3 an error.
                let behind = match result.first() {
                    Some(0x08) => 2 + result[1..].iter().take_while(|octet| **octet > 127).count(),
                    _ => 0,
                };
                let good = result.get(behind) == Some(&0x12);
                accepted += u64::from(good);
                if !good && answered - accepted == 1 {
                    eprintln!("api: {}", String::from_utf8_lossy(result));
                }
            }
            data.drain(..at);
        }
        Ok(accepted)
    }

    fn settle(&self, payload: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().expect("nobody panics");
        state.initial = 65535;
        for setting in payload.chunks_exact(6) {
            if setting[..2] == [0, 4] {
                state.initial = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]) as i64;
            }
        }
        self.send(&mut vec![0, 0, 0, 4, 1, 0, 0, 0, 0])?;
        state.settled = true;
        self.changed.notify_all();
        Ok(())
    }
}

fn main() {
    let options = Options::read(&["to", "speak", "messages", "streams", "size", "hold", "keys"], &[]);
    let messages: u64 = options.get("messages", 1000);
    let streams: u64 = options.get("streams", 1).clamp(1, messages.max(1));
    let size: usize = options.get("size", 10240);
    let body = LINE.repeat(size.div_ceil(LINE.len()));
    let mut encoded = Vec::new();
    base64(&body, &mut encoded);
    let job = Job {
        to: options.get("to", "127.0.0.1:2526".to_string()),
        hold: options.get("hold", 0),
        keys: options.text("keys").map(str::to_string),
        body,
        encoded,
    };
    let work = match options.text("speak") {
        Some("grpc") | None => Job::grpc,
        Some("http") => Job::http,
        Some(other) => panic!("--speak: {other} is none of grpc, http"),
    };
    let threads: Vec<_> = (0..streams)
        .map(|number| {
            let job = job.clone();
            let ids = messages * number / streams..messages * (number + 1) / streams;
            std::thread::spawn(move || work(&job, ids))
        })
        .collect();
    let mut accepted = 0;
    for thread in threads {
        match thread.join().expect("a stream does not panic") {
            Ok(some) => accepted += some,
            Err(error) => eprintln!("api: {error}"),
        }
    }
    println!("{{\"accepted\":{accepted},\"refused\":{}}}", messages - accepted);
    std::process::exit(i32::from(accepted != messages));
}
