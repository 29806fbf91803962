//! A receiving server that counts what it gets and stores nothing.
//!
//!     sink --listen 0.0.0.0:25 --control PATH
//!          [--cert PEM --key PEM]   offer STARTTLS
//!          [--chunking]             offer CHUNKING (BDAT)
//!          [--rtt-ms N]             behave as if N ms away: see `session::Wire`
//!          [--defer PREFIX]         451 to every recipient whose address begins so
//!
//! One thread a connection. Replies leave when the input is used up, so pipelined commands get theirs in one write.
//! PATH is a UNIX socket. A line `stats` gets the counts as JSON; `times FILE` writes (id, ns) of every message, both
//! little-endian u64, and answers when that is done.

mod session;
mod stats;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use bench_tools::Options;
use session::{End, Session};
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
    let mut plain = Session::new(tcp, &watched, receiver, stats, false);
    plain.greet();
    if let End::StartTls = plain.serve()? {
        let config = receiver.tls.clone().expect("only offered with a certificate");
        let tls = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        let stream = rustls::StreamOwned::new(tls, plain.into_stream());
        let mut inside = Session::new(stream, &watched, receiver, stats, true);
        inside.serve()?;
        let mut stream = inside.into_stream();
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
    Ok(())
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
