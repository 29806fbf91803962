//! A desk that stores in memory, when it is told to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::super::Desk;
use crate::access::{Access, Principal};
use crate::clock::{Clock, Timestamp};
use crate::ledger::Ledger;
use crate::mail::{MessageId, Receipt};
use crate::queue::MessageStatus;
use crate::submission::door::{Door, Handover};
use crate::submission::rejection::Rejection;
use crate::submission::steer::{Cancel, CancelReceipt};
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;

/// Commits in the order of arrival, as many as are allowed.
pub(super) struct Book {
    access: Arc<Access>,
    suppressions: Arc<Suppressions>,
    ids: AtomicU64,
    /// Commits allowed so far.
    allowed: watch::Sender<u64>,
    inner: Arc<Mutex<Inner>>,
    refusal: Mutex<Option<Rejection>>,
}

#[derive(Default)]
struct Inner {
    /// Hand-overs begun.
    begun: u64,
    /// Those that are durable.
    stored: Vec<Handover>,
    receipts: HashMap<String, Receipt>,
}

impl Book {
    pub(super) fn new() -> Arc<Book> {
        let access = Access::open(Arc::new(Ledger::default()), Arc::new(Metrics::new()), Clock).expect("a new ledger");
        Arc::new(Book {
            access,
            suppressions: Arc::default(),
            ids: AtomicU64::new(1),
            allowed: watch::Sender::new(u64::MAX),
            inner: Arc::default(),
            refusal: Mutex::default(),
        })
    }

    /// So many commits in all.
    pub(super) fn allow(&self, commits: u64) {
        self.allowed.send_replace(commits);
    }

    /// Takes nothing from now on, or everything again.
    pub(super) fn refuse(&self, rejection: Option<Rejection>) {
        *self.refusal.lock().expect("a test") = rejection;
    }

    pub(super) fn begun(&self) -> u64 {
        self.inner.lock().expect("a test").begun
    }

    pub(super) fn stored(&self) -> Vec<Handover> {
        self.inner.lock().expect("a test").stored.clone()
    }

    pub(super) fn access(&self) -> &Arc<Access> {
        &self.access
    }
}

impl Door for Book {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.ids.fetch_add(count.into(), Ordering::Relaxed))
    }

    fn ready(&self) -> Result<(), Rejection> {
        self.refusal.lock().expect("a test").clone().map_or(Ok(()), Err)
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let inner = Arc::clone(&self.inner);
        let number = {
            let mut inner = inner.lock().expect("a test");
            inner.begun += 1;
            inner.begun
        };
        let mut allowed = self.allowed.subscribe();
        async move {
            allowed.wait_for(|allowed| *allowed >= number).await.map_err(|_| Rejection::closing())?;
            let mut inner = inner.lock().expect("a test");
            let first = &handover.messages[0];
            let key = first.envelope.key.as_ref().map(|keyed| keyed.key.to_string());
            if let Some(known) = key.as_ref().and_then(|key| inner.receipts.get(key)) {
                return Ok(Receipt { replayed: true, ..*known });
            }
            let receipt = Receipt {
                id: first.id,
                messages: handover.messages.len() as u32,
                accepted_at: Timestamp(1_795_348_800_123),
                replayed: false,
            };
            inner.receipts.extend(key.map(|key| (key, receipt)));
            inner.stored.push(handover);
            Ok(receipt)
        }
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(86_400)
    }
}

impl Desk for Book {
    fn access(&self) -> &Access {
        &self.access
    }

    fn suppressions(&self) -> &Arc<Suppressions> {
        &self.suppressions
    }

    fn readiness(&self) -> Result<(), String> {
        self.ready().map_err(|rejection| rejection.to_string())
    }

    async fn status(&self, _: &Principal, id: MessageId) -> Result<MessageStatus, Rejection> {
        Err(Rejection::not_found(format!("no message {id}")))
    }

    async fn cancel(&self, _: &Principal, what: Cancel) -> Result<CancelReceipt, Rejection> {
        match what {
            Cancel::Message(id) => Err(Rejection::not_found(format!("no message {id}"))),
            Cancel::Key { .. } => Ok(CancelReceipt { messages: 1, recipients: 2, in_flight: 3 }),
            Cancel::Campaign { .. } => Ok(CancelReceipt { messages: 4, recipients: 5, in_flight: 6 }),
        }
    }
}
