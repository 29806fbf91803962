//! Sources and pools: by whose address mail leaves.
//!
//! A stream belongs to one pool: that of the first `[[egress]]` that matches, else `default`. A pool has sources, each
//! with a weight. Without any configuration there is one pool with one source, both called `default`, whose addresses
//! are those of `delivery.source_addresses`, or whatever the system chooses.
//!
//! The table does not change; which sources are fit to send does ([`Source`]).

mod source;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

pub use source::{NoAddress, Source};

use super::RoutingError;
use crate::config::{Config, DEFAULT, EgressConfig};
use crate::mail::{Class, Stream};

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
    rules: Vec<Rule>,
    default: PoolId,
}

/// Sources that share mail.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// For events, metrics, operators.
    pub name: Arc<str>,
    /// Its sources with their weights, at least 1 each; never empty.
    pub sources: Vec<(SourceId, u32)>,
}

/// One `[[egress]]`, read.
#[derive(Debug)]
struct Rule {
    tenant: Option<Pattern>,
    class: Option<Class>,
    campaign: Option<Pattern>,
    pool: PoolId,
}

/// A name, or what names begin with.
#[derive(Debug)]
enum Pattern {
    Whole(Box<str>),
    Start(Box<str>),
}

impl Egress {
    /// From checked configuration; reads the password files it names, blocking.
    ///
    /// # Errors
    /// A password file cannot be read, or a name means nothing.
    pub fn new(config: &Config) -> Result<Egress, RoutingError> {
        let mut sources = config.source.iter().map(Source::read).collect::<Result<Vec<_>, _>>()?;
        let place = |name: &str| {
            let place = config.source.iter().position(|source| source.name == name);
            place.map(|place| SourceId(place as u16)).ok_or_else(|| RoutingError::Source(name.into()))
        };
        let mut pools = Vec::with_capacity(config.pool.len() + 1);
        for pool in &config.pool {
            let weighted = pool.sources.iter().map(|(name, weight)| Ok((place(name)?, (*weight).max(1))));
            let sources: Vec<_> = weighted.collect::<Result<_, RoutingError>>()?;
            if sources.is_empty() {
                return Err(RoutingError::Pool(pool.name.clone()));
            }
            pools.push(Pool { name: pool.name.as_str().into(), sources });
        }
        if !config.pool.iter().any(|pool| pool.name == DEFAULT) {
            pools.push(default_pool(config, &mut sources));
        }
        let named = |name: &str| {
            let place = pools.iter().position(|pool| &*pool.name == name);
            place.map(|place| PoolId(place as u16)).ok_or_else(|| RoutingError::Pool(name.into()))
        };
        let rules = config.egress.iter().map(|rule| Ok(Rule::read(rule, named(&rule.pool)?)));
        let rules = rules.collect::<Result<_, RoutingError>>()?;
        let default = named(DEFAULT)?;
        Ok(Egress { sources, pools, rules, default })
    }

    /// The pool that a stream's mail leaves by.
    pub fn pool_of(&self, stream: &Stream) -> PoolId {
        let rule = self.rules.iter().find(|rule| rule.matches(stream));
        rule.map_or(self.default, |rule| rule.pool)
    }

    /// A pool.
    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[usize::from(id.0)]
    }

    /// A pool's sources with their weights; never empty.
    pub fn sources_of(&self, id: PoolId) -> &[(SourceId, u32)] {
        &self.pool(id).sources
    }

    /// A source.
    pub fn source(&self, id: SourceId) -> &Source {
        &self.sources[usize::from(id.0)]
    }

    /// All sources.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.sources.iter().enumerate().map(|(place, source)| (SourceId(place as u16), source))
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.iter().enumerate().map(|(place, pool)| (PoolId(place as u16), pool))
    }
}

/// What no pool lists; or, if nothing is left over, a source of its own.
fn default_pool(config: &Config, sources: &mut Vec<Source>) -> Pool {
    let listed: HashSet<&str> = config.pool.iter().flat_map(|pool| pool.sources.keys().map(String::as_str)).collect();
    let left_over = config.source.iter().enumerate().filter(|(_, source)| !listed.contains(source.name.as_str()));
    let mut pool: Vec<_> = left_over.map(|(place, _)| (SourceId(place as u16), 1)).collect();
    if pool.is_empty() {
        pool.push((SourceId(sources.len() as u16), 1));
        sources.push(Source::new(DEFAULT, config.delivery.source_addresses.clone()));
    }
    Pool { name: DEFAULT.into(), sources: pool }
}

impl Rule {
    fn read(config: &EgressConfig, pool: PoolId) -> Rule {
        let pattern = |text: &Option<String>| text.as_deref().map(Pattern::read);
        Rule { tenant: pattern(&config.tenant), class: config.class, campaign: pattern(&config.campaign), pool }
    }

    fn matches(&self, stream: &Stream) -> bool {
        self.class.is_none_or(|class| class == stream.class)
            && self.tenant.as_ref().is_none_or(|tenant| tenant.matches(&stream.tenant))
            && self.campaign.as_ref().is_none_or(|campaign| campaign.matches(&stream.campaign))
    }
}

impl Pattern {
    fn read(text: &str) -> Pattern {
        match text.strip_suffix('*') {
            Some(start) => Pattern::Start(start.into()),
            None => Pattern::Whole(text.into()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Whole(whole) => **whole == *name,
            Pattern::Start(start) => name.starts_with(&**start),
        }
    }
}
