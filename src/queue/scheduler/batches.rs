//! Batches: what a session takes away next, by turn, within limits.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Action, Batch, Item, LaneId, PathId, Scheduler, SiteId};
use crate::queue::site::{PathState, SiteState, Wait};
use crate::shaping::{BucketId, Buckets, Gate, Load, Taken};

/// Lanes that are set aside before the lock is given to others.
const AT_ONCE: usize = 64;

/// Items of finished messages that are taken out in one look at a line.
const FINISHED_AT_ONCE: usize = 1024;

impl Scheduler {
    /// Work for a session; or `None`, and then `idle` is notified when there may be some (never, once stopped).
    pub(in crate::queue) fn next_batch(
        &mut self,
        now: u64,
        path: PathId,
        idle: &Arc<Notify>,
        actions: &mut Vec<Action>,
    ) -> Option<Batch> {
        let mut aside = 0;
        while !self.stopped {
            let site = &mut self.sites[path.site as usize];
            let Some((lane, first)) = site.ready.turn(Some(path.source)) else {
                self.rest(path, idle);
                return None;
            };
            let Some(message) = self.messages.get(first.message).filter(|message| !message.is_unwanted()) else {
                self.drop_first(path.site, lane);
                continue;
            };
            let (stream, size, apart) = (message.stream, message.size.octets(), message.open.is_apart());
            let load = Load { recipients: 1, octets: size };
            let place = site.place(path.source);
            let gate = site.gate(now, place, &mut self.shaper, &self.egress, load);
            if gate != Gate::Go {
                self.rest(path, idle);
                match gate {
                    Gate::Later(until) => self.look_at(path.site, until),
                    Gate::Behind(line) => self.stand(now, path, line, (load, false), actions),
                    Gate::Go => {}
                }
                return None;
            }
            if !self.is_its_turn(now, path, load, idle, actions) {
                return None;
            }
            let mut limit = if apart { 1 } else { self.recipients_max(now, path) };
            let mut buckets = Buckets::new();
            if !self.shaper.is_blind_to_mail() {
                let pick = self.may_pick(now, path, lane, stream, load);
                if pick.gate != Gate::Go {
                    self.set_aside(now, path.site, lane, pick.gate, load);
                    aside += 1;
                    if aside < AT_ONCE {
                        continue;
                    }
                    // There may be a million more: others get the lock in between.
                    self.rest(path, idle);
                    self.look_at(path.site, now);
                    return None;
                }
                (limit, buckets) = (limit.min(pick.recipients_max as usize), pick.buckets);
            }
            if let Some(batch) = self.pick(now, path, lane, limit, (&buckets, size)) {
                // Sessions that were held back together are woken one after the other.
                if self.site(path.site).paths.iter().any(|path| !path.idle.is_empty()) {
                    self.staff(now, path.site, actions);
                }
                return Some(batch);
            }
        }
        None
    }

    /// A session waits for work.
    pub(super) fn rest(&mut self, path: PathId, idle: &Arc<Notify>) {
        let state = self.path(path);
        state.idle.push(Arc::clone(idle));
        if std::mem::replace(&mut state.is_listed, true) {
            return;
        }
        // Those who have gone without saying so are few: as many as there are sessions, at most.
        if self.resting.len() > 64 + 2 * self.connections {
            let sites = &mut self.sites;
            self.resting.retain(|path| stays_listed(sites, *path));
            self.resting.sort_unstable_by_key(|path| (path.site, path.source));
            self.resting.dedup();
        }
        self.resting.push(path);
    }

    /// An idle session of any site: it finds nothing to do and makes room.
    pub(in crate::queue) fn some_idle_session(&mut self) -> Option<Arc<Notify>> {
        while let Some(path) = self.resting.last().copied() {
            if stays_listed(&mut self.sites, path) {
                return self.path(path).idle.pop();
            }
            self.resting.pop();
        }
        None
    }

    /// An idle session of another path that has a place there: it finds that it is wanted, and makes room.
    pub(super) fn idle_session_in(&mut self, path: PathId, line: BucketId) -> Option<Arc<Notify>> {
        let limits = &self.shaper.limits;
        let holds = |other: &&PathId| {
            let state = path_of(&self.sites, **other).filter(|state| !state.idle.is_empty());
            **other != path && state.is_some_and(|state| limits.has_place(state.pace.limits(), line))
        };
        let other = self.resting.iter().rev().find(holds).copied()?;
        self.path(other).idle.pop()
    }

    /// Takes out what is first in line at a site and of a finished message: nobody is dialled for it. Most are found by the
    /// sessions that pick, but where none comes about, and the line is never given up since one path or another is open, they
    /// would stay for good.
    pub(super) fn drop_finished(&mut self, id: SiteId) {
        for _ in 0..FINISHED_AT_ONCE {
            let Some((lane, first)) = self.sites[id as usize].ready.turn(None) else { return };
            if self.messages.get(first.message).is_some_and(|message| !message.is_unwanted()) {
                return;
            }
            self.drop_first(id, lane);
        }
    }

    /// Takes out the first item of the lane whose turn it is: its message is finished, or about to be.
    fn drop_first(&mut self, id: SiteId, lane: LaneId) {
        let items = self.sites[id as usize].ready.take(lane, |_, _| false);
        items.iter().for_each(|item| self.drop_item(item));
    }

    /// Takes out what is first in a lane that is set aside and of a finished message: mail may be held for longer than it
    /// lives, and its stream's place be another's by now.
    pub(super) fn purge(&mut self, id: SiteId, lane: LaneId) {
        let messages = &self.messages;
        let gone = |item: &Item| messages.get(item.message).is_none();
        while let Some(item) = self.sites[id as usize].ready.purge(lane, gone) {
            self.hosts.release(item.host);
        }
    }

    /// Recipients a transaction on this path may have.
    fn recipients_max(&mut self, now: u64, path: PathId) -> usize {
        let site = &mut self.sites[path.site as usize];
        let limit = self.limits.recipients_per_transaction;
        let limit = site.recipients_max.map_or(limit, |learned| learned.min(limit));
        limit.min(self.shaper.recipients_max(now, &site.path(path.source).pace) as usize)
    }

    /// Takes a batch from the lane whose turn it is, and its tokens; none if its recipients have come to their end.
    fn pick(
        &mut self,
        now: u64,
        path: PathId,
        lane: LaneId,
        limit: usize,
        (buckets, size): (&[BucketId], u64),
    ) -> Option<Batch> {
        let site = &mut self.sites[path.site as usize];
        let same = |picked: &[Item], next: &Item| {
            let total: usize = picked.iter().map(|item| item.recipients.len()).sum();
            picked[0].message == next.message && total + next.recipients.len() <= limit
        };
        let mut items = site.ready.take(lane, same);
        site.taken += items.len() as u64;
        site.took(now, site.place(path.source), items.len());
        let message = items.first()?.message;
        self.drop_ended(&mut items);
        let first = items.first_mut()?;
        let stream = self.messages.get(message)?.stream;
        if let Some(rest) = first.split(limit) {
            let class = self.streams.class(stream);
            self.share_host(&rest);
            self.sites[path.site as usize].ready.push_front(class, lane, rest);
        }
        let flying = items.iter().flat_map(|item| item.recipients.iter().copied());
        self.in_flight.entry(message).or_default().extend(flying);
        let recipients: usize = items.iter().map(|item| item.recipients.len()).sum();
        let state = self.sites[path.site as usize].path(path.source);
        state.sending = Wait::No;
        state.control.sends(now);
        let load = Load { recipients: recipients as u32, octets: size };
        let taken = self.shaper.take(now, &mut state.pace, buckets, load);
        self.take_warmup(now, path, recipients);
        Some(Batch { message, items, taken })
    }

    /// A batch whose recipients may not share a transaction any more: each by itself, back in front of the line.
    pub(in crate::queue) fn take_apart(&mut self, now: u64, site: SiteId, items: Vec<Item>, actions: &mut Vec<Action>) {
        self.landed(&items);
        for item in items.into_iter().rev() {
            if let Some(message) = self.messages.get_mut(item.message) {
                message.open.go_apart();
            }
            for (nth, place) in item.recipients.iter().enumerate().rev() {
                if nth > 0 {
                    self.share_host(&item);
                }
                let mut alone = item.with_none(item.attempts, item.spoilt);
                alone.recipients.push(*place);
                self.put_back(now, site, alone, actions);
            }
        }
    }

    /// A batch was not delivered: its tokens are there for others.
    pub(in crate::queue) fn give_back(&mut self, taken: Option<Taken>) {
        taken.iter().for_each(|taken| self.shaper.limits.give_back(taken));
    }

    /// Takes out recipients that came to their end while they waited here, or are about to because nobody wants them any more.
    fn drop_ended(&mut self, items: &mut Vec<Item>) {
        items.retain_mut(|item| {
            let message = self.messages.get(item.message).filter(|message| !message.is_unwanted());
            item.recipients.retain(|r| message.is_some_and(|message| message.open.has(r)));
            if item.recipients.is_empty() {
                self.hosts.release(item.host);
            }
            !item.recipients.is_empty()
        });
    }
}

/// Whether a session of the path waits for work; if none does, the path goes from the list of those that rest.
fn stays_listed(sites: &mut slab::Slab<SiteState>, path: PathId) -> bool {
    let paths = sites.get_mut(path.site as usize).map(|site| &mut site.paths);
    let Some(state) = paths.and_then(|paths| paths.iter_mut().find(|state| state.source == path.source)) else {
        return false;
    };
    state.is_listed = !state.idle.is_empty();
    state.is_listed
}

/// The path, if it is still there.
fn path_of(sites: &slab::Slab<SiteState>, path: PathId) -> Option<&PathState> {
    sites.get(path.site as usize)?.paths.iter().find(|state| state.source == path.source)
}
