//! Taking messages back.

use super::{Action, Item, MessageId, Scheduler};

/// From so many messages on it is worth a walk over all sleepers to give their memory back at once.
const WALK_FROM: usize = 1000;

/// What [`Scheduler::cancel`] did to one message.
#[derive(Debug)]
pub(in crate::queue) struct TakenBack {
    pub(in crate::queue) id: MessageId,
    /// They are awake now and nobody will attempt them: whoever asked ends them.
    pub(in crate::queue) recipients: Vec<u32>,
    /// Their outcome is under way; without a final verdict they end as cancelled.
    pub(in crate::queue) in_flight: usize,
}

impl Scheduler {
    /// Marks messages as taken back: from now on none of their recipients is given to a session. Unknown and finished
    /// ones are left out; of one taken back before, those that are still open are named again.
    pub(in crate::queue) fn cancel(&mut self, ids: &[MessageId]) -> Vec<TakenBack> {
        let mut marked = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(message) = self.messages.get_mut(*id) else { continue };
            message.cancelled = true;
            marked.push(*id);
        }
        // The timers of a few may as well run out by themselves: whoever wakes finds that he is not wanted.
        if marked.len() > WALK_FROM {
            let messages = &self.messages;
            let asleep =
                self.sleepers.extract(|item| messages.get(item.message).is_some_and(|message| message.cancelled));
            asleep.iter().for_each(|item| self.drop_item(item));
        }
        marked.into_iter().filter_map(|id| self.take_back(id)).collect()
    }

    fn take_back(&mut self, id: MessageId) -> Option<TakenBack> {
        let message = self.messages.get_mut(id)?;
        let open = message.open.list();
        let woken = open.len() as u32 - message.awake;
        message.awake += woken;
        self.counts.ready[self.streams.class(message.stream) as usize] += i64::from(woken);
        let flying = self.in_flight.get(&id).map_or(&[][..], Vec::as_slice);
        let recipients: Vec<u32> = open.iter().copied().filter(|r| !flying.contains(r)).collect();
        let in_flight = open.len() - recipients.len();
        Some(TakenBack { id, recipients, in_flight })
    }

    /// They were in flight when their message was taken back, and landed without a final verdict that says so.
    pub(super) fn end_cancelled(&mut self, item: &Item, actions: &mut Vec<Action>) {
        actions.push(Action::Cancel(item.message, item.recipients.to_vec()));
        self.drop_item(item);
    }

    /// Whether a message was taken back.
    pub(in crate::queue) fn is_cancelled(&self, id: MessageId) -> bool {
        self.messages.get(id).is_some_and(|message| message.cancelled)
    }
}
