//! What waits for the writer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::record::{HEAD_MAX, HEADER_LEN, Header, MORE, RECORD_MAX, body_crc};
use super::{Append, Done, Drive, Durability, LogError};

/// Longest group.
const GROUP_MAX: u64 = 3 << 30;

/// A record on its way, its header complete.
pub(super) struct Entry {
    pub header: Header,
    pub head: Vec<u8>,
    pub body: SmallVec<[Bytes; 2]>,
    pub synced: bool,
    pub done: Option<Done>,
}

impl Entry {
    fn new(append: Append) -> Entry {
        let body_len: usize = append.body.iter().map(Bytes::len).sum();
        let header = Header {
            kind: append.kind,
            flags: 0,
            // Too long ones are refused before these numbers are used.
            head_len: u32::try_from(append.head.len()).unwrap_or(u32::MAX),
            body_len: u32::try_from(body_len).unwrap_or(u32::MAX),
            body_crc: body_crc(append.body.iter().map(Bytes::as_ref)),
            id: append.id,
        };
        Entry {
            header,
            head: append.head,
            body: append.body,
            synced: append.durability == Durability::Synced,
            done: append.done,
        }
    }

    /// Octets on disk.
    pub fn len(&self) -> u64 {
        self.header.record_len()
    }
}

/// A group on its way: contiguous in one batch, all or nothing.
pub(super) struct Group(SmallVec<[Entry; 4]>);

impl Group {
    /// Computes the checksums, here on the caller's thread, since there is only one writer.
    pub fn new(appends: impl IntoIterator<Item = Append>) -> Group {
        let mut entries: SmallVec<[Entry; 4]> = appends.into_iter().map(Entry::new).collect();
        let synced = entries.iter().any(|e| e.synced);
        if let Some((_, others)) = entries.split_last_mut() {
            others.iter_mut().for_each(|e| e.header.flags |= MORE);
        }
        entries.iter_mut().for_each(|e| e.synced = synced);
        Group(entries)
    }

    /// Those who want to know.
    pub fn into_dones(self) -> impl Iterator<Item = Done> {
        self.0.into_iter().filter_map(|e| e.done)
    }

    fn synced(&self) -> bool {
        self.0.first().is_some_and(|e| e.synced)
    }

    fn len(&self) -> u64 {
        self.0.iter().map(Entry::len).sum()
    }

    fn too_large(&self) -> bool {
        let record = |e: &Entry| e.head.len() > HEAD_MAX || e.len() > HEADER_LEN + RECORD_MAX;
        self.len() > GROUP_MAX || self.0.iter().any(record)
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    /// Octets queued, or taken and not yet synced.
    bytes: usize,
    /// Somebody waits for something in the queue.
    synced: bool,
    /// Refused at the door; their `done`s are called on the writer thread like all others.
    refused: Vec<(Done, LogError)>,
    /// The writer sleeps and wants to be woken.
    sleeping: bool,
    closing: bool,
}

impl State {
    /// Nobody is kept waiting by what is queued.
    fn may_wait(&self) -> bool {
        !self.synced && self.refused.is_empty() && !self.closing
    }

    fn take(&mut self) -> Work {
        self.synced = false;
        Work {
            entries: std::mem::take(&mut self.queue),
            refused: std::mem::take(&mut self.refused),
            closing: self.closing,
        }
    }
}

/// The queue in front of the writer.
pub(super) struct Pending {
    state: Mutex<State>,
    wake: Condvar,
    drive: Drive,
    bytes_max: usize,
}

/// What the writer has to do next.
pub(super) struct Work {
    pub entries: VecDeque<Entry>,
    pub refused: Vec<(Done, LogError)>,
    /// Nothing comes after this.
    pub closing: bool,
}

impl Pending {
    pub fn new(bytes_max: usize, drive: Drive) -> Arc<Pending> {
        Arc::new(Pending { state: Mutex::default(), wake: Condvar::new(), drive, bytes_max })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Queues a group, or notes its refusal. Gives it back if the log is closed: there is nobody left to refuse it.
    pub fn push(&self, group: Group) -> Result<(), Box<Group>> {
        let len = group.len() as usize;
        let mut state = self.lock();
        if state.closing {
            return Err(Box::new(group));
        }
        let refusal = if group.too_large() {
            Some(LogError::TooLarge { len: group.len() })
        } else if group.synced() && state.bytes > 0 && state.bytes + len > self.bytes_max {
            // An empty queue takes anything, or a large message would never get in. Relaxed records tell what has
            // happened and are never refused: who makes them looks at `Stats::queued_bytes` and slows down.
            Some(LogError::Busy { queued: state.bytes })
        } else {
            None
        };
        let wake = match refusal {
            Some(error) => {
                let before = state.refused.len();
                state.refused.extend(group.into_dones().map(|done| (done, error.clone())));
                state.refused.len() > before
            }
            None => {
                let first = state.queue.is_empty();
                state.bytes += len;
                state.synced |= group.synced();
                state.queue.extend(group.0);
                first || state.synced
            }
        };
        if wake && state.sleeping {
            state.sleeping = false;
            match &self.drive {
                Drive::Thread => self.wake.notify_one(),
                Drive::Stepped(wake) => wake(),
            }
        }
        Ok(())
    }

    /// Waits for work. `tick`: come back after this long even without. Relaxed work alone waits for company as long as
    /// `patience` says when it is there.
    pub fn take(&self, patience: impl FnOnce() -> Duration, tick: Option<Duration>) -> Work {
        let mut state = self.lock();
        while state.queue.is_empty() && state.refused.is_empty() && !state.closing {
            state.sleeping = true;
            match tick {
                None => state = self.wake.wait(state).expect("nothing panics under this lock"),
                Some(tick) => {
                    let (guard, timeout) = self.wake.wait_timeout(state, tick).expect("nothing panics under this lock");
                    state = guard;
                    if timeout.timed_out() {
                        break;
                    }
                }
            }
        }
        if !state.queue.is_empty() && state.may_wait() {
            let patience = patience();
            let company = |s: &mut State| {
                s.sleeping = s.may_wait();
                s.sleeping
            };
            state = self.wake.wait_timeout_while(state, patience, company).expect("nothing panics under this lock").0;
        }
        state.sleeping = false;
        state.take()
    }

    /// What is there now. `None`, and the next push wakes: nothing.
    pub fn take_now(&self) -> Option<Work> {
        let mut state = self.lock();
        state.sleeping = state.queue.is_empty() && state.refused.is_empty() && !state.closing;
        if state.sleeping { None } else { Some(state.take()) }
    }

    /// `len` octets taken earlier are synced, or failed.
    pub fn finished(&self, len: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(len as usize);
    }

    /// Octets queued, or taken and not yet synced.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// From now on everything is refused; the writer finishes what is queued.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.sleeping = false;
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn group(durability: Durability) -> Group {
        Group::new([Append { kind: 1, id: 1, head: vec![], body: SmallVec::new(), durability, done: None }])
    }

    #[test]
    fn relaxed_work_waits_as_long_as_told_or_until_somebody_is_kept_waiting() {
        let pending = Pending::new(1 << 20, Drive::Thread);
        let push = |durability| pending.push(group(durability)).is_ok();
        assert!(push(Durability::Relaxed));
        assert_eq!(pending.take(|| Duration::ZERO, None).entries.len(), 1);
        assert!(push(Durability::Relaxed) && push(Durability::Synced));
        let work = pending.take(|| panic!("nobody may be kept waiting"), None);
        assert_eq!(work.entries.len(), 2);
        std::thread::scope(|scope| {
            assert!(push(Durability::Relaxed));
            let taken = scope.spawn(|| pending.take(|| LONG, None).entries.len());
            assert!(push(Durability::Relaxed) && push(Durability::Synced));
            assert_eq!(taken.join().unwrap(), 3);
        });
    }
}
