//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error: text on a terminal, JSON otherwise. `RUST_LOG` chooses what is said (default
/// `info`). Call it once; a second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ =
        if std::io::stderr().is_terminal() { lines.try_init() } else { lines.json().flatten_event(true).try_init() };
}
