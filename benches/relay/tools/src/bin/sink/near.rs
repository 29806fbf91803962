//! A receiver on this machine: one thread for all connections, which reads them all into the same memory.
//!
//! A thread for each connection has to be woken for each piece, and reads into memory that it has not used lately.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;

use super::session::{Next, Session};
use super::stats::Stats;
use super::stream::{tls_of, wait_for, Stream};
use super::Receiver;

/// Sockets looked after at once.
const EVENTS: usize = 64;
/// Octets read at once; of a message in several pieces the session keeps what came.
const BUFFER: usize = 1 << 17;

struct Connection {
    stream: Option<Stream>,
    socket: RawFd,
    session: Session<'static>,
}

/// Takes connections for ever.
pub fn run(listener: &TcpListener, receiver: &'static Receiver, stats: &'static Stats) {
    let sockets = Sockets::new().expect("epoll");
    listener.set_nonblocking(true).expect("the listener waits for nobody");
    sockets.watch(listener.as_raw_fd()).expect("the listener is watched");
    // By descriptor.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        for socket in sockets.wait() {
            if socket == listener.as_raw_fd() {
                accept(listener, &sockets, &mut connections, receiver, stats);
                continue;
            }
            let place = &mut connections[socket as usize];
            let Some(connection) = place else { continue };
            if !matches!(connection.serve(&mut buffer, receiver), Ok(true)) {
                *place = None;
                stats.open.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// Takes all who wait.
fn accept(
    listener: &TcpListener,
    sockets: &Sockets,
    connections: &mut Vec<Option<Connection>>,
    receiver: &'static Receiver,
    stats: &'static Stats,
) {
    while let Ok((tcp, _)) = listener.accept() {
        stats.opened(&tcp);
        match Connection::open(tcp, sockets, receiver, stats) {
            Ok(connection) => {
                let place = connection.socket as usize;
                connections.resize_with(connections.len().max(place + 1), || None);
                connections[place] = Some(connection);
            }
            Err(error) => {
                eprintln!("sink: a connection cannot be served: {error}");
                stats.open.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Connection {
    fn open(
        tcp: TcpStream,
        sockets: &Sockets,
        receiver: &'static Receiver,
        stats: &'static Stats,
    ) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        let socket = tcp.as_raw_fd();
        let mut session = Session::new(receiver, stats);
        session.greet();
        let mut connection = Connection {
            stream: Some(Stream::Plain(tcp)),
            socket,
            session,
        };
        connection.send()?;
        sockets.watch(socket)?;
        Ok(connection)
    }

    /// Reads what there is and answers it; false when it is over.
    fn serve(&mut self, buffer: &mut [u8], receiver: &Receiver) -> io::Result<bool> {
        loop {
            let stream = self.stream.as_mut().expect("only absent while TLS begins");
            let count = match stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            // TLS may have more that is read already; of the rest epoll tells.
            let read_all = matches!(stream, Stream::Plain(_));
            let next = self.session.take(&buffer[..count]);
            self.send()?;
            match next {
                Next::Close => return Ok(false),
                Next::StartTls => {
                    let plain = self.stream.take().expect("looked at above");
                    self.stream = Some(tls_of(plain, receiver)?);
                }
                Next::More if read_all => return Ok(true),
                Next::More => {}
            }
        }
    }

    /// Sends the replies there are.
    fn send(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().expect("only absent while TLS begins");
        let mut left = self.session.replies.as_slice();
        loop {
            let done = left.is_empty();
            let result = if done {
                stream.flush().map(|()| 0)
            } else {
                stream.write(left)
            };
            match result {
                Ok(_) if done => break,
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(self.socket, libc::POLLOUT, None)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.session.replies.clear();
        Ok(())
    }
}

/// `epoll`, level-triggered: who has not read all is told again.
struct Sockets(RawFd);

impl Sockets {
    fn new() -> io::Result<Sockets> {
        // SAFETY: takes no pointers.
        match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            set => Ok(Sockets(set)),
        }
    }

    /// Watched until it is closed.
    fn watch(&self, socket: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: socket as u64,
        };
        // SAFETY: the event lives across the call, and both descriptors are open.
        match unsafe { libc::epoll_ctl(self.0, libc::EPOLL_CTL_ADD, socket, &mut event) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Those that can be read, as soon as there are some.
    fn wait(&self) -> impl Iterator<Item = RawFd> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: there is room for so many.
        let count = unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), EVENTS as i32, -1) };
        events
            .into_iter()
            .take(count.max(0) as usize)
            .map(|event| event.u64 as RawFd)
    }
}
