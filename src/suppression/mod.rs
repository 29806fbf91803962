//! Refuse: who must not be mailed, why, until when.
//!
//! An [`Entry`] keeps mail from an address or a whole domain, in a scope: everybody's mail, a tenant's, a list's. It is asked
//! at acceptance and again right before a message is sent ([`Suppressions::check`]); what asks never waits for a disk unless
//! the address is likely to be there.
//!
//! Entries come from operators and files, and from what comes back: a [`Evidence`] of a failed address, a complaint, an
//! unsubscribe ([`Suppressions::learn`]) becomes one by the rules of `[suppression]`.

mod entry;

pub use entry::{Entry, Reason, Scope, Subject};

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::mail::{EnvelopeAddress, Stream};

/// The suppression list. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct Suppressions {
    entries: Mutex<HashMap<(Scope, Subject), Entry>>,
}

/// What happened to an address that may lead to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// What.
    pub cause: Reason,
    /// To whose address.
    pub address: &'a EnvelopeAddress,
    /// By mail of this stream.
    pub stream: &'a Stream,
    /// To this list.
    pub list: Option<&'a str>,
    /// Names the event that tells of it: a message id or the id of what came in.
    pub evidence: String,
    /// Who says so: `smtp`, `bounce`, `complaint`, `one-click`, `mailto`, or a name.
    pub source: &'a str,
    /// When.
    pub at: Timestamp,
}

impl Suppressions {
    /// The entry that keeps mail of that stream and list from this address at this time; `None`: it may be sent.
    ///
    /// # Errors
    /// The ledger cannot be read. Whoever sends must hold the mail back then.
    pub fn check(
        &self,
        stream: &Stream,
        list: Option<&str>,
        address: &EnvelopeAddress,
        now: Timestamp,
    ) -> Result<Option<Arc<Entry>>, LedgerError> {
        let entries = self.entries.lock().expect("no code panics under this lock");
        let found = Scope::all_of(stream, list).into_iter().find_map(|scope| {
            let subjects = Subject::all_of(address);
            let mut found = subjects.into_iter().filter_map(|subject| entries.get(&(scope.clone(), subject)));
            found.find(|entry| entry.holds(now)).cloned()
        });
        Ok(found.map(Arc::new))
    }

    /// Adds entries, all or none, over older ones of the same scope and subject. They hold once this resolves.
    ///
    /// # Errors
    /// The ledger cannot be written; nothing was added.
    pub async fn add(&self, new: Vec<Entry>) -> Result<(), LedgerError> {
        let mut entries = self.entries.lock().expect("no code panics under this lock");
        entries.extend(new.into_iter().map(|entry| ((entry.scope.clone(), entry.subject.clone()), entry)));
        Ok(())
    }

    /// Takes an entry out; whether there was one.
    ///
    /// # Errors
    /// The ledger cannot be written; nothing was changed.
    pub async fn remove(&self, scope: &Scope, subject: &Subject) -> Result<bool, LedgerError> {
        let mut entries = self.entries.lock().expect("no code panics under this lock");
        Ok(entries.remove(&(scope.clone(), subject.clone())).is_some())
    }

    /// Heeds what came back. Returns the entry that this made, if it made one: the rules may want more evidence first, or
    /// there is one that says as much.
    ///
    /// # Errors
    /// The ledger cannot be written; nothing was changed, and it can be said again.
    pub async fn learn(&self, evidence: Evidence<'_>) -> Result<Option<Entry>, LedgerError> {
        let entry = Entry::of(&evidence);
        self.add(vec![entry.clone()]).await?;
        Ok(Some(entry))
    }
}
