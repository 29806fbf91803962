//! All tenants, as they stand now: read whenever a client comes or submits, replaced as a whole when something changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::credential::{Credential, SCRAM_ITERATIONS};
use super::guard::Why;
use super::meter::{Meter, Saved};
use super::tenant::Tenant;
use super::{How, Principal};
use crate::clock::{Clock, Timestamp};
use crate::ledger::{Ledger, LedgerError, Table};

/// What the keys of tenants' records begin with in [`Table::Tenants`].
const TENANT_KEY: &str = "tenant/";

/// Where the key is from which the salts of users that do not exist are made. It must outlive us: a salt that changes
/// with every start would tell which users do exist.
pub(super) const DECOY_KEY: &str = "decoy";

/// How exact `last_used` is, in milliseconds.
const COARSE: u64 = 60_000;

/// A tenant as the ledger keeps it. One record, so that what belongs together changes together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) tenant: Tenant,
    pub(super) created_at: Timestamp,
    /// Salt and rounds of SCRAM for all its credentials.
    pub(super) scram_salt: [u8; 16],
    pub(super) scram_iterations: u32,
    pub(super) credentials: Vec<Credential>,
}

impl Record {
    pub(super) fn new(tenant: Tenant, scram_salt: [u8; 16], created_at: Timestamp) -> Record {
        Record { tenant, created_at, scram_salt, scram_iterations: SCRAM_ITERATIONS, credentials: Vec::new() }
    }

    /// Its key in the ledger.
    pub(super) fn key(name: &str) -> Vec<u8> {
        format!("{TENANT_KEY}{name}").into_bytes()
    }
}

/// A tenant in force.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// For principals.
    pub(super) tenant: Arc<Tenant>,
    /// Lives as long as the name does.
    pub(super) meter: Arc<Meter>,
}

/// All tenants.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) tenants: HashMap<Arc<str>, Arc<Entry>>,
    credentials: HashMap<Arc<str>, Seat>,
    certificates: HashMap<String, Arc<Entry>>,
}

/// Where a credential is found.
#[derive(Debug, Clone)]
struct Seat {
    entry: Arc<Entry>,
    at: usize,
    used: Arc<AtomicU64>,
}

impl Directory {
    /// Reads everything. A record that cannot be read is told of and left out: its tenant's clients are turned away, the
    /// others are not.
    pub(super) fn load(ledger: &Ledger, clock: Clock) -> Result<Directory, LedgerError> {
        let mut entries = Vec::new();
        for (key, value) in ledger.scan(Table::Tenants, TENANT_KEY.as_bytes())? {
            match serde_json::from_slice::<Record>(&value) {
                Ok(record) => {
                    let saved = ledger.get(Table::Usage, record.tenant.name.as_bytes())?;
                    let saved: Option<Saved> = saved.and_then(|saved| serde_json::from_slice(&saved).ok());
                    entries.push(Entry::new(record, Arc::new(Meter::new(&saved.unwrap_or_default(), clock))));
                }
                Err(error) => {
                    let key = String::from_utf8_lossy(&key);
                    tracing::error!(%key, %error, "a tenant cannot be read; its clients are refused");
                }
            }
        }
        let tenants = entries.into_iter().map(|entry| (entry.record.tenant.name.as_str().into(), entry)).collect();
        Ok(Directory::of(tenants, &HashMap::new()))
    }

    /// The same with one tenant set (`Some`) or gone.
    pub(super) fn with(&self, name: &str, record: Option<Record>, clock: Clock) -> Directory {
        let mut tenants = self.tenants.clone();
        let old = tenants.remove(name);
        if let Some(record) = record {
            let meter = old.map(|old| Arc::clone(&old.meter));
            let meter = meter.unwrap_or_else(|| Arc::new(Meter::new(&Saved::default(), clock)));
            tenants.insert(name.into(), Entry::new(record, meter));
        }
        Directory::of(tenants, &self.credentials)
    }

    fn of(tenants: HashMap<Arc<str>, Arc<Entry>>, before: &HashMap<Arc<str>, Seat>) -> Directory {
        let (mut credentials, mut certificates) = (HashMap::new(), HashMap::new());
        for entry in tenants.values() {
            for (at, credential) in entry.record.credentials.iter().enumerate() {
                let used = before.get(credential.id.as_str()).map(|seat| Arc::clone(&seat.used)).unwrap_or_default();
                credentials.insert(credential.id.as_str().into(), Seat { entry: Arc::clone(entry), at, used });
            }
            let names = entry.tenant.certificates.iter().map(|name| name.to_ascii_lowercase());
            certificates.extend(names.map(|name| (name, Arc::clone(entry))));
        }
        Directory { tenants, credentials, certificates }
    }

    /// A tenant by name.
    pub(super) fn tenant(&self, name: &str) -> Option<&Arc<Entry>> {
        self.tenants.get(name)
    }

    /// A credential and its tenant, whether they are good or not.
    pub(super) fn credential(&self, id: &str) -> Option<(&Arc<Entry>, &Credential)> {
        self.credentials.get(id).map(|seat| (&seat.entry, &seat.entry.record.credentials[seat.at]))
    }

    /// Whoever showed the secret of that credential, if it is good. Notes that it was used.
    pub(super) fn principal(&self, id: &str, now: Timestamp) -> Result<Arc<Principal>, Why> {
        let (id, seat) = self.credentials.get_key_value(id).ok_or(Why::Wrong)?;
        let entry = self.good(id, now)?;
        if now.0.saturating_sub(seat.used.load(Ordering::Relaxed)) >= COARSE {
            seat.used.store(now.0, Ordering::Relaxed);
        }
        Ok(Arc::new(Principal { tenant: Some(Arc::clone(&entry.tenant)), how: How::Credential(Arc::clone(id)) }))
    }

    /// The tenant of a credential, if both are good.
    pub(super) fn good(&self, id: &str, now: Timestamp) -> Result<&Arc<Entry>, Why> {
        let (entry, credential) = self.credential(id).ok_or(Why::Wrong)?;
        match () {
            () if credential.has_expired(now) => Err(Why::Expired),
            () if entry.tenant.disabled => Err(Why::Disabled),
            () => Ok(entry),
        }
    }

    /// The tenant that a name in a certificate stands for, in any case.
    pub(super) fn certificate(&self, name: &str) -> Option<&Arc<Entry>> {
        self.certificates.get(name.to_ascii_lowercase().as_str())
    }

    /// When a credential was last used, to the minute, since we started.
    pub(super) fn last_used(&self, id: &str) -> Option<Timestamp> {
        let used = self.credentials.get(id)?.used.load(Ordering::Relaxed);
        (used > 0).then_some(Timestamp(used))
    }
}

impl Entry {
    fn new(record: Record, meter: Arc<Meter>) -> Arc<Entry> {
        let tenant = Arc::new(record.tenant.clone());
        Arc::new(Entry { record, tenant, meter })
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("tenants", &self.tenants.keys()).finish_non_exhaustive()
    }
}
