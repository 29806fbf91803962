//! What clients hand over: a trickle of transactional mail by a daily curve, and campaigns in bursts beside it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthaste::clock::Timestamp;
use posthaste::mail::{Class, Envelope, MessageId, Recipient, ReversePath, Stream};
use posthaste::spool::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::books::{Addressed, Submitted};
use crate::engine::Engine;
use crate::world::World;

const DAY: u64 = 86_400_000;

/// How much there is of it.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    pub days: u64,
    pub transactional_per_day: usize,
    pub campaigns_per_day: usize,
    pub messages_per_campaign: usize,
    /// Campaigns that all go to one place, in all.
    pub floods: usize,
    pub messages_per_flood: usize,
}

/// A message on its way to the engine.
#[derive(Debug)]
pub struct Arrival {
    pub at: Timestamp,
    stream: Stream,
    recipients: Vec<(char, usize)>,
    sender: Option<usize>,
    size: usize,
    /// Not before this long after it came.
    held: Duration,
    lifetime: Duration,
}

/// Everything that will be handed over, in order of time.
pub fn arrivals(world: &World, seed: u64, start: Timestamp, volume: Volume) -> Vec<Arrival> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x74_7261_6666_6963);
    let mut arrivals = Vec::new();
    for day in 0..volume.days {
        for _ in 0..volume.transactional_per_day {
            arrivals.push(transactional(world, start.0 + day * DAY + hour_of_day(&mut rng), &mut rng));
        }
        for campaign in 0..volume.campaigns_per_day {
            let at = start.0 + day * DAY + rng.random_range(7 * 3_600_000..19 * 3_600_000);
            let name = format!("c{day}-{campaign}");
            arrivals.extend(burst(world, at, &name, volume.messages_per_campaign, &mut rng));
        }
    }
    for number in 0..volume.floods {
        let at = start.0 + rng.random_range(0..volume.days) * DAY + rng.random_range(0..DAY * 9 / 10);
        arrivals.extend(flood(world, at, &format!("f{number}"), volume.messages_per_flood, &mut rng));
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// A campaign that comes all at once, for one place.
pub fn campaign(at: Timestamp, place: usize, messages: usize) -> Vec<Arrival> {
    let stream = Stream { tenant: "t0".into(), class: Class::Bulk, campaign: "steps".into() };
    let one = || Arrival {
        at,
        stream: stream.clone(),
        recipients: vec![('r', place)],
        sender: Some(place),
        size: 500,
        held: Duration::ZERO,
        lifetime: Duration::from_secs(2 * 86_400),
    };
    std::iter::repeat_with(one).take(messages).collect()
}

/// One message of a stream to one place.
pub fn single(at: Timestamp, stream: Stream, place: usize) -> Arrival {
    let lifetime = Duration::from_secs(2 * 86_400);
    Arrival { at, stream, recipients: vec![('r', place)], sender: Some(0), size: 500, held: Duration::ZERO, lifetime }
}

/// Four times as much at three in the afternoon as at three in the morning.
fn hour_of_day(rng: &mut SmallRng) -> u64 {
    loop {
        let at = rng.random_range(0..DAY);
        let noon = (at as f64 / DAY as f64 - 0.625) * std::f64::consts::TAU;
        if rng.random_bool(0.625 + 0.375 * noon.cos()) {
            return at;
        }
    }
}

fn transactional(world: &World, at: u64, rng: &mut SmallRng) -> Arrival {
    let stream = Stream { tenant: format!("t{}", rng.random_range(0..5)).into(), ..Stream::default() };
    let (mut held, mut lifetime) = (0, 2 * 24 * 60);
    match rng.random_range(0..20) {
        0 => held = rng.random_range(1..36 * 60),
        1 | 2 => lifetime = rng.random_range(2..30),
        _ => {}
    }
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let held = minutes(held);
    Arrival {
        at: Timestamp(at),
        stream,
        recipients: vec![recipient(world, rng)],
        sender: sender(world, rng),
        size: rng.random_range(400..4_000),
        held,
        lifetime: held + minutes(lifetime),
    }
}

fn burst(world: &World, at: u64, name: &str, messages: usize, rng: &mut SmallRng) -> Vec<Arrival> {
    let stream =
        Stream { tenant: format!("t{}", rng.random_range(0..5)).into(), class: Class::Bulk, campaign: name.into() };
    let (pace, sender) = (rng.random_range(5..200), sender(world, rng));
    let each = |place| {
        let most = if rng.random_bool(0.02) { 60 } else { 3 };
        let count = rng.random_range(1..=most);
        Arrival {
            at: Timestamp(at + place as u64 * pace),
            stream: stream.clone(),
            recipients: (0..count).map(|_| recipient(world, rng)).collect(),
            sender,
            size: rng.random_range(800..3_000),
            held: Duration::ZERO,
            lifetime: Duration::from_secs(2 * 86_400),
        }
    };
    (0..messages).map(each).collect()
}

/// A campaign to one place that takes everything, faster than it takes it; beside it, mail that somebody waits for.
fn flood(world: &World, at: u64, name: &str, messages: usize, rng: &mut SmallRng) -> Vec<Arrival> {
    let healthy: Vec<usize> = (0..world.places.len()).filter(|place| world.places[*place].healthy).collect();
    // The first two are at the site that has a pace of its own.
    let place = if rng.random_bool(0.7) { rng.random_range(0..2) } else { healthy[rng.random_range(0..healthy.len())] };
    let mut arrivals = burst(world, at, name, messages, rng);
    let pace = rng.random_range(1..30);
    for (number, arrival) in (0..).zip(&mut arrivals) {
        arrival.at = Timestamp(at + pace * number);
        arrival.recipients = vec![('r', place)];
        // Some of it is not worth sending by the time its turn comes.
        if rng.random_bool(0.1) {
            arrival.lifetime = Duration::from_secs(rng.random_range(15..60));
        }
    }
    arrivals.extend((0..20).map(|_| {
        let mut urgent = transactional(world, at + rng.random_range(0..60_000), rng);
        urgent.recipients = vec![('r', place)];
        urgent
    }));
    arrivals
}

/// The kind of a user, and where he lives.
fn recipient(world: &World, rng: &mut SmallRng) -> (char, usize) {
    let kind = match rng.random_range(0..40) {
        0 => 'u',
        1 | 2 => 'f',
        _ => 'r',
    };
    let total: u32 = world.places.iter().map(|place| place.weight).sum();
    let mut left = rng.random_range(0..total);
    let place = world.places.iter().position(|place| match left.checked_sub(place.weight) {
        Some(less) => {
            left = less;
            false
        }
        None => true,
    });
    (kind, place.expect("weights add up"))
}

/// Most senders can be reached; some are nobody, or live where nobody answers.
fn sender(world: &World, rng: &mut SmallRng) -> Option<usize> {
    (!rng.random_bool(0.05)).then(|| match rng.random_bool(0.9) {
        true => rng.random_range(0..10),
        false => rng.random_range(0..world.places.len()),
    })
}

impl Arrival {
    /// Hands it over. The books hear of it before, and of the answer when it comes.
    pub fn submit(&self, engine: &Engine, world: &std::sync::Arc<World>) {
        let id = engine.queue.next_ids(1);
        let at = world.now();
        let first = world.books().next_line();
        let lines: Vec<Addressed> = (first..)
            .zip(&self.recipients)
            .map(|(number, (kind, place))| {
                let place = &world.places[*place];
                let address = format!("{kind}{number}@{}", place.name);
                Addressed { address, healthy: place.healthy, nowhere: place.nowhere, site: place.site }
            })
            .collect();
        let content = self.content(id);
        let envelope = Envelope {
            reverse_path: match self.sender {
                Some(place) => {
                    ReversePath::Address(format!("s{place}@{}", world.places[place].name).parse().expect("an address"))
                }
                None => ReversePath::Null,
            },
            recipients: lines.iter().map(|line| Recipient::new(line.address.parse().expect("an address"))).collect(),
            stream: self.stream.clone(),
            accepted_at: at,
            not_before: at.after(self.held),
            expires_at: at.after(self.lifetime),
            smtputf8: false,
            eight_bit: false,
            ret: None,
            envid: None,
            list: None,
            tags: Vec::new(),
            key: None,
            delay_report_at: None,
        };
        world.books().submit(
            Submitted {
                id,
                class: self.stream.class,
                tenant: self.stream.tenant.as_ref().into(),
                stream: format!("{}/{}", self.stream.tenant, self.stream.campaign).into(),
                not_before: envelope.not_before,
                expires_at: envelope.expires_at,
                content_crc: crc32fast::hash(&content),
                recipients: first..first + lines.len(),
                kept: false,
                reachable: self.sender.is_some_and(|place| world.places[place].healthy),
            },
            lines,
        );
        world.books().waiting(engine.queue.open_recipients());
        world.note(format_args!("submit {id} to {} recipients", self.recipients.len()));
        let answer = engine.queue.accept(smallvec::smallvec![Arc::new(Message::new(id, envelope, content))]);
        let world = std::sync::Arc::clone(world);
        tokio::spawn(async move {
            if answer.await.is_ok() {
                world.books().keep(id);
            }
        });
    }

    /// Long lines, and some that begin with a dot.
    fn content(&self, id: MessageId) -> Bytes {
        let mut text = format!("From: a@sim.example\r\nSubject: {id}\r\n\r\n.a dot\r\n");
        while text.len() < self.size {
            text.push_str(&"posthaste ".repeat(90));
            text.push_str("\r\n..\r\n");
        }
        text.into()
    }
}
