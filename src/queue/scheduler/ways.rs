//! From a host to its site: by a way that is known, or after a look-up; or to nowhere.

use std::sync::Arc;

use smallvec::SmallVec;

use super::hosts::HostRoute;
use super::{Action, HostId, Item, Scheduler, SiteId, Verdict};
use crate::routing::{PoolId, Route};

impl Scheduler {
    pub(super) fn forward(&mut self, now: u64, item: Item, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get(item.message) else { return self.drop_item(&item) };
        let pool = self.streams.pool(message.stream);
        let host = self.hosts.get_mut(item.host);
        match &mut host.route {
            HostRoute::Resolving(parked) => parked.push(item),
            HostRoute::Known { route, sites, until } if now < *until => {
                let site = match sites.iter().find(|(of, _)| *of == pool) {
                    Some((_, site)) => *site,
                    None => {
                        let route = Arc::clone(route);
                        self.new_way(now, item.host, &route, pool)
                    }
                };
                self.enqueue(now, site, item, false, actions);
            }
            HostRoute::Dead(verdict, until) if now < *until => {
                let verdict = verdict.clone();
                self.turn_away(vec![item], verdict, actions);
            }
            HostRoute::Unknown | HostRoute::Known { .. } | HostRoute::Dead(..) => {
                actions.push(Action::Resolve(item.host, host.host.clone()));
                host.route = HostRoute::Resolving(vec![item]);
            }
        }
    }

    /// The site of a pool's mail to a host, from now on known there.
    pub(super) fn new_way(&mut self, now: u64, host: HostId, route: &Arc<Route>, pool: PoolId) -> SiteId {
        let site = self.site_id(now, route, pool);
        if let HostRoute::Known { sites, .. } = &mut self.hosts.get_mut(host).route {
            sites.push((pool, site));
        }
        site
    }

    /// The look-up for `host` ended: a site with its route, or why there is none, each good until the time given.
    pub(in crate::queue) fn routed(
        &mut self,
        now: u64,
        host: HostId,
        found: Result<Arc<Route>, Verdict>,
        until: u64,
        actions: &mut Vec<Action>,
    ) {
        let route = match &found {
            Ok(route) => {
                HostRoute::Known { route: Arc::clone(route), sites: SmallVec::new(), until: until.max(now + 1) }
            }
            Err(verdict) => HostRoute::Dead(verdict.clone(), until.max(now + 1)),
        };
        let before = std::mem::replace(&mut self.hosts.get_mut(host).route, route);
        let HostRoute::Resolving(parked) = before else { return };
        match found {
            Ok(_) => parked.into_iter().for_each(|item| self.forward(now, item, actions)),
            Err(verdict) => self.turn_away(parked, verdict, actions),
        }
    }

    /// Has items settled that will not be attempted now. Until then they count as in flight: only one of that settlement
    /// and the message's expiry may end a recipient.
    pub(super) fn turn_away(&mut self, items: Vec<Item>, verdict: Verdict, actions: &mut Vec<Action>) {
        for item in &items {
            self.in_flight.entry(item.message).or_default().extend_from_slice(&item.recipients);
        }
        actions.push(Action::Settle(items, verdict));
    }

    /// These are no longer in flight; call before their outcomes are settled.
    pub(in crate::queue) fn landed(&mut self, items: &[Item]) {
        let Some(first) = items.first() else { return };
        let Some(flying) = self.in_flight.get_mut(&first.message) else { return };
        flying.retain(|r| !items.iter().any(|item| item.recipients.contains(&*r)));
        if flying.is_empty() {
            self.in_flight.remove(&first.message);
        }
    }

    /// Every host is looked up again before its next mail goes out, what stands in line included: the configuration
    /// changed, or an operator wants it.
    pub(in crate::queue) fn forget_routes(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.hosts.forget_routes();
        let ready: Vec<Item> = self.sites.iter_mut().flat_map(|(_, site)| site.ready.drain()).collect();
        ready.into_iter().for_each(|item| self.forward(now, item, actions));
    }
}
