//! What may happen to a log in its life: what its owner does, faults, power cuts, kills and starts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::owner::{Owner, Promise, Promises, options};
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::log::{Drive, Durability, Health, LogOptions, SegmentId, verify_with};

/// Longest life, in steps.
const STEPS_MAX: usize = 300;
/// Free space where there is no want of it.
const PLENTY: u64 = 1 << 40;

/// The life of a log, an octet or two at a time. Behind the last one all faults end, and it has to heal.
///
/// What was acknowledged and not deleted is there with its content, in the state that was acknowledged or a later one, after any crash.
/// What was deleted does not come back, nor what was refused, once the log has healed. Answers come in order, and records are shown in
/// it. Groups are there whole or not at all. No damage is told of, and live octets are those of the records that are held.
pub fn life(octets: &[u8]) {
    let [setting, seed, luck @ ..] = octets else { return };
    let mut world = World::new(*setting, *seed, luck);
    let mut steps = 0;
    while !world.luck.is_empty() && steps < STEPS_MAX {
        world.step();
        steps += 1;
    }
    world.end();
}

struct World<'a> {
    luck: &'a [u8],
    files: SimFiles,
    options: LogOptions,
    owner: Owner,
    promises: Promises,
    /// Messages that were put together, none of which was ever to be deleted.
    groups: Vec<Vec<u64>>,
    /// Of the last message.
    serial: u64,
    lives: usize,
}

impl<'a> World<'a> {
    fn new(setting: u8, seed: u8, luck: &'a [u8]) -> World<'a> {
        let bit = |n: u8| u64::from(setting >> n & 1);
        let options = LogOptions {
            // It heals at the next chance, or not before it is closed.
            retry: Duration::from_secs(3600 * bit(0)),
            disk_free_min: (64 << 10) * bit(1),
            queue_bytes_max: if bit(2) == 1 { 16 << 10 } else { 64 << 20 },
            recycle_max: usize::from(setting >> 3 & 3),
            drive: Drive::Stepped(Arc::new(|| {})),
            ..options()
        };
        let files = SimFiles::new(seed.into());
        let owner = Owner::open_as(options.clone(), &files).expect("nothing fails yet");
        World { luck, files, options, owner, promises: Promises::new(), groups: Vec::new(), serial: 0, lives: 1 }
    }

    /// The next octet; 0 behind the last.
    fn draw(&mut self) -> u8 {
        let Some((first, rest)) = self.luck.split_first() else { return 0 };
        self.luck = rest;
        *first
    }

    fn context(&self) -> String {
        format!("life {}, {} octets left", self.lives, self.luck.len())
    }

    fn step(&mut self) {
        let chosen = self.draw();
        let which = chosen >> 4;
        match chosen & 15 {
            0..=3 => self.put(which),
            4 | 5 => _ = self.pick(which).map(|id| self.owner.change(id)),
            6..=8 => self.delete(which),
            9 => self.settle(),
            10 => {
                self.settle();
                self.owner.log.reclaim();
            }
            11 => {
                self.settle();
                self.owner.copy_stragglers(&self.files, &mut self.promises);
            }
            12 => {
                self.settle();
                self.owner.carry_deletions(&self.files);
            }
            13 => self.fault(which),
            14 => self.crash(which),
            _ => self.surroundings(which),
        }
        if !self.files.is_powered() {
            self.settle();
            self.start(true);
        }
    }

    /// A group of one message to four.
    fn put(&mut self, which: u8) {
        let scale = if which & 8 == 0 { 16 } else { 256 };
        let durability = if which & 4 == 0 { Durability::Synced } else { Durability::Relaxed };
        let group: Vec<u64> = (0..=which & 3)
            .map(|_| {
                self.serial += 1;
                (u64::from(self.draw()) * scale + 1) << 32 | self.serial
            })
            .collect();
        self.owner.put_group(&group, durability, &mut self.promises);
        self.groups.push(group);
    }

    /// One of the messages that are there and are not being deleted.
    fn pick(&self, which: u8) -> Option<u64> {
        let mut ids = self.owner.ids();
        ids.retain(|id| self.promises[id] != Promise::Open);
        // The oldest ones live longest, or nothing would ever be worth copying.
        (!ids.is_empty()).then(|| ids[ids.len() - 1 - usize::from(which) % ids.len()])
    }

    fn delete(&mut self, which: u8) {
        if let Some(id) = self.pick(which) {
            self.owner.delete(id, &mut self.promises);
            self.groups.retain(|group| !group.contains(&id));
        }
    }

    fn settle(&mut self) {
        self.owner.settle(&self.files, &mut self.promises);
        assert_eq!(self.owner.log.stats().live_bytes, self.owner.live_bytes(), "{}", self.context());
    }

    fn fault(&mut self, which: u8) {
        let deed = [Deed::Write, Deed::Sync, Deed::Create, Deed::Change][usize::from(which & 3)];
        let luck = self.draw();
        let fault = match luck >> 4 {
            0..=5 => Fault::Error(std::io::ErrorKind::Other),
            6 | 7 => Fault::Error(std::io::ErrorKind::StorageFull),
            8 | 9 => Fault::Short,
            10..=13 => Fault::PowerCut,
            _ => Fault::Stop,
        };
        self.files.fail(deed, u64::from(luck & 15) + 1 + 16 * u64::from(which >> 2), fault);
    }

    fn crash(&mut self, which: u8) {
        match which & 3 {
            0 => self.start(true),
            1 => self.start(false),
            2 => {
                self.owner.close(&mut self.promises);
                self.start(which & 4 == 0);
            }
            _ => {
                self.settle();
                self.glance();
            }
        }
    }

    /// What a power cut would leave at this moment.
    fn glance(&mut self) {
        let seed = self.draw().into();
        let after = self.files.copy(seed);
        after.restart();
        let owner = Owner::open_as(self.options.clone(), &after).expect("nothing fails");
        self.check(&owner, &mut self.promises.clone());
    }

    fn check(&self, owner: &Owner, promises: &mut Promises) {
        let context = self.context();
        assert_eq!(owner.report.damaged, [], "{context}");
        owner.check(promises, &context);
        let ids = owner.ids();
        for group in &self.groups {
            let there = group.iter().filter(|id| ids.binary_search(id).is_ok()).count();
            assert!(there == 0 || there == group.len(), "{context}: {there} of {group:?} are there");
        }
    }

    /// The process ends without a word, and perhaps the system with it; another process opens the log.
    fn start(&mut self, restart: bool) {
        loop {
            // What it said before counts; what it still does is of no effect.
            self.files.cut();
            self.owner.close(&mut self.promises);
            if restart {
                self.files.restart()
            } else {
                self.files.kill()
            }
            self.lives += 1;
            let luck = self.draw();
            if luck & 7 == 7 {
                let fault = if luck & 8 == 0 { Fault::PowerCut } else { Fault::Error(std::io::ErrorKind::Other) };
                self.files.fail(Deed::Change, u64::from(luck >> 4) + 1, fault);
            }
            // A fault may strike: then with less luck.
            if let Ok(owner) = Owner::open_as(self.options.clone(), &self.files)
                && self.files.is_powered()
            {
                let mut promises = std::mem::take(&mut self.promises);
                self.check(&owner, &mut promises);
                (self.owner, self.promises) = (owner, promises);
                return;
            }
            assert!(luck & 7 == 7, "{}: it cannot be opened", self.context());
        }
    }

    fn surroundings(&mut self, which: u8) {
        match which {
            0..=7 => self.files.set_free(u64::from(which) * (24 << 10)),
            8..=10 => self.files.set_free(PLENTY),
            11 | 12 => self.files.clear_faults(),
            13 => {
                let segments = self.owner.log.segments();
                let floor = segments.get(usize::from(self.draw()) % segments.len().max(1));
                self.owner.log.set_reclaim_floor(floor.copied().unwrap_or(SegmentId(0)));
            }
            14 => {
                self.settle();
                self.owner.check_bodies(&self.context());
            }
            _ => self.files.clear_faults(),
        }
    }

    fn end(mut self) {
        self.luck = &[];
        self.files.clear_faults();
        self.files.set_free(PLENTY);
        self.settle();
        if self.options.retry.is_zero() {
            self.owner.put(u64::MAX >> 40, &mut self.promises);
            self.settle();
            assert_eq!((self.owner.log.health(), self.owner.queued()), (Health::Ok, 0), "{}", self.context());
        }
        self.start(true);
        self.owner.close(&mut self.promises);
        self.start(false);
        let mut records = 0;
        let dir = Path::new("spool");
        let report = verify_with(&self.files, dir, &mut |record| {
            assert!(record.body_intact);
            records += 1;
        });
        assert_eq!(report.expect("nothing fails").damaged, []);
        assert_eq!(records, self.owner.report.records, "checking shows other records than opening");
    }
}
