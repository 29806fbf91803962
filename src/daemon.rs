//! The wiring diagram: builds every part, joins them, reloads, and stops them along the path of mail, upstream first.

mod doors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;

use self::doors::{Certificates, Doors};
use crate::access::Access;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::Client;
use crate::events::{Archive, EventLog};
use crate::feedback;
use crate::feedback::complaint::cfbl::Verifier;
use crate::feedback::marks::Marks;
use crate::feedback::token::Tokens;
use crate::feedback::verp::Verp;
use crate::inbound;
use crate::ledger::Ledger;
use crate::log::{DiskFiles, Position};
use crate::mail::Domain;
use crate::queue::{Parts, Queue, RetryPolicy};
use crate::routing::{self, Egress, Router};
use crate::shaping::Rows;
use crate::shaping::provider::Profiles;
use crate::shaping::steering::SteeringPolicy;
use crate::signing::{Signer, SigningPool};
use crate::spool::{Opened, Outlets, Spool};
use crate::submission::Gate;
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;

/// How often segments are looked for that may be used again.
const FREE_EVERY: Duration = Duration::from_millis(200);

/// Every so many times, also for what is worth copying so that they may.
const RECLAIM_EVERY: u32 = 5;

/// Segments emptied before the next look, so that a disk that refuses copies is not asked without pause.
const ROUNDS_MAX: usize = 64;

/// The running daemon.
pub struct Daemon {
    doors: Doors,
    queue: Arc<Queue>,
    suppressions: Arc<Suppressions>,
    admin: Admin,
    access: Arc<Access>,
    saving_usage: JoinHandle<()>,
    saving_paces: JoinHandle<()>,
    housekeeping: JoinHandle<()>,
    tending: JoinHandle<()>,
    spool: Arc<Spool>,
    ledger: Arc<Ledger>,
    events: Arc<EventLog>,
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    hostname: Domain,
}

impl Daemon {
    /// Starts everything from a checked configuration. When it returns, mail is taken.
    ///
    /// # Errors
    /// The first part that could not start, with the place and the reason; parts already started are stopped.
    pub async fn start(config: &Config) -> anyhow::Result<Daemon> {
        let clock = Clock;
        let metrics = Arc::new(Metrics::new());
        let hostname = config.hostname().context("hostname")?;
        let tokens = open_tokens(config)?;
        let verifier = verifier(config)?;
        let parts = parts(config, &hostname, None, &tokens, &metrics)?;

        // The event log first: where it ends decides which events the spool hands over again.
        let events_dir = config.data_dir.join("events");
        let (events, exported) = EventLog::open(&events_dir, &config.events, Arc::clone(&metrics))?;
        let events = Arc::new(events);
        let parts = Parts { archive: events.archive(), ..parts };
        // The ledger before the spool too, which hands over again the keys that it does not know.
        let ledger = open_ledger(config, clock, &metrics).await?;
        let access = Access::open(Arc::clone(&ledger), Arc::clone(&metrics), clock)?;
        let (spool, mut opened) = open_spool(config, clock, &metrics, exported, &events, &ledger).await?;
        let floor = Arc::clone(&spool);
        events.on_synced(Box::new(move |segment| floor.set_exported(segment)));

        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = SigningPool::new(cores, clock, Arc::clone(&metrics));
        let suppressions = open_suppressions(config, clock, &metrics, &ledger).await?;
        let telling = Arc::clone(&spool);
        suppressions.connect(move |change| telling.note(feedback::suppression_line(change)));
        let queue = Queue::new(
            Arc::clone(&spool),
            Arc::clone(&suppressions),
            parts,
            pool,
            Arc::clone(&metrics),
            clock,
            SmallRng::seed_from_u64(clock.timestamp().0 ^ u64::from(std::process::id()) << 40),
        );
        queue.follow_events(events.progress());
        let waiting_in = Arc::clone(&queue);
        access.count_waiting_by(Box::new(move |tenant| waiting_in.waiting_of(tenant)));
        let (restoring, into) = (Arc::clone(&spool), Arc::clone(&queue));
        let paces = Arc::clone(&ledger);
        let restore = move || {
            if let Err(error) = into.recall_paces(&paces) {
                tracing::warn!(%error, "the paces that were found before cannot be read; they are found again");
            }
            into.reserve(opened.messages);
            restoring.restore(&mut opened, &mut |message| into.restore(message))
        };
        let restored = match queue.recall(&ledger) {
            Ok(()) => tokio::task::spawn_blocking(restore).await?.map_err(anyhow::Error::from),
            Err(error) => Err(anyhow::Error::from(error).context("orders")),
        };
        let surfaces = match restored {
            Ok(()) => {
                let gate = Arc::new(Gate::new(Arc::clone(&queue), Arc::clone(&access), Arc::clone(&ledger)));
                let back = inbound::Parts {
                    queue: Arc::clone(&queue),
                    spool: Arc::clone(&spool),
                    ledger: Arc::clone(&ledger),
                    suppressions: Arc::clone(&suppressions),
                    tokens: Arc::clone(&tokens),
                    verifier,
                    access: Arc::clone(&access),
                    metrics: Arc::clone(&metrics),
                    clock,
                };
                surfaces(config, &hostname, gate, back, &events, &metrics, clock).await
            }
            Err(error) => Err(error),
        };
        let (admin, doors) = match surfaces {
            Ok(surfaces) => surfaces,
            Err(error) => {
                queue.close(Duration::ZERO).await;
                close_files(spool, ledger, events).await;
                return Err(error);
            }
        };
        queue.start();
        metrics.config_ok.set(1.0);
        let housekeeping = tokio::spawn(housekeep(Arc::clone(&spool)));
        let tending = tokio::spawn(Arc::clone(&suppressions).tend());
        let saving_paces = tokio::spawn(Arc::clone(&queue).keep_saving_paces(Arc::clone(&ledger)));
        let saved = Arc::clone(&access);
        let saving_usage = tokio::spawn(async move { saved.keep_saving_usage().await });
        Ok(Daemon {
            doors,
            queue,
            suppressions,
            admin,
            access,
            saving_usage,
            saving_paces,
            housekeeping,
            tending,
            spool,
            ledger,
            events,
            tokens,
            metrics,
            hostname,
        })
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

    /// Puts a new configuration in force without dropping a connection. What needs a restart (`hostname`, `data_dir`,
    /// listen addresses, `spool.segment_size`) keeps its old value.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let built = parts(config, &self.hostname, Some(&*self.queue.egress()), &self.tokens, &self.metrics)
            .and_then(|parts| Ok((parts, Certificates::load(config)?)))
            .inspect_err(|_| self.metrics.config_ok.set(0.0));
        let (parts, certificates) = built?;
        let parts = Parts { archive: self.events.archive(), ..parts };
        self.doors.reload(config, certificates);
        self.queue.reload(parts);
        self.ledger.reload(&config.ledger);
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
        self.housekeeping.abort();
        self.tending.abort();
        self.saving_usage.abort();
        self.saving_paces.abort();
        if let Err(error) = self.queue.save_paces(&self.ledger).await {
            tracing::warn!(%error, "the paces that were found were not saved");
        }
        if let Err(error) = self.access.save_usage().await {
            tracing::warn!(%error, "what tenants used of their quotas was not saved");
        }
        close_files(self.spool, self.ledger, self.events).await;
        self.admin.close().await;
        drained
    }
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("smtp", &self.smtp_addresses()).finish_non_exhaustive()
    }
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

/// Syncs what waits and closes the spool, then the ledger and the event log, which hear of it.
async fn close_files(spool: Arc<Spool>, ledger: Arc<Ledger>, events: Arc<EventLog>) {
    let last = tokio::task::spawn_blocking(move || {
        spool.close();
        ledger.close();
        events.close();
    });
    if let Err(error) = last.await {
        tracing::error!(error = %error, "the spool did not close cleanly");
    }
}

/// The secret behind what we write on the wire; made when the daemon starts for the first time.
fn open_tokens(config: &Config) -> anyhow::Result<Arc<Tokens>> {
    let file = config.feedback.key_file(&config.data_dir);
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("{}", config.data_dir.display()))?;
    Tokens::load_or_make(&file).map(Arc::new).with_context(|| format!("secret of tokens in {}", file.display()))
}

async fn open_ledger(config: &Config, clock: Clock, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<Ledger>> {
    let dir = config.data_dir.join("ledger");
    let (limits, metrics) = (config.ledger.clone(), Arc::clone(metrics));
    let open = move || {
        let opened = Ledger::open(&dir, &limits, Arc::new(DiskFiles), metrics, clock);
        opened.with_context(|| format!("ledger in {}", dir.display())).map(Arc::new)
    };
    tokio::task::spawn_blocking(open).await?
}

async fn open_suppressions(
    config: &Config,
    clock: Clock,
    metrics: &Arc<Metrics>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<Arc<Suppressions>> {
    let (rules, metrics, ledger) = (config.suppression.clone(), Arc::clone(metrics), Arc::clone(ledger));
    let open = move || Suppressions::open(ledger, &rules, metrics, clock).context("the suppression list");
    Ok(Arc::new(tokio::task::spawn_blocking(open).await??))
}

async fn open_spool(
    config: &Config,
    clock: Clock,
    metrics: &Arc<Metrics>,
    exported: Option<Position>,
    events: &Arc<EventLog>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<(Arc<Spool>, Opened)> {
    let dir = config.data_dir.join("spool");
    let (limits, metrics, events) = (config.spool.clone(), Arc::clone(metrics), Arc::clone(events));
    let ledger = Arc::clone(ledger);
    let open = move || {
        let export = Arc::new(move |position, lines| events.write(position, lines));
        let outlets = Outlets { exported, export, ledger };
        let files = Arc::new(DiskFiles);
        let (spool, opened) = Spool::open(&dir, &limits, files, metrics, outlets, clock)
            .with_context(|| format!("spool in {}", dir.display()))?;
        tracing::info!(messages = opened.messages, segments = opened.log.segments, "spool open");
        Ok::<_, anyhow::Error>((spool, opened))
    };
    tokio::task::spawn_blocking(open).await?
}

/// Everything the queue conducts, from one configuration; `before`: the sources and pools that are in force.
fn parts(
    config: &Config,
    hostname: &Domain,
    before: Option<&Egress>,
    tokens: &Arc<Tokens>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Parts> {
    let router = Router::new(&config.dns, &config.delivery, &config.route)?.with_hostname(hostname);
    let client = Client::new(&config.delivery, hostname, Arc::clone(metrics));
    let (signer, problems) = Signer::load(&config.dkim);
    for problem in problems {
        tracing::error!(problem = %problem, "mail from this domain is held back until the key can be used");
    }
    let profiles = profiles(config)?;
    Ok(Parts {
        router,
        client,
        signer: Arc::new(signer),
        retry: RetryPolicy::new(&config.retry),
        reports: config.reports.clone(),
        verp: Verp::new(&config.feedback, Arc::clone(tokens)),
        marks: Marks::new(&config.feedback, hostname, Arc::clone(tokens)),
        expire_after: config.retry.expire_after,
        delivery: config.delivery.clone(),
        egress: Arc::new(Egress::new(config, before)?),
        steering: SteeringPolicy::new(&config.brake, &config.warmup),
        rows: rows(config, &profiles),
        profiles: Arc::new(profiles),
        spool: config.spool.clone(),
        hostname: hostname.clone(),
        archive: Archive::new(config.data_dir.join("events"), config.events.keep),
    })
}

/// The operator's limits, and those of the providers.
fn rows(config: &Config, profiles: &Profiles) -> Rows {
    let mut rows = Rows::new(&config.limit);
    for profile in profiles.iter() {
        if let Some(limit) = profile.row() {
            rows.push(&format!("profile {}", profile.name), &limit);
        }
    }
    rows
}

/// Asks the same servers for keys as are asked for the way. Those stay as they are until a restart.
fn verifier(config: &Config) -> anyhow::Result<Arc<Verifier>> {
    let (servers, options) = routing::resolver(&config.dns)?;
    let verifier = Verifier::new(servers, options, config.dns.timeout).map_err(anyhow::Error::msg);
    Ok(Arc::new(verifier.context("name servers")?))
}

/// What is known of receivers. What looks odd in it is logged.
fn profiles(config: &Config) -> anyhow::Result<Profiles> {
    let (profiles, warnings) = Profiles::load(&config.shaping).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("provider profiles: {}", lines.join("; "))
    })?;
    warnings.iter().for_each(|warning| tracing::warn!(problem = %warning, "provider profile"));
    Ok(profiles)
}

/// Gives dead disk space back; once a second, and for as long as there is more to do, by copying too.
async fn housekeep(spool: Arc<Spool>) {
    let mut tick = tokio::time::interval(FREE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in (0..RECLAIM_EVERY).cycle() {
        tick.tick().await;
        for _ in 0..ROUNDS_MAX {
            let spool = Arc::clone(&spool);
            let reclaim = move || match round {
                0 => spool.reclaim(),
                _ => {
                    spool.free();
                    Ok(false)
                }
            };
            match tokio::task::spawn_blocking(reclaim).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => break,
                Ok(Err(error)) => {
                    tracing::error!(error = %error, "disk space of the spool could not be reclaimed");
                    break;
                }
                Err(_) => return,
            }
        }
    }
}
