//! Sources and pools: by whose address mail leaves.
//!
//! A stream belongs to one pool: that of the first `[[egress]]` that matches, else `default`. A pool has sources, each
//! with a weight. Without any configuration there is one pool with one source, both called `default`, whose addresses
//! are those of `delivery.source_addresses`, or whatever the system chooses.
//!
//! The table does not change; which sources are fit to send does ([`Source`]). With a new configuration comes a new table,
//! where names keep their places.

mod source;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub use source::{NoAddress, Source};

use super::RoutingError;
use crate::config::{Config, DEFAULT, Scope};
use crate::mail::Stream;

/// Place of a source in [`Egress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u16);

/// Place of a pool in [`Egress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

/// All sources, all pools, and which stream leaves by which. One for each configuration in force.
#[derive(Debug)]
pub struct Egress {
    sources: Vec<Source>,
    pools: Vec<Pool>,
    rules: Vec<(Scope, PoolId)>,
    default: PoolId,
}

/// Sources that share mail.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// For events, metrics, operators.
    pub name: Arc<str>,
    /// Its sources with their weights, at least 1 each; empty if it is no longer configured.
    pub sources: Vec<(SourceId, u32)>,
}

impl Egress {
    /// From checked configuration; reads the password files it names, blocking. Names that `before` knows keep their
    /// places; what is no longer configured keeps an empty one.
    ///
    /// # Errors
    /// A password file cannot be read, or a name means nothing.
    pub fn new(config: &Config, before: Option<&Egress>) -> Result<Egress, RoutingError> {
        let read = config.source.iter().map(Source::read).collect::<Result<Vec<_>, _>>()?;
        let pools = pools_of(config);
        let mut egress = Egress::places(before);
        for source in read {
            egress.put_source(source);
        }
        if pools.iter().any(|(_, sources)| sources.contains_key(DEFAULT)) {
            egress.put_source(Source::new(DEFAULT, config.delivery.source_addresses.clone()));
        }
        for (name, sources) in pools {
            let place = |(source, weight): (&String, &u32)| match egress.source_named(source) {
                Some(id) => Ok((id, (*weight).max(1))),
                None => Err(RoutingError::Source(source.clone())),
            };
            let sources: Vec<_> = sources.iter().map(place).collect::<Result<_, _>>()?;
            if sources.is_empty() {
                return Err(RoutingError::Pool(name.into()));
            }
            egress.put_pool(Pool { name: name.into(), sources });
        }
        for rule in &config.egress {
            let pool = egress.pool_named(&rule.pool).ok_or_else(|| RoutingError::Pool(rule.pool.clone()))?;
            egress.rules.push((rule.scope.clone(), pool));
        }
        egress.default = egress.pool_named(DEFAULT).expect("there is always one");
        Ok(egress)
    }

    /// The places of `before`, all empty.
    fn places(before: Option<&Egress>) -> Egress {
        let sources = before.into_iter().flat_map(|egress| &egress.sources);
        let pools = before.into_iter().flat_map(|egress| &egress.pools);
        Egress {
            sources: sources.map(|source| Source::new(&source.name, Vec::new())).collect(),
            pools: pools.map(|pool| Pool { name: Arc::clone(&pool.name), sources: Vec::new() }).collect(),
            rules: Vec::new(),
            default: PoolId(0),
        }
    }

    fn put_source(&mut self, source: Source) {
        match self.source_named(&source.name) {
            Some(id) => self.sources[usize::from(id.0)] = source,
            None => self.sources.push(source),
        }
    }

    fn put_pool(&mut self, pool: Pool) {
        match self.pools.iter().position(|other| other.name == pool.name) {
            Some(place) => self.pools[place] = pool,
            None => self.pools.push(pool),
        }
    }

    /// The pool that a stream's mail leaves by.
    pub fn pool_of(&self, stream: &Stream) -> PoolId {
        let rule = self.rules.iter().find(|(scope, _)| scope.matches_stream(stream));
        rule.map_or(self.default, |(_, pool)| *pool)
    }

    /// A pool.
    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[usize::from(id.0)]
    }

    /// The name of a pool.
    pub fn pool_name(&self, id: PoolId) -> &str {
        &self.pool(id).name
    }

    /// A pool's sources with their weights; empty if it is no longer configured.
    pub fn sources_of(&self, id: PoolId) -> &[(SourceId, u32)] {
        &self.pool(id).sources
    }

    /// A source.
    pub fn source(&self, id: SourceId) -> &Source {
        &self.sources[usize::from(id.0)]
    }

    /// The source of that name.
    pub fn source_named(&self, name: &str) -> Option<SourceId> {
        self.sources.iter().position(|source| *source.name == *name).map(|place| SourceId(place as u16))
    }

    /// The pool of that name, if it is configured.
    pub fn pool_named(&self, name: &str) -> Option<PoolId> {
        let named = |pool: &Pool| *pool.name == *name && !pool.sources.is_empty();
        self.pools.iter().position(named).map(|place| PoolId(place as u16))
    }

    /// The sources that are configured.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        let used: HashSet<SourceId> = self.pools.iter().flat_map(|pool| &pool.sources).map(|(id, _)| *id).collect();
        let all = self.sources.iter().enumerate().map(|(place, source)| (SourceId(place as u16), source));
        all.filter(move |(id, _)| used.contains(id))
    }

    /// The pools that are configured.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        let all = self.pools.iter().enumerate().map(|(place, pool)| (PoolId(place as u16), pool));
        all.filter(|(_, pool)| !pool.sources.is_empty())
    }
}

impl Default for Egress {
    fn default() -> Egress {
        Egress::new(&Config::default(), None).expect("nothing to read")
    }
}

/// The pools with the sources of each, the pool `default` among them: if it is not configured, it has what no pool
/// lists, or if nothing is left over a source of its own.
fn pools_of(config: &Config) -> Vec<(&str, Cow<'_, BTreeMap<String, u32>>)> {
    let mut pools: Vec<_> = config.pool.iter().map(|pool| (pool.name.as_str(), Cow::Borrowed(&pool.sources))).collect();
    if !config.pool.iter().any(|pool| pool.name == DEFAULT) {
        let listed: HashSet<&String> = config.pool.iter().flat_map(|pool| pool.sources.keys()).collect();
        let names = config.source.iter().map(|source| &source.name);
        let mut left_over: BTreeMap<String, u32> =
            names.filter(|name| !listed.contains(name)).map(|name| (name.clone(), 1)).collect();
        if left_over.is_empty() {
            left_over.insert(DEFAULT.into(), 1);
        }
        pools.push((DEFAULT, Cow::Owned(left_over)));
    }
    pools
}
