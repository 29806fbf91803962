//! From a route to a connection: the first host that answers.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Parts, Queue};
use crate::delivery::{Connection, Local, Stage, Target};
use crate::mail::{Blame, EnhancedCode, Failure, Origin};
use crate::routing::{Hop, NoAddress, NoRoute, Route, Source, SourceId};

/// Why there is no connection to a site.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// No host answers; another time one may.
    Now(Failure),
    /// DNS says for certain of every host that it has no address mail can be sent to.
    Ever(Failure),
    /// Nothing can be sent from this source at present, to whatever site.
    Source(Failure),
}

impl NoConnection {
    /// What two hosts of a site say together: only when both say never is it never.
    fn and(self, other: NoConnection) -> NoConnection {
        match (self, other) {
            (NoConnection::Now(first), NoConnection::Ever(_)) => NoConnection::Now(first),
            (_, other) => other,
        }
    }
}

impl Queue {
    /// The first host that answers, in order of preference (RFC 5321 §5.1). A host known to be dead is passed over.
    pub(super) async fn dial(
        self: &Arc<Queue>,
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
                Err(NoConnection::Source(failure)) => return Err(NoConnection::Source(failure)),
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
        self: &Arc<Queue>,
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
        let from = parts.egress.source(source);
        let mut last = None;
        for address in addresses {
            let ours = match self.address_of(from, address.ip()) {
                Ok(ours) => ours,
                Err(why) if from.is_out() => return Err(NoConnection::Source(not_ours(why.to_string()))),
                // Of the receiver's other addresses one may fit.
                Err(why) => {
                    last.get_or_insert_with(|| not_ours(format!("{}: {why}", hop.host)));
                    continue;
                }
            };
            if let Some((_, reason)) = parts.client.unreachable(&from.name, address, self.clock.instant()) {
                last.get_or_insert_with(|| {
                    let text = format!("{} [{}] did not answer lately: {reason}", hop.host, address.ip());
                    Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), text)
                });
                continue;
            }
            let target = Target {
                host: hop.host.to_string(),
                address,
                local: Local {
                    source: Arc::clone(&from.name),
                    address: ours,
                    ehlo: from.ehlo.clone(),
                    proxy: from.proxy.clone(),
                },
                tls: route.tls,
                credentials: route.credentials.clone(),
            };
            match parts.client.connect(&target).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tracing::debug!(
                        site = %route.site, source = %from.name, host = %hop.host, %address, error = %error, "no session");
                    if error.stage == Stage::Source {
                        self.source_lost(from, ours, &error.failure.reply.text);
                        if from.is_out() {
                            return Err(NoConnection::Source(error.failure));
                        }
                    }
                    last = Some(for_now(error.failure));
                }
            }
        }
        let none = || Failure::ours(Blame::Site, EnhancedCode(4, 4, 4), "the host has no addresses");
        Err(NoConnection::Now(last.unwrap_or_else(none)))
    }

    fn address_of(&self, source: &Source, peer: IpAddr) -> Result<Option<IpAddr>, NoAddress> {
        source.address_for(peer, &mut *self.chance.lock().expect("no code panics under this lock"))
    }
}

fn not_ours(text: String) -> Failure {
    Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 0), text)
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
