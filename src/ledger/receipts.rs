//! Receipts by idempotency key: each submission once, however often it is handed in.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::mail::{Fingerprint, IdempotencyKey, Keyed, Receipt};

/// Resolves to the receipt of the submission that is under way, or to `None` when that fails.
pub type Waiter = Pin<Box<dyn Future<Output = Option<Receipt>> + Send>>;

/// How a submission with a key begins.
pub enum Begun {
    /// It is new; whoever asks next waits for it.
    New(Ticket),
    /// It was accepted before.
    Known(Receipt),
    /// The same is being accepted right now.
    UnderWay(Waiter),
    /// The key stands for something else.
    Contradicts,
    /// What is known of the key cannot be read.
    Unreadable(String),
}

/// The right to hand a new submission to the spool. Dropped before, others may try.
#[derive(Debug)]
pub struct Ticket {
    receipts: Arc<Receipts>,
    at: Option<(Arc<str>, Keyed)>,
}

impl Ticket {
    /// The spool has it now and will tell the ledger how it ends.
    pub fn hand_over(mut self) {
        self.at = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((tenant, keyed)) = self.at.take() {
            self.receipts.abandon(&tenant, &keyed);
        }
    }
}

type Scope = (Arc<str>, IdempotencyKey);

/// What is known of each key.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    known: Mutex<HashMap<Scope, (Fingerprint, Stand)>>,
}

#[derive(Debug)]
enum Stand {
    Pending(watch::Sender<Option<Option<Receipt>>>),
    Accepted(Receipt),
}

impl Receipts {
    pub(super) fn begin(self: &Arc<Self>, tenant: &str, keyed: &Keyed) -> Begun {
        let scope: Scope = (tenant.into(), keyed.key.clone());
        let mut known = self.known.lock().expect("no code panics under this lock");
        match known.get(&scope) {
            None => {
                let ticket = Ticket { receipts: Arc::clone(self), at: Some((scope.0.clone(), keyed.clone())) };
                known.insert(scope, (keyed.fingerprint, Stand::Pending(watch::Sender::new(None))));
                Begun::New(ticket)
            }
            Some((fingerprint, _)) if *fingerprint != keyed.fingerprint => Begun::Contradicts,
            Some((_, Stand::Accepted(receipt))) => Begun::Known(Receipt { replayed: true, ..*receipt }),
            Some((_, Stand::Pending(end))) => {
                let mut end = end.subscribe();
                Begun::UnderWay(Box::pin(async move {
                    let ended = end.wait_for(Option::is_some).await.ok()?;
                    ended.flatten().map(|receipt| Receipt { replayed: true, ..receipt })
                }))
            }
        }
    }

    pub(super) fn record(&self, tenant: &str, keyed: &Keyed, receipt: Receipt) {
        let scope: Scope = (tenant.into(), keyed.key.clone());
        let mut known = self.known.lock().expect("no code panics under this lock");
        if let Some((_, Stand::Pending(end))) = known.insert(scope, (keyed.fingerprint, Stand::Accepted(receipt))) {
            end.send_replace(Some(Some(receipt)));
        }
    }

    pub(super) fn abandon(&self, tenant: &str, keyed: &Keyed) {
        let scope: Scope = (tenant.into(), keyed.key.clone());
        let mut known = self.known.lock().expect("no code panics under this lock");
        if matches!(known.get(&scope), Some((_, Stand::Pending(_))))
            && let Some((_, Stand::Pending(end))) = known.remove(&scope)
        {
            end.send_replace(Some(None));
        }
    }

    pub(super) fn get(&self, tenant: &str, key: &str) -> Option<Receipt> {
        let scope: Scope = (tenant.into(), key.parse().ok()?);
        match self.known.lock().expect("no code panics under this lock").get(&scope)? {
            (_, Stand::Accepted(receipt)) => Some(*receipt),
            (_, Stand::Pending(_)) => None,
        }
    }
}
