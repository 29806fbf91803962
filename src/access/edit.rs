//! Changes to tenants while the daemon runs: written to the ledger first, in force when that is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::credential::Credential;
use super::directory::{DECOY_KEY, Directory, Entry, Record};
use super::tenant::{BadField, NAME_MAX, Tenant};
use super::token::{self, Token};
use super::{Access, chance};
use crate::clock::Timestamp;
use crate::ledger::{LedgerError, Table};

/// Credentials of one tenant: more is a script gone wrong.
const CREDENTIALS_MAX: usize = 100;

/// How long an expired credential is still shown, until the next change.
const SHOWN_AFTER_EXPIRY: Duration = Duration::from_secs(30 * 86_400);

/// Why a tenant was not changed. Nothing was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// Fields cannot be so; at least one.
    #[error("{}", .0.iter().map(|bad| format!("{}: {}", bad.field, bad.why)).collect::<Vec<_>>().join("; "))]
    Bad(Vec<BadField>),
    /// There is one of that name.
    #[error("there is a tenant {0:?} already")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no tenant {0:?}")]
    NoTenant(String),
    /// The tenant has no such credential.
    #[error("the tenant has no credential {0:?}")]
    NoCredential(String),
    /// It could not be stored.
    #[error("it could not be stored: {0}")]
    Ledger(String),
}

impl From<LedgerError> for ChangeError {
    fn from(error: LedgerError) -> ChangeError {
        ChangeError::Ledger(error.to_string())
    }
}

/// A tenant as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantView {
    /// What it may.
    #[serde(flatten)]
    pub tenant: Tenant,
    /// RFC 3339.
    pub created_at: String,
    /// The newest last.
    pub credentials: Vec<CredentialView>,
    /// Recipients it submitted lately.
    pub used: Used,
}

/// What a tenant has used of its quotas, in recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// In the last hour, to the minute.
    pub hour: u64,
    /// In the last day, to a quarter of an hour.
    pub day: u64,
    /// In the queue now.
    pub waiting: u64,
}

/// A credential as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialView {
    /// Part of its token.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; not there: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// That time has come.
    pub expired: bool,
    /// RFC 3339, to the minute; not there: not since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
}

/// A credential to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewCredential {
    /// What people call it.
    pub label: String,
    /// How long it is good; `None`: until it is removed.
    pub expires_in: Option<Duration>,
    /// Ids of credentials that it takes the place of.
    pub replaces: Vec<String>,
    /// How much longer those are good.
    pub grace: Duration,
}

/// A new credential with its secret, which nobody can tell again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Which.
    #[serde(flatten)]
    pub credential: CredentialView,
    /// The secret.
    pub token: String,
}

/// Never the secret.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Access {
    /// All tenants, by name.
    pub fn tenants(&self) -> Vec<TenantView> {
        let directory = self.directory.load();
        let mut views: Vec<_> = directory.tenants.values().map(|entry| self.view(&directory, entry)).collect();
        views.sort_by(|a, b| a.tenant.name.cmp(&b.tenant.name));
        views
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn tenant(&self, name: &str) -> Result<TenantView, ChangeError> {
        let directory = self.directory.load();
        let entry = directory.tenant(name).ok_or_else(|| ChangeError::NoTenant(name.into()))?;
        Ok(self.view(&directory, entry))
    }

    /// Registers a tenant, without credentials.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// Once polled, a change is done to its end.
    pub async fn create(self: &Arc<Access>, tenant: Tenant) -> Result<TenantView, ChangeError> {
        let (name, now) = (tenant.name.clone(), self.clock.timestamp());
        let deed = move |record: Option<Record>| match record {
            Some(record) => Err(ChangeError::Exists(record.tenant.name)),
            None => Ok(Some(Record::new(tenant, chance(), now))),
        };
        self.edit(&name, deed).await?;
        tracing::info!(tenant = name, "tenant registered");
        self.tenant(&name)
    }

    /// Changes what a tenant may; its name stays.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// Once polled, a change is done to its end.
    pub async fn change(
        self: &Arc<Access>,
        name: &str,
        change: impl FnOnce(&mut Tenant) + Send + 'static,
    ) -> Result<TenantView, ChangeError> {
        let same = name.to_owned();
        let deed = move |record: Option<Record>| {
            let mut record = record.ok_or_else(|| ChangeError::NoTenant(same.clone()))?;
            change(&mut record.tenant);
            record.tenant.name = same;
            Ok(Some(record))
        };
        self.edit(name, deed).await?;
        tracing::info!(tenant = name, "tenant changed");
        self.tenant(name)
    }

    /// Removes a tenant with its credentials and counts, at once. Mail of it that waits is delivered all the same.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// Once polled, a change is done to its end.
    pub async fn remove(self: &Arc<Access>, name: &str) -> Result<(), ChangeError> {
        let gone = name.to_owned();
        self.edit(name, move |record| record.map(|_| None).ok_or(ChangeError::NoTenant(gone))).await?;
        tracing::info!(tenant = name, "tenant removed");
        Ok(())
    }

    /// Makes a credential. Its token is in the answer and nowhere else.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// May have been made although nobody saw its token.
    pub async fn issue(self: &Arc<Access>, name: &str, wanted: NewCredential) -> Result<Issued, ChangeError> {
        if wanted.label.len() > NAME_MAX || wanted.label.chars().any(char::is_control) {
            return Err(ChangeError::Bad(vec![BadField::new("label", "must be at most 64 printable octets")]));
        }
        let no_tenant = || ChangeError::NoTenant(name.to_owned());
        let salt = self.directory.load().tenant(name).ok_or_else(no_tenant)?.record.scram_salt;
        let now = self.clock.timestamp();
        let label = wanted.label.clone();
        let made = tokio::task::spawn_blocking(move || {
            let text = token::make(&chance());
            let token = Token::parse(&text).expect("made by us");
            (Credential::of(token, &salt, label, now, &chance()), text)
        });
        let (mut credential, token) = made.await.map_err(|_| ChangeError::Ledger("hashing panicked".into()))?;
        credential.expires_at = wanted.expires_in.map(|wait| now.after(wait));
        let (id, gone) = (credential.id.clone(), no_tenant());
        let deed = move |record: Option<Record>| {
            let mut record = record.filter(|record| record.scram_salt == salt).ok_or(gone)?;
            record.take_over(credential, &wanted, now)?;
            Ok(Some(record))
        };
        self.edit(name, deed).await?;
        tracing::info!(tenant = name, credential = id, "credential made");
        let credential = self.tenant(name)?.credentials.into_iter().find(|credential| credential.id == id);
        Ok(Issued { credential: credential.ok_or(ChangeError::NoCredential(id))?, token })
    }

    /// Removes a credential, at once.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// Once polled, a change is done to its end.
    pub async fn revoke(self: &Arc<Access>, name: &str, id: &str) -> Result<(), ChangeError> {
        let (no_tenant, gone) = (ChangeError::NoTenant(name.to_owned()), id.to_owned());
        let deed = move |record: Option<Record>| {
            let mut record = record.ok_or(no_tenant)?;
            let at = record.credentials.iter().position(|credential| credential.id == gone);
            record.credentials.remove(at.ok_or(ChangeError::NoCredential(gone))?);
            Ok(Some(record))
        };
        self.edit(name, deed).await?;
        tracing::info!(tenant = name, credential = id, "credential removed");
        Ok(())
    }

    /// One change at a time: `deed` makes the new record of the old one, or of none; it is checked, stored and put in
    /// force.
    async fn edit(
        self: &Arc<Access>,
        name: &str,
        deed: impl FnOnce(Option<Record>) -> Result<Option<Record>, ChangeError> + Send + 'static,
    ) -> Result<(), ChangeError> {
        let (access, name) = (Arc::clone(self), name.to_owned());
        // A task of its own: a caller that goes away must not leave the ledger and what is in force in disagreement.
        let edited = tokio::spawn(async move {
            let _alone = access.editing.lock().await;
            let directory = access.directory.load_full();
            let old = directory.tenant(&name).map(|entry| entry.record.clone());
            let before: Vec<_> = old.iter().flat_map(|old| old.credentials.iter().map(|c| c.id.clone())).collect();
            let new = deed(old)?;
            if let Some(new) = &new {
                check(&directory, &new.tenant)?;
            }
            let value = new.as_ref().map(|new| Bytes::from(serde_json::to_vec(new).expect("plain data")));
            let removed = value.is_none();
            let decoy = (DECOY_KEY.as_bytes().to_vec(), Some(Bytes::copy_from_slice(&access.decoy)));
            access.ledger.put(Table::Tenants, vec![(Record::key(&name), value), decoy]).await?;
            access.directory.store(Arc::new(directory.with(&name, new, access.clock)));
            let stands = access.directory.load();
            before.iter().filter(|id| stands.credential(id).is_none()).for_each(|id| access.verifier.forget(id));
            if removed && let Err(error) = access.ledger.put(Table::Usage, vec![(name.into(), None)]).await {
                tracing::warn!(%error, "what a tenant used stays behind it");
            }
            Ok(())
        });
        edited.await.unwrap_or_else(|_| Err(ChangeError::Ledger("the change panicked".into())))
    }

    fn view(&self, directory: &Directory, entry: &Entry) -> TenantView {
        let now = self.clock.timestamp();
        let credential = |credential: &Credential| CredentialView {
            id: credential.id.clone(),
            label: credential.label.clone(),
            created_at: credential.created_at.to_string(),
            expires_at: credential.expires_at.map(|at| at.to_string()),
            expired: credential.has_expired(now),
            last_used: directory.last_used(&credential.id).map(|at| at.to_string()),
        };
        let tenant = entry.record.tenant.clone();
        let (hour, day) = entry.meter.used(now);
        TenantView {
            used: Used { hour, day, waiting: self.waiting(&tenant.name) },
            tenant,
            created_at: entry.record.created_at.to_string(),
            credentials: entry.record.credentials.iter().map(credential).collect(),
        }
    }
}

impl Record {
    /// Adds a credential; those it replaces end after the grace, unless they do before.
    fn take_over(&mut self, new: Credential, wanted: &NewCredential, now: Timestamp) -> Result<(), ChangeError> {
        let long_gone = |at: Timestamp| now.since(at) > SHOWN_AFTER_EXPIRY;
        self.credentials.retain(|old| !old.expires_at.is_some_and(long_gone));
        for id in &wanted.replaces {
            let old = self.credentials.iter_mut().find(|old| old.id == *id);
            let old = old.ok_or_else(|| ChangeError::NoCredential(id.clone()))?;
            let end = now.after(wanted.grace);
            old.expires_at = Some(old.expires_at.map_or(end, |at| at.min(end)));
        }
        if self.credentials.len() >= CREDENTIALS_MAX {
            let why = "the tenant has 100 credentials already; remove some";
            return Err(ChangeError::Bad(vec![BadField::new("credentials", why)]));
        }
        self.credentials.push(new);
        Ok(())
    }
}

/// Whether a tenant can be so, beside the others.
fn check(directory: &Directory, tenant: &Tenant) -> Result<(), ChangeError> {
    let mut problems = tenant.problems();
    for (at, name) in tenant.certificates.iter().enumerate() {
        if let Some(other) = directory.certificate(name).filter(|other| other.tenant.name != tenant.name) {
            let why = format!("stands for tenant {:?} already", other.tenant.name);
            problems.push(BadField::new(format!("certificates[{at}]"), why));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ChangeError::Bad(problems)) }
}
