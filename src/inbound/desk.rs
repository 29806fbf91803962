//! What is behind the listeners: takes a message, has it read, and sees to it that it has its effect before the `250`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;

use super::seen::{Item, Seen};
use super::{Mailbox, Mailboxes, Parts};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::feedback::bounce::{self, Incoming, Kind};
use crate::ledger::LedgerError;
use crate::log::Health;
use crate::mail::{
    Domain, EnhancedCode, Envelope, EnvelopeAddress, MessageId, Receipt, Recipient, Reply, ReversePath, header,
};
use crate::submission::{Door, Handover, NewMessage, Rejection, RejectionKind, Service};

/// A message that has passed more hosts goes in circles (RFC 5321 §6.3).
const HOPS_MAX: usize = 100;

/// What the sessions hand to.
#[derive(Debug)]
pub(super) struct Entrance {
    desk: Arc<Desk>,
    /// Messages under way.
    tasks: TaskTracker,
}

/// Has messages read, and gives them their effect.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) parts: Parts,
    pub(super) hostname: Domain,
    /// What has come back already.
    pub(super) seen: Seen,
    mailboxes: ArcSwap<Mailboxes>,
    /// As many are read at a time.
    reading: Semaphore,
}

/// A message that came in.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Names it in events.
    pub(super) id: MessageId,
    /// When it came.
    pub(super) at: Timestamp,
    /// From where.
    pub(super) client: Option<IpAddr>,
    /// Who sends it, and to whom.
    pub(super) envelope: Envelope,
    /// All of it.
    pub(super) content: Bytes,
}

impl Entrance {
    pub(super) fn new(desk: Arc<Desk>, tasks: TaskTracker) -> Entrance {
        Entrance { desk, tasks }
    }
}

impl Door for Entrance {
    const SERVICE: Service = Service::Inbound;

    fn receives(&self, address: &EnvelopeAddress) -> Result<(), Reply> {
        self.desk.find(address).map(|_| ())
    }

    fn next_ids(&self, count: u32) -> MessageId {
        self.desk.parts.queue.next_ids(count)
    }

    fn ready(&self) -> Result<(), Rejection> {
        // A full queue does not matter: what comes back may even empty it.
        match self.desk.parts.spool.health() {
            Health::ReadOnly { reason } => Err(Rejection::full(format!("the spool is read-only: {reason}"))),
            _ => Ok(()),
        }
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let desk = Arc::clone(&self.desk);
        // A task of its own: the session need not poll it, and a client that goes away does not stop it.
        let task = self.tasks.spawn(async move { desk.take(handover).await });
        async move { task.await.unwrap_or_else(|_| Err(Rejection::trouble("it could not be read"))) }
    }

    fn expire_after(&self) -> Duration {
        self.desk.parts.queue.expire_after()
    }
}

impl Desk {
    pub(super) fn new(parts: Parts, config: &Config, hostname: Domain) -> Desk {
        let mailboxes = ArcSwap::from_pointee(Mailboxes::new(config, Arc::clone(&parts.tokens)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Desk { seen: Seen::new(Arc::clone(&parts.ledger)), parts, hostname, mailboxes, reading: Semaphore::new(cores) }
    }

    pub(super) fn reload(&self, config: &Config) {
        self.mailboxes.store(Arc::new(Mailboxes::new(config, Arc::clone(&self.parts.tokens))));
    }

    fn find(&self, address: &EnvelopeAddress) -> Result<Mailbox, Reply> {
        self.mailboxes.load().find(address, self.parts.clock.timestamp()).map_err(|why| why.reply())
    }

    async fn take(self: &Arc<Self>, handover: Handover) -> Result<Receipt, Rejection> {
        let Handover { messages, client, .. } = handover;
        let Some(NewMessage { id, envelope, content }) = messages.into_iter().next() else {
            return Err(Rejection::trouble("there is nothing in it"));
        };
        let arrived = Arrived { id, at: envelope.accepted_at, client, envelope, content };
        let incoming = self.read(&arrived).await?;
        // What was ours at RCPT may have expired since; somebody else's reload may have taken a domain away.
        let to = |recipient: &Recipient| self.find(&recipient.address).ok();
        let mut mailboxes: Vec<Mailbox> = arrived.envelope.recipients.iter().filter_map(to).collect();
        let mut heeded = Vec::new();
        while let Some(mailbox) = mailboxes.pop() {
            if !heeded.contains(&mailbox) {
                self.heed(&arrived, &mailbox, &incoming).await?;
                heeded.push(mailbox);
            }
        }
        Ok(Receipt { id, messages: 1, accepted_at: arrived.at, replayed: false })
    }

    /// Reads the content, off the runtime's threads.
    async fn read(&self, arrived: &Arrived) -> Result<Incoming, Rejection> {
        let trouble = || Rejection::trouble("it could not be read");
        let content = arrived.content.clone();
        let _turn = self.turn().await?;
        let read = move || (hops(&content) <= HOPS_MAX).then(|| bounce::read(&content));
        let incoming = tokio::task::spawn_blocking(read).await.map_err(|_| trouble())?;
        incoming.ok_or_else(|| {
            let text = format!("it has passed more than {HOPS_MAX} hosts: a loop");
            let reply = Reply::ours(554, EnhancedCode(5, 4, 6), text);
            Rejection { kind: RejectionKind::Invalid, reply, violations: Vec::new(), retry_after: None }
        })
    }

    /// A turn at reading.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Rejection> {
        self.reading.acquire().await.map_err(|_| Rejection::closing())
    }

    /// How long a token is believed.
    pub(super) fn token_lifetime(&self) -> Duration {
        self.mailboxes.load().lifetime()
    }

    /// What came to an address has its effect, and that is durable when this resolves.
    async fn heed(
        self: &Arc<Self>,
        arrived: &Arrived,
        mailbox: &Mailbox,
        incoming: &Incoming,
    ) -> Result<(), Rejection> {
        let from_nobody = arrived.envelope.reverse_path == ReversePath::Null;
        let kind = match (mailbox, incoming.kind) {
            (Mailbox::Postmaster(to), _) => {
                self.hand_on(arrived, to).await?;
                "postmaster"
            }
            (Mailbox::Unsubscribe, _) => {
                self.leave(arrived).await?;
                "unsubscribe"
            }
            (Mailbox::Complaints(sent), _) => self.complained(arrived, *sent, incoming.complaint.as_deref()).await?,
            (Mailbox::Reports, _) => self.reported(arrived).await?,
            // Some send complaints to the return path.
            (Mailbox::Bounce(sent), Kind::Complaint) => {
                self.complained(arrived, Some(*sent), incoming.complaint.as_deref()).await?
            }
            (Mailbox::Bounce(sent), Kind::Bounce) => {
                self.returned(arrived, *sent, incoming).await?;
                "bounce"
            }
            (Mailbox::Bounce(sent), Kind::AutoReply) => {
                self.replied(arrived, *sent, "auto-reply").await?;
                "auto-reply"
            }
            (Mailbox::Bounce(sent), Kind::Other) if !from_nobody => {
                self.replied(arrived, *sent, "mail").await?;
                "mail"
            }
            // Only reports come from nobody: one that we cannot read.
            (Mailbox::Bounce(sent), Kind::Other) => {
                self.unknown(arrived, *sent).await?;
                "unknown"
            }
        };
        self.parts.metrics.inbound_messages.with_label_values(&[kind]).inc();
        self.tidy();
        tracing::debug!(id = %arrived.id, client = ?arrived.client, kind, "taken back");
        Ok(())
    }

    /// The weight with which something came before; 0: it did not.
    pub(super) fn came_before(&self, item: Item) -> Result<u8, Rejection> {
        self.seen.weight(item).map_err(not_stored)
    }

    /// These have had their effect; that is on disk when this resolves.
    pub(super) async fn note(&self, items: &[(Item, u8)], at: Timestamp) -> Result<(), Rejection> {
        self.seen.note(items, at).await.map_err(not_stored)
    }

    /// Forgets now and then what came back long ago.
    fn tidy(self: &Arc<Self>) {
        let now = self.parts.clock.timestamp();
        if self.seen.is_untidy(now) {
            let desk = Arc::clone(self);
            // Nobody waits for it: what is left is forgotten the next time.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = desk.seen.tidy(now, desk.token_lifetime()) {
                    tracing::warn!(%error, "what came back long ago is not forgotten yet");
                }
            });
        }
    }

    /// Keeps event lines; they are on disk when this resolves.
    pub(super) async fn keep(&self, lines: Vec<u8>) -> Result<(), Rejection> {
        self.parts.keep(lines).await.map_err(|_| Rejection::trouble("it could not be stored, try again later"))
    }
}

pub(super) fn not_stored(error: LedgerError) -> Rejection {
    tracing::error!(%error, "what came back cannot be heeded, its sender is told to try again");
    Rejection::trouble("it could not be stored, try again later")
}

/// The hosts that a message says it has passed.
fn hops(content: &[u8]) -> usize {
    let section = &content[..header::section_len(content)];
    header::fields(section).filter(|field| field.is("Received")).count()
}
