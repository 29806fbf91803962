//! Orders: what an operator, or the reputation brake, says about some mail until further notice.
//!
//! A *pause* holds it, a *pace* lets no more than so many recipients a second pass, an *exemption* keeps the brake away from
//! it. An order never raises a limit; of several that apply the strictest counts. What is held waits, and expires in its
//! time: nothing is lost, and a session of the site is asked again when the order ends, not before.
//!
//! Orders are few or some thousands (one for each campaign that was stopped); mail asks them with every transaction. So they
//! are indexed by what they name (`index.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::bucket::Rate;
use super::index::{Index, folded};
use super::{Allowed, Counted, Gate, NEVER, Row};
use crate::clock::Timestamp;
use crate::config::{Scope, Subject};

/// Orders in force at once. Whoever wants more wants a configuration.
pub const ORDERS_MAX: usize = 10_000;

/// Names an order; also its key in the ledger. Later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub u64);

/// What is to be done with the mail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "deed")]
pub enum Deed {
    /// None of it goes out.
    Pause,
    /// No more than this of it goes out.
    Pace {
        /// Recipients a second, more than zero.
        per_second: f64,
    },
    /// The reputation brake does not slow or pause it.
    Exempt,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: OrderId,
    /// What.
    #[serde(flatten)]
    pub deed: Deed,
    /// With which mail.
    pub scope: Scope,
    /// Why, in a sentence; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who gave it: `operator`, `brake`, or a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Orders in force.
#[derive(Debug, Default)]
pub struct Orders {
    standing: BTreeMap<OrderId, Standing>,
    /// The last number given.
    last: u64,
    /// Those that end by themselves, by when.
    ends: BTreeSet<(u64, OrderId)>,
    /// Domains that are named, with how many orders name them.
    domains: HashMap<u64, u32>,
    index: Index<OrderId>,
}

#[derive(Debug)]
struct Standing {
    order: Order,
    /// It ends then, on the queue's clock.
    until: u64,
    /// It is about paths and nothing else: every stream there is held alike.
    of_paths: bool,
}

impl Deed {
    /// In a word, as events say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Deed::Pause => "pause",
            Deed::Pace { .. } => "pace",
            Deed::Exempt => "exempt",
        }
    }

    /// Whether an order of this kind takes the place of one of the other, if they are about the same mail.
    fn replaces(self, other: Deed) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Orders {
    /// Nothing is ordered.
    pub fn is_empty(&self) -> bool {
        self.standing.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.standing.len()
    }

    /// The order of that name.
    pub fn get(&self, id: OrderId) -> Option<&Order> {
        self.standing.get(&id).map(|standing| &standing.order)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Order> {
        self.standing.values().map(|standing| &standing.order)
    }

    /// The name of the next order.
    pub fn next_id(&mut self) -> OrderId {
        self.last += 1;
        OrderId(self.last)
    }

    /// Puts an order in force; it ends at `until` on the queue's clock ([`NEVER`]: not by itself). The one with its name is
    /// replaced, and so is one of the same kind about the same mail, whose name is returned.
    pub fn put(&mut self, order: Order, until: u64) -> Option<OrderId> {
        self.last = self.last.max(order.id.0);
        self.remove(order.id);
        let same = |id: &&OrderId| {
            let other = self.standing.get(id).map(|standing| &standing.order);
            other.is_some_and(|other| other.scope == order.scope && order.deed.replaces(other.deed))
        };
        let replaced = self.index.beside(&order.scope).iter().find(same).copied();
        replaced.map(|id| self.remove(id));
        let of_paths = order.scope.is_of_paths();
        self.index.file(&order.scope, order.id);
        if let Some(domain) = &order.scope.domain {
            *self.domains.entry(folded(domain)).or_default() += 1;
        }
        if until < NEVER {
            self.ends.insert((until, order.id));
        }
        self.standing.insert(order.id, Standing { order, until, of_paths });
        replaced
    }

    /// Whether mail to this domain must be told apart from other mail of its stream.
    pub fn tells_domain(&self, domain: &str) -> bool {
        !self.domains.is_empty() && self.domains.contains_key(&folded(domain))
    }

    /// Takes an order back.
    pub fn take_back(&mut self, id: OrderId) -> Option<Order> {
        self.remove(id).map(|standing| standing.order)
    }

    /// When the next order ends by itself.
    pub fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Takes out the orders that have ended by now.
    pub fn ended(&mut self, now: u64) -> Vec<Order> {
        let over: Vec<OrderId> = self.ends.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect();
        over.into_iter().filter_map(|id| self.take_back(id)).collect()
    }

    /// Whether anything may go by a path now, for all that is ordered about paths and nothing else; of the subject only
    /// provider, site, source and pool count.
    pub fn gate_path(&self, now: u64, path: &Subject<'_>) -> Gate {
        self.gate(now, path, true)
    }

    /// Whether mail of a stream may go now, for all that [`gate_path`](Orders::gate_path) does not look at.
    pub fn gate_mail(&self, now: u64, mail: &Subject<'_>) -> Gate {
        self.gate(now, mail, false)
    }

    fn gate(&self, now: u64, subject: &Subject<'_>, of_paths: bool) -> Gate {
        if self.standing.is_empty() {
            return Gate::Go;
        }
        let mut latest = now;
        self.each(subject, |standing| {
            if standing.of_paths == of_paths && standing.order.deed == Deed::Pause {
                latest = latest.max(standing.until);
            }
        });
        if latest <= now { Gate::Go } else { Gate::Later(latest) }
    }

    /// The paces, as limits.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.iter().filter_map(|order| {
            let Deed::Pace { per_second } = order.deed else { return None };
            Some(Row {
                name: format!("order {}", order.id.0),
                scope: order.scope.clone(),
                each: Vec::new(),
                counted: Counted::Recipients,
                allowed: Allowed::PerTime(Rate::even(per_second)),
            })
        })
    }

    /// Whether the brake is to leave this alone.
    pub fn exempts(&self, now: u64, subject: &Subject<'_>) -> bool {
        let mut exempt = false;
        self.each(subject, |standing| {
            exempt |= matches!(standing.order.deed, Deed::Exempt) && now < standing.until;
        });
        exempt
    }

    /// The orders that apply, oldest first.
    pub fn about(&self, subject: &Subject<'_>) -> Vec<&Order> {
        let mut found = Vec::new();
        self.each(subject, |standing| found.push(&standing.order));
        found.sort_by_key(|order| order.id);
        found
    }

    /// The pause that holds this, if one does.
    pub fn pause(&self, now: u64, subject: &Subject<'_>) -> Option<&Order> {
        let mut longest: Option<&Standing> = None;
        self.each(subject, |standing| {
            let pauses = standing.order.deed == Deed::Pause && now < standing.until;
            if pauses && longest.is_none_or(|longest| longest.until < standing.until) {
                longest = Some(standing);
            }
        });
        longest.map(|standing| &standing.order)
    }

    fn remove(&mut self, id: OrderId) -> Option<Standing> {
        let standing = self.standing.remove(&id)?;
        self.index.unfile(&standing.order.scope, id);
        if let Some(domain) = standing.order.scope.domain.as_deref().map(folded)
            && let Some(orders) = self.domains.get_mut(&domain)
        {
            *orders -= 1;
            if *orders == 0 {
                self.domains.remove(&domain);
            }
        }
        self.ends.remove(&(standing.until, id));
        Some(standing)
    }

    fn each<'a>(&'a self, subject: &Subject<'_>, mut see: impl FnMut(&'a Standing)) {
        self.index.about(subject, |id| {
            if let Some(standing) = self.standing.get(&id).filter(|standing| standing.order.scope.matches(subject)) {
                see(standing);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::Class;

    fn order(id: u64, deed: Deed, scope: Scope) -> Order {
        Order {
            id: OrderId(id),
            deed,
            scope,
            reason: String::new(),
            by: "operator".into(),
            since: Timestamp(0),
            until: None,
        }
    }

    /// `tenant=shop campaign=spring class=bulk`.
    fn scope(text: &str) -> Scope {
        let mut scope = Scope::default();
        for (name, value) in text.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            let place = match name {
                "provider" => &mut scope.provider,
                "site" => &mut scope.site,
                "domain" => &mut scope.domain,
                "source" => &mut scope.source,
                "pool" => &mut scope.pool,
                "tenant" => &mut scope.tenant,
                "campaign" => &mut scope.campaign,
                _ => {
                    scope.class = Class::parse(value);
                    continue;
                }
            };
            *place = Some(value.into());
        }
        scope
    }

    fn subject(scope: &Scope) -> Subject<'_> {
        fn name(name: &Option<String>) -> &str {
            name.as_deref().unwrap_or_default()
        }
        Subject {
            provider: name(&scope.provider),
            site: name(&scope.site),
            domain: name(&scope.domain),
            source: name(&scope.source),
            pool: name(&scope.pool),
            tenant: name(&scope.tenant),
            class: scope.class.unwrap_or_default(),
            campaign: name(&scope.campaign),
        }
    }

    /// What holds it, path or mail.
    fn gate(orders: &Orders, now: u64, subject: &Subject<'_>) -> Gate {
        orders.gate_path(now, subject).and(orders.gate_mail(now, subject))
    }

    const MAIL: &str =
        "provider=google site=mx.a domain=a.example source=one pool=main tenant=shop campaign=spring class=bulk";

    #[test]
    fn a_pause_holds_what_it_names_and_nothing_else() {
        for (paused, held) in [
            ("tenant=shop", true),
            ("tenant=shop campaign=spring", true),
            ("campaign=Spring", true),
            ("tenant=club campaign=spring", false),
            ("class=bulk", true),
            ("class=transactional", false),
            ("provider=google", true),
            ("provider=google tenant=club", false),
            ("site=mx.a", true),
            ("site=mx.b", false),
            ("domain=a.example class=bulk", true),
            ("source=one", true),
            ("pool=other", false),
            ("", true),
        ] {
            let mut orders = Orders::default();
            orders.put(order(1, Deed::Pause, scope(paused)), 5000);
            let mail = scope(MAIL);
            let expected = if held { Gate::Later(5000) } else { Gate::Go };
            assert_eq!(gate(&orders, 10, &subject(&mail)), expected, "{paused}");
            assert_eq!(orders.pause(10, &subject(&mail)).is_some(), held, "{paused}");
            assert_eq!(gate(&orders, 5000, &subject(&mail)), Gate::Go, "{paused} is over");
            // A path is not held by what is said of a tenant.
            let of_path = held && !["tenant", "campaign", "class", "domain"].iter().any(|word| paused.contains(word));
            assert_eq!(orders.gate_path(10, &subject(&mail)) != Gate::Go, of_path, "{paused} and the path");
            assert_eq!(orders.gate_mail(10, &subject(&mail)) != Gate::Go, held && !of_path, "{paused} and the mail");
            assert!(orders.take_back(OrderId(1)).is_some());
            assert_eq!(gate(&orders, 10, &subject(&mail)), Gate::Go);
        }
    }

    #[test]
    fn the_strictest_counts() {
        let mut orders = Orders::default();
        orders.put(order(1, Deed::Pause, scope("tenant=shop")), 9000);
        orders.put(order(2, Deed::Pause, scope("campaign=spring")), NEVER);
        orders.put(order(3, Deed::Pace { per_second: 10.0 }, scope("provider=google")), NEVER);
        let mail = scope(MAIL);
        assert_eq!(gate(&orders, 0, &subject(&mail)), Gate::Later(NEVER));
        orders.take_back(OrderId(2));
        assert_eq!(gate(&orders, 0, &subject(&mail)), Gate::Later(9000));
        assert_eq!(orders.next_end(), Some(9000));
        assert_eq!(orders.ended(8999), []);
        assert_eq!(orders.ended(9000).len(), 1);
        assert_eq!((gate(&orders, 9000, &subject(&mail)), orders.next_end()), (Gate::Go, None));
        assert_eq!(orders.about(&subject(&mail)).len(), 1);
    }

    #[test]
    fn a_pace_is_a_row_and_takes_the_place_of_the_one_before() {
        let mut orders = Orders::default();
        let mail = scope(MAIL);
        for (id, per_second) in [(1, 10.0), (2, 0.1)] {
            let pace = order(id, Deed::Pace { per_second }, scope("campaign=spring"));
            assert_eq!(orders.put(pace, NEVER), (id == 2).then_some(OrderId(1)));
        }
        assert_eq!(gate(&orders, 0, &subject(&mail)), Gate::Go);
        let rows: Vec<Row> = orders.rows().collect();
        assert_eq!(rows.len(), 1);
        let Allowed::PerTime(rate) = rows[0].allowed else { panic!("it is a rate") };
        assert_eq!((rows[0].name.as_str(), rate.per_second(), rate.burst()), ("order 2", 0.1, 1.0));
        assert_eq!(rows[0].scope, scope("campaign=spring"));
        orders.take_back(OrderId(2));
        assert_eq!(orders.rows().count(), 0);
    }

    #[test]
    fn a_pace_a_pause_and_an_exemption_stand_side_by_side() {
        let mut orders = Orders::default();
        let mail = scope(MAIL);
        assert!(!orders.exempts(0, &subject(&mail)));
        for (id, deed) in [(1, Deed::Exempt), (2, Deed::Pause), (3, Deed::Pace { per_second: 1.0 })] {
            assert_eq!(orders.put(order(id, deed, scope("tenant=shop")), 100), None);
        }
        assert!(orders.exempts(99, &subject(&mail)) && !orders.exempts(100, &subject(&mail)));
        assert_eq!(orders.put(order(4, Deed::Pause, scope("tenant=shop")), NEVER), Some(OrderId(2)));
        assert_eq!(orders.iter().map(|order| order.id.0).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(orders.next_id(), OrderId(5));
    }

    #[test]
    fn is_stored_as_it_is() {
        for deed in [Deed::Pause, Deed::Exempt, Deed::Pace { per_second: 0.5 }] {
            let mut order = order(7, deed, scope("tenant=shop class=bulk"));
            (order.reason, order.until) = ("too \"many\"".into(), Some(Timestamp(9)));
            let text = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order, "{text}");
        }
        let text = r#"{"id":1,"deed":"pause","scope":{"colour":"red"},"since":0}"#;
        assert!(serde_json::from_str::<Order>(text).is_err(), "an order about something else must not hold everything");
    }

    proptest! {
        /// However orders are filed, those that apply are found.
        #[test]
        fn none_is_overlooked(
            scopes in proptest::collection::vec(proptest::collection::vec((0usize..8, 0u8..3), 0..4), 0..20),
            about in proptest::collection::vec((0usize..8, 0u8..3), 0..8),
            gone in proptest::collection::vec(0u64..20, 0..5),
        ) {
            const NAMES: [&str; 8] =
                ["provider", "site", "domain", "source", "pool", "tenant", "campaign", "class"];
            let text = |named: &[(usize, u8)]| {
                let pairs = named.iter().map(|(kind, n)| match NAMES[*kind] {
                    "class" => format!("class={}", Class::ALL[*n as usize].as_str()),
                    name => format!("{name}={n}"),
                });
                scope(&pairs.collect::<Vec<_>>().join(" "))
            };
            let mut orders = Orders::default();
            for (id, named) in (0..).zip(&scopes) {
                orders.put(order(id, Deed::Pause, text(named)), 1000 + id);
            }
            gone.iter().for_each(|id| _ = orders.take_back(OrderId(*id)));
            let about = text(&about);
            let about = subject(&about);
            let applies: Vec<u64> = orders.iter().filter(|o| o.scope.matches(&about)).map(|o| o.id.0).collect();
            let found: Vec<u64> = orders.about(&about).iter().map(|order| order.id.0).collect();
            prop_assert_eq!(&found, &applies);
            let expected = applies.iter().max().map_or(Gate::Go, |last| Gate::Later(1000 + last));
            prop_assert_eq!(gate(&orders, 0, &about), expected);
            let everything: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
            everything.into_iter().for_each(|id| _ = orders.take_back(id));
            prop_assert!(orders.index.is_empty() && orders.ends.is_empty());
        }
    }
}
