//! What a client may ask of the suppression list: a client bound to a tenant, of that tenant's entries only.

use std::sync::Arc;

use super::gate::Gate;
use super::rejection::{Rejection, Violation};
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::mail::{Class, Stream};
use crate::suppression::{
    Defaults, Entry, EntryText, Format, Importing, Listed, Reason, Scope, Subject, Suppressions, TextError, Wanted,
};

/// Most entries of one request; more are an import.
pub const ENTRIES_MAX: usize = 1000;

/// Longest name of a tenant or list, in octets.
const NAME_MAX: usize = 128;

/// Whose entries a request is about, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whose {
    /// A tenant; a client bound to one may leave it out.
    pub tenant: Option<String>,
    /// One of its lists.
    pub list: Option<String>,
}

impl Gate {
    /// Who is not mailed.
    pub fn suppressions(&self) -> &Arc<Suppressions> {
        self.queue().suppressions()
    }
}

/// What entries say that say nothing of it.
///
/// # Errors
/// `Forbidden` when a client bound to one tenant names another.
fn defaults(who: &Principal, whose: &Whose, source: &str, now: Timestamp) -> Result<Defaults, Rejection> {
    let tenant = tenant(who, whose)?;
    let scope = match (&tenant, &whose.list) {
        (None, None) => None,
        (None, Some(_)) => return Err(Rejection::invalid("tenant", "whose list is it?")),
        (Some(tenant), None) => Some(Scope::Tenant(tenant.clone())),
        (Some(tenant), Some(list)) => Some(Scope::List { tenant: tenant.clone(), list: list.as_str().into() }),
    };
    let bound = who.tenant.is_some();
    Ok(Defaults { tenant: tenant.filter(|_| bound), scope, reason: Reason::Manual, source: source.into(), since: now })
}

fn tenant(who: &Principal, whose: &Whose) -> Result<Option<Box<str>>, Rejection> {
    for (field, name) in [("tenant", &whose.tenant), ("list", &whose.list)] {
        if name
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control))
        {
            return Err(Rejection::invalid(field, format!("must have 1 to {NAME_MAX} octets")));
        }
    }
    match (&who.tenant, &whose.tenant) {
        (Some(own), Some(named)) if own.name != *named => {
            Err(Rejection::forbidden("tenant", format!("you may act for {:?} only", own.name)))
        }
        (Some(own), _) => Ok(Some(own.name.as_str().into())),
        (None, named) => Ok(named.as_deref().map(Box::from)),
    }
}

fn trouble(error: LedgerError) -> Rejection {
    Rejection::trouble(error.to_string())
}

/// Adds entries, all or none; how many. They hold once this resolves.
///
/// # Errors
/// `Invalid` with all fields that are wrong, `Forbidden` for another's, `Trouble` when they cannot be stored.
pub async fn add(
    list: &Arc<Suppressions>,
    who: &Principal,
    whose: &Whose,
    texts: &[EntryText<'_>],
    source: &str,
    now: Timestamp,
) -> Result<usize, Rejection> {
    if texts.is_empty() || texts.len() > ENTRIES_MAX {
        return Err(Rejection::invalid("entries", format!("1 to {ENTRIES_MAX} are taken; more are an import")));
    }
    let (defaults, rules) = (defaults(who, whose, source, now)?, list.rules());
    let (mut entries, mut violations) = (Vec::with_capacity(texts.len()), Vec::new());
    for (place, text) in texts.iter().enumerate() {
        match text.entry(&defaults, &rules) {
            Ok(entry) => entries.push(entry),
            Err(wrong) => violations
                .push(Violation { field: format!("entries[{place}].{}", wrong.field).into(), why: wrong.why.into() }),
        }
    }
    if !violations.is_empty() {
        return Err(Rejection::violations(violations));
    }
    let count = entries.len();
    list.add(entries).await.map_err(trouble)?;
    Ok(count)
}

/// Takes entries of a subject out: of that list, or without one all that the client may see, of that tenant if it names one. Those that
/// there were.
///
/// # Errors
/// `Invalid`, `Forbidden` for another's, `NotFound` if there is none, `Trouble`.
pub async fn remove(
    list: &Arc<Suppressions>,
    who: &Principal,
    whose: &Whose,
    subject: &EntryText<'_>,
    by: &str,
) -> Result<Vec<Entry>, Rejection> {
    let wanted = wanted(who, whose, None)?;
    let subject = read_subject(list, subject)?;
    let mut removed = Vec::new();
    for entry in list.exactly(&subject).map_err(trouble)? {
        if wanted.wants(&entry) && list.remove_by(&entry.scope, &subject, by).await.map_err(trouble)? {
            removed.push(entry);
        }
    }
    if removed.is_empty() {
        return Err(Rejection::not_found("there is no such entry"));
    }
    Ok(removed)
}

fn read_subject(list: &Suppressions, text: &EntryText<'_>) -> Result<Subject, Rejection> {
    text.subject(&list.rules()).map_err(|wrong| Rejection::invalid(wrong.field, wrong.why))
}

/// Which entries are meant.
///
/// # Errors
/// `Invalid`, `Forbidden` for another's.
pub fn wanted(who: &Principal, whose: &Whose, reason: Option<Reason>) -> Result<Wanted, Rejection> {
    let tenant = tenant(who, whose)?;
    let scope = match (&tenant, &whose.list) {
        (_, None) => None,
        (None, Some(_)) => return Err(Rejection::invalid("tenant", "whose list is it?")),
        (Some(tenant), Some(list)) => Some(Scope::List { tenant: tenant.clone(), list: list.as_str().into() }),
    };
    Ok(Wanted { tenant, scope, reason })
}

/// A reason by its name.
///
/// # Errors
/// `Invalid` if there is no such reason.
pub fn reason(name: Option<&str>) -> Result<Option<Reason>, Rejection> {
    let read =
        name.map(|name| name.parse().map_err(|error: TextError| Rejection::invalid("reason", error.to_string())));
    read.transpose()
}

/// Where a cursor leads; without one to the beginning.
///
/// # Errors
/// `Invalid` for a text that [`cursor`] does not write.
pub fn position(text: Option<&str>) -> Result<u64, Rejection> {
    let Some(text) = text else { return Ok(0) };
    let position = u64::from_str_radix(text, 16).ok().filter(|position| cursor(*position) == text);
    position.ok_or_else(|| Rejection::invalid("cursor", "is none of ours"))
}

/// A page of entries from a position on.
///
/// # Errors
/// `Trouble`.
pub async fn page(list: &Arc<Suppressions>, wanted: Wanted, from: u64, limit: usize) -> Result<Listed, Rejection> {
    list.page(wanted, from, limit).await.map_err(trouble)
}

/// A cursor as text.
pub fn cursor(next: u64) -> String {
    format!("{next:016x}")
}

/// The entry that keeps mail of a tenant, to that list, from an address now; of one that is everybody's a client bound to a tenant hears
/// no more than the reason.
///
/// # Errors
/// `Invalid`, `Forbidden` for another's, `Trouble`.
pub fn check(
    list: &Suppressions,
    who: &Principal,
    whose: &Whose,
    address: &str,
    now: Timestamp,
) -> Result<Option<Entry>, Rejection> {
    let tenant = tenant(who, whose)?;
    let address =
        address.parse().map_err(|error: crate::mail::AddressError| Rejection::invalid("address", error.to_string()))?;
    let stream =
        Stream { tenant: tenant.as_deref().unwrap_or_default().into(), class: Class::Bulk, campaign: "".into() };
    let found = list.look(&stream, whose.list.as_deref(), &address, now).map_err(trouble)?;
    Ok(found.map(|entry| match (&entry.scope, &who.tenant) {
        (Scope::Global, Some(_)) => Entry { evidence: "".into(), source: "".into(), ..entry },
        _ => entry,
    }))
}

/// Begins an import, when there is a seat for one.
///
/// # Errors
/// `Invalid`, `Forbidden` for another's.
pub async fn import(
    list: &Arc<Suppressions>,
    who: &Principal,
    whose: &Whose,
    format: Format,
    source: &str,
    now: Timestamp,
) -> Result<Importing, Rejection> {
    let defaults = defaults(who, whose, source, now)?;
    Ok(list.import(format, defaults, false, Some(list.seat().await)))
}
