//! One life of the engine: the real spool, queue, router, client and feedback, on simulated files, names and network.
//!
//! What `daemon.rs` wires together, without what listens and without threads. The log is stepped by a task a few
//! milliseconds after something was queued, which is the time a sync takes. In place of the event log on disk stands
//! [`EventBook`], which forgets what was not synced just as a file would.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use posthaste::clock::Clock;
use posthaste::config::Config;
use posthaste::delivery::Client;
use posthaste::events::Archive;
use posthaste::feedback::marks::Marks;
use posthaste::feedback::token::Tokens;
use posthaste::feedback::verp::Verp;
use posthaste::ledger::Ledger;
use posthaste::log::sim::{Deed, Fault, SimFiles};
use posthaste::log::{Drive, LogOptions, Position};
use posthaste::queue::{Parts, Queue, RetryPolicy};
use posthaste::routing::{Egress, Router};
use posthaste::shaping::Rows;
use posthaste::shaping::provider::Profiles;
use posthaste::shaping::steering::SteeringPolicy;
use posthaste::signing::{Signer, SigningPool};
use posthaste::spool::{Outlets, Spool};
use posthaste::telemetry::Metrics;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::world::{Net, World};

/// What a sync takes.
const SYNC: Duration = Duration::from_millis(3);

/// How often dead space is looked for and the event log synced. Once a second in the daemon; a simulated week has many.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// The event log, as far as the spool can tell.
#[derive(Debug, Default)]
pub struct EventBook {
    /// Written and not yet entered in the books.
    lines: Vec<(Position, Bytes)>,
    /// Of these, what is safe.
    synced: usize,
    /// The last group that was entered.
    last: Option<Position>,
}

impl EventBook {
    /// Where the file ends.
    fn end(&self) -> Option<Position> {
        self.lines.last().map(|(position, _)| *position).or(self.last)
    }

    /// What a crash leaves: what was synced, and some of the rest.
    fn crash(&mut self, rng: &mut SmallRng) {
        let kept = rng.random_range(self.synced..=self.lines.len());
        self.lines.truncate(kept);
        self.synced = kept;
    }
}

/// The running engine.
pub struct Engine {
    pub spool: Arc<Spool>,
    pub queue: Arc<Queue>,
    events: Arc<Mutex<EventBook>>,
    pub world: Arc<World>,
    metrics: Arc<Metrics>,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM.
    Clean,
    /// SIGKILL: what was written is there.
    Kill,
    /// The power fails: what was not synced is torn, lost or kept.
    PowerCut,
    /// The same, in the middle of a write or sync.
    PowerCutInWrite,
}

impl Engine {
    /// Starts on what `files`, `events` and the ledger hold. Call it inside the runtime. What is put into the ledger, which is in
    /// memory, is there at once and outlives a crash; without one nothing is kept but mail.
    pub fn start(
        world: &Arc<World>,
        files: &SimFiles,
        events: &Arc<Mutex<EventBook>>,
        config: &Config,
        ledger: Option<&Arc<Ledger>>,
        seed: u64,
    ) -> Engine {
        let metrics = Arc::new(Metrics::new());
        let wake = Arc::new(Notify::new());
        let exported = lock(events).end();
        let export = {
            let events = Arc::clone(events);
            Arc::new(move |position, lines| lock(&events).lines.push((position, lines)))
        };
        let drive = {
            let wake = Arc::clone(&wake);
            Drive::Stepped(Arc::new(move || wake.notify_one()))
        };
        let options = LogOptions { drive, ..LogOptions::new(Path::new("/spool")) };
        let outlets = Outlets { exported, export, ledger: Arc::default() };
        let (files, counts) = (Arc::new(files.clone()), Arc::clone(&metrics));
        let opened = Spool::open_with(options, &config.spool, files, counts, outlets, Clock);
        let (spool, mut opened) = opened.unwrap();
        let queue = Queue::new(
            Arc::clone(&spool),
            Arc::default(),
            parts(world, config, &metrics),
            SigningPool::new(1, Clock, Arc::clone(&metrics)),
            Arc::clone(&metrics),
            Clock,
            SmallRng::seed_from_u64(seed),
        );
        ledger.inspect(|ledger| queue.recall(ledger).unwrap());
        spool.restore(&mut opened, &mut |message| queue.restore(message)).unwrap();
        ledger.inspect(|ledger| queue.recall_wishes(ledger).unwrap());
        queue.start();
        tokio::spawn(pump(Arc::clone(&spool), wake));
        let engine = Engine { spool, queue, events: Arc::clone(events), world: Arc::clone(world), metrics };
        tokio::spawn(engine.handle().keep_house());
        engine
    }

    fn handle(&self) -> Engine {
        Engine {
            spool: Arc::clone(&self.spool),
            queue: Arc::clone(&self.queue),
            events: Arc::clone(&self.events),
            world: Arc::clone(&self.world),
            metrics: Arc::clone(&self.metrics),
        }
    }

    async fn keep_house(self) {
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            self.settle();
        }
    }

    /// Puts another configuration in force.
    pub fn reload(&self, config: &Config) {
        self.queue.reload(parts(&self.world, config, &self.metrics));
    }

    /// Everything that was decided is written, synced, and in the books; dead space is given back.
    pub fn settle(&self) {
        self.spool.step();
        let mut events = lock(&self.events);
        events.synced = events.lines.len();
        if let Some(end) = events.end() {
            self.spool.set_exported(end.segment);
        }
        enter(&self.world, &mut events);
        drop(events);
        while self.spool.reclaim().unwrap() {}
    }

    /// As told to by SIGTERM. Whether all transactions ended in time.
    pub async fn close(self, grace: Duration) -> bool {
        let drained = self.queue.close(grace).await;
        self.spool.close();
        let mut events = lock(&self.events);
        events.synced = events.lines.len();
        enter(&self.world, &mut events);
        drained
    }

    /// The end without notice. The runtime is to be dropped next: until then its tasks run on like ghosts.
    pub fn crash(self, files: &SimFiles, ending: Ending, rng: &mut SmallRng) {
        if ending == Ending::PowerCutInWrite {
            files.fail(Deed::Change, rng.random_range(1..=2), Fault::PowerCut);
            self.spool.step();
        }
        files.cut();
        // Whoever waits for the log holds it: this lets them go. Nothing reaches the disk any more.
        self.spool.close();
        match ending {
            Ending::Clean | Ending::Kill => files.kill(),
            Ending::PowerCut | Ending::PowerCutInWrite => files.restart(),
        }
        let mut events = lock(&self.events);
        events.crash(rng);
        enter(&self.world, &mut events);
    }
}

fn lock(events: &Mutex<EventBook>) -> MutexGuard<'_, EventBook> {
    events.lock().unwrap()
}

/// Enters what is safe in the books.
fn enter(world: &World, events: &mut EventBook) {
    let synced = std::mem::take(&mut events.synced);
    for (position, lines) in events.lines.drain(..synced) {
        assert!(events.last.is_none_or(|last| last < position), "an event was handed over twice");
        events.last = Some(position);
        world.books().record(&lines);
    }
}

/// The log's thread.
async fn pump(spool: Arc<Spool>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        tokio::time::sleep(SYNC).await;
        spool.step();
    }
}

fn parts(world: &Arc<World>, config: &Config, metrics: &Arc<Metrics>) -> Parts {
    let hostname = config.hostname().unwrap();
    let table = Arc::clone(world);
    let router = Router::simulated(&config.dns, &config.delivery, &config.route, table).unwrap();
    Parts {
        router: router.with_hostname(&hostname),
        client: Client::new(&config.delivery, &hostname, Arc::clone(metrics))
            .simulated(Arc::new(Net(Arc::clone(world)))),
        signer: Arc::new(Signer::load(&config.dkim).0),
        retry: RetryPolicy::new(&config.retry),
        reports: config.reports.clone(),
        verp: Verp::new(&config.feedback, Arc::new(Tokens::new(b"the secret of a simulation"))),
        marks: Marks::new(&config.feedback, &hostname, Arc::new(Tokens::new(b"the secret of a simulation"))),
        expire_after: config.retry.expire_after,
        delivery: config.delivery.clone(),
        egress: Arc::new(Egress::new(config, None).unwrap()),
        profiles: Arc::new(Profiles::built_in()),
        steering: SteeringPolicy::new(&config.brake, &config.warmup),
        rows: Rows::new(&config.limit),
        spool: config.spool.clone(),
        hostname: hostname.clone(),
        // The simulation keeps its events in memory; nobody asks after finished messages.
        archive: Archive::new("/events", 0),
    }
}
