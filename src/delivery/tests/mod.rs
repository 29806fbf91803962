//! The client against odd servers: transcripts over a pipe, real TLS and dead hosts on loopback.

mod dialogue;
mod mad;
mod server;
mod session;
