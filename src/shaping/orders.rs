//! Orders: what an operator, or the reputation brake, says about some mail until further notice.
//!
//! A *pause* holds it, a *pace* lets no more than so many recipients a second pass, an *exemption* keeps the brake away from
//! it. An order never raises a limit; of several that apply the strictest counts. What is held waits, and expires in its
//! time: nothing is lost, and a session of the site is asked again when the order ends, not before.
//!
//! Orders are few or some thousands (one for each campaign that was stopped); mail asks them with every transaction. So they
//! are indexed by what they name (`index.rs`).

#[cfg(test)]
mod tests;

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
