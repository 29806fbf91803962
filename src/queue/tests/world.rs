//! The scheduler between senders and receivers that take a while, on simulated time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::config::LimitConfig;
use crate::mail::{AddressHost, Class, MessageId, Stream};
use crate::queue::probe;
use crate::queue::scheduler::{Action, Batch, Group, Limits, Newcomer, PathId, Scheduler};
use crate::routing::Route;
use crate::shaping::Rows;

pub(super) const SECOND: u64 = 1_000;

/// Nobody's time is up here.
pub(super) const NEVER: u64 = 1 << 40;

/// One transaction: when it began, at which site, for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) at: u64,
    pub(super) message: MessageId,
    pub(super) site: u32,
    pub(super) recipients: usize,
}

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: u64,
    pub(super) actions: Vec<Action>,
    pub(super) routes: HashMap<AddressHost, Arc<Route>>,
    pub(super) hosts: Vec<AddressHost>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(super) serial: u64,
    sessions: Vec<Session>,
    pub(super) by_notify: HashMap<usize, usize>,
    pub(super) sent: Vec<Sent>,
    pub(super) messages: u64,
    /// How long it takes to connect, and to deliver.
    pub(super) takes: (u64, u64),
    pub(super) connections_most: usize,
    /// Times a session asked for work.
    pub(super) asked: usize,
}

struct Session {
    path: PathId,
    wake: Arc<Notify>,
    batch: Option<Batch>,
    idle: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connected(u32, u16),
    Delivered(usize),
    IdledOut(usize, u64),
}

/// Rows as they are written in the file.
pub(super) fn rows(text: &str) -> Rows {
    #[derive(serde::Deserialize)]
    struct File {
        limit: Vec<LimitConfig>,
    }
    Rows::new(&toml::from_str::<File>(text).expect("rows").limit)
}

pub(super) fn stream(tenant: &str, class: Class) -> Stream {
    Stream { tenant: tenant.into(), class, campaign: "".into() }
}

impl World {
    pub(super) fn new(sites: u16, limits: &str) -> World {
        let mut scheduler = Scheduler::default();
        scheduler.limits = Limits {
            connections_max: 1_000,
            connections_per_site: 20,
            recipients_per_transaction: 100,
            pause_min: 1_000,
            pause_max: 8_000,
            bounds: HashMap::new(),
        };
        scheduler.set_rows(0, rows(limits), &mut Vec::new());
        let hosts: Vec<AddressHost> =
            (1..=sites).map(|n| AddressHost::Domain(format!("h{n}.example").parse().expect("a domain"))).collect();
        World {
            scheduler,
            now: 0,
            actions: Vec::new(),
            routes: hosts.iter().cloned().zip(probe::relays(sites)).collect(),
            hosts,
            events: BinaryHeap::new(),
            serial: 0,
            sessions: Vec::new(),
            by_notify: HashMap::new(),
            sent: Vec::new(),
            messages: 0,
            takes: (50, 20),
            connections_most: 0,
            asked: 0,
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((self.now + ms, self.serial, event)));
    }

    pub(super) fn accept(&mut self, stream: &Stream, host: usize, size: u64) -> MessageId {
        self.accept_for(stream, host, size, 1)
    }

    pub(super) fn accept_for(&mut self, stream: &Stream, host: usize, size: u64, recipients: u32) -> MessageId {
        self.messages += 1;
        let id = MessageId(self.messages);
        let host = self.hosts[host].clone();
        let groups = [Group {
            host: &host,
            attempts: 0,
            late: false,
            recipients: (0..recipients).collect(),
            due: self.now,
            refused: false,
        }];
        let recipients = recipients as usize;
        let newcomer =
            Newcomer { id, stream, accepted_at: Timestamp(0), recipients, size, expires: NEVER, apart: false };
        self.scheduler.add(self.now, newcomer, groups, &mut self.actions);
        self.carry_out();
        id
    }

    pub(super) fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Resolve(host, name) => {
                        let route = Arc::clone(&self.routes[&name]);
                        self.scheduler.routed(self.now, host, Ok(route), u64::MAX, &mut self.actions);
                    }
                    Action::Connect(path) => self.after(self.takes.0, Event::Connected(path.site, path.source.0)),
                    Action::Wake(session) => {
                        let place = self.by_notify[&(Arc::as_ptr(&session) as usize)];
                        self.sessions[place].idle = false;
                        self.pull(place);
                    }
                    Action::OrderEnded(_) => {}
                    other => panic!("nothing fails here: {other:?}"),
                }
            }
        }
        self.connections_most = self.connections_most.max(self.scheduler.connections);
    }

    fn pull(&mut self, place: usize) {
        let session = &mut self.sessions[place];
        self.asked += 1;
        let (path, wake) = (session.path, Arc::clone(&session.wake));
        let must = self.scheduler.must_hand_on(path);
        let batch = if must { None } else { self.scheduler.next_batch(self.now, path, &wake, &mut self.actions) };
        if let Some(batch) = batch {
            let recipients = batch.items.iter().map(|item| item.recipients.len()).sum();
            self.sent.push(Sent { at: self.now, message: batch.message, site: path.site, recipients });
            self.sessions[place].batch = Some(batch);
            self.after(self.takes.1, Event::Delivered(place));
        } else if must || self.scheduler.is_crowded(path) {
            self.scheduler.leave_idle(path, &wake);
            self.scheduler.session_ended(self.now, path, false, &mut self.actions);
        } else {
            self.sessions[place].idle = true;
            self.after(5 * SECOND, Event::IdledOut(place, self.asked as u64));
        }
    }

    /// Lets time pass until then, by steps to whatever happens next.
    pub(super) fn run(&mut self, until: u64) {
        loop {
            let timer = self.scheduler.arm().unwrap_or(u64::MAX);
            let event = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let next = timer.min(event);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            if timer <= event {
                self.scheduler.tick(self.now, &mut self.actions);
            } else if let Some(Reverse((.., event))) = self.events.pop() {
                self.happens(event);
            }
            self.carry_out();
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Connected(site, source) => {
                let path = PathId { site, source: crate::routing::SourceId(source) };
                self.scheduler.connected(self.now, path, &mut self.actions);
                let wake: Arc<Notify> = Arc::default();
                self.by_notify.insert(Arc::as_ptr(&wake) as usize, self.sessions.len());
                self.sessions.push(Session { path, wake, batch: None, idle: false });
                self.pull(self.sessions.len() - 1);
            }
            Event::Delivered(place) => {
                let path = self.sessions[place].path;
                if let Some(batch) = self.sessions[place].batch.take() {
                    self.scheduler.landed(&batch.items);
                    for item in batch.items {
                        let ended = item.recipients.iter().filter(|r| self.scheduler.end(item.message, **r)).count();
                        self.scheduler.recorded(item.message, ended as u32);
                        self.scheduler.drop_item(&item);
                    }
                }
                self.scheduler.proved(path);
                self.pull(place);
            }
            Event::IdledOut(place, asked) => {
                let session = &self.sessions[place];
                let (path, wake) = (session.path, Arc::clone(&session.wake));
                if session.idle && asked <= self.asked as u64 && self.scheduler.leave_idle(path, &wake) {
                    self.sessions[place].idle = false;
                    self.scheduler.session_ended(self.now, path, false, &mut self.actions);
                }
            }
        }
    }

    pub(super) fn sent_between(&self, from: u64, to: u64) -> usize {
        self.sent.iter().filter(|sent| (from..to).contains(&sent.at)).map(|sent| sent.recipients).sum()
    }

    /// The longest wait of these, but for the longest hundredth.
    pub(super) fn p99(&self, accepted: &HashMap<MessageId, u64>) -> u64 {
        let mut waits: Vec<u64> =
            self.sent.iter().filter_map(|sent| Some(sent.at - accepted.get(&sent.message)?)).collect();
        assert_eq!(waits.len(), accepted.len(), "all of them went");
        waits.sort_unstable();
        waits[waits.len() * 99 / 100 - 1]
    }
}
