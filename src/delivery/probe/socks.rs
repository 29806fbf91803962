//! A proxy on the way to the receiver.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::proxy;
use crate::config::Credentials;

/// What a SOCKS5 proxy answers, after an octet whose lowest bit says whether we have a password: it connects us or says why
/// not, reads not an octet more than its answer, and cannot make us wait for what will not come.
pub fn socks(octets: &[u8]) {
    let Some((&kind, said)) = octets.split_first() else { return };
    let credentials = (kind & 1 == 1).then(|| Credentials { username: "me".into(), password: "secret".into() });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut stream = Said { unread: said, heard: 0 };
        let to = ([192, 0, 2, 1], 25).into();
        let told = proxy::socks::connect(&mut stream, to, credentials.as_ref()).await;
        let read = said.len() - stream.unread.len();
        // Methods, password, and the longest answer: one that names a host.
        assert!(read <= 2 + 2 + 5 + 255 + 2, "{read} octets were read");
        assert!(stream.heard <= 4 + 11 + 22);
        match told {
            Ok(address) => assert!(read >= 2 + 7 && address.is_none_or(|address| !address.is_unspecified())),
            Err(error) => assert!(!error.to_string().is_empty() && error.to_string().len() < 200),
        }
    });
}

/// A peer that says this and then nothing more, and hears everything.
struct Said<'a> {
    unread: &'a [u8],
    heard: usize,
}

impl AsyncRead for Said<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, rest) = self.unread.split_at(self.unread.len().min(buf.remaining()));
        buf.put_slice(now);
        self.unread = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.heard += octets.len();
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
