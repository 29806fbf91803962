//! Over how many sessions one path sends. The module above tells the idea.

use std::num::NonZeroU32;

use super::pace::PRICE;
use super::{Bounds, Cause, Millis};

/// One more session is tried no sooner than this after one was refused, and after one was granted, in milliseconds.
const REST: (Millis, Millis) = (15_000, 2_000);
/// Messages that are answered between one session more and the next.
const STEP: f64 = 10.0;
/// Sessions are judged by their replies' time no more often than this, in milliseconds, and answers.
const JUDGED: (Millis, u32) = (2_000, 16);
/// Slow: so many times what replies took at best, and so many milliseconds more.
const SLOW: (f32, f32) = (3.0, 500.0);
/// What the best of times is multiplied by at each judgement: it is forgotten by half in about twelve minutes.
const FORGETS: f32 = 1.002;
/// Not slow: a session more may be tried.
const WELL: (f32, f32) = (2.0, 250.0);

/// How many sessions, and how that was found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Width {
    /// `None`: as many as are configured.
    max: Option<NonZeroU32>,
    /// How many more are tried next.
    step: u32,
    /// Messages that must be answered before.
    debt: f32,
    /// Not before then.
    rest_until: Millis,
    /// Milliseconds that replies take at best, and of late; 0: nobody knows.
    best: f32,
    recent: f32,
    /// Answers since replies were judged, and when that was.
    answers: u32,
    judged: Millis,
    /// What replies took when sessions were closed because of it; 0: they were not.
    slow: f32,
}

impl Width {
    /// A limit that is known from before.
    pub(super) fn resumed(now: Millis, sessions: Option<u32>) -> Width {
        let mut width = Width::default();
        if let Some(max) = sessions {
            width.narrow(now, max);
        }
        width
    }

    /// Sessions there may be.
    pub(super) fn max(&self) -> Option<NonZeroU32> {
        self.max
    }

    /// One was refused while so many stood.
    pub(super) fn refused(&mut self, now: Millis, sessions: u32) {
        let max = self.max.map_or(u32::MAX, NonZeroU32::get);
        self.slow = 0.0;
        self.narrow(now, sessions.min(max));
    }

    /// One was let in: so many stand, so many are allowed. (Of several that knock together, the first that is refused
    /// does not know of those that will be let in.)
    pub(super) fn connected(&mut self, sessions: u32) {
        if let (Some(max), Some(sessions), 0.0) = (self.max, NonZeroU32::new(sessions), self.slow) {
            self.max = Some(max.max(sessions));
        }
    }

    /// A message was answered while so many stood; one that was taken took that many milliseconds. Returns why, if the limit
    /// changed for the worse.
    pub(super) fn answered(
        &mut self,
        now: Millis,
        took: Option<Millis>,
        sessions: u32,
        bounds: &Bounds,
    ) -> Option<Cause> {
        self.debt = (self.debt - 1.0).max(0.0);
        if let Some(cause) = took.and_then(|took| self.judge(now, took, sessions)) {
            return Some(cause);
        }
        let max = self.max?.get();
        let well = self.recent < WELL.0 * self.best + WELL.1;
        if sessions >= max && self.debt == 0.0 && now >= self.rest_until && well {
            let wider = max.saturating_add(self.step);
            self.max = NonZeroU32::new(wider).filter(|max| max.get() < bounds.sessions_max);
            self.step = self.step.saturating_mul(2);
            self.debt = STEP as f32;
            self.rest_until = now + REST.1;
        }
        None
    }

    /// Follows what messages take, and closes sessions if that is too long.
    fn judge(&mut self, now: Millis, took: Millis, sessions: u32) -> Option<Cause> {
        self.clock(took as f32);
        // What was begun before sessions were closed does not show yet what that did.
        self.answers += u32::from(now.saturating_sub(took) >= self.judged);
        if self.answers < JUDGED.1 || now < self.judged + JUDGED.0 {
            return None;
        }
        (self.answers, self.judged) = (0, now);
        self.best = (FORGETS * self.best).min(self.recent.max(1.0));
        if sessions > 1 && self.recent > SLOW.0 * self.best + SLOW.1 {
            return self.too_slow(now, sessions);
        }
        self.slow = 0.0;
        None
    }

    /// Replies take much longer than they did. Fewer sessions help if it is because of us.
    fn too_slow(&mut self, now: Millis, sessions: u32) -> Option<Cause> {
        if self.slow > 0.0 && self.recent > 0.8 * self.slow {
            // It was not.
            (self.best, self.slow) = (self.recent, 0.0);
            return None;
        }
        self.slow = self.recent;
        self.narrow(now, sessions / 2);
        Some(Cause::Latency)
    }

    fn narrow(&mut self, now: Millis, sessions: u32) {
        self.max = NonZeroU32::new(sessions.max(1));
        self.step = 1;
        self.debt = PRICE as f32;
        self.rest_until = now + REST.0;
    }

    /// Follows what replies take: a mean of the last ones, and the best it has been.
    fn clock(&mut self, took: f32) {
        if self.best == 0.0 {
            (self.best, self.recent) = (took.max(1.0), took);
        }
        self.recent += (took - self.recent) / 8.0;
        self.best = self.best.min(self.recent.max(1.0));
    }
}
