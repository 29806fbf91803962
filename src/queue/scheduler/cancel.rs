//! Messages that nobody wants to have delivered any more: taken back, or out of time.

use smallvec::SmallVec;

use super::{Action, Item, MessageId, Scheduler, SiteId};
use crate::queue::site::SiteState;

/// What [`Scheduler::cancel`] did to one message.
#[derive(Debug)]
pub(in crate::queue) struct TakenBack {
    pub(in crate::queue) id: MessageId,
    /// They are awake now and nobody will attempt them: whoever asked ends them.
    pub(in crate::queue) recipients: Vec<u32>,
    /// Their outcome is under way; without a final verdict they end as cancelled.
    pub(in crate::queue) in_flight: usize,
    /// It was taken back before.
    pub(in crate::queue) again: bool,
}

impl Scheduler {
    /// Marks messages as taken back: from now on none of their recipients is given to a session. Unknown and finished
    /// ones are left out; of one taken back before, those that are still open are named again.
    pub(in crate::queue) fn cancel(&mut self, ids: &[MessageId]) -> Vec<TakenBack> {
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(message) = self.messages.get_mut(*id) else { continue };
            let again = std::mem::replace(&mut message.cancelled, true);
            taken.extend(self.wake_all(*id).map(|taken| TakenBack { again, ..taken }));
        }
        taken
    }

    /// Takes out what is held at sites and is taken back: nobody comes to look at it there.
    pub(in crate::queue) fn sweep_lines(&mut self, now: u64, actions: &mut Vec<Action>) {
        // Of lanes that are set aside, or of a site where nobody is at work: an order may hold all its paths.
        let idle = |site: &SiteState| site.paths.iter().all(|path| path.sessions == path.idle.len());
        let held = |site: &SiteState| site.ready.available() < site.ready.len() || idle(site);
        let holding = self.sites.iter().filter(|(_, site)| !site.ready.is_empty() && held(site));
        let ids: Vec<SiteId> = holding.map(|(id, _)| id as SiteId).collect();
        for id in ids {
            for item in self.sites[id as usize].ready.drain() {
                match self.messages.get(item.message).is_some_and(|message| !message.is_unwanted()) {
                    true => self.stand_in_line(id, item),
                    false => self.drop_item(&item),
                }
            }
            self.staff(now, id, actions);
        }
    }

    /// Gives back the memory of sleepers in places `from..to` whose message is taken back or gone; whether there are places
    /// behind. Without it their timers run out by themselves, and who wakes finds that he is not wanted.
    pub(in crate::queue) fn sweep(&mut self, from: usize, to: usize) -> bool {
        let messages = &self.messages;
        let unwanted = |item: &Item| messages.get(item.message).is_none_or(|message| message.is_unwanted());
        let (asleep, more) = self.sleepers.extract_in(from, to, unwanted);
        asleep.iter().for_each(|item| self.drop_item(item));
        more
    }

    /// The time of a message is up. Its open recipients that are not in flight (their outcome decides), to be ended by whoever
    /// asks; none is given to a session any more. None of one taken back: those have their end.
    pub(super) fn give_up(&mut self, id: MessageId) -> Vec<u32> {
        let Some(message) = self.messages.get_mut(id) else { return Vec::new() };
        message.expiry = None;
        message.given_up = true;
        if message.cancelled {
            return Vec::new();
        }
        self.wake_all(id).map_or_else(Vec::new, |taken| taken.recipients)
    }

    /// Counts all recipients of an unwanted message as awake; the items of those asleep are dropped when they wake.
    fn wake_all(&mut self, id: MessageId) -> Option<TakenBack> {
        let message = self.messages.get_mut(id)?;
        let open = message.open.list();
        let woken = open.len() as u32 - message.awake;
        message.awake += woken;
        self.counts.ready[self.streams.class(message.stream) as usize] += i64::from(woken);
        let flying = self.in_flight.get(&id).map_or(&[][..], SmallVec::as_slice);
        let recipients: Vec<u32> = open.iter().copied().filter(|r| !flying.contains(r)).collect();
        let in_flight = open.len() - recipients.len();
        Some(TakenBack { id, recipients, in_flight, again: false })
    }

    /// They were in flight when their message was taken back or its time ran out, and landed without a final verdict.
    pub(super) fn end_unwanted(&mut self, item: &Item, actions: &mut Vec<Action>) {
        let recipients = item.recipients.to_vec();
        actions.push(match self.is_cancelled(item.message) {
            true => Action::Cancel(item.message, recipients),
            false => Action::Expire(item.message, recipients),
        });
        self.drop_item(item);
    }

    /// Whether nothing of a message is to be attempted any more.
    pub(super) fn is_unwanted(&self, id: MessageId) -> bool {
        self.messages.get(id).is_some_and(|message| message.is_unwanted())
    }

    /// These recipients that sleep are in flight now, by no session.
    #[cfg(test)]
    pub(in crate::queue) fn take_off(&mut self, id: MessageId, recipients: &[u32]) {
        let message = self.messages.get_mut(id).expect("it waits");
        message.awake += recipients.len() as u32;
        self.counts.ready[self.streams.class(message.stream) as usize] += recipients.len() as i64;
        self.in_flight.entry(id).or_default().extend_from_slice(recipients);
    }

    /// Whether a message was taken back.
    pub(in crate::queue) fn is_cancelled(&self, id: MessageId) -> bool {
        self.messages.get(id).is_some_and(|message| message.cancelled)
    }
}
