//! Why mail goes as it goes: everything that has a say in where a recipient's mail would go now, and when.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::site::{Health, PathState};
use super::steer::pause_in_words;
use super::{Queue, Scheduler};
use crate::clock::Timestamp;
use crate::config::Subject;
use crate::mail::{EnvelopeAddress, Stream};
use crate::routing::{Egress, NoRoute, PoolId, Route, SourceId};
use crate::shaping::orders::{Deed, Order};
use crate::shaping::warmup::Progress;
use crate::shaping::{Allowed, Counted, Gate, InForce, NEVER, Row};

/// Where mail for an address would go now, and at what pace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// Whose mail: a tenant, or nobody in particular.
    pub tenant: String,
    /// Its class.
    pub class: String,
    /// Its campaign.
    pub campaign: String,
    /// The way; `None`: there is none, see `no_route`.
    pub route: Option<RouteView>,
    /// Why there is no way.
    pub no_route: Option<String>,
    /// The pool of sources that sends this stream.
    pub pool: String,
    /// Items of that pool that stand in line at the site.
    pub ready: usize,
    /// Its sources, each with what holds it.
    pub paths: Vec<PathView>,
    /// Orders that apply, in words.
    pub orders: Vec<String>,
    /// Shares of the last day by which the reputation brake judges the stream here, if it has seen any of its mail.
    pub reputation: Option<Reputation>,
    /// When a message could go: RFC 3339, or `further notice`; `None`: now.
    pub not_before: Option<String>,
    /// All of it in a sentence.
    pub verdict: String,
}

/// The way to a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// What shares limits.
    pub site: String,
    /// Its family.
    pub provider: String,
    /// From a `[[route]]`.
    pub fixed: bool,
    /// What a session must have.
    pub tls: String,
    /// The hosts, best first, as `10 mx.example:25`.
    pub hosts: Vec<String>,
    /// Seconds until it is looked up again.
    pub valid_for: u64,
}

/// A source, as it stands towards the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The source.
    pub source: String,
    /// Its addresses; empty: the system chooses.
    pub addresses: Vec<String>,
    /// Sessions open or opening.
    pub sessions: usize,
    /// Sessions that wait for mail, or for their pace.
    pub idle: usize,
    /// Sessions it may have, as its controller found; `None`: as many as the configuration allows.
    pub sessions_max: Option<usize>,
    /// Messages a second, as its controller found; `None`: nobody asked us to slow down.
    pub per_second: Option<f64>,
    /// `open`, `shut`, `out`, or `unused` while nothing went that way.
    pub health: String,
    /// What the health is about.
    pub reason: Option<String>,
    /// How far it is warmed up here.
    pub warmup: Option<Progress>,
    /// When a message could go this way: RFC 3339, or `further notice`; `None`: now.
    pub not_before: Option<String>,
    /// What makes it wait.
    pub held_by: Vec<String>,
    /// The limits that hold for such mail on this way.
    pub limits: Vec<LimitView>,
}

/// A limit in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitView {
    /// Where it stands: `limit[2]`, or a profile.
    pub name: String,
    /// What it counts, and how much of it it allows.
    pub allows: String,
    /// What can be taken now; negative: owed.
    pub left: f64,
    /// When the next can be taken; `None`: when a connection ends.
    pub next: Option<String>,
    /// How many wait for it.
    pub waiting: usize,
}

/// Shares of a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    /// Complaints, in percent of what was delivered.
    pub complaints_percent: f64,
    /// Unknown users, in percent of what came to a verdict.
    pub unknown_users_percent: f64,
}

/// The queue's clock beside the wall's.
#[derive(Debug, Clone, Copy)]
struct Times {
    now: u64,
    timestamp: Timestamp,
}

impl Times {
    /// An instant of the queue's clock, as people read it.
    fn tell(self, instant: u64) -> String {
        if instant == NEVER {
            return "further notice".into();
        }
        Timestamp(self.timestamp.0 + instant.saturating_sub(self.now)).to_string()
    }
}

impl Queue {
    /// Where mail of a stream to an address would go now, at what pace, and why. Asks the DNS; changes nothing.
    pub async fn explain(self: &Arc<Queue>, address: &EnvelopeAddress, stream: &Stream) -> Explanation {
        let parts = self.parts.load_full();
        let host = address.host();
        let found = parts.router.route(host).await;
        let pool = parts.egress.pool_of(stream);
        let mut explained = Explanation {
            address: address.to_string(),
            tenant: stream.tenant.to_string(),
            class: stream.class.as_str().into(),
            campaign: stream.campaign.to_string(),
            route: None,
            no_route: None,
            pool: parts.egress.pool_name(pool).to_owned(),
            ready: 0,
            paths: Vec::new(),
            orders: Vec::new(),
            reputation: None,
            not_before: None,
            verdict: String::new(),
        };
        let route = match &found {
            Ok(route) => route,
            Err(none) => {
                let text = none.failure().reply.to_string();
                explained.verdict = match none {
                    NoRoute::Later { .. } => format!("would wait by the retry schedule: {text}"),
                    NoRoute::Never { .. } => format!("would bounce: {text}"),
                };
                explained.no_route = Some(text);
                return explained;
            }
        };
        let valid_for = route.valid_until.saturating_duration_since(self.clock.instant()).as_secs();
        explained.route = Some(view(route, valid_for));
        let domain = host.to_string();
        let times = Times { now: self.now(), timestamp: self.clock.timestamp() };
        let scheduler = &mut *self.lock();
        scheduler.steering().set_time(times.now, times.timestamp);
        let subject = Subject {
            site: route.site.as_str(),
            domain: &domain,
            pool: parts.egress.pool_name(pool),
            ..Subject::of_stream(stream, route.provider)
        };
        explained.ready = scheduler.known_site(&route.site, pool).map_or(0, |site| scheduler.site(site).ready.len());
        let mut soonest: Option<Gate> = None;
        for source in parts.egress.sources_of(pool) {
            let (path, gate) = path_view(scheduler, &parts.egress, times, route, &subject, (pool, source.0));
            explained.paths.push(path);
            soonest = Some(match (soonest, gate) {
                (Some(Gate::Later(one)), Gate::Later(other)) => Gate::Later(one.min(other)),
                (None, gate) => gate,
                (Some(Gate::Go | Gate::Behind(_)), _) | (_, Gate::Go | Gate::Behind(_)) => Gate::Go,
            });
        }
        explained.orders = scheduler.steering().orders.about(&subject).into_iter().map(order_in_words).collect();
        let shares = scheduler.steering().shares(stream, route.provider);
        explained.reputation = shares.map(|(complaints, unknown_users)| Reputation {
            complaints_percent: complaints * 100.0,
            unknown_users_percent: unknown_users * 100.0,
        });
        explained.judge(times, soonest.unwrap_or(Gate::Go));
        explained
    }
}

impl Explanation {
    fn judge(&mut self, times: Times, gate: Gate) {
        self.verdict = match gate {
            Gate::Go | Gate::Behind(_) => {
                let way = self.paths.iter().find(|path| path.not_before.is_none()).map_or("?", |path| &path.source);
                let paced = self.paths.iter().find(|path| path.not_before.is_none()).and_then(|path| path.per_second);
                match paced.filter(|_| self.ready > 0) {
                    Some(rate) => {
                        format!("would go by {way}, paced at {rate:.2}/s, behind {} that are ready", self.ready)
                    }
                    None => format!("would go now, by {way}"),
                }
            }
            Gate::Later(until) => {
                self.not_before = Some(times.tell(until));
                // What holds the way that opens first.
                let first = self.paths.iter().find(|path| path.not_before == self.not_before);
                let all = first.into_iter().chain(&self.paths);
                let why = all.flat_map(|path| &path.held_by).next().map_or("no path is open", String::as_str);
                format!("would wait until {}: {why}", times.tell(until))
            }
        };
    }
}

/// A path, and when a message could go by it.
fn path_view(
    scheduler: &mut Scheduler,
    egress: &Egress,
    times: Times,
    route: &Route,
    subject: &Subject<'_>,
    (pool, source): (PoolId, SourceId),
) -> (PathView, Gate) {
    let name = &*egress.source(source).name;
    let subject = Subject { source: name, ..*subject };
    let site = scheduler.known_site(&route.site, pool);
    let known = site.and_then(|site| scheduler.site(site).paths.iter().find(|path| path.source == source));
    let (health, reason, mut gate) = health_of(known, times.now);
    let mut held_by: Vec<String> = reason.iter().map(|reason| format!("the path is {health}: {reason}")).collect();
    let (sessions, idle) = known.map_or((0, 0), |path| (path.sessions, path.idle.len()));
    let sessions_max = known.map(|path| path.control.sessions_max()).filter(|max| *max < usize::MAX);
    let per_second = known.and_then(|path| path.control.per_second());
    let paced = known.and_then(|path| paced_in_words(path, times.now));
    if let Some((words, until)) = paced {
        held_by.push(words);
        gate = gate.and(Gate::Later(until));
    }
    let steering = scheduler.steering();
    let warmup = steering.warmup.progress_of(name, subject.provider, times.timestamp);
    if let Some(pause) = steering.orders.pause(times.now, &subject) {
        held_by.push(pause_in_words(pause));
    }
    let ordered = steering.gate_path(times.now, &subject).and(steering.gate_mail(times.now, &subject));
    if let (Gate::Later(until), Some(progress)) = (steering.gate_path(times.now, &subject), &warmup)
        && !progress.warm
    {
        held_by.push(format!(
            "warm-up, day {} of {}: {} of {} recipients sent today{}, more at {}",
            progress.day,
            progress.days,
            progress.sent,
            progress.per_day,
            if progress.braked { " and braked" } else { "" },
            times.tell(until)
        ));
    }
    gate = gate.and(ordered);
    let mut limits = Vec::new();
    for limit in scheduler.limits_of(times.now, &subject) {
        let view = limit_view(&limit, times);
        if let Some(until) = limit.next.filter(|until| *until > times.now) {
            gate = gate.and(Gate::Later(until));
            held_by.push(format!("{}: {}", view.name, view.allows));
        }
        limits.push(view);
    }
    let not_before = match gate {
        Gate::Go | Gate::Behind(_) => None,
        Gate::Later(until) => Some(times.tell(until)),
    };
    let addresses = egress.source(source).addresses.iter().map(ToString::to_string).collect();
    let view = PathView {
        source: name.into(),
        addresses,
        sessions,
        idle,
        sessions_max,
        per_second,
        health: health.into(),
        reason,
        warmup,
        not_before,
        held_by,
        limits,
    };
    (view, gate)
}

/// The pace that was found, if it lets nothing go now, and when it does.
fn paced_in_words(path: &PathState, now: u64) -> Option<(String, u64)> {
    let (rate, next) = (path.control.per_second()?, path.control.next_at(now));
    let wait = next.saturating_sub(now) as f64 / 1000.0;
    (next > now).then(|| (format!("paced at {rate:.2}/s, next slot in {wait:.1} s"), next))
}

fn limit_view(limit: &InForce<'_>, times: Times) -> LimitView {
    let Row { name, counted, allowed, .. } = limit.row;
    let counted = match counted {
        Counted::Connections => "connections",
        Counted::Dials => "connections opened",
        Counted::Messages => "messages",
        Counted::Recipients => "recipients",
        Counted::Octets => "octets",
    };
    let allows = match allowed {
        Allowed::AtOnce(most) => format!("{most} {counted} at once"),
        Allowed::PerTime(rate) => format!("{:.4} {counted} a second, {} at once", rate.per_second(), rate.burst()),
    };
    LimitView {
        name: name.clone(),
        allows,
        left: (limit.left * 1000.0).round() / 1000.0,
        next: limit.next.map(|next| times.tell(next)),
        waiting: limit.waiting,
    }
}

fn health_of(path: Option<&PathState>, now: u64) -> (&'static str, Option<String>, Gate) {
    if path.is_some_and(|path| path.out) {
        return ("out", Some("its source cannot be used; see /readyz".into()), Gate::Later(NEVER));
    }
    match path.map(|path| &path.health) {
        None => ("unused", None, Gate::Go),
        Some(Health::Shut { until, failure, .. }) if now < *until => {
            ("shut", Some(failure.reply.to_string()), Gate::Later(*until))
        }
        Some(Health::Open { .. } | Health::Shut { .. }) => ("open", None, Gate::Go),
    }
}

fn view(route: &Route, valid_for: u64) -> RouteView {
    let host = |hop: &crate::routing::Hop| format!("{} {}:{}", hop.preference, hop.host, hop.port);
    RouteView {
        site: route.site.to_string(),
        provider: route.provider.to_string(),
        fixed: route.fixed,
        tls: format!("{:?}", route.tls).to_lowercase(),
        hosts: route.hops.iter().map(host).collect(),
        valid_for,
    }
}

fn order_in_words(order: &Order) -> String {
    match order.deed {
        Deed::Pause => pause_in_words(order),
        Deed::Pace { per_second } => format!("order {} by {}: {per_second} recipients a second", order.id.0, order.by),
        Deed::Exempt => format!("order {} by {}: the reputation brake lets it be", order.id.0, order.by),
    }
}
