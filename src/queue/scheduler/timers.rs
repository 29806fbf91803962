//! Asleep and awake: who is due, whose time is up, and when the timer task must come.

use super::{Action, Item, MessageId, Scheduler, messages::MessageState};
use crate::mail::AddressHost;
use crate::queue::wheel::Wheel;

impl Scheduler {
    /// When [`tick`](Scheduler::tick) must be called next.
    pub(super) fn next_wake(&self) -> Option<u64> {
        let orders = self.shaper.steering.orders.next_end();
        let (sleepers, expiries) = (self.sleepers.next_wake(), self.expiries.next_wake());
        let wakes = [sleepers, expiries, self.lines.next_wake(), self.held.next_wake(), orders];
        wakes.into_iter().flatten().min()
    }

    /// When the timer task must come next, which it promises to.
    pub(in crate::queue) fn arm(&mut self) -> Option<u64> {
        self.armed = self.next_wake();
        self.armed
    }

    /// Whether the timer task would come too late: then it must be told to [`arm`](Scheduler::arm) again. Says so once.
    pub(in crate::queue) fn must_rearm(&mut self) -> bool {
        let next = self.next_wake();
        let late = next.is_some_and(|next| self.armed.is_none_or(|armed| next < armed));
        if late {
            self.armed = next;
        }
        late
    }

    /// Wakes whoever is due, a bounded number at a time.
    pub(in crate::queue) fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        const LIMIT: usize = 4096;
        let mut due = Vec::new();
        self.sleepers.advance(now, LIMIT, |item| due.push(item));
        for item in due {
            self.wake(now, item, actions);
        }
        self.end_orders(now, actions);
        let mut lines = Vec::new();
        self.lines.advance(now, LIMIT, |site| lines.push(site));
        for site in lines {
            self.look_again(now, site, actions);
        }
        self.wake_held(now, LIMIT, actions);
        let mut expired = Vec::new();
        self.expiries.advance(now, LIMIT, |id| expired.push(id));
        for id in expired {
            let recipients = self.give_up(id);
            if !recipients.is_empty() {
                actions.push(Action::Expire(id, recipients));
            }
        }
    }

    /// An item's time has come: on to its site, by way of a look-up if needed. Or its message's: then it is given up.
    pub(super) fn wake(&mut self, now: u64, item: Item, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get_mut(item.message) else { return self.drop_item(&item) };
        if message.is_unwanted() {
            return self.drop_item(&item);
        }
        let (expires, id) = (message.expires, item.message);
        self.count_awake(&item);
        if now >= expires {
            actions.push(Action::Expire(item.message, item.recipients.to_vec()));
            return self.drop_item(&item);
        }
        if let Some(message) = self.messages.get_mut(id).filter(|message| message.expiry.is_none()) {
            message.expiry = Some(self.expiries.insert(message.expires, id));
        }
        self.forward(now, item, actions);
    }

    /// The time of the item's recipients has come.
    pub(super) fn count_awake(&mut self, item: &Item) {
        let Some(message) = self.messages.get_mut(item.message) else { return };
        message.awake += item.recipients.len() as u32;
        self.counts.ready[self.streams.class(message.stream) as usize] += item.recipients.len() as i64;
    }

    /// The item waits until `due`, no later than its message expires. Recipients that came to their end meanwhile are left
    /// out.
    pub(in crate::queue) fn sleep(&mut self, due: u64, mut item: Item, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get_mut(item.message) else { return self.drop_item(&item) };
        item.recipients.retain(|r| message.open.has(r));
        if item.recipients.is_empty() {
            return self.drop_item(&item);
        }
        if message.is_unwanted() {
            return self.end_unwanted(&item, actions);
        }
        message.awake = message.awake.saturating_sub(item.recipients.len() as u32);
        self.counts.ready[self.streams.class(message.stream) as usize] -= item.recipients.len() as i64;
        disarm_if_quiet(&mut self.expiries, message);
        let due = due.min(message.expires);
        self.sleepers.insert(due, item);
    }

    /// Wakes the sleepers that `select` picks, now. Returns how many recipients that were.
    pub(in crate::queue) fn hurry(
        &mut self,
        now: u64,
        select: impl Fn(&Item, &AddressHost) -> bool,
        actions: &mut Vec<Action>,
    ) -> usize {
        let hosts = &self.hosts;
        let picked = self.sleepers.extract(|item| select(item, &hosts.get(item.host).host));
        let recipients = picked.iter().map(|item| item.recipients.len()).sum();
        picked.into_iter().for_each(|item| self.wake(now, item, actions));
        recipients
    }
}

/// A message of which nobody is awake needs no timer.
pub(super) fn disarm_if_quiet(expiries: &mut Wheel<MessageId>, message: &mut MessageState) {
    if message.awake == 0 {
        message.expiry.take().map(|key| expiries.cancel(key));
    }
}
