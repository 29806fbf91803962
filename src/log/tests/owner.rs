//! An owner of records as the spool is one: messages that are put, change state, are copied (`reclaim.rs`) and deleted.

mod reclaim;

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use smallvec::smallvec;

use super::super::*;
use crate::log::sim::SimFiles;
use crate::telemetry::Metrics;

const PUT: u8 = 1;
const STATE: u8 = 2;
const DELETE: u8 = 3;

/// What the client was promised about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Acknowledged: must be there, in at least this state.
    Kept { state: u64 },
    /// Its deletion was acknowledged: must not be there.
    Deleted,
    /// Anything: an answer is outstanding.
    Open,
}

/// What the owner holds in memory about a live message.
#[derive(Debug, Clone, Copy)]
struct Live {
    put: Location,
    /// The oldest segment that may hold the message.
    oldest: SegmentId,
    state: u64,
    state_at: Option<Location>,
}

pub type Promises = HashMap<u64, Promise>;

enum Event {
    Put(u64, Location),
    State(u64, u64, Location),
    Deleted(u64),
    Copied(u64, Location),
    Failed(LogError),
}

pub struct Owner {
    pub log: Arc<Log>,
    pub report: ReplayReport,
    live: HashMap<u64, Live>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    queued: usize,
    /// What was promised, for whoever looks on from another thread: never more, and never what is about to be changed.
    pub told: Arc<Mutex<Promises>>,
    pub failed: Vec<LogError>,
    pub copied: usize,
    pub carried: usize,
}

pub fn options() -> LogOptions {
    LogOptions {
        segment_size: 48 << 10,
        disk_free_min: 0,
        recycle_max: 2,
        linger: Duration::from_millis(1),
        retry: Duration::from_millis(1),
        ..LogOptions::new("spool")
    }
}

/// What a message of that id holds: enough to tell it from any other.
pub fn body(id: u64) -> Vec<u8> {
    let len = (id.wrapping_mul(7919) % 9000) as usize;
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

impl Owner {
    /// Opens the log and does what every owner has to: find out what is live, retain it, repeat the dependencies.
    pub fn open(files: &SimFiles) -> Result<Owner, LogError> {
        let mut live: HashMap<u64, Live> = HashMap::new();
        let mut depends = Vec::new();
        let (log, report) = Log::open(options(), Arc::new(files.clone()), Arc::new(Metrics::new()), &mut |r| {
            let at = r.location.position.segment;
            match r.kind {
                PUT => match live.get_mut(&r.id) {
                    Some(known) => {
                        depends.push((at, known.put.position.segment));
                        known.put = r.location;
                    }
                    None => {
                        live.insert(r.id, Live { put: r.location, oldest: at, state: 0, state_at: None });
                    }
                },
                STATE => {
                    if let Some(known) = live.get_mut(&r.id) {
                        known.state = u64::from_le_bytes(r.head.try_into().unwrap());
                        known.state_at = Some(r.location);
                    }
                }
                DELETE => {
                    if let Some(known) = live.remove(&r.id) {
                        depends.push((at, known.put.position.segment));
                    }
                }
                other => panic!("kind {other} was never written"),
            }
        })?;
        for known in live.values() {
            log.retain(known.put);
            known.state_at.into_iter().for_each(|at| log.retain(at));
        }
        depends.into_iter().for_each(|(segment, on)| log.depend(segment, on));
        let (sender, events) = mpsc::channel();
        Ok(Owner {
            log: Arc::new(log),
            report,
            live,
            sender,
            events,
            queued: 0,
            told: Arc::default(),
            failed: Vec::new(),
            copied: 0,
            carried: 0,
        })
    }

    /// Compares with what was promised. Messages that are there without a promise are kept from now on.
    pub fn check(&self, promises: &mut Promises, context: &str) {
        for (id, promise) in promises.iter() {
            match (promise, self.live.get(id)) {
                (Promise::Kept { state }, Some(live)) => {
                    assert!(
                        live.state >= *state,
                        "{context}: message {id} fell back from state {state} to {}",
                        live.state
                    );
                }
                (Promise::Kept { .. }, None) => panic!("{context}: acknowledged message {id} is lost"),
                (Promise::Deleted, Some(live)) => panic!("{context}: message {id} came back: {live:?}"),
                (Promise::Deleted, None) | (Promise::Open, _) => {}
            }
        }
        for (id, live) in &self.live {
            let record = self.log.read_blocking(live.put).unwrap_or_else(|e| panic!("{context}: message {id}: {e}"));
            assert_eq!((record.kind, record.id), (PUT, *id), "{context}");
            assert_eq!(record.body, body(*id), "{context}: message {id}");
        }
        promises.retain(|_, promise| *promise == Promise::Deleted);
        promises.extend(self.live.iter().map(|(id, live)| (*id, Promise::Kept { state: live.state })));
    }

    pub fn put(&mut self, id: u64, promises: &mut Promises) {
        promises.insert(id, Promise::Open);
        let body = Bytes::from(body(id));
        let cut = body.len() / 2;
        let sender = self.sender.clone();
        let log = Arc::downgrade(&self.log);
        self.queue(Append {
            kind: PUT,
            id,
            head: id.to_string().into_bytes(),
            body: smallvec![body.slice(..cut), body.slice(cut..)],
            durability: Durability::Synced,
            done: Some(Box::new(move |result| {
                let event = match result {
                    Ok(at) => {
                        log.upgrade().into_iter().for_each(|log| log.retain(at));
                        Event::Put(id, at)
                    }
                    Err(error) => Event::Failed(error),
                };
                let _ = sender.send(event);
            })),
        });
    }

    fn state(&mut self, id: u64, state: u64) {
        let append = self.state_record(id, state);
        self.queue(append);
    }

    fn state_record(&self, id: u64, state: u64) -> Append {
        let sender = self.sender.clone();
        let log = Arc::downgrade(&self.log);
        Append {
            kind: STATE,
            id,
            head: state.to_le_bytes().to_vec(),
            body: smallvec![],
            durability: Durability::Relaxed,
            done: Some(Box::new(move |result| {
                let event = match result {
                    Ok(at) => {
                        log.upgrade().into_iter().for_each(|log| log.retain(at));
                        Event::State(id, state, at)
                    }
                    Err(error) => Event::Failed(error),
                };
                let _ = sender.send(event);
            })),
        }
    }

    fn delete(&mut self, id: u64, promises: &mut Promises) {
        promises.insert(id, Promise::Open);
        self.tell(promises);
        let Live { put, oldest, .. } = self.live[&id];
        let newest = put.position.segment;
        let sender = self.sender.clone();
        let log = Arc::downgrade(&self.log);
        self.queue(Append {
            kind: DELETE,
            id,
            head: [oldest.0.to_le_bytes(), newest.0.to_le_bytes()].concat(),
            body: smallvec![],
            durability: Durability::Relaxed,
            done: Some(Box::new(move |result| {
                let Some(at) = written(result) else { return };
                log.upgrade().into_iter().for_each(|log| log.depend(at.position.segment, newest));
                let _ = sender.send(Event::Deleted(id));
            })),
        });
    }

    fn queue(&mut self, append: Append) {
        self.queued += 1;
        self.log.append([append]);
    }

    /// Takes in what the log has said; waits until it has said everything, or the power is off.
    pub fn settle(&mut self, files: &SimFiles, promises: &mut Promises) {
        while self.queued > 0 && files.is_powered() {
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(1)) {
                self.take(event, promises);
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event, promises);
        }
        self.tell(promises);
    }

    fn tell(&self, promises: &Promises) {
        self.told.lock().unwrap().clone_from(promises);
    }

    /// Closes the log and takes in everything that it still says.
    pub fn close(&mut self, promises: &mut Promises) {
        self.log.close();
        while let Ok(event) = self.events.try_recv() {
            self.take(event, promises);
        }
    }

    fn take(&mut self, event: Event, promises: &mut Promises) {
        self.queued -= 1;
        match event {
            Event::Put(id, put) => {
                promises.insert(id, Promise::Kept { state: 0 });
                let oldest = put.position.segment;
                self.live.insert(id, Live { put, oldest, state: 0, state_at: None });
            }
            Event::State(id, state, at) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.state = state;
                    live.state_at.replace(at).into_iter().for_each(|old| self.log.release(old));
                    // Not if its deletion is on the way.
                    if let Some(promise @ Promise::Kept { .. }) = promises.get_mut(&id) {
                        *promise = Promise::Kept { state };
                    }
                } else {
                    self.log.release(at);
                }
            }
            Event::Deleted(id) => {
                promises.insert(id, Promise::Deleted);
                if let Some(live) = self.live.remove(&id) {
                    self.log.release(live.put);
                    live.state_at.into_iter().for_each(|at| self.log.release(at));
                }
            }
            Event::Copied(id, put) => {
                let live = self.live.get_mut(&id).expect("nothing is deleted while copies are made");
                let old = std::mem::replace(&mut live.put, put);
                self.log.release(old);
                self.copied += 1;
            }
            Event::Failed(error) => self.failed.push(error),
        }
    }

    /// A few deeds by chance: mostly puts and deletions, so that segments fill, empty and are used again.
    pub fn step(&mut self, files: &SimFiles, promises: &mut Promises, next_id: &mut u64, rng: &mut SmallRng) {
        for _ in 0..rng.random_range(1..5) {
            let mut ids: Vec<u64> = self.live.keys().copied().filter(|id| promises[id] != Promise::Open).collect();
            ids.sort_unstable();
            match rng.random_range(0..10) {
                0..5 => {
                    *next_id += 1;
                    self.put(*next_id, promises);
                }
                5 if !ids.is_empty() => {
                    let id = ids[rng.random_range(0..ids.len())];
                    self.state(id, self.live[&id].state + 1);
                }
                6.. if ids.len() > 4 => {
                    let id = ids[rng.random_range(0..ids.len())];
                    self.delete(id, promises);
                }
                _ => {}
            }
        }
        self.settle(files, promises);
        if files.is_powered() {
            self.log.reclaim();
            self.copy_stragglers(files, promises);
            self.carry_deletions(files);
        }
    }
}

/// A relaxed record fails only when the log is closed over it.
fn written(result: Result<Location, LogError>) -> Option<Location> {
    match result {
        Ok(at) => Some(at),
        Err(LogError::Closed) => None,
        Err(error) => panic!("a relaxed record failed: {error}"),
    }
}
