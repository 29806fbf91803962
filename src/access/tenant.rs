//! A tenant and what it may.

use serde::{Deserialize, Serialize};

use crate::mail::{Class, Domain};

/// One who sends through us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// Its name, as in streams, events and metrics.
    pub name: String,
    /// Domains it may write From, each with all below it; empty: any.
    pub from_domains: Vec<Domain>,
    /// Classes it may use; empty: transactional and bulk.
    pub classes: Vec<Class>,
    /// How much it may submit.
    pub quota: Quota,
    /// Names in client certificates (DNS names or common name) that stand for it.
    pub certificates: Vec<String>,
    /// Nothing is taken from it, or in its name.
    pub disabled: bool,
}

/// How much a tenant may submit, in recipients; `None`: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// In a second, in the mean.
    pub per_second: Option<u32>,
    /// At once, when nothing was sent for a while; not said: as many as in a second, at least 100.
    pub burst: Option<u32>,
    /// In an hour.
    pub per_hour: Option<u64>,
    /// In a day.
    pub per_day: Option<u64>,
    /// Waiting in the queue.
    pub waiting_max: Option<u64>,
}
