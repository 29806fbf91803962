//! An owner of records as the spool is one: messages that are put, change state, are copied (`reclaim.rs`) and deleted. It keeps book
//! of what it was promised, and panics where a promise is broken.

mod check;
mod reclaim;

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use smallvec::{SmallVec, smallvec};

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
    Kept {
        /// The last one that was acknowledged.
        state: u64,
    },
    /// Its deletion was acknowledged, or it was refused and the log has healed since: must not be there.
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

/// By message.
pub type Promises = HashMap<u64, Promise>;

/// What a record does to a message.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Put,
    State(u64),
    /// A deletion; the message stands in this segment.
    Delete(SegmentId),
    /// A copy; the original stands in this segment.
    Copy(SegmentId),
}

impl Deed {
    fn kind(self) -> u8 {
        match self {
            Deed::Put | Deed::Copy(_) => PUT,
            Deed::State(_) => STATE,
            Deed::Delete(_) => DELETE,
        }
    }
}

/// A record to be appended.
struct Planned {
    id: u64,
    deed: Deed,
    head: Vec<u8>,
    body: SmallVec<[Bytes; 2]>,
    durability: Durability,
}

/// What the log said of a record.
struct Answer {
    /// Counts the records that were appended.
    ticket: u64,
    id: u64,
    deed: Deed,
    /// Nobody of its group was kept waiting.
    relaxed: bool,
    result: Result<Location, LogError>,
}

/// The owner, and the log that it opened.
#[allow(missing_debug_implementations)]
pub struct Owner {
    /// The log.
    pub log: Arc<Log>,
    /// What opening it told.
    pub report: ReplayReport,
    files: SimFiles,
    stepped: bool,
    live: HashMap<u64, Live>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    tickets: u64,
    queued: usize,
    /// The last record that was written.
    last: Option<(u64, Position)>,
    /// Who was refused and is not known yet to be gone.
    refused: Vec<u64>,
    /// What was promised, for whoever looks on from another thread: never more, and never what is about to be changed.
    pub told: Arc<Mutex<Promises>>,
    /// Why records failed.
    pub failed: Vec<LogError>,
    /// Messages that were copied forward.
    pub copied: usize,
    /// Segments whose deletions were carried forward.
    pub carried: usize,
}

/// A small log that gives up nothing and waits for nothing.
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

/// What a message of that id holds: enough to tell it from any other. The upper half of the id, if there is one, says how long it is.
pub fn body(id: u64) -> Vec<u8> {
    let len = (id >> 32).checked_sub(1).unwrap_or(id.wrapping_mul(7919) % 9000) as usize;
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
    ///
    /// # Errors
    /// Those of [`Log::open`].
    pub fn open(files: &SimFiles) -> Result<Owner, LogError> {
        Owner::open_as(options(), files)
    }

    /// The same, with other options.
    ///
    /// # Errors
    /// Those of [`Log::open`].
    pub fn open_as(options: LogOptions, files: &SimFiles) -> Result<Owner, LogError> {
        let stepped = matches!(options.drive, Drive::Stepped(_));
        let mut live: HashMap<u64, Live> = HashMap::new();
        let mut depends = Vec::new();
        let mut last = None;
        let (log, report) = Log::open(options, Arc::new(files.clone()), Arc::new(Metrics::new()), &mut |r| {
            assert!(last.replace(r.location.position) < Some(r.location.position), "records are shown out of order");
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
                        known.state = u64::from_le_bytes(r.head.try_into().expect("it was written so"));
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
        let (sender, answers) = mpsc::channel();
        Ok(Owner {
            log: Arc::new(log),
            report,
            files: files.clone(),
            stepped,
            live,
            sender,
            answers,
            tickets: 0,
            queued: 0,
            last: None,
            refused: Vec::new(),
            told: Arc::default(),
            failed: Vec::new(),
            copied: 0,
            carried: 0,
        })
    }

    /// How many answers are outstanding.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Appends a message.
    pub fn put(&mut self, id: u64, promises: &mut Promises) {
        self.put_group(&[id], Durability::Synced, promises);
    }

    /// Appends messages that stand or fall together.
    pub fn put_group(&mut self, ids: &[u64], durability: Durability, promises: &mut Promises) {
        promises.extend(ids.iter().map(|id| (*id, Promise::Open)));
        let planned = |id: &u64| {
            let body = Bytes::from(body(*id));
            let cut = body.len() / 2;
            let (head, body) = (id.to_string().into_bytes(), smallvec![body.slice(..cut), body.slice(cut..)]);
            Planned { id: *id, deed: Deed::Put, head, body, durability }
        };
        self.queue(ids.iter().map(planned).collect());
    }

    /// Appends the next state of a message that is there and is not being deleted.
    pub fn change(&mut self, id: u64) {
        let next = self.planned_state(id, self.live[&id].state + 1);
        self.queue(vec![next]);
    }

    fn planned_state(&self, id: u64, state: u64) -> Planned {
        let (head, durability) = (state.to_le_bytes().to_vec(), Durability::Relaxed);
        Planned { id, deed: Deed::State(state), head, body: smallvec![], durability }
    }

    /// Appends the deletion of a message that is there and is not being deleted.
    pub fn delete(&mut self, id: u64, promises: &mut Promises) {
        promises.insert(id, Promise::Open);
        self.tell(promises);
        let Live { put, oldest, .. } = self.live[&id];
        let newest = put.position.segment;
        let head = [oldest.0.to_le_bytes(), newest.0.to_le_bytes()].concat();
        let (deed, durability) = (Deed::Delete(newest), Durability::Relaxed);
        self.queue(vec![Planned { id, deed, head, body: smallvec![], durability }]);
    }

    fn queue(&mut self, group: Vec<Planned>) {
        let relaxed = group.iter().all(|planned| planned.durability == Durability::Relaxed);
        self.queued += group.len();
        let first = self.tickets;
        self.tickets += group.len() as u64;
        let appends = (first..).zip(group).map(|(ticket, Planned { id, deed, head, body, durability })| {
            let (sender, log) = (self.sender.clone(), Arc::downgrade(&self.log));
            let done: Done = Box::new(move |result| {
                if let (Ok(at), Some(log)) = (&result, log.upgrade()) {
                    book(&log, deed, *at);
                }
                let _ = sender.send(Answer { ticket, id, deed, relaxed, result });
            });
            Append { kind: deed.kind(), id, head, body, durability, done: Some(done) }
        });
        self.log.append(appends.collect::<Vec<_>>());
    }

    /// Takes in what the log has said. A log with threads is waited for until it has said everything, or the power is off.
    pub fn settle(&mut self, files: &SimFiles, promises: &mut Promises) {
        self.log.step();
        while self.queued > 0 && !self.stepped && files.is_powered() {
            if let Ok(answer) = self.answers.recv_timeout(Duration::from_millis(1)) {
                self.take(answer, promises);
            }
        }
        self.take_all(promises);
        if self.log.health() == Health::Ok {
            // The segment in which they may stand was left behind, and its end is told.
            promises.extend(self.refused.drain(..).map(|id| (id, Promise::Deleted)));
        }
        self.tell(promises);
    }

    fn tell(&self, promises: &Promises) {
        self.told.lock().expect("nobody panics under this lock").clone_from(promises);
    }

    /// Closes the log and takes in everything that it still says.
    pub fn close(&mut self, promises: &mut Promises) {
        self.log.close();
        self.take_all(promises);
    }

    fn take_all(&mut self, promises: &mut Promises) {
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer, promises);
        }
    }

    fn take(&mut self, answer: Answer, promises: &mut Promises) {
        self.queued -= 1;
        let Answer { ticket, id, deed, relaxed, result } = answer;
        match result {
            Ok(at) => {
                let before = self.last.replace((ticket, at.position));
                let in_order = before.is_none_or(|(earlier, position)| earlier < ticket && position < at.position);
                assert!(in_order, "{before:?} stands in front of {:?}", self.last);
                self.landed(id, deed, at, promises);
            }
            Err(error) => {
                assert!(!relaxed || matches!(error, LogError::Closed), "a relaxed record failed: {error}");
                if let Deed::Put = deed {
                    self.refused.push(id);
                }
                self.failed.push(error);
            }
        }
    }

    /// A record is durable.
    fn landed(&mut self, id: u64, deed: Deed, at: Location, promises: &mut Promises) {
        match deed {
            Deed::Put => {
                promises.insert(id, Promise::Kept { state: 0 });
                self.live.insert(id, Live { put: at, oldest: at.position.segment, state: 0, state_at: None });
            }
            Deed::State(state) => {
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
            Deed::Delete(_) => {
                promises.insert(id, Promise::Deleted);
                if let Some(live) = self.live.remove(&id) {
                    self.log.release(live.put);
                    live.state_at.into_iter().for_each(|at| self.log.release(at));
                }
            }
            Deed::Copy(_) => {
                let live = self.live.get_mut(&id).expect("nothing is deleted while copies are made");
                let old = std::mem::replace(&mut live.put, at);
                self.log.release(old);
                self.copied += 1;
            }
        }
    }

    /// A few deeds by chance: mostly puts and deletions, so that segments fill, empty and are used again.
    pub fn step(&mut self, files: &SimFiles, promises: &mut Promises, next_id: &mut u64, rng: &mut SmallRng) {
        for _ in 0..rng.random_range(1..5) {
            let mut ids = self.ids();
            ids.retain(|id| promises[id] != Promise::Open);
            match rng.random_range(0..10) {
                0..5 => {
                    *next_id += 1;
                    self.put(*next_id, promises);
                }
                5 if !ids.is_empty() => self.change(ids[rng.random_range(0..ids.len())]),
                6.. if ids.len() > 4 => self.delete(ids[rng.random_range(0..ids.len())], promises),
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

/// What an owner has to say in `done`.
fn book(log: &Log, deed: Deed, at: Location) {
    match deed {
        Deed::Put | Deed::State(_) => log.retain(at),
        Deed::Delete(from) => log.depend(at.position.segment, from),
        Deed::Copy(from) => {
            log.retain(at);
            log.depend(at.position.segment, from);
        }
    }
}
