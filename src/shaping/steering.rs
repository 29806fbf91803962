//! What people and the brake have to say about pace: orders, reputation, warm-up, as one.

use smallvec::SmallVec;

use super::brake::{Brake, BrakePolicy, Crossed, Fact, Level, Steps, Watched};
use super::orders::{Deed, Order, Orders};
use super::warmup::{Plan, Room, Sign, Warmup};
use super::{Gate, NEVER};
use crate::clock::Timestamp;
use crate::config::{BrakeConfig, Scope, Subject, WarmupConfig};
use crate::mail::{Class, Stream};

/// What the brake does when a stream is too bad.
#[derive(Debug, Clone, PartialEq)]
pub struct Reaction {
    /// Off: nothing is counted.
    pub enabled: bool,
    /// When.
    pub policy: BrakePolicy,
    /// A stream slowed down sends so many recipients a second to the provider.
    pub slow_per_second: f64,
    /// How long it is slowed or paused, in milliseconds; `None`: until an operator lets it go.
    pub lasts: Option<u64>,
    /// Classes that are slowed or paused, in the order of [`Class::ALL`]; of others it is only told.
    pub held: [bool; Class::ALL.len()],
}

/// The part of the configuration that is steering's.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringPolicy {
    /// The brake.
    pub reaction: Reaction,
    /// Sources to warm up.
    pub plans: Vec<Plan>,
}

/// Orders, brake and warm-up.
#[derive(Debug)]
pub struct Steering {
    /// The orders in force.
    pub orders: Orders,
    /// Sources that are warmed up.
    pub warmup: Warmup,
    brake: Brake,
    reaction: Reaction,
    /// The wall clock at zero of the queue's.
    zero: Timestamp,
}

/// The brake asks for this.
#[derive(Debug, Clone, PartialEq)]
pub struct Braked {
    /// What it saw.
    pub crossed: Crossed,
    /// What is to be ordered; `None`: it is to be told, and no more.
    pub deed: Option<Deed>,
    /// About which mail.
    pub scope: Scope,
    /// How long, in milliseconds; `None`: until an operator lets it go.
    pub lasts: Option<u64>,
    /// An operator said that it is to be let alone.
    pub exempt: bool,
}

/// What a transaction taught us of some recipients, as far as a good name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// The receiver took it.
    Delivered,
    /// There is no such user, or no such domain.
    UnknownUser,
    /// Put off or refused because of us: too fast, blocked, a bad reputation, taken for spam.
    Refused,
    /// It says nothing of us.
    Nothing,
}

impl SteeringPolicy {
    /// From a configuration that was checked.
    pub fn new(brake: &BrakeConfig, warmup: &[WarmupConfig]) -> SteeringPolicy {
        let steps = |warn, slow, pause, harm_min| {
            let share = |percent: f64| if percent > 0.0 { percent / 100.0 } else { f64::INFINITY };
            Steps { warn: share(warn), slow: share(slow), pause: share(pause), harm_min }
        };
        let complaints = steps(
            brake.complaints_warn_percent,
            brake.complaints_slow_percent,
            brake.complaints_pause_percent,
            brake.complaints_min,
        );
        let unknown_users = steps(
            brake.unknown_users_warn_percent,
            brake.unknown_users_slow_percent,
            brake.unknown_users_pause_percent,
            brake.unknown_users_min,
        );
        let reaction = Reaction {
            enabled: brake.enabled,
            policy: BrakePolicy { complaints, unknown_users, recipients_min: brake.recipients_min },
            slow_per_second: brake.slow_per_second,
            lasts: (!brake.lasts.is_zero()).then_some(brake.lasts.as_millis() as u64),
            held: Class::ALL.map(|class| brake.classes.contains(&class)),
        };
        SteeringPolicy { reaction, plans: warmup.iter().map(plan).collect() }
    }
}

fn plan(config: &WarmupConfig) -> Plan {
    Plan {
        source: config.source.clone(),
        provider: config.provider.clone(),
        start: config.start().ok().flatten(),
        per_day: config.recipients_per_day.clone(),
        deferrals_max: config.deferrals_max_percent / 100.0,
        complaints_max: config.complaints_max_percent / 100.0,
    }
}

impl Default for Steering {
    /// Nothing is ordered, counted or warmed up.
    fn default() -> Steering {
        let never = Steps { warn: f64::INFINITY, slow: f64::INFINITY, pause: f64::INFINITY, harm_min: u32::MAX };
        let policy = BrakePolicy { complaints: never, unknown_users: never, recipients_min: u32::MAX };
        let reaction =
            Reaction { enabled: false, policy, slow_per_second: 1.0, lasts: None, held: [false; Class::ALL.len()] };
        Steering {
            orders: Orders::default(),
            warmup: Warmup::default(),
            brake: Brake::new(policy),
            reaction,
            zero: Timestamp(0),
        }
    }
}

/// Who gives the orders of the brake.
pub const BRAKE: &str = "brake";

impl Steering {
    /// Puts another configuration in force. Orders stay, what was counted stays.
    pub fn set_policy(&mut self, policy: SteeringPolicy) {
        self.brake.set_policy(policy.reaction.policy);
        self.reaction = policy.reaction;
        self.warmup.set_plans(policy.plans);
    }

    /// The reputation brake.
    pub fn brake(&mut self) -> &mut Brake {
        &mut self.brake
    }

    /// It is `timestamp` at `now` on the queue's clock.
    pub fn set_time(&mut self, now: u64, timestamp: Timestamp) {
        self.zero = Timestamp(timestamp.0.saturating_sub(now));
    }

    /// The wall clock at `now` on the queue's.
    pub fn timestamp(&self, now: u64) -> Timestamp {
        Timestamp(self.zero.0.saturating_add(now))
    }

    /// A time of the wall clock on the queue's clock, rounded up; [`NEVER`] for none.
    pub fn instant(&self, time: Option<Timestamp>) -> u64 {
        time.map_or(NEVER, |time| time.0.saturating_sub(self.zero.0))
    }

    /// Nothing is ordered and nothing warmed up: every gate is open.
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.warmup.is_empty()
    }

    /// Whether anything may go by a path now, by what is ordered of paths and what its warm-up says; of the subject only
    /// provider, site, source and pool count. Takes nothing.
    pub fn gate_path(&mut self, now: u64, path: &Subject<'_>) -> Gate {
        let ordered = self.orders.gate_path(now, path);
        match self.room(now, path) {
            Room::Full(until) => ordered.and(Gate::Later(self.instant(Some(until)).max(now + 1))),
            Room::Warm | Room::Left(_) => ordered,
        }
    }

    /// Whether mail of a stream may go now, by all other orders.
    pub fn gate_mail(&self, now: u64, mail: &Subject<'_>) -> Gate {
        self.orders.gate_mail(now, mail)
    }

    /// Recipients that may go by a path in one transaction, by what its warm-up says.
    pub fn recipients_max(&mut self, now: u64, path: &Subject<'_>) -> usize {
        match self.room(now, path) {
            Room::Left(left) => usize::try_from(left).unwrap_or(usize::MAX),
            Room::Warm | Room::Full(_) => usize::MAX,
        }
    }

    /// So many recipients go by a path now.
    pub fn take(&mut self, now: u64, path: &Subject<'_>, recipients: usize) {
        self.warmup.take(path.source, path.provider, recipients as u64, self.timestamp(now));
    }

    /// What became of so many recipients of a stream that went by a source to a provider.
    pub fn learn(
        &mut self,
        now: u64,
        stream: &Stream,
        (source, provider): (&str, &str),
        learned: Learned,
        recipients: u32,
    ) -> SmallVec<[Braked; 1]> {
        let (sign, fact) = match learned {
            Learned::Delivered => (Some(Sign::Delivered), Some(Fact::Delivered)),
            Learned::UnknownUser => (None, Some(Fact::UnknownUser)),
            Learned::Refused => (Some(Sign::Refused), None),
            Learned::Nothing => (None, None),
        };
        self.note(now, stream, (Some(source), provider), sign, fact, recipients)
    }

    /// So many recipients of a stream complained of what a provider took, by this source if that is known.
    pub fn complained(
        &mut self,
        now: u64,
        stream: &Stream,
        (source, provider): (Option<&str>, &str),
        recipients: u32,
    ) -> SmallVec<[Braked; 1]> {
        self.note(now, stream, (source, provider), Some(Sign::Complained), Some(Fact::Complaint), recipients)
    }

    /// So many recipients of a stream that a provider had taken came back: it knows no such user.
    pub fn returned(&mut self, now: u64, stream: &Stream, provider: &str, recipients: u32) -> SmallVec<[Braked; 1]> {
        self.note(now, stream, (None, provider), None, Some(Fact::UnknownUser), recipients)
    }

    /// An order has ended: what the brake held begins with a clean slate.
    pub fn ended(&mut self, order: &Order) {
        if order.deed != Deed::Exempt && order.by == BRAKE {
            self.brake.forgive(|watched| order.scope.matches(&Subject::of_stream(&watched.stream, &watched.provider)));
        }
    }

    /// The shares of a day of a stream at a provider: complaints, unknown users.
    pub fn shares(&mut self, stream: &Stream, provider: &str) -> Option<(f64, f64)> {
        let watched = self.brake.watched(stream, provider);
        self.brake.shares(&watched)
    }

    fn room(&mut self, now: u64, path: &Subject<'_>) -> Room {
        if self.warmup.is_empty() {
            return Room::Warm;
        }
        self.warmup.room(path.source, path.provider, self.timestamp(now))
    }

    fn note(
        &mut self,
        now: u64,
        stream: &Stream,
        (source, provider): (Option<&str>, &str),
        sign: Option<Sign>,
        fact: Option<Fact>,
        recipients: u32,
    ) -> SmallVec<[Braked; 1]> {
        let timestamp = self.timestamp(now);
        if let (Some(source), Some(sign), false) = (source, sign, self.warmup.is_empty()) {
            self.warmup.sign(source, provider, sign, recipients.into(), timestamp);
        }
        // What we write ourselves goes where its sender is, good list or bad.
        let Some(fact) = fact.filter(|_| self.reaction.enabled && stream.class != Class::System) else {
            return SmallVec::new();
        };
        let watched = self.brake.watched(stream, provider);
        let crossed = self.brake.count(&watched, fact, recipients, timestamp);
        crossed.into_iter().map(|crossed| self.react(now, crossed)).collect()
    }

    fn react(&self, now: u64, crossed: Crossed) -> Braked {
        let Watched { stream, provider } = &crossed.watched;
        let exempt = self.orders.exempts(now, &Subject::of_stream(stream, provider));
        let held = self.reaction.held[stream.class as usize] && !exempt;
        let deed = match crossed.level {
            Level::Pause if held => Some(Deed::Pause),
            Level::Slow if held => Some(Deed::Pace { per_second: self.reaction.slow_per_second }),
            Level::Fine | Level::Warn | Level::Slow | Level::Pause => None,
        };
        let scope = Scope {
            provider: Some(provider.to_string()),
            tenant: Some(stream.tenant.to_string()),
            class: Some(stream.class),
            campaign: Some(stream.campaign.to_string()),
            ..Scope::default()
        };
        Braked { deed, scope, lasts: self.reaction.lasts, exempt, crossed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaping::orders::OrderId;

    #[test]
    fn the_brake_forgets_for_the_end_of_its_own_orders_only() {
        let mut steering = Steering::default();
        steering.set_policy(SteeringPolicy::new(&BrakeConfig::default(), &[]));
        let stream = Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() };
        for (learned, recipients) in [(Learned::Delivered, 150), (Learned::UnknownUser, 50)] {
            steering.learn(0, &stream, ("one", "google"), learned, recipients);
        }
        let scope = Scope { tenant: Some("shop".into()), ..Scope::default() };
        let order = |deed, by: &str| Order {
            id: OrderId(1),
            deed,
            scope: scope.clone(),
            reason: String::new(),
            by: by.into(),
            since: Timestamp(0),
            until: None,
        };
        let shares = Some((0.0, 0.25));
        for other in [order(Deed::Pause, "operator"), order(Deed::Exempt, BRAKE), order(Deed::Pause, "profile google")]
        {
            steering.ended(&other);
            assert_eq!(steering.shares(&stream, "google"), shares, "{other:?}");
        }
        steering.ended(&order(Deed::Pause, BRAKE));
        assert_eq!(steering.shares(&stream, "google"), None);
    }
}
