//! Heed what came back: evidence becomes entries.

use std::time::Duration;

use super::codec::{Name, hash_of};
use super::{Entry, Reason, Scope, Subject, Suppressions, without_tag};
use crate::clock::Timestamp;
use crate::config::{SuppressionConfig, SuppressionScope};
use crate::ledger::LedgerError;
use crate::mail::{EnvelopeAddress, Stream};

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

impl Evidence<'_> {
    /// The entry it comes to by these rules.
    fn entry(&self, rules: &SuppressionConfig) -> Entry {
        let (scope, keep) = match self.cause {
            Reason::HardBounce => (rules.hard_bounce_scope, rules.hard_bounce_keep),
            Reason::Complaint => (rules.complaint_scope, rules.complaint_keep),
            Reason::Unsubscribe => (rules.unsubscribe_scope, rules.unsubscribe_keep),
            Reason::Manual => (SuppressionScope::Tenant, Duration::ZERO),
        };
        let scope = match scope {
            SuppressionScope::Global => Scope::Global,
            SuppressionScope::Tenant => Scope::Tenant((*self.stream.tenant).into()),
            SuppressionScope::List => Scope::list_of(self.stream, self.list),
        };
        Entry {
            subject: rules.subject(self.address),
            scope,
            reason: self.cause,
            evidence: self.evidence.as_str().into(),
            source: self.source.into(),
            since: self.at,
            until: Some(self.at.after(keep)).filter(|_| !keep.is_zero()),
        }
    }
}

impl SuppressionConfig {
    /// Who is meant by an address: with `subaddress`, whoever has it without a tag.
    pub(super) fn subject(&self, address: &EnvelopeAddress) -> Subject {
        match Subject::address(address) {
            Subject::Address(text) if self.subaddress => {
                Subject::Address(without_tag(&text).map_or(text, String::into_boxed_str))
            }
            subject => subject,
        }
    }
}

impl Suppressions {
    /// Heeds what came back. Returns the entry that this made, if it made one: the rules may want more evidence first, or
    /// there is one that says as much. `lines` are the event lines that tell of it, since the caller knows the whole chain; they are
    /// durable when this resolves.
    ///
    /// # Errors
    /// The ledger cannot be written, nothing was changed, and it can be said again; or it was, and cannot be told of yet.
    ///
    /// # Cancel safety
    /// It may be heeded all the same, and is told of then; to say it again does no harm.
    pub async fn learn(
        &self,
        evidence: Evidence<'_>,
        lines: impl FnOnce(&Entry) -> Vec<u8>,
    ) -> Result<Option<Entry>, LedgerError> {
        let rules = self.rules.load_full();
        let entry = evidence.entry(&rules);
        let name = entry.subject.name();
        let locks = self.lock(std::iter::once(hash_of(&name))).await;
        let there = self.store.find(&name, Some(std::slice::from_ref(&entry.scope)))?;
        if there.iter().any(|there| there.holds(evidence.at) && lasts(there, &entry)) {
            return Ok(None);
        }
        if evidence.cause == Reason::HardBounce && !self.enough(&name, &evidence, &rules).await? {
            return Ok(None);
        }
        let written = self.put(std::slice::from_ref(&entry), lines(&entry)).await?;
        if evidence.cause == Reason::HardBounce && self.bounces.may_hold(&name) {
            // If this is lost the address needs one failure less after the entry has ended: no harm.
            self.bounces.put(&name, None).await?;
        }
        drop(locks);
        written.told().await.map(|()| Some(entry))
    }

    /// Counts a failure; whether there are enough now.
    async fn enough(&self, name: &Name, new: &Evidence<'_>, rules: &SuppressionConfig) -> Result<bool, LedgerError> {
        if rules.hard_bounces <= 1 {
            return Ok(rules.hard_bounces == 1);
        }
        let mut failures = self.bounces.get(name)?;
        if !failures.note(new.at, &new.evidence, rules) {
            return Ok(false);
        }
        if failures.times.len() >= rules.hard_bounces as usize {
            return Ok(true);
        }
        self.bounces.put(name, Some(&failures)).await?;
        Ok(false)
    }

    /// The address took a message: its failures are forgotten. Takes a microsecond for nearly all who had none.
    ///
    /// # Errors
    /// The ledger cannot be read or written; they are still counted.
    ///
    /// # Cancel safety
    /// They may be forgotten all the same.
    pub async fn accepted(&self, address: &EnvelopeAddress) -> Result<(), LedgerError> {
        let Some(name) = self.may_have_failed(address) else { return Ok(()) };
        let _locks = self.lock(std::iter::once(hash_of(&name))).await;
        if self.bounces.get(&name)?.times.is_empty() {
            return Ok(());
        }
        self.bounces.put(&name, None).await
    }

    /// Whether [`accepted`](Suppressions::accepted) has anything to do, perhaps. "No" is sure.
    pub fn has_failures(&self, address: &EnvelopeAddress) -> bool {
        self.may_have_failed(address).is_some()
    }

    /// How many failures of an address are counted.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn failures(&self, address: &EnvelopeAddress) -> Result<usize, LedgerError> {
        match self.may_have_failed(address) {
            Some(name) => Ok(self.bounces.get(&name)?.times.len()),
            None => Ok(0),
        }
    }

    fn may_have_failed(&self, address: &EnvelopeAddress) -> Option<Name> {
        let rules = self.rules.load();
        if rules.hard_bounces <= 1 {
            return None;
        }
        let name = rules.subject(address).name();
        self.bounces.may_hold(&name).then_some(name)
    }
}

/// Whether what is there keeps mail away at least as long as the new one.
fn lasts(there: &Entry, new: &Entry) -> bool {
    match (there.until, new.until) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(there), Some(new)) => there >= new,
    }
}
