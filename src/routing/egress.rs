//! Which of our addresses mail leaves by: sources, and the pools they form.

use std::net::IpAddr;

use crate::config::DeliveryConfig;
use crate::mail::Stream;

/// Place of a source in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// Place of a pool in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u16);

/// Who we are towards receivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name, as metrics, events and limits call it.
    pub name: String,
    /// Addresses to send from; of a family that is not there, the system chooses.
    pub addresses: Vec<IpAddr>,
}

/// The sources and pools of the configuration in force. Places stay what they are over a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    sources: Vec<Source>,
    pools: Vec<Pool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pool {
    name: String,
    sources: Vec<SourceId>,
}

impl Egress {
    /// One pool of one source, both called `default`.
    pub fn new(delivery: &DeliveryConfig) -> Egress {
        let source = Source { name: "default".into(), addresses: delivery.source_addresses.clone() };
        Egress { sources: vec![source], pools: vec![Pool { name: "default".into(), sources: vec![SourceId(0)] }] }
    }

    /// The pool that sends a stream.
    pub fn pool_of(&self, _stream: &Stream) -> PoolId {
        PoolId(0)
    }

    /// The name of a pool.
    pub fn pool_name(&self, pool: PoolId) -> &str {
        &self.pools[usize::from(pool.0)].name
    }

    /// The sources of a pool; never none.
    pub fn sources_of(&self, pool: PoolId) -> &[SourceId] {
        &self.pools[usize::from(pool.0)].sources
    }

    /// A source.
    pub fn source(&self, id: SourceId) -> &Source {
        &self.sources[usize::from(id.0)]
    }
}

impl Default for Egress {
    fn default() -> Egress {
        Egress::new(&DeliveryConfig::default())
    }
}
