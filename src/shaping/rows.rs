//! Limits as rows: what each is about, what it allows, and which bucket a message or connection finds.
//!
//! A `[[limit]]` of the configuration or of a profile becomes one [`Row`] for each thing it limits. A row is about a
//! [`Scope`]; everything in it shares one bucket, or, by its `each`, one bucket for each source, each tenant, and so on.

use std::time::Duration;

use super::bucket::Rate;
use crate::config::{Dimension, LimitConfig, RateLimit, Scope, Subject};

/// What a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// Connections that are open or being opened.
    Connections,
    /// Connections opened.
    Dials,
    /// Transactions: one message to one recipient or several.
    Messages,
    /// Recipients.
    Recipients,
    /// Octets of content.
    Octets,
}

/// How much of it is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allowed {
    /// So many at once.
    AtOnce(u32),
    /// So many in a time.
    PerTime(Rate),
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands, for operators: `limit[2]`, or the name of a profile.
    pub name: String,
    /// What it is about.
    pub scope: Scope,
    /// What has a bucket of its own, sorted.
    pub each: Vec<Dimension>,
    /// What is counted.
    pub counted: Counted,
    /// How much of it is allowed.
    pub allowed: Allowed,
}

/// A limit on the size of something, which needs no bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Cap {
    /// What it is about.
    pub scope: Scope,
    /// Recipients in one transaction.
    pub recipients_per_transaction: Option<u32>,
    /// Messages on one connection.
    pub messages_per_connection: Option<u32>,
}

/// The most that may be sent at once where limits say no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Recipients in one transaction.
    pub recipients_per_transaction: u32,
    /// Messages on one connection.
    pub messages_per_connection: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { recipients_per_transaction: u32::MAX, messages_per_connection: u32::MAX }
    }
}

/// Rows and caps, in order of the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// With buckets.
    pub rows: Vec<Row>,
    /// Without.
    pub caps: Vec<Cap>,
}

impl Rows {
    /// Those of the configuration; others may be pushed behind.
    pub fn new(limits: &[LimitConfig]) -> Rows {
        let mut rows = Rows::default();
        limits.iter().enumerate().for_each(|(index, limit)| rows.push(&format!("limit[{index}]"), limit));
        rows
    }

    /// Adds what one `[[limit]]`, or the limits of a profile, say.
    pub fn push(&mut self, name: &str, limit: &LimitConfig) {
        let mut each = limit.each.clone();
        each.sort_unstable();
        each.dedup();
        let rate = |limit: RateLimit| {
            Allowed::PerTime(Rate::new(limit.amount as f64, limit.period.max(Duration::from_millis(1)), limit.burst()))
        };
        let all = [
            (Counted::Connections, limit.connections.map(Allowed::AtOnce)),
            (Counted::Dials, limit.connection_rate.map(rate)),
            (Counted::Messages, limit.messages.map(rate)),
            (Counted::Recipients, limit.recipients.map(rate)),
            (Counted::Octets, limit.bytes.map(|bytes| rate(bytes.0))),
        ];
        for (counted, allowed) in all {
            let Some(allowed) = allowed else { continue };
            let (name, scope, each) = (name.to_owned(), limit.scope.clone(), each.clone());
            self.rows.push(Row { name, scope, each, counted, allowed });
        }
        let (recipients_per_transaction, messages_per_connection) =
            (limit.recipients_per_transaction, limit.messages_per_connection);
        if recipients_per_transaction.is_some() || messages_per_connection.is_some() {
            self.caps.push(Cap { scope: limit.scope.clone(), recipients_per_transaction, messages_per_connection });
        }
    }
}

impl Row {
    /// Whether all mail of a path shares its buckets.
    pub fn is_of_paths(&self) -> bool {
        self.scope.is_of_paths() && !self.each.iter().any(|dimension| dimension.is_of_mail())
    }

    /// Whether more than a few may wait for one of its buckets: it is not one site's.
    pub fn is_shared(&self) -> bool {
        !self.is_of_paths() || !(self.scope.site.is_some() || self.each.contains(&Dimension::Site))
    }

    /// What makes it the same limit, of another rate perhaps: its buckets go on.
    pub fn identity(&self) -> (Counted, &Scope, &[Dimension]) {
        (self.counted, &self.scope, &self.each)
    }

    /// The name of the subject's bucket among those of this row: what is not 0xFF separates values, which are UTF-8.
    pub fn key(&self, place: u32, subject: &Subject<'_>, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(&place.to_le_bytes());
        for dimension in &self.each {
            let value = match dimension {
                Dimension::Provider => subject.provider,
                Dimension::Site => subject.site,
                Dimension::Domain => subject.domain,
                Dimension::Source => subject.source,
                Dimension::Pool => subject.pool,
                Dimension::Tenant => subject.tenant,
                Dimension::Class => subject.class.as_str(),
                Dimension::Campaign => subject.campaign,
            };
            key.extend_from_slice(value.as_bytes());
            key.push(0xFF);
        }
    }
}
