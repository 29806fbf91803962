//! Take back: what others send us about mail that we sent.
//!
//! Mail comes in for addresses that we made, and for nothing else. The SMTP dialogue is the submission door's; behind it stands a
//! [`Door`](crate::submission::Door) that knows our addresses instead of our clients. The way of a message:
//!
//! 1. RCPT (`address.rs`): the token in the address is checked. One that we did not make, or made too long ago, gets a 550;
//!    so does every address that is none of ours.
//! 2. Content comes in within `[inbound] memory_max`, and is held against that until the end. What has passed too many
//!    hosts is refused.
//! 3. It is read off the runtime's threads, as many at a time as there are cores (`desk.rs`, [`crate::feedback`]). Nothing in
//!    it is ever unpacked beyond what it is.
//! 4. The token says which message, the event log or the spool says who its recipient was ([`Queue::mailed`]). The report
//!    is believed only on what became of that recipient (`verdict.rs`): whatever address it names, none is kept away
//!    but the one that the token is about. Of a token that several share it is told, and nobody is kept away.
//! 5. An event tells of it (`bounce.rs`). Once that is on disk a hard bounce goes to the suppression list, and what that did is
//!    another event, which points to the first. Only then the sender hears `250`.
//!
//! Complaints go the same way (`complaint.rs`): a token anywhere in them says whose they are. Reports on our domains are told and
//! counted (`reports.rs`).
//!
//! What is said of a recipient of a message counts once, however often and after whatever restart it is said (`seen.rs`). If anything
//! cannot be written, the sender hears 451 and tries again; it may then be told twice, which suppresses nobody more.
//! Nothing that comes in is ever answered with mail, so there are no loops; mail for postmaster is handed on with a null return path.
//!
//! | to add | goes |
//! |---|---|
//! | a kind of address | `Local` (`address.rs`), which reads it, and [`Mailbox`], which has what was learnt from it |
//! | a kind of content, or what an address does with it | the one `match` of `Desk::heed` |

mod address;
mod bounce;
mod complaint;
mod desk;
mod one_click;
mod postmaster;
#[doc(hidden)]
pub mod probe;
mod reports;
mod seen;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio_util::task::TaskTracker;

pub use address::{Mailbox, Mailboxes, NoMailbox};

use crate::access::Access;
use crate::clock::Clock;
use crate::config::Config;
use crate::feedback::complaint::cfbl::Verifier;
use crate::feedback::token::Tokens;
use crate::ledger::Ledger;
use crate::mail::Domain;
use crate::queue::Queue;
use crate::spool::Spool;
use crate::submission::web::Api;
use crate::submission::{Submission, SubmissionError};
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;
use desk::{Desk, Entrance};

/// What takes part in it.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Knows whose mail it was, and takes mail for the postmaster.
    pub queue: Arc<Queue>,
    /// Keeps event lines.
    pub spool: Arc<Spool>,
    /// Remembers what has come back already.
    pub ledger: Arc<Ledger>,
    /// Learns from hard bounces.
    pub suppressions: Arc<Suppressions>,
    /// Made what stands in the addresses.
    pub tokens: Arc<Tokens>,
    /// Says who signed a complaint.
    pub verifier: Arc<Verifier>,
    /// For the SMTP session, which asks it nothing here.
    pub access: Arc<Access>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells the time.
    pub clock: Clock,
}

/// The listeners for what comes back. Dropped without [`Inbound::close`], they stop at once.
#[derive(Debug)]
pub struct Inbound {
    listeners: Submission,
    page: Api,
    desk: Arc<Desk>,
    tasks: TaskTracker,
}

impl Parts {
    /// Keeps event lines; they are on disk when this resolves.
    ///
    /// # Errors
    /// They could not be written.
    async fn keep(&self, lines: Vec<u8>) -> Result<(), RecvError> {
        let (synced, is_synced) = oneshot::channel();
        self.spool.note_synced(lines, synced);
        is_synced.await
    }
}

impl Inbound {
    /// Opens all listeners of `config`. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be listened on; no listener is left open then.
    pub async fn start(
        config: &Config,
        hostname: Domain,
        tls: Option<Arc<ServerConfig>>,
        parts: Parts,
    ) -> Result<Inbound, SubmissionError> {
        let (access, metrics, clock) = (Arc::clone(&parts.access), Arc::clone(&parts.metrics), parts.clock);
        let tasks = TaskTracker::new();
        let leaving = one_click::router(Arc::new(parts.clone()));
        let desk = Arc::new(Desk::new(parts, config, hostname.clone()));
        let entrance = Arc::new(Entrance::new(Arc::clone(&desk), tasks.clone()));
        let page = Api::start("unsubscribe", &config.unsubscribe.api(), leaving, Arc::clone(&metrics))?;
        match Submission::start(config.inbound.smtp(), hostname, tls, entrance, access, metrics, clock) {
            Ok(listeners) => Ok(Inbound { listeners, page, desk, tasks }),
            Err(error) => {
                page.close(Duration::from_secs(1)).await;
                Err(error)
            }
        }
    }

    /// Where it listens, in the order of `inbound.listen`.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.listeners.local_addrs()
    }

    /// Where the page to unsubscribe is, in the order of `unsubscribe.listen`.
    pub fn page_addrs(&self) -> &[SocketAddr] {
        self.page.local_addrs()
    }

    /// Puts another configuration in force for new sessions and new mail. Listen addresses and the key cannot change.
    pub fn reload(&self, config: &Config, tls: Option<Arc<ServerConfig>>, page_tls: Option<Arc<ServerConfig>>) {
        self.desk.reload(config);
        self.page.reload(&config.unsubscribe.api(), page_tls);
        self.listeners.reload(config.inbound.smtp(), tls);
    }

    /// Stops: no new mail; what was taken has its effect first. What is not done after `grace` is cut off, unanswered.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the stop goes on.
    pub async fn close(&self, grace: Duration) {
        tokio::join!(self.listeners.close(grace), self.page.close(grace));
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(messages = self.tasks.len(), "what came back is left; its senders will try again");
        }
    }
}
