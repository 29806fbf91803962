//! Octets in, lines and content out. A reader of its own, so that a mistake in the daemon's cannot hide in its mirror.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Octets asked of the socket at a time.
const CHUNK: usize = 64 << 10;
/// Longest command line taken (RFC 5321 §4.5.3.1.4 asks 512, extensions add to it).
const LINE_MAX: usize = 8 << 10;

/// What a dialogue can run on: a TCP stream, or a pipe in a simulation.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A connection with what was read ahead and what waits to be written.
pub(super) struct Wire {
    stream: Option<Stream>,
    input: Vec<u8>,
    /// Where the unread part of `input` begins.
    start: usize,
    output: Vec<u8>,
}

enum Stream {
    Clear(Box<dyn Socket>),
    Tls(Box<TlsStream<Box<dyn Socket>>>),
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Socket>) -> Wire {
        Wire { stream: Some(Stream::Clear(stream)), input: Vec::with_capacity(CHUNK), start: 0, output: Vec::new() }
    }

    /// Puts a reply in line; it leaves with the next `flush`, or when more input is needed.
    pub(super) fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        match self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)? {
            Stream::Clear(stream) => stream.write_all(&self.output).await?,
            Stream::Tls(stream) => {
                stream.write_all(&self.output).await?;
                stream.flush().await?;
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Whether the client has sent more than was taken.
    pub(super) fn has_input(&self) -> bool {
        self.start < self.input.len()
    }

    /// The next line without its CRLF into `line`; `false` at the end of the stream. Replies in line are sent first if
    /// the line is not here yet, so pipelined commands get their replies in one piece.
    pub(super) async fn line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        loop {
            let unread = &self.input[self.start..];
            if let Some(end) = memchr::memmem::find(unread, b"\r\n") {
                line.extend_from_slice(&unread[..end]);
                self.start += end + 2;
                return Ok(true);
            }
            if unread.len() > LINE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
            }
            if !self.fill().await? {
                return Ok(false);
            }
        }
    }

    /// The content after `DATA` up to CRLF.CRLF, dots unstuffed (RFC 5321 §4.5.2). What passes `max` octets is read and
    /// dropped. Returns how long the content was.
    pub(super) async fn data(&mut self, content: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        let mut total = 0;
        let mut line_start = true;
        loop {
            let unread = &self.input[self.start..];
            if line_start && unread.first() == Some(&b'.') {
                if unread.len() < 3 {
                    self.fill_or_fail().await?;
                    continue;
                }
                if unread.starts_with(b".\r\n") {
                    self.start += 3;
                    return Ok(total);
                }
                self.start += 1;
                line_start = false;
                continue;
            }
            // The last two octets stay until it is known whether a dot follows them.
            let found = memchr::memmem::find(unread, b"\r\n.");
            let whole = found.map_or(unread.len().saturating_sub(2), |at| at + 2);
            line_start = found.is_some() || (line_start && whole == 0);
            total += whole;
            let room = max.saturating_sub(content.len());
            content.extend_from_slice(&unread[..whole.min(room)]);
            self.start += whole;
            if found.is_none() {
                self.fill_or_fail().await?;
            }
        }
    }

    /// `count` octets of content, as announced by `BDAT`. What passes `max` octets is read and dropped.
    pub(super) async fn exactly(&mut self, mut count: usize, content: &mut Vec<u8>, max: usize) -> io::Result<()> {
        while count > 0 {
            if !self.has_input() {
                self.fill_or_fail().await?;
            }
            let here = count.min(self.input.len() - self.start);
            let room = max.saturating_sub(content.len());
            content.extend_from_slice(&self.input[self.start..self.start + here.min(room)]);
            self.start += here;
            count -= here;
        }
        Ok(())
    }

    /// Answers a TLS handshake. Whether the session was resumed.
    pub(super) async fn start_tls(&mut self, acceptor: &TlsAcceptor) -> io::Result<bool> {
        let Some(Stream::Clear(stream)) = self.stream.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let tls = acceptor.accept(stream).await?;
        let resumed = tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        self.stream = Some(Stream::Tls(Box::new(tls)));
        Ok(resumed)
    }

    /// Sends what is in line, and then listens to nothing until the client gives up.
    pub(super) async fn ignore(&mut self) -> io::Result<()> {
        while self.fill().await? {
            self.start = self.input.len();
        }
        Ok(())
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.stream, Some(Stream::Tls(_)))
    }

    async fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads more; `false` at the end of the stream. The buffer never grows past one chunk and what is unread.
    async fn fill(&mut self) -> io::Result<bool> {
        self.flush().await?;
        self.input.drain(..self.start);
        self.start = 0;
        self.input.reserve(CHUNK);
        let read = match self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)? {
            Stream::Clear(stream) => stream.read_buf(&mut self.input).await?,
            Stream::Tls(stream) => stream.read_buf(&mut self.input).await?,
        };
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A wire whose peer sends `pieces` one by one.
    async fn wire(pieces: Vec<Vec<u8>>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in pieces {
                stream.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Wire::new(Box::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn content_ends_only_at_crlf_dot_crlf_wherever_the_pieces_break() {
        // sent, content
        for (sent, want) in [
            (".\r\n", ""),
            ("a\r\n.\r\n", "a\r\n"),
            ("..a\r\n...\r\n.\r\n", ".a\r\n..\r\n"),
            ("a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n"),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n"),
            ("\r\n\r\n.\r\n", "\r\n\r\n"),
            ("\r\n.\r\n", "\r\n"),
            (".x\r\n.\r\n", "x\r\n"),
        ] {
            let all = [sent.as_bytes(), b"QUIT\r\n"].concat();
            for size in 1..=all.len() {
                let mut wire = wire(all.chunks(size).map(Vec::from).collect()).await;
                let mut content = Vec::new();
                assert_eq!(wire.data(&mut content, 1000).await.unwrap(), want.len(), "{sent:?} by {size}");
                assert_eq!(String::from_utf8(content).unwrap(), want, "{sent:?} by {size}");
                let mut line = Vec::new();
                assert!(wire.line(&mut line).await.unwrap());
                assert_eq!(line, b"QUIT");
            }
        }
    }

    #[tokio::test]
    async fn counted_content_is_taken_as_it_is() {
        let mut wire = wire(vec![b"a\r\n.\r\nb".to_vec(), b"cNOOP\r\n".to_vec()]).await;
        let mut content = Vec::new();
        wire.exactly(8, &mut content, 5).await.unwrap();
        assert_eq!(content, b"a\r\n.\r", "kept up to the limit");
        let mut line = Vec::new();
        assert!(wire.line(&mut line).await.unwrap());
        assert_eq!(line, b"NOOP");
        assert!(!wire.line(&mut line).await.unwrap());
    }
}
