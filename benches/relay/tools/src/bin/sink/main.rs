//! A receiving server that counts what it gets and stores nothing.
//!
//!     sink --listen 0.0.0.0:25 --control PATH
//!          [--cert PEM --key PEM]   offer STARTTLS
//!          [--chunking]             offer CHUNKING (BDAT)
//!          [--rtt-ms N]             behave as if N ms away: see `far::Wire`
//!          [--defer PREFIX]         451 to every recipient whose address begins so
//!
//! One thread for all connections, or one for each where it is far away. Replies leave when the input is used up, so pipelined commands
//! get theirs in one write.
//! PATH is a UNIX socket. A line `stats` gets the counts as JSON; `times FILE` writes (id, ns) of every message, both
//! little-endian u64, and answers when that is done.

mod far;
mod near;
mod session;
mod stats;
mod stream;

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use bench_tools::Options;
use stats::Stats;

/// What this receiver is like.
pub struct Receiver {
    tls: Option<Arc<rustls::ServerConfig>>,
    chunking: bool,
    rtt: Duration,
    defer: Option<String>,
}

fn main() {
    let options = Options::read(&["listen", "control", "cert", "key", "rtt-ms", "defer"], &["chunking"]);
    let tls = options
        .text("cert")
        .map(|cert| tls_config(cert, options.text("key").expect("--key goes with --cert")));
    let receiver: &'static Receiver = Box::leak(Box::new(Receiver {
        tls,
        chunking: options.flag("chunking"),
        rtt: Duration::from_secs_f64(options.get("rtt-ms", 0.0) / 1e3),
        defer: options.text("defer").map(str::to_string),
    }));
    let stats: &'static Stats = Box::leak(Box::default());
    let control = UnixListener::bind(options.text("control").expect("--control PATH")).expect("control socket");
    let listener = TcpListener::bind(options.text("listen").expect("--listen ADDRESS")).expect("listening port");
    std::thread::spawn(move || {
        for caller in control.incoming().flatten() {
            let _ = answer(caller, stats);
        }
    });
    match receiver.rtt.is_zero() {
        true => near::run(&listener, receiver, stats),
        false => far::run(&listener, receiver, stats),
    }
}

fn answer(caller: UnixStream, stats: &Stats) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&caller).read_line(&mut line)?;
    let mut out = &caller;
    match line.trim().split_once(' ') {
        Some(("times", path)) => match stats.write_times(path) {
            Ok(count) => writeln!(out, "{{\"written\":{count}}}"),
            Err(error) => writeln!(out, "{{\"error\":\"{error}\"}}"),
        },
        _ => writeln!(out, "{}", stats.json()),
    }
}

fn tls_config(cert: &str, key: &str) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(cert)
        .expect("certificate file")
        .collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_file(key).expect("key file");
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    Arc::new(
        config
            .with_single_cert(chain.expect("certificates"), key)
            .expect("key that fits the certificate"),
    )
}
