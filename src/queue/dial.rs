//! From a route to a connection: the first host that answers.

use std::net::IpAddr;

use rand::RngExt;

use super::{Parts, Queue};
use crate::delivery::{Connection, Target};
use crate::mail::{Blame, EnhancedCode, Failure, Origin};
use crate::routing::{Hop, NoRoute, Route, SourceId};

/// Why there is no connection to a site.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// No host answers; another time one may.
    Now(Failure),
    /// DNS says for certain of every host that it has no address mail can be sent to.
    Ever(Failure),
}

impl NoConnection {
    /// What two hosts of a site say together: only when both say never is it never.
    fn and(self, other: NoConnection) -> NoConnection {
        match (self, other) {
            (NoConnection::Now(first), NoConnection::Ever(_)) => NoConnection::Now(first),
            (NoConnection::Now(_) | NoConnection::Ever(_), other) => other,
        }
    }
}

impl Queue {
    /// The first host that answers, in order of preference (RFC 5321 §5.1). A host known to be dead is passed over.
    pub(super) async fn dial(
        &self,
        parts: &Parts,
        route: &Route,
        source: SourceId,
    ) -> Result<Connection, NoConnection> {
        let order = {
            let mut chance = self.chance.lock().expect("no code panics under this lock");
            route.order(&mut *chance)
        };
        let mut failed: Option<NoConnection> = None;
        for hop in order.into_iter().map(|index| &route.hops[index]) {
            match self.dial_hop(parts, route, hop, source).await {
                Ok(connection) => return Ok(connection),
                Err(now) => {
                    failed = Some(match failed {
                        Some(before) => before.and(now),
                        None => now,
                    })
                }
            }
        }
        let none = || NoConnection::Now(Failure::ours(Blame::Site, EnhancedCode(4, 4, 4), "the site has no hosts"));
        Err(failed.unwrap_or_else(none))
    }

    async fn dial_hop(
        &self,
        parts: &Parts,
        route: &Route,
        hop: &Hop,
        source: SourceId,
    ) -> Result<Connection, NoConnection> {
        let addresses = match parts.router.addresses(route, hop).await {
            Ok(addresses) => addresses,
            Err(NoRoute::Later { failure, .. }) => return Err(NoConnection::Now(failure)),
            Err(NoRoute::Never { failure, .. }) => return Err(NoConnection::Ever(failure)),
        };
        let mut last = None;
        for address in addresses {
            if let Some((_, reason)) = parts.client.unreachable(address, self.clock.instant()) {
                last.get_or_insert_with(|| {
                    let text = format!("{} [{}] did not answer lately: {reason}", hop.host, address.ip());
                    Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), text)
                });
                continue;
            }
            let target = Target {
                host: hop.host.to_string(),
                address,
                source: self.address_of(parts, source, address.ip()),
                tls: route.tls,
                credentials: route.credentials.clone(),
            };
            match parts.client.connect(&target).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tracing::debug!(site = %route.site, host = %hop.host, %address, error = %error, "no session");
                    last = Some(for_now(error.failure));
                }
            }
        }
        let none = || Failure::ours(Blame::Site, EnhancedCode(4, 4, 4), "the host has no addresses");
        Err(NoConnection::Now(last.unwrap_or_else(none)))
    }

    /// One of the source's addresses of the same family, at random; `None`: the system chooses.
    fn address_of(&self, parts: &Parts, source: SourceId, peer: IpAddr) -> Option<IpAddr> {
        let addresses = &parts.egress.source(source).addresses;
        let fitting = addresses.iter().filter(|source| source.is_ipv4() == peer.is_ipv4());
        let fitting: Vec<_> = fitting.collect();
        if fitting.is_empty() {
            return None;
        }
        let chance = &mut *self.chance.lock().expect("no code panics under this lock");
        Some(*fitting[chance.random_range(0..fitting.len())])
    }
}

/// A host's refusal to talk is never a verdict on a message: whatever it said, another attempt follows.
fn for_now(mut failure: Failure) -> Failure {
    if failure.reply.is_permanent() {
        let enhanced = failure.reply.enhanced;
        failure.reply.enhanced = enhanced.map(|EnhancedCode(_, subject, detail)| EnhancedCode(4, subject, detail));
        if failure.origin == Origin::Local {
            failure.reply.code = 451;
        }
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_when_every_host_says_never_is_it_never() {
        let now = || NoConnection::Now(Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer"));
        let ever = || NoConnection::Ever(Failure::ours(Blame::Site, EnhancedCode(5, 4, 4), "no address"));
        assert!(matches!(ever().and(ever()), NoConnection::Ever(_)));
        for mixed in [now().and(ever()), ever().and(now()), now().and(now())] {
            assert!(matches!(mixed, NoConnection::Now(_)));
        }
    }
}
