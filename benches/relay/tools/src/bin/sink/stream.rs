//! A connection in the clear or not, and waiting on it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

use super::Receiver;

/// In the clear or not.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// Says goodbye when it is dropped.
pub struct Tls(StreamOwned<ServerConnection, TcpStream>);

/// The connection, from now on encrypted.
pub fn tls_of(stream: Stream, receiver: &Receiver) -> io::Result<Stream> {
    let config = receiver.tls.clone().expect("only offered with a certificate");
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    match stream {
        Stream::Plain(tcp) => Ok(Stream::Tls(Box::new(Tls(StreamOwned::new(tls, tcp))))),
        Stream::Tls(_) => Err(io::Error::other("it is already")),
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(into),
            Stream::Tls(tls) => tls.0.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(octets),
            Stream::Tls(tls) => tls.0.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.0.flush(),
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }
}

/// Waits until something can be done with a socket; false: the time is over. By `ppoll`, since a socket's own timeout is rounded to
/// the scheduler's tick.
pub fn wait_for(socket: RawFd, events: libc::c_short, time: Option<Duration>) -> io::Result<bool> {
    let mut set = libc::pollfd {
        fd: socket,
        events,
        revents: 0,
    };
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live across the call, and the descriptor is open.
    match unsafe { libc::ppoll(&mut set, 1, time, std::ptr::null()) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}
