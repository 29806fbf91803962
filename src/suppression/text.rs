//! Entries as text: what people and files say, and how they are shown.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Entry, Reason, Scope, Subject, SuppressionConfig, TextError};
use crate::clock::Timestamp;
use crate::mail::EnvelopeAddress;

/// An entry as it is said in JSON, or in a row of a file. One of the first three names the subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntryText<'a> {
    /// An address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Cow<'a, str>>,
    /// A domain: all its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Cow<'a, str>>,
    /// SHA-256 of an address in lower case, as 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Cow<'a, str>>,
    /// `global`, `tenant:NAME`, `list:TENANT/LIST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Cow<'a, str>>,
    /// Instead of `scope`: a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Cow<'a, str>>,
    /// Instead of `scope`: a tenant's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<Cow<'a, str>>,
    /// `hard-bounce`, `complaint`, `unsubscribe`, `manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The event that led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Cow<'a, str>>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// Since when, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Cow<'a, str>>,
    /// Until when, RFC 3339; not there: for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Cow<'a, str>>,
}

/// What holds where an entry says nothing.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The only tenant whose entries may be made; `None`: anybody's.
    pub tenant: Option<Box<str>>,
    /// Its scope; `None`: it must be said, or is that tenant's.
    pub scope: Option<Scope>,
    /// Why.
    pub reason: Reason,
    /// Who says so.
    pub source: Box<str>,
    /// Since when.
    pub since: Timestamp,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Wrong {
    /// Its name.
    pub field: &'static str,
    /// What.
    pub why: String,
}

/// Evidence and sources are no longer than this.
const TEXT_MAX: usize = 255;

impl<'a> EntryText<'a> {
    /// How an entry is shown.
    pub fn of(entry: &Entry) -> EntryText<'static> {
        let said = |text: &str| Some(text.to_owned().into()).filter(|text: &Cow<'_, str>| !text.is_empty());
        let mut text = EntryText {
            scope: Some(entry.scope.to_string().into()),
            reason: Some(entry.reason.as_str().into()),
            evidence: said(&entry.evidence),
            source: said(&entry.source),
            since: Some(entry.since.to_string().into()),
            until: entry.until.map(|until| until.to_string().into()),
            ..EntryText::default()
        };
        match &entry.subject {
            Subject::Address(address) => text.address = Some(String::from(address.clone()).into()),
            Subject::Domain(domain) => text.domain = Some(domain.to_string().into()),
            hash @ Subject::Hash(_) => text.hash = Some(hash.to_string()["sha256:".len()..].to_owned().into()),
        }
        text
    }

    /// What it says, by these rules.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn entry(&self, defaults: &Defaults, rules: &SuppressionConfig) -> Result<Entry, Wrong> {
        Ok(Entry {
            subject: self.subject(rules)?,
            scope: self.scope(defaults)?,
            reason: match &self.reason {
                Some(reason) => reason.parse().map_err(|error| wrong("reason", error))?,
                None => defaults.reason,
            },
            evidence: short("evidence", &self.evidence)?.unwrap_or_default(),
            source: short("source", &self.source)?.unwrap_or_else(|| defaults.source.clone()),
            since: time("since", &self.since)?.unwrap_or(defaults.since),
            until: time("until", &self.until)?,
        })
    }

    /// Who is meant.
    ///
    /// # Errors
    /// None, or more than one, is named, or what is named is none.
    pub fn subject(&self, rules: &SuppressionConfig) -> Result<Subject, Wrong> {
        match (&self.address, &self.domain, &self.hash) {
            (Some(address), None, None) => {
                let address: EnvelopeAddress = address.parse().map_err(|error| wrong("address", error))?;
                Ok(rules.subject(&address))
            }
            (None, Some(domain), None) => {
                let domain = domain.strip_prefix('@').unwrap_or(domain).parse();
                domain.map(Subject::Domain).map_err(|error| wrong("domain", error))
            }
            (None, None, Some(hash)) => match hash.parse() {
                Ok(subject @ Subject::Hash(_)) => Ok(subject),
                _ => Err(wrong("hash", TextError::Hash)),
            },
            (None, None, None) => Err(wrong("address", "an address, a domain or a hash is needed")),
            _ => Err(wrong("address", "one of address, domain and hash is enough")),
        }
    }

    /// Whose mail is meant.
    ///
    /// # Errors
    /// It is not said, said twice, none, or not that tenant's.
    pub fn scope(&self, defaults: &Defaults) -> Result<Scope, Wrong> {
        let tenant = self.tenant.as_deref().or(defaults.tenant.as_deref());
        let (field, scope) = match (&self.scope, tenant, &self.list) {
            (Some(scope), _, None) if self.tenant.is_none() => {
                ("scope", scope.parse().map_err(|error| wrong("scope", error))?)
            }
            (Some(_), _, _) => return Err(wrong("scope", "either scope, or tenant and list")),
            (None, Some(tenant), Some(list)) => {
                let scope = Scope::named(tenant, Some(list));
                ("list", scope.ok_or_else(|| wrong("list", "tenant and list have names of at most 255 octets"))?)
            }
            (None, None, Some(_)) => return Err(wrong("tenant", "whose list is it?")),
            (None, _, None) => match (&self.tenant, &defaults.scope, tenant) {
                (None, Some(scope), _) => ("scope", scope.clone()),
                (_, _, Some(tenant)) => {
                    let scope = Scope::named(tenant, None);
                    ("tenant", scope.ok_or_else(|| wrong("tenant", "a tenant has a name of at most 255 octets"))?)
                }
                (_, None, None) => return Err(wrong("scope", TextError::Scope)),
                (Some(_), Some(_), None) => unreachable!("a tenant that is named is one"),
            },
        };
        let theirs = match (&scope, &defaults.tenant) {
            (_, None) => true,
            (Scope::Global, Some(_)) => false,
            (Scope::Tenant(tenant) | Scope::List { tenant, .. }, Some(only)) => tenant == only,
        };
        if theirs { Ok(scope) } else { Err(wrong(field, "only entries of one's own can be changed")) }
    }
}

fn wrong(field: &'static str, why: impl ToString) -> Wrong {
    Wrong { field, why: why.to_string() }
}

fn short(field: &'static str, text: &Option<Cow<'_, str>>) -> Result<Option<Box<str>>, Wrong> {
    match text {
        Some(text) if text.len() > TEXT_MAX => Err(wrong(field, "longer than 255 octets")),
        Some(text) if text.chars().any(char::is_control) => Err(wrong(field, "holds a control character")),
        text => Ok(text.as_deref().map(Box::from)),
    }
}

fn time(field: &'static str, text: &Option<Cow<'_, str>>) -> Result<Option<Timestamp>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    let time = Timestamp::parse_rfc3339(text);
    time.map(Some).ok_or_else(|| wrong(field, "not a time as in 2026-12-01T00:00:00Z"))
}
