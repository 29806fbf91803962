//! Orders, the reputation brake and warm-up, as the scheduler carries them out.

use std::collections::BTreeMap;

use super::held::{ANY, domain_of, path_subject};
use super::hosts::HostState;
use super::messages::{MessageState, Messages};
use super::streams::Streams;
use super::{Action, Item, PathId, Scheduler, SiteId, TakenBack};
use crate::config::{Scope, Subject};
use crate::mail::{AddressHost, MessageId, Stream};
use crate::queue::site::SiteState;
use crate::routing::{Egress, PoolId, Route, Site, SourceId};
use crate::shaping::orders::{Deed, Order, OrderId};
use crate::shaping::steering::{Learned, Steering, SteeringPolicy};
use crate::shaping::{Gate, InForce};

impl Scheduler {
    /// Orders, brake and warm-up.
    pub(in crate::queue) fn steering(&mut self) -> &mut Steering {
        &mut self.shaper.steering
    }

    /// Puts another configuration of brake and warm-up in force.
    pub(in crate::queue) fn set_steering(&mut self, now: u64, policy: SteeringPolicy, actions: &mut Vec<Action>) {
        self.shaper.steering.set_policy(policy);
        self.look_everywhere(now, actions);
    }

    /// Puts an order in force at once; the name of the one it takes the place of.
    pub(in crate::queue) fn order(&mut self, now: u64, order: Order, actions: &mut Vec<Action>) -> Option<OrderId> {
        let steering = &mut self.shaper.steering;
        let about = order.clone();
        let until = steering.instant(order.until);
        let replaced = steering.orders.put(order, until);
        // A pause is met by whoever looks next; nobody need be woken for it.
        if about.deed != Deed::Pause || about.scope.domain.is_some() {
            self.reconsider(now, &[about], actions);
        }
        replaced
    }

    /// Puts orders in force that were given before the last stop, all at once.
    pub(in crate::queue) fn recall_orders(&mut self, now: u64, orders: Vec<Order>, actions: &mut Vec<Action>) {
        for order in &orders {
            let steering = &mut self.shaper.steering;
            let until = steering.instant(order.until);
            steering.orders.put(order.clone(), until);
        }
        self.reconsider(now, &orders, actions);
    }

    /// Takes an order back: what it held goes on at once.
    pub(in crate::queue) fn take_back_order(
        &mut self,
        now: u64,
        id: OrderId,
        actions: &mut Vec<Action>,
    ) -> Option<Order> {
        let order = self.shaper.steering.orders.take_back(id)?;
        self.shaper.steering.ended(&order);
        self.reconsider(now, std::slice::from_ref(&order), actions);
        Some(order)
    }

    /// Takes out the orders whose time is over.
    pub(super) fn end_orders(&mut self, now: u64, actions: &mut Vec<Action>) {
        let ended = self.shaper.steering.orders.ended(now);
        if ended.is_empty() {
            return;
        }
        ended.iter().for_each(|order| self.shaper.steering.ended(order));
        self.reconsider(now, &ended, actions);
        actions.extend(ended.into_iter().map(Action::OrderEnded));
    }

    /// These orders were given or are over: what they hold, or held, is looked at again.
    fn reconsider(&mut self, now: u64, orders: &[Order], actions: &mut Vec<Action>) {
        let paced = orders.iter().any(|order| matches!(order.deed, Deed::Pace { .. }));
        if paced {
            self.shaper.add_paces(now);
        }
        // Other domains than before are told apart.
        for order in orders.iter().filter(|order| order.scope.domain.is_some()) {
            for id in self.sites_about(&order.scope) {
                let items = self.sites[id as usize].ready.drain();
                items.into_iter().for_each(|item| self.stand_in_line(id, item));
            }
        }
        if paced {
            return self.rows_changed(now, actions);
        }
        match orders {
            [] => {}
            [only] => self.sites_about(&only.scope).into_iter().for_each(|id| self.look_at_all(now, id, actions)),
            _ => self.look_everywhere(now, actions),
        }
    }

    /// The sites where mail may stand that `scope` names. One domain's mail is at one site or two, of a hundred thousand.
    fn sites_about(&self, scope: &Scope) -> Vec<SiteId> {
        let site_named = |site: &SiteState| {
            let named = |wanted: &Option<String>, name: &str| {
                wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
            };
            named(&scope.provider, site.route.provider)
                && named(&scope.site, site.route.site.as_str())
                && named(&scope.pool, self.egress.pool_name(site.pool))
        };
        match scope.domain.as_ref().and_then(|domain| domain.parse().ok()) {
            Some(domain) => {
                let ids = self.hosts.stood_at(&AddressHost::Domain(domain)).iter().copied();
                ids.filter(|id| self.sites.get(*id as usize).is_some_and(site_named)).collect()
            }
            None => self.sites.iter().filter(|(_, site)| site_named(site)).map(|(id, _)| id as SiteId).collect(),
        }
    }

    /// Puts an item behind the others of its lane.
    pub(super) fn stand_in_line(&mut self, id: SiteId, item: Item) {
        let Some(message) = self.messages.get(item.message) else { return self.drop_item(&item) };
        self.hosts.get_mut(item.host).stands_at(id);
        let (stream, class) = (message.stream, self.streams.class(message.stream));
        let lane = self.lane_of(id, &item, stream);
        self.sites[id as usize].ready.push(class, lane, item);
    }

    /// Sets lanes aside whose mail is held by an order, until one is found that may go: nobody dials for what may not.
    pub(super) fn set_paused_aside(&mut self, now: u64, id: SiteId) {
        if self.shaper.steering.orders.is_empty() {
            return;
        }
        loop {
            let site = &mut self.sites[id as usize];
            let Some((lane, first)) = site.ready.turn(None) else { return };
            let message = self.messages.get(first.message).filter(|message| !message.is_unwanted());
            let Some(message) = message else { return };
            let stream = self.streams.get(message.stream);
            let domain = domain_of(&self.hosts.get(first.host).host);
            let path = path_subject(&site.route, &self.egress, site.pool, SourceId(0));
            let (tenant, campaign) = (&stream.tenant, &stream.campaign);
            let mail = Subject { source: "", domain: &domain, tenant, class: stream.class, campaign, ..path };
            match self.shaper.steering.gate_mail(now, &mail) {
                Gate::Go | Gate::Behind(_) => return,
                later @ Gate::Later(_) => {
                    drop(domain);
                    self.set_aside(now, id, lane, later, ANY);
                }
            }
        }
    }

    /// Takes from the warm-up of a path what a batch needs. It is not given back: a connection that broke may have delivered.
    pub(super) fn take_warmup(&mut self, now: u64, path: PathId, recipients: usize) {
        if !self.shaper.steering.warmup.is_empty() {
            let site = &self.sites[path.site as usize];
            let subject = path_subject(&site.route, &self.egress, site.pool, path.source);
            self.shaper.steering.take(now, &subject, recipients);
        }
    }

    /// What an attempt by a source to a provider taught of a stream, in recipients.
    pub(in crate::queue) fn learn(
        &mut self,
        now: u64,
        stream: &Stream,
        (source, provider): (&str, &str),
        learned: &[(Learned, u32)],
        actions: &mut Vec<Action>,
    ) {
        for (what, recipients) in learned.iter().filter(|(_, recipients)| *recipients > 0) {
            let braked = self.shaper.steering.learn(now, stream, (source, provider), *what, *recipients);
            actions.extend(braked.into_iter().map(Action::Braked));
        }
    }

    /// So many recipients of a stream complained.
    pub(in crate::queue) fn complained(
        &mut self,
        now: u64,
        stream: &Stream,
        path: (Option<&str>, &str),
        recipients: u32,
        actions: &mut Vec<Action>,
    ) {
        let braked = self.shaper.steering.complained(now, stream, path, recipients);
        actions.extend(braked.into_iter().map(Action::Braked));
    }

    /// So many recipients whose mail had been taken turned out to be unknown.
    pub(in crate::queue) fn returned(
        &mut self,
        now: u64,
        stream: &Stream,
        provider: &str,
        recipients: u32,
        actions: &mut Vec<Action>,
    ) {
        let braked = self.shaper.steering.returned(now, stream, provider, recipients);
        actions.extend(braked.into_iter().map(Action::Braked));
    }

    /// The limits in force for a subject.
    pub(in crate::queue) fn limits_of(&self, now: u64, subject: &Subject<'_>) -> Vec<InForce<'_>> {
        self.shaper.limits.in_force(now, subject)
    }

    /// The site of a pool's mail, if it is known.
    pub(in crate::queue) fn known_site(&self, site: &Site, pool: PoolId) -> Option<SiteId> {
        self.site_ids.get(&(site.clone(), pool)).copied()
    }

    /// A subject for what is known of mail of a stream to a host, and of the way it takes if that is known; without a source.
    fn subject<'a>(&'a self, stream: &'a Stream, host: &'a str, route: Option<&'a Route>) -> Subject<'a> {
        Subject {
            site: route.map_or("", |route| route.site.as_str()),
            domain: host,
            pool: self.egress.pool_name(self.egress.pool_of(stream)),
            ..Subject::of_stream(stream, route.map_or("", |route| route.provider))
        }
    }

    /// The pause that holds mail of a stream to a host, if one does.
    pub(in crate::queue) fn pause_of(&self, now: u64, stream: &Stream, host: &AddressHost) -> Option<Order> {
        if self.shaper.steering.orders.is_empty() {
            return None;
        }
        let name = host.to_string();
        let subject = self.subject(stream, &name, self.hosts.route_of(host));
        self.shaper.steering.orders.pause(now, &subject).cloned()
    }

    /// The messages of streams that `scope` names, wherever they go, in places `from..to` of the table, and whether there
    /// may be some behind.
    pub(in crate::queue) fn messages_about(&self, scope: &Scope, from: usize, to: usize) -> (Vec<MessageId>, bool) {
        let eyes = self.eyes();
        let (messages, more) = self.messages.slice(from, to);
        let named = messages.filter(|message| scope.matches(&eyes.subject(message, "", None)));
        (named.map(|message| message.id).collect(), more)
    }

    /// Takes back recipients that `scope` names by where their mail goes: sleepers in places `from..to`, and whether there
    /// may be some behind; with `from` 0 also all that stands in line. Those in flight are left alone.
    pub(in crate::queue) fn cancel_about(&mut self, scope: &Scope, from: usize, to: usize) -> (Vec<TakenBack>, bool) {
        let eyes = Eyes { messages: &self.messages, streams: &self.streams, egress: &self.egress };
        let (asleep, more) = {
            let hosts = &self.hosts;
            self.sleepers.extract_in(from, to, |item| eyes.is_about(scope, item, hosts.get(item.host)))
        };
        let (mut awake, mut back) = (Vec::new(), Vec::new());
        if from == 0 {
            awake = self.hosts.extract_parked(|item, host| eyes.is_about(scope, item, host));
            let drained = self.sites.iter_mut().map(|(id, site)| (id as SiteId, site.ready.drain()));
            for (id, items) in drained {
                let (picked, rest) =
                    items.into_iter().partition(|item| eyes.is_about(scope, item, self.hosts.get(item.host)));
                awake.extend::<Vec<Item>>(picked);
                back.push((id, rest));
            }
        }
        back.into_iter().for_each(|(id, rest): (_, Vec<Item>)| {
            rest.into_iter().for_each(|item| self.stand_in_line(id, item));
        });
        let mut taken: BTreeMap<MessageId, Vec<u32>> = BTreeMap::new();
        for (item, slept) in asleep.into_iter().map(|i| (i, true)).chain(awake.into_iter().map(|i| (i, false))) {
            if let Some(message) = self.messages.get_mut(item.message) {
                let open = item.recipients.iter().copied().filter(|r| message.open.has(*r));
                taken.entry(item.message).or_default().extend(open);
                if slept {
                    // Whoever comes to an end is awake.
                    message.awake += item.recipients.len() as u32;
                    self.counts.ready[self.streams.class(message.stream) as usize] += item.recipients.len() as i64;
                }
            }
            self.drop_item(&item);
        }
        let told = |(id, recipients)| TakenBack { id, recipients, in_flight: 0, again: false };
        (taken.into_iter().map(told).collect(), more)
    }

    fn eyes(&self) -> Eyes<'_> {
        Eyes { messages: &self.messages, streams: &self.streams, egress: &self.egress }
    }
}

/// What must be seen of the scheduler to say what an item is about, while other parts of it are changed.
struct Eyes<'a> {
    messages: &'a Messages,
    streams: &'a Streams,
    egress: &'a Egress,
}

impl<'a> Eyes<'a> {
    fn subject(&self, message: &MessageState, domain: &'a str, route: Option<&'a Route>) -> Subject<'a> {
        let stream = self.streams.get(message.stream);
        Subject {
            site: route.map_or("", |route| route.site.as_str()),
            domain,
            pool: self.egress.pool_name(self.streams.pool(message.stream)),
            ..Subject::of_stream(stream, route.map_or("", |route| route.provider))
        }
    }

    fn is_about(&self, scope: &Scope, item: &Item, host: &HostState) -> bool {
        let Some(message) = self.messages.get(item.message).filter(|message| !message.is_unwanted()) else {
            return false;
        };
        let name = domain_of(&host.host);
        let eyes = Eyes { messages: self.messages, streams: self.streams, egress: self.egress };
        scope.matches(&eyes.subject(message, &name, host.route.known()))
    }
}
