//! What connects for us: a SOCKS5 proxy (`socks`), or a forwarder that takes PROXY headers (`header`).
//!
//! Both are told an address and a port, never a name, so that what was looked up and checked is what is connected to.
//! Who cannot be reached, or refuses, is our own trouble; only that the receiver does not answer is the receiver's.

pub(super) mod header;
pub(super) mod socks;
