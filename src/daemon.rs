//! The wiring diagram: builds every part, joins them, reloads, and stops them along the path of mail, upstream first.

mod descriptors;
mod doors;
mod fixed;
mod parts;
mod storage;
mod teller;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;

use self::doors::{Doors, Shown};
use self::storage::Storage;
use crate::access::Access;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::EventLog;
use crate::feedback::token::Tokens;
use crate::inbound;
use crate::mail::Domain;
use crate::queue::{Parts, Queue};
use crate::signing::SigningPool;
use crate::spool::Opened;
use crate::submission::Gate;
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;

/// The running daemon.
pub struct Daemon {
    doors: Doors,
    queue: Arc<Queue>,
    suppressions: Arc<Suppressions>,
    admin: Admin,
    access: Arc<Access>,
    /// What is done now and then, for as long as it runs.
    tasks: Vec<JoinHandle<()>>,
    storage: Storage,
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    hostname: Domain,
    /// What it was started with.
    started: Config,
}

impl Daemon {
    /// Starts everything from a checked configuration. When it returns, mail is taken.
    ///
    /// # Errors
    /// The first part that could not start, with the place and the reason; parts already started are stopped.
    pub async fn start(config: &Config) -> anyhow::Result<Daemon> {
        let clock = Clock;
        descriptors::provide(config);
        let metrics = Arc::new(Metrics::new());
        let hostname = config.hostname().context("hostname")?;
        let tokens = parts::tokens(config)?;
        let verifier = parts::verifier(config)?;
        let parts = parts::build(config, &hostname, None, &tokens, &metrics)?;

        let (storage, opened) = Storage::open(config, clock, &metrics).await?;
        let parts = Parts { archive: storage.events.archive(), ..parts };
        let access = Access::open(Arc::clone(&storage.ledger), Arc::clone(&metrics), clock)?;
        let suppressions = storage::open_suppressions(config, clock, &metrics, &storage.ledger).await?;
        let queue = queue(&storage, &suppressions, parts, &metrics, clock);
        let waiting_in = Arc::clone(&queue);
        access.count_waiting_by(Box::new(move |tenant| waiting_in.waiting_of(tenant)));

        let surfaces = match restore(&queue, &storage, opened).await {
            Ok(()) => {
                let ledger = Arc::clone(&storage.ledger);
                let gate = Arc::new(Gate::new(Arc::clone(&queue), Arc::clone(&access), Arc::clone(&ledger)));
                let back = inbound::Parts {
                    queue: Arc::clone(&queue),
                    spool: Arc::clone(&storage.spool),
                    suppressions: Arc::clone(&suppressions),
                    ledger,
                    tokens: Arc::clone(&tokens),
                    verifier,
                    access: Arc::clone(&access),
                    metrics: Arc::clone(&metrics),
                    clock,
                };
                surfaces(config, &hostname, gate, back, &storage.events, &metrics, clock).await
            }
            Err(error) => Err(error),
        };
        let (admin, doors) = match surfaces {
            Ok(surfaces) => surfaces,
            Err(error) => {
                queue.close(Duration::ZERO).await;
                storage.close().await;
                return Err(error);
            }
        };
        queue.start();
        metrics.config_ok.set(1.0);
        let saved = Arc::clone(&access);
        let tasks = vec![
            tokio::spawn(storage::housekeep(Arc::clone(&storage.spool))),
            tokio::spawn(Arc::clone(&suppressions).tend()),
            tokio::spawn(Arc::clone(&queue).keep_saving_paces(Arc::clone(&storage.ledger))),
            tokio::spawn(async move { saved.keep_saving_usage().await }),
        ];
        let started = config.clone();
        Ok(Daemon { doors, queue, suppressions, admin, access, tasks, storage, tokens, metrics, hostname, started })
    }

    /// Where SMTP clients are served.
    pub fn smtp_addresses(&self) -> &[SocketAddr] {
        self.doors.smtp.local_addrs()
    }

    /// Where gRPC clients are served.
    pub fn grpc_addresses(&self) -> &[SocketAddr] {
        self.doors.grpc.local_addrs()
    }

    /// Where HTTP clients are served.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        self.doors.http.local_addrs()
    }

    /// Where what comes back is taken.
    pub fn inbound_addresses(&self) -> &[SocketAddr] {
        self.doors.inbound.local_addrs()
    }

    /// Where recipients unsubscribe.
    pub fn page_addresses(&self) -> &[SocketAddr] {
        self.doors.inbound.page_addrs()
    }

    /// Where the admin surface is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Who must not be mailed.
    pub fn suppressions(&self) -> &Arc<Suppressions> {
        &self.suppressions
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Puts a new configuration in force without dropping a connection. What needs a restart (`fixed.rs`, listen addresses)
    /// keeps its old value, with a warning.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let built = parts::build(config, &self.hostname, Some(&*self.queue.egress()), &self.tokens, &self.metrics)
            .and_then(|parts| Ok((parts, Shown::load(config)?)))
            .inspect_err(|_| self.metrics.config_ok.set(0.0));
        let (parts, shown) = built?;
        let parts = Parts { archive: self.storage.events.archive(), ..parts };
        for key in fixed::needs_restart(&self.started, config) {
            tracing::warn!("{key} has changed; this needs a restart");
        }
        self.doors.reload(config, shown);
        self.queue.reload(parts);
        self.storage.ledger.reload(&config.ledger);
        self.suppressions.reload(&config.suppression);
        self.metrics.config_ok.set(1.0);
        Ok(())
    }

    /// Stops: no new mail, sessions finish their transaction within `grace`, everything known is synced.
    ///
    /// Returns whether all transactions ended in time; the others are repeated after the next start.
    pub async fn close(self, grace: Duration) -> bool {
        // A client in the middle of a message has a share of the grace; those between messages hear 421 at once.
        self.doors.close(grace / 3).await;
        let drained = self.queue.close(grace).await;
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Err(error) = self.queue.save_paces(&self.storage.ledger).await {
            tracing::warn!(%error, "the paces that were found were not saved");
        }
        if let Err(error) = self.access.save_usage().await {
            tracing::warn!(%error, "what tenants used of their quotas was not saved");
        }
        self.storage.close().await;
        self.admin.close().await;
        drained
    }
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("smtp", &self.smtp_addresses()).finish_non_exhaustive()
    }
}

/// The queue, joined to what is on disk; nothing of it moves yet.
fn queue(
    storage: &Storage,
    suppressions: &Arc<Suppressions>,
    parts: Parts,
    metrics: &Arc<Metrics>,
    clock: Clock,
) -> Arc<Queue> {
    let (spool, archive) = (Arc::clone(&storage.spool), storage.events.archive());
    suppressions.connect(teller::Telling { spool, archive, progress: storage.events.progress() });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Queue::new(
        Arc::clone(&storage.spool),
        Arc::clone(suppressions),
        parts,
        SigningPool::new(cores, clock, Arc::clone(metrics)),
        Arc::clone(metrics),
        clock,
        SmallRng::seed_from_u64(clock.timestamp().0 ^ u64::from(std::process::id()) << 40),
    );
    queue.follow_events(storage.events.progress());
    queue
}

/// Gives the queue back what it knew: orders first, then paces, then the mail that waits.
async fn restore(queue: &Arc<Queue>, storage: &Storage, mut opened: Opened) -> anyhow::Result<()> {
    queue.recall(&storage.ledger).context("orders")?;
    let (into, storage) = (Arc::clone(queue), storage.clone());
    let restore = move || {
        if let Err(error) = into.recall_paces(&storage.ledger) {
            tracing::warn!(%error, "the paces that were found before cannot be read; they are found again");
        }
        into.reserve(opened.messages);
        storage.spool.restore(&mut opened, &mut |message| into.restore(message))?;
        if let Err(error) = into.recall_wishes(&storage.ledger) {
            tracing::warn!(%error, "who was greylisted by which source cannot be read; that mail comes by any");
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::task::spawn_blocking(restore).await?
}

/// What listens: the last to start, as from here on there is something to lose.
async fn surfaces(
    config: &Config,
    hostname: &Domain,
    gate: Arc<Gate>,
    back: inbound::Parts,
    events: &Arc<EventLog>,
    metrics: &Arc<Metrics>,
    clock: Clock,
) -> anyhow::Result<(Admin, Doors)> {
    let doors = Doors::open(config, hostname, &gate, back, events, metrics, clock).await?;
    // After the doors, so that /readyz says yes only when they are open.
    let (queue, access) = (Arc::clone(gate.queue()), Arc::clone(gate.access()));
    match Admin::start(config.admin.listen, queue, access, Arc::clone(metrics)).await {
        Ok(admin) => Ok((admin, doors)),
        Err(error) => {
            doors.close(Duration::from_secs(1)).await;
            Err(error.into())
        }
    }
}
