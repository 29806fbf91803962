//! `posthaste demo`: the whole daemon between an application and four receivers, on loopback, in one process.
//!
//! 1. A name server ([`dns`]) and receivers ([`receiver`]) are built: a good one, a slow one, one that greylists, one
//!    that refuses everybody. All speak TLS.
//! 2. The real daemon starts on a temporary directory, with a fresh DKIM key.
//! 3. An SMTP client that nobody here wrote hands over the messages ([`load`]).
//! 4. The event log is read as it grows, until every recipient has its end, reports of refusals included.
//! 5. The daemon is stopped, and the books are closed ([`account`]): each recipient has exactly one terminal event, and
//!    what the receivers wrote down agrees with it.
//!
//! The parts serve the crash test and the benches too.

pub mod account;
pub mod dns;
pub mod load;
pub mod receiver;
mod report;
mod stage;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

pub use report::{DemoReport, SiteReport};

use crate::clock::{Clock, Instant};
use crate::daemon::Daemon;
use account::{Books, EventReader};
use load::{LoadError, Progress, Submitted};
use stage::Stage;

/// Connections the application uses.
const CONNECTIONS: usize = 32;

/// What the daemon may take to stop.
const GRACE: Duration = Duration::from_secs(20);

/// What to send.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Messages.
    pub messages: u64,
    /// Octets of each, headers included; a little more if it is too small for them.
    pub size: usize,
    /// The caller prints JSON: no progress on standard error.
    pub json: bool,
}

impl Default for DemoOptions {
    fn default() -> DemoOptions {
        DemoOptions { messages: 5000, size: 10 << 10, json: false }
    }
}

/// Why a demo came to no end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The peers could not be built.
    #[error("preparing the demo")]
    Prepare(#[source] io::Error),
    /// The daemon did not start.
    #[error("starting the daemon: {0}")]
    Daemon(String),
    /// Messages were not taken.
    #[error("handing messages over")]
    Load(#[from] LoadError),
    /// The event log could not be read.
    #[error("reading the event log")]
    Events(#[source] io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Runs the demo to its end, at most a minute and 20 ms a message.
///
/// # Errors
/// When it could not be carried out. Recipients that are not accounted for are no error but in the report.
pub async fn run(options: DemoOptions) -> Result<DemoReport, DemoError> {
    tokio::select! {
        report = carry_out(options) => report,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
    }
}

async fn carry_out(options: DemoOptions) -> Result<DemoReport, DemoError> {
    let stage = Stage::build(&options).await.map_err(DemoError::Prepare)?;
    let failed = |error: anyhow::Error| DemoError::Daemon(format!("{error:#}"));
    let daemon = Daemon::start(&stage.config()).await.map_err(failed)?;
    if !options.json {
        eprintln!("{} messages to 4 receivers; data in {}", options.messages, stage.data_dir().display());
    }

    let door = daemon.smtp_addresses()[0];
    let mut books = stage.books();
    let progress = Arc::new(Progress::default());
    let start = Clock.instant();
    let deadline = start + Duration::from_secs(60) + Duration::from_millis(20) * options.messages as u32;
    let letter = stage.letters();
    let load = load::submit(door, CONNECTIONS, options.messages, letter, Arc::clone(&progress));
    let mut events = EventReader::new(stage.data_dir().join("events").join("events.jsonl"));
    let mut view = View { quiet: options.json, start, shown: start };
    let (submitted, total) = {
        let follow = follow(&mut events, &mut books, deadline, || view.show(&progress, &stage, options.messages));
        let (submitted, total) = tokio::join!(load, follow);
        (submitted?, total?)
    };
    view.end();

    // Whatever was still on its way shows up as a recipient without an end.
    daemon.close(GRACE).await;
    read_all(&mut events, &mut books).await?;
    Ok(conclude(stage, books, &submitted, start, total))
}

/// Enters events until no recipient is open or the time is up. How long it took.
async fn follow(
    events: &mut EventReader,
    books: &mut Books,
    deadline: Instant,
    mut show: impl FnMut(),
) -> Result<Duration, DemoError> {
    let start = Clock.instant();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while books.open() > 0 && Clock.instant() < deadline {
        tick.tick().await;
        read_all(events, books).await?;
        show();
    }
    Ok(Clock.instant() - start)
}

async fn read_all(events: &mut EventReader, books: &mut Books) -> Result<(), DemoError> {
    loop {
        let read = events.next().await.map_err(DemoError::Events)?;
        if read.is_empty() {
            return Ok(());
        }
        read.iter().for_each(|event| books.enter_event(event));
    }
}

/// Closes the books and fills the table.
fn conclude(stage: Stage, mut books: Books, submitted: &[Submitted], start: Instant, total: Duration) -> DemoReport {
    let sites = stage.site_reports(&mut books, submitted, start);
    let accepted = submitted.iter().map(|message| message.accepted).max().unwrap_or(start);
    let recipients = books.entries().count() as u64;
    let violations = stage.violations();
    let (problems, problems_total) = books.close();
    DemoReport {
        messages: submitted.len() as u64,
        recipients,
        size: stage.size(),
        accept_seconds: (accepted - start).as_secs_f64(),
        total_seconds: total.as_secs_f64(),
        sites,
        problems,
        problems_total,
        violations,
    }
}

/// The line on standard error that tells how far things are: redrawn on a terminal, once a second elsewhere.
struct View {
    quiet: bool,
    start: Instant,
    shown: Instant,
}

impl View {
    fn show(&mut self, progress: &Progress, stage: &Stage, messages: u64) {
        let terminal = io::stderr().is_terminal();
        let pause = if terminal { Duration::from_millis(100) } else { Duration::from_secs(1) };
        let now = Clock.instant();
        if self.quiet || now - self.shown < pause {
            return;
        }
        self.shown = now;
        let line = format!(
            "{:5.1} s  accepted {}/{}  arrived {}  refused {}  put off {}",
            (now - self.start).as_secs_f64(),
            report::thousands(progress.accepted()),
            report::thousands(messages),
            report::thousands(stage.arrived()),
            report::thousands(stage.refused()),
            report::thousands(stage.put_off()),
        );
        // Progress that cannot be shown is no reason to stop.
        let _ = if terminal { write!(io::stderr(), "\r{line}   ") } else { writeln!(io::stderr(), "{line}") };
    }

    fn end(&self) {
        if !self.quiet && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole way, in small: four receivers, retries, refusals, reports.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_small_demo_accounts_for_everybody() {
        let report = run(DemoOptions { messages: 60, size: 3000, json: true }).await.unwrap();
        assert!(report.is_complete(), "{report}");
        assert_eq!(report.violations, Vec::<String>::new());
        // Three messages in sixty go to all four receivers, six to the refusing one alone; each refusal is reported.
        assert_eq!((report.messages, report.recipients), (60, 57 + 3 * 4 + 9));
        let deferred: Vec<u64> = report.sites.iter().map(|site| site.deferred).collect();
        assert_eq!(deferred[2], 9, "everyone is put off once by the greylisting one: {deferred:?}");
        assert!(report.sites.iter().all(|site| site.delivered == 0 || site.tls_share == 1.0));
    }
}
