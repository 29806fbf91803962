//! Orders are given, kept over restarts, told of and taken back; the brake's wishes are carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Cancelled, QueryError, Queue};
use crate::clock::Timestamp;
use crate::config::{Scope, Subject};
use crate::events::{About, Notice, NoticeKind};
use crate::feedback::classify::{Reason, classify_reply};
use crate::ledger::{Ledger, LedgerError, Table};
use crate::mail::{Class, Origin, Outcome, Reply, Stream};
use crate::routing::{Route, SourceId};
use crate::shaping::orders::{Deed, ORDERS_MAX, Order, OrderId};
use crate::shaping::steering::{BRAKE, Braked, Learned};
use crate::shaping::warmup::Progress;

/// Messages or sleepers looked at under one lock.
const SLICE: usize = 4096;

/// The longest order: a hundred years. What is to stand for ever has no end at all.
const LASTS_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// An order was not given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It makes no sense.
    #[error("{field}: {why}")]
    Bad {
        /// What of it.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// There are as many as there may be.
    #[error("there are {ORDERS_MAX} orders in force already")]
    Full,
    /// It cannot be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// An order to be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewOrder {
    /// What.
    pub deed: Deed,
    /// With which mail.
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// Who gives it.
    pub by: String,
    /// How long it stands; `None`: until it is taken back.
    pub lasts: Option<Duration>,
}

impl Queue {
    /// Goes on with the orders that `ledger` knows, and what else is kept there (`keep.rs`), and keeps new ones there. Call it once, before
    /// [`start`](Queue::start); without it they are forgotten when the process ends.
    ///
    /// # Errors
    /// They cannot be read. A single one that makes no sense is logged and left out.
    pub fn recall(self: &Arc<Queue>, ledger: &Arc<Ledger>) -> Result<(), LedgerError> {
        let now = self.clock.timestamp();
        let (mut gone, mut known) = (Vec::new(), Vec::new());
        for (key, value) in ledger.scan(Table::Orders, b"")? {
            match serde_json::from_slice::<Order>(&value) {
                Ok(order) if order.until.is_some_and(|until| until <= now) => gone.push((key, None)),
                Ok(order) => known.push(order),
                Err(error) => tracing::error!(%error, "an order in the ledger cannot be read, and is not in force"),
            }
        }
        self.with_actions(|scheduler, now, actions| scheduler.recall_orders(now, known, actions));
        self.recall_kept(ledger)?;
        self.metrics.orders.set(self.lock().steering().orders.len() as i64);
        if self.ledger.set(Arc::clone(ledger)).is_err() {
            tracing::error!("orders are recalled once only");
        }
        let ledger = Arc::clone(ledger);
        self.spawn(async move {
            // They are over; if they stay they will be over at the next start, too.
            let _ = ledger.put(Table::Orders, gone).await;
        });
        Arc::clone(self).keep_on();
        Ok(())
    }

    /// Orders in force, oldest first.
    pub fn orders(&self) -> Vec<Order> {
        self.lock().steering().orders.iter().cloned().collect()
    }

    /// Gives an order. It is durable and in force when this resolves; one of the same kind about the same mail is replaced.
    ///
    /// # Errors
    /// See [`OrderError`]; nothing has changed then.
    ///
    /// # Cancel safety
    /// It may be given all the same.
    pub async fn order(self: &Arc<Queue>, new: NewOrder) -> Result<Order, OrderError> {
        let order = self.number(new)?;
        self.keep(order.id, Some(&order)).await?;
        self.put_order(order.clone());
        Ok(order)
    }

    /// Takes an order back: what it held goes on at once, and the brake begins with a clean slate there. `None`: there is no
    /// such order.
    ///
    /// # Errors
    /// It cannot be forgotten, and stays in force.
    ///
    /// # Cancel safety
    /// It may be taken back all the same.
    pub async fn take_back_order(self: &Arc<Queue>, id: OrderId, by: &str) -> Result<Option<Order>, OrderError> {
        if self.lock().steering().orders.get(id).is_none() {
            return Ok(None);
        }
        self.keep(id, None).await?;
        let order = self.with_actions(|scheduler, now, actions| scheduler.take_back_order(now, id, actions));
        if let Some(order) = &order {
            self.tell_of(order, "lifted", by);
        }
        Ok(order)
    }

    /// Takes back all waiting mail that `scope` names; see [`Queue::cancel`]. Mail named by where it goes (domain, site,
    /// provider) is taken back but for what is being attempted right now, which may come back and wait again.
    ///
    /// # Errors
    /// As [`Queue::cancel`].
    ///
    /// # Cancel safety
    /// What was begun goes on.
    pub async fn cancel_scope(self: &Arc<Queue>, scope: &Scope) -> Result<Cancelled, QueryError> {
        let (mut from, mut more) = (0, true);
        if scope.provider.is_none() && scope.site.is_none() && scope.domain.is_none() {
            let mut ids = Vec::new();
            while more {
                let (found, behind) = self.lock().messages_about(scope, from, from + SLICE);
                ids.extend(found);
                (from, more) = (from + SLICE, behind);
            }
            return self.cancel(ids).await;
        }
        let mut taken = Vec::new();
        while more {
            let (found, behind) = self.with_actions(|scheduler, now, actions| {
                let found = scheduler.cancel_about(scope, from, from + SLICE);
                if from == 0 {
                    // What stood in line was put there anew: whoever was to be woken for it is not there any more.
                    scheduler.look_everywhere(now, actions);
                }
                found
            });
            taken.extend(found);
            (from, more) = (from + SLICE, behind);
        }
        self.end_taken(taken).await
    }

    /// How far sources are warmed up.
    pub fn warmups(&self) -> Vec<Progress> {
        let (now, timestamp) = (self.now(), self.clock.timestamp());
        let mut scheduler = self.lock();
        scheduler.steering().set_time(now, timestamp);
        scheduler.steering().warmup.progress(timestamp)
    }

    /// Shows the progress of warm-ups in the metrics.
    pub(super) fn observe_warmups(&self) {
        for progress in self.warmups() {
            let labels = [progress.source.as_str(), progress.provider.as_str()];
            let left = if progress.braked { 0 } else { progress.per_day.saturating_sub(progress.sent) };
            let day = progress.day + usize::from(progress.warm);
            self.metrics.warmup_day.with_label_values(&labels).set(day as i64);
            self.metrics.warmup_left.with_label_values(&labels).set(left as i64);
        }
    }

    /// What a transaction taught of a stream's lists, and of the name of the source it went by.
    pub(super) fn learn_of(
        self: &Arc<Queue>,
        stream: &Stream,
        outcomes: &[Option<Outcome>],
        route: &Route,
        source: SourceId,
    ) {
        let mut learned = [(Learned::Delivered, 0), (Learned::UnknownUser, 0), (Learned::Refused, 0)];
        for outcome in outcomes.iter().flatten() {
            let what = judge(outcome, route.provider);
            learned.iter_mut().filter(|(kind, _)| *kind == what).for_each(|(_, recipients)| *recipients += 1);
        }
        let parts = self.parts.load();
        let path = (&*parts.egress.source(source).name, route.provider);
        self.with_actions(|scheduler, now, actions| scheduler.learn(now, stream, path, &learned, actions));
    }

    /// The time of an order is over.
    pub(super) fn order_ended(self: &Arc<Queue>, order: &Order) {
        self.tell_of(order, "ended", "");
        self.forget_order(order.id);
    }

    /// The reputation brake has crossed a threshold: it is told, and ordered if the configuration says so.
    pub(super) fn braked(self: &Arc<Queue>, braked: Braked) {
        let Braked { crossed, deed, scope, lasts, exempt } = braked;
        let cause = crossed.cause();
        let (what, provider) = (crossed.level.as_str(), &crossed.watched.provider);
        self.metrics.brakes.with_label_values(&[&**provider, what]).inc();
        tracing::warn!(tenant = %crossed.watched.stream.tenant, campaign = %crossed.watched.stream.campaign, %provider,
            what, held = deed.is_some(), exempt, "reputation brake: {cause}");
        let mut notice = Notice::new(self.clock.timestamp(), NoticeKind::Brake, what, about(&scope));
        (notice.cause, notice.by) = (&cause, if exempt { "exempt" } else { BRAKE });
        self.spool.note(notice.line());
        let Some(deed) = deed else { return };
        let lasts = lasts.map(Duration::from_millis);
        let new = NewOrder { deed, scope: scope.clone(), reason: cause.clone(), by: BRAKE.into(), lasts };
        // Should it not be kept, the brake will say so again after a restart.
        self.order_at_once(new);
    }

    /// Gives an order of our own: in force when this returns, for every message counts; kept over restarts if it can be.
    pub(super) fn order_at_once(self: &Arc<Queue>, new: NewOrder) {
        let by = new.by.clone();
        match self.number(new) {
            Ok(order) => {
                self.put_order(order.clone());
                let queue = Arc::clone(self);
                self.spawn(async move {
                    if let Err(error) = queue.keep(order.id, Some(&order)).await {
                        tracing::error!(%error, by, "an order is not kept over a restart");
                    }
                });
            }
            Err(error) => tracing::error!(%error, by, "an order was not given"),
        }
    }

    /// Checks an order and gives it its name.
    fn number(&self, new: NewOrder) -> Result<Order, OrderError> {
        let bad = |field, why: &str| Err(OrderError::Bad { field, why: why.into() });
        let NewOrder { deed, scope, reason, by, lasts } = new;
        if let Deed::Pace { per_second } = deed
            && !(per_second.is_finite() && per_second > 0.0)
        {
            return bad("per_second", "must be more than 0; pause it if nothing is to go out");
        }
        if deed == Deed::Exempt && (scope.site.is_some() || scope.domain.is_some() || scope.source.is_some()) {
            return bad("scope", "the brake knows tenant, class, campaign and provider only");
        }
        if scope.source.is_some() && !scope.is_of_paths() {
            return bad("scope", "a source is ordered about as a whole; name the pool beside tenant, class or domain");
        }
        if reason.len() > 1000 || by.len() > 100 {
            return bad("reason", "at most 1000 octets");
        }
        let since = self.clock.timestamp();
        let until = match lasts {
            Some(lasts) if lasts.is_zero() || lasts > LASTS_MAX => return bad("for", "between a moment and 100 years"),
            lasts => lasts.map(|lasts| since.after(lasts)),
        };
        let mut scheduler = self.lock();
        let orders = &mut scheduler.steering().orders;
        // What gives orders by itself leaves room for people.
        let room = if by == BRAKE || by.starts_with("profile") { ORDERS_MAX / 2 } else { ORDERS_MAX };
        if orders.len() >= room {
            return Err(OrderError::Full);
        }
        Ok(Order { id: orders.next_id(), deed, scope, reason, by, since, until })
    }

    fn put_order(self: &Arc<Queue>, order: Order) {
        let what = match order.deed {
            Deed::Pause => "paused",
            Deed::Pace { .. } => "paced",
            Deed::Exempt => "exempted",
        };
        let replaced = self.with_actions(|scheduler, now, actions| {
            scheduler.steering().set_time(now, self.clock.timestamp());
            scheduler.order(now, order.clone(), actions)
        });
        self.tell_of(&order, what, &order.by);
        replaced.into_iter().for_each(|id| self.forget_order(id));
    }

    fn tell_of(&self, order: &Order, what: &str, by: &str) {
        tracing::info!(order = order.id.0, what, by, scope = ?order.scope, reason = order.reason, "order");
        self.metrics.orders.set(self.lock().steering().orders.len() as i64);
        let mut notice = Notice::new(self.clock.timestamp(), NoticeKind::Order, what, about(&order.scope));
        (notice.cause, notice.by, notice.until) = (&order.reason, by, order.until);
        if let Deed::Pace { per_second } = order.deed {
            notice.per_second = Some(per_second);
        }
        self.spool.note(notice.line());
    }

    /// Writes or removes an order in the ledger.
    async fn keep(&self, id: OrderId, order: Option<&Order>) -> Result<(), LedgerError> {
        let Some(ledger) = self.ledger.get() else { return Ok(()) };
        let value = order.map(|order| Bytes::from(serde_json::to_vec(order).expect("plain data")));
        ledger.put(Table::Orders, vec![(id.0.to_be_bytes().to_vec(), value)]).await
    }

    fn forget_order(self: &Arc<Queue>, id: OrderId) {
        let queue = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = queue.keep(id, None).await {
                tracing::warn!(%error, order = id.0, "an order that is over may come back after a restart");
            }
        });
    }
}

/// What one outcome says of list and source. What we say ourselves says nothing of either.
fn judge(outcome: &Outcome, provider: &str) -> Learned {
    let (failure, for_good) = match outcome {
        Outcome::Delivered { .. } => return Learned::Delivered,
        Outcome::Failed(failure) => (failure, true),
        Outcome::Deferred(failure) => (failure, false),
    };
    if failure.origin == Origin::Local {
        return Learned::Nothing;
    }
    let Reply { code, enhanced, text } = &failure.reply;
    match classify_reply(Some(*code), *enhanced, text, provider).reason {
        Reason::UserUnknown | Reason::HostUnknown if for_good => Learned::UnknownUser,
        Reason::RateLimit | Reason::BlockedIp | Reason::SpamBlock => Learned::Refused,
        _ => Learned::Nothing,
    }
}

/// Whether the receiver says for good that there is no such mailbox.
pub(super) fn says_unknown(outcome: &Outcome, provider: &str) -> bool {
    matches!(outcome, Outcome::Failed(_)) && judge(outcome, provider) == Learned::UnknownUser
}

/// A scope as notices have it.
fn about(scope: &Scope) -> About<'_> {
    let Subject { provider, site, domain, source, pool, tenant, campaign, .. } = scope.subject();
    let class = scope.class.map_or("", Class::as_str);
    About { provider, site, domain, source, pool, tenant, class, campaign }
}

/// In a sentence, for lists.
pub(super) fn pause_in_words(order: &Order) -> String {
    let by = if order.by.is_empty() { "an order".to_owned() } else { order.by.clone() };
    let until = order.until.map_or_else(String::new, |until: Timestamp| format!(" until {until}"));
    let reason = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
    format!("paused by {by} (order {}){until}{reason}", order.id.0)
}
