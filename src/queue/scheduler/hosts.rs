//! The receiving hosts (what stands right of the `@`), and where their mail goes.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{HostId, Item, SiteId, Verdict};
use crate::mail::AddressHost;
use crate::routing::{PoolId, Route};

/// Hosts remembered with their routes though no mail waits for them.
const HOSTS_KEPT: usize = 65_536;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    ids: HashMap<AddressHost, HostId>,
    hosts: slab::Slab<HostState>,
}

#[derive(Debug)]
pub(super) struct HostState {
    pub(super) host: AddressHost,
    /// Items that name it.
    items: usize,
    /// Sites where they stood in line, some of which may be gone.
    stood: SmallVec<[SiteId; 2]>,
    pub(super) route: HostRoute,
}

/// What is known of the way to a host. Times are milliseconds on the queue's clock.
#[derive(Debug)]
pub(super) enum HostRoute {
    Unknown,
    /// A look-up is under way; these wait for it.
    Resolving(Vec<Item>),
    /// The way, and the sites it leads to from the pools that have sent there; good until then.
    Known {
        route: Arc<Route>,
        sites: SmallVec<[(PoolId, SiteId); 1]>,
        until: u64,
    },
    /// Remembered until then, so that a dead name costs one probe.
    Dead(Verdict, u64),
}

impl HostRoute {
    /// The sites it is known to lead to.
    fn sites(&self) -> &[(PoolId, SiteId)] {
        match self {
            HostRoute::Known { sites, .. } => sites,
            HostRoute::Unknown | HostRoute::Resolving(_) | HostRoute::Dead(..) => &[],
        }
    }

    /// The way, if it is known.
    pub(super) fn known(&self) -> Option<&Route> {
        match self {
            HostRoute::Known { route, .. } => Some(route),
            HostRoute::Unknown | HostRoute::Resolving(_) | HostRoute::Dead(..) => None,
        }
    }

    /// Whether it is known to lead to that site.
    pub(super) fn leads_to(&self, id: SiteId) -> bool {
        self.sites().iter().any(|(_, site)| *site == id)
    }
}

impl HostState {
    /// Mail for it stands in line at that site.
    pub(super) fn stands_at(&mut self, site: SiteId) {
        if !self.stood.contains(&site) {
            self.stood.push(site);
        }
    }
}

impl Hosts {
    /// The host's place, for one more item.
    pub(super) fn take(&mut self, host: &AddressHost) -> HostId {
        let id = match self.ids.get(host) {
            Some(id) => *id,
            None => {
                let state =
                    HostState { host: host.clone(), items: 0, stood: SmallVec::new(), route: HostRoute::Unknown };
                let id = self.hosts.insert(state) as HostId;
                self.ids.insert(host.clone(), id);
                id
            }
        };
        self.share(id);
        id
    }

    /// One more item names it.
    pub(super) fn share(&mut self, id: HostId) {
        self.get_mut(id).items += 1;
    }

    /// One item less names it.
    pub(super) fn release(&mut self, id: HostId) {
        let full = self.ids.len() > HOSTS_KEPT;
        let host = self.get_mut(id);
        host.items -= 1;
        if host.items == 0 {
            host.stood.clear();
        }
        if host.items == 0 && full && !matches!(host.route, HostRoute::Resolving(_)) {
            let host = self.hosts.remove(id as usize);
            self.ids.remove(&host.host);
        }
    }

    /// Its number, if it is known.
    pub(super) fn id_of(&self, host: &AddressHost) -> Option<HostId> {
        self.ids.get(host).copied()
    }

    /// A host that an item names.
    pub(super) fn get(&self, id: HostId) -> &HostState {
        &self.hosts[id as usize]
    }

    /// A host that an item names.
    pub(super) fn get_mut(&mut self, id: HostId) -> &mut HostState {
        &mut self.hosts[id as usize]
    }

    /// The sites where mail for a host may stand in line.
    pub(super) fn stood_at(&self, host: &AddressHost) -> &[SiteId] {
        self.ids.get(host).map_or(&[], |id| &self.hosts[*id as usize].stood)
    }

    /// The way to a host, if it is known.
    pub(super) fn route_of(&self, host: &AddressHost) -> Option<&Route> {
        self.hosts[*self.ids.get(host)? as usize].route.known()
    }

    /// Takes out of those that wait for a look-up what `select` picks.
    pub(super) fn extract_parked(&mut self, select: impl Fn(&Item, &HostState) -> bool) -> Vec<Item> {
        let mut taken = Vec::new();
        for (_, host) in &mut self.hosts {
            if let HostRoute::Resolving(parked) = &mut host.route {
                let all = std::mem::take(parked);
                let (picked, rest): (Vec<Item>, Vec<Item>) = all.into_iter().partition(|item| select(item, host));
                host.route = HostRoute::Resolving(rest);
                taken.extend(picked);
            }
        }
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// The sites that hosts are known to lead to.
    pub(super) fn sites(&self) -> impl Iterator<Item = SiteId> + '_ {
        self.hosts.iter().flat_map(|(_, host)| host.route.sites().iter().map(|(_, site)| *site))
    }

    /// Every host is looked up again before its next mail goes out.
    pub(super) fn forget_routes(&mut self) {
        for (_, host) in &mut self.hosts {
            if !matches!(host.route, HostRoute::Resolving(_)) {
                host.route = HostRoute::Unknown;
            }
        }
    }
}
