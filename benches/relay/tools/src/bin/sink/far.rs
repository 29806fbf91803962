//! A receiver some milliseconds away: one thread a connection, replies that are under way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::session::{Next, Session};
use super::stats::Stats;
use super::stream::{tls_of, wait_for, Stream};
use super::Receiver;

/// Takes connections for ever.
pub fn run(listener: &TcpListener, receiver: &'static Receiver, stats: &'static Stats) {
    for tcp in listener.incoming().flatten() {
        stats.opened(&tcp);
        let spawned = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let _ = serve(tcp, receiver, stats);
            stats.open.fetch_sub(1, Relaxed);
        });
        if let Err(error) = spawned {
            eprintln!("sink: no thread for a connection: {error}");
        }
    }
}

fn serve(tcp: TcpStream, receiver: &Receiver, stats: &Stats) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let watched = tcp.try_clone()?;
    let mut session = Session::new(receiver, stats);
    let mut wire = Wire::new(Stream::Plain(tcp), &watched, receiver.rtt);
    session.greet();
    wire.arrived += wire.rtt;
    let mut buffer = vec![0; 1 << 16];
    loop {
        wire.send(&mut session.replies)?;
        let count = wire.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        match session.take(&buffer[..count]) {
            Next::More => {}
            Next::Close => {
                wire.send(&mut session.replies)?;
                return wire.drain();
            }
            Next::StartTls => {
                wire.send(&mut session.replies)?;
                wire.drain()?;
                wire.stream = tls_of(wire.stream, receiver)?;
            }
        }
    }
}

/// The connection, with the distance to the other side.
///
/// Replies to what arrived at `t` leave at `t + rtt`, however much else arrives meanwhile: each
/// flight waits one round trip, and flights overlap as they would on a long wire. Nothing is limited in rate, and
/// TCP's slow start is not modelled. The greeting leaves two round trips after the connection was made, since over
/// loopback the three-way handshake took none.
struct Wire<'a> {
    stream: Stream,
    /// The socket under `stream`, to wait on.
    socket: &'a TcpStream,
    rtt: Duration,
    /// When the octets came that are being answered.
    arrived: Instant,
    /// Replies that are still under way, by the time they arrive.
    held: VecDeque<(Instant, Vec<u8>)>,
}

impl Wire<'_> {
    fn new(stream: Stream, socket: &TcpStream, rtt: Duration) -> Wire<'_> {
        Wire {
            stream,
            socket,
            rtt,
            arrived: Instant::now(),
            held: VecDeque::new(),
        }
    }

    /// Puts replies on their way.
    fn send(&mut self, replies: &mut Vec<u8>) -> io::Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        self.held.push_back((self.arrived + self.rtt, std::mem::take(replies)));
        Ok(())
    }

    /// Writes what is due; returns how long until the next is.
    fn release(&mut self) -> io::Result<Option<Duration>> {
        while let Some((due, _)) = self.held.front() {
            let now = Instant::now();
            if *due > now {
                return Ok(Some(*due - now));
            }
            let (_, replies) = self.held.pop_front().expect("looked at above");
            self.stream.write_all(&replies)?;
            self.stream.flush()?;
        }
        Ok(None)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(wait) = self.release()? {
            if wait_for(self.socket.as_raw_fd(), libc::POLLIN, Some(wait))? {
                break;
            }
        }
        let count = self.stream.read(into)?;
        self.arrived = Instant::now();
        Ok(count)
    }

    /// Waits until every reply is written.
    fn drain(&mut self) -> io::Result<()> {
        while let Some(wait) = self.release()? {
            std::thread::sleep(wait);
        }
        Ok(())
    }
}
