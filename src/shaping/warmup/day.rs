//! One source at one provider: what was counted today and this hour, and what becomes of the plan when the day ends.

use serde::{Deserialize, Serialize};

use super::{Plan, Step, Stepped};
use crate::clock::Timestamp;

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const DAY: u64 = 24 * HOUR;

/// An hour has this part of its day.
const HOURS_PART: u64 = 8;

/// What is kept of a track over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Which source.
    pub source: String,
    /// At which provider.
    pub provider: String,
    /// Days of the plan that are done.
    pub(super) step: usize,
    /// The day since 1970 that is counted.
    pub(super) today: u64,
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) refused: u64,
    pub(super) complained: u64,
    pub(super) braked: bool,
    /// The hour since 1970 that is counted.
    pub(super) hour: u64,
    pub(super) sent_in_hour: u64,
}

/// What an hour may take of its day.
pub(super) fn in_hour(per_day: u64) -> u64 {
    per_day.div_ceil(HOURS_PART)
}

impl Kept {
    /// Begins a new hour or day if it is time; what that changes. A clock set back begins none; if it is by more than two days, what was
    /// counted counts as today's: nobody waits for a day that was a mistake.
    pub(super) fn turn(&mut self, plan: &Plan, now: Timestamp) -> Option<Stepped> {
        let (today, hour) = (now.0 / DAY, now.0 / HOUR);
        if self.today > today + 1 || self.hour > hour + 48 {
            (self.today, self.hour) = (today, hour);
        }
        if hour > self.hour {
            (self.hour, self.sent_in_hour) = (hour, 0);
        }
        if today <= self.today {
            return None;
        }
        let allowed = plan.per_day.get(self.step).copied();
        let stepped = match allowed {
            // Warm, and stays so.
            None => None,
            Some(_) if self.braked => Some(Stepped::Back),
            Some(allowed) if self.sent.saturating_mul(2) >= allowed => Some(Stepped::Forward),
            Some(_) => None,
        };
        let stepped = match stepped {
            Some(Stepped::Forward) if self.step.saturating_add(1) >= plan.per_day.len() => Some(Stepped::Warm),
            stepped => stepped,
        };
        match stepped {
            Some(Stepped::Forward | Stepped::Warm) => self.step += 1,
            Some(Stepped::Back) => self.step = self.step.saturating_sub(1),
            Some(Stepped::Braked) | None => {}
        }
        (self.today, self.braked) = (today, false);
        (self.sent, self.delivered, self.refused, self.complained) = (0, 0, 0, 0);
        stepped
    }

    pub(super) fn told(&self, what: Stepped, plan: &Plan) -> Step {
        Step {
            source: self.source.clone(),
            provider: self.provider.clone(),
            what,
            day: self.step.saturating_add(1).min(plan.per_day.len()),
            per_day: plan.per_day.get(self.step).copied().unwrap_or(0),
        }
    }
}
