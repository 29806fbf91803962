//! `posthaste serve`: the daemon, in the foreground, under systemd or by hand.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgument, FAILED};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::telemetry::logging;

/// Transactions under way have this long to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    logging::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(&config, &arguments.config));
    // Whatever a second signal cut short must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn serve(config: &Config, file: &Path) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let daemon = Daemon::start(config).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        smtp = ?daemon.smtp_addresses(),
        admin = %daemon.admin_address(),
        "posthaste takes mail"
    );
    notify(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(feed_watchdog(std::sync::Arc::clone(daemon.queue())));
    while let Told::Reload = signals.next().await {
        reload(&daemon, file);
    }
    notify(&[NotifyState::Stopping]);
    tracing::info!(grace = ?GRACE, "stopping; a second signal stops at once");
    let code = tokio::select! {
        drained = daemon.close(GRACE) => {
            tracing::info!(drained, "stopped");
            ExitCode::SUCCESS
        }
        () = signals.stop_again() => {
            tracing::warn!("stopped at once; what was in flight is attempted again at the next start");
            ExitCode::from(FAILED)
        }
    };
    watchdog.abort();
    Ok(code)
}

fn reload(daemon: &Daemon, file: &Path) {
    let now = NotifyState::monotonic_usec_now().ok();
    notify(&[&[NotifyState::Reloading][..], now.as_slice()].concat());
    match Config::load(file) {
        Ok((config, _)) => match daemon.reload(&config) {
            Ok(()) => tracing::info!(file = %file.display(), "configuration reloaded"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "reload failed, the old configuration stays in force")
            }
        },
        Err(problems) => {
            daemon.metrics().config_ok.set(0.0);
            for problem in problems {
                tracing::error!(problem = %problem, "reload failed, the old configuration stays in force");
            }
        }
    }
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = %error, "the service manager could not be told");
    }
}

/// Tells the watchdog that the queue still answers, twice as often as it must.
async fn feed_watchdog(queue: std::sync::Arc<crate::queue::Queue>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(timeout / 2);
    loop {
        tick.tick().await;
        // Takes the queue's lock: a queue that hangs must not look alive.
        queue.open_recipients();
        notify(&[NotifyState::Watchdog]);
    }
}

enum Told {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Signals {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
        }
    }

    async fn stop_again(&mut self) {
        while !matches!(self.next().await, Told::Stop) {}
    }
}
