//! Wait, and conduct: from accepted to finished, for every recipient.
//!
//! A message becomes one item per receiving host. An item sleeps on the timer wheel until it is due,
//! is routed to its site (one look-up per host at a time), stands there in its stream's line, is pulled by a session,
//! and comes back with one outcome per recipient: finished, asleep until the next attempt, or back in front of the line
//! because the connection broke. All of that is `scheduler/`, pure and under one lock; this module carries out what it
//! asks for and owns the tasks.
//!
//! | file | step |
//! |---|---|
//! | `door.rs`, `admit.rs` | a message comes in: spool, then the queue |
//! | `wheel.rs`, `retry.rs` | it sleeps until due |
//! | `work.rs` | what the scheduler asks for: look-ups, sessions, the timer task |
//! | `scheduler/`, `ready.rs`, `site.rs` | whose turn it is, at which site, and whether that site may be asked |
//! | `dial.rs`, `session.rs` | a connection is made, and pulls work until there is none |
//! | `sources.rs`, `share.rs` | which sources can be sent from, and how much each of a pool sends |
//! | `contents.rs`, `room.rs` | a message's content is read, when there is memory for it |
//! | `heed.rs` | what its reply asks of us beside the verdict, by the provider's profile |
//! | `paced.rs` | what it says of our pace, and who hears of a change |
//! | `settle.rs`, `settlement.rs` | outcomes become states, events and reports |
//! | `restore.rs`, `view.rs` | start-up; what operators see and do |
//! | `status.rs`, `cancel.rs` | what senders see and do |
//! | `returned.rs` | whose mail it was that something came back of |
//! | `steer.rs`, `explain.rs` | orders, the reputation brake, warm-up; why mail goes as it goes |
//! | `keep.rs` | what of that must outlive the process |
//! | `census.rs`, `probe.rs` | ways in for the simulation, fuzz targets and benchmarks |

mod admit;
mod cancel;
#[doc(hidden)]
pub mod census;
mod contents;
mod dial;
mod door;
mod explain;
mod heed;
mod keep;
mod paced;
#[doc(hidden)]
pub mod probe;
mod ready;
mod refuse;
mod restore;
mod retry;
mod returned;
mod room;
mod scheduler;
mod session;
mod settle;
mod settlement;
mod share;
mod site;
mod sources;
mod status;
mod steer;
#[cfg(test)]
mod tests;
mod view;
mod wheel;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::rngs::SmallRng;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use cancel::Cancelled;
pub use explain::{Explanation, LimitView, PathView, Reputation, RouteView};
pub use retry::RetryPolicy;
pub use returned::{Mailed, Returned};
pub use status::{MessageStatus, QueryError, RecipientStatus};
pub use steer::{NewOrder, OrderError};
pub use view::{Listed, MessageView, RecipientView, SiteView};

use crate::clock::{Clock, Instant, Timestamp};
use crate::config::{DeliveryConfig, ReportsConfig, SpoolConfig};
use crate::delivery::Client;
use crate::events::{Archive, Progress};
use crate::feedback::marks::Marks;
use crate::feedback::verp::Verp;
use crate::ledger::Ledger;
use crate::mail::{Domain, MessageId};
use crate::routing::{Egress, Router};
use crate::shaping::controller::Saved;
use crate::shaping::provider::Profiles;
use crate::shaping::steering::SteeringPolicy;
use crate::shaping::{FillName, Rows};
use crate::signing::{Signer, SigningPool};
use crate::spool::Spool;
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;
use contents::Contents;
use scheduler::{Limits, PathName, Scheduler};

/// What the queue conducts; replaced as a whole when the configuration is reloaded. Work under way keeps the old set.
#[allow(missing_debug_implementations, reason = "a resolver has none")]
pub struct Parts {
    /// Finds the way.
    pub router: Router,
    /// Speaks to receivers.
    pub client: Client,
    /// Signs.
    pub signer: Arc<Signer>,
    /// Says when to try again.
    pub retry: RetryPolicy,
    /// Makes return paths that bring bounces to us.
    pub verp: Verp,
    /// Puts on what is signed how complaints about it find us.
    pub marks: Marks,
    /// When the sender hears of delay.
    pub reports: ReportsConfig,
    /// How long a message may wait when its client does not say.
    pub expire_after: Duration,
    /// Session limits.
    pub delivery: DeliveryConfig,
    /// Which of our addresses mail leaves by.
    pub egress: Arc<Egress>,
    /// What is known of receivers.
    pub profiles: Arc<Profiles>,
    /// The reputation brake, and sources to warm up.
    pub steering: SteeringPolicy,
    /// What may go where at once, and how fast.
    pub rows: Rows,
    /// Limits at the door.
    pub spool: SpoolConfig,
    /// Our name in reports.
    pub hostname: Domain,
    /// What became of messages that are finished.
    pub archive: Archive,
}

/// The queue. Shared by `Arc`.
pub struct Queue {
    scheduler: Mutex<Scheduler>,
    spool: Arc<Spool>,
    contents: Arc<Contents>,
    parts: ArcSwap<Parts>,
    pool: SigningPool,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Zero of the scheduler's clock.
    started: Instant,
    /// The timer task must look again.
    rearm: Notify,
    /// There may be other sources to look after.
    reloaded: Notify,
    tasks: TaskTracker,
    /// Held for reading while messages that were taken back come to their ends.
    cancels: tokio::sync::RwLock<()>,
    /// Found taken back at the start, until the timers run.
    taken_back: Mutex<Vec<MessageId>>,
    /// How far the event log is; unset where nobody asks after finished messages.
    events: OnceLock<Progress>,
    /// Cancelled by `close`: what waits for others without a message in its hands is given up.
    stopping: CancellationToken,
    runtime: tokio::runtime::Handle,
    /// Who must not be mailed.
    suppressions: Arc<Suppressions>,
    chance: Mutex<SmallRng>,
    /// Where orders and warm-ups are kept; see [`recall`](Queue::recall).
    ledger: OnceLock<Arc<Ledger>>,
    /// The paces that the ledger has.
    paces_saved: Mutex<HashMap<PathName, Saved>>,
    /// The buckets that the ledger has.
    fills_saved: Mutex<HashMap<FillName, keep::KeptFill>>,
}

impl Queue {
    /// An empty queue over `spool`. Must be called inside a runtime, in which its tasks will run. Nothing is attempted
    /// before [`start`](Queue::start).
    pub fn new(
        spool: Arc<Spool>,
        suppressions: Arc<Suppressions>,
        parts: Parts,
        pool: SigningPool,
        metrics: Arc<Metrics>,
        clock: Clock,
        chance: SmallRng,
    ) -> Arc<Queue> {
        let mut scheduler = Scheduler::default();
        scheduler.limits = limits(&parts.delivery, &parts.profiles);
        scheduler.set_egress(Arc::clone(&parts.egress));
        scheduler.steering().set_policy(parts.steering.clone());
        scheduler.steering().set_time(0, clock.timestamp());
        scheduler.set_rows(0, parts.rows.clone(), &mut Vec::new());
        Arc::new(Queue {
            scheduler: Mutex::new(scheduler),
            spool,
            contents: Contents::new(parts.delivery.memory_max.bytes()),
            parts: ArcSwap::from_pointee(parts),
            pool,
            metrics,
            clock,
            started: clock.instant(),
            rearm: Notify::new(),
            reloaded: Notify::new(),
            tasks: TaskTracker::new(),
            cancels: tokio::sync::RwLock::default(),
            taken_back: Mutex::default(),
            events: OnceLock::new(),
            stopping: CancellationToken::new(),
            runtime: tokio::runtime::Handle::current(),
            suppressions,
            chance: Mutex::new(chance),
            ledger: OnceLock::new(),
            paces_saved: Mutex::default(),
            fills_saved: Mutex::default(),
        })
    }

    /// Who is not mailed.
    pub fn suppressions(&self) -> &Arc<Suppressions> {
        &self.suppressions
    }

    /// The event log that takes what the spool exports: who asks after a message that just ended waits for it. Only the
    /// first call counts.
    pub fn follow_events(&self, progress: Progress) {
        let _ = self.events.set(progress);
    }

    /// Starts the timer task, and the one that looks after the sources.
    pub fn start(self: &Arc<Queue>) {
        self.cancel_restored();
        self.tasks.spawn_on(Arc::clone(self).run_timers(), &self.runtime);
        self.tasks.spawn_on(Arc::clone(self).watch_sources(), &self.runtime);
    }

    /// The sources and pools in force.
    pub fn egress(&self) -> Arc<Egress> {
        Arc::clone(&self.parts.load().egress)
    }

    /// Puts a new configuration in force for everything that starts from now on.
    pub fn reload(self: &Arc<Queue>, parts: Parts) {
        let (limits, egress, rows) =
            (limits(&parts.delivery, &parts.profiles), Arc::clone(&parts.egress), parts.rows.clone());
        let steering = parts.steering.clone();
        self.contents.set_max(parts.delivery.memory_max.bytes());
        // First the parts, so that a look-up that begins after the routes are forgotten asks the new router.
        self.parts.store(Arc::new(parts));
        self.with_actions(|scheduler, now, actions| {
            scheduler.set_egress(egress);
            scheduler.forget_routes(now, actions);
            scheduler.set_rows(now, rows, actions);
            scheduler.set_limits(now, limits, actions);
            scheduler.set_steering(now, steering, actions);
        });
        self.metrics.sources.reset();
        self.reloaded.notify_one();
    }

    /// Stops giving out work, lets sessions finish the transaction they are in, at most for `grace`. Look-ups and
    /// connections not yet made are given up at once.
    ///
    /// Returns whether all finished; if not, the recipients in flight are attempted again after the next start.
    pub async fn close(&self, grace: Duration) -> bool {
        let idle = self.lock().stop();
        idle.iter().for_each(|session| session.notify_one());
        self.stopping.cancel();
        self.rearm.notify_one();
        self.tasks.close();
        let drained = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        self.keep_all().await;
        drained
    }

    /// Waits while the log or the event log is behind: each attempt makes records, and they are held in memory.
    pub(super) async fn breathe(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        while self.spool.is_behind() || self.metrics.events_lag.get() > door::EVENTS_LAG_MAX {
            if self.lock().stopped() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().expect("no code panics under this lock")
    }

    /// Milliseconds on the scheduler's clock.
    fn now(&self) -> u64 {
        (self.clock.instant() - self.started).as_millis() as u64
    }
}

/// Where a wall-clock time lies on the scheduler's clock, if `timestamp` is `now`. Rounded up, so that nothing is woken
/// before its time.
fn at(now: u64, timestamp: Timestamp, time: Timestamp) -> u64 {
    match time.0 > timestamp.0 {
        true => now + 1 + (time.0 - timestamp.0),
        false => now,
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

fn limits(delivery: &DeliveryConfig, profiles: &Profiles) -> Limits {
    Limits {
        connections_max: delivery.connections_max,
        connections_per_site: delivery.connections_per_site,
        recipients_per_transaction: delivery.recipients_per_transaction,
        pause_min: delivery.site_pause_min.as_millis() as u64,
        pause_max: delivery.site_pause_max.as_millis() as u64,
        bounds: profiles.iter().map(|profile| (profile.name, profile.control())).collect(),
    }
}
