//! A source of numbered messages.
//!
//!     load --to 127.0.0.1:2525 --messages 10000 --sessions 20 --size 10240
//!          [--speak data]       MAIL, RCPT, DATA in one flight, then the content (default)
//!          [--speak lockstep]   waits for every reply, as the plainest clients do
//!          [--speak bdat]       MAIL, RCPT and BDAT with the content in one flight
//!          [--window W]         with bdat: messages under way on a connection before the first is answered
//!          [--rcpt R]           recipients of each message
//!          [--domains D]        over d0.test … d(D-1).test; 0: all in sink.test
//!          [--user PREFIX]      local parts begin so
//!          [--per-conn M]       messages on a connection, 0: all
//!          [--hold SECONDS]     HOLDFOR (RFC 4865)
//!          [--keys PREFIX]      an idempotency key for each message, in posthaste's header field
//!          [--first-id N]       number of the first message
//!          [--times FILE]       writes (id, start of content, 250), little-endian u64, ns since 1970, per message
//!
//! One thread a session. Prints one line of JSON: how many were accepted, how many were not. Exit 1 unless all were.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::TcpStream;

use bench_tools::{now_ns, Options, ID_HEADER};

/// What every session sends.
#[derive(Clone)]
struct Job {
    to: String,
    speak: Speak,
    window: usize,
    recipients: u64,
    domains: u64,
    user: String,
    per_connection: u64,
    mail: String,
    keys: Option<String>,
    body: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Speak {
    Data,
    Lockstep,
    Bdat,
}

/// Number, start of content, final reply.
type Times = (u64, u64, u64);

struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    line: Vec<u8>,
    /// The server said PIPELINING; without it every reply is waited for.
    pipelining: bool,
}

impl Connection {
    fn open(to: &str) -> io::Result<Connection> {
        let writer = TcpStream::connect(to)?;
        writer.set_nodelay(true)?;
        let reader = BufReader::with_capacity(1 << 14, writer.try_clone()?);
        let mut connection = Connection {
            writer,
            reader,
            line: Vec::new(),
            pipelining: false,
        };
        connection.expect(b'2')?;
        connection.ask(b"EHLO load.test\r\n", b'2')?;
        Ok(connection)
    }

    /// Reads one reply, of one or more lines.
    fn expect(&mut self, class: u8) -> io::Result<()> {
        loop {
            self.line.clear();
            if self.reader.read_until(b'\n', &mut self.line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.pipelining |= self.line.get(4..14) == Some(b"PIPELINING");
            if self.line.get(3) != Some(&b'-') {
                break;
            }
        }
        match self.line.first() {
            Some(first) if *first == class => Ok(()),
            _ => Err(io::Error::other(
                String::from_utf8_lossy(self.line.trim_ascii()).into_owned(),
            )),
        }
    }

    fn ask(&mut self, command: &[u8], class: u8) -> io::Result<()> {
        self.writer.write_all(command)?;
        self.expect(class)
    }

    fn quit(mut self) {
        let _ = self.ask(b"QUIT\r\n", b'2');
    }
}

impl Job {
    fn recipient(&self, id: u64, place: u64) -> String {
        let number = id * self.recipients + place;
        match self.domains {
            0 => format!("{}{number}@sink.test", self.user),
            domains => format!("{}{number}@d{}.test", self.user, number % domains),
        }
    }

    fn content(&self, id: u64, into: &mut Vec<u8>) {
        if let Some(prefix) = &self.keys {
            let _ = write!(into, "X-Posthaste-Idempotency-Key: {prefix}-{id}\r\n");
        }
        let _ = write!(
            into,
            "From: load@load.test\r\nTo: {}\r\nSubject: load {id}\r\nMessage-Id: <{id}@load.test>\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n{ID_HEADER}{id}\r\n\r\n",
            self.recipient(id, 0)
        );
        into.extend_from_slice(&self.body);
    }

    /// Hands over one message and waits for its reply.
    fn send(&self, connection: &mut Connection, id: u64, buffer: &mut Vec<u8>) -> io::Result<Times> {
        buffer.clear();
        let recipients = (0..self.recipients).map(|place| format!("RCPT TO:<{}>\r\n", self.recipient(id, place)));
        if self.speak == Speak::Lockstep || !connection.pipelining {
            connection.ask(self.mail.as_bytes(), b'2')?;
            for recipient in recipients {
                connection.ask(recipient.as_bytes(), b'2')?;
            }
            connection.ask(b"DATA\r\n", b'3')?;
        } else {
            buffer.extend_from_slice(self.mail.as_bytes());
            recipients.for_each(|recipient| buffer.extend_from_slice(recipient.as_bytes()));
            buffer.extend_from_slice(b"DATA\r\n");
            connection.writer.write_all(buffer)?;
            (0..=self.recipients).try_for_each(|_| connection.expect(b'2'))?;
            connection.expect(b'3')?;
        }
        buffer.clear();
        self.content(id, buffer);
        buffer.extend_from_slice(b".\r\n");
        let start = now_ns();
        connection.writer.write_all(buffer)?;
        connection.expect(b'2')?;
        Ok((id, start, now_ns()))
    }

    /// Puts one message on its way, all in one flight (RFC 3030 §2, RFC 2920 §3.1).
    fn launch(&self, connection: &mut Connection, id: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        let mut content = Vec::with_capacity(self.body.len() + 512);
        self.content(id, &mut content);
        buffer.clear();
        buffer.extend_from_slice(self.mail.as_bytes());
        for place in 0..self.recipients {
            let _ = write!(buffer, "RCPT TO:<{}>\r\n", self.recipient(id, place));
        }
        let _ = write!(buffer, "BDAT {} LAST\r\n", content.len());
        buffer.extend_from_slice(&content);
        let start = now_ns();
        connection.writer.write_all(buffer)?;
        Ok(start)
    }

    /// The replies to the oldest message under way.
    fn land(&self, connection: &mut Connection, id: u64, start: u64) -> io::Result<Times> {
        (0..self.recipients + 2).try_for_each(|_| connection.expect(b'2'))?;
        Ok((id, start, now_ns()))
    }

    /// One connection's share.
    fn serve(&self, ids: std::ops::Range<u64>, times: &mut Vec<Times>) -> io::Result<()> {
        let mut connection = Connection::open(&self.to)?;
        let mut buffer = Vec::with_capacity(self.body.len() + 1024);
        let mut under_way = std::collections::VecDeque::new();
        for id in ids {
            if self.speak != Speak::Bdat {
                times.push(self.send(&mut connection, id, &mut buffer)?);
                continue;
            }
            if under_way.len() >= self.window {
                let (id, start) = under_way.pop_front().expect("the window is at least 1");
                times.push(self.land(&mut connection, id, start)?);
            }
            under_way.push_back((id, self.launch(&mut connection, id, &mut buffer)?));
        }
        for (id, start) in under_way {
            times.push(self.land(&mut connection, id, start)?);
        }
        connection.quit();
        Ok(())
    }

    fn session(&self, ids: std::ops::Range<u64>) -> Vec<Times> {
        let mut times = Vec::with_capacity((ids.end - ids.start) as usize);
        let share = if self.per_connection == 0 {
            u64::MAX
        } else {
            self.per_connection
        };
        let mut first = ids.start;
        while first < ids.end {
            let end = ids.end.min(first.saturating_add(share));
            if let Err(error) = self.serve(first..end, &mut times) {
                eprintln!("load: messages {first}..{end}: {error}");
            }
            first = end;
        }
        times
    }
}

fn main() {
    let options = Options::read(
        &[
            "to", "messages", "sessions", "size", "speak", "window", "rcpt", "domains", "user", "per-conn", "hold",
            "keys", "first-id", "times",
        ],
        &[],
    );
    let messages: u64 = options.get("messages", 1000);
    let sessions: u64 = options.get("sessions", 20).clamp(1, messages.max(1));
    let first: u64 = options.get("first-id", 0);
    let size: usize = options.get("size", 10240);
    let line = [[b'X'; 78].as_slice(), b"\r\n"].concat();
    let speak = match options.text("speak") {
        None | Some("data") => Speak::Data,
        Some("lockstep") => Speak::Lockstep,
        Some("bdat") => Speak::Bdat,
        Some(other) => panic!("--speak: {other} is none of data, lockstep, bdat"),
    };
    let hold = options
        .text("hold")
        .map_or(String::new(), |seconds| format!(" HOLDFOR={seconds}"));
    let job = Job {
        to: options.get("to", "127.0.0.1:2525".to_string()),
        speak,
        window: options.get("window", 1).max(1),
        recipients: options.get("rcpt", 1).max(1),
        domains: options.get("domains", 0),
        user: options.get("user", "u".to_string()),
        per_connection: options.get("per-conn", 0),
        mail: format!("MAIL FROM:<load@load.test>{hold}\r\n"),
        keys: options.text("keys").map(str::to_string),
        body: line.repeat(size.div_ceil(line.len())),
    };
    let threads: Vec<_> = (0..sessions)
        .map(|number| {
            let job = job.clone();
            let ids = first + messages * number / sessions..first + messages * (number + 1) / sessions;
            std::thread::spawn(move || job.session(ids))
        })
        .collect();
    let times: Vec<Times> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap_or_default())
        .collect();
    let accepted = times.len() as u64;
    if let Some(path) = options.text("times") {
        let mut file = BufWriter::new(File::create(path).expect("--times FILE"));
        for (id, start, end) in times {
            for number in [id, start, end] {
                file.write_all(&number.to_le_bytes()).expect("write times");
            }
        }
    }
    println!("{{\"accepted\":{accepted},\"refused\":{}}}", messages - accepted);
    std::process::exit(i32::from(accepted != messages));
}
