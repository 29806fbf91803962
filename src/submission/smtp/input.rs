//! What a client has sent and nobody has read yet.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Room a session begins with, and goes back to when it rests. At least one command line.
const SMALL: usize = 4 << 10;

/// Room of a session that keeps filling it: fewer system calls for large content.
const LARGE: usize = 64 << 10;

/// The read buffer.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    at: usize,
    busy: bool,
}

impl Input {
    /// What is there.
    pub(super) fn octets(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Takes the first `count` octets away.
    pub(super) fn consume(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
    }

    /// Reads more; 0 octets mean that the client has closed.
    ///
    /// # Errors
    /// The connection's.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> io::Result<usize> {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        let wanted = if self.busy { LARGE } else { SMALL };
        // The session leaves at most one incomplete command, so there is always room below LARGE.
        if self.buffer.capacity() < wanted || self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve_exact(wanted.max(self.buffer.len() + SMALL) - self.buffer.len());
        }
        let count = io.read_buf(&mut self.buffer).await?;
        self.busy |= self.buffer.len() == self.buffer.capacity();
        Ok(count)
    }

    /// As if `octets` had been read.
    #[cfg(test)]
    pub(super) fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// Gives the memory back if nothing is there.
    pub(super) fn rest(&mut self) {
        if self.octets().is_empty() {
            *self = Input::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn grows_when_busy_and_shrinks_at_rest() {
        let mut source: &[u8] = &[b'x'; 200_000];
        let mut input = Input::default();
        assert_eq!(input.read(&mut source).await.expect("memory"), SMALL);
        input.consume(SMALL - 10);
        assert_eq!(input.octets().len(), 10);
        input.read(&mut source).await.expect("memory");
        assert_eq!(input.octets().len(), LARGE);
        input.rest();
        assert_eq!(input.buffer.capacity(), LARGE, "something is there");
        input.consume(LARGE);
        input.rest();
        assert_eq!(input.buffer.capacity(), 0);
    }
}
